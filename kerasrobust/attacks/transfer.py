"""Transfer attack."""

from __future__ import annotations

import math
import os
from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf

from kerasrobust import losses, norms
from kerasrobust.attacks import base
from kerasrobust.engine import drivers
from kerasrobust.engine.classifier import Classifier


class TransferJob(drivers.Job):
    """Crafts on the sources and keeps, for each sample, what fools the model from nearest by."""

    attack: TransferAttack

    def _drive(self, rows: np.ndarray, seed: Any, pool: Any, bar: Any) -> None:
        attack = self.attack
        bar.update(int(self.leaves["done"][rows].sum()) * attack.max_steps())
        rows = rows[~self.leaves["done"][rows]]
        if not len(rows):
            return
        nearest = np.full(len(rows), math.inf)
        for crafter in attack.crafters:
            leaves: dict[str, np.ndarray] = crafter.leaves(len(rows))
            leaves.update(
                (key, self.leaves[key][rows]) for key in ("x", "mask") if key in self.leaves
            )
            job = crafter.job(crafter, crafter._bound(), leaves)
            job.craft(self.leaves["y"][rows].astype(np.int64))
            self.gradients[rows] += job.gradients
            self.zero_gradients[rows] += job.zero_gradients
            self.executed["executed_gradients"] += job.executed["executed_gradients"]
            bar.update(len(rows))
            if len(attack.crafters) == 1:  # judged with all others at the end
                self.x_adv[rows] = job.x_adv
                return
            points = self.x_adv.copy()
            points[rows] = job.x_adv
            labels, _ = self._predict(points, rows)
            delta = tf.constant(points[rows] - self.leaves["x"][rows])
            distance = norms.norm(delta, attack.norm).numpy()
            better = self._fooled(labels, rows) & (distance < nearest)
            nearest[better] = distance[better]
            untouched = np.isinf(nearest) & ~self.found[rows]
            self.x_adv[rows[better | untouched]] = points[rows[better | untouched]]
            self.found[rows[better]] = True
            self.best[rows[better]] = points[rows[better]]


class TransferAttack(base.Attack):
    """Crafts on other models and tries the result on this one, of which it sees nothing.

    Any attack may do the crafting. With one source the model is asked nothing before the final
    judgement; with several, each sample is tried once per source and the nearest one that fools
    the model is kept. Of a budget attack the strongest point is tried even where it fails on its
    source. For one gradient over several models see `GradientEnsembleAttack`.

    Reference: Papernot, McDaniel & Goodfellow, "Transferability in Machine Learning: from
    Phenomena to Black-Box Attacks using Adversarial Samples", 2016, arXiv:1605.07277.

    Args:
        model: The model to fool; see `Attack`.
        attack: What crafts: whatever `kerasrobust.attacks.get` takes.
        sources: The model or models to craft on: Keras models, `Classifier`s or paths of saved
            Keras models.
        **common: `targeted` (by default that of `attack`), `batch_size`, `seed`, `verbose`,
            `jit_compile`: see `Attack`.

    Example:
        >>> attack = TransferAttack(model, attack="pgd:eps=0.1", sources=[substitute])
        >>> x_adv = attack.generate(x, y)
    """

    name = "transfer"
    access = "none"
    strategy = "sensitivity"
    source = "GEA, E2SAD, NSLOSS"
    job = TransferJob

    def __init__(
        self,
        model: Any = None,
        *,
        attack: Any = "pgd",
        sources: Any = (),
        **common: Unpack[base.Common],
    ):
        from kerasrobust.attacks import registry  # which knows this class too

        aim = {"targeted": common["targeted"]} if "targeted" in common else {}
        self.attack = registry.get(attack, **aim)
        self.sources = list(sources) if isinstance(sources, (list, tuple)) else [sources]
        self.crafters: list[base.Attack] = []
        common["targeted"] = self.attack.targeted
        super().__init__(model, **common)

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.attack.kind

    @property
    def norm(self) -> float:  # type: ignore[override]
        return self.attack.norm

    @property
    def eps(self) -> Any:
        return getattr(self.attack, "eps", None)

    def max_steps(self) -> int:
        return len(self.sources)

    def check(self) -> None:
        target = self._bound()
        if not self.sources:
            raise ValueError(
                "A transfer attack needs at least one model to craft on. Received: sources=[]"
            )
        self.crafters = [self.attack.bind(_classifier(source, target)) for source in self.sources]
        for crafter in self.crafters:
            source = crafter._bound()
            shapes = {source.input_shape, target.input_shape or source.input_shape}
            if source.clip_values != target.clip_values or len(shapes) > 1:
                raise ValueError(
                    "Sources must take the same inputs as the model: "
                    f"{target.input_shape} in {target.clip_values}. "
                    f"Received: {source.input_shape} in {source.clip_values}"
                )

    def get_config(self) -> dict[str, Any]:
        """See `Attack.get_config`; a source that is no path is given by its name."""
        names = [
            source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "model")
            for source in self.sources
        ]
        inner = {"name": self.attack.name, "config": self.attack.get_config()}
        return {**super().get_config(), "attack": inner, "sources": [str(name) for name in names]}

    def perturb(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        *,
        seed: tf.Tensor,
        scale: float | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """See `Attack.perturb`; of several sources' points the one of the model's largest loss."""
        target = self._bound()
        sign = -1.0 if self.targeted else 1.0
        labels = tf.cast(tf.reshape(y, [-1]), tf.int32)
        best = self.crafters[0].perturb(x, y, seed=seed, scale=scale)
        for crafter in self.crafters[1:]:
            point = crafter.perturb(x, y, seed=seed, scale=scale)
            loss, highest = (
                sign * losses.log_odds(target.logits(p), labels) for p in (point, best)
            )
            best = tf.where(norms.expand(loss > highest, x), point, best)
        return tf.stop_gradient(best)


def _classifier(source: Any, target: Classifier) -> Classifier:
    if isinstance(source, (str, os.PathLike)):
        source = keras.saving.load_model(source)
    bounds = getattr(source, "clip_values", None) or target.clip_values
    return Classifier.of(source, tuple(bounds))
