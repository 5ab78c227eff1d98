"""Playing: in the terminal, on the page in a real Chromium, with talk, saved and gone on with."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request

import pytest
from scripted import ScriptedModel

from evolvent import StrategistAgent, StrategistConfig, make_game
from evolvent.errors import ConfigError, DataError
from evolvent.methods.strategist import human
from evolvent.methods.strategist.games.protocol import IllegalActionError
from evolvent.methods.strategist.proposers.llm import Budget, Writer
from evolvent.methods.strategist.search.settings import SearchSettings
from evolvent.methods.strategist.table import Table
from evolvent.methods.strategist.web_table import make_server, page

GOPS = make_game("gops", num_cards=4)
AVALON = make_game("avalon", num_players=5)


def table(game=GOPS, people=(0,), **options) -> Table:
    agent = StrategistAgent(game, "rollout", SearchSettings(budget=4, move="visits"))
    return Table(game, agent, frozenset(people), **options)


def at_terminal(t: Table, lines: list[str]) -> list[str]:
    said, shown = iter(lines), []

    def read(prompt: str) -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    human.play(t, read, shown.append)
    return shown


def test_a_game_in_the_terminal_to_its_end_with_nonsense_on_the_way():
    shown = at_terminal(table(), ["?", "s", "seven", "0", "1", "1", "1", "1"])
    assert any("'seven' is not a move" in line for line in shown)
    assert shown[-1].startswith("result: player 0")


def test_leaving_saves_and_the_game_goes_on_where_it_was(tmp_path):
    path = tmp_path / "game.json"
    calm = table(seed=5)
    at_terminal(calm, ["1", "2", "1", "1"])
    left = table(seed=5, save=path)
    with pytest.raises(human.LeftTableError, match="saved"):
        at_terminal(left, ["1", "2", "q"])
    back = table(seed=5, save=path)
    back.resume(path)
    assert back.state == left.state
    at_terminal(back, ["1", "1"])
    assert back.state == calm.state
    with pytest.raises(human.LeftTableError):
        at_terminal(table(), [])
    path.write_text("{}")
    with pytest.raises(DataError, match="not a saved game"):
        table(seed=5).resume(path)


@pytest.mark.parametrize("people", [(0,), (4,), (1, 3)])
def test_people_sit_at_any_seats_of_avalon_and_see_only_their_own_role(people):
    t = table(AVALON, people, seed=2)
    for _ in range(200):
        t.run()
        if t.over:
            break
        if t.speaker is not None:
            seen = t.seen(t.speaker)
            assert "roles:" not in seen["text"]
            t.say(t.speaker, "I trust player 2.")
        else:
            player = t.asked[0]
            t.move(player, AVALON.legal(t.state, player)[0])
    assert t.over
    assert "roles:" in t.seen(people[0])["text"]


def test_what_is_said_moves_the_belief():
    t = table(AVALON, (0, 1, 2, 3, 4), seed=1)
    before = t.public.evil_probability()
    t.say(t.speaker, "I think player 4 is evil.")
    assert t.public.evil_probability()[4] > before[4]
    after = t.public.evil_probability()
    t.say(t.speaker, "The weather is fine.")
    assert (t.public.evil_probability() == after).all()


def test_a_model_can_speak_and_listen_for_the_agents(tmp_path):
    class Talker(ScriptedModel):
        def _answer(self, prompt):
            return 'He is honest. {"2": -2}' if "In this round of talk" in prompt else "I was good all along."

    model = Talker()
    writer = Writer(model, StrategistConfig(output_dir=tmp_path), Budget(None))
    t = table(AVALON, (), seed=1, writer=writer)
    while AVALON.speakers(t.state):
        t.advance()
    assert any("I was good all along." in line for line in t.told)
    intended = [asked for asked in model.asked if "You intend to propose team" in asked]
    assert len(intended) == 2, "the leader's worksheet holds what his search intends, and his speech the worksheet"
    assert all(f"You are player {t.state.leader}." in asked for asked in intended)
    assert t.public.evil_probability()[2] < 0.4
    roles = AVALON.render(t.state, None).partition("roles: ")[2]
    assert all(roles not in asked for asked in model.asked), "no prompt may hold the hidden roles"


def test_what_listeners_were_dealt_does_not_reach_the_table(tmp_path):
    class Knower(ScriptedModel):
        def _answer(self, prompt):
            knows = "In this round of talk" in prompt and ", servant." not in prompt
            return '{"0": 2, "1": 2}' if knows else "I have nothing to add. {}"

    t = table(AVALON, (), seed=1, writer=Writer(Knower(), StrategistConfig(output_dir=tmp_path), Budget(None)))
    before = t.public.evil_probability()
    while AVALON.speakers(t.state):
        t.advance()
    assert (t.public.evil_probability() == before).all()


def test_moves_out_of_turn_change_nothing():
    t = table(people=(0, 1), seed=3)
    t.run()
    state = t.state
    with pytest.raises(IllegalActionError):
        t.move(0, 9)
    t.move(0, 1)
    with pytest.raises((ConfigError, IllegalActionError)):
        t.move(0, 2)
    assert t.state == state
    t.move(1, 2)
    assert t.state != state
    with pytest.raises(ConfigError, match="seats 0 to 1"):
        table(people=(7,))


# ------------------------------------------------------------------------------------------------------------ the page


@pytest.fixture
def serving():
    servers = []

    def start(t: Table, viewer):
        server = make_server(t, viewer, 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def visit(browser):
    complaints, pages = [], []

    def go(url):
        opened = browser.new_page()
        opened.on("console", lambda m: complaints.append(m.text))
        opened.on("pageerror", lambda e: complaints.append(str(e)))
        opened.goto(url)
        opened.wait_for_selector("html[data-step]", state="attached")
        pages.append(opened)
        return opened

    yield go
    for opened in pages:
        opened.close()
    assert [c for c in complaints if "favicon" not in c and "404" not in c] == []


def test_a_person_plays_gops_on_the_page_to_the_end(serving, visit):
    t = table(seed=4)
    opened = visit(serving(t, 0))
    for _ in range(4):
        step = opened.get_attribute("html", "data-step")
        opened.click("#moves button >> nth=0")
        opened.wait_for_function("s => document.documentElement.dataset.step !== s", arg=step)
    assert opened.text_content("#moves").startswith("Over:")
    assert t.over


def test_a_person_talks_and_votes_in_avalon_on_the_page_and_markup_stays_text(serving, visit):
    t = table(AVALON, (3,), seed=2)
    opened = visit(serving(t, 3))
    assert "roles:" not in opened.text_content("#table")
    opened.fill("#words", "<img src=x onerror=alert(1)> I think player 1 is evil.")
    step = opened.get_attribute("html", "data-step")
    opened.click("#speech button")
    opened.wait_for_function("s => document.documentElement.dataset.step !== s", arg=step)
    assert opened.locator("#told img").count() == 0
    assert "<img src=x" in opened.text_content("#told")
    assert opened.locator("meter").count() == 5
    assert opened.locator("#moves button").count() >= 2


def test_one_who_watches_steps_the_game_forward(serving, visit):
    t = table(people=(), seed=4)
    opened = visit(serving(t, None))
    for _ in range(8):
        step = opened.get_attribute("html", "data-step")
        opened.click("text=Next")
        opened.wait_for_function("s => document.documentElement.dataset.step !== s", arg=step)
    assert t.over


def test_the_server_answers_only_its_own_page(serving):
    url = serving(table(seed=4), 0)

    def post(path, body, **headers):
        request = urllib.request.Request(
            url + path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        )
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    with pytest.raises(urllib.error.HTTPError, match="403"):
        post("api/move", {"action": 1}, Host="evil.example:80")
    with pytest.raises(urllib.error.HTTPError, match="400") as wrong:
        post("api/move", {"action": 77})
    assert "may not play 77" in wrong.value.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        post("api/move", {"action": 1}, **{"Content-Type": "text/plain"})
    for body, headers in ((float("inf"), {}), (1, {"Content-Length": "-1"}), (1, {"Content-Length": "x"})):
        with pytest.raises(urllib.error.HTTPError, match=r"40[04]"):
            post("api/move", {"action": body}, **headers)
    assert "default-src 'none'" in page(table(), 0).replace("&#39;", "'")
