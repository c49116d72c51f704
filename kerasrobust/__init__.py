"""Adversarial robustness for Keras 3 image classifiers on TensorFlow: attack, defend, measure."""

from __future__ import annotations

import importlib
from typing import Any

from kerasrobust._backend import require_tensorflow

require_tensorflow()

from kerasrobust import (  # noqa: E402
    attacks,
    callbacks,
    datasets,
    defenses,
    distribution,
    evaluation,
    hardening,
    metrics,
    models,
    protocols,
)
from kerasrobust._version import __version__  # noqa: E402
from kerasrobust.defenses import unwrap, wrap  # noqa: E402
from kerasrobust.defenses.registry import DEFENSES  # noqa: E402
from kerasrobust.engine.classifier import Classifier  # noqa: E402
from kerasrobust.evaluation import evaluate, tune  # noqa: E402
from kerasrobust.hardening import harden  # noqa: E402
from kerasrobust.registry import register  # noqa: E402

# A saved model loads by `keras.saving.load_model` only when the classes it holds are registered
# with Keras, which happens when they are imported.
for _name in DEFENSES.builtin:
    DEFENSES.find(_name)

__all__ = [
    "Classifier",
    "__version__",
    "art",
    "attacks",
    "callbacks",
    "datasets",
    "defenses",
    "distribution",
    "evaluate",
    "evaluation",
    "harden",
    "hardening",
    "metrics",
    "models",
    "protocols",
    "register",
    "tune",
    "unwrap",
    "wrap",
]


def __getattr__(name: str) -> Any:
    # The bridge alone waits: importing ART takes a second, and most programs need none of it.
    if name == "art":
        return importlib.import_module("kerasrobust.art")
    raise AttributeError(f"module 'kerasrobust' has no attribute {name!r}")
