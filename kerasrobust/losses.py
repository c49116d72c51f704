"""What attacks maximise: per-sample losses of logits `[batch, classes]` and labels `[batch]`."""

from __future__ import annotations

import tensorflow as tf

FAR = 1e30


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`-log softmax(z)_y`, `[batch]`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`z_y - max_{j != y} z_j`, `[batch]`: positive where the model predicts `y`.

    The difference that Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks",
    2017 (f6), put into their objective.
    """
    own = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)
    return tf.reduce_sum(logits * own, axis=-1) - tf.reduce_max(logits - FAR * own, axis=-1)


def difference_of_logits_ratio(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))`, `[batch]`, `z_(k)` the k-th largest logit.

    Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
    Parameter-free Attacks", 2020, eq. 6. It needs at least three classes.
    """
    top = tf.math.top_k(logits, k=3).values
    return tf.math.divide_no_nan(-margin(logits, labels), top[:, 0] - top[:, 2])


def targeted_difference_of_logits_ratio(
    logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
) -> tf.Tensor:
    """`-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`, `[batch]`.

    Croce & Hein, as above, eq. 7. It needs at least four classes.
    """
    classes = tf.shape(logits)[-1]
    difference = tf.one_hot(labels, classes) - tf.one_hot(targets, classes)
    top = tf.math.top_k(logits, k=4).values
    return tf.math.divide_no_nan(
        -tf.reduce_sum(logits * difference, axis=-1), top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    )


def kl_divergence(logits_p: tf.Tensor, logits_q: tf.Tensor) -> tf.Tensor:
    """`KL(softmax(p) || softmax(q))`, `[batch]`."""
    log_p = tf.nn.log_softmax(logits_p)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - tf.nn.log_softmax(logits_q)), axis=-1)
