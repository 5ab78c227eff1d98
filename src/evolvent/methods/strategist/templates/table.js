"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const made = (tag, text, parent) => { const e = document.createElement(tag); e.textContent = text; parent.append(e); return e; };

  async function ask(path, body) {
    const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
    const answer = await (await fetch(path, options)).json();
    at("error").textContent = answer.error || "";
    if (!answer.error) show(answer);
  }

  function show(seen) {
    at("table").textContent = seen.text;
    at("told").replaceChildren();
    seen.told.slice().reverse().forEach((line) => made("li", line, at("told")));
    at("moves").replaceChildren();
    if (seen.over) {
      made("strong", "Over: " + seen.returns.map((r, p) => `player ${p} ${r > 0 ? "+" : ""}${r}`).join(", "), at("moves"));
    } else if (seen.legal.length) {
      seen.legal.forEach((move) => { made("button", move.words, at("moves")).onclick = () => ask("/api/move", { action: move.action }); });
    } else if (!seen.speak && document.body.dataset.watching) {
      made("button", "Next", at("moves")).onclick = () => ask("/api/step", {});
    }
    at("speech").hidden = !seen.speak || seen.over;
    at("belief").hidden = !seen.evil.length;
    at("bars").replaceChildren();
    seen.evil.forEach((chance, player) => {
      made("span", `player ${player}`, at("bars"));
      const meter = made("meter", "", at("bars"));
      Object.assign(meter, { min: 0, max: 1, low: 0.34, high: 0.67, optimum: 0, value: chance });
      meter.setAttribute("aria-label", `player ${player}`);
      made("span", `${Math.round(100 * chance)} %`, at("bars"));
    });
    document.documentElement.dataset.step = seen.step;
  }

  document.body.dataset.watching = document.querySelector("header p").textContent === "watching" ? "yes" : "";
  at("speech").onsubmit = (event) => { event.preventDefault(); ask("/api/say", { text: at("words").value }); at("words").value = ""; };
  ask("/api/table");
})();
