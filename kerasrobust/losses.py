"""What attacks maximise: per-sample losses of logits `[batch, classes]` and labels `[batch]`.

The gradient `p - onehot(y)` of the cross-entropy is nothing in float32 where a model is sure of
itself: its entry of the true class is 0 above a gap of 17 between the logits, all of it above 100.
So attacks climb the logarithm of what their papers climb, or its odds: a strictly increasing
function has the same ascent direction and the same order of points, and these have gradients of
the size of one at any gap.
"""

from __future__ import annotations

import math

import tensorflow as tf

FAR = 1e30
# Below it `log(1 + e^m)` is `m` to float32's precision, and a Taylor series does for KL.
NEGLIGIBLE, SMALL = -17.0, 0.1


def log_odds(
    logits: tf.Tensor, labels: tf.Tensor, temperature: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """`log((1 - p_y) / p_y) = log sum_{j != y} exp(z_j) - z_y`, `[batch]`.

    The cross-entropy is `log(1 + e^m)` of this `m`, its gradient `1 - p_y` times that of `m`,
    which is `softmax_{j != y}(z) - onehot(y)`: exact, whatever the gap.

    At a temperature `t` it is `t log sum_{j != y} exp(z_j / t) - z_y`, with `softmax(z / t)` in
    the gradient: from a look at all classes, as `t` falls, to the nearest alone, `-margin`.

    Args:
        logits: `[batch, classes]`.
        labels: `[batch]`.
        temperature: Positive, one or `[batch]`.
    """
    own = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)
    warmth = tf.reshape(tf.cast(temperature, logits.dtype), [-1, 1])
    others = warmth[:, 0] * tf.reduce_logsumexp((logits - FAR * own) / warmth, axis=-1)
    return others - tf.reduce_sum(logits * own, axis=-1)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`-log softmax(z)_y`, `[batch]`; value and gradient are exact down to float32's least."""
    return tf.nn.softplus(log_odds(logits, labels))


def smooth(labels: tf.Tensor, k: float) -> tf.Tensor:
    """`k * p + (1 - k) / (C - 1) * (1 - p)` of distributions `p`, `[batch, C]`."""
    return k * labels + (1.0 - k) / (labels.shape[-1] - 1) * (1.0 - labels)


def log_smoothed(logits: tf.Tensor, labels: tf.Tensor, k: float) -> tf.Tensor:
    """`log KL(q || softmax(z))`, `[batch]`, with `q_y = k` and equal shares for the other classes.

    It rises with the cross-entropy of the smoothed labels `q`, whose gradient is `softmax(z) - q`:
    where the model gives the class `y` more than `k`, that raises `p_y`.
    """
    classes = logits.shape[-1]
    return log_kl_divergence(tf.math.log(smooth(tf.one_hot(labels, classes), k)), logits)


def margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`z_y - max_{j != y} z_j`, `[batch]`: positive where the model predicts `y`.

    The difference that Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks",
    2017 (f6), put into their objective.
    """
    own = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False)
    # Logits of minus infinity are those of classes that a model rules out.
    others = tf.reduce_max(tf.where(own, logits.dtype.min, logits), axis=-1)
    return tf.reduce_sum(tf.where(own, logits, 0), axis=-1) - others


def probability_margin(
    logits: tf.Tensor, labels: tf.Tensor, own: tf.Tensor, other: tf.Tensor
) -> tf.Tensor:
    """`max_{j != y} p_j - p_y`, `[batch]`, with the gradient of the terms that are asked for.

    Xie et al., arXiv:2411.15210, the probability margin loss. The gradient is that of the
    probabilities times a positive number for each sample, chosen so that the larger of the two
    terms' gradients is of the size of one at any gap.

    Args:
        logits: `[batch, classes]`.
        labels: `y`, int32 `[batch]`.
        own: bool `[batch]`, whether the gradient of `-p_y` counts.
        other: bool `[batch]`, whether that of the other one does.
    """
    true = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)
    odds = log_odds(logits, labels)
    largest = tf.reduce_max(log_softmax(logits) - FAR * true, axis=-1)
    # d(-p_y) = p_y (1 - p_y) d(odds), d(p_j) = p_j d(log p_j).
    first = tf.where(own, -tf.nn.softplus(odds) - tf.nn.softplus(-odds), -FAR)
    second = tf.where(other, largest, -FAR)
    scale = tf.maximum(first, second)
    first, second = (tf.stop_gradient(tf.exp(size - scale)) for size in (first, second))
    climbed = first * odds + second * largest
    value = tf.exp(largest) - tf.exp(-tf.nn.softplus(odds))
    return climbed + tf.stop_gradient(value - climbed)


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
    """`KL(softmax(p) || softmax(q))`, `[batch]`, for training: exact to float32's 1e-7 of one."""
    log_p = tf.nn.log_softmax(logits_p)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - tf.nn.log_softmax(logits_q)), axis=-1)


