"""Filters in one line, the same in Python, on the command line and in the address of the web page.

    field:chemistry_materials params:<=8B weights:hub year:>=2023 type:2.A -status:withdrawn has:license

Conditions are joined by AND; commas inside a value mean OR; "-" before a key means NOT; values with spaces stand in
double quotes. A condition on a null cell is neither true nor false: the row is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evolvent.errors import ConfigError
from evolvent.methods.atlas.config import Unknown
from evolvent.methods.atlas.entry import COLUMNS, Entry
from evolvent.methods.atlas.vocabulary import key_of, must_be, nearest, parameter_count

Operator = Literal["=", "<=", ">=", "<", ">"]
_TOKEN = re.compile(r'(-?)(\w+):((?:"[^"]*"|[^\s"])+)')
_COMPARED = re.compile(r"^(<=|>=|<|>)(.+)$")

# Key -> column of the vocabulary that its values come from, and how to read it from a row (None: unknown).
_LISTS: dict[str, tuple[str | None, Callable[[Entry], Sequence[str] | None]]] = {
    "field": ("fields", lambda e: e.fields),
    "modality": ("modalities_ext", lambda e: e.all_modalities),
    "architecture": ("architecture", lambda e: e.architecture),
    "strategy": ("pretraining_strategy", lambda e: e.pretraining_strategy),
    "type": ("survey_type", lambda e: e.survey_type),
    "backbone": (None, lambda e: [*e.backbone, *e.backbone_parts] if e.backbone else None),
    "task": (None, lambda e: e.evaluation_tasks or None),
    "objective": (None, lambda e: e.pretraining_tasks or None),
    "data": (None, lambda e: e.pretraining_data or None),
    "language": (None, lambda e: e.languages),
    "venue": (None, lambda e: [e.venue, e.venue_name, e.venue_type]),
    "weights": (None, lambda e: [e.weights]),
    "code": (None, lambda e: ["yes" if e.code_url else "no"]),
    "status": (None, lambda e: [e.status]),
    "id": (None, lambda e: [e.id]),
    "license": (None, lambda e: [e.hub.license] if e.hub and e.hub.license else None),
}
_NUMBERS: dict[str, Callable[[Entry], Sequence[int] | None]] = {
    "params": lambda e: e.n_params or None,
    "year": lambda e: [e.year],
}
KEYS = (*_LISTS, *_NUMBERS, "has")


@dataclass(frozen=True)
class Condition:
    """One part of a filter.

    Attributes:
        key: of KEYS; operator: "=" or a comparison; values: joined by OR; negated: whether it must not hold.
    """

    key: str
    operator: Operator
    values: tuple[str, ...]
    negated: bool = False

    def holds(self, entry: Entry) -> bool | None:
        """Whether a row fits; None when the row's cell is null."""
        found = self._plain(entry)
        return None if found is None else found != self.negated

    def _plain(self, entry: Entry) -> bool | None:
        if self.key == "has":
            return all(getattr(entry, column) not in (None, [], {}) for column in self.values)
        if self.key in _NUMBERS:
            numbers = _NUMBERS[self.key](entry)
            if numbers is None:
                return None
            return any(_compare(n, self.operator, _number(self.key, v)) for n in numbers for v in self.values)
        cell = _LISTS[self.key][1](entry)
        if cell is None:
            return None
        if self.key == "weights" and "any" in self.values and cell != ["none"]:
            return True
        keys = {key_of(c) for c in cell}
        return any(key_of(v) in keys for v in self.values)


@dataclass
class Filtered:
    """Rows that fit, and rows of which a needed cell is null.

    Attributes:
        rows: in table order; unknown: (row, the conditions that met null).
    """

    rows: list[Entry] = field(default_factory=list)
    unknown: list[tuple[Entry, list[str]]] = field(default_factory=list)


def parse_where(text: str) -> list[Condition]:
    """Conditions of a filter line.

    Raises:
        ConfigError: an unknown key or value; names the nearest ones.
    """
    found = []
    rest = text
    for match in _TOKEN.finditer(text):
        rest = rest.replace(match[0], "", 1)
        found.append(condition(match[2], match[3].replace('"', ""), negated=bool(match[1])))
    if rest.strip():
        raise ConfigError(
            f"filter {text!r}: {rest.strip()[:60]!r} is no condition; write KEY:VALUE, for example year:>=2023"
        )
    return found


