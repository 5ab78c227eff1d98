"""Connections between models across fields: by what they share, by what they are made of, by descent.

    w(x) = ln(N / df(x))        s(a, b) = sum of w(x)^2 over x in a and b  /  (|a| |b|),   |a|^2 = sum of w(x)^2 in a

A feature x is a backbone part, a named data set, a task, an objective or a cell of the survey's Figure 1. Without the
weights and without keeping only the K nearest of each node the graph says nothing: 115 of 296 rows say BERT.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import networkx as nx

from evolvent.errors import ConfigError, DataError
from evolvent.methods.atlas.entry import Entry
from evolvent.methods.atlas.vocabulary import nearest, read_rows, spelled_out, vocabulary

View = Literal["similar", "hub", "lineage"]
KINDS = ("backbone", "data", "task", "objective", "type")
Feature = tuple[str, str]


@dataclass(frozen=True)
class Connection:
    """An edge of the graph of similar models.

    Attributes:
        source, target: ids; similarity: in (0, 1]; shared: (kind, value) of what they have in common, strongest first.
    """

    source: str
    target: str
    similarity: float
    shared: tuple[Feature, ...]

    @property
    def why(self) -> str:
        """The reason in words."""
        types = vocabulary()["survey_types"]
        said = []
        for kind, value in self.shared:
            said.append(f"{kind} {value} ({types[value]})" if kind == "type" else f"{kind} {spelled_out(value)}")
        return "; ".join(said)


def features(entry: Entry, generic: frozenset[str]) -> set[Feature]:
    """What a row is compared by.

    Args:
        generic: data sets such as "textbooks" that connect nothing.
    """
    return {
        *(("backbone", b) for b in entry.backbone_parts),
        *(("data", d) for d in entry.pretraining_data if d not in generic),
        *(("task", t) for t in entry.evaluation_tasks),
        *(("objective", o) for o in entry.pretraining_tasks),
        *(("type", t) for t in entry.survey_type or ()),
    }


def generic_data() -> frozenset[str]:
    """Names of pre-training resources that are no particular data set."""
    return frozenset(row["name"] for row in read_rows("datasets.jsonl") if row["generic"])


def similarities(entries: Sequence[Entry]) -> dict[tuple[str, str], Connection]:
    """Every pair of rows that share a feature of weight; ids of a pair in table order."""
    generic = generic_data()
    owned = {e.id: features(e, generic) for e in entries}
    frequency = Counter(x for mine in owned.values() for x in mine)
    weight = {x: math.log(len(entries) / df) ** 2 for x, df in frequency.items()}
    norm = {name: math.sqrt(sum(weight[x] for x in mine)) for name, mine in owned.items()}
    by_feature: defaultdict[Feature, list[str]] = defaultdict(list)
    for name, mine in owned.items():
        for x in mine:
            by_feature[x].append(name)
    common: defaultdict[tuple[str, str], list[Feature]] = defaultdict(list)
    for x in sorted(by_feature):
        if weight[x] > 0:
            names = by_feature[x]
            for i, a in enumerate(names):
                for b in names[i + 1 :]:
                    common[a, b].append(x)
    found = {}
    for (a, b), shared in common.items():
        score = sum(weight[x] for x in shared) / (norm[a] * norm[b])
        strongest = sorted(shared, key=lambda x: (-weight[x], x))
        found[a, b] = Connection(a, b, min(score, 1.0), tuple(strongest))
    return found


def similar_graph(entries: Sequence[Entry], k: int) -> nx.Graph[str]:
    """Models joined to their k most similar ones; an edge carries `similarity`, `distance` = 1 - s, `shared`, `why`."""
    pairs = similarities(entries)
    near: defaultdict[str, list[Connection]] = defaultdict(list)
    for pair in pairs.values():
        near[pair.source].append(pair)
        near[pair.target].append(pair)
    graph = _nodes(entries, nx.Graph())
    for entry in entries:
        order = sorted(near[entry.id], key=lambda c: (-c.similarity, c.source, c.target))
        for c in order[:k]:
            graph.add_edge(c.source, c.target, **_edge(c))
    return graph


def hub_graph(entries: Sequence[Entry]) -> nx.Graph[str]:
    """Models joined to their backbones, named data sets, tasks and types; nodes "KIND:VALUE"."""
    graph = _nodes(entries, nx.Graph())
    generic = generic_data()
    for entry in entries:
        for kind, value in sorted(features(entry, generic)):
            if kind == "objective":
                continue
            graph.add_node(f"{kind}:{value}", kind=kind, name=value)
            graph.add_edge(entry.id, f"{kind}:{value}", kind=kind)
    return graph


def lineage_graph(entries: Sequence[Entry], artefacts: Iterable[Mapping[str, Any]] = ()) -> nx.DiGraph[str]:
    """Arrows from a model to what came from it: `derived_from`, `succeeds`, and the user's own checkpoints.

    Args:
        artefacts: rows with `id`, `name`, `parents` (ids of this graph) and `method`.
    """
    graph = _nodes(entries, nx.DiGraph())
    for entry in entries:
        for parent in entry.derived_from:
            graph.add_edge(parent, entry.id, kind="derived_from")
        if entry.succeeds:
            both = entry.succeeds in entry.derived_from
            graph.add_edge(entry.succeeds, entry.id, kind="derived_from, succeeds" if both else "succeeds")
    rows = list(artefacts)
    for row in rows:
        graph.add_node(row["id"], kind="artefact", name=row["name"], method=row["method"])
    for row in rows:
        for parent in row["parents"]:
            if parent not in graph:
                graph.add_node(parent, kind="base", name=parent)
            graph.add_edge(parent, row["id"], kind=row["method"])
    return graph


def neighbors(graph: nx.Graph[str], entries: Mapping[str, Entry], name: str, *, cross_field: bool) -> list[Connection]:
    """Edges of one model, nearest first.

    Raises:
        DataError: no such model.
    """
    _require(graph, name)
    found = [_connection(graph, name, other) for other in graph[name]]
    if cross_field:
        found = [c for c in found if not set(entries[name].fields) & set(entries[c.target].fields)]
    return sorted(found, key=lambda c: (-c.similarity, c.target))


def bridges(entries: Sequence[Entry], first: str, second: str, limit: int) -> list[Connection]:
    """The strongest pairs of a model of one field and one of another."""
    if first == second:
        raise ConfigError(f"bridges: {first} twice; name two fields")
    fields = {e.id: set(e.fields) for e in entries}
    found = []
    for c in similarities(entries).values():
        for a, b in ((c.source, c.target), (c.target, c.source)):
            if first in fields[a] and second in fields[b] and not fields[a] & fields[b]:
                found.append(Connection(a, b, c.similarity, c.shared))
    return sorted(found, key=lambda c: (-c.similarity, c.source, c.target))[:limit]


def path(graph: nx.Graph[str], source: str, target: str) -> list[Connection]:
    """The cheapest way over 1 - s from one model to another; empty when there is none.

    Raises:
        DataError: no such model.
    """
    _require(graph, source)
    _require(graph, target)
    try:
        nodes = nx.shortest_path(graph, source, target, weight="distance")
    except nx.NetworkXNoPath:
        return []
    return [_connection(graph, a, b) for a, b in pairwise(nodes)]


def layout(graph: nx.Graph[str], seed: int) -> dict[str, tuple[float, float]]:
    """Place of each node in the unit square, by a seeded spring layout."""
    # The layout starts from the eigenvectors, so that the seed only breaks ties.
    places = nx.spring_layout(graph, seed=seed, weight="similarity", k=0.16, iterations=120)
    lows = [min(p[i] for p in places.values()) for i in (0, 1)]
    highs = [max(p[i] for p in places.values()) for i in (0, 1)]
    spans = [(high - low) or 1.0 for low, high in zip(lows, highs, strict=True)]
    return {n: (float((p[0] - lows[0]) / spans[0]), float((p[1] - lows[1]) / spans[1])) for n, p in places.items()}


def _nodes(entries: Sequence[Entry], graph: Any) -> Any:
    for e in entries:
        graph.add_node(e.id, kind="model", name=e.name, fields="; ".join(e.fields), year=e.year, status=e.status)
    return graph


def _edge(c: Connection) -> dict[str, Any]:
    shared = "; ".join(f"{kind}:{value}" for kind, value in c.shared)
    return {
        "similarity": round(c.similarity, 6),
        "distance": round(1 - c.similarity, 6),
        "shared": shared,
        "why": c.why,
    }


def _connection(graph: nx.Graph[str], source: str, target: str) -> Connection:
    edge = graph[source][target]
    pairs = [part.partition(":") for part in edge["shared"].split("; ")]
    return Connection(source, target, edge["similarity"], tuple((kind, value) for kind, _, value in pairs))


def _require(graph: nx.Graph[str], name: str) -> None:
    if name not in graph:
        near = nearest(name, graph.nodes)
        raise DataError(f"no model {name!r} in the graph" + (f"; nearest: {', '.join(near)}" if near else ""))
