// Pictures: the graph of similar models, models over time and size, fields by type, applications.
const adjacency = entries.map(() => []);
for (const [a, b, similarity, shared] of data.graph.edges) {
  adjacency[a].push({ to: b, similarity, shared });
  adjacency[b].push({ to: a, similarity, shared });
}
for (const list of adjacency) list.sort((x, y) => y.similarity - x.similarity || x.to - y.to);

const fieldOrder = Object.keys(data.vocabulary.fields);
const seriesOf = (e) => `s${fieldOrder.indexOf(e.fields[0])}`;
const otherField = (a, b) => !a.fields.some((f) => b.fields.includes(f));

function reasons(shared) {
  return shared.map((i) => {
    const [kind, ...rest] = data.graph.features[i].split(":");
    const value = rest.join(":");
    return `${kind} ${kind === "type" ? label.type(value) : kind === "task" || kind === "objective" ? spelled(value) : value}`;
  }).join("; ");
}

function neighbourList(entry, crossOnly, limit = 30) {
  const found = adjacency[entry.index].filter((n) => !crossOnly || otherField(entry, entries[n.to]));
  if (!found.length) return el("p", { class: "soft", text: "None." });
  return el("ol", { class: "plain" }, found.slice(0, limit).map((n) => el("li", {}, modelLink(entries[n.to]), ` ${n.similarity.toFixed(2)} `, el("span", { class: "tag", text: entries[n.to].fields.map(label.field).join(", ") }), el("div", { class: "why", text: reasons(n.shared) }))));
}

// One stop for the Tab key; arrows walk over the points, Enter chooses.
function walkable(nodes, choose) {
  nodes.forEach((node, i) => {
    node.setAttribute("tabindex", i ? "-1" : "0");
    node.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(i);
      } else if (step) {
        event.preventDefault();
        const next = nodes[(i + step + nodes.length) % nodes.length];
        node.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      }
    });
    node.addEventListener("click", () => choose(i));
  });
}

function legend(pairs) {
  return el("ul", { class: "legend" }, pairs.map(([series, text]) => el("li", {}, el("span", { class: `dot ${series}` }), text)));
}

const graphView = {
  title: "Graph",
  make(root) {
    this.pick = modelPicker("graph-model", (id) => go({ id }));
    this.cross = el("input", { type: "checkbox", id: "cross", onchange: () => go({ cross: this.cross.checked ? "1" : "" }) });
    this.lens = el("select", { id: "lens", onchange: () => go({ lens: this.lens.value }) }, el("option", { value: "similar", text: "similar models" }), el("option", { value: "lineage", text: "what was built on what" }));
    this.side = el("div", { class: "panel" });
    const size = 1000;
    const at = (i) => data.graph.points[i].map((v) => 30 + v * (size - 60));
    const line = ([a, b]) => svg("line", { class: "edge", x1: at(a)[0], y1: at(a)[1], x2: at(b)[0], y2: at(b)[1] });
    this.edges = { similar: data.graph.edges.map((edge) => [edge, line(edge)]), lineage: data.lineage.filter(([a, b]) => Number.isInteger(a) && Number.isInteger(b)).map((edge) => [edge, line(edge)]) };
    this.nodes = entries.map((e, i) => svg("circle", { class: `node ${seriesOf(e)}`, cx: at(i)[0], cy: at(i)[1], r: 4 + Math.min(8, adjacency[i].length / 4), role: "button", "aria-label": `${e.name}, ${e.fields.map(label.field).join(", ")}` }, svg("title", { text: e.name })));
    walkable(this.nodes, (i) => go({ id: entries[i].id }));
    this.names = svg("g", {});
    this.at = at;
    root.append(
      el("div", { class: "row" }, this.pick.node, el("div", {}, el("label", { for: "lens", text: "Lines" }), this.lens), el("label", { class: "small row" }, this.cross, "only between fields")),
      legend(fieldOrder.map((f, i) => [`s${i}`, label.field(f)])),
      el("div", { class: "picture" }, svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "group", "aria-label": "Graph of models; arrow keys walk over the models, Enter chooses one" }, svg("g", {}, this.edges.similar.map((e) => e[1]), this.edges.lineage.map((e) => e[1])), svg("g", {}, this.nodes), this.names), this.side),
    );
  },
  placedNames(shown) {
    // Each name at its point, moved down until it covers no other one.
    const placed = [];
    return shown.sort((a, b) => this.at(a)[1] - this.at(b)[1]).map((i) => {
      const text = entries[i].name;
      const x = Math.min(this.at(i)[0] + 10, 990 - text.length * 8);
      let y = this.at(i)[1] - 6;
      while (placed.some((p) => Math.abs(p.y - y) < 15 && x < p.x + p.length * 8 && p.x < x + text.length * 8)) y += 4;
      placed.push({ x, y, length: text.length });
      return svg("text", { class: "name", x, y, text });
    });
  },
  update() {
    const entry = byId.get(state.id);
    const crossOnly = Boolean(state.cross);
    const lineage = state.lens === "lineage";
    this.pick.show(entry);
    this.cross.checked = crossOnly;
    this.lens.value = state.lens;
    const near = new Set(entry ? [entry.index] : []);
    for (const [kind, list] of Object.entries(this.edges)) {
      for (const [[a, b], line] of list) {
        const shown = kind === state.lens && (lineage || !crossOnly || otherField(entries[a], entries[b]));
        const on = shown && entry && (a === entry.index || b === entry.index);
        line.classList.toggle("on", Boolean(on) || (lineage && shown && !entry));
        line.style.display = shown && (!entry || on) ? "" : "none";
        if (on) near.add(a).add(b);
      }
    }
    this.nodes.forEach((node, i) => {
      node.classList.toggle("dim", Boolean(entry) && !near.has(i));
      node.classList.toggle("on", entry?.index === i);
    });
    this.names.replaceChildren(...(entry ? this.placedNames([...near].slice(0, 14)) : []));
    if (!entry) {
      const counted = (lineage ? this.edges.lineage : this.edges.similar).filter(([[a, b]]) => !crossOnly || otherField(entries[a], entries[b])).length;
      this.side.replaceChildren(el("p", { text: `${plural(entries.length, "model")}, ${plural(counted, "line")}. Choose a model to see what it is connected with, and why.` }));
      return;
    }
    const parts = [el("h2", {}, modelLink(entry)), el("p", { class: "soft", text: entry.title })];
    if (lineage) {
      const said = data.lineage.filter(([a, b]) => a === entry.index || b === entry.index);
      const name = (x) => (Number.isInteger(x) ? modelLink(entries[x]) : String(x));
      parts.push(said.length ? el("ul", { class: "plain" }, said.map(([a, b, kind]) => el("li", {}, name(a), " → ", name(b), el("div", { class: "why", text: kind.replaceAll("_", " ") })))) : el("p", { class: "soft", text: "No known parents or children." }));
    } else parts.push(el("h3", { text: crossOnly ? "Similar models of other fields" : "Similar models" }), neighbourList(entry, crossOnly));
    this.side.replaceChildren(...parts);
    announce(`${entry.name}: ${near.size - 1} connected models`);
  },
};

