"""How likely each public event of Avalon is, fitted by counting on games whose roles are known.

Games come from self-play or from logs: JSONL of one game a line,
`{"n": 5, "roles": [...], "quests": [{"p": [[leader, team, approvers], ...], "team": [...], "fails": 0}], "target": 3}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evolvent.data.files import read_jsonl, write_json
from evolvent.errors import ConfigError, DataError
from evolvent.methods.strategist.games.avalon import AvalonState, Ballot, Proposal, QuestResult
from evolvent.methods.strategist.games.avalon_rules import EVIL, FIRST_EVIL, MERLIN, ROLES

By = Literal["side", "merlin", "role"]
CLASSES: dict[str, tuple[int, ...]] = {
    # class of each role, in the order of ROLES
    "side": tuple(int(role >= FIRST_EVIL) for role in range(len(ROLES))),
    "merlin": tuple(2 if role == MERLIN else int(role >= FIRST_EVIL) for role in range(len(ROLES))),
    "role": tuple(range(len(ROLES))),
}
MOST_EVIL = 4


@dataclass(frozen=True)
class GameRecord:
    """One finished game with its roles.

    Attributes:
        roles: of each seat.
        events: proposals, ballots and quest results in order.
        target: whom the Assassin named, -1 for nobody.
    """

    roles: tuple[int, ...]
    events: tuple[Any, ...]
    target: int = -1


@dataclass(frozen=True)
class BeliefTables:
    """Probabilities of events.

    Attributes:
        by: what an approval depends on besides the rest: the voter's side, his side with Merlin apart, or his role.
        fails: P(f fails | evil players on the team, quest), (quest, evil, fails).
        approve: P(approve | class, evil on the team, voter on the team, proposal, quest),
            (class, 2, 2, 5 proposals, 5 quests).
        games: how many games were counted.
    """

    by: By
    fails: NDArray[np.float64]
    approve: NDArray[np.float64]
    games: int

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        told = {"by": self.by, "games": self.games, "fails": self.fails.tolist(), "approve": self.approve.tolist()}
        return write_json(path, told)

    @classmethod
    def load(cls, path: str | Path) -> BeliefTables:
        """Read what `save` wrote.

        Raises:
            DataError: the file is not such a table.
        """
        try:
            told = json.loads(Path(path).read_text())
            tables = cls(told["by"], np.array(told["fails"]), np.array(told["approve"]), told["games"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a belief table written by fit-beliefs ({error})") from error
        classes = max(CLASSES.get(tables.by, (-1,))) + 1
        if tables.fails.shape != (5, MOST_EVIL + 1, MOST_EVIL + 1) or tables.approve.shape != (classes, 2, 2, 5, 5):
            raise DataError(f"{path}: tables of wrong shape {tables.fails.shape}, {tables.approve.shape}")
        return tables


def fit_tables(records: Iterable[GameRecord], *, by: By = "role", alpha: float = 1.0) -> BeliefTables:
    """Dirichlet-smoothed counts over games with known roles.

    The votes of a role are drawn towards those of its side, so that a role that the games do not have (logs often name
    no Assassin) votes like its side.

    Args:
        records: the games.
        by: see :class:`BeliefTables`.
        alpha: added to every count; the votes of a class have 2 alpha such votes of its side.

    Raises:
        ConfigError: no game, or alpha is not positive.
    """
    if alpha <= 0:
        raise ConfigError(
            f"fit-beliefs: alpha must be positive, got {alpha}: without smoothing, rare play is impossible"
        )
    fails = np.zeros((5, MOST_EVIL + 1, MOST_EVIL + 1))
    approvals = np.zeros((max(CLASSES[by]) + 1, 2, 2, 5, 5, 2))
    games = 0
    for record in records:
        games += 1
        evil = sum(1 << seat for seat, role in enumerate(record.roles) if role >= FIRST_EVIL)
        classes = np.array(CLASSES[by])[list(record.roles)]
        for event, team, proposal, quest in walk(record.events):
            if isinstance(event, QuestResult):
                fails[quest, (team & evil).bit_count(), event.fails] += 1
                continue
            seats = np.arange(len(record.roles))
            on_team, approved = team >> seats & 1, event.approvals >> seats & 1
            cell: Any = (classes, int(team & evil != 0), on_team, proposal, quest, approved)
            np.add.at(approvals, cell, 1)
    if not games:
        raise ConfigError("fit-beliefs: there is no game to count")
    possible = np.tril(np.ones((MOST_EVIL + 1, MOST_EVIL + 1)))  # no more fails than evil players
    smoothed = fails + alpha * possible
    approve = _smoothed_approval(approvals, by, alpha)
    return BeliefTables(by, smoothed / smoothed.sum(-1, keepdims=True), approve, games)


def _smoothed_approval(counts: NDArray[np.float64], by: By, alpha: float) -> NDArray[np.float64]:
    """P(approve) from counts (classes, ..., 2) of rejections and approvals."""
    side_of_class = np.zeros(len(counts), np.int64)
    side_of_class[list(CLASSES[by])] = CLASSES["side"]
    sides = np.stack([counts[side_of_class == side].sum(0) for side in (0, 1)])
    of_side = (sides[..., 1] + alpha) / (sides.sum(-1) + 2 * alpha)
    if by == "side":
        return np.asarray(of_side)
    return np.asarray((counts[..., 1] + 2 * alpha * of_side[side_of_class]) / (counts.sum(-1) + 2 * alpha))


def walk(events: Iterable[Any]) -> Iterator[tuple[Ballot | QuestResult, int, int, int]]:
    """Ballots and quest results with (team, number of the proposal in its quest, quest)."""
    team, proposal, quest = 0, -1, 0
    for event in events:
        if isinstance(event, Proposal):
            team, proposal = event.team, proposal + 1
        elif isinstance(event, Ballot):
            yield event, team, proposal, quest
        elif isinstance(event, QuestResult):
            yield event, event.team, proposal, quest
            proposal, quest = -1, quest + 1


# ------------------------------------------------------------------------------------------------------ logs


def record_of(state: AvalonState) -> GameRecord:
    """A finished game as a record; what was said is left out."""
    events = tuple(e for e in state.history if isinstance(e, Proposal | Ballot | QuestResult))
    return GameRecord(state.roles, events, state.target)


def read_logs(path: str | Path) -> Iterator[GameRecord]:
    """Games of a JSONL log.

    Raises:
        DataError: names file, line and field of what does not fit.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file; give a log of games, one JSON object a line")
    for number, row in read_jsonl(path):
        try:
            yield _record(row)
        except (KeyError, TypeError, ValueError) as error:
            what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}, line {number}: {what}") from error


