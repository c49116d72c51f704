"""Defenses: links of one training chain, layers of the network, answers in its place."""

from typing import Any

from kerasrobust.defenses.decision.base import DecisionDefense
from kerasrobust.defenses.layers.base import LayerDefense
from kerasrobust.defenses.registry import DEFENSES, get, names
from kerasrobust.defenses.robust_model import RobustModel
from kerasrobust.defenses.search_lambda import LambdaSearch, LambdaTrial, search_lambda
from kerasrobust.defenses.taxonomy import taxonomy
from kerasrobust.defenses.training.base import Batch, Context, Inner, TrainingDefense
from kerasrobust.defenses.training.penalty import Penalty
from kerasrobust.defenses.wrap import resolve, unwrap, wrap

__all__ = [
    "Batch",
    "Context",
    "DecisionDefense",
    "Inner",
    "LambdaSearch",
    "LambdaTrial",
    "LayerDefense",
    "Penalty",
    "RobustModel",
    "TrainingDefense",
    "get",
    "names",
    "resolve",
    "search_lambda",
    "taxonomy",
    "unwrap",
    "wrap",
]
__all__ += DEFENSES.exported()


def __getattr__(name: str) -> Any:
    return DEFENSES.attribute(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
