"""Evolvent: the life of a language model after pre-training.

Every change to what a model knows is a commit with tests: a method takes a model and returns a model in a standard
Hugging Face folder, with its lineage and a before/after measurement on the same questions.

The names below are loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "evolvent.models.resolve",
    "Sampling": "evolvent.models.protocol",
    "Question": "evolvent.data.records",
    "Passage": "evolvent.data.records",
    "read_questions": "evolvent.data.readers",
    "ChoiceTask": "evolvent.data.tasks",
    "NumericTask": "evolvent.data.tasks",
    "TextTask": "evolvent.data.tasks",
    "evaluate": "evolvent.evaluation.evaluate",
    "compare": "evolvent.evaluation.evaluate",
    "SemiEvol": "evolvent.methods.semievol.semievol",
    "SemiEvolConfig": "evolvent.methods.semievol.config",
    "SemiEvolResult": "evolvent.methods.semievol.semievol",
    "Law": "evolvent.methods.law.law",
    "LawConfig": "evolvent.methods.law.config",
    "LawResult": "evolvent.methods.law.law",
    "Fact": "evolvent.data.records",
    "read_facts": "evolvent.data.facts",
    "SelfParam": "evolvent.methods.selfparam.selfparam",
    "SelfParamConfig": "evolvent.methods.selfparam.config",
    "SelfParamResult": "evolvent.methods.selfparam.selfparam",
    "read_passages": "evolvent.data.passages",
    "Atlas": "evolvent.methods.atlas.atlas",
    "AtlasConfig": "evolvent.methods.atlas.config",
    "Strategist": "evolvent.methods.strategist.strategist",
    "StrategistConfig": "evolvent.methods.strategist.config",
    "StrategistResult": "evolvent.methods.strategist.strategist",
    "StrategistAgent": "evolvent.methods.strategist.agent",
    "make_game": "evolvent.methods.strategist.games.registry",
    "Budget": "evolvent.methods.atlas.budget",
    "Entry": "evolvent.methods.atlas.entry",
    "EvolventError": "evolvent.errors",
}
_MODULES = {"samples": "evolvent.data.samples", "errors": "evolvent.errors"}

__all__ = [*sorted(_HOMES), *sorted(_MODULES)]

if TYPE_CHECKING:
    from evolvent import errors as errors
    from evolvent.data import samples as samples
    from evolvent.data.facts import read_facts as read_facts
    from evolvent.data.passages import read_passages as read_passages
    from evolvent.data.readers import read_questions as read_questions
    from evolvent.data.records import Fact as Fact
    from evolvent.data.records import Passage as Passage
    from evolvent.data.records import Question as Question
    from evolvent.data.tasks import ChoiceTask as ChoiceTask
    from evolvent.data.tasks import NumericTask as NumericTask
    from evolvent.data.tasks import TextTask as TextTask
    from evolvent.errors import EvolventError as EvolventError
    from evolvent.evaluation.evaluate import compare as compare
    from evolvent.evaluation.evaluate import evaluate as evaluate
    from evolvent.methods.atlas.atlas import Atlas as Atlas
    from evolvent.methods.atlas.budget import Budget as Budget
    from evolvent.methods.atlas.config import AtlasConfig as AtlasConfig
    from evolvent.methods.atlas.entry import Entry as Entry
    from evolvent.methods.law.config import LawConfig as LawConfig
    from evolvent.methods.law.law import Law as Law
    from evolvent.methods.law.law import LawResult as LawResult
    from evolvent.methods.selfparam.config import SelfParamConfig as SelfParamConfig
    from evolvent.methods.selfparam.selfparam import SelfParam as SelfParam
    from evolvent.methods.selfparam.selfparam import SelfParamResult as SelfParamResult
    from evolvent.methods.semievol.config import SemiEvolConfig as SemiEvolConfig
    from evolvent.methods.semievol.semievol import SemiEvol as SemiEvol
    from evolvent.methods.semievol.semievol import SemiEvolResult as SemiEvolResult
    from evolvent.methods.strategist.agent import StrategistAgent as StrategistAgent
    from evolvent.methods.strategist.config import StrategistConfig as StrategistConfig
    from evolvent.methods.strategist.games.registry import make_game as make_game
    from evolvent.methods.strategist.strategist import Strategist as Strategist
    from evolvent.methods.strategist.strategist import StrategistResult as StrategistResult
    from evolvent.models.protocol import Sampling as Sampling
    from evolvent.models.resolve import load as load


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'evolvent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
