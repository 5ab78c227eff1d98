"""The Resistance: Avalon by the printed rules: the readable reference engine.

Discussion in seat order from the leader, the leader proposes a team, all vote at once and in public (strict majority),
the team plays secret cards of which only the number of fails is told. Good may only play success. Five rejections in a
row and evil wins; three fails and evil wins; three successes and the Assassin names Merlin or loses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolvent.errors import ConfigError
from evolvent.methods.strategist.games import compiled
from evolvent.methods.strategist.games.avalon_rules import (
    ASSASSIN,
    FIRST_EVIL,
    MERLIN,
    PERCIVAL,
    QUEST_SIZES,
    ROLES,
    RoleSet,
    seats_of,
    seen_by,
    teams,
)
from evolvent.methods.strategist.games.protocol import Action, Encoded, IllegalActionError, check_actions, check_whole
from evolvent.methods.strategist.games.rng import Stream, key_of

Fifth = Literal["evil_wins", "auto_approve"]
PROPOSE, VOTE, QUEST, ASSASSINATE, OVER = range(5)
PHASES = ("propose", "vote", "quest", "assassinate", "over")
GOOD, EVIL, NOBODY = 0, 1, -1
FAIL, SUCCESS = 0, 1
MAX_PLAYERS = 10


class Proposal(NamedTuple):
    """A leader proposed a team (mask of seats)."""

    leader: int
    team: int


class Ballot(NamedTuple):
    """All voted; `approvals` is the mask of those in favour."""

    approvals: int


class QuestResult(NamedTuple):
    """A team went on a quest and played so many fails."""

    team: int
    fails: int


class Speech(NamedTuple):
    """A player said something; the message is any hashable value."""

    player: int
    message: Any


class Assassination(NamedTuple):
    """The Assassin named a player."""

    target: int


class AvalonState(NamedTuple):
    """The table.

    Attributes:
        roles: of each seat, see `avalon_rules.ROLES`; the only hidden part.
        leader: who proposes.
        quest: 0 to 4.
        rejections: in a row.
        phase: see `PHASES`.
        team: mask of the proposed seats, 0 for none.
        approvals: mask of the last vote.
        fails: of each finished quest.
        winner: 0 good, 1 evil, -1 nobody yet.
        target: whom the Assassin named, -1 for nobody.
        spoken: speeches before the next proposal.
        history: every public event, in order.
    """

    roles: tuple[int, ...]
    leader: int
    quest: int = 0
    rejections: int = 0
    phase: int = PROPOSE
    team: int = 0
    approvals: int = 0
    fails: tuple[int, ...] = ()
    winner: int = NOBODY
    target: int = -1
    spoken: int = 0
    history: tuple[Any, ...] = ()


class AvalonInfo(NamedTuple):
    """What a player knows: his role, the seats he sees, and the table with its whole public history."""

    player: int
    role: int
    seen: int
    table: AvalonState  # with roles = ()


class Avalon:
    """Avalon for 5 to 10 players; see :class:`~evolvent.methods.strategist.games.protocol.Game`.

    Args:
        num_players: seats.
        roles: optional roles: percival, morgana, mordred, oberon; Merlin and the Assassin always play.
        fifth: what the fifth rejection in a row does: "evil_wins" (printed rule), or "auto_approve": the fifth team
            goes without a vote (official code).
        discussion_rounds: how often everyone speaks before a proposal.
        quest_sizes: another table of team sizes.

    Raises:
        ConfigError: a setting is out of bounds; names the limit.
    """

    name = "avalon"
    encoding: tuple[str, ...] = (
        *(f"role{seat}" for seat in range(MAX_PLAYERS)),
        *("leader", "quest", "rejections", "phase", "team", "approvals"),
        *(f"fails{quest}" for quest in range(5)),
        *("winner", "target"),
    )
    feature_names: tuple[str, ...] = (
        "quests_won",
        "quests_failed",
        "quest_lead",
        "rejections",
        "evil_on_team",
        "clean_team",
        "clean_quest",
        "doomed_quest",
        "good_leader",
        "clean_chance",
        "good_match_point",
        "evil_match_point",
        "assassination",
    )
    antisymmetric = False

    def __init__(
        self,
        num_players: int = 5,
        roles: Sequence[str] = (),
        fifth: Fifth = "evil_wins",
        discussion_rounds: int = 1,
        quest_sizes: Sequence[int] | None = None,
    ) -> None:
        check_whole("avalon: num_players", num_players)
        check_whole("avalon: discussion_rounds", discussion_rounds)
        if isinstance(roles, str) or not isinstance(roles, Sequence):
            raise ConfigError(f"avalon: roles must be a list such as [percival, morgana], got {roles!r}")
        self.role_set = RoleSet(num_players, roles)
        if fifth not in ("evil_wins", "auto_approve"):
            raise ConfigError(f"avalon: fifth must be 'evil_wins' or 'auto_approve', got {fifth!r}")
        if discussion_rounds < 0:
            raise ConfigError(f"avalon: discussion_rounds must be at least 0, got {discussion_rounds}")
        sizes = QUEST_SIZES[num_players] if quest_sizes is None else quest_sizes
        if not _are_sizes(sizes, num_players):
            raise ConfigError(f"avalon: quest_sizes must be five sizes of 1 to {num_players} players, got {sizes!r}")
        sizes = tuple(sizes)
        self.num_players, self.fifth, self.discussion_rounds = num_players, fifth, discussion_rounds
        self.quest_sizes = sizes
        self.fails_needed = (1, 1, 1, 2 if num_players >= 7 else 1, 1)
        self.settings: Mapping[str, Any] = {
            "num_players": num_players,
            "roles": list(roles),
            "fifth": fifth,
            "discussion_rounds": discussion_rounds,
            **({"quest_sizes": list(sizes)} if quest_sizes is not None else {}),
        }

    def kernels(self) -> Any | None:
        """The compiled rules, if numba is there."""
        return compiled.load("games.avalon_kernels")

    def initial(self, seed: int) -> AvalonState:
        """Deal the roles and choose the first leader."""
        stream = Stream(key_of(seed))
        roles = list(self.role_set.roles)
        for i in range(self.num_players - 1, 0, -1):
            j = stream.below(i + 1)
            roles[i], roles[j] = roles[j], roles[i]
        return AvalonState(tuple(roles), leader=stream.below(self.num_players))

    # ----------------------------------------------------------------------------------------------- rules

    def actors(self, state: AvalonState) -> tuple[int, ...]:
        """The leader, everyone, the team, or the Assassin."""
        if state.phase == PROPOSE:
            return (state.leader,)
        if state.phase == VOTE:
            return tuple(range(self.num_players))
        if state.phase == QUEST:
            return tuple(seats_of(state.team))
        return (state.roles.index(ASSASSIN),) if state.phase == ASSASSINATE else ()

    def phase(self, state: AvalonState) -> str:
        """Name of the phase."""
        return PHASES[state.phase]

    def legal(self, state: AvalonState, player: int) -> tuple[Action, ...]:
        """Team masks; 0 reject, 1 approve; 0 fail, 1 success; or seats that the Assassin may name."""
        if player not in self.actors(state):
            return ()
        if state.phase == PROPOSE:
            return teams(self.num_players, self.quest_sizes[state.quest])
        if state.phase == VOTE:
            return (0, 1)
        if state.phase == QUEST:
            return (FAIL, SUCCESS) if state.roles[player] >= FIRST_EVIL else (SUCCESS,)
        evil = seen_by(state.roles, player) | 1 << player
        return tuple(seat for seat in range(self.num_players) if not evil >> seat & 1)

    def chance(self, state: AvalonState) -> tuple[tuple[Action, float], ...]:
        """Nothing is drawn after the deal."""
        return ()

    def step(self, state: AvalonState, actions: Mapping[int, Action]) -> AvalonState:
        """The table after the actors acted."""
        check_actions(self, state, actions)
        if state.phase == PROPOSE:
            return self._propose(state, actions[state.leader])
        if state.phase == VOTE:
            return self._vote(state, sum(actions[player] << player for player in range(self.num_players)))
        if state.phase == QUEST:
            return self._quest(state, sum(card == FAIL for card in actions.values()))
        target = next(iter(actions.values()))
        return state._replace(
            phase=OVER,
            winner=EVIL if state.roles[target] == MERLIN else GOOD,
            target=target,
            history=(*state.history, Assassination(target)),
        )

    def _propose(self, state: AvalonState, team: int) -> AvalonState:
        history = (*state.history, Proposal(state.leader, team))
        forced = self.fifth == "auto_approve" and state.rejections == 4
        return state._replace(phase=QUEST if forced else VOTE, team=team, spoken=0, history=history)

    def _vote(self, state: AvalonState, approvals: int) -> AvalonState:
        state = state._replace(approvals=approvals, history=(*state.history, Ballot(approvals)))
        if 2 * approvals.bit_count() > self.num_players:
            return state._replace(phase=QUEST)
        rejections = state.rejections + 1
        if rejections == 5:
            return state._replace(phase=OVER, winner=EVIL, team=0, rejections=rejections)
        return state._replace(phase=PROPOSE, team=0, rejections=rejections, leader=self._after(state.leader))

    def _quest(self, state: AvalonState, fails: int) -> AvalonState:
        done = (*state.fails, fails)
        state = state._replace(
            fails=done,
            team=0,
            rejections=0,
            quest=state.quest + 1,
            leader=self._after(state.leader),
            history=(*state.history, QuestResult(state.team, fails)),
        )
        failed = sum(f >= needed for f, needed in zip(done, self.fails_needed, strict=False))
        if failed == 3:
            return state._replace(phase=OVER, winner=EVIL)
        return state._replace(phase=ASSASSINATE if len(done) - failed == 3 else PROPOSE)

    def _after(self, seat: int) -> int:
        return (seat + 1) % self.num_players

    def returns(self, state: AvalonState) -> NDArray[np.float64]:
        """1 for the winning side and -1 for the other."""
        if state.winner == NOBODY:
            return np.zeros(self.num_players)
        return np.array([1.0 if side == state.winner else -1.0 for side in self.teams(state)])

    def teams(self, state: AvalonState) -> tuple[int, ...]:
        """0 for good, 1 for evil."""
        return tuple(EVIL if role >= FIRST_EVIL else GOOD for role in state.roles)

    # ----------------------------------------------------------------------------------------- knowledge

    def info(self, state: AvalonState, player: int) -> AvalonInfo:
        """Own role, the seats one sees, and everything public."""
        return AvalonInfo(player, state.roles[player], seen_by(state.roles, player), state._replace(roles=()))

    def assignments(self, info: AvalonInfo) -> Sequence[tuple[int, ...]]:
        """Deals that agree with what the player was dealt; events are the belief's matter."""
        known = self.role_set.knowledge[:, info.player] == info.role | info.seen << 4
        return [tuple(int(role) for role in deal) for deal in self.role_set.assignments[known]]

    def complete(self, info: AvalonInfo, assignment: Sequence[int]) -> AvalonState:
        """The table with these roles."""
        return info.table._replace(roles=tuple(int(role) for role in assignment))

    def speakers(self, state: AvalonState) -> tuple[int, ...]:
        """From the leader round the table, `discussion_rounds` times, before a proposal."""
        if state.phase != PROPOSE:
            return ()
        order = [(state.leader + i) % self.num_players for i in range(self.num_players)] * self.discussion_rounds
        return tuple(order[state.spoken :])

    def say(self, state: AvalonState, player: int, message: Any) -> AvalonState:
        """The table after a speech.

        Raises:
            IllegalActionError: it is not this player's turn to speak.
        """
        if self.speakers(state)[:1] != (player,):
            raise IllegalActionError(player, "a speech", self.phase(state), ())
        return state._replace(spoken=state.spoken + 1, history=(*state.history, Speech(player, message)))

    # -------------------------------------------------------------------------------------------- arrays

    def encode(self, states: Sequence[AvalonState]) -> Encoded:
        """Roles, then the table; masks of seats as numbers, -1 for what is not there."""
        rows = [
            (
                *s.roles,
                *[-1] * (MAX_PLAYERS - self.num_players),
                *(s.leader, s.quest, s.rejections, s.phase, s.team, s.approvals),
                *s.fails,
                *[-1] * (5 - len(s.fails)),
                *(s.winner, s.target),
            )
            for s in states
        ]
        return np.array(rows, np.int16).reshape(len(rows), len(self.encoding))

    def decode(self, row: Sequence[int]) -> AvalonState:
        """The state of an encoded row, without its history."""
        values = [int(x) for x in row]
        leader, quest, rejections, phase, team, approvals = values[MAX_PLAYERS : MAX_PLAYERS + 6]
        fails = tuple(f for f in values[MAX_PLAYERS + 6 : MAX_PLAYERS + 11] if f >= 0)
        roles = tuple(values[: self.num_players])
        return AvalonState(roles, leader, quest, rejections, phase, team, approvals, fails, values[-2], values[-1])

    def view(self, row: Sequence[int]) -> dict[str, Any]:
        """The dict of `evaluate_state`."""
        state = self.decode(row)
        return {
            "players": list(range(self.num_players)),
            "turn": state.rejections,
            "phase": PHASES[state.phase],
            "round": state.quest,
            "leader": state.leader,
            "team": seats_of(state.team),
            "team_votes": [bool(state.approvals >> seat & 1) for seat in range(self.num_players)],
            "quest_results": [f < n for f, n in zip(state.fails, self.fails_needed, strict=False)],
            "num_good": self.num_players - self.role_set.num_evil,
            "quest_sizes": list(self.quest_sizes),
            "fails_needed": list(self.fails_needed),
            "roles": [ROLES[role] for role in state.roles],
            "is_good": [role < FIRST_EVIL for role in state.roles],
        }

    def features(self, encoded: Encoded) -> NDArray[np.float32]:
        """Quantities from the view of good, (states, 13)."""
        if kernels := self.kernels():
            found: NDArray[np.float32] = kernels.features(encoded, kernels.rules_of(self))
            return found
        rows = [self._features(self.decode(row)) for row in encoded]
        return np.array(rows, np.float32).reshape(len(rows), len(self.feature_names))

    def stage(self, encoded: Encoded) -> NDArray[np.int16]:
        """Quests left."""
        left: NDArray[np.int16] = 5 - encoded[:, MAX_PLAYERS + 1]
        return left

    def sides(self, encoded: Encoded) -> NDArray[np.float64]:
        """+1 for good, -1 for evil."""
        return np.where(encoded[:, : self.num_players] >= FIRST_EVIL, -1.0, 1.0)

    def _features(self, state: AvalonState) -> list[float]:
        failed = sum(f >= n for f, n in zip(state.fails, self.fails_needed, strict=False))
        won = len(state.fails) - failed
        evil_mask = sum(1 << seat for seat, role in enumerate(state.roles) if role >= FIRST_EVIL)
        evil = (state.team & evil_mask).bit_count()
        clean = state.team != 0 and evil == 0
        running = state.phase in (PROPOSE, VOTE, QUEST)
        chance = 0.0
        if running:
            chance, good = 1.0, self.num_players - self.role_set.num_evil
            for i in range(self.quest_sizes[state.quest]):
                chance *= (good - i) / (self.num_players - i)
        doomed = state.phase == QUEST and evil >= self.fails_needed[state.quest]
        leads = state.phase == PROPOSE and state.roles[state.leader] < FIRST_EVIL
        return [
            won,
            failed,
            won - failed,
            state.rejections,
            evil,
            clean,
            clean and state.phase == QUEST,
            doomed,
            leads,
            chance,
            running and won == 2,
            running and failed == 2,
            state.phase == ASSASSINATE,
        ]

    def render(self, state: AvalonState, viewer: int | None = None) -> str:
        """The table as text; a viewer is told his own role and whom he sees."""
        results = ["success" if f < n else "fail" for f, n in zip(state.fails, self.fails_needed, strict=False)]
        quests = ", ".join(
            f"{i + 1}: {r} ({f} fails)" for i, (r, f) in enumerate(zip(results, state.fails, strict=True))
        )
        lines = [f"quests {quests or 'none yet'}; phase {self.phase(state)}, leader {state.leader}"]
        if state.phase in (PROPOSE, VOTE, QUEST):
            size, needed = self.quest_sizes[state.quest], self.fails_needed[state.quest]
            lines.append(f"quest {state.quest + 1}: team of {size}, fails with {needed}; {state.rejections} rejected")
        if state.team:
            lines.append(f"team on the table: {_seats(state.team)}")
        if viewer is None or state.phase == OVER:
            lines.append("roles: " + ", ".join(f"{seat} {ROLES[role]}" for seat, role in enumerate(state.roles)))
        if viewer is not None and state.roles:
            role, seen = state.roles[viewer], seen_by(state.roles, viewer)
            what = "Merlin or Morgana:" if role == PERCIVAL else "evil you see:"
            lines.append(f"you are player {viewer}, {ROLES[role]}" + (f"; {what} {_seats(seen)}" if seen else ""))
        lines += [_told(event) for event in state.history[-12:]]
        return "\n".join(lines)


def _are_sizes(sizes: Any, players: int) -> bool:
    return (
        isinstance(sizes, Sequence)
        and len(sizes) == 5
        and all(isinstance(size, int) and 1 <= size <= players for size in sizes)
    )


def _seats(mask: int) -> str:
    return " ".join(map(str, seats_of(mask))) or "nobody"


def _told(event: Any) -> str:
    match event:
        case Proposal(leader, team):
            return f"- player {leader} proposed {_seats(team)}"
        case Ballot(approvals):
            return f"- in favour: {_seats(approvals)}"
        case QuestResult(team, fails):
            return f"- {_seats(team)} went on the quest: {fails} fails"
        case Speech(player, message):
            return f"- player {player}: {message}"
    return f"- the Assassin named player {event.target}"
