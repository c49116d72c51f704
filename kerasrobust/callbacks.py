"""A Keras callback that measures robustness while a model trains."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import keras
import numpy as np

from kerasrobust import attacks as registry
from kerasrobust.checks import (
    check_batch_size,
    check_bool,
    check_float,
    check_int,
    check_labels,
)
from kerasrobust.datasets import Dataset
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.source import unpack
from kerasrobust.evaluation import Report, evaluate, resolve
from kerasrobust.norms import check_norm

MONITOR = "val_robust_accuracy"


class RobustAccuracy(keras.callbacks.Callback):
    """Robust validation accuracy at the end of an epoch, and the best epoch kept if asked.

    The value is `kerasrobust.evaluate(model, x, y, attacks, ...).robust_accuracy`: the share of
    samples that the model gets right and that no attack changes, the worst case per sample over all
    attacks. It is logged as `val_robust_accuracy`. Keras hands the logs of an epoch from callback
    to callback in the order of the list: put this one *before* those that shall see the value
    (`ModelCheckpoint`, `EarlyStopping`, `CSVLogger`, `TensorBoard`); the progress bar and the
    history come last by themselves.

    Choose an epoch on samples that are neither trained on nor tested on: the epoch that does best
    on the test samples tells more than their share of the truth.

    The attacks see the model in inference mode and leave it, and all that training draws, as it
    was. They are compiled once per model. Before training starts one sample goes through all of
    them, so that what does not fit is an error then and not after the first epoch.

    Limits: a robust accuracy is an upper bound, and that of a short attack a loose one. It chooses
    between epochs; what the model is worth say stronger attacks afterwards.

    Args:
        x: Validation samples `[n, ...]`: an array, a tensor, a `kerasrobust.datasets.Dataset`, or
            a finite, batched `tf.data.Dataset` of `(x, y)`.
        y: Their labels, integers `[n]` or one-hot `[n, classes]`; left out where `x` holds them.
        attacks: A specification such as `"fgsm:eps=0.1"`, an attack, a dictionary, the name of a
            benchmark, or a list of these, as `kerasrobust.evaluate` takes them. Default: PGD
            from a random start, ten steps of length `eps / 4`, which needs `eps`.
        eps: Budget in the units of the inputs, above 0: replaces that of every attack without one
            of its own, and what is farther away does not count. Default: each attack's own.
        norm: Norm of `eps`: 1, 2 or inf. Default inf.
        freq: Epochs from one measurement to the next, at least 1; the last epoch is always
            measured. Default 1.
        clip_values: Smallest and largest valid input value. Default: the model's own, else those
            of a `kerasrobust.datasets.Dataset`, else (0, 1).
        batch_size: Samples per batch; its default is that of `evaluate`.
        save_best: A `.keras` file: the whole model, saved whenever the value exceeds all before
            it. Default: none.
        restore_best: Whether the weights of the best epoch (of equal ones the first) are put back
            when training ends. Default False.
        verbose: 1 prints a line per measurement, with every attack's accuracy. Default 0.

    Attributes:
        best: The highest value so far, None before the first.
        best_epoch: Its epoch, from 0.
        report: The last measurement, a `kerasrobust.evaluation.Report`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, or neither `attacks` nor `eps` is given. When
            training starts: if samples, labels or attacks do not fit the model. After an epoch:
            if the scores of the model are no longer finite.

    Example:
        >>> robust = kerasrobust.callbacks.RobustAccuracy(x_val, y_val, eps=0.1, restore_best=True)
        >>> history = model.fit(x, y, epochs=10, callbacks=[robust])
        >>> history.history["val_robust_accuracy"][robust.best_epoch] == robust.best
        True
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        attacks: Any = None,
        *,
        eps: float | None = None,
        norm: float | str | None = None,
        freq: int = 1,
        clip_values: tuple[float, float] | None = None,
        batch_size: int | None = None,
        save_best: str | os.PathLike[str] | None = None,
        restore_best: bool = False,
        verbose: int = 0,
    ):
        super().__init__()
        self._data = x if isinstance(x, Dataset) else None
        if self._data is not None:
            if y is not None:
                raise ValueError("A Dataset holds the labels: leave `y` out. Received: y=...")
            x, y = self._data.x, self._data.y
        samples, labels = unpack(x, y)
        if labels is None:
            raise ValueError("RobustAccuracy needs the labels of the samples. Received: y=None")
        self.x, self.y = samples, labels
        self.eps = None if eps is None else check_float("eps", eps, above=True)
        if norm is not None and eps is None:
            raise ValueError(f"`norm` is that of `eps`. Received: norm={norm!r}, eps=None")
        self.norm = None if norm is None else check_norm(norm)
        self.batch_size = check_batch_size(batch_size, samples.shape[1:])
        self.attacks = self._attacks(attacks)
        self.freq = check_int("freq", freq, 1)
        self.clip_values = clip_values
        self.save_best = None if save_best is None else _model_file(save_best)
        self.restore_best = check_bool("restore_best", restore_best)
        self.verbose = check_int("verbose", verbose, 0)
        self._classifier: Classifier | None = None
        self._reset()

    def _attacks(self, attacks: Any) -> list[Any]:
        if attacks is None:
            if self.eps is None:
                raise ValueError(
                    "RobustAccuracy needs `eps`, the budget of its PGD, or `attacks`. "
                    "Received: eps=None, attacks=None"
                )
            norm = {} if self.norm is None else {"norm": self.norm}
            steps = {"eps_step": self.eps / 4, "max_iter": 10, "num_random_init": 1}
            common = {"batch_size": self.batch_size}
            return [registry.get("pgd", eps=self.eps, **steps, **norm, **common)]
        attacks = list(attacks) if isinstance(attacks, (list, tuple)) else [attacks]
        resolve(attacks, eps=self.eps, norm=self.norm)
        return attacks

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.report: Report | None = None
        self._weights: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._reset()
        bounds = self.clip_values
        if bounds is None and getattr(self.model, "clip_values", None) is None:
            bounds = None if self._data is None else self._data.clip_values
        # Held from now on, and its compiled functions with it.
        self._classifier = Classifier.of(self.model, bounds)
        x = self._classifier.check(self.x)
        check_labels(self.y, len(x), self._classifier.known_classes)
        self._evaluate(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self.freq and not last:
            return
        self.report = self._evaluate(len(self.x))
        value = self.report.robust_accuracy
        if logs is not None:
            logs[MONITOR] = value
        better = self.best is None or value > self.best
        if self.verbose:
            rows = self.report.attacks.items()
            each = ", ".join(f"{name} {row.accuracy:.4f}" for name, row in rows)
            note = "the best so far" if better else f"best {self.best:.4f}"
            print(f"\nEpoch {epoch + 1}: {MONITOR} {value:.4f} ({each}), {note}")
        if not better:
            return
        self.best, self.best_epoch = value, epoch
        if self.restore_best:
            self._weights = self.model.get_weights()
        if self.save_best is not None:
            # An interruption must not leave half a file in the place of the best model so far.
            part = self.save_best.with_name(f"{self.save_best.stem}.part.keras")
            self.model.save(part)
            os.replace(part, self.save_best)

    def on_train_end(self, logs: Any = None) -> None:
        if self._weights is not None:
            self.model.set_weights(self._weights)

    def _evaluate(self, samples: int) -> Report:
        """On the first samples."""
        given: tuple[Any, ...] = (self.x[:samples], self.y[:samples])
        if self._data is not None:
            given = (self._data.take(np.arange(samples)),)
        return evaluate(
            self._classifier,
            *given,
            attacks=self.attacks,
            eps=self.eps,
            norm=self.norm,
            batch_size=self.batch_size,
            probes=False,
        )

    def get_config(self) -> dict[str, Any]:
        """What the value depends on, samples aside: a run that goes on must not change it."""
        return {
            "attacks": [one if isinstance(one, str) else repr(one) for one in self.attacks],
            "eps": self.eps,
            "norm": str(self.norm),
            "freq": self.freq,
            "batch_size": self.batch_size,
            "restore_best": self.restore_best,
        }

    def get_state(self) -> dict[str, np.ndarray]:
        """What a run that is interrupted has to take up again; see `kerasrobust.models.fit`."""
        if self.best is None:
            return {}
        weights = {f"weight_{i}": value for i, value in enumerate(self._weights or ())}
        return {"best": np.array(self.best), "epoch": np.array(self.best_epoch), **weights}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Takes up what `get_state` returned."""
        if state:
            self.best, self.best_epoch = float(state["best"]), int(state["epoch"])
            if self.restore_best:
                self._weights = [state[f"weight_{i}"] for i in range(len(state) - 2)]


def _model_file(path: str | os.PathLike[str]) -> pathlib.Path:
    file = pathlib.Path(path)
    if file.suffix != ".keras" or not file.absolute().parent.is_dir():
        raise ValueError(
            "`save_best` must be a file in an existing folder, its name ending in .keras. "
            f"Received: save_best={os.fspath(path)!r}"
        )
    return file
