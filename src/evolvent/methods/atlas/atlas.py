"""Atlas: the field guide to scientific language models, a table with an engine around it.

Zhang et al., "A Comprehensive Survey of Scientific Large Language Models and Their Applications in Scientific
Discovery", EMNLP 2024, and its list. A row is a model, a cell a fact with its source; null means unknown, never "no".
"""

from __future__ import annotations

import hashlib
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas.budget import Budget
from evolvent.methods.atlas.config import AtlasConfig, Unknown
from evolvent.methods.atlas.entry import (
    COLUMNS,
    CURATED,
    Entry,
    HubFacts,
    Provenance,
    Status,
    by_id,
    checked_entry,
    read_entries,
    spelling_warnings,
    table_problems,
)
from evolvent.methods.atlas.overlay import Action, Change, Overlay
from evolvent.methods.atlas.vocabulary import nearest, read_table, source, split_venue
from evolvent.methods.atlas.where import Condition, Filtered, apply, conditions_from, parse_where

if TYPE_CHECKING:
    from evolvent.methods.atlas.artefacts import Artefact
    from evolvent.methods.atlas.graph import Connection, View
    from evolvent.methods.atlas.hub import Finding, OnProgress
    from evolvent.methods.atlas.loading import LoadedModel
    from evolvent.methods.atlas.merge import MergeReport
    from evolvent.methods.atlas.recommend import Recommendation
    from evolvent.methods.atlas.search import Hits, Mode, SearchEngine
    from evolvent.methods.atlas.source_list import Snapshot
    from evolvent.methods.atlas.views import Comparison, Slice

logger = logging.getLogger(__name__)
MODELS = "models.jsonl"