def log_line(record: GameRecord) -> dict[str, Any]:
    """A record as a line of a log."""
    quests: list[dict[str, Any]] = [{"p": [], "team": None, "fails": 0}]
    leader = 0
    for event in record.events:
        if isinstance(event, Proposal):
            leader, team = event.leader, event.team
        elif isinstance(event, Ballot):
            quests[-1]["p"].append([leader, _seats(team), _seats(event.approvals)])
        elif isinstance(event, QuestResult):
            quests[-1].update(team=_seats(event.team), fails=event.fails)
            quests.append({"p": [], "team": None, "fails": 0})
    if not quests[-1]["p"]:
        quests.pop()
    roles = [ROLES[role] for role in record.roles]
    return {"n": len(roles), "roles": roles, "quests": quests, "target": record.target if record.target >= 0 else None}


def _record(row: dict[str, Any]) -> GameRecord:
    n = row["n"]
    if n not in EVIL:
        raise ValueError(f"field 'n': expected 5 to 10 players, got {n!r}")
    if not isinstance(row["roles"], list) or len(row["roles"]) != n or any(role not in ROLES for role in row["roles"]):
        raise ValueError(f"field 'roles': expected {n} of {', '.join(ROLES)}, got {row['roles']}")
    roles = tuple(ROLES.index(role) for role in row["roles"])
    evil = sum(1 << seat for seat, role in enumerate(roles) if role >= FIRST_EVIL)
    if evil.bit_count() > MOST_EVIL:
        raise ValueError(f"field 'roles': at most {MOST_EVIL} evil players, got {row['roles']}")
    events: list[Any] = []
    for quest in _listed(row["quests"], "quests", 5):
        for proposal in _listed(quest["p"], "p", 5):
            if not isinstance(proposal, list) or len(proposal) != 3:
                raise ValueError(f"field 'p': expected [leader, team, approvers], got {proposal}")
            leader, team, approvers = proposal
            _mask([leader], n, "leader")
            events += [Proposal(leader, _mask(team, n, "team")), Ballot(_mask(approvers, n, "approvers"))]
        if quest["team"] is not None:
            team, fails = _mask(quest["team"], n, "team"), quest["fails"]
            if not isinstance(fails, int) or not 0 <= fails <= (team & evil).bit_count():
                most = (team & evil).bit_count()
                raise ValueError(f"field 'fails': got {fails!r}, with {most} evil players on team {quest['team']}")
            events.append(QuestResult(team, fails))
    target = row.get("target")
    if target is not None:
        _mask([target], n, "target")
    return GameRecord(roles, tuple(events), -1 if target is None else target)


def _listed(found: Any, field: str, most: int) -> list[Any]:
    if not isinstance(found, list) or len(found) > most:
        got = f"{len(found)} of them" if isinstance(found, list) else repr(found)
        raise ValueError(f"field {field!r}: expected a list of at most {most}, got {got}")
    return found


def _mask(seats: Any, n: int, field: str) -> int:
    if not isinstance(seats, list) or not all(isinstance(seat, int) and 0 <= seat < n for seat in seats):
        raise ValueError(f"field {field!r}: expected seats 0 to {n - 1}, got {seats}")
    return sum(1 << seat for seat in set(seats))


def _seats(mask: int) -> list[int]:
    return [seat for seat in range(mask.bit_length()) if mask >> seat & 1]
