"""Reading facts: rows with their own prompts, triples with templates, CounterFact and zsRE files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolvent.data.readers import ReadReport, RowProblem, check_rejected, numbered_rows
from evolvent.data.records import Fact
from evolvent.errors import DataError

FactRows = str | Path | Sequence[Fact] | Iterable[Mapping[str, Any]]  # what methods take
Templates = Mapping[str, Mapping[str, Any]]  # relation -> {"prompt", "paraphrases", "question"}


class Facts(list[Fact]):
    """A list of facts with the report of how they were read."""

    report: ReadReport

    @property
    def digest(self) -> str:
        """SHA-256 over all facts, in order."""
        return facts_digest(self)


def facts_digest(facts: Sequence[Fact]) -> str:
    """SHA-256 over facts, in order."""
    hasher = hashlib.sha256()
    for fact in facts:
        hasher.update(fact.model_dump_json().encode())
    return hasher.hexdigest()


def read_facts(
    source: FactRows,
    *,
    templates: Templates | None = None,
    skip_bad_rows: bool = False,
    max_rejected_share: float = 0.2,
) -> Facts:
    """Read facts.

    Args:
        source: a .jsonl, .json, .csv, .tsv or .parquet file, a `datasets` folder or hub id, rows, or facts. A row is
            one of

            ====================  ======================================================================
            own prompt            ``subject``, ``prompt`` with one ``{}``, ``object``; optional ``id``,
                                  ``relation``, ``aliases``, ``paraphrases``, ``question``
            triple                ``subject``, ``relation``, ``object``; its prompt comes from `templates`
            CounterFact           ``requested_rewrite`` (target_true is the object), ``paraphrase_prompts``
            zsRE                  ``src``, ``subject``, ``answers``, ``rephrase``
            known_1000            ``subject``, ``prompt`` with the subject in it, ``attribute``
            ====================  ======================================================================
        templates: prompts of triples by ``relation``, or by ``source:relation`` when rows have a ``source``.
        skip_bad_rows: count bad rows instead of stopping at them, up to `max_rejected_share` of all.
        max_rejected_share: more bad rows than this are an error all the same.

    Equal rows are read once; a (subject, prompt) with several objects becomes one fact whose `aliases` hold the others.

    Raises:
        DataError: file, line, field and what was expected.
    """
    name = str(source) if isinstance(source, (str, Path)) else "rows"
    check_templates(templates or {}, "templates")
    given: list[tuple[int, Fact | Mapping[str, Any]]]
    given = list(numbered_rows(source)) if isinstance(source, (str, Path)) else list(enumerate(source, start=1))
    if not given:
        raise DataError(f"{name}: no rows")
    report = ReadReport(name)
    merged: dict[tuple[str, str], Fact] = {}
    for line, row in given:
        try:
            fact = row if isinstance(row, Fact) else _fact(dict(row), templates)
            _check(fact)
        except _BadFieldError as bad:
            report.rejected.append(RowProblem(name, line, bad.field, bad.expected, bad.got))
            continue
        key = (fact.subject, fact.prompt or "")
        same = merged.get(key)
        if same is None:
            merged[key] = fact
        else:
            others = dict.fromkeys([*same.aliases, fact.object, *fact.aliases])
            aliases = tuple(o for o in others if o != same.object)
            merged[key] = same.model_copy(update={"aliases": aliases})
    check_rejected(report, len(given), skip_bad_rows, max_rejected_share)
    facts = Facts(_with_unique_ids(merged.values()))
    report.rows = len(facts)
    facts.report = report
    return facts


def check_templates(templates: object, name: str) -> None:
    """Templates are an object of relation -> {"prompt", "paraphrases", "question"}.

    Raises:
        DataError: they are not; names `name` and the relation.
    """
    if not isinstance(templates, Mapping):
        raise DataError(f'{name}: expected an object of relation -> {{"prompt": ...}}, got {str(templates)[:60]!r}')
    for relation, template in templates.items():
        if not isinstance(template, Mapping) or not template.get("prompt"):
            raise DataError(f'{name}, relation {relation!r}: expected {{"prompt": ...}}, got {str(template)[:60]!r}')


class _BadFieldError(Exception):
    def __init__(self, field: str, expected: str, got: str) -> None:
        self.field, self.expected, self.got = field, expected, got


def _fact(row: dict[str, Any], templates: Templates | None) -> Fact:
    row = _known(_zsre(_counterfact(row)))
    relation = _text(row.get("relation"))
    found: Mapping[str, Any] = {}
    if row.get("prompt") is None:
        named = [f"{row.get('source')}:{relation}", relation]
        template = next((templates[n] for n in named if n in templates), None) if templates else None
        if template is None:
            raise _BadFieldError("prompt", "a prompt with {}, or a template of its relation", f"relation {relation!r}")
        found = template
        relation = next(n for n in named if templates and n in templates)
    subject, said = _text(row.get("subject")).strip(), _text(row.get("object")).strip()
    prompt = _text(row.get("prompt") or found.get("prompt"))
    name = _text(row.get("id")) or hashlib.sha256(f"{subject}\0{prompt}".encode()).hexdigest()[:12]
    used = {"id", "subject", "object", "prompt", "relation", "aliases", "paraphrases", "question"}
    return Fact(
        id=name,
        subject=subject,
        relation=relation,
        object=said,
        prompt=prompt,
        aliases=_texts(row.get("aliases"), "aliases"),
        paraphrases=_texts(row.get("paraphrases") or found.get("paraphrases"), "paraphrases"),
        question=_text(row.get("question") or found.get("question")) or None,
        meta={k: v for k, v in row.items() if k not in used},
    )


def _counterfact(row: dict[str, Any]) -> dict[str, Any]:
    rewrite = row.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        return row
    subject = str(rewrite.get("subject", ""))
    target = rewrite.get("target_true")
    reworded = _texts(row.get("paraphrase_prompts"), "paraphrase_prompts")
    return {
        "id": row.get("case_id", row.get("id")),
        "subject": subject,
        "prompt": rewrite.get("prompt"),
        "object": target.get("str") if isinstance(target, Mapping) else target,
        "relation": rewrite.get("relation_id", ""),
        "paraphrases": [p.replace(subject, "{}", 1) for p in reworded if subject in p],
    }


def _zsre(row: dict[str, Any]) -> dict[str, Any]:
    if "src" not in row or "answers" not in row:
        return row
    subject, asked = str(row.get("subject", "")), str(row["src"])
    answers = _texts(row["answers"], "answers") or ("",)
    rephrase = [str(row["rephrase"])] if row.get("rephrase") else []
    return {
        "id": row.get("id"),
        "subject": subject,
        "prompt": asked.replace(subject, "{}", 1) + " Answer:",
        "object": answers[0],
        "aliases": answers[1:],
        "paraphrases": [r.replace(subject, "{}", 1) + " Answer:" for r in rephrase if subject in r],
        "question": asked.replace(subject, "{}", 1),
    }


def _known(row: dict[str, Any]) -> dict[str, Any]:
    if "attribute" not in row or "known_id" not in row:
        return row
    subject = str(row.get("subject", ""))
    prompt = str(row.get("prompt", ""))
    return {
        "id": f"known:{row['known_id']}",
        "subject": subject,
        "prompt": prompt.replace(subject, "{}", 1),
        "object": row["attribute"],
        "relation": row.get("relation_id", ""),
    }


def _check(fact: Fact) -> None:
    for field, value in (("subject", fact.subject), ("object", fact.object)):
        if not value.strip():
            raise _BadFieldError(field, "a text", "nothing")
    if not all(alias.strip() for alias in fact.aliases):
        raise _BadFieldError("aliases", "texts that are not empty", repr(list(fact.aliases)))
    for field, values in (("prompt", (fact.prompt or "",)), ("paraphrases", fact.paraphrases)):
        for value in values:
            if value.count("{}") != 1:
                raise _BadFieldError(field, "exactly one {} for the subject", repr(value))
            if value.rstrip().endswith(fact.object) and not value.rstrip().endswith("{}"):
                raise _BadFieldError(field, "a text that ends where the object begins", repr(value))
    if fact.question is not None and fact.question.count("{}") != 1:
        raise _BadFieldError("question", "exactly one {} for the subject", repr(fact.question))


def _with_unique_ids(facts: Iterable[Fact]) -> list[Fact]:
    seen: dict[str, int] = {}
    unique = []
    for fact in facts:
        seen[fact.id] = seen.get(fact.id, 0) + 1
        again = seen[fact.id] > 1
        unique.append(fact.model_copy(update={"id": f"{fact.id}#{seen[fact.id]}"}) if again else fact)
    return unique


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _texts(value: Any, field: str) -> tuple[str, ...]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or value == "" or value != value:
        return ()
    if not isinstance(value, (list, tuple)):
        raise _BadFieldError(field, "a list of texts", repr(value)[:60])
    return tuple(str(v) for v in value)
