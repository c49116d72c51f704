"""Finished attacks on disk, so that an interrupted evaluation resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np

from kerasrobust._version import __version__
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.result import AttackResult
from kerasrobust.specs import jsonable

_NOT_STORED = ("x",)


def data_fingerprint(classifier: Classifier, x: np.ndarray, y: np.ndarray, confidence) -> str:
    """Hash of everything but the attack that a result depends on.

    Data, labels, bounds, this package's version, and the model: architecture and weights of a
    Keras model; of a callable, whose inside nobody sees, its confidence on these samples.
    """
    digest = hashlib.sha256(f"{__version__} {classifier.clip_values} {classifier.votes}".encode())
    model = classifier.model
    if isinstance(model, keras.Model):
        try:
            digest.update(model.to_json().encode())
        except (NotImplementedError, TypeError, ValueError):  # a subclass without a config
            digest.update(type(model).__name__.encode())
        arrays = [weight.numpy() for weight in model.weights]
    else:
        arrays = [np.round(np.asarray(confidence, np.float64), 3)]
    for array in (x, y, *arrays):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class ResultStore:
    """A folder with one file per finished attack.

    A file is written under another name and moved into place, so it is either whole or
    absent. It carries the fingerprint of what it was computed from; with another model, other
    data or another parameter it is not found.

    Args:
        folder: Created if absent.
        fingerprint: See `data_fingerprint`.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._fingerprint = fingerprint

    def _path(self, attack: Any) -> pathlib.Path:
        # Seed and batch size are part of the configuration, and so is what changes nothing.
        config = {key: value for key, value in attack.get_config().items() if key != "verbose"}
        settings = {"data": self._fingerprint, "attack": attack.name, "config": jsonable(config)}
        text = json.dumps(settings, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{attack.name.replace(':', '-')}-{key}.npz"

    def load(self, attack: Any, x: np.ndarray) -> AttackResult | None:
        """The stored result of this attack on `x`, or `None`."""
        path = self._path(attack)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                fields = {name: stored[name] for name in stored.files if name != "meta"}
                meta = json.loads(str(stored["meta"]))
            return AttackResult(x=x, **fields, **meta, config=attack.get_config())
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile):
            return None  # damaged or of another version: the attack is run again

    def save(self, attack: Any, result: AttackResult) -> None:
        """Stores a result; what was there before is replaced in one move."""
        arrays: dict[str, Any] = {}
        meta: dict[str, Any] = {}
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            if field.name in _NOT_STORED or field.name == "config":
                continue
            if isinstance(value, np.ndarray):
                arrays[field.name] = value
            else:
                meta[field.name] = jsonable(value)
        arrays["meta"] = np.array(json.dumps(meta))
        path = self._path(attack)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, **arrays)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
