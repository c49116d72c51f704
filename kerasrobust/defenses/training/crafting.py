"""What links share that train on what the attacks of the library make of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.attacks import Attack
from kerasrobust.defenses.training.base import Batch, Context
from kerasrobust.defenses.training.labels import integer_labels


def check_recipe(name: str, value: Any) -> Attack:
    """The attack given as argument `name`, if a training step can craft with it."""
    if isinstance(value, (list, tuple)):
        raise TypeError(
            f"`{name}` must be one attack: the defense 'ensemble_adversarial_training' takes "
            f"several, `attacks=[...]`. Received: {name}={value!r}"
        )
    attack = attacks.get(value)
    if not attack.in_graph:
        raise ValueError(
            f"`{name}` must be able to run as part of a training step, which {attack.name!r} is "
            f"not. Received: {name}={value!r}"
        )
    if attack.targeted:
        raise ValueError(
            f"`{name}` must be untargeted: labels are true labels here. Received: {name}={value!r}"
        )
    for length in ("eps", "eps_step"):
        size: Any = getattr(attack, length, None)
        if np.ndim(size):
            raise ValueError(
                f"`{length}` of `{name}` must be one number: batches hold other samples each time. "
                f"Received: {name}={value!r}"
            )
    return attack


def describe(attack: Attack) -> dict[str, Any]:
    """The attack as a configuration that `kerasrobust.attacks.get` takes."""
    return {"name": attack.name, "config": attack.get_config()}


def craft(
    attack: Attack, batch: Batch, context: Context, mode: str, name: str, **options: Any
) -> tf.Tensor:
    """What an attack makes of a batch, against the model as it is now; no gradient passes through.

    Args:
        attack: A recipe; one that has a model already is bound to the one in training.
        batch: The batch.
        context: Of the step.
        mode: Of the classifier that the attack sees, ``"inference"`` or ``"training"``.
        name: Of what the attack draws.
        **options: Of `Attack.perturb`.
    """
    classifier = context.classifier(mode)
    bound = attack.bind(classifier)
    # The step is one graph, compiled by XLA as a whole or not at all, whatever the attack says.
    bound.jit_compile = bool(context.model.jit_compile)
    labels = integer_labels(batch.labels, classifier.nb_classes)
    return bound.perturb(batch.x, labels, seed=context.local_seed(name), **options)
