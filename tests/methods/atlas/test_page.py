"""The web page in a real headless Chromium, from a file, without a network."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import threading
import urllib.error
import urllib.request
from urllib.parse import urlencode

import pytest

from evolvent.methods.atlas import page as page_module
from evolvent.methods.atlas.atlas import Atlas
from evolvent.methods.atlas.config import AtlasConfig
from evolvent.methods.atlas.serve import make_server

EVIL = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The bundled table with two rows of a user, one of them hostile."""
    atlas = Atlas.load(AtlasConfig(overlay_dir=tmp_path_factory.mktemp("overlay"), user="tester", encoder="none"))
    row = {
        "name": f"Evil {EVIL}",
        "id": "evil",
        "title": f"=cmd() {EVIL} \u2028 “quotes”",
        "venue": "arXiv 2025",
        "fields": ["physics"],
        "modalities": ["text"],
        "paper_url": "https://arxiv.org/abs/2501.00001",
        "notes": [EVIL],
        "pretraining_data": ["a; b", "[c"],
    }
    atlas.add(row, status="draft")
    return atlas


@pytest.fixture(scope="module")
def built(table, tmp_path_factory):
    return table.build(tmp_path_factory.mktemp("page"))


@pytest.fixture
def open_page(browser, built):
    """Open the page at an address; at the end nothing was requested, logged or thrown."""
    requests, complaints = [], []
    with contextlib.ExitStack() as stack:

        def go(address="", width=1280, **options):
            context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.on("request", lambda r: requests.append(r.url))
            page.on("console", lambda m: complaints.append(m.text))
            page.on("pageerror", lambda e: complaints.append(str(e)))
            page.goto(f"{built.as_uri()}{address}")
            page.wait_for_selector("html[data-ready]", state="attached")
            return page

        yield go
    assert [r for r in requests if not r.startswith((built.as_uri(), "data:", "blob:"))] == []
    assert complaints == []


def until(page, expression):
    """Wait until an expression is true; playwright's own wait needs eval, which the policy of the page forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {expression}")


def turn_to(page, address):
    """Change only what stands behind the #."""
    page.goto(page.url.partition("#")[0] + address)
    until(page, "document.documentElement.dataset.shown === location.hash")


def status(page):
    return page.locator("[role=status]").inner_text()


def names(page):
    return page.locator("table.rows tbody th a").all_inner_texts()


def test_page_is_small_and_asks_for_nothing(built):
    content = built.read_bytes()
    assert len(content) <= 1_000_000
    assert len(gzip.compress(content)) <= 150_000
    text = content.decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "connect-src" not in policy[1]
    assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)', text)
    assert "Luca Ongaro" in text


def test_the_data_cannot_end_its_element(built):
    text = built.read_text(encoding="utf-8")
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert any(EVIL in str(row) for row in json.loads(data)["rows"])
    assert "<" not in data


def test_markup_in_a_row_or_a_query_is_only_text(open_page):
    page = open_page("#view=card&id=evil")
    assert EVIL in page.locator("main h2").last.inner_text()
    assert page.locator("main").inner_text().count("<img src=x") >= 2
    turn_to(page, "#view=compare&compare=evil,scibert")
    turn_to(page, "#view=graph&id=evil")
    turn_to(page, "#view=table")
    page.fill("#q", EVIL)
    until(page, "document.querySelector('[role=status]').textContent.startsWith('1 model')")
    assert names(page) == [f"Evil {EVIL}"]
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img").count() == 0


