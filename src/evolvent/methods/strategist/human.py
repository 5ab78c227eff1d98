"""A person at the terminal: numbers choose moves, nonsense is asked again, leaving saves the game."""

from __future__ import annotations

from collections.abc import Callable

from evolvent.errors import EvolventError
from evolvent.methods.strategist.table import Table

HELP = "number of a move; s to see the table again; q to leave (the game is saved)"


class LeftTableError(EvolventError):
    """The person left; the game can be gone on with."""

    exit_code = 0


def play(table: Table, read: Callable[[str], str], write: Callable[[str], None]) -> None:
    """Play until the game is over.

    Args:
        table: the game.
        read: asks for a line; may raise EOFError or KeyboardInterrupt.
        write: shows a text.

    Raises:
        LeftTableError: the person left before the end.
    """
    shown = 0
    while True:
        table.run()
        for line in table.told[shown:]:
            write(f"  {line}")
        shown = len(table.told)
        if table.over:
            write(table.game.render(table.state, None))
            result = table.game.returns(table.state)
            write("result: " + ", ".join(f"player {p} {value:+g}" for p, value in enumerate(result)))
            return
        player = table.speaker if table.speaker is not None else table.asked[0]
        write(f"\n{table.game.render(table.state, player)}")
        if table.speaker is not None:
            table.say(
                player,
                _line(read, f"player {player}, your speech (Enter: nothing to add): ") or "I have nothing to add.",
            )
        else:
            _ask(table, player, read, write)


def _ask(table: Table, player: int, read: Callable[[str], str], write: Callable[[str], None]) -> None:
    legal = table.game.legal(table.state, player)
    options = [f"{i}: {table.describe(action)}" for i, action in enumerate(legal, 1)]
    write("  ".join(options))
    while True:
        said = _line(read, f"player {player}, your move (? for help): ")
        if said == "?":
            write(HELP)
        elif said == "s":
            write(table.game.render(table.state, player))
        elif said == "q":
            raise LeftTableError(_left(table))
        elif said.isdecimal() and 1 <= int(said) <= len(legal):
            table.move(player, legal[int(said) - 1])
            return
        else:
            write(f"{said!r} is not a move: {HELP}")


def _line(read: Callable[[str], str], prompt: str) -> str:
    try:
        return read(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        raise LeftTableError(
            "you left the table; the same command with --save FILE goes on from where it was saved"
        ) from None


def _left(table: Table) -> str:
    where = (
        f"the game is saved in {table.save}; the same command goes on" if table.save else "without --save it is gone"
    )
    return f"you left the table: {where}"
