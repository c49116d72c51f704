"""What the penalties share: a term with a weight, added to the rest of the chain."""

from __future__ import annotations

import abc

import tensorflow as tf

from kerasrobust.defenses.training.base import Batch, Inner, TrainingDefense


class Penalty(TrainingDefense):
    """A link that adds `weight` times a term of its own to the loss of each sample.

    The term is a method, so that it can be measured by itself (`search_lambda`).

    Attributes:
        weight: Factor of the term, at least 0: the lambda of the papers.
    """

    weight: float

    @abc.abstractmethod
    def penalty(self, batch: Batch, inner: Inner) -> tuple[tf.Tensor, Batch]:
        """The term, without its weight, and the batch whose passes it made.

        Args:
            batch: What came out of `prepare`.
            inner: The rest of the chain.

        Returns:
            float32 `[batch]`, and the batch for the rest of the chain, which shares these passes.
        """

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        term, batch = self.penalty(batch, inner)
        return inner(batch) + self.weight * term