def test_search_finds_forgives_typos_and_says_when_not_all_words_match(open_page):
    page = open_page()
    assert status(page).startswith("297 models")
    page.fill("#q", "retrosynthesis")
    until(page, "!document.querySelector('[role=status]').textContent.startsWith('297')")
    assert {"Chemformer", "T5Chem", "LlaSMol"} <= set(names(page))
    page.fill("#q", "protien")
    until(page, "location.hash.includes('protien')")
    assert len(names(page)) >= 20
    assert "protein" in page.locator("table.rows tbody").inner_text().lower()
    page.fill("#q", "xyzzyq protein folding")
    until(page, "location.hash.includes('xyzzyq')")
    assert "No model has all of these words" in status(page)
    page.fill("#q", "qqqqzzzz")
    until(page, "location.hash.includes('qqqqzzzz')")
    assert status(page).startswith("0 models")
    assert "Nothing fits" in page.locator("main").inner_text()
    assert page.locator("button:has-text('Export CSV')").is_disabled()


FACETS = ["field:physics", "modality:vision", "type:2.A", "architecture:dual-encoder", "weights:hub", "code:no"]
FACETS += ["params:<=110M", "params:>70B"]


def test_every_facet_filters_like_python_and_its_count_is_true(open_page, table):
    page = open_page()
    for line in FACETS:
        box = page.locator(f'[data-facet="{line}"]')
        count = int(box.locator("xpath=..").locator(".count").inner_text())
        box.check()
        until(page, "location.hash.includes('where=')")
        found = table.filter(line)
        assert names(page) == [e.name for e in found.rows]
        assert count == len(found.rows) > 0
        unknown = len(found.unknown)
        assert status(page).startswith(f"{len(found.rows)} model")
        assert (f", {unknown} unknown" in status(page)) == (unknown > 0)
        assert box.is_checked()
        box.uncheck()
        until(page, "!location.hash.includes('where=')")
    assert len(names(page)) == 297
    groups = page.locator(".facets fieldset legend").all_inner_texts()
    assert len(groups) == len({f.partition(":")[0] for f in FACETS})


LINES = [
    "field:Chemistry modality:text,image params:<=8B weights:hub year:>=2023",
    "type:2.A,2.D -architecture:seq2seq",
    'task:"molecule captioning" backbone:llama-2',
    "has:languages code:yes",
    "params:Base year:<2021",
    "venue:nature weights:any",
    "id:scibert,k2",
    "strategy:rlhf",
    "language:zh",
    "data:PubMed objective:mlm",
    "-status:active",
]


def test_a_filter_line_in_the_address_means_what_it_means_in_python(open_page, table):
    page = open_page()
    for line in LINES:
        turn_to(page, f"#{urlencode({'where': line})}")
        found = table.filter(line)
        assert names(page) == [e.name for e in found.rows] != [], line
        assert page.locator("details .plain > li").count() == len(found.unknown), line
    for line in ("colour:red", "field:alchemy", "params:many", "protein"):
        turn_to(page, f"#where={line}")
        assert page.locator("[role=alert]").is_visible(), line


def test_address_brings_everything_back_and_back_goes_back(open_page):
    page = open_page("#q=melting+point&where=field%3Achemistry_materials&sort=model&compare=polync%2Ctranspolymer")
    assert page.input_value("#q") == "melting point"
    assert page.input_value("#where") == "field:chemistry_materials"
    assert names(page) == sorted(names(page), key=str.lower)
    page.click("button:has-text('Compare 2')")
    assert page.locator("table.compare thead a").all_inner_texts() == ["PolyNC", "TransPolymer"]
    page.click("table.compare thead a >> nth=0")
    page.wait_for_selector("dl.facts")  # a link changes the address; the page follows in an event of its own
    assert page.locator("main h2").last.inner_text() == "PolyNC"
    assert "survey-table" in page.locator("dl.facts").inner_text()
    page.go_back()
    page.wait_for_selector("table.compare")
    page.go_back()
    page.wait_for_selector("#q")
    assert page.input_value("#q") == "melting point"


