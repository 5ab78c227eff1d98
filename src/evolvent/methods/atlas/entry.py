"""One row of the table: what a model is, and where each fact about it comes from. null means unknown, never "no"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from evolvent.errors import DataError
from evolvent.methods.atlas.vocabulary import key_of, must_be, nearest, slug, split_venue

FieldOfScience = Literal["general", "mathematics", "physics", "chemistry_materials", "biology_medicine", "geoscience"]
Modality = Literal[
    "language", "graph", "vision", "table", "molecule", "protein", "dna", "rna", "multiomics", "climate_time_series"
]
WiderModality = Literal[
    "language", "graph", "vision", "table", "molecule", "protein", "dna", "rna", "multiomics", "climate_time_series",
    "crystal", "structure", "geolocation", "time_series", "ehr", "genomics",
]  # fmt: skip
Architecture = Literal[
    "encoder-only", "decoder-only", "encoder-decoder", "dual-encoder", "fusion-encoder", "encoder-llm", "prefix-lm",
    "permutation-lm", "recurrent-bilm", "grid-forecaster", "multimodal-other",
]  # fmt: skip
Strategy = Literal[
    "masked", "autoregressive", "contrastive", "alignment", "instruction-tuning", "preference-or-rl", "supervised"
]
SurveyType = Literal["1.A", "1.B", "1.C", "1.D", "2.A", "2.B", "2.C", "2.D", "3.A", "3.B", "3.C", "3.D"]
Provenance = Literal[
    "source", "survey-table", "survey-text", "source+survey-table", "rule", "known", "curation", "hub", "user", "draft"
]
Status = Literal["active", "withdrawn", "draft"]

CURATED = ("architecture", "backbone", "survey_type", "pretraining_strategy")  # filled only with a provenance
CHECKED = {"checked": True}  # context of validation: the rules between cells were checked when the file was made
RUN_TIME = ("status", "hub", "extra")  # not in the shipped file


def _listed(column: str) -> BeforeValidator:
    """Case and synonyms are accepted; anything else is refused with the nearest values."""

    def check(said: Any) -> Any:
        return must_be(column, said) if isinstance(said, str) else said

    return BeforeValidator(check)


Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+")]
HubId = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
Size = Annotated[int, Field(ge=10**3, le=10**13)]


class Checkpoint(BaseModel):
    """One link to weights.

    Attributes:
        label: as the list prints it; size: its size part; n_params: the number, None for labels such as "8x7B".
        variant: backbone or domain, where the label names one.
        url: the link; hf_id, hf_type and hf_file: what it is on the hub.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str | None = None
    size: str | None = None
    n_params: Size | None = None
    variant: str | None = None
    url: Url
    hf_id: HubId | None = None
    hf_type: Literal["model", "space", "dataset"] | None = None
    hf_file: str | None = None


