"""A training defense that is found by an entry point."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust import checks
from kerasrobust.defenses import TrainingDefense


@keras.saving.register_keras_serializable("kerasrobust_plugin")
class PluginDefense(TrainingDefense):
    """Adds `weight * mean(logits^2)` to the loss of each sample.

    Logit squeezing: Kannan, Kurakin and Goodfellow, 2018, arXiv:1803.06373.
    """

    name = "plugin-defense"

    def __init__(self, weight: float = 0.1):
        self.weight = checks.check_float("weight", weight)

    def objective(self, batch: Any, inner: Any) -> tf.Tensor:
        return inner(batch) + self.weight * tf.reduce_mean(inner.logits(batch) ** 2, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight}