const groupings = {
  survey_type: ["Kind of training", [["s1", "1 masked encoder"], ["s2", "2 next token"], ["s3", "3 contrastive"], ["s0", "unknown"]], (e) => `s${e.survey_type ? e.survey_type[0][0] : 0}`],
  fields: ["Field", fieldOrder.map((f, i) => [`s${i}`, label.field(f)]), seriesOf],
};

const timeView = {
  title: "Timeline",
  make(root) {
    this.color = el("select", { id: "color", onchange: () => go({ color: this.color.value }) }, Object.entries(groupings).map(([key, [name]]) => el("option", { value: key, text: name })));
    this.body = el("div");
    root.append(el("div", { class: "row" }, el("div", {}, el("label", { for: "color", text: "Colour" }), this.color)), this.body);
  },
  update() {
    const [, pairs, series] = groupings[state.color] ?? groupings.survey_type;
    this.color.value = state.color in groupings ? state.color : "survey_type";
    const [width, height, left, bottom] = [1000, 520, 72, 60];
    const month = (e) => { const [y, m] = (e.first_public ?? `${e.year}-12`).split("-").map(Number); return y + (m - 1) / 12; };
    const first = Math.floor(Math.min(...entries.map(month)));
    const last = Math.ceil(Math.max(...entries.map(month)) + 0.01);
    const x = (v) => left + ((v - first) / (last - first)) * (width - left - 20);
    const y = (n) => height - bottom - ((Math.log10(n) - 5) / 7) * (height - bottom - 20);
    const dodge = new Map();
    const order = [...entries].sort((a, b) => month(a) - month(b) || a.index - b.index);
    const points = order.map((e) => {
      const size = e.n_params.length ? Math.max(...e.n_params) : null;
      const key = `${x(month(e)).toFixed(0)}/${size ? Math.round(y(size) / 6) : "?"}`;
      const n = dodge.get(key) ?? 0;
      dodge.set(key, n + 1);
      const cy = size ? y(size) - n * 5 : height - 12 - n * 4;
      return svg("circle", { class: `node ${series(e)}`, cx: x(month(e)), cy, r: 5, role: "button", "aria-label": `${e.name}, ${e.first_public ?? e.year}, ${size ? sizeLabel(size) : "size unknown"}` }, svg("title", { text: `${e.name} · ${e.first_public ?? e.year} · ${size ? sizeLabel(size) : "size unknown"}` }));
    });
    walkable(points, (i) => go({ view: "card", id: order[i].id }));
    const ticks = [];
    for (let year = first; year <= last; year += 1) ticks.push(svg("line", { class: "tick", x1: x(year), x2: x(year), y1: 10, y2: height - bottom + 8 }), svg("text", { x: x(year), y: height - bottom + 22, "text-anchor": "middle", text: year }));
    for (let power = 6; power <= 12; power += 1) ticks.push(svg("line", { class: "tick", x1: left, x2: width - 20, y1: y(10 ** power), y2: y(10 ** power) }), svg("text", { x: left - 8, y: y(10 ** power) + 4, "text-anchor": "end", text: sizeLabel(10 ** power).replace("1e+3B", "1000B") }));
    ticks.push(svg("text", { x: left - 8, y: height - 10, "text-anchor": "end", text: "unknown" }));
    this.body.replaceChildren(
      legend(pairs),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Models by month and size" }, svg("svg", { class: "time", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Models by month of first publication and largest size; arrow keys walk, Enter opens" }, ticks, points)),
      el("p", { class: "soft", text: "Across: month of first publication (December of the venue's year where the month is unknown). Up: parameters of the largest version." }),
    );
  },
};

