"""Universal adversarial perturbation."""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base
from kerasrobust.engine import drivers


class UniversalJob(drivers.Job):
    """A run that looks for one perturbation of all samples before it applies it to each batch."""

    attack: UniversalPerturbation
    noise: np.ndarray | None = None

    def __init__(self, attack: Any, classifier: Any, leaves: dict[str, np.ndarray]):
        self.owner = attack  # told of the perturbation; against a callable `attack` is a copy
        super().__init__(attack, classifier, leaves)

    def _drive(self, rows: np.ndarray, seed: tf.Tensor, pool: Any, bar: Any) -> None:
        if self.noise is None:
            self.noise = self._search(bar)
        self.x_adv[rows] = self.best[rows] = self._perturbed(rows, self.noise)

    def _search(self, bar: Any) -> np.ndarray:
        attack, everyone = self.attack, np.arange(self.n)
        inner = attack.inner.bind(self.classifier)
        draw = np.random.default_rng(attack.seed)
        noise = best = np.zeros_like(self.leaves["x"][0])
        best_rate, passes = -1.0, np.zeros(2, np.int64)
        for _ in range(attack.max_iter):
            order = draw.permutation(self.n)
            for group in np.split(order, np.arange(attack.group_size, self.n, attack.group_size)):
                points = self._perturbed(group, noise)
                right = ~self._fooled(self._labels(points, group), group)
                if not right.any():
                    continue
                mask = self.leaves["mask"][group[right]] if "mask" in self.leaves else None
                found = inner.run(points[right], self.leaves["y"][group[right]], mask=mask)
                passes += (found.queries.sum(), found.gradients.sum())
                self.executed["executed_queries"] += found.executed_queries
                self.executed["executed_gradients"] += found.executed_gradients
                noise = self._projected(noise + (found.x_adv - found.x).sum(axis=0))
            bar.update(self.n)
            labels = self._labels(self._perturbed(everyone, noise), everyone)
            rate = float(self._fooled(labels, everyone).mean())
            if rate > best_rate:
                best, best_rate = noise, rate
            if rate >= 1 - attack.delta:
                break
        # What all samples have in common is paid for by all of them.
        for counter, total in zip((self.queries, self.gradients), passes, strict=True):
            share, rest = divmod(int(total), self.n)
            counter += share + (everyone < rest)
        self.owner.noise, self.owner.fooling_rate = best, best_rate
        self.owner.converged = best_rate >= 1 - attack.delta
        return best

    def _labels(self, points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        self.queries[rows] += self.classifier.votes
        self.executed["executed_queries"] += self.classifier.votes * len(rows)
        return self.classifier.judge(points, self.attack.batch_size)[0]

    def _perturbed(self, rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
        x = self.leaves["x"][rows]
        low, high = self.classifier.clip_values
        moved = np.clip(x + noise, low, high)
        return np.where(self.leaves["mask"][rows] > 0, moved, x) if "mask" in self.leaves else moved

    def _projected(self, noise: np.ndarray) -> np.ndarray:
        radius = tf.constant([self.attack.eps], tf.float32)
        return norms.project(tf.constant(noise[None]), radius, self.attack.norm).numpy()[0]


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
        eps: Budget in the unit of the inputs, one number.
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
    job = UniversalJob
    norms = (math.inf, 2.0)
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
        eps: float = 10 / 255,
        norm: float | str = math.inf,
        group_size: int = 8,
        **common: Unpack[base.Common],
    ):
        from kerasrobust.attacks import registry  # which imports this module

        self.delta = checks.check_float("delta", delta)
        if self.delta > 1:
            raise ValueError(f"`delta` must be in 0..1. Received: delta={delta!r}")
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.eps = checks.check_float("eps", eps)
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

    def perturb(self, x: tf.Tensor, y: tf.Tensor, **options: Any) -> tf.Tensor:
        """Not to be had: the perturbation belongs to a data set, not to a batch in a graph.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"{type(self).__name__} cannot be part of a graph: it looks for one perturbation of a "
            "whole data set. Call `run` or `generate`."
        )
