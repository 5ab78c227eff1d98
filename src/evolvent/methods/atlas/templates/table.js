// The table: search, facets with counts, sorting, export, and picking models to compare.
const facetGroups = [
  ["field", "Field", valuesOf.field, label.field],
  ["modality", "Reads or writes", valuesOf.modality, label.modality],
  ["type", "Kind of training (survey, Figure 1)", valuesOf.type, label.type],
  ["architecture", "Architecture", valuesOf.architecture, (v) => v],
  ["weights", "Weights", ["hub", "link", "none"], (v) => ({ hub: "on the hub", link: "elsewhere", none: "none known" })[v]],
  ["code", "Code", ["yes", "no"], (v) => ({ yes: "linked", no: "not linked" })[v]],
];
const sizeBounds = [["<=110M", "up to 110M"], ["<=1B", "up to 1B"], ["<=8B", "up to 8B"], ["<=70B", "up to 70B"], [">70B", "more than 70B"]];

const tableView = {
  title: "Find models",
  make(root) {
    this.found = [];
    this.query = el("input", { class: "wide", type: "search", id: "q", maxlength: "2000", autocomplete: "off", oninput: () => this.later() });
    this.where = el("input", { class: "wide", type: "text", id: "where", spellcheck: "false", onchange: () => go({ where: this.where.value.trim() }) });
    this.problem = el("p", { class: "notice", role: "alert", hidden: true });
    this.facets = el("div", { class: "facets" });
    this.status = el("p", { class: "soft", role: "status" });
    this.rows = el("div");
    this.unknown = el("details", { hidden: true });
    this.compare = el("button", { type: "button", class: "main", onclick: () => go({ view: "compare" }) });
    this.clear = el("button", { type: "button", text: "Clear all", onclick: () => go({ q: "", where: "", sort: "" }) });
    this.semantic = withApi && el("label", { class: "small row" }, el("input", { type: "checkbox", id: "semantic", onchange: (event) => go({ semantic: event.target.checked ? "1" : "" }) }), "search by meaning");
    const narrow = matchMedia("(max-width: 56rem)").matches;
    root.append(
      el("div", { class: "row" }, el("div", { class: "grow" }, el("label", { for: "q", text: "What is it for? In your own words" }), this.query), this.clear),
      this.semantic || "",
      this.problem,
      el(
        "div",
        { class: "columns" },
        el("details", { class: "facets", open: !narrow }, el("summary", { text: "Filter" }), this.facets, el("label", { for: "where", class: "small", text: "The filter as one line" }), this.where),
        el("div", {}, this.status, el("div", { class: "row" }, exportButtons(() => this.found), this.compare), this.rows, this.unknown),
      ),
    );
  },
  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => go({ q: this.query.value }, { replace: true }), 40);
  },
  async update() {
    if (document.activeElement !== this.query) this.query.value = state.q;
    this.where.value = state.where;
    if (this.semantic) this.semantic.firstChild.checked = Boolean(state.semantic);
    let conditions = [];
    let problem = "";
    try {
      conditions = parseWhere(state.where);
    } catch (error) {
      problem = error.message;
    }
    let searched = null;
    if (state.q.trim()) {
      try {
        searched = withApi && state.semantic ? await searchMeaning(state.q, "") : searchWords(state.q);
        if (searched === null) return;
      } catch (error) {
        problem = error.message;
        searched = { hits: [], notice: "" };
      }
    }
    this.problem.hidden = !problem;
    this.problem.textContent = problem;
    const why = new Map(searched ? searched.hits.map((h) => [h.entry.id, h.why]) : []);
    const among = searched ? searched.hits.map((h) => h.entry) : entries;
    const { rows, unknown } = applyWhere(conditions, among);
    this.found = sorted(rows);
    this.drawFacets(conditions, among);
    const text = `${plural(rows.length, "model")}${unknown.length ? `, ${unknown.length} unknown` : ""}. ${searched ? searched.notice : ""}`;
    this.status.textContent = text;
    announce(text);
    this.rows.replaceChildren(this.found.length ? entryTable(this.found, why) : el("p", { class: "panel", text: "Nothing fits. Take a filter away, or use other words." }));
    this.unknown.hidden = !unknown.length;
    this.unknown.replaceChildren(
      el("summary", { text: `${plural(unknown.length, "model")} of which a needed cell is unknown: neither in nor out` }),
      el("ul", { class: "plain" }, unknown.map(([e, reason]) => el("li", {}, modelLink(e), el("span", { class: "why", text: ` ${reason}` })))),
    );
    this.drawPicked();
    this.rows.closest("main").querySelectorAll(".actions button").forEach((b) => (b.disabled = !rows.length));
  },
  drawPicked() {
    const picked = state.compare.split(",").filter(Boolean).length;
    this.compare.hidden = !picked;
    this.compare.disabled = picked < 2;
    this.compare.textContent = picked < 2 ? "Pick another to compare" : `Compare ${picked}`;
  },
  drawFacets(conditions, among) {
    const focused = document.activeElement?.dataset?.facet;
    const groups = facetGroups.map(([key, title, values, name]) => {
      const others = conditions.filter((c) => c.key !== key || c.negated);
      const mine = conditions.find((c) => c.key === key && !c.negated)?.values ?? [];
      const pool = applyWhere(others, among).rows;
      const counts = values.map((v) => pool.filter((e) => holds({ key, operator: "=", values: [v], negated: false }, e)).length);
      const boxes = values.map((v, i) => (counts[i] || mine.includes(v)) && this.box(key, v, name(v), counts[i], mine.includes(v), (on) => {
        const wanted = on ? [...mine, v] : mine.filter((m) => m !== v);
        return [...others, ...(wanted.length ? [{ key, operator: "=", values: wanted, negated: false }] : [])];
      }));
      return el("fieldset", {}, el("legend", { text: title }), el("div", {}, boxes));
    });
    groups.splice(3, 0, this.sizes(conditions, among));
    this.facets.replaceChildren(...groups);
    if (focused) this.facets.querySelector(`[data-facet="${CSS.escape(focused)}"]`)?.focus();
  },
  sizes(conditions, among) {
    const others = conditions.filter((c) => c.key !== "params");
    const pool = applyWhere(others, among).rows;
    const current = conditions.filter((c) => c.key === "params").map((c) => writeWhere([c]).slice(7))[0];
    return el("fieldset", {}, el("legend", { text: "Parameters" }), el("div", {}, sizeBounds.map(([bound, name]) => {
      const c = condition("params", bound, false);
      const count = pool.filter((e) => holds(c, e)).length;
      return this.box("params", bound, name, count, current === bound, (on) => (on ? [...others, c] : others));
    })));
  },
  box(key, value, name, count, checked, conditions) {
    const input = el("input", { type: "checkbox", checked, "data-facet": `${key}:${value}`, onchange: (event) => go({ where: writeWhere(conditions(event.target.checked)) }) });
    return el("label", {}, input, el("span", { text: name }), el("span", { class: "count", text: count }));
  },
};

