"""The adapter of the list *Awesome Scientific Language Models*: its Markdown, line by line, into rows.

## FIELD
### SECTION        or   <h3 id="...">SECTION</h3>
- **(NAME)** _TITLE_ ```VENUE YEAR [Findings|Workshop]```
[[Paper](URL)] [[GitHub](URL)] [[Model (SIZE[, VARIANT])](URL)] ...
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from evolvent.errors import DataError
from evolvent.methods.atlas.vocabulary import must_be, parameter_count, slug, split_venue

FIELDS = {
    "General": "general",
    "Mathematics": "mathematics",
    "Physics": "physics",
    "Chemistry and Materials Science": "chemistry_materials",
    "Biology and Medicine": "biology_medicine",
    "Geography, Geology, and Environmental Science": "geoscience",
}
SECTIONS = {
    "Language": ("language",),
    "Graph-Enhanced": ("language", "graph"),
    "Language + Graph": ("language", "graph"),
    "Vision-Language": ("language", "vision"),
    "Language + Vision": ("language", "vision"),
    "Graph-Enhanced / Other Modalities (Molecule)": ("language", "graph", "molecule"),
}
SOURCE_COLUMNS = (
    "name", "aliases", "title", "year", "first_public", "venue", "venue_name", "venue_track", "venue_type", "fields",
    "modalities", "parameters", "n_params", "paper_url", "arxiv_id", "doi", "acl_id", "code_url", "model_url", "hf_id",
    "hf_ids", "checkpoints", "source_section", "source_order",
)  # fmt: skip

_BULLET = re.compile(r"^- \*\*\((?P<name>.+?)\)\*\*\s+_(?P<title>.+)_\s*(?:```(?P<venue>[^`]+)```)?\s*$")
_H3 = re.compile(r"^<h3[^>]*>(.+?)</h3>\s*$")
_LINK = re.compile(r"\[\[([^\[\]]+)\]\(((?:[^()\s]|\([^()]*\))*)\)\]")
_MODEL = re.compile(r"^Model(?: \(([^,()]+)(?:, ([^()]+))?\))?$")
_BADGE = re.compile(r"PaperNumber-(\d+)-")
_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})(?:v\d+)?(?:\.pdf)?$")
_PREPRINT_DAY = re.compile(r"(?:bio|med)rxiv\.org/content/10\.1101/(20\d\d)\.(\d\d)\.\d\d\.\d+")
_DOI_IN_LINK = re.compile(r"(10\.\d{4,9}/[^?#\s]+)")


@dataclass(frozen=True)
class ListEntry:
    """One bullet of the list.

    Attributes:
        printed: the name as the list prints it; keys: what identifies the paper.
        author: of "NAME, AUTHOR et al."; cells: the columns that the list gives; labels: of its links, as printed.
        problems: why it is a draft; empty for a complete entry.
    """

    line: int
    printed: str
    author: str | None
    cells: dict[str, Any]
    paper_key: str | None
    labels: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass
class Snapshot:
    """One revision of the list.

    Attributes:
        entries: complete ones and drafts, in order; bullets: lines that start an entry.
        problems: line number and what is wrong there; badge: the number of papers it claims, a hint only.
    """

    entries: list[ListEntry] = field(default_factory=list)
    bullets: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    badge: int | None = None
    digest: str = ""

    @property
    def complete(self) -> int:
        """Entries without a problem."""
        return sum(not e.problems for e in self.entries)

    @property
    def model_links(self) -> int:
        """Links to weights."""
        return sum(len(e.cells["checkpoints"]) for e in self.entries)

    @property
    def with_code(self) -> int:
        """Entries with a link that is labelled exactly GitHub; one labelled Github is read, but not counted."""
        return sum("GitHub" in e.labels for e in self.entries)


def parse_list(
    text: str,
    *,
    sections: Mapping[str, Sequence[str]] | None = None,
    min_parse: float = 0.9,
    year: int = 2025,
    force: bool = False,
) -> Snapshot:
    """Read one revision of the list.

    Args:
        text: the Markdown.
        sections: modalities of sections that this adapter does not know: "SECTION" -> modalities.
        min_parse: smallest share of bullets that must be complete.
        year: given to drafts whose venue, and so whose year, is missing.
        force: take whatever can be read.

    Raises:
        DataError: an unknown layout or section; says how much was understood and the first bad line.
    """
    known = {**SECTIONS, **{name: tuple(m) for name, m in (sections or {}).items()}}
    snapshot = Snapshot(digest=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12])
    lines = text.splitlines()
    badge = _BADGE.search("\n".join(line[:400] for line in lines[:200]))
    snapshot.badge = int(badge[1]) if badge else None
    science: str | None = None
    section: str | None = None
    for number, line in enumerate(lines, start=1):
        if line.startswith("## "):
            science, section = line[3:].strip(), None
            continue
        heading = line[4:].strip() if line.startswith("### ") else (m[1].strip() if (m := _H3.match(line)) else None)
        if heading is not None:
            section = heading
            continue
        if not line.startswith(("- ", "* ")):
            continue
        snapshot.bullets += 1
        match = _BULLET.match(line)
        modalities = _modalities(section, known)
        if match is None or science not in FIELDS or modalities is None:
            what = "no entry: expected - **(NAME)** _TITLE_ ```VENUE YEAR```"
            if match is not None:
                what = f"unknown field {science!r}" if science not in FIELDS else f"unknown section {section!r}"
            snapshot.problems.append((number, what))
            continue
        links = next((nxt for nxt in lines[number : number + 3] if nxt.startswith("[[")), "")
        order = len(snapshot.entries) + 1
        place = f"{science} / {section}"
        entry = _entry(number, match, links, FIELDS[science], modalities, place, order, year)
        snapshot.problems += [(number, problem) for problem in entry.problems]
        if entry.cells["paper_url"] is None:
            snapshot.problems.append((number, "no link at all"))
            continue
        snapshot.entries.append(entry)
    _require_layout(snapshot, min_parse, force)
    return snapshot


def _modalities(section: str | None, known: Mapping[str, Sequence[str]]) -> list[str] | None:
    if section is None:
        return None
    if section in known:
        return [must_be("modalities", m) for m in known[section]]
    other = re.fullmatch(r"Other Modalities \((.+)\)", section)
    if other is None:
        return None
    try:
        return [must_be("modalities", m) for m in other[1].split(", ")]
    except ValueError:
        return None


def _entry(
    line: int,
    match: re.Match[str],
    links: str,
    science: str,
    modalities: list[str],
    place: str,
    order: int,
    default_year: int,
) -> ListEntry:
    printed = match["name"].strip()
    name, aliases, author = _split_name(printed)
    problems = []
    paper: str | None = None
    code: str | None = None
    others: list[str] = []
    checkpoints: list[dict[str, Any]] = []
    found = _LINK.findall(links)
    for label, url in found:
        model = _MODEL.match(label)
        if not re.match(r"https?://[^\s/]+", url):
            problems.append(f"link {label!r} is no http(s) address")
        elif label.lower() == "paper":
            paper = paper or url
        elif label.lower() == "github":
            code = code or url
        elif model:
            try:
                checkpoints.append(_checkpoint(model, url))
            except ValueError as error:
                problems.append(f"link {label!r}: {error}")
        else:
            others.append(url)
            problems.append(f"unknown link label {label!r}")
    known = paper or next(iter([*others, code, *(c["url"] for c in checkpoints)]), None)
    ids = paper_ids(paper)
    try:
        venue = split_venue(match["venue"] or "")
    except ValueError:
        problems.append("no venue with a year" if not match["venue"] else f"venue {match['venue']!r} has no year")
        venue = ("unknown", int(f"20{ids['arxiv_id'][:2]}") if ids["arxiv_id"] else default_year, None, "preprint")
        printed_venue = f"unknown {venue[1]}"
    else:
        printed_venue = match["venue"].strip()
    if paper is None:
        problems.append("no paper link")
    sizes = list(dict.fromkeys(c["size"] for c in checkpoints if c["size"]))
    models = list(dict.fromkeys(c["hf_id"] for c in checkpoints if c["hf_type"] == "model"))
    cells = {
        "name": name,
        "aliases": aliases,
        "title": match["title"].strip(),
        "year": venue[1],
        "first_public": ids["first_public"],
        "venue": printed_venue,
        "venue_name": venue[0],
        "venue_track": venue[2],
        "venue_type": venue[3],
        "fields": [science],
        "modalities": modalities,
        "parameters": sizes,
        "n_params": sorted({n for n in map(parameter_count, sizes) if n is not None}),
        "paper_url": known,
        "arxiv_id": ids["arxiv_id"],
        "doi": ids["doi"],
        "acl_id": ids["acl_id"],
        "code_url": code,
        "model_url": checkpoints[0]["url"] if checkpoints else None,
        "hf_id": models[0] if models else None,
        "hf_ids": models,
        "checkpoints": checkpoints,
        "source_section": place,
        "source_order": order,
    }
    labels = tuple(label for label, _ in found)
    return ListEntry(line, printed, author, cells, paper_key(paper), labels, tuple(problems))


def _split_name(printed: str) -> tuple[str, list[str], str | None]:
    """Name, former names, author: "BlueBERT, f.k.a. NCBI-BERT", "ClinicalBERT, Huang et al."."""
    name, comma, rest = printed.partition(", ")
    if rest.startswith("f.k.a. "):
        return name, [rest.removeprefix("f.k.a. ")], None
    author = re.fullmatch(r"(.+) et al\.", rest)
    return (name, [], author[1]) if comma and author else (printed, [], None)


def _checkpoint(label: re.Match[str], url: str) -> dict[str, Any]:
    size, variant = label[1], label[2]
    if size is not None:
        try:
            n_params = parameter_count(size)
        except ValueError:
            if variant is not None:
                raise
            size, variant, n_params = None, size, None  # Model (VARIANT)
    else:
        n_params = None
    printed = ", ".join(part for part in (label[1], label[2]) if part) or None
    hub = hub_link(url)
    return {"label": printed, "size": size, "n_params": n_params, "variant": variant, "url": url, **hub}


def hub_link(url: str) -> dict[str, str | None]:
    """What a link means on the hub: repository, its kind, and the file in it."""
    parts = urlsplit(url)
    nothing: dict[str, str | None] = {"hf_id": None, "hf_type": None, "hf_file": None}
    if parts.hostname not in ("huggingface.co", "www.huggingface.co", "hf.co"):
        return nothing
    path = [unquote(p) for p in parts.path.split("/") if p]
    kind = "model"
    if path and path[0] in ("spaces", "datasets"):
        kind = path.pop(0).removesuffix("s")
    if len(path) < 2:
        return nothing
    in_repository = len(path) > 4 and path[2] in ("blob", "resolve", "raw")
    return {"hf_id": "/".join(path[:2]), "hf_type": kind, "hf_file": "/".join(path[4:]) if in_repository else None}


def paper_ids(url: str | None) -> dict[str, str | None]:
    """arXiv id, DOI, ACL id and month of first publication, as far as a paper link tells them."""
    found: dict[str, str | None] = {"arxiv_id": None, "doi": None, "acl_id": None, "first_public": None}
    if url is None:
        return found
    plain = url.rstrip("/")
    if match := _ARXIV.search(plain):
        found["arxiv_id"] = match[1]
        found["doi"] = f"10.48550/arXiv.{match[1]}"
        found["first_public"] = f"20{match[1][:2]}-{match[1][2:4]}"
    elif match := re.search(r"aclanthology\.org/([\w.-]+)$", plain):
        found["acl_id"] = match[1]
    elif match := re.search(r"nature\.com/articles/([\w.-]+)$", plain):
        found["doi"] = f"10.1038/{match[1]}"
    elif match := _DOI_IN_LINK.search(plain):
        found["doi"] = re.sub(r"(v\d+)?(\.full)?(\.pdf)?$", "", match[1]) if "rxiv.org" in plain else match[1]
    if match := _PREPRINT_DAY.search(plain):
        found["first_public"] = f"{match[1]}-{match[2]}"
    return found


def paper_key(url: str | None) -> str | None:
    """What identifies a paper: arXiv id, DOI, ACL id, else the normalised link."""
    if url is None:
        return None
    ids = paper_ids(url)
    named = next((f"{kind}:{ids[kind]}".lower() for kind in ("arxiv_id", "doi", "acl_id") if ids[kind]), None)
    return named or plain_link(url)


def plain_link(url: str) -> str:
    """A link without what does not matter: scheme, www, version of a preprint."""
    if match := _ARXIV.search(url.rstrip("/")):
        return f"arxiv.org/abs/{match[1]}"
    parts = urlsplit(url)
    return f"{(parts.hostname or '').removeprefix('www.')}{parts.path.rstrip('/')}".lower()


def new_id(entry: ListEntry, taken: set[str]) -> str:
    """A permanent id for a new row: the name's slug, with its author or a number where that is taken."""
    base = slug(entry.cells["name"]) or "model"
    if entry.author:
        base = f"{base}-{slug(entry.author)}"
    if base not in taken:
        return base
    return next(f"{base}-{n}" for n in range(2, len(taken) + 3) if f"{base}-{n}" not in taken)


def _require_layout(snapshot: Snapshot, min_parse: float, force: bool) -> None:
    understood = f"{snapshot.complete} of {snapshot.bullets} bullets were understood"
    first = f"; first problem: line {snapshot.problems[0][0]}: {snapshot.problems[0][1]}" if snapshot.problems else ""
    if not snapshot.entries:
        raise DataError(f"not the list's layout: {understood}{first}. Expected '## FIELD', '### SECTION' and bullets")
    unknown = sorted({what for _, what in snapshot.problems if what.startswith(("unknown field", "unknown section"))})
    if unknown and not force:
        names = "; ".join(unknown)
        raise DataError(f"{names}{first}. Say what a section holds with --map 'SECTION=modality,modality'")
    if snapshot.complete < min_parse * snapshot.bullets and not force:
        raise DataError(f"{understood}, less than {min_parse:.0%}{first}. --force takes what can be read")
