"""Transfer attack."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf

from kerasrobust import losses, norms
from kerasrobust.attacks import base, registry
from kerasrobust.engine import drivers
from kerasrobust.engine.batches import Batch, Prologue
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.source import Source


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

    def __init__(
        self,
        model: Any = None,
        *,
        attack: Any = "pgd",
        sources: Any = (),
        **common: Unpack[base.Common],
    ):
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
        return getattr((*self.crafters, self.attack)[0], "eps", None)

    def max_steps(self) -> int:
        return len(self.sources)

    def check(self) -> None:
        target = self.bound
        if not self.sources:
            raise ValueError(
                "A transfer attack needs at least one model to craft on. Received: sources=[]"
            )
        self.crafters = [self.attack.bind(_classifier(source, target)) for source in self.sources]
        for crafter in self.crafters:
            source = crafter.bound
            shapes = {source.input_shape, target.input_shape or source.input_shape}
            if source.clip_values != target.clip_values or len(shapes) > 1:
                raise ValueError(
                    "Sources must take the same inputs as the model: "
                    f"{target.input_shape} in {target.clip_values}. "
                    f"Received: {source.input_shape} in {source.clip_values}"
                )

    def other_models(self) -> list[Classifier]:
        return [crafter.bound for crafter in self.crafters]

    def craft(
        self, batch: Batch, prologue: Prologue, progress: Callable[[int], None]
    ) -> drivers.Crafted:
        """Crafts on the sources; of what fools the model the nearest is kept for each sample."""
        crafted = drivers.Crafted.untouched(batch.given["x"])
        done = batch.given["done"]
        progress(int(done.sum()) * self.max_steps())
        rows = np.flatnonzero(~done)
        if not len(rows):
            return crafted
        part = batch.part(rows)
        y, x = part.given["y"], part.given["x"]
        nearest = np.full(len(rows), math.inf)
        for number, crafter in enumerate(self.crafters):
            own: dict[str, np.ndarray] = {**part.given}
            known = crafter.bound.judge(x, batch.whole)[0]
            already = crafter.criterion.met(known, y) & (crafter.kind == "minimal")
            inner = crafter.batch(batch.index, part.rows, batch.total, own, part.y)
            given = {**inner.given, "done": already}
            # What its samples share is made from this batch: a source sees no more of them.
            shared = crafter.prologue(Source(x, None, crafter.bound))
            inner = dataclasses.replace(inner, given=given, whole=batch.whole)
            found = crafter.craft(inner, shared, lambda steps: None)
            crafted.gradients[rows] += found.gradients
            crafted.executed_gradients += found.executed_gradients
            progress(len(rows))
            if len(self.crafters) == 1:  # judged with all others at the end
                crafted.x_adv[rows] = found.x_adv
                break
            target = self.bound.judging
            key = (self.seed, len(self.crafters) * batch.index + number)
            labels, _, accepted = target.judge(found.x_adv, batch.whole, key)
            crafted.queries[rows] += target.votes
            crafted.executed_queries += target.votes * len(rows)
            distance = norms.norm(tf.constant(found.x_adv - x), self.norm).numpy()
            better = self.criterion.met(labels, y, accepted) & (distance < nearest)
            nearest[better] = distance[better]
            untouched = np.isinf(nearest) & ~crafted.found[rows]
            taken = better | untouched
            crafted.x_adv[rows[taken]] = found.x_adv[taken]
            crafted.found[rows[better]] = True
            crafted.best[rows[better]] = found.x_adv[better]
        return crafted

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
        start: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """See `Attack.perturb`; of several sources' points the one of the model's largest loss."""
        target = self.bound
        sign = -1.0 if self.targeted else 1.0
        labels = tf.cast(tf.reshape(y, [-1]), tf.int32)
        best = self.crafters[0].perturb(x, y, seed=seed, scale=scale, start=start)
        for crafter in self.crafters[1:]:
            point = crafter.perturb(x, y, seed=seed, scale=scale, start=start)
            loss, highest = (
                sign * losses.log_odds(target.logits(p), labels) for p in (point, best)
            )
            best = norms.select(loss > highest, point, best)
        return tf.stop_gradient(best)


def _classifier(source: Any, target: Classifier) -> Classifier:
    if isinstance(source, (str, os.PathLike)):
        source = keras.saving.load_model(source)
    bounds = getattr(source, "clip_values", None) or target.clip_values
    return Classifier.of(source, tuple(bounds))