class HubFacts(BaseModel):
    """What the hub said about one repository.

    Attributes:
        params: true number of parameters, from the safetensors header; sha: commit it was read at.
        checked_at: ISO time with zone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    license: str | None = None
    gated: bool | str | None = None
    downloads: int | None = None
    last_modified: str | None = None
    library: str | None = None
    params: int | None = None
    model_type: str | None = None
    sha: str | None = None
    checked_at: str


class Entry(BaseModel):
    """A scientific language model.

    Only `name`, `title`, `venue`, `fields`, `modalities` and `paper_url` must be given; id, year and the parts of the
    venue follow from them. A filled architecture, backbone, strategy or type needs a provenance: "user" for yours.

    Raises:
        pydantic.ValidationError: a cell breaks a rule; :func:`checked_entry` raises it as a DataError with its place.

    Example:
        >>> Entry(name="My Model", title="A model", venue="arXiv 2025", fields=["chemistry"], modalities=["text"],
        ...       paper_url="https://arxiv.org/abs/2501.00001", architecture=["BERT-like"],
        ...       provenance={"architecture": "user"}).architecture
        ['encoder-only']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    name: str = Field(min_length=1)
    aliases: list[str] = []
    title: str = Field(min_length=1)
    first_author: str | None = None
    year: int = Field(ge=2015, le=2100)
    first_public: Annotated[str, StringConstraints(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")] | None = None
    venue: str
    venue_name: str
    venue_track: Literal["Findings", "Workshop"] | None = None
    venue_type: Literal["conference", "journal", "preprint", "workshop"]
    fields: list[Annotated[FieldOfScience, _listed("fields")]] = Field(min_length=1)  # type: ignore[assignment]
    modalities: list[Annotated[Modality, _listed("modalities")]] = Field(min_length=1)
    modalities_ext: list[Annotated[WiderModality, _listed("modalities_ext")]] = []
    architecture: list[Annotated[Architecture, _listed("architecture")]] | None = None
    backbone: list[str] | None = None
    parameters: list[str] = []
    n_params: list[Size] = []
    pretraining_strategy: list[Annotated[Strategy, _listed("pretraining_strategy")]] | None = None
    survey_type: list[Annotated[SurveyType, _listed("survey_type")]] | None = None
    pretraining_data: list[str] = []
    pretraining_tasks: list[str] = []
    evaluation_tasks: list[str] = []
    languages: list[Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]] | None = None
    derived_from: list[str] = []
    succeeds: str | None = None
    paper_url: Url
    arxiv_id: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    doi: Annotated[str, StringConstraints(pattern=r"^10\.\d{4,9}/\S+$")] | None = None
    acl_id: str | None = None
    code_url: Url | None = None
    model_url: Url | None = None
    hf_id: HubId | None = None
    hf_ids: list[HubId] = []
    hf_ids_known: list[HubId] = []
    checkpoints: list[Checkpoint] = []
    source_section: str = "user"
    source_order: int = 0
    in_survey_tables: bool = False
    notes: list[str] = []
    provenance: dict[str, Provenance] = {}
    status: Status = "active"
    hub: HubFacts | None = None
    extra: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, cells: Any) -> Any:
        """Fill what follows from other cells: id from the name, year and venue parts from the venue."""
        if not isinstance(cells, Mapping) or {"id", "venue_type", "venue_name", "year"} <= cells.keys():
            return cells
        cells = dict(cells)
        if isinstance(cells.get("name"), str):
            cells.setdefault("id", slug(cells["name"]))
        if isinstance(cells.get("venue"), str):
            name, year, track, kind = split_venue(cells["venue"])
            derived = {"venue_name": name, "year": year, "venue_track": track, "venue_type": kind}
            cells = {**{k: v for k, v in derived.items() if v is not None}, **cells}
        return cells

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Self:
        if info.context is CHECKED:
            return self
        if str(self.year) not in self.venue:
            raise ValueError(f"year: {self.year} is not in the venue {self.venue!r}")
        for column in NULL_FOR_UNKNOWN:
            if getattr(self, column) == []:
                raise ValueError(f"{column}: an empty list; null means unknown")
        for column in WITHOUT_REPETITION:
            cell = getattr(self, column)
            if cell and len(set(cell)) != len(cell):
                raise ValueError(f"{column}: a value stands there twice")
        both = set(self.modalities_ext) & set(self.modalities)
        if both:
            raise ValueError(f"modalities_ext: {sorted(both)[0]!r} stands in modalities already")
        for column in CURATED:
            if getattr(self, column) is not None and column not in self.provenance:
                raise ValueError(f"{column}: filled without a provenance; add it to provenance, 'user' if you say so")
        unknown = self.provenance.keys() - COLUMNS
        if unknown:
            raise ValueError(f"provenance: {sorted(unknown)[0]!r} is no column")
        hub_ids = [self.hf_id, *self.hf_ids, *self.hf_ids_known, *(c.hf_id for c in self.checkpoints)]
        if any(".." in name for name in hub_ids if name):
            raise ValueError("hf_id, hf_ids, checkpoints: a hub id cannot hold '..'")
        if self.id in self.derived_from or self.succeeds == self.id:
            raise ValueError("derived_from, succeeds: a model cannot come from itself")
        return self

    # ------------------------------------------------------------------------------------------ what it has

    @property
    def all_modalities(self) -> list[str]:
        """Modalities of the section and further ones."""
        return [*self.modalities, *self.modalities_ext]

    @property
    def weights(self) -> Literal["hub", "link", "none"]:
        """Where weights are: a model repository on the hub, behind another link, or nowhere known."""
        if self.hf_ids_known or any(c.hf_id and c.hf_type == "model" for c in self.checkpoints):
            return "hub"
        return "link" if self.checkpoints or self.model_url else "none"

    @property
    def backbone_parts(self) -> list[str]:
        """Single models that the backbones are made of, without the mark for modifications."""
        parts = [p.strip().lstrip("~") for b in self.backbone or () for p in b.split(" + ")]
        return list(dict.fromkeys(parts))

    @property
    def month(self) -> str:
        """Month of first publication, else the year of the venue."""
        return self.first_public or f"{self.year}-12"

    def cells(self) -> dict[str, Any]:
        """The columns of the shipped table, as plain values in their order."""
        return self.model_dump(mode="json", exclude=set(RUN_TIME))

    def row(self) -> dict[str, Any]:
        """Every column that says something beyond the shipped table too."""
        run_time = self.model_dump(mode="json", include=set(RUN_TIME), exclude_none=True)
        return {**self.cells(), **({} if run_time == {"status": "active"} else run_time)}