def test_picking_in_the_table_compares_at_most_six(open_page):
    page = open_page()
    for i in range(7):
        page.locator("table.rows tbody input[type=checkbox]").nth(i).click()
    assert page.locator("table.rows tbody input:checked").count() == 6
    page.click("button:has-text('Compare 6')")
    assert page.locator("table.compare thead a").count() == 6
    page.uncheck("#only")
    assert page.locator("table.compare tbody th").all_inner_texts()[0] == "Title"
    page.click("table.compare thead button >> nth=0")
    assert page.locator("table.compare thead a").count() == 5


def test_a_click_in_the_graph_shows_neighbours_with_reasons(open_page, table):
    page = open_page("#view=graph")
    assert page.locator("circle.node").count() == 297
    page.locator('circle.node[aria-label^="K2,"]').click()
    side = page.locator(".picture .panel")
    side.locator("text=PMC-LLaMA").wait_for()
    want = table.neighbors("k2")
    assert side.locator("ol > li a").all_inner_texts() == [table[c.target].name for c in want][:30]
    assert "backbone LLaMA" in side.inner_text()
    page.check("#cross")
    until(page, "location.hash.includes('cross=1')")
    cross = table.neighbors("k2", cross_field=True)
    assert side.locator("ol > li a").all_inner_texts() == [table[c.target].name for c in cross]
    page.select_option("#lens", "lineage")
    turn_to(page, "#view=graph&lens=lineage&id=galactica")
    side.locator("text=derived from").first.wait_for()
    children = [e.name for e in table if "galactica" in e.derived_from]
    assert all(name in side.inner_text() for name in children)


def test_timeline_matrix_and_applications(open_page, table):
    page = open_page("#view=timeline")
    assert page.locator("svg.time circle").count() == 297
    page.select_option("#color", "fields")
    assert "physics and astronomy" in page.locator(".legend").inner_text()
    turn_to(page, "#view=matrix")
    page.wait_for_selector("td.heat a")
    counted = table.stats()["matrix"]["biology_medicine"]
    cell = page.locator('td.heat a[aria-label*="biology and medicine, 2.A"]')
    assert int(cell.inner_text()) == counted["2.A"]
    cell.click()
    page.wait_for_selector("#q")
    assert len(names(page)) == counted["2.A"]
    turn_to(page, "#view=applications")
    assert page.locator("tbody tr").count() == 40


def test_an_export_is_byte_for_byte_that_of_the_command_line(open_page, table, tmp_path):
    page = open_page()
    forms = [("CSV", "csv"), ("BibTeX", "bib"), ("JSON", "json")]
    for where, (button, ending) in itertools.product(("", "field:physics"), forms):
        turn_to(page, f"#where={where}")
        with page.expect_download() as download:
            page.click(f"text=Export {button}")
        got = tmp_path / f"page.{ending}"
        download.value.save_as(got)
        want = table.export(tmp_path / f"want.{ending}", table.filter(where).rows)
        assert got.read_bytes() == want.read_bytes()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "page.csv").read_text(encoding="utf-8"))))
    assert next(r for r in rows if r["id"] == "evil")["title"].startswith("'=cmd()")


def test_recommend_in_the_page_is_recommend_by_words(open_page, table):
    page = open_page("#view=recommend")
    page.press("#task", "Enter")
    assert "Say what the model is for" in page.locator("main").inner_text()
    page.fill("#task", "retrosynthesis")
    page.select_option("#r-use", "semievol")
    page.fill("#r-vram", "24")
    page.select_option("#r-method", "lora")
    page.press("#task", "Enter")
    page.wait_for_selector("ol.plain > li")
    found = page.locator("ol.plain > li code").all_inner_texts()
    everything = table.recommend("retrosynthesis", use="semievol", budget=_budget(24, "lora"), k=400)
    assert len(found) == 5
    assert set(found) <= {c.reference for c in everything.choices}
    for name in page.locator("ol.plain > li strong").all_inner_texts()[:2]:
        assert "retrosynthesis" in table[name].evaluation_tasks
    unknown = {e.id for e, _, _ in everything.unknown}
    listed = page.locator("details > ul.plain > li").count()
    assert listed == min(40, len(everything.unknown)) >= len(unknown) > 0


