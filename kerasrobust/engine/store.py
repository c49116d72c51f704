"""Finished batches on disk, so that an interrupted run resumes and several processes share one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import pathlib
import re
import sys
import tempfile
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import keras
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from kerasrobust import _keras
from kerasrobust.engine.batches import Batch, Prologue
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.result import AttackResult
from kerasrobust.specs import jsonable

# What results depend on inside the package.
_CODE = (
    *("engine", "attacks", "art", "norms.py", "losses.py", "checks.py", "_keras.py"),
    *("defenses/layers", "defenses/decision", "metrics"),
)
_KNOWN = ("builtins", "abc", "typing", "keras", "kerasrobust")
_PACKAGES = ("tensorflow", "keras", "numpy", "adversarial-robustness-toolbox")


def fingerprint(classifier: Classifier) -> str:
    """Hash of a model and of how it is looked at.

    Of a Keras model: architecture, weights, and the source of the layers that are not Keras's own;
    of a detector what it holds (`held`). A callable's inside nobody sees: `answers` stand for it.
    """
    digest = hashlib.sha256(json.dumps(jsonable(classifier.settings()), sort_keys=True).encode())
    digest.update(str(classifier.jit_compile).encode())
    judge, model = classifier.judging, classifier.model
    if judge is not classifier and judge.model is not model:
        digest.update(fingerprint(judge).encode())
    for detector in (classifier.detector, judge.detector):
        # What a model brings is part of it.
        if detector is not None and getattr(detector, "__self__", None) is not model:
            digest.update(json.dumps(held(detector)).encode())
    if not isinstance(model, keras.Model):
        digest.update(f"{type(model).__module__}.{type(model).__qualname__}".encode())
        return digest.hexdigest()
    digest.update(network(model).encode())
    return digest.hexdigest()


def network(model: keras.layers.Layer) -> str:
    """Hash of a model or layer: architecture, weights, source of what is not Keras's own."""
    digest = hashlib.sha256()
    try:
        digest.update(json.dumps(keras.saving.serialize_keras_object(model)).encode())
    except (NotImplementedError, TypeError, ValueError):  # a subclass without a config
        digest.update(type(model).__name__.encode())
    for layer in _keras.flat_layers(model):
        layer_class: Any = type(layer)
        digest.update(source(layer_class).encode())
    digest.update(weights(model).encode())
    return digest.hexdigest()


