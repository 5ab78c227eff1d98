"""numba, where it is installed (`pip install evolvent[games]`); the reference engine gives the same numbers without it.

Machine code is kept in the user's cache under a digest of all kernel sources: a kernel inlines others from other files,
whose change numba does not notice by itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])
STRATEGIST = Path(__file__).parents[1]


def available() -> bool:
    """Whether kernels can be compiled; EVOLVENT_COMPILED=0 says no."""
    return os.environ.get("EVOLVENT_COMPILED", "1") != "0" and importlib.util.find_spec("numba") is not None


def kernel(function: F) -> F:
    """Compile a function on its first call, for each combination of argument types."""
    import numba

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_cache_folder())
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no place to write a cache
        return numba.njit(nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before


@cache
def _cache_folder() -> Path:
    from platformdirs import user_cache_path

    sources = sorted(STRATEGIST.rglob("*_kernels.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = user_cache_path("evolvent") / "kernels" / digest
    if not folder.is_dir():
        logger.warning("compiling the game kernels for this machine; this happens once and takes about a minute")
    return folder


def load(module: str) -> Any | None:
    """A module of kernels, or None where they cannot be compiled."""
    return importlib.import_module(f"evolvent.methods.strategist.{module}") if available() else None