def _budget(gb, method):
    from evolvent.methods.atlas.budget import Budget

    return Budget(gb, method)


def test_a_phone_sees_everything_without_scrolling_sideways(open_page):
    views = ("table", "card&id=llasmol", "compare&compare=chemllm,llasmol", "graph&id=k2", "timeline", "matrix")
    for scheme in ("light", "dark"):
        page = open_page("", width=360, color_scheme=scheme)
        for view in (*views, "applications"):
            turn_to(page, f"#view={view}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
    turn_to(page, "#view=recommend")
    page.fill("#task", "protein design")
    page.press("#task", "Enter")
    page.wait_for_selector("ol.plain > li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    turn_to(page, "#")
    assert page.locator("details.facets").get_attribute("open") is None
    assert page.locator("table.rows tbody th a").first.is_visible()


def test_the_keyboard_alone_is_enough(open_page, table):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("retrosynthesis")
    until(page, "location.hash.includes('retrosynthesis')")
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        place = page.evaluate("document.activeElement.dataset.facet ?? document.activeElement.textContent")
        seen.add(place)
        if place == "weights:hub":
            break
    assert "field:chemistry_materials" in seen
    page.keyboard.press("Space")
    until(page, "location.hash.includes('weights')")
    assert page.evaluate("document.activeElement.dataset.facet") == "weights:hub"  # the focus stays where it was
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('tbody th') !== null"):
            break
    name = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector("dl.facts")
    assert page.locator("main h2").last.inner_text() == name
    assert page.evaluate("document.activeElement.id") == "content"
    turn_to(page, "#view=graph")
    page.wait_for_selector("circle.node")
    stops = page.locator('circle.node[tabindex="0"]')
    assert stops.count() == 1
    stops.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(table.entries[3].name)
    page.keyboard.press("Enter")
    until(page, f"location.hash.includes('id={table.entries[3].id}')")
    assert page.locator(".picture .panel h2").inner_text() == table.entries[3].name


def test_everything_that_can_be_focused_has_a_name_and_shows_its_focus(open_page):
    page = open_page()
    for view in ("table", "card&id=llasmol", "compare&compare=chemllm,llasmol", "graph", "timeline", "recommend"):
        turn_to(page, f"#view={view}")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('a[href], button, input, select, [tabindex="0"]')].filter((n) =>
              !(n.textContent.trim() || n.getAttribute('aria-label') || n.labels?.length)).map((n) => n.outerHTML)"""
        )
        assert nameless == []
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.real
def test_the_server_adds_search_by_meaning_on_this_machine_only(browser, tmp_path):
    atlas = Atlas.load(AtlasConfig(overlay_dir=tmp_path / "overlay"))
    server = make_server(atlas, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        page = browser.new_page()
        page.goto(f"{url}/#q=which+residues+touch+each+other&semantic=1")
        page.wait_for_selector("text=matched task: contact prediction")
        want = [h.entry.name for h in atlas.search("which residues touch each other", 100)]
        assert names(page) == want
        page.goto(f"{url}/#view=recommend")
        page.fill("#task", "answer questions about geology exams")
        page.press("#task", "Enter")
        page.wait_for_selector("ol.plain > li")
        assert page.locator("ol.plain > li strong").first.inner_text() in ("GeoGalactica", "K2", "JiuZhou")
        page.close()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"{url}/api/search?q=x&where=colour:red")
        other = urllib.request.Request(f"{url}/", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(other)
    finally:
        server.shutdown()
        server.server_close()


def test_every_script_is_part_of_the_page():
    from importlib import resources

    folder = resources.files("evolvent.methods.atlas").joinpath("templates")
    scripts = {p.name.removesuffix(".js") for p in folder.iterdir() if p.name.endswith(".js")}
    assert scripts == {*page_module.SCRIPTS, "minisearch"}
