"""The report of a run: one HTML page that needs nothing else, for light and dark, screen and paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import jinja2

from evolvent.data.files import write_text


@dataclass
class Report:
    """A page that is put together section by section.

    Args:
        title: what was run.
        subtitle: one line on what came out of it.
        verdict: "good", "bad" or "neutral", which colours that line.

    Example:
        >>> page = Report("SemiEvol on news", "Accepted: 92.3 % after, 83.0 % before")
        >>> _ = page.facts({"model": "embedded"}).table("Results", ["variant", "accuracy"], [["SFT", "83.0"]])
    """

    title: str
    subtitle: str = ""
    verdict: Literal["good", "bad", "neutral"] = "neutral"
    sections: list[dict[str, Any]] = field(default_factory=list)

    def facts(self, facts: dict[str, Any], *, title: str = "") -> Self:
        """Names and values side by side."""
        self.sections.append({"kind": "facts", "title": title, "facts": {k: str(v) for k, v in facts.items()}})
        return self

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        caption: str = "",
        strong: int = -1,
    ) -> Self:
        """A table; cells that are numbers stand right-aligned; row `strong` is set off."""
        shown = [[("" if c is None else str(c)) for c in row] for row in rows]
        numeric = [all(_is_number(row[i]) for row in shown if row[i]) for i in range(len(columns))]
        self.sections.append(
            {
                "kind": "table",
                "title": title,
                "columns": list(columns),
                "rows": shown,
                "numeric": numeric,
                "caption": caption,
                "strong": strong,
            }
        )
        return self

    def figure(self, title: str, svg: str, caption: str = "", alt: str = "") -> Self:
        """An inline SVG; neighbouring figures share a row where the page is wide enough."""
        prefix = f"f{len(self.sections)}-"
        unique = re.sub(r'(\bid="|url\(#|xlink:href="#|href="#)', lambda m: m.group(1) + prefix, svg)
        unique = unique.replace("<svg ", f'<svg role="img" aria-label="{alt or title}" ', 1)
        self.sections.append({"kind": "figure", "title": title, "svg": unique, "caption": caption})
        return self

    def text(self, title: str, paragraphs: Sequence[str]) -> Self:
        """Plain paragraphs."""
        self.sections.append({"kind": "text", "title": title, "paragraphs": list(paragraphs)})
        return self

    def html(self) -> str:
        """The page."""
        source = resources.files("evolvent.runs").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
        template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
        return template.render(
            title=self.title, subtitle=self.subtitle, verdict=self.verdict, groups=_grouped(self.sections)
        )

    def markdown(self) -> str:
        """The words and tables of the page as Markdown."""
        blocks = [f"# {self.title}", self.subtitle]
        for section in self.sections:
            if section["title"] and section["kind"] != "figure":
                blocks.append(f"## {section['title']}")
            if section["kind"] == "facts":
                blocks.append("\n".join(f"- {name}: {value}" for name, value in section["facts"].items()))
            elif section["kind"] == "table":
                rule = ["---:" if numeric else "---" for numeric in section["numeric"]]
                rows = [section["columns"], rule, *section["rows"]]
                blocks += ["\n".join(f"| {' | '.join(row)} |" for row in rows), section["caption"]]
            elif section["kind"] == "text":
                blocks += section["paragraphs"]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the page, and its Markdown beside it."""
        write_text(Path(path).with_suffix(".md"), self.markdown())
        return write_text(path, self.html())


def _grouped(sections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of neighbouring figures as one group."""
    groups: list[dict[str, Any]] = []
    for section in sections:
        if section["kind"] == "figure" and groups and groups[-1]["kind"] == "figures":
            groups[-1]["figures"].append(section)
        elif section["kind"] == "figure":
            groups.append({"kind": "figures", "figures": [section]})
        else:
            groups.append(section)
    return groups


def _is_number(cell: str) -> bool:
    return bool(re.match(r"^[-+−<≤±]?\s?\d", cell)) or cell in ("-", "–")