class Atlas:
    """The table with everything that can be asked of it. Open it with :meth:`load`.

    Attributes:
        args: settings; entries: the rows, yours included.

    Example:
        >>> atlas = Atlas.load(AtlasConfig(overlay_dir="no-overlay"))
        >>> atlas["scibert"].venue
        'EMNLP 2019'
        >>> [e.id for e in atlas.filter(field="physics", weights="hub").rows][:2]
        ['astrobert', 'astrollama']
    """

    def __init__(self, bundled: Sequence[Entry], digest: str, args: AtlasConfig) -> None:
        self.args = args
        name = "bundled" if args.data_dir is None else str(args.data_dir.resolve())
        self.overlay = Overlay(args.overlay_dir, args.user, args.lock_timeout_s, name)
        self._bundled = list(bundled)
        self._digest = digest
        self._set(self.overlay.table(self._bundled, digest))

    @classmethod
    def load(cls, args: AtlasConfig | None = None) -> Atlas:
        """The bundled table, or that of `args.data_dir`, with the user's overlay; imports no torch.

        Raises:
            DataError: a file of the table or of the overlay cannot be used; ConfigError: no such folder.
        """
        args = args or AtlasConfig.read()
        if args.data_dir is None:
            text = read_table(MODELS)
            return cls(read_entries(text, MODELS, checked=True), _digest(text), args)
        if not args.data_dir.is_dir():
            raise ConfigError(f"{args.data_dir}: no such folder (data_dir)")
        path = args.data_dir / MODELS
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        entries = read_entries(text, str(path))
        problems = table_problems(entries)
        if problems:
            raise DataError("\n".join(f"{path}, {p}" for p in problems))
        return cls(entries, _digest(text), args)

    def _set(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        self._by_id = by_id(entries)
        for name in ("engine", "_similar"):
            self.__dict__.pop(name, None)

    def reload(self) -> None:
        """Take in what other processes changed."""
        self._set(self.overlay.table(self._bundled, self._digest))

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self._by_id

    def __getitem__(self, name: str) -> Entry:
        """A row by id, or by a name or alias that only one row has.

        Raises:
            DataError: no such row, or several; names them.
        """
        if name in self._by_id:
            return self._by_id[name]
        wanted = name.strip().lower()
        named = [e for e in self.entries if wanted in (e.name.lower(), *(a.lower() for a in e.aliases))]
        if len(named) == 1:
            return named[0]
        if named:
            raise DataError(f"{name!r} is the name of several models: {', '.join(e.id for e in named)}")
        near = nearest(name, self._by_id)
        raise DataError(f"no model {name!r}" + (f"; nearest: {', '.join(near)}" if near else ""))

    # ------------------------------------------------------------------------------------------ find

    def filter(
        self,
        where: str | Sequence[Condition] | None = None,
        *,
        unknown: Unknown | None = None,
        **wanted: Any,
    ) -> Filtered:
        """Rows that fit, and those of which a needed cell is null.

        Args:
            where: conditions as one line, see :mod:`evolvent.methods.atlas.where`.
            unknown: "exclude", "list" or "include" rows whose cell is null; default as the settings say.
            wanted: field, modality (a list: all of them), architecture, backbone, strategy, survey_type, task, data,
                max_params, min_params, year (number or (from, to)), weights, code, venue, language, status, license.

        Raises:
            ConfigError: an unknown key or value.
        """
        if unknown not in (None, "exclude", "list", "include"):
            raise ConfigError(f"unknown={unknown!r}: give exclude, list or include")
        conditions = parse_where(where) if isinstance(where, str) else list(where or ())
        return apply([*conditions, *conditions_from(**wanted)], self.entries, unknown or self.args.unknown)

    @cached_property
    def engine(self) -> SearchEngine:
        """Search over the rows."""
        from evolvent.methods.atlas.search import SearchEngine

        return SearchEngine(self.entries, self.args)

    def search(self, query: str, k: int = 10, mode: Mode = "auto", where: str | None = None) -> Hits:
        """The k best rows for a query in your own words; see :meth:`SearchEngine.search`."""
        among = None if where is None else [e.id for e in self.filter(where).rows]
        return self.engine.search(query, k, mode, among)

    def recommend(
        self,
        task: str,
        *,
        field: str | None = None,
        modalities: Sequence[str] = (),
        use: str | None = None,
        budget: Budget | None = None,
        languages: Sequence[str] = (),
        weights: str = "hub",
        k: int = 5,
    ) -> Recommendation:
        """Which model to start from; see :func:`evolvent.methods.atlas.recommend.recommend`."""
        from evolvent.methods.atlas.recommend import recommend

        return recommend(
            self.engine,
            task,
            science=field,
            modalities=modalities,
            use=use,
            budget=budget,
            languages=languages,
            weights=weights,
            k=k,
        )

    # ------------------------------------------------------------------------------------------ look

    def compare(self, names: Sequence[str]) -> Comparison:
        """Two to six models side by side."""
        from evolvent.methods.atlas.views import compare

        return compare([self[name] for name in names])

    def by(self, field: str | None = None, modality: str | None = None) -> Slice:
        """Rows of a field and modality, with their data sets, tasks and benchmarks."""
        from evolvent.methods.atlas.views import Slice

        return Slice(tuple(self.filter(field=field, modality=modality).rows))

    def timeline(self, color: str = "survey_type") -> list[dict[str, Any]]:
        """Models by month; see :func:`evolvent.methods.atlas.views.timeline`."""
        from evolvent.methods.atlas.views import timeline

        return timeline(self.entries, color)

    def stats(self) -> dict[str, Any]:
        """The table in numbers."""
        from evolvent.methods.atlas.views import stats

        return stats(self.entries)

    def applications(self, *, stage: str | None = None, field: str | None = None) -> list[dict[str, Any]]:
        """Applications in scientific discovery that the survey names."""
        from evolvent.methods.atlas.views import applications

        return applications(stage=stage, field=field)

    # ------------------------------------------------------------------------------------------ graph

    def graph(self, view: View = "similar", k: int | None = None) -> Any:
        """A networkx graph: "similar", "hub" or "lineage"; see :mod:`evolvent.methods.atlas.graph`.

        Raises:
            ConfigError: another view.
        """
        from evolvent.methods.atlas import graph

        if view == "similar":
            return graph.similar_graph(self.entries, k or self.args.graph_k)
        if view == "hub":
            return graph.hub_graph(self.entries)
        if view == "lineage":
            return graph.lineage_graph(self.entries, [a.row() for a in self.artefacts()])
        raise ConfigError(f"graph {view!r}: give similar, hub or lineage")

    @cached_property
    def _similar(self) -> Any:
        return self.graph("similar")

    def neighbors(self, name: str, *, cross_field: bool = False) -> list[Connection]:
        """What a model is similar to and why, nearest first."""
        from evolvent.methods.atlas.graph import neighbors

        return neighbors(self._similar, self._by_id, self[name].id, cross_field=cross_field)

    def bridges(self, first: str, second: str, k: int = 10) -> list[Connection]:
        """The strongest connections between two fields."""
        from evolvent.methods.atlas.graph import bridges
        from evolvent.methods.atlas.vocabulary import must_be

        try:
            fields = must_be("fields", first), must_be("fields", second)
        except ValueError as error:
            raise ConfigError(f"bridges: {error}") from error
        return bridges(self.entries, *fields, limit=k)

    def path(self, source: str, target: str) -> list[Connection]:
        """The way from one model to another over similar ones."""
        from evolvent.methods.atlas.graph import path

        return path(self._similar, self[source].id, self[target].id)

    # ------------------------------------------------------------------------------------------ take out

    def export(
        self,
        path: str | Path,
        entries: Sequence[Entry] | None = None,
        form: str | None = None,
        view: View = "similar",
    ) -> Path:
        """Write rows; the ending tells the form. GraphML and GEXF hold a graph of exactly these rows."""
        from evolvent.methods.atlas.exports import citation_keys, export, form_of

        chosen = self.entries if entries is None else list(entries)
        graph = None
        if form_of(Path(path), form) in ("graphml", "gexf"):
            graph = self.graph(view)
            if entries is not None:
                kept = {e.id for e in chosen}
                graph = graph.subgraph([n for n, d in graph.nodes(data=True) if d.get("kind") != "model" or n in kept])
        return export(path, chosen, form, graph, citation_keys(self.entries))

    def cite(self, name: str) -> str:
        """BibTeX of one model."""
        from evolvent.methods.atlas.exports import bibtex_entry, citation_keys

        entry = self[name]
        return bibtex_entry(entry, citation_keys(self.entries)[entry.id])

    # ------------------------------------------------------------------------------------------ change

    def add(self, entry: Entry | Mapping[str, Any], *, status: Status | None = None) -> Entry:
        """Add a row; curated cells of plain values are signed "user".

        Raises:
            DataError: a rule is broken, or the id is taken.
        """
        if not isinstance(entry, Entry):
            cells = dict(entry)
            signed = {c: "user" for c in CURATED if cells.get(c) is not None}
            entry = checked_entry({**cells, "provenance": signed | (cells.get("provenance") or {})}, "new row")
        made = entry.model_copy(update={"status": status}) if status else entry

        def changes(table: list[Entry]) -> list[Change]:
            if made.id in {e.id for e in table}:
                raise DataError(f"row {made.id}, id: taken; choose another, or edit that row")
            self._require_links([*table, made])
            return [Change(made.id, "*", None, made.row())]

        self._commit("add", changes)
        for warning in spelling_warnings(made, self.entries):
            logger.warning("%s", warning)
        return self[made.id]

    def edit(self, name: str, **cells: Any) -> Entry:
        """Change cells of a row and sign them "user"; a new venue brings its name, year, track and type.

        Raises:
            DataError: no such row, or a rule is broken; names the cell.
        """
        entry = self[name]
        for column in cells:
            if column not in COLUMNS or column in ("id", "provenance"):
                near = nearest(column, COLUMNS)
                raise DataError(f"row {entry.id}, {column}: cannot be edited; nearest: {', '.join(near)}")
        if isinstance(cells.get("venue"), str):
            try:
                derived = zip(
                    ("venue_name", "year", "venue_track", "venue_type"), split_venue(cells["venue"]), strict=True
                )
            except ValueError as error:
                raise DataError(f"row {entry.id}, venue: {error}") from error
            cells = {**dict(derived), **cells}
        return self._edit(entry.id, cells, "user")

    def _edit(self, name: str, cells: Mapping[str, Any], sign: Provenance, action: str = "edit") -> Entry:
        def changes(table: list[Entry]) -> list[Change]:
            ours = next((e for e in table if e.id == name), None)
            if ours is None:
                raise DataError(f"row {name}: no longer there")
            old = ours.model_dump(mode="json")
            signed = {**ours.provenance, **{c: sign for c in cells if c not in ("status", "hub", "extra", "notes")}}
            new = checked_entry({**old, **cells, "provenance": signed}, f"row {name}").model_dump(mode="json")
            self._require_links([e for e in table if e.id != name] + [Entry.model_validate(new)])
            return [Change(name, c, old[c], new[c]) for c in (*cells, "provenance") if old[c] != new[c]]

        self._commit(action, changes)
        return self[name]

    def remove(self, name: str) -> None:
        """Take a row out; undo brings it back.

        Raises:
            DataError: no such row, or other rows come from it.
        """
        entry = self[name]

        def changes(table: list[Entry]) -> list[Change]:
            self._require_links([e for e in table if e.id != entry.id])
            return [Change(entry.id, "*", entry.row(), None)]

        self._commit("remove", changes)

    def undo(self) -> Action:
        """Take back the last change that is not taken back yet."""
        undone = self.overlay.undo(self._bundled, self._digest)
        self.reload()
        return undone

    def history(self) -> list[Action]:
        """Every change, oldest first."""
        return self.overlay.actions()

    def validate(self) -> list[str]:
        """Problems of the table, each with row and cell; empty when there are none."""
        problems = []
        for entry in self.entries:
            try:
                checked_entry(entry.row(), f"row {entry.id}")
            except DataError as error:
                problems += str(error).splitlines()
        return problems + table_problems(self.entries)

    def warnings(self) -> list[str]:
        """Spellings of your rows that the rest of the table does not know."""
        known = by_id(self._bundled)
        return [w for e in self.entries if known.get(e.id) != e for w in spelling_warnings(e, self.entries)]

    @staticmethod
    def _require_links(table: Sequence[Entry]) -> None:
        problems = table_problems(table)
        if problems:
            raise DataError("\n".join(problems))

    def _commit(self, action: str, changes: Callable[[list[Entry]], Sequence[Change]], **more: Any) -> None:
        self._set(self.overlay.commit(action, self._bundled, self._digest, changes, **more))

    # ------------------------------------------------------------------------------------------ import, refresh

    def refresh(
        self,
        revision: str | Path | None = None,
        *,
        dry_run: bool = False,
        force: bool = False,
        sections: Mapping[str, Sequence[str]] | None = None,
        year: int | None = None,
    ) -> MergeReport:
        """Merge a revision of the list into the table: all of it or nothing.

        Args:
            revision: file or address of its README.md; default the list's own address.
            dry_run: only say what would change.
            force: accept many withdrawals and unreadable bullets.
            sections: modalities of sections with unknown names.
            year: for drafts without a venue; default the year of the bundled table.

        Raises:
            DataError: an unknown layout, or too much would vanish; NetworkError: no answer.
        """
        from evolvent.methods.atlas.source_list import parse_list

        where = str(revision or f"{source()['list']['url']}/raw/HEAD/README.md")
        text = self._read_revision(where)
        try:
            snapshot = parse_list(
                text,
                sections=sections,
                min_parse=self.args.min_parse,
                year=year or int(source()["list"]["date"][:4]),
                force=force,
            )
            report = self._merged(snapshot, self.entries, force)
            if dry_run:
                return report

            def changes(table: list[Entry]) -> Sequence[Change]:
                nonlocal report
                report = self._merged(snapshot, table, force)  # with what other processes did meanwhile
                return report.changes

            revised = (snapshot.digest, lambda: report.base)
            self._commit("refresh", changes, snapshot=revised, note=Path(where).name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return report

    def _merged(self, snapshot: Snapshot, table: Sequence[Entry], force: bool) -> MergeReport:
        from evolvent.methods.atlas.merge import base_of, merge

        stored = self.overlay.base()
        base = base_of(self._bundled) if stored is None else stored
        return merge(snapshot, base, table, max_withdraw=self.args.max_withdraw, force=force)

    def _read_revision(self, where: str) -> str:
        from evolvent.methods.atlas.hub import NetworkError, require_network

        if not where.startswith(("http://", "https://")):
            path = Path(where)
            if not path.is_file():
                raise DataError(f"{where}: no such file")
            return path.read_text(encoding="utf-8", errors="replace")
        require_network(self.args, "refresh from an address")
        try:
            with urllib.request.urlopen(where, timeout=self.args.hub_timeout_s) as answer:
                content: bytes = answer.read()
        except (urllib.error.URLError, OSError) as error:
            raise NetworkError(f"{where}: no answer ({error}); give a file that you downloaded") from error
        return content.decode("utf-8", "replace")

    def import_rows(
        self,
        path: str | Path,
        kind: str | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> list[Entry]:
        """Add the rows of a JSONL, CSV, BibTeX or Epoch file, all or none; foreign rows become drafts.

        Raises:
            DataError: names file, line and cell.
        """
        from evolvent.methods.atlas.imports import kind_of, read_rows_from

        file = Path(path)
        if not file.is_file():
            raise DataError(f"{path}: no such file")
        found = kind_of(file, kind)
        if found == "list":
            raise ConfigError(f"{path}: a revision of the list is merged, not added: use refresh")
        added: list[Entry] = []

        def changes(table: list[Entry]) -> list[Change]:
            taken = [e.id for e in table]
            added[:] = read_rows_from(file, found, columns=columns, defaults=defaults, taken=taken)
            both = set(taken) & {e.id for e in added}
            if both:
                raise DataError(f"{path}: row {sorted(both)[0]!r} is in the table already")
            self._require_links([*table, *added])
            return [Change(e.id, "*", None, e.row()) for e in added]

        self._commit("import", changes, note=file.name)
        return added

    def import_hub(self, name: str, fields: Sequence[str], modalities: Sequence[str]) -> Entry:
        """Add a hub repository as a draft: size, languages and paper as the hub tells them.

        Args:
            name: OWNER/NAME; fields, modalities: what the hub does not know.

        Raises:
            NetworkError: the network is off, or the hub does not give it; DataError: the row breaks a rule.
        """
        from evolvent.methods.atlas.hub import draft_cells, require_network

        require_network(self.args, f"import of {name}")
        return self.add(draft_cells(name, fields, modalities, self.args))

    # ------------------------------------------------------------------------------------------ hub, loading

    def read_hub(
        self, names: Sequence[str] | None = None, on_progress: OnProgress | None = None
    ) -> tuple[dict[str, HubFacts], dict[str, str], list[Finding]]:
        """Licence, gating and true size of the rows' hub repositories, kept in the rows' `hub` cells.

        Args:
            names: ids of rows; default all.

        Returns:
            Facts by hub id, what went wrong by hub id, and contradictions to the table.

        Raises:
            NetworkError: the network is off.
        """
        from evolvent.methods.atlas.hub import enrich, findings

        rows = self.entries if names is None else [self[n] for n in names]
        facts: dict[str, HubFacts] = {}
        failed: dict[str, str] = {}
        for name, answer in enrich(rows, self.args, on_progress):
            if isinstance(answer, str):
                failed[name] = answer
            else:
                facts[name] = answer
        wanted = {e.id: facts[e.hf_id].model_dump(mode="json") for e in rows if e.hf_id in facts}

        def changes(table: list[Entry]) -> list[Change]:
            found = []
            for entry in table:
                new = wanted.get(entry.id)
                old = entry.hub.model_dump(mode="json") if entry.hub else None
                if new is not None and new != old:
                    found.append(Change(entry.id, "hub", old, new))
            return found

        self._commit("hub", changes)
        return facts, failed, findings(rows, facts)

    def load_model(self, name: str, **options: Any) -> LoadedModel:
        """Load a row's model; see :func:`evolvent.methods.atlas.loading.load_model`."""
        from evolvent.methods.atlas.loading import load_model

        return load_model(self[name], self.args, **options)

    # ------------------------------------------------------------------------------------------ own models, page

    def artefacts(self) -> list[Artefact]:
        """Checkpoints that methods of this toolkit made on this machine, oldest first."""
        from evolvent.methods.atlas.artefacts import artefacts

        return artefacts(self.entries)

    def build(self, folder: str | Path) -> Path:
        """Write the table as one web page that needs nothing else."""
        from evolvent.methods.atlas.page import build

        return build(self, Path(folder))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