const matrixView = {
  title: "Fields × types",
  make(root) {
    this.body = el("div");
    root.append(el("p", { class: "soft", text: "How many models of each field are trained in which way (the survey's Figure 1). A number opens its models." }), this.body);
  },
  update() {
    const types = [...valuesOf.type, null];
    const count = (f, t) => entries.filter((e) => e.fields.includes(f) && (t === null ? e.survey_type === null : e.survey_type?.includes(t))).length;
    const most = Math.max(1, ...fieldOrder.flatMap((f) => valuesOf.type.map((t) => count(f, t))));
    const cell = (f, t) => {
      const n = count(f, t);
      const td = el("td", { class: "n heat" }, n && t ? el("a", { href: address({ where: `field:${f} type:${t}` }), "aria-label": `${n} models: ${label.field(f)}, ${label.type(t)}`, text: n }) : el("span", { class: "soft", text: n || "" }));
      td.style.setProperty("--heat", `${t ? Math.round((n / most) * 55) : 0}%`);
      return td;
    };
    const usual = (f, column) => {
      const seen = new Map();
      for (const e of entries) if (e.fields.includes(f)) for (const v of e[column]) if (!data.generic.includes(v)) seen.set(v, (seen.get(v) ?? 0) + 1);
      return [...seen].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).slice(0, 8).map(([v, n]) => `${column === "evaluation_tasks" ? spelled(v) : v} ${n}`).join(", ");
    };
    this.body.replaceChildren(
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Fields by types" }, el("table", {}, el("thead", {}, el("tr", {}, el("td"), types.map((t) => el("th", { scope: "col", class: "n", title: t ? label.type(t) : "", text: t ?? "unknown" })))), el("tbody", {}, fieldOrder.map((f) => el("tr", {}, el("th", { scope: "row", text: label.field(f) }), types.map((t) => cell(f, t))))))),
      el("p", { class: "soft", text: Object.entries(data.vocabulary.survey_types).filter(([t]) => t.includes(".")).map(([t, name]) => `${t} ${name}`).join(" · ") }),
      fieldOrder.map((f) => el("section", {}, el("h3", { text: label.field(f) }), el("p", { class: "small" }, el("strong", { text: "Data: " }), usual(f, "pretraining_data")), el("p", { class: "small" }, el("strong", { text: "Evaluated on: " }), usual(f, "evaluation_tasks")))),
    );
  },
};

const applicationView = {
  title: "Applications",
  make(root) {
    const stages = [...new Set(data.applications.map((a) => a.stage))].sort();
    root.append(
      el("p", { class: "soft", text: "Uses in scientific discovery that the survey names, by stage." }),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Applications" }, el("table", {}, el("thead", {}, el("tr", {}, ["Stage", "Field", "What", "Name"].map((t) => el("th", { scope: "col", text: t })))), el("tbody", {}, stages.flatMap((s) => data.applications.filter((a) => a.stage === s)).map((a) => el("tr", {}, el("th", { scope: "row", text: a.stage }), el("td", { text: label.field(a.field) }), el("td", { text: a.what }), el("td", {}, a.atlas_model && byId.has(a.atlas_model) ? modelLink(byId.get(a.atlas_model)) : `${a.name ?? a.citation} ${a.year}`)))))),
    );
  },
  update() {},
};
