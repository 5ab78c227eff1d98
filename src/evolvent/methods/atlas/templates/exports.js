// The selection as a file, byte for byte what the command line writes.
const jsonCells = ["checkpoints", "provenance", "hub", "extra"];

function inert(text) {
  return /^[=+\-@\t\r']/.test(text) ? `'${text}` : text;
}

function csvCell(column, value) {
  if (value === null) return "";
  if (jsonCells.includes(column)) return JSON.stringify(value);
  if (typeof value === "boolean") return value ? "true" : "false";
  if (Array.isArray(value)) {
    const split = value.some((v) => String(v).includes("; ") || String(v).startsWith("["));
    return inert(split ? JSON.stringify(value) : value.join("; "));
  }
  return inert(String(value));
}

function quoted(text) {
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function asCsv(rows) {
  const lines = [[...data.columns, data.originColumn]];
  for (const e of rows) lines.push([...data.columns.map((c) => csvCell(c, e[c])), data.origin]);
  return lines.map((line) => `${line.map(quoted).join(",")}\n`).join("");
}

function asJson(rows) {
  const told = rows.map((e) => {
    const later = ["status", "hub", "extra"].filter((c) => e[c] !== null);
    const plain = later.length === 1 && e.status === "active";
    return Object.fromEntries(data.columns.filter((c) => !["status", "hub", "extra"].includes(c) || (!plain && later.includes(c))).map((c) => [c, e[c]]));
  });
  return `${JSON.stringify({ source: data.source, entries: told }, null, 1)}\n`;
}

function asBibtex(rows) {
  return `% ${data.origin}\n\n${rows.map((e) => data.bibtex[e.index]).join("\n")}`;
}

const forms = { CSV: ["csv", asCsv, "text/csv"], BibTeX: ["bib", asBibtex, "text/plain"], JSON: ["json", asJson, "application/json"] };

function download(form, rows) {
  const [ending, write, kind] = forms[form];
  const inOrder = [...rows].sort((a, b) => a.index - b.index);
  const link = el("a", { download: `atlas.${ending}`, href: URL.createObjectURL(new Blob([write(inOrder)], { type: `${kind};charset=utf-8` })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function exportButtons(rows) {
  return el(
    "div",
    { class: "row actions", role: "group", "aria-label": "Export" },
    Object.keys(forms).map((form) => el("button", { type: "button", text: `Export ${form}`, disabled: !rows().length, onclick: () => download(form, rows()) })),
  );
}
