// The filter line: KEY:VALUE parts joined by AND, commas for OR, "-" for NOT; the same grammar as in Python.
const listKeys = {
  field: (e) => e.fields,
  modality: (e) => [...e.modalities, ...e.modalities_ext],
  architecture: (e) => e.architecture,
  strategy: (e) => e.pretraining_strategy,
  type: (e) => e.survey_type,
  backbone: (e) => e.backbone && [...e.backbone, ...e.backbone.flatMap((b) => b.split(" + ").map((p) => p.trim().replace(/^~/, "")))],
  task: (e) => (e.evaluation_tasks.length ? e.evaluation_tasks : null),
  objective: (e) => (e.pretraining_tasks.length ? e.pretraining_tasks : null),
  data: (e) => (e.pretraining_data.length ? e.pretraining_data : null),
  language: (e) => e.languages,
  venue: (e) => [e.venue, e.venue_name, e.venue_type],
  weights: (e) => [data.weights[e.index]],
  code: (e) => [e.code_url ? "yes" : "no"],
  status: (e) => [e.status],
  id: (e) => [e.id],
  license: (e) => (e.hub && e.hub.license ? [e.hub.license] : null),
};
const numberKeys = { params: (e) => (e.n_params.length ? e.n_params : null), year: (e) => [e.year] };
const wordsFor = { field: "fields", modality: "modalities", architecture: "architecture", strategy: "pretraining_strategy" };
const valuesOf = {
  field: Object.keys(data.vocabulary.fields),
  modality: [...Object.keys(data.vocabulary.modalities), ...Object.keys(data.vocabulary.modalities_ext_only)],
  architecture: Object.keys(data.vocabulary.architectures),
  strategy: Object.keys(data.vocabulary.strategies),
  type: Object.keys(data.vocabulary.survey_types).filter((t) => t.includes(".")),
};

const keyOf = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}_]+/gu, "");

function canonical(key, said) {
  if (valuesOf[key].includes(said)) return said;
  const plain = said.trim().toLowerCase().split(/\s+/).join(" ");
  const dashed = (text) => text.toLowerCase().replace(/[ _-]+/g, "-");
  const other = wordsFor[key] ? data.otherWords[wordsFor[key]][plain] : undefined;
  const found = valuesOf[key].find((v) => v.toLowerCase() === plain) ?? other ?? valuesOf[key].find((v) => dashed(v) === dashed(plain));
  if (found === undefined) throw new Error(`${key}:${said} is not in the vocabulary`);
  return found;
}

function sizeOf(text) {
  const named = Object.entries(data.vocabulary.size_labels).find(([name]) => name.toLowerCase() === text.toLowerCase());
  if (named) return named[1];
  if (/^\d+$/.test(text)) return Number(text);
  const match = /^(\d+(?:\.\d+)?)([KMB])$/i.exec(text);
  if (!match) throw new Error(`params:${text} is no size; write 110M or 1.3B`);
  return Math.round(Number(match[1]) * { K: 1e3, M: 1e6, B: 1e9 }[match[2].toUpperCase()]);
}

function parseWhere(text) {
  let rest = text;
  const found = [];
  for (const match of text.matchAll(/(-?)(\w+):((?:"[^"]*"|[^\s"])+)/g)) {
    rest = rest.replace(match[0], "");
    found.push(condition(match[2].toLowerCase(), match[3].replaceAll('"', ""), Boolean(match[1])));
  }
  if (rest.trim()) throw new Error(`"${rest.trim()}" is no condition; write key:value, for example year:>=2023`);
  return found;
}

function condition(key, value, negated) {
  if (!(key in listKeys) && !(key in numberKeys) && key !== "has") throw new Error(`no key "${key}" to filter by`);
  const compared = /^(<=|>=|<|>)(.+)$/.exec(value);
  const operator = compared ? compared[1] : "=";
  let values = (compared ? compared[2] : value).split(",").map((v) => v.trim()).filter(Boolean);
  if (!values.length) throw new Error(`${key}: no value`);
  if (key in numberKeys) {
    values = values.map((v) => (key === "year" ? Number(v) : sizeOf(v)));
    if (values.some(Number.isNaN)) throw new Error(`${key}:${value} is no number`);
  } else if (operator !== "=") throw new Error(`${key}: only params and year can be compared`);
  else if (key === "has" && values.some((v) => !data.columns.includes(v))) throw new Error(`has:${value} is no column`);
  else if (key in valuesOf) values = values.map((v) => canonical(key, v));
  return { key, operator, values, negated };
}

// true, false, or null where the cell is unknown
function holds(c, entry) {
  const plain = plainly(c, entry);
  return plain === null ? null : plain !== c.negated;
}

function plainly(c, entry) {
  if (c.key === "has") return c.values.every((v) => filled(entry[v]));
  if (c.key in numberKeys) {
    const numbers = numberKeys[c.key](entry);
    return numbers && numbers.some((n) => c.values.some((v) => compareNumbers(n, c.operator, v)));
  }
  const cell = listKeys[c.key](entry);
  if (cell === null || cell === undefined) return null;
  if (c.key === "weights" && c.values.includes("any") && cell[0] !== "none") return true;
  const keys = new Set(cell.map(keyOf));
  return c.values.some((v) => keys.has(keyOf(v)));
}

function filled(value) {
  if (value === null || value === undefined) return false;
  return typeof value === "object" ? Object.keys(value).length > 0 : true;
}

function compareNumbers(n, operator, bound) {
  return { "=": n === bound, "<=": n <= bound, ">=": n >= bound, "<": n < bound, ">": n > bound }[operator];
}

function applyWhere(conditions, among) {
  const rows = [];
  const unknown = [];
  for (const entry of among) {
    const answers = conditions.map((c) => holds(c, entry));
    if (answers.includes(false)) continue;
    const missing = conditions.filter((c, i) => answers[i] === null).map((c) => `${c.key} is unknown`);
    if (missing.length) unknown.push([entry, missing.join("; ")]);
    else rows.push(entry);
  }
  return { rows, unknown };
}

function writeWhere(conditions) {
  return conditions
    .map((c) => {
      const value = c.values.map((v) => (c.key === "params" ? sizeLabel(v) : v)).join(",");
      const said = /\s/.test(value) ? `"${value}"` : value;
      return `${c.negated ? "-" : ""}${c.key}:${c.operator === "=" ? "" : c.operator}${said}`;
    })
    .join(" ");
}
