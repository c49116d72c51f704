"""Universal adversarial perturbation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base, registry
from kerasrobust.engine import drivers
from kerasrobust.engine.batches import Batch, Prologue
from kerasrobust.engine.source import Source


class UniversalPerturbation(base.Attack):
    """One perturbation that fools the model on most samples of a data set.

    For one group of samples after the other, in random order, the inner attack starts at
    `x_i + v` for those that `v` does not fool yet; what it adds is added to `v`, and `v` is
    projected onto the ball: `v <- P_eps(v + sum_i dv_i)`. Passes over the data go on until the
    share of fooled samples is `1 - delta`; the best `v` of all passes is returned.

    `group_size=1` is the paper's algorithm, which looks at one sample at a time. ART returns the
    last perturbation, lets `x_i + v` leave the box, and has `eps=10`, the paper's figure for pixels
    in 0..255.

    After `run` or `generate` the attack has the attributes `noise` (the perturbation, shape of one
    sample), `fooling_rate` and `converged`. In the result each sample carries an equal share of
    the passes.

    Reference: Moosavi-Dezfooli et al., "Universal adversarial perturbations", 2017,
    arXiv:1610.08401, algorithm 1.

    Args:
        model: See `Attack`.
        attacker: The inner attack: a registry name, a specification, or what `get` takes.
        attacker_params: Its hyperparameters.
        delta: Share of the samples that need not be fooled.
        max_iter: Largest number of passes over the data.
        eps: Budget in the unit of the inputs, one number. Default: 10/255 of the width of the box.
        norm: inf or 2.
        group_size: Samples whose perturbations are added up at a time.
        **common: `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`; not `targeted`.

    Example:
        >>> attack = UniversalPerturbation(model, eps=0.2)
        >>> x_adv = attack.generate(x, y)
        >>> others = np.clip(x_test + attack.noise, 0, 1)
    """

    name = "uap"
    kind = "budget"
    strategy = "optimization"
    source = "AREB"
    can_target = False
    in_graph = False
    random = True
    norms = (math.inf, 2.0)
    lengths = {"eps": 10 / 255}
    art_defaults = {"eps": 10.0}

    noise: np.ndarray | None = None
    fooling_rate: float | None = None
    converged: bool | None = None

    def __init__(
        self,
        model: Any = None,
        *,
        attacker: Any = "deepfool",
        attacker_params: dict[str, Any] | None = None,
        delta: float = 0.2,
        max_iter: int = 20,
        eps: float | None = None,
        norm: float | str = math.inf,
        group_size: int = 8,
        **common: Unpack[base.Common],
    ):
        self.delta = checks.check_float("delta", delta)
        if self.delta > 1:
            raise ValueError(f"`delta` must be in 0..1. Received: delta={delta!r}")
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.eps = None if eps is None else checks.check_float("eps", eps)
        self.norm = norms.check_norm(norm, self.norms)
        self.group_size = checks.check_int("group_size", group_size, 1)
        self.attacker_params = dict(attacker_params or {})
        self.inner = registry.get(attacker, **self.attacker_params)
        if isinstance(attacker, base.Attack):
            attacker = {"name": attacker.name, "config": attacker.get_config()}
        self.attacker = attacker
        if self.inner.targeted or isinstance(self.inner, UniversalPerturbation):
            raise ValueError(
                "`attacker` must be an untargeted attack on single samples. "
                f"Received: attacker={attacker!r}, attacker_params={attacker_params!r}"
            )
        self.access = self.inner.access  # type: ignore[misc]
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def prologue(self, source: Source) -> Prologue:
        """Looks for the perturbation, on all samples at once."""
        classifier, n = self.bound, len(source)
        (x, y), mask = source.whole(), source.mask
        inner = self.inner.bind(classifier)
        draw = np.random.default_rng(self.seed)
        noise = best = np.zeros_like(x[0])
        best_rate, passes = -1.0, np.zeros(4, np.int64)
        if y is None:
            y = classifier.judge(x, self.batch_size)[0]

        def moved(rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
            return self._moved(x[rows], noise, None if mask is None else mask[rows])

        def fooled(rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
            nonlocal passes
            passes[[0, 2]] += classifier.votes * len(rows)
            found = []
            for number, first in enumerate(range(0, len(rows), self.batch_size)):
                part = rows[first : first + self.batch_size]
                key = (0, number)
                labels, _, accepted = classifier.judge(moved(part, noise), self.batch_size, key)
                found.append(self.criterion.met(labels, y[part], accepted))
            return np.concatenate(found)

        for _ in range(self.max_iter):
            order = draw.permutation(n)
            for group in np.split(order, np.arange(self.group_size, n, self.group_size)):
                right = group[~fooled(group, noise)]
                if not len(right):
                    continue
                inside = None if mask is None else mask[right]
                found = inner.run(moved(right, noise), y[right], mask=inside)
                passes += (
                    found.queries.sum(),
                    found.gradients.sum(),
                    found.executed_queries,
                    found.executed_gradients,
                )
                assert found.x is not None and found.x_adv is not None
                noise = self._projected(noise + (found.x_adv - found.x).sum(axis=0))
            rate = float(fooled(np.arange(n), noise).mean())
            if rate > best_rate:
                best, best_rate = noise, rate
            if rate >= 1 - self.delta:
                break
        return {"noise": best, "fooling_rate": np.array(best_rate), "passes": passes}

    def craft(
        self, batch: Batch, prologue: Prologue, progress: Callable[[int], None]
    ) -> drivers.Crafted:
        """Adds the perturbation; what was paid for it is shared by all samples."""
        self.noise, self.fooling_rate = prologue["noise"], float(prologue["fooling_rate"])
        self.converged = self.fooling_rate >= 1 - self.delta
        x = batch.given["x"]
        crafted = drivers.Crafted.untouched(x)
        moved = self._moved(x, prologue["noise"], batch.given.get("mask"))
        crafted.x_adv[:] = crafted.best[:] = moved
        for number, key in enumerate(("queries", "gradients")):
            share, rest = divmod(int(prologue["passes"][number]), batch.total)
            getattr(crafted, key)[:] = share + (batch.rows < rest)
        if batch.index == 0:
            crafted.executed_queries, crafted.executed_gradients = map(int, prologue["passes"][2:])
        progress(self.max_steps() * len(x))
        return crafted

    def _moved(self, x: np.ndarray, noise: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        moved = np.clip(x + noise, *self.bound.clip_values)
        return moved if mask is None else np.where(mask > 0, moved, x)

    def _projected(self, noise: np.ndarray) -> np.ndarray:
        radius = tf.constant([self.eps], tf.float32)
        return norms.project(tf.constant(noise[None]), radius, self.norm).numpy()[0]

    def perturb(self, x: tf.Tensor, y: tf.Tensor, **options: Any) -> tf.Tensor:
        """Not to be had: the perturbation belongs to a data set, not to a batch in a graph.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"{type(self).__name__} cannot be part of a graph: it looks for one perturbation of a "
            "whole data set. Call `run` or `generate`."
        )
