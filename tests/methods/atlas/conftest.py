"""An Atlas in a folder of its own, and the real data that lives beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evolvent.methods.atlas.atlas import Atlas
from evolvent.methods.atlas.config import AtlasConfig

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "atlas"

NEW = {
    "name": "My Smol",
    "title": "A small model of our own",
    "venue": "arXiv 2025",
    "fields": ["chemistry_materials"],
    "modalities": ["language"],
    "paper_url": "https://arxiv.org/abs/2501.00001",
}


@pytest.fixture
def new_row():
    """Cells of a valid row."""
    return dict(NEW)


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch, tmp_path):
    for name in os.environ:
        if name.startswith("EVOLVENT_ATLAS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVOLVENT_ATLAS_OVERLAY_DIR", str(tmp_path / "overlay"))


@pytest.fixture
def make_atlas(tmp_path):
    """An Atlas over the bundled table with an overlay of its own."""

    def make(**settings) -> Atlas:
        return Atlas.load(AtlasConfig(**{"overlay_dir": tmp_path / "overlay", "user": "tester", **settings}))

    return make


@pytest.fixture
def atlas(make_atlas):
    return make_atlas()


@pytest.fixture(scope="session")
def shared_atlas(tmp_path_factory):
    """One Atlas for all tests that only look; its engine and encoder are made once."""
    return Atlas.load(AtlasConfig(overlay_dir=tmp_path_factory.mktemp("shared"), user="tester"))


@pytest.fixture
def empty_atlas(make_atlas, tmp_path):
    (tmp_path / "empty").mkdir()
    return make_atlas(data_dir=tmp_path / "empty")


@pytest.fixture(scope="session")
def fixtures():
    """Six real revisions of the list."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("the revisions of the list (../shared/data/atlas/fixtures) are not beside this checkout")
    return SHARED / "fixtures"
