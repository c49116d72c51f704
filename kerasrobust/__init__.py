"""Adversarial robustness for Keras 3 image classifiers on TensorFlow: attack, defend, measure."""

from __future__ import annotations

import importlib
from typing import Any

from kerasrobust._backend import require_tensorflow
from kerasrobust._version import __version__

require_tensorflow()

_MODULES = ("art", "attacks", "datasets", "defenses", "metrics", "models")
_OBJECTS = {
    "Classifier": "kerasrobust.classifier",
    "evaluate": "kerasrobust.evaluation",
    "unwrap": "kerasrobust.defenses",
    "wrap": "kerasrobust.defenses",
}

__all__ = ["__version__", *_MODULES, *_OBJECTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"kerasrobust.{name}")
    if name in _OBJECTS:
        value = getattr(importlib.import_module(_OBJECTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kerasrobust' has no attribute {name!r}")
