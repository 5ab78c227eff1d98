// Which model should I start from: the same filters and score as in Python, with words in place of sentence vectors.
const recommendView = {
  title: "Recommend",
  make(root) {
    const option = (value, text) => el("option", { value, text });
    const rules = data.recommend;
    this.task = el("input", { class: "wide", id: "task", type: "text", placeholder: "e.g. answer geology exam questions" });
    this.field = el("select", { id: "r-field" }, option("", "any"), fieldOrder.map((f) => option(f, label.field(f))));
    this.modality = el("select", { id: "r-modality" }, option("", "any"), valuesOf.modality.map((m) => option(m, label.modality(m))));
    this.use = el("select", { id: "r-use" }, option("", "any"), rules.uses.map((u) => option(u, u)));
    this.vram = el("input", { id: "r-vram", type: "number", min: "1", step: "any", size: "6" });
    this.method = el("select", { id: "r-method" }, Object.keys(rules.bytes).map((m) => option(m, m)));
    this.weights = el("select", { id: "r-weights" }, option("hub", "on the hub"), option("any", "anywhere"), option("none", "or none"));
    this.body = el("div", { "aria-live": "polite" });
    const part = (node, text) => el("div", {}, el("label", { for: node.id, text }), node);
    root.append(
      el("form", { onsubmit: (event) => { event.preventDefault(); this.answer(); } },
        el("div", { class: "row" }, el("div", { class: "grow" }, el("label", { for: "task", text: "What is the model for?" }), this.task)),
        el("div", { class: "row" }, part(this.field, "Field"), part(this.modality, "Must handle"), part(this.use, "To run"), part(this.vram, "Memory in GB"), part(this.method, "for"), part(this.weights, "Weights"), el("button", { class: "main", text: "Recommend" }))),
      el("p", { class: "soft", text: rules.notice }),
      this.body,
    );
  },
  update() {
    if (state.q && !this.task.value) this.task.value = state.q;
  },
  async answer() {
    const task = this.task.value.trim();
    if (!task) {
      this.body.replaceChildren(el("p", { class: "notice", text: "Say what the model is for." }));
      this.task.focus();
      return;
    }
    const asked = { task, field: this.field.value, modality: this.modality.value, use: this.use.value, vram: this.vram.value, method: this.method.value, weights: this.weights.value, k: 5 };
    let found;
    try {
      found = withApi ? await recommendMeaning(asked) : recommendWords(asked);
    } catch (error) {
      this.body.replaceChildren(el("p", { class: "notice", role: "alert", text: error.message }));
      return;
    }
    this.body.replaceChildren(
      found.choices.length ? el("ol", { class: "plain" }, found.choices.map((c) => el("li", {}, el("strong", {}, modelLink(c.entry)), ` ${c.score.toFixed(2)} `, el("span", { class: "why", text: Object.entries(c.parts).map(([n, v]) => `${n} ${v.toFixed(2)}`).join("  ") }), el("div", { class: "small" }, el("code", { text: c.reference })), el("div", { class: "small", text: `Because: ${c.reasons.join("; ")}.` }), el("div", { class: "why", text: `Check: ${c.cautions.join("; ")}.` })))) : el("p", { text: "No model fits." }),
      found.unknown.length ? el("details", {}, el("summary", { text: `${found.unknown.length} more of which something needed is unknown` }), el("ul", { class: "plain" }, found.unknown.slice(0, 40).map((u) => el("li", {}, modelLink(u.entry), el("span", { class: "why", text: ` ${u.place ?? ""} ${u.reason}` }))))) : "",
    );
  },
};

async function recommendMeaning(asked) {
  const answer = await fetch(`/api/recommend?${new URLSearchParams(asked)}`);
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return { choices: told.choices.map((c) => ({ ...c, entry: byId.get(c.id) })), unknown: told.unknown.map((u) => ({ entry: byId.get(u.id), place: u.checkpoint, reason: u.reason })) };
}

