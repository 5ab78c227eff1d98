// Which view is shown: the address says it, and says everything else too.
const views = { table: tableView, card: cardView, compare: compareView, graph: graphView, timeline: timeView, matrix: matrixView, applications: applicationView, recommend: recommendView };
const content = document.getElementById("content");
const links = Object.entries(views).map(([name, view]) => {
  const link = el("a", { href: "#", text: view.title });
  document.getElementById("views").append(el("li", {}, link));
  return [name, link];
});
let current = null;

function show() {
  state = readAddress();
  if (!(state.view in views)) state.view = "table";
  const view = views[state.view];
  for (const [name, link] of links) {
    const kept = { view: name, q: state.q, where: state.where, compare: state.compare, id: name === "graph" ? state.id : "" };
    link.href = address(name === "card" ? { view: name, id: state.id } : kept);
    if (name === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} · Atlas of scientific language models`;
  if (current !== view) {
    const moved = current !== null;
    current = view;
    content.replaceChildren(el("h2", { class: "hidden", text: view.title }));
    view.make(content);
    if (moved && !content.contains(document.activeElement) && document.activeElement?.closest("nav") === null) content.focus({ preventScroll: true });
    if (moved) scrollTo(0, 0);
  }
  Promise.resolve(view.update()).then(() => (document.documentElement.dataset.shown = location.hash));
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  content.focus();
});
addEventListener("hashchange", show);
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !typing && state.view === "table") {
    event.preventDefault();
    document.getElementById("q").focus();
  }
});
show();
document.documentElement.dataset.ready = "yes";
