"""From a question in your own words to a model that is loaded: `python examples/atlas.py`

Needs no network: the last step loads the embedded model, as if you had downloaded a checkpoint by hand.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from evolvent import Atlas, AtlasConfig
from evolvent.models.resolve import checkpoint_folder


def main() -> None:
    """Ask, look, compare, add, load."""
    # Your own rows go to an overlay; without overlay_dir it lives in your user data directory.
    atlas = Atlas.load(AtlasConfig(overlay_dir=Path(tempfile.mkdtemp())))

    question = "predict the melting point from a polymer string"
    answer = atlas.recommend(question, modalities=["molecule"], k=3)
    for choice in answer.choices:
        print(f"{choice.score:.2f}  {choice.reference}\n      {'; '.join(choice.reasons)}")
        print(f"      check: {'; '.join(choice.cautions)}")
    print(answer.notices[0])

    best, second = (choice.entry for choice in answer.choices[:2])
    print(atlas.compare([best.id, second.id]).to_markdown(diff_only=True))
    nearest = atlas.neighbors(best.id)[0]
    print(f"most like {best.name}: {atlas[nearest.target].name}, because of {nearest.why}")
    print(atlas.cite(best.id))

    mine = atlas.add(
        {
            "name": "My Smol",
            "title": "The small model on this disk",
            "venue": "Hub 2024",
            "fields": ["general"],
            "modalities": ["text"],
            "architecture": ["GPT-like"],
            "paper_url": "https://arxiv.org/abs/2502.02737",
        }
    )
    loaded = atlas.load_model(mine.id, path=checkpoint_folder("embedded"))
    size = sum(p.numel() for p in loaded.model.parameters())
    print(f"loaded {type(loaded.model).__name__} with {size:,} parameters; atlas.undo() takes the row out again")


if __name__ == "__main__":
    main()