COLUMNS: tuple[str, ...] = tuple(Entry.model_fields)
NULL_FOR_UNKNOWN = ("architecture", "backbone", "pretraining_strategy", "survey_type", "languages")
LISTS = tuple(c for c, f in Entry.model_fields.items() if "list[" in str(f.annotation) or c in NULL_FOR_UNKNOWN)
WITHOUT_REPETITION = tuple(c for c in LISTS if c != "checkpoints")


def checked_entry(cells: Mapping[str, Any], place: str) -> Entry:
    """A row out of plain values.

    Args:
        cells: column -> value.
        place: where they stand, for the error.

    Raises:
        DataError: names the place, each cell at fault and what is expected there.
    """
    try:
        return Entry.model_validate(dict(cells))
    except ValidationError as error:
        raise DataError("\n".join(f"{place}, {problem}" for problem in problems_of(error))) from error


def problems_of(error: ValidationError) -> list[str]:
    """Each problem of a validation as "cell: what is wrong"."""
    said = []
    for problem in error.errors():
        cell = ".".join(map(str, problem["loc"]))
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            near = nearest(cell, COLUMNS)
            what = "unknown column" + (f"; nearest: {', '.join(near)}" if near else "")
        elif problem["type"] != "missing" and problem["type"] != "value_error":
            what += f", got {str(problem['input'])[:60]!r}"
        said.append(f"{cell}: {what}" if cell else what)
    return said


def table_problems(entries: Sequence[Entry]) -> list[str]:
    """What is wrong between rows: repeated ids, links to nowhere, circles."""
    problems = []
    ids: set[str] = set()
    for entry in entries:
        if entry.id in ids:
            problems.append(f"row {entry.id}, id: stands in the table twice")
        ids.add(entry.id)
    parents = {}
    for entry in entries:
        named = [*entry.derived_from, *([entry.succeeds] if entry.succeeds else [])]
        parents[entry.id] = named
        for other in named:
            if other not in ids:
                near = nearest(other, ids)
                hint = f"; nearest: {', '.join(near)}" if near else ""
                problems.append(f"row {entry.id}, derived_from or succeeds: no row {other!r}{hint}")
    state: dict[str, int] = {}  # 1: on the path, 2: done

    def visit(name: str) -> bool:
        if state.get(name):
            return state[name] == 1
        state[name] = 1
        circle = any(visit(p) for p in parents.get(name, ()))
        state[name] = 2
        return circle

    problems += [f"row {e.id}, derived_from or succeeds: goes round in a circle" for e in entries if visit(e.id)]
    return problems


def spelling_warnings(entry: Entry, table: Iterable[Entry]) -> list[str]:
    """Backbones, tasks and data sets that the table does not know, with the nearest known spelling."""
    warnings = []
    rows = list(table)
    for column in ("backbone", "evaluation_tasks", "pretraining_tasks", "pretraining_data"):
        known = {v for row in rows if row.id != entry.id for v in (getattr(row, column) or ())}
        by_key = {key_of(v): v for v in sorted(known)}
        for said in getattr(entry, column) or ():
            if said in known:
                continue
            near = [by_key[key_of(said)]] if key_of(said) in by_key else nearest(said, sorted(known), limit=1)
            hint = f"; nearest known: {near[0]}" if near else ""
            warnings.append(f"row {entry.id}, {column}: {said!r} is new to the table{hint}")
    return warnings


def by_id(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Rows by their id."""
    return {e.id: e for e in entries}


def read_entries(text: str, place: str, *, checked: bool = False) -> list[Entry]:
    """Rows of a table file, one JSON object a line.

    Args:
        text: of the file.
        place: what to call it in errors.
        checked: the file is one of ours, whose rules between cells need not be checked again.

    Raises:
        DataError: names place, line and cell.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            if line.strip():
                found.append(Entry.model_validate_json(line, context=CHECKED if checked else None))
        except ValidationError as error:
            raise DataError("\n".join(f"{place}, line {number}, {p}" for p in problems_of(error))) from error
    return found
