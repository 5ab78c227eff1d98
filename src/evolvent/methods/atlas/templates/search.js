// Search by words, in the page: all words first, then any of them with a notice; prefixes, and typos in longer words.
const stopWords = new Set(data.words.stop_words);
const index = new MiniSearch({
  fields: ["name", "title", "card", "synonyms"],
  idField: "index",
  processTerm: (term) => (stopWords.has(term.toLowerCase()) ? null : term.toLowerCase()),
  searchOptions: {
    boost: { name: 3, title: 1.5, card: 1, synonyms: 1 },
    prefix: (term) => term.length >= 4,
    fuzzy: (term) => (term.length > 5 ? 0.25 : false),
  },
});
index.addAll(
  entries.map((e) => ({
    index: e.index,
    name: [e.name, ...e.aliases].join(" "),
    title: e.title,
    card: [
      ...e.fields.map(label.field),
      ...[...e.modalities, ...e.modalities_ext].map((m) => data.vocabulary.modalities[m] ?? data.vocabulary.modalities_ext_only[m]),
      ...(e.architecture ?? []),
      ...(e.backbone ?? []),
      ...[...e.evaluation_tasks, ...e.pretraining_tasks].flatMap((t) => [t, label.task(t)]),
      ...e.pretraining_data,
    ].join(" "),
    synonyms: [
      ...e.evaluation_tasks.flatMap((t) => data.words.tasks[t] ?? []),
      ...e.fields.flatMap((f) => data.words.fields[f] ?? []),
      ...[...e.modalities, ...e.modalities_ext].flatMap((m) => data.words.modalities[m] ?? []),
    ].join(" "),
  })),
);

function searchWords(query) {
  const asked = query.slice(0, 400);
  const all = index.search(asked, { combineWith: "AND" });
  const found = all.length ? all : index.search(asked, { combineWith: "OR" });
  const notice = !all.length && found.length ? "No model has all of these words; these have some of them." : "";
  return { hits: found.map((h) => ({ entry: entries[h.id], score: h.score, why: "" })), notice };
}

let asking = 0;

async function searchMeaning(query, where) {
  const mine = ++asking;
  const given = new URLSearchParams({ q: query, k: "100", ...(where ? { where } : {}) });
  const answer = await fetch(`/api/search?${given}`);
  const told = await answer.json();
  if (mine !== asking) return null; // a later question was asked meanwhile
  if (!answer.ok) throw new Error(told.error);
  return { hits: told.hits.map((h) => ({ entry: byId.get(h.id), score: h.score, why: h.why })).filter((h) => h.entry), notice: told.notices.join(" ") };
}
