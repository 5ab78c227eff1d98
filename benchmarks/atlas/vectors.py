"""Make the vectors that are shipped with the table: `python -m benchmarks.atlas.vectors` after the table changed."""

from __future__ import annotations

from pathlib import Path

import evolvent.methods.atlas as atlas_package
from evolvent.methods.atlas.cards import texts_of
from evolvent.methods.atlas.entry import read_entries
from evolvent.methods.atlas.vectors import Encoder, VectorStore
from evolvent.methods.atlas.vocabulary import read_table


def main() -> None:
    encoder = Encoder("auto")
    texts = texts_of(read_entries(read_table("models.jsonl"), "models.jsonl"))
    store = VectorStore(encoder.name)
    store.add(texts, encoder(texts))
    path = Path(atlas_package.__file__).parent / "tables" / encoder.file_name
    store.save(path)
    print(f"{len(texts)} texts, {path.stat().st_size:,} bytes: {path.name}")


if __name__ == "__main__":
    main()
