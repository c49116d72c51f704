"""The state of a training run on disk, so that an interrupted one ends as it would have ended."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerasrobust import _keras

if TYPE_CHECKING:
    from kerasrobust.datasets import Dataset

_ARRAYS, _STATE = "arrays.npz", "state.json"
# What differs between two models built by the same lines, and is of no consequence to what is
# computed once the weights are loaded.
_NAMES = ("name", "seed", "build_config", "registered_name")
# What Keras's callbacks count while a run lasts, and begin anew with each run.
_COUNTED = {
    keras.callbacks.EarlyStopping: ("best", "wait", "stopped_epoch", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
}


class Checkpoint(keras.callbacks.Callback):
    """Saves before the first epoch and after every one all that the next one depends on.

    A run that is begun again takes it up.

    That is: the weights, the seeds of dropout (which Keras itself does not save), the step counter
    and other state of the defenses, the optimizer with its step counter, hence the learning rate of
    a schedule, the number of the epoch, the history, and the state of callbacks that have
    `get_state` and `set_state` (`RobustAccuracy` has) and of Keras's `EarlyStopping` and
    `ReduceLROnPlateau`. The order of the samples is a function of
    seed and epoch, see `fit`. `keras.callbacks.BackupAndRestore` does not do here: it leaves out
    seeds and order, writes weights and epoch number one after the other, so that an interruption in
    between repeats an epoch, and deletes them when training ends, before a model can be saved.

    An epoch is a folder that gets its name when it is complete; older ones are then deleted.
    It comes last in the list of callbacks.

    Args:
        folder: Where; made if need be.
        run: What the run is: names of settings and their values, ready for JSON. Another run's
            checkpoint is refused.
        epochs: How many epochs it shall have.
        others: The other callbacks of the run.
        verbose: Whether resuming is worth a line.

    Raises:
        ValueError: If `folder` holds the checkpoint of a run with other settings, of a longer one,
            or a damaged one.

    Attributes:
        epoch: Epochs made before.
        stopped: Whether a callback ended training there.
        history: Their logs.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: dict[str, Any],
        epochs: int,
        others: list[keras.callbacks.Callback],
        verbose: bool = False,
    ):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.run = json.loads(json.dumps(run))
        self.epochs = epochs
        self.others = others
        self.verbose = verbose
        self.epoch, self.stopped = 0, False
        self.history: dict[str, list[float]] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = sorted(self.folder.glob("epoch_*"))
        if saved:
            self._read(saved[-1])

    def _read(self, path: pathlib.Path) -> None:
        try:
            state = json.loads((path / _STATE).read_text())
            run = state["run"]
            with np.load(path / _ARRAYS, allow_pickle=False) as arrays:
                self._arrays = dict(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Expected the checkpoint of a training run, but it cannot be read: {error}. "
                f"Received: checkpoint={os.fspath(path)!r}"
            ) from error
        keys = [key for key in {**run, **self.run} if run.get(key) != self.run.get(key)]
        if keys:
            changes = ", ".join(
                f"{key}={self.run.get(key)!r} (was {run.get(key)!r})" for key in keys
            )
            raise ValueError(
                "The checkpoint belongs to a run with other settings: repeat them, or give another "
                f"folder. Received: checkpoint={os.fspath(self.folder)!r} with {changes}"
            )
        if state["epoch"] > self.epochs:
            raise ValueError(
                "The checkpoint belongs to a longer run. "
                f"Received: checkpoint={os.fspath(self.folder)!r} after {state['epoch']} epochs, "
                f"epochs={self.epochs}"
            )
        self.epoch, self.stopped = state["epoch"], state["stopped"]
        self.history = state["history"]

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._arrays:
            self._save(0)
            return
        if self.verbose and self.epoch:
            print(f"Resuming after epoch {self.epoch} of {self.epochs}")
        for key, variable in self._variables().items():
            if key not in self._arrays or self._arrays[key].shape != tuple(variable.shape):
                raise ValueError(
                    "The checkpoint belongs to another model. "
                    f"Received: checkpoint={os.fspath(self.folder)!r}, which lacks "
                    f"{variable.path!r} of shape {tuple(variable.shape)}"
                )
            variable.assign(self._arrays[key])
        for index, defense in enumerate(self._defenses()):
            defense.load(self.model, self._part(f"defense_{index}_"))
        for head, callback in self._callbacks():
            _set_state(callback, self._part(head))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(float(value))
        self._save(epoch + 1)

    def _save(self, epoch: int) -> None:
        """The state after so many epochs, in the place of earlier ones."""
        arrays = {key: _array(variable) for key, variable in self._variables().items()}
        parts = {f"defense_{i}_": d.saved(self.model) for i, d in enumerate(self._defenses())}
        parts |= {head: _state(callback) for head, callback in self._callbacks()}
        for head, values in parts.items():
            arrays |= {f"{head}{key}": value for key, value in values.items()}
        state = {
            "run": self.run,
            "epoch": epoch,
            "stopped": bool(self.model.stop_training),
            "history": self.history,
        }
        part, path = self.folder / "part", self.folder / f"epoch_{epoch:06d}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        np.savez(part / _ARRAYS, **arrays)  # type: ignore[arg-type]  # of its own flag
        (part / _STATE).write_text(json.dumps(state, indent=1))
        os.replace(part, path)
        for older in self.folder.glob("epoch_*"):
            if older != path:
                shutil.rmtree(older)

    def _defenses(self) -> tuple[Any, ...]:
        return tuple(getattr(self.model, "defenses", ()))

    def _callbacks(self) -> list[tuple[str, keras.callbacks.Callback]]:
        """The other callbacks, each under a name that one more of another kind does not change."""
        kinds = [type(callback).__name__ for callback in self.others]
        return [
            (f"callback_{kind}_{kinds[:position].count(kind)}_", callback)
            for position, (kind, callback) in enumerate(zip(kinds, self.others, strict=True))
        ]

    def _part(self, head: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with `head`, without it."""
        return {k.removeprefix(head): v for k, v in self._arrays.items() if k.startswith(head)}

    def _variables(self) -> dict[str, keras.Variable]:
        """All that training changes and an epoch does not begin anew, as metrics do."""
        metrics = {id(variable) for variable in self.model.metrics_variables}
        own = [variable for variable in self.model.variables if id(variable) not in metrics]
        if not self.model.optimizer.built:  # a second time would add a second loss scale
            self.model.optimizer.build(self.model.trainable_variables)
        parts = {"model": own, "optimizer": self.model.optimizer.variables}
        return {
            f"{name}_{index}": variable
            for name, variables in parts.items()
            for index, variable in enumerate(variables)
        }


def _counted(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    return next((names for kind, names in _COUNTED.items() if isinstance(callback, kind)), ())


def _state(callback: keras.callbacks.Callback) -> dict[str, np.ndarray]:
    """What a callback has to take up again in a run that goes on."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    values = {name: getattr(callback, name) for name in _counted(callback)}
    state = {name: np.array(value) for name, value in values.items() if value is not None}
    for index, weight in enumerate(getattr(callback, "best_weights", None) or ()):
        state[f"weight_{index}"] = _array(weight)
    return state


def _set_state(callback: keras.callbacks.Callback, state: dict[str, np.ndarray]) -> None:
    """Takes up what `_state` returned, after the callback has begun anew."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for name in _counted(callback):
        if name in state:
            setattr(callback, name, state[name].item())
    weights = [state[f"weight_{i}"] for i in range(sum(k.startswith("weight_") for k in state))]
    if weights:
        callback.best_weights = weights


def _array(variable: keras.Variable | np.ndarray) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    # A file of arrays knows no bfloat16.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def describe_data(data: Dataset | None) -> str | None:
    """Name, number and contents of a data set as a short text."""
    if data is None:
        return None
    digest = hashlib.sha256()
    for array in (data.x, data.y):
        digest.update(np.ascontiguousarray(array).data)
    return f"{len(data)} of {data.name} in {data.clip_values}, {digest.hexdigest()[:12]}"


def describe_model(model: keras.Model) -> str:
    """Layers and shapes of a model as a short text; the same for two builds of one network."""
    parts: list[Any] = [[str(weight.shape), str(weight.dtype)] for weight in model.weights]
    for layer in _keras.flat_layers(model):
        if not isinstance(layer, keras.Model):
            try:
                config = _plain(layer.get_config())
            except NotImplementedError:  # a layer that says nothing of itself
                config = None
            parts.append([type(layer).__name__, config])
    digest = hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode())
    return f"{model.count_params()} parameters, {digest.hexdigest()[:12]}"


def _plain(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _plain(value)
            for key, value in config.items()
            if key not in _NAMES and not key.endswith("initializer")
        }
    if isinstance(config, (list, tuple)):
        return [_plain(value) for value in config]
    return config
