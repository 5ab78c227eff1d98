"""One game at a table: people and agents at any seats, talk included, saved after every move, to be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evolvent.data.files import write_json
from evolvent.errors import ConfigError, DataError
from evolvent.methods.strategist.agent import StrategistAgent
from evolvent.methods.strategist.belief import Belief
from evolvent.methods.strategist.belief_tables import BeliefTables
from evolvent.methods.strategist.dialogue.acts import Act, ActPolicy, heard, parse_act
from evolvent.methods.strategist.dialogue.spoken import guide_for, kind_of, listen, mean_evidence, speak
from evolvent.methods.strategist.games.avalon import Avalon
from evolvent.methods.strategist.games.avalon_rules import SERVANT, seats_of
from evolvent.methods.strategist.games.gops import Gops
from evolvent.methods.strategist.games.protocol import CHANCE, Action, Game, State, check_actions, draw_outcome
from evolvent.methods.strategist.games.rng import Stream, key_of
from evolvent.methods.strategist.proposers.llm import Writer
from evolvent.methods.strategist.search.in_step import AvalonSearcher
from evolvent.methods.strategist.skills.guide import ActGuide, Guide

TALK = 77  # purpose of the random stream of talk


class Table:
    """A game in progress.

    Args:
        game: the rules.
        agent: who plays every seat that no person has.
        people: seats of people.
        seed: of the deal, of chance and of the agents.
        save: file that is written after every move.
        tables: of the belief that agents have after talk.
        writer: a model that speaks and listens for the agents, by worksheets; None: typed acts.
        guides: by role, "good", "merlin", "evil"; None: the agent's own.

    A move of people is remembered until all who act have chosen; then all moves are made at once.
    """

    def __init__(
        self,
        game: Game,
        agent: StrategistAgent,
        people: frozenset[int] = frozenset(),
        *,
        seed: int = 0,
        save: Path | None = None,
        tables: BeliefTables | None = None,
        writer: Writer | None = None,
        guides: Mapping[str, Guide] | None = None,
    ) -> None:
        for seat in people:
            if not 0 <= seat < game.num_players:
                raise ConfigError(f"seat {seat}: {game.name} has seats 0 to {game.num_players - 1}")
        self.game, self.agent, self.people, self.seed, self.save = game, agent, people, seed, save
        self.writer, self.guides = writer, dict(agent.guides if guides is None else guides)
        self.unheard: list[tuple[int, str]] = []  # speeches of this round that listeners have not answered yet
        self.state: State = game.initial(key_of(seed, 0) >> 1)
        self.moves: list[Any] = []  # what people and agents did, in order: enough to come back here
        self.told: list[str] = []  # what happened, for everybody to read
        self.waiting: dict[int, Action] = {}  # people's moves that are not made yet
        self.public = Belief(game.role_set, tables) if isinstance(game, Avalon) else None
        agent.new_game()

    # --------------------------------------------------------------------------------------- what is asked

    @property
    def over(self) -> bool:
        """Whether the game is over."""
        return not self.game.actors(self.state)

    @property
    def speaker(self) -> int | None:
        """The person whose turn it is to speak."""
        speakers = self.game.speakers(self.state)
        return speakers[0] if speakers and speakers[0] in self.people else None

    @property
    def asked(self) -> tuple[int, ...]:
        """People who have to choose a move now."""
        if self.game.speakers(self.state):
            return ()
        return tuple(p for p in self.game.actors(self.state) if p in self.people and p not in self.waiting)

    def describe(self, action: Action) -> str:
        """A move in words."""
        phase = self.game.phase(self.state)
        if isinstance(self.game, Avalon):
            words = {"vote": ("reject", "approve"), "quest": ("fail", "success")}
            if phase in words:
                return words[phase][action]
            return "team " + " ".join(map(str, seats_of(action))) if phase == "propose" else f"player {action}"
        return f"card {action}" if isinstance(self.game, Gops) else str(action)

    # ----------------------------------------------------------------------------------------- what happens

    def move(self, player: int, action: Action) -> None:
        """A person's move.

        Raises:
            IllegalActionError: it is not his turn, or the rules forbid it; nothing changes.
        """
        legal = self.game.legal(self.state, player) if player in self.asked else ()
        if action not in legal:
            check_actions(self.game, self.state, {player: action})  # says what is wrong in the game's own words
            raise ConfigError(f"player {player} has chosen already; wait for the others")
        self.waiting[player] = action
        self._settle()

    def say(self, player: int, text: str) -> None:
        """A person speaks; a sentence in the form of a typed act is understood by the agents.

        Raises:
            IllegalActionError: it is not his turn to speak.
        """
        self._speak(player, " ".join(text.split())[:500])

    def advance(self) -> bool:
        """One step of chance or agents; False if it is a person's turn or the game is over."""
        if self.over or self.speaker is not None or self.asked:
            return False
        speakers = self.game.speakers(self.state)
        if speakers:
            self._speak(speakers[0], self._words_of(speakers[0]))
            return True
        actors = self.game.actors(self.state)
        if actors[:1] == (CHANCE,):
            drawn = draw_outcome(self.game, self.state, Stream(key_of(self.seed, len(self.moves), CHANCE)))
            self._apply({CHANCE: drawn})
            return True
        self._settle()
        return True

    def run(self) -> None:
        """Go on until a person is asked or the game is over."""
        while self.advance():
            pass

    def _settle(self) -> None:
        """Make all moves of this step once everybody has chosen."""
        if self.asked:
            return
        actors = self.game.actors(self.state)
        actions = {p: self.waiting[p] if p in self.waiting else self._chosen(p) for p in actors}
        self._apply(actions)

    def _chosen(self, player: int) -> Action:
        """The agent of a seat sees its own knowledge only: hidden parts are dealt anew by its search."""
        return self.agent.act(self.state, player, key_of(self.seed, len(self.moves)) >> 1)

    def _apply(self, actions: Mapping[int, Action]) -> None:
        told = self._words(actions)
        self.state = self.game.step(self.state, actions)
        if self.public is not None:
            self.public.observe(self.state.history)
        self.waiting = {}
        self._note({"actions": {str(p): a for p, a in actions.items()}}, told)

    def _words(self, actions: Mapping[int, Action]) -> str:
        phase = self.game.phase(self.state)
        if CHANCE in actions:
            return f"prize {actions[CHANCE]}" if isinstance(self.game, Gops) else f"drawn: {actions[CHANCE]}"
        if phase == "quest" and isinstance(self.game, Avalon):  # cards are secret
            return f"the quest: {sum(1 - a for a in actions.values())} fails"
        return "; ".join(f"player {p}: {self.describe(a)}" for p, a in actions.items())

    def _words_of(self, player: int) -> str:
        if self.writer is None:
            return str(self._act_of(player))
        assert isinstance(self.game, Avalon)
        assert self.public is not None
        guide, intention = guide_for(self.state.roles[player], self.guides), ""
        if player in self.game.actors(self.state):  # the leader
            intention = f"You intend to propose {self.describe(self._chosen(player))}."
        return speak(self.writer, self.game, self.state, player, guide, self.public, intention).speech[:500]

    def _act_of(self, player: int) -> Act:
        assert isinstance(self.game, Avalon)
        assert self.public is not None
        private = self.public.evil_probability(self.game.info(self.state, player))
        uniform = Stream(key_of(self.seed, len(self.moves), player, TALK)).uniform()
        guide = self.guides.get(kind_of(self.state.roles[player]))
        policy = guide.policy if isinstance(guide, ActGuide) else ActPolicy()
        return policy.choose(self.game, self.state, player, private, self.public.evil_probability(), uniform)

    def _speak(self, player: int, text: str, known: Mapping[int, float] | None = None) -> None:
        assert isinstance(self.game, Avalon)
        assert self.public is not None
        self.state = self.game.say(self.state, player, text)
        evidence = self._heard(player, text) if known is None else known
        self.public.talk(evidence)
        searcher = self.agent.searcher
        if isinstance(searcher, AvalonSearcher):
            searcher.belief(0).talk(evidence)
        self._note(
            {"speech": [player, text], "evidence": {str(p): e for p, e in evidence.items()}},
            f"player {player} says: {text}",
        )

    def _heard(self, player: int, text: str) -> Mapping[int, float]:
        """What the table makes of a speech: typed acts at once; with a model, its listeners after the whole round."""
        assert isinstance(self.game, Avalon)
        assert self.public is not None
        if self.writer is None:
            act = parse_act(text)
            return heard(act, player, self.public.evil_probability()) if act is not None else {}
        self.unheard.append((player, text))
        if self.game.speakers(self.state):
            return {}
        listeners = listen(self.writer, self.game, self.state, self.unheard)
        self.unheard = []
        roles = self.state.roles  # what Merlin or evil make of it would tell the whole table what they were dealt
        return mean_evidence([found for p, found in listeners.items() if roles[p] == SERVANT])

    # -------------------------------------------------------------------------------------------- storage

    def _note(self, move: Any, told: str) -> None:
        self.moves.append(move)
        self.told.append(told)
        if self.save is not None:
            file = {"game": self.game.name, "settings": dict(self.game.settings), "seed": self.seed,
                    "people": sorted(self.people), "moves": self.moves}  # fmt: skip
            write_json(self.save, file, indent=1)

    def resume(self, path: Path) -> None:
        """Come back to where a saved game was left.

        Raises:
            DataError: the file is of another game, or not a saved game.
        """
        try:
            stored = json.loads(path.read_text())
            same = {"game": self.game.name, "settings": json.loads(json.dumps(dict(self.game.settings)))}
            different = [k for k, v in same.items() if stored[k] != v]
            if different or stored["seed"] != self.seed or set(stored["people"]) != set(self.people):
                raise DataError(f"{path}: a game with other settings; give another file to play a new one")
            for move in stored["moves"]:
                if "speech" in move:
                    player, text = move["speech"]
                    self._speak(player, text, known={int(p): e for p, e in move["evidence"].items()})
                else:
                    self._apply({int(p): a for p, a in move["actions"].items()})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a saved game ({type(error).__name__}: {error})") from error

    def seen(self, viewer: int | None) -> dict[str, Any]:
        """What a viewer may see now, for a page: text, who is asked, and his moves.

        Args:
            viewer: a seat, or None for one who watches and sees all.
        """
        mine = viewer is not None and viewer in self.asked
        legal = self.game.legal(self.state, viewer) if viewer is not None and mine else ()
        beliefs: list[float] = []
        if self.public is not None:
            info: Any = self.game.info(self.state, viewer) if viewer is not None else None
            beliefs = [round(float(p), 3) for p in np.asarray(self.public.evil_probability(info))]
        return {
            "text": self.game.render(self.state, viewer),
            "told": self.told[-30:],
            "over": self.over,
            "returns": self.game.returns(self.state).tolist() if self.over else [],
            "phase": self.game.phase(self.state),
            "legal": [{"action": a, "words": self.describe(a)} for a in legal],
            "speak": viewer is not None and self.speaker == viewer,
            "evil": beliefs,
            "players": self.game.num_players,
            "step": len(self.moves) + len(self.waiting),
        }