const orders = {
  model: (a, b) => a.name.localeCompare(b.name),
  date: (a, b) => (b.first_public ?? `${b.year}-12`).localeCompare(a.first_public ?? `${a.year}-12`),
  size: (a, b) => (Math.min(...a.n_params, Infinity) || 0) - (Math.min(...b.n_params, Infinity) || 0) || 0,
};

function sorted(rows) {
  const order = orders[state.sort];
  return order ? [...rows].sort((a, b) => order(a, b) || a.index - b.index) : rows;
}

function entryTable(rows, why) {
  const picked = new Set(state.compare.split(",").filter(Boolean));
  const head = (name, key) => el("th", { scope: "col", "aria-sort": state.sort === key ? (key === "date" ? "descending" : "ascending") : false }, key ? el("button", { type: "button", text: name, onclick: () => go({ sort: state.sort === key ? "" : key }) }) : name);
  const body = rows.map((e) => {
    const box = el("input", { type: "checkbox", "aria-label": `Compare ${e.name}`, checked: picked.has(e.id), onchange: (event) => {
      if (event.target.checked) picked.add(e.id);
      else picked.delete(e.id);
      if (picked.size > 6) {
        picked.delete(e.id);
        event.target.checked = false;
        announce("Six models can be compared at most.");
        return;
      }
      state.compare = [...picked].join(",");
      history.replaceState(null, "", address(state));
      tableView.drawPicked();
    } });
    const reason = why.get(e.id);
    return el(
      "tr",
      {},
      el("td", { class: "pick" }, box),
      el("th", { scope: "row" }, modelLink(e), e.status === "active" ? "" : el("span", { class: "tag", text: e.status })),
      el("td", {}, e.title, reason ? el("div", { class: "why", text: reason }) : ""),
      el("td", { class: "meta", text: e.venue }),
      el("td", { class: "meta", text: e.fields.map(label.field).join(", ") }),
      el("td", { class: "meta", text: [...e.modalities, ...e.modalities_ext].map(label.modality).join(", ") }),
      el("td", { class: "meta", text: (e.survey_type ?? []).join(", ") }),
      el("td", { class: "meta", text: e.parameters.join(", ") }),
      el("td", { class: "meta last", text: { hub: "on the hub", link: "elsewhere", none: "" }[data.weights[e.index]] }),
    );
  });
  return el(
    "div",
    { class: "scroll" },
    el("table", { class: "rows" }, el("caption", { class: "hidden", text: "Models" }), el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "hidden", text: "Pick" })), head("Model", "model"), head("Title"), head("Venue", "date"), head("Field"), head("Modalities"), head("Type"), head("Size", "size"), head("Weights"))), el("tbody", {}, body)),
  );
}
