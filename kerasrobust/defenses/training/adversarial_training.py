"""Adversarial training: train on what an attack makes of each sample."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.training.base import (
    CRAFTS,
    Batch,
    Context,
    Inner,
    TrainingDefense,
    check_mode,
)
from kerasrobust.defenses.training.crafting import check_recipe, craft, describe


def _has_budget(attack: Any) -> bool:
    return getattr(attack, "eps", None) is not None or attack.lengths.get("eps") is not None


@keras.saving.register_keras_serializable("kerasrobust")
class AdversarialTraining(TrainingDefense):
    """Trains on a mixture of clean and adversarial samples, crafted anew in each step.

    The loss of a sample is

        alpha * J(x, y) + (1 - alpha) * J(x_adv, y)

    with `J` the rest of the chain and `x_adv` the strongest point that the attack found against
    the model as it is at that step. With `alpha=0` no clean pass is made at all, the adversarial
    training of Madry et al.

    With `warmup_steps` the attack starts small: at step `t = 0, 1, ...` its `eps` and `eps_step`
    are `min((t + 1) / warmup_steps, 1)` times what they are later. The step is the one that is
    saved with the model, so that a resumed run goes on where it was.

    Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", 2015,
    arXiv:1412.6572, section 6; Madry et al., "Towards Deep Learning Models Resistant to
    Adversarial Attacks", 2018, arXiv:1706.06083, eq. 2.1.
    On the warm-up: Pang et al., "Bag of Tricks for Adversarial Training", 2021, arXiv:2010.00467.

    Limits: robustness is gained against the attack's norm and budget and little beyond; with a
    single-step attack the model may learn to blind that attack only. A step costs as many more
    forward and backward passes as the attack makes. On several devices an attack that draws random
    starts draws others than on one; a deterministic one gives the same step.

    Args:
        attack: A recipe (an attack without a model), or what `kerasrobust.attacks.get` takes: a
            name with arguments, ``"pgd:eps=0.3"`` say, or a dictionary. Untargeted, with one
            `eps` for all samples. Default: ``"pgd"`` with its own defaults.
        alpha: Weight of the clean samples, at least 0 and below 1. Default 0.5.
        crafting: ``"inference"`` (default): the attack sees the model as it will serve;
            ``"training"``: it sees batch statistics and dropout. Neither moves any statistic.
        batch_norm: Mode of the adversarial pass: ``"training"`` (updates batch-norm statistics,
            the default), ``"inference"`` or ``"stateless"``.
        warmup_steps: Training steps over which the attack grows to its full `eps`. Default 0.

    Raises:
        TypeError: If `attack` is of another type.
        ValueError: If the attack is unknown, targeted, cannot be part of a training step or has no
            `eps` to warm up, or another argument is out of range.

    Example:
        >>> recipe = kerasrobust.attacks.get("pgd", eps=0.3, eps_step=0.1, max_iter=7)
        >>> model = kerasrobust.wrap(model, "adversarial_training", attack=recipe, alpha=0.0)
    """

    name = "adversarial_training"
    source = "all"
    rank = CRAFTS

    def __init__(
        self,
        attack: Any = "pgd",
        alpha: float = 0.5,
        crafting: str = "inference",
        batch_norm: str = "training",
        warmup_steps: int = 0,
    ):
        self.alpha = check_float("alpha", alpha)
        if self.alpha >= 1:
            raise ValueError(f"`alpha` must be below 1. Received: alpha={alpha!r}")
        self.attack = check_recipe("attack", attack)
        self.crafting = check_mode("crafting", crafting, ("inference", "training"))
        self.batch_norm = check_mode("batch_norm", batch_norm)
        self.warmup_steps = check_int("warmup_steps", warmup_steps, 0)
        if self.warmup_steps and not _has_budget(self.attack):
            raise ValueError(
                f"`warmup_steps` needs an attack with an `eps` to grow, which {self.attack.name!r} "
                f"has not. Received: warmup_steps={warmup_steps!r}, attack={attack!r}"
            )
        self.views = (crafting,)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        options = {}
        if self.warmup_steps:
            begun = tf.cast(context.step + 1, tf.float32)
            options["scale"] = tf.minimum(begun / self.warmup_steps, 1.0)
        adversarial = craft(self.attack, batch, context, self.crafting, self.name, **options)
        return batch.with_extra(self.name, adversarial)

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        x, batch = batch.pop_extra(self.name)
        # The clean pass comes first: its batch statistics are the older ones in the moving mean.
        clean = inner(batch) if self.alpha else None
        adversarial = inner(batch.derive(x, "adversarial", self.batch_norm))
        if clean is None:
            return adversarial
        return self.alpha * clean + (1.0 - self.alpha) * adversarial

    def get_config(self) -> dict[str, Any]:
        return {
            "attack": describe(self.attack),
            "alpha": self.alpha,
            "crafting": self.crafting,
            "batch_norm": self.batch_norm,
            "warmup_steps": self.warmup_steps,
        }