def condition(key: str, value: str, *, negated: bool = False) -> Condition:
    """One condition, with its values in the table's words.

    Raises:
        ConfigError: an unknown key or value.
    """
    key = key.lower()
    if key not in KEYS:
        near = nearest(key, KEYS) or list(KEYS)
        raise ConfigError(f"filter {key}:{value}: no key {key!r}; nearest: {', '.join(near)}")
    compared = _COMPARED.match(value)
    operator, said = (compared[1], compared[2]) if compared else ("=", value)
    values = tuple(v.strip() for v in said.split(",") if v.strip())
    if not values:
        raise ConfigError(f"filter {key}:{value}: no value")
    if key in _NUMBERS:
        for one in values:
            _number(key, one)
    elif operator != "=":
        raise ConfigError(f"filter {key}:{value}: only {', '.join(_NUMBERS)} can be compared")
    elif key == "has":
        for one in values:
            if one not in COLUMNS:
                raise ConfigError(f"filter has:{one}: no column; nearest: {', '.join(nearest(one, COLUMNS))}")
    elif (column := _LISTS[key][0]) is not None:
        try:
            values = tuple(must_be(column, v) for v in values)
        except ValueError as error:
            raise ConfigError(f"filter {key}:{value}: {error}") from error
    elif key == "weights" and not set(values) <= {"hub", "link", "none", "any"}:
        raise ConfigError(f"filter weights:{value}: give hub, link, none or any")
    return Condition(key, operator, values, negated)  # type: ignore[arg-type]  # one of the five


def conditions_from(**wanted: Any) -> list[Condition]:
    """Conditions of keyword arguments: `field="physics", modality=["language", "vision"], max_params="8B"`.

    A list of modalities must all be there; lists of other keys mean any of them; `year` may be (from, to), each None.

    Raises:
        ConfigError: an unknown key or value.
    """
    names = {"survey_type": "type", "pretraining_strategy": "strategy", "fields": "field", "modalities": "modality"}
    found: list[Condition] = []
    for given, value in wanted.items():
        if value is None:
            continue
        key = names.get(given, given)
        if key in ("max_params", "min_params"):
            found.append(condition("params", f"{'<=' if key == 'max_params' else '>='}{value}"))
        elif key == "year" and isinstance(value, tuple):
            bounds = zip((">=", "<="), value, strict=True)
            found += [condition("year", f"{op}{bound}") for op, bound in bounds if bound is not None]
        elif key == "modality" and not isinstance(value, str):
            found += [condition(key, v) for v in value]
        elif key == "code":
            found.append(condition(key, {True: "yes", False: "no"}.get(value, str(value))))
        else:
            found.append(condition(key, value if isinstance(value, str) else ",".join(map(str, _listed(value)))))
    return found


def apply(conditions: Sequence[Condition], entries: Iterable[Entry], unknown: Unknown = "list") -> Filtered:
    """Rows that fit all conditions.

    Args:
        unknown: what becomes of rows that meet null and fit otherwise: "list" them apart, "include" them in the rows,
            or "exclude" them (they are still counted in `unknown`).
    """
    found = Filtered()
    for entry in entries:
        answers = [(c, c.holds(entry)) for c in conditions]
        if any(answer is False for _, answer in answers):
            continue
        null = [f"{c.key} is unknown" for c, answer in answers if answer is None]
        if null:
            found.unknown.append((entry, null))
        if not null or unknown == "include":
            found.rows.append(entry)
    return found


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, Iterable) else [value]


def _number(key: str, text: str) -> int:
    try:
        if key == "year":
            return int(text)
        if text.isdecimal():
            return int(text)
        number = parameter_count(text.upper() if text[-1:] in "kmb" else canonical_size(text))
    except ValueError as error:
        raise ConfigError(f"filter {key}:{text}: {error}") from error
    if number is None:
        raise ConfigError(f"filter {key}:{text}: this label gives no number; write 47B, for example")
    return number


def canonical_size(text: str) -> str:
    """A size label in the table's case."""
    return text.capitalize() if text.lower() in ("base", "large") else text


def _compare(number: int, operator: str, bound: int) -> bool:
    return {
        "=": number == bound,
        "<=": number <= bound,
        ">=": number >= bound,
        "<": number < bound,
        ">": number > bound,
    }[operator]


__all__ = ["KEYS", "Condition", "Filtered", "apply", "condition", "conditions_from", "parse_where"]