function recommendWords(asked) {
  const rules = data.recommend;
  const searched = index.search(asked.task, { combineWith: "OR" });
  const best = Math.max(...searched.map((h) => h.score), 0) || 1;
  const matched = new Map(searched.map((h) => [h.id, h.score / best]));
  const task = entries[searched[0]?.id]?.evaluation_tasks[0];
  const sharing = new Map();
  for (const e of entries) if (task && e.evaluation_tasks.includes(task)) for (const d of e.pretraining_data) if (!data.generic.includes(d)) sharing.set(d, (sharing.get(d) ?? new Set()).add(e.id));
  const passed = [];
  const unknown = [];
  for (const e of entries) {
    if (e.status !== "active" || (asked.modality && ![...e.modalities, ...e.modalities_ext].includes(asked.modality))) continue;
    for (const checkpoint of reachable(e, asked.weights)) {
      const missing = [];
      if (asked.use && !data.uses[e.index].includes(asked.use)) {
        if (e.architecture !== null || !e.modalities.includes("language")) continue;
        missing.push("architecture is unknown");
      }
      const size = checkpoint?.n_params ?? (checkpoint?.size ? null : e.n_params.length === 1 ? e.n_params[0] : null);
      const need = size && (size * rules.bytes[asked.method] * rules.activations) / 1e9;
      if (asked.vram && !size) missing.push("size is unknown");
      if (asked.vram && size && need > Number(asked.vram)) continue;
      if (missing.length) unknown.push({ entry: e, place: checkpoint?.hf_id, reason: missing.join("; ") });
      else passed.push({ e, checkpoint, size, need });
    }
  }
  const month = (e) => e.first_public ?? `${e.year}-12`;
  const months = [...new Set(passed.map((p) => month(p.e)))].sort();
  const scored = passed.map(({ e, checkpoint, size, need }) => {
    const named = e.pretraining_data.filter((d) => !data.generic.includes(d));
    const common = named.filter((d) => [...(sharing.get(d) ?? [])].some((id) => id !== e.id));
    const onHub = checkpoint?.hf_type === "model";
    const parts = {
      T: Math.min(1, Math.max(0, ((matched.get(e.index) ?? 0) - 0.2) / 0.6)),
      F: !asked.field || e.fields.includes(asked.field) ? 1 : e.fields.includes("general") ? 0.5 : 0,
      D: named.length ? common.length / named.length : 0,
      A: onHub ? (e.code_url ? 1 : 0.7) : checkpoint ? 0.4 : 0,
      R: months.length > 1 ? months.indexOf(month(e)) / (months.length - 1) : 1,
    };
    const why = [parts.T > 0 && "shares words with the task", asked.field && parts.F === 1 && `of the field ${label.field(asked.field)}`, common.length && `trained on ${common.slice(0, 3).join(", ")} like others for that task`, asked.vram && `${sizeLabel(size)} needs about ${need.toPrecision(3)} of ${asked.vram} GB`, onHub ? `weights on the hub${e.code_url ? " and code" : ""}` : checkpoint ? "weights elsewhere" : "no weights known"];
    const cautions = [...e.notes, e.hub?.license ? `licence ${e.hub.license}` : "licence unknown: ask the hub before use", !size && "size unknown"];
    const score = Object.entries(parts).reduce((sum, [name, value]) => sum + rules.weights[name] * value, 0);
    return { entry: e, score, parts, size, reasons: why.filter(Boolean), cautions: cautions.filter(Boolean), reference: onHub ? `atlas:${e.id}@${checkpoint.hf_id}` : checkpoint?.url ?? `atlas:${e.id}` };
  });
  scored.sort((a, b) => b.score - a.score || (a.size ?? 1e13) - (b.size ?? 1e13) || a.entry.index - b.entry.index);
  const seen = new Set();
  const choices = scored.filter((c) => !seen.has(c.entry.id) && seen.add(c.entry.id)).slice(0, asked.k);
  return { choices, unknown };
}

function reachable(e, weights) {
  const hub = e.checkpoints.filter((c) => c.hf_id && c.hf_type === "model");
  const copies = e.hf_ids_known.filter((id) => !e.hf_ids.includes(id)).map((id) => ({ hf_id: id, hf_type: "model", url: `https://huggingface.co/${id}`, n_params: e.n_params.length === 1 ? e.n_params[0] : null, size: null }));
  if (weights === "hub") return [...hub, ...copies];
  const all = [...hub, ...copies, ...e.checkpoints.filter((c) => !hub.includes(c))];
  return all.length ? all : weights === "none" ? [null] : [];
}
