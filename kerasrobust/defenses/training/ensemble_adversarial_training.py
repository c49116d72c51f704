"""Ensemble adversarial training: several attacks in each step."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust.checks import check_float
from kerasrobust.defenses.training.base import (
    CRAFTS,
    Batch,
    Context,
    Inner,
    TrainingDefense,
    check_mode,
)
from kerasrobust.defenses.training.crafting import check_recipe, craft, describe

# AREB, appendix B, for MNIST; what it does not publish is as in the library's preset "areb".
# Lengths are for inputs in 0..1.
AREB_ATTACKS: tuple[dict[str, Any], ...] = (
    {"name": "pgd", "config": {"eps": 0.3, "eps_step": 0.01, "max_iter": 40}},
    {
        "name": "ead",
        "config": {
            "confidence": 0.5,
            "max_iter": 10,
            "binary_search_steps": 20,
            "beta": 0.01,
            "decision_rule": "L1",
        },
    },
    {"name": "hsja", "config": {"max_iter": 10, "max_eval": 100}},
)
STRATEGIES = ("average", "max")


def _of_paper(span: float) -> list[dict[str, Any]]:
    """The attacks of the paper for a box of some width."""
    scaled = []
    for attack in AREB_ATTACKS:
        config = attack["config"]
        lengths = {key: span * config[key] for key in ("eps", "eps_step") if key in config}
        scaled.append({**attack, "config": {**config, **lengths}})
    return scaled


@keras.saving.register_keras_serializable("kerasrobust")
class EnsembleAdversarialTraining(TrainingDefense):
    """Trains on what several attacks make of each sample, crafted anew in each step.

    With `J` the rest of the chain and `x_i` the point that attack `i` of `n` found, the loss of a
    sample is

        "average":  alpha * J(x, y) + (1 - alpha) * 1/n * sum_i J(x_i, y)
        "max":      alpha * J(x, y) + (1 - alpha) * J(x_m, y),    m = argmax_i J(x_i, y)

    In ``"average"`` the points of all attacks go through the model in one pass of `n` times the
    batch, so that batch norm sees their mixture, in the step as in the moving statistics. In
    ``"max"`` the strongest point of each sample is picked by a forward pass outside of the
    gradient (in the mode that crafting has), and there is one pass of the size of the batch.
    An attack that fails on a sample gives the sample itself.

    The AREB paper, section 4 and eq. 7, trains on "average" with PGD, EAD and HopSkipJump (Linf,
    L1 and L2), on adversarial samples alone and with label smoothing. Both strategies: Tramer and
    Boneh, "Adversarial Training and Robustness for Multiple Perturbations", 2019,
    arXiv:1904.13000, section 2.

    Limits: the attacks share what the model can learn, and against one of them the model may be
    weaker than after training on that one alone (in the paper PGD on CIFAR-10: 15.8 % against
    44.2 %). A step costs the passes of all attacks, and with the default ones of the paper, 240
    gradients and some thousand queries a sample, hundreds of times a plain one. What an attack
    draws by itself (HopSkipJump: starts and directions, and it takes the other samples of the
    device for starts) differs between one device and several.

    Args:
        attacks: What `kerasrobust.attacks.get` takes, in a list: names with arguments,
            dictionaries or recipes. Untargeted, with one `eps` for all samples. Default: the three
            of the paper with its parameters for MNIST, their lengths scaled to the box.
        strategy: ``"average"`` (default) or ``"max"``.
        alpha: Weight of the clean samples, at least 0 and below 1. Default 0: no clean pass.
        crafting: ``"inference"`` (default): the attacks see the model as it will serve;
            ``"training"``: they see batch statistics and dropout. Neither moves any statistic.
        batch_norm: Mode of the adversarial pass: ``"training"`` (updates batch-norm statistics,
            the default), ``"inference"`` or ``"stateless"``.

    Raises:
        TypeError: If `attacks` is no list, or holds something of another type.
        ValueError: If there is no attack, one is unknown, targeted or cannot be part of a training
            step, or another argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(
        ...     model,
        ...     "ensemble_adversarial_training",
        ...     attacks=["pgd:eps=0.3,max_iter=10", "ead:max_iter=5", "hsja:max_iter=2"],
        ... )
    """

    name = "ensemble_adversarial_training"
    source = "AREB"
    rank = CRAFTS

    def __init__(
        self,
        attacks: Any = None,
        strategy: str = "average",
        alpha: float = 0.0,
        crafting: str = "inference",
        batch_norm: str = "training",
    ):
        self._of_paper = attacks is None
        attacks = _of_paper(1.0) if attacks is None else attacks
        if not isinstance(attacks, (list, tuple)):
            raise TypeError(f"`attacks` must be a list of attacks. Received: attacks={attacks!r}")
        if not attacks:
            raise ValueError("At least one attack is needed. Received: attacks=[]")
        self.attacks = [check_recipe("attacks", attack) for attack in attacks]
        self.strategy = check_mode("strategy", strategy, STRATEGIES)
        self.alpha = check_float("alpha", alpha)
        if self.alpha >= 1:
            raise ValueError(f"`alpha` must be below 1. Received: alpha={alpha!r}")
        self.crafting = check_mode("crafting", crafting, ("inference", "training"))
        self.batch_norm = check_mode("batch_norm", batch_norm)
        self.views = (crafting,)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        low, high = batch.clip_values
        recipes = self.attacks
        if self._of_paper and high - low != 1:
            recipes = [check_recipe("attacks", attack) for attack in _of_paper(high - low)]
        points = tf.stack(
            [
                craft(attack, batch, context, self.crafting, f"{self.name}/{index}")
                for index, attack in enumerate(recipes)
            ],
            axis=1,
        )
        if self.strategy == "max":
            mode = "inference" if self.crafting == "inference" else "stateless"
            assert context.inner is not None
            losses = context.inner(self._all(points, batch, mode))
            strongest = tf.argmax(tf.reshape(losses, [-1, len(self.attacks)]), axis=1)
            points = tf.gather(points, strongest[:, None], batch_dims=1)
        return batch.with_extra(self.name, points)

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        points, batch = batch.pop_extra(self.name)
        # The clean pass comes first: its batch statistics are the older ones in the moving mean.
        clean = inner(batch) if self.alpha else None
        losses = inner(self._all(points, batch, self.batch_norm))
        adversarial = tf.reduce_mean(tf.reshape(losses, [-1, points.shape[1]]), axis=1)
        if clean is None:
            return adversarial
        return self.alpha * clean + (1.0 - self.alpha) * adversarial

    def _all(self, points: tf.Tensor, batch: Batch, mode: str) -> Batch:
        """The batch with all its points `[batch, n, ...]`, those of a sample in a row."""
        flat = tf.reshape(points, [-1, *batch.x.shape[1:]])
        return batch.repeat(points.shape[1]).derive(flat, "adversarial", mode)

    def get_config(self) -> dict[str, Any]:
        return {
            "attacks": None if self._of_paper else [describe(one) for one in self.attacks],
            "strategy": self.strategy,
            "alpha": self.alpha,
            "crafting": self.crafting,
            "batch_norm": self.batch_norm,
        }