def held(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """What a callable, or a value in it, is made of, as far as it can be read, for JSON.

    Two that would answer alike may differ in it, as by a count of calls: what was found with one is
    computed again with the other.

    Args:
        value: A function, an object, or what one holds.
        seen: By their identities the objects that were looked into already.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        return value.__name__
    seen = {} if seen is None else seen

    def all_of(*parts: Any) -> list[Any]:
        return [type(value).__qualname__, *(held(part, seen) for part in parts)]

    if isinstance(value, tuple):
        return all_of(*value)
    if isinstance(value, types.CodeType):
        return all_of(value.co_code, value.co_names, value.co_consts)
    if isinstance(value, types.MethodType):
        return all_of(value.__self__, value.__func__)
    if id(value) in seen:
        return "seen"
    seen[id(value)] = value
    if isinstance(value, keras.layers.Layer):
        return [network(value)]
    if isinstance(value, Classifier):
        return [fingerprint(value)]
    if isinstance(value, dict):
        return all_of(*value, *value.values())
    if isinstance(value, list):
        return all_of(*value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(json.dumps, all_of(*value)))
    if isinstance(value, functools.partial):
        return all_of(value.func, value.args, value.keywords)
    if isinstance(value, types.FunctionType):
        return all_of(value.__code__, value.__defaults__, value.__kwdefaults__, *_closure(value))
    if hasattr(value, "python_function"):  # a tf.function
        return held(value.python_function, seen)
    if hasattr(value, "__array__") and np.asarray(value).dtype != object:
        return [digest({"": np.asarray(value)})]
    own: Any = type(value)
    return [own.__qualname__, source(own), held(getattr(value, "__dict__", None), seen)]


def _closure(function: types.FunctionType) -> Iterator[Any]:
    """What a function holds of the places that it was made in."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            yield cell.cell_contents


def weights(model: keras.layers.Layer) -> str:
    """Hash of a model's weights: what tells one training from another, whatever the file."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(f"{weight.shape} {weight.dtype}".encode())
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def answers(labels: np.ndarray, confidence: np.ndarray) -> list[Any]:
    """What stands for a model whose inside nobody sees: its outputs on the clean samples."""
    return [labels.tolist(), np.round(confidence.astype(np.float64), 3).tolist()]


@functools.cache
def source(cls: Any) -> str:
    """Hash of the files that define a class outside of this package, Keras and Python."""
    digest = hashlib.sha256()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in _KNOWN:
            continue
        try:
            digest.update(inspect.getsource(inspect.getmodule(base) or base).encode())
        except (OSError, TypeError):  # typed at a prompt, or compiled
            digest.update(base.__qualname__.encode())
    return digest.hexdigest()


@functools.cache
def version() -> str:
    """Hash of the code and of the libraries that results depend on."""
    digest = hashlib.sha256()
    root = pathlib.Path(__file__).parent.parent
    for entry in _CODE:
        path = root / entry
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(file.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    digest.update(sys.version.encode())
    return digest.hexdigest()


def digest(value: Any) -> str:
    """Hash of arrays by name, or of what JSON knows."""
    total = hashlib.sha256()
    if isinstance(value, dict) and any(isinstance(item, np.ndarray) for item in value.values()):
        for name in sorted(value):
            array = np.ascontiguousarray(value[name])
            total.update(f"{name} {array.shape} {array.dtype}".encode())
            total.update(array.tobytes())
    else:
        total.update(json.dumps(jsonable(value), sort_keys=True).encode())
    return total.hexdigest()


def file_name(text: str) -> str:
    """A name for a file or folder that stands for a text, readable where it can be."""
    name = re.sub(r"[^\w=.,+-]+", "-", text.replace(" ", ""))
    written = name.encode()
    if len(written) <= 100 and name.strip("."):
        return name
    return f"{written[:90].decode(errors='ignore')}-{digest(text)[:8]}"


def put(folder: str | os.PathLike[str], save: Callable[[str], Any]) -> None:
    """Has files saved into a folder, a path or a URL.

    Args:
        folder: Created if absent.
        save: Writes them into a folder of this machine.
    """
    files, path = fsspec.url_to_fs(os.fspath(folder))
    if isinstance(files, LocalFileSystem):
        save(path)
        return
    with tempfile.TemporaryDirectory() as local:
        save(local)
        files.put(f"{local}/", f"{path}/", recursive=True)


class Store:
    """A folder with one file per finished batch of an attack, and one per prologue.

    A file is written under another name and moved into place, so that it is either whole or absent.
    The folder may lie where `fsspec` reaches, so that processes on several machines share it.
    It is found by a key that covers all that its content depends on: model, data, attack with the
    models that it crafts on, what ran before it in a cascade, the prologue, the place of the batch,
    and the version of the code.

    Args:
        folder: A path or a URL; created if absent.

    Raises:
        OSError: If it cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.files, self.folder = fsspec.url_to_fs(os.fspath(folder))
        self.files.makedirs(self.folder, exist_ok=True)
        probe = f"{self.folder}/{uuid.uuid4().hex}.part"
        self.files.touch(probe)
        self.files.rm(probe)

    def load(self, name: str, key: str, batch: Batch) -> AttackResult | None:
        """The stored result of a batch, with its samples, or None.

        Args:
            name: Of the attack, to find the file again by eye.
            key: See `Store`.
            batch: The batch.
        """
        stored = self._read(name, key)
        if stored is None:
            return None
        meta = json.loads(str(stored.pop("meta")))
        return AttackResult(x=batch.given["x"], **stored, **meta)

    def save(self, name: str, key: str, result: AttackResult) -> None:
        """Stores the result of a batch."""
        arrays: dict[str, np.ndarray] = {}
        meta: dict[str, Any] = {}
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            if field.name in ("x", "columns"):
                continue  # at hand, and measured anew
            if isinstance(value, np.ndarray):
                arrays[field.name] = value
            else:
                meta[field.name] = jsonable(value)
        self._write(name, key, {**arrays, "meta": np.array(json.dumps(meta))})

    def load_prologue(self, name: str, key: str) -> Prologue | None:
        """What all batches of an attack share, or None."""
        return self._read(name + "-prologue", key)

    def save_prologue(self, name: str, key: str, prologue: Prologue) -> None:
        """Stores what all batches of an attack share."""
        self._write(name + "-prologue", key, prologue)

    def load_column(self, name: str, key: str) -> np.ndarray | None:
        """What a metric measured on a batch, or None.

        Args:
            name: Of the attack and the metric, to find the file again by eye.
            key: See `Store`.
        """
        stored = self._read(name, key)
        return None if stored is None else stored["column"]

    def save_column(self, name: str, key: str, column: np.ndarray) -> None:
        """Stores what a metric measured on a batch."""
        self._write(name, key, {"column": column})

    def _path(self, name: str, key: str) -> str:
        return f"{self.folder}/{name.replace(':', '-')}-{key[:32]}.npz"

    def _read(self, name: str, key: str) -> dict[str, Any] | None:
        path = self._path(name, key)
        if not self.files.exists(path):
            return None
        try:
            with self.files.open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except Exception:  # damaged, in whichever of many ways: computed again
            return None

    def _write(self, name: str, key: str, arrays: dict[str, np.ndarray]) -> None:
        path = self._path(name, key)
        temporary = f"{path}.{uuid.uuid4().hex}.part"
        try:
            with self.files.open(temporary, "wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            self.files.mv(temporary, path)
        except BaseException:
            if self.files.exists(temporary):
                self.files.rm(temporary)
            raise
