// One model with the source of each fact, and models side by side.
const cellNames = {
  title: "Title", first_author: "First author", venue: "Venue", first_public: "First public", fields: "Fields", modalities: "Modalities",
  modalities_ext: "Further modalities", architecture: "Architecture", backbone: "Backbone", parameters: "Sizes", pretraining_strategy: "Strategy",
  survey_type: "Type (Figure 1)", pretraining_data: "Pre-training data", pretraining_tasks: "Objectives", evaluation_tasks: "Evaluated on",
  languages: "Languages", derived_from: "Built on", succeeds: "Succeeds", paper_url: "Paper", code_url: "Code", hf_ids: "On the hub", doi: "DOI",
  arxiv_id: "arXiv", status: "Status", notes: "Check first", aliases: "Other names", hf_ids_known: "Copies on the hub", extra: "Kept from import",
};

function cellText(entry, column) {
  const value = entry[column];
  if (value === null || value === undefined) return "";
  const name = { fields: label.field, modalities: label.modality, modalities_ext: label.modality, survey_type: label.type, evaluation_tasks: spelled, pretraining_tasks: spelled }[column] ?? String;
  return Array.isArray(value) ? value.map(name).join("; ") : typeof value === "object" ? JSON.stringify(value) : String(value);
}

function spelled(task) {
  return label.task(task) === task ? task : `${label.task(task)} (${task})`;
}

function cellNode(entry, column) {
  if (["paper_url", "code_url"].includes(column) && entry[column]) return outside(entry[column], entry[column]);
  if (column === "derived_from") return el("span", {}, entry.derived_from.flatMap((id, i) => [i ? ", " : "", byId.has(id) ? modelLink(byId.get(id)) : id]));
  if (column === "succeeds" && byId.has(entry.succeeds)) return modelLink(byId.get(entry.succeeds));
  return el("span", { text: cellText(entry, column) });
}

const cardView = {
  title: "Model",
  make(root) {
    this.pick = modelPicker("card-model", (id) => go({ id }));
    this.body = el("div");
    root.append(this.pick.node, this.body);
  },
  update() {
    const entry = byId.get(state.id);
    this.pick.show(entry);
    if (!entry) {
      this.body.replaceChildren(el("p", { class: "soft", text: state.id ? `There is no model "${state.id}".` : "Choose a model." }));
      return;
    }
    document.title = `${entry.name} · Atlas`;
    const facts = Object.keys(cellNames).filter((c) => filled(entry[c]) && !(c === "status" && entry.status === "active"));
    const empty = ["architecture", "survey_type", "parameters", "pretraining_data", "evaluation_tasks", "languages", "code_url"].filter((c) => !filled(entry[c]));
    const next = entries.filter((e) => e.derived_from.includes(entry.id) || e.succeeds === entry.id);
    this.body.replaceChildren(
      el("h2", { text: entry.name }),
      el("div", { class: "panel" }, el("dl", { class: "facts" }, facts.flatMap((c) => [el("dt", { text: cellNames[c] }), el("dd", {}, cellNode(entry, c)), el("dd", { class: "from" }, entry.provenance[c] ? el("span", { class: "tag", title: data.vocabulary.provenance[entry.provenance[c]] ?? "", text: entry.provenance[c] }) : "")]))),
      el("p", { class: "soft", text: empty.length ? `Unknown: ${empty.map((c) => cellNames[c].toLowerCase()).join(", ")}.` : "" }),
      entry.checkpoints.length ? el("h3", { text: "Weights" }) : "",
      el("ul", { class: "plain" }, entry.checkpoints.map((c) => el("li", {}, outside(c.url, c.hf_id ?? c.url), el("span", { class: "why", text: ` ${c.label ?? ""}` }), c.hf_type === "model" ? el("div", { class: "small" }, el("code", { text: `atlas:${entry.id}@${c.hf_id}` })) : ""))),
      entry.hub ? el("p", { class: "soft", text: `By the hub on ${entry.hub.checked_at.slice(0, 10)}: licence ${entry.hub.license ?? "unknown"}${entry.hub.params ? `, ${sizeLabel(entry.hub.params)} parameters` : ""}${entry.hub.gated ? ", gated" : ""}.` }) : el("p", { class: "soft", text: "Licence of the weights: unknown here; ask the hub before use." }),
      next.length ? el("h3", { text: "What came from it" }) : "",
      el("ul", { class: "plain" }, next.map((e) => el("li", {}, modelLink(e)))),
      el("h3", { text: "Similar models" }),
      neighbourList(entry, false, 6),
      el("p", {}, el("a", { href: address({ view: "graph", id: entry.id }), text: "Show in the graph" })),
      el("details", {}, el("summary", { text: "BibTeX" }), el("pre", { text: data.bibtex[entry.index] })),
    );
  },
};

function modelPicker(id, choose) {
  const input = el("input", { type: "text", id, list: `${id}-list`, autocomplete: "off", onchange: () => {
    const said = input.value.trim().toLowerCase();
    const found = entries.find((e) => e.id === said) ?? entries.find((e) => [e.name, ...e.aliases].some((n) => n.toLowerCase() === said));
    if (found) choose(found.id);
    else if (said) announce(`There is no model ${input.value}.`);
  } });
  const list = el("datalist", { id: `${id}-list` }, entries.map((e) => el("option", { value: e.id, text: e.name })));
  return { node: el("div", { class: "row" }, el("div", {}, el("label", { for: id, text: "Model" }), input, list)), show: (entry) => (input.value = entry ? entry.id : "") };
}

const compareView = {
  title: "Compare",
  make(root) {
    this.only = el("input", { type: "checkbox", id: "only", checked: true, onchange: () => this.update() });
    this.pick = modelPicker("compare-model", (id) => go({ compare: [...new Set([...chosen().map((e) => e.id), id])].slice(0, 6).join(",") }));
    this.body = el("div");
    root.append(el("div", { class: "row" }, this.pick.node, el("label", { class: "small row" }, this.only, "only where they differ")), this.body);
  },
  update() {
    const picked = chosen();
    this.pick.show(null);
    if (picked.length < 2) {
      this.body.replaceChildren(el("p", { class: "soft", text: `Add ${picked.length ? "another model" : "two to six models"} by name, or pick them in the table.` }), el("ul", { class: "plain" }, picked.map((e) => el("li", {}, modelLink(e)))));
      return;
    }
    const lines = data.compared.map((c) => [c, picked.map((e) => cellText(e, c))]).filter(([, cells]) => cells.some(Boolean) && (!this.only.checked || new Set(cells).size > 1));
    const head = picked.map((e) => el("th", { scope: "col" }, modelLink(e), " ", el("button", { type: "button", "aria-label": `Remove ${e.name}`, text: "×", onclick: () => go({ compare: picked.filter((p) => p !== e).map((p) => p.id).join(",") }) })));
    this.body.replaceChildren(
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison" }, el("table", { class: "compare" }, el("thead", {}, el("tr", {}, el("td"), head)), el("tbody", {}, lines.map(([c, cells]) => el("tr", {}, el("th", { scope: "row", text: cellNames[c] ?? c }), cells.map((t, i) => el("td", {}, t ? cellNode(picked[i], c) : el("span", { class: "soft", text: "unknown" })))))))),
    );
  },
};

function chosen() {
  return state.compare.split(",").map((id) => byId.get(id)).filter(Boolean);
}