def log_kl_divergence(log_p: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """`log KL(p || softmax(z))`, `[batch]`, for attacks; about -1e30 where the divergence is 0.

    `KL = sum_j p_j h(log q_j - log p_j)` with `h(u) = e^u - 1 - u`, which is never negative, so
    that nothing cancels. The cross-entropy of any constant `p` has the same ascent direction.

    Args:
        log_p: `[batch, classes]`, normalised (`log_softmax` or the log of labels); may be -inf.
        logits: `z`, `[batch, classes]`.
    """
    log_q, none = log_softmax(logits), tf.math.is_inf(log_p)
    u = log_q - tf.where(none, log_q, log_p)
    # Each branch is given a harmless number where another one counts, for the sake of its gradient.
    near, beyond = tf.abs(u) < SMALL, u > 1.0
    flat = tf.equal(u, 0.0)
    v = tf.where(near & ~flat, u, SMALL)
    series = 2 * tf.math.log(tf.abs(v)) - math.log(2)
    series += tf.math.log1p(v / 3 + tf.square(v) / 12 + v**3 / 60)
    v = tf.where(near | beyond, -1.0, u)
    plain = tf.math.log(tf.math.expm1(v) - v)
    v = tf.where(beyond, u, 2.0)
    large = v + tf.math.log1p(-(1 + v) * tf.exp(-v))
    log_h = tf.where(near, series, tf.where(beyond, large, plain))
    terms = tf.where(flat, -FAR, tf.where(none, 0.0, log_p) + log_h)
    return tf.reduce_logsumexp(tf.where(none, log_q, terms), axis=-1)


def log_entropy(logits: tf.Tensor) -> tf.Tensor:
    """`log(-sum_j p_j log p_j)` with `p = softmax(z)`, `[batch]`."""
    top = tf.argmax(logits, axis=-1)
    own = tf.one_hot(top, tf.shape(logits)[-1], on_value=True, off_value=False)
    log_p, odds = log_softmax(logits), log_odds(logits, top)
    negligible = odds < NEGLIGIBLE
    least = tf.math.log(tf.nn.softplus(tf.where(negligible, 0.0, odds)))
    least = tf.where(negligible, odds, least)
    size = tf.where(own, least[:, None], tf.math.log(-tf.where(own, -1.0, log_p)))
    return tf.reduce_logsumexp(log_p + size, axis=-1)


def log_softmax(logits: tf.Tensor) -> tf.Tensor:
    """`log softmax(z)`, the likeliest class too to float32's relative precision."""
    top = tf.argmax(logits, axis=-1)
    own = tf.one_hot(top, tf.shape(logits)[-1], dtype=logits.dtype)
    likeliest = -tf.nn.softplus(log_odds(logits, top))[:, None]
    return logits - tf.reduce_sum(logits * own, axis=-1, keepdims=True) + likeliest
