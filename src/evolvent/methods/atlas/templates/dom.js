// The data of the page, and a small way to make elements. Text is always text: nothing here reads markup.
const data = JSON.parse(document.getElementById("data").textContent);
const entries = data.rows.map((cells, index) => {
  const entry = Object.fromEntries(data.columns.map((column, i) => [column, cells[i]]));
  return Object.defineProperty(entry, "index", { value: index });
});
const byId = new Map(entries.map((e) => [e.id, e]));
const withApi = document.documentElement.dataset.api === "yes";

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  assign(node, properties);
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

function svg(tag, properties = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  assign(node, properties);
  node.append(...children.flat(Infinity));
  return node;
}

function assign(node, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
}

const label = {
  field: (name) => data.vocabulary.fields[name] ?? name,
  modality: (name) => short(data.vocabulary.modalities[name] ?? data.vocabulary.modalities_ext_only[name] ?? name),
  type: (name) => `${name} ${data.vocabulary.survey_types[name] ?? ""}`,
  task: (name) => data.vocabulary.abbreviations[name] ?? name,
};

function short(text) {
  return text.split(":")[0].split(" as ")[0];
}

function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

function sizeLabel(number) {
  for (const [unit, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (number >= unit) return `${Number((number / unit).toPrecision(3))}${letter}`;
  }
  return String(number);
}

function outside(url, text) {
  // Only web addresses become links.
  return /^https?:\/\//.test(url) ? el("a", { href: url, rel: "noopener noreferrer", target: "_blank", text }) : el("span", { text });
}

function announce(text) {
  document.getElementById("announce").textContent = text;
}

function modelLink(entry, text = entry.name) {
  return el("a", { href: address({ view: "card", id: entry.id }), text });
}

// ------------------------------------------------------------------------------------------- state in the address

const start = { view: "table", q: "", where: "", sort: "", id: "", compare: "", cross: "", color: "survey_type", lens: "similar", semantic: "" };
let state = { ...start };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.entries(start).map(([key, value]) => [key, given.get(key) ?? value]));
}

function address(changes) {
  const kept = { ...start, ...changes };
  const said = Object.entries(kept).filter(([key, value]) => value !== start[key]);
  return `#${new URLSearchParams(said)}`;
}

function go(changes, { replace = false } = {}) {
  const wanted = address({ ...state, ...changes });
  if (wanted === (location.hash || "#")) return;
  history[replace ? "replaceState" : "pushState"](null, "", wanted);
  show();
}
