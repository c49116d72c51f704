"""Randomized smoothing: the class that a model gives most often under Gaussian noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from kerasrobust.checks import VALUES_PER_PASS, check_float, check_int, fitting
from kerasrobust.defenses.decision.base import DecisionDefense
from kerasrobust.engine.classifier import as_seed, use_jit
from kerasrobust.engine.loops import one_at_a_time, while_loop

# Draws that one key gives, whatever the number of rows of a pass.
BLOCK = 100
# Noisy samples of a pass where nobody says how many.
USUAL = 1000
# The streams of draws: for the guess and the estimate of a certificate, and for a vote.
_GUESS, _ESTIMATE, _VOTE = range(3)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is proven of some samples, each by itself with probability `1 - alpha`.

    Attributes:
        labels: int64 `[n]`, the class that the smoothed model gives; -1 where it abstains.
        radii: float64 `[n]`, L2 distance in the unit of the inputs within which it gives no other
            class; 0 where it abstains.
        lower: float64 `[n]`, lower confidence bound of the share of draws that give this class.
    """

    labels: np.ndarray
    radii: np.ndarray
    lower: np.ndarray

    def accuracy(self, y: Any, radii: Any = 0.0) -> np.ndarray:
        """Certified accuracy: share of samples with the true label at a certified radius.

        Args:
            y: True labels `[n]`.
            radii: Radii that are to be reached, any shape.

        Returns:
            Shares, the shape of `radii`.
        """
        right = np.where(self.labels == np.asarray(y), self.radii, -1.0)
        wanted = np.asarray(radii, np.float64)
        return (right >= wanted[..., None]).mean(axis=-1)


def certified(
    guess: np.ndarray, counts: np.ndarray, n: int, sigma: float, alpha: float
) -> Certificate:
    """The certificates that counts of votes give.

    `radius = sigma * Phi^-1(p)`, with `p` the lower end of the one-sided Clopper-Pearson interval
    of the share of draws that gave the guessed class; where `p <= 1/2` the model abstains.

    Args:
        guess: Counts `[n, classes]` of a first few draws: the most frequent class is the guess.
        counts: Counts `[n, classes]` of draws that are independent of these.
        n: Number of the latter.
        sigma: Standard deviation of the noise.
        alpha: Probability that a certificate fails.
    """
    labels = guess.argmax(axis=1)
    hits = counts[np.arange(len(counts)), labels]
    lower = np.array([_lower_bound(int(k), n, alpha) for k in hits])
    sure = lower > 0.5
    radii = np.where(sure, sigma * stats.norm.ppf(lower), 0.0)
    return Certificate(np.where(sure, labels, -1).astype(np.int64), radii, lower)


def _check_alpha(alpha: Any) -> float:
    if check_float("alpha", alpha, above=True) >= 1:
        raise ValueError(f"`alpha` must be a number between 0 and 1. Received: alpha={alpha!r}")
    return float(alpha)


def _lower_bound(hits: int, n: int, alpha: float) -> float:
    test = stats.binomtest(hits, n, alternative="greater")
    return float(test.proportion_ci(confidence_level=1 - alpha, method="exact").low)


@keras.saving.register_keras_serializable("kerasrobust")
class RandomizedSmoothing(DecisionDefense):
    """The class that a model gives most often when Gaussian noise is added to a sample.

    `g(x) = argmax_c P(f(x + d) = c)` with `d ~ N(0, sigma^2 I)`, which does not change within an L2
    ball around `x` whose radius can be proven from a vote (`certify`), for any model `f`.

    Calling the model gives the shares of `votes` draws per class, the same draws for every sample:
    `predict` repeats. `decide` and `kerasrobust.evaluate` abstain where the two most frequent
    classes cannot be told apart at the level `alpha` (two-sided binomial test); an answer that is
    withheld fools nobody and is no right answer either. Attacks see single draws: their gradients
    are means over `draws` of them (expectation over transformation), their decisions votes.

    The noise is not clipped to the bounds. The model inside should know it: train it with noise of
    this size (``"gda:sigma=0.5,clip=False"``), or it is certified for little.

    Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
    arXiv:1902.02918. All samples share the draws, which the proof allows: each certificate holds
    with probability `1 - alpha`, but they do not fail independently.

    Limits: the certificate is of the smoothed model, in L2. No sample can be certified beyond
    `sigma * Phi^-1(alpha^(1/n))`. It costs `n0 + n` passes per sample, an answer `votes`.

    Args:
        base: See `DecisionDefense`.
        sigma: Standard deviation of the noise in the unit of the inputs, above 0. Default: 0.25 of
            the width of the box.
        n0: Draws from which the class to certify is guessed. Default 100, the paper's.
        n: Draws by which it is certified. Default 100,000, the paper's.
        alpha: Probability that a certificate, or an answer, is wrong; between 0 and 1. Default
            0.001, the paper's.
        votes: Draws of an answer. Default 100.
        draws: Draws of an attack's gradient. Default 20.
        seed: Seed of the draws.
        clip_values: See `DecisionDefense`.
        name: Name of the model.

    Raises:
        ValueError: If an argument is out of range or does not fit the bounds.

    Example:
        >>> smoothed = kerasrobust.wrap(model, "randomized_smoothing:sigma=0.5,n=10000")
        >>> certificate = smoothed.certify(x)
        >>> certificate.accuracy(y, [0.25, 0.5, 1.0])
    """

    name = "randomized_smoothing"
    source = "NSLOSS"
    lengths = {"sigma": 0.25}

    def __init__(
        self,
        base: keras.Model | None = None,
        *,
        sigma: float | None = None,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        votes: int = 100,
        draws: int = 20,
        seed: int = 0,
        clip_values: tuple[float, float] | None = None,
        name: str | None = None,
    ):
        super().__init__(base, clip_values=clip_values, name=name)
        self.sigma = None if sigma is None else check_float("sigma", sigma, above=True)
        self.n0, self.n = check_int("n0", n0, 1), check_int("n", n, 1)
        self.alpha = _check_alpha(alpha)
        self.votes = check_int("votes", votes, 1)
        self.draws = check_int("draws", draws, 1)
        self.seed = check_int("seed", seed, 0)
        self._check_lengths()
        # What an attack's passes draw by: a classifier sets it by the key of the pass.
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self._counting: Any = None

    @property
    def classifier_options(self) -> dict[str, Any]:
        return {"votes": self.votes, "draws": self.draws}

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        del training
        votes, key = tf.constant(self.votes), self._key(_VOTE, self.seed)
        # Sample by sample, so that a pass is no larger than a block.
        counts = tf.map_fn(
            lambda one: self._count(one[None], votes, key)[0],
            inputs,
            fn_output_signature=tf.int32,
            parallel_iterations=1,
        )
        return tf.cast(counts, tf.float32) / float(self.votes)

    def logits_model(self, x: Any, training: bool = False) -> Any:
        """Logits `[batch, classes]` of one draw for each sample: what attacks follow."""
        noise = keras.random.normal(
            tf.shape(x), stddev=self.length("sigma"), seed=self.seed_generator
        )
        return self.inner.plain_logits(tf.cast(x, tf.float32) + noise, training)

    def certain(self, counts: Any) -> tf.Tensor:
        """bool `[batch]`: the two most frequent classes can be told apart at the level `alpha`.

        By the two-sided binomial test of the paper's PREDICT, `P(|B - m/2| >= |k - m/2|) <= alpha`
        for `B ~ Bin(m, 1/2)`, `k` votes for the first of the two and `m` for both.

        Args:
            counts: Votes `[batch, classes]`.
        """
        first, second = tf.unstack(tf.math.top_k(tf.cast(counts, tf.float64), k=2)[0], axis=-1)
        half = tf.constant(0.5, tf.float64)
        return 2 * tf.math.betainc(first, second + 1, half * tf.ones_like(first)) <= self.alpha

    def certify(
        self,
        x: Any,
        *,
        n: int | None = None,
        n0: int | None = None,
        alpha: float | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> Certificate:
        """Proves within which radius the answers to samples cannot change.

        Args:
            x: Samples `[n, ...]`, inside the bounds.
            n: Draws, instead of the model's own number.
            n0: Likewise.
            alpha: Likewise.
            seed: Likewise.
            batch_size: Noisy samples per pass, at least 100; it changes nothing but memory.
                Default: 1,000, or as many as hold 2^24 numbers (111 images of 224x224x3).

        Returns:
            A `Certificate`.

        Raises:
            ValueError: If an argument is out of range, or samples do not fit the model.
        """
        n = self.n if n is None else check_int("n", n, 1)
        n0 = self.n0 if n0 is None else check_int("n0", n0, 1)
        alpha = self.alpha if alpha is None else _check_alpha(alpha)
        guess = self._counts(x, n0, _GUESS, seed, batch_size)
        counts = self._counts(x, n, _ESTIMATE, seed, batch_size)
        return certified(guess, counts, n, self.length("sigma"), alpha)

    def counts(
        self, x: Any, n: int, *, seed: int | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """How often each class is given in `n` draws, int64 `[samples, classes]`.

        The same for any batch size, up to what rounding makes of ties. Memory does not grow with
        `n`.

        Args:
            x: Samples `[n, ...]`, inside the bounds.
            n: Draws.
            seed: Seed of the draws; by default the model's own.
            batch_size: As of `certify`.
        """
        return self._counts(x, check_int("n", n, 1), _VOTE, seed, batch_size)

    def _counts(
        self, x: Any, n: int, stream: int, seed: int | None, batch_size: int | None
    ) -> np.ndarray:
        x = self.inner.check(np.asarray(x))
        if batch_size is None:
            batch_size = fitting(USUAL, x.shape[1:], VALUES_PER_PASS)
        rows = max(1, check_int("batch_size", batch_size, 1) // BLOCK)
        rows = min(rows, len(x))
        key = self._key(stream, self.seed if seed is None else check_int("seed", seed, 0))
        if self._counting is None:
            self._counting = one_at_a_time(
                tf.function(
                    self._count,
                    autograph=False,
                    jit_compile=use_jit("auto"),
                    reduce_retracing=True,
                )
            )
        parts = []
        for start in range(0, len(x), rows):
            batch = x[start : start + rows]
            padded = np.concatenate([batch, np.repeat(batch[-1:], rows - len(batch), axis=0)])
            parts.append(self._counting(tf.constant(padded), tf.constant(n), key)[: len(batch)])
        return np.concatenate(parts).astype(np.int64)

    @staticmethod
    def _key(stream: int, seed: int) -> tf.Tensor:
        return as_seed(seed, stream)

    def _count(self, x: tf.Tensor, n: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """int32 counts `[batch, classes]` of `n` draws, `BLOCK` of them in a pass."""
        x = tf.cast(x, tf.float32)
        self.inner.prepare(tuple(x.shape[1:]))
        shape, sigma, classes = tf.shape(x)[1:], self.length("sigma"), self.inner.nb_classes

        def add(i: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            drawn = tf.random.stateless_normal(
                tf.concat([[BLOCK], shape], 0),
                tf.random.experimental.stateless_fold_in(key, i),
                stddev=sigma,
            )
            noisy = tf.reshape(x[:, None] + drawn, tf.concat([[-1], shape], 0))
            noisy = tf.ensure_shape(noisy, [None, *x.shape[1:]])
            labels = tf.argmax(self.inner.plain_logits(noisy), axis=-1)
            votes = tf.reshape(tf.one_hot(labels, classes, dtype=tf.int32), [-1, BLOCK, classes])
            valid = i * BLOCK + tf.range(BLOCK) < n
            votes = tf.where(valid[:, None], votes, tf.zeros_like(votes))
            return i + 1, tf.ensure_shape(counts + tf.reduce_sum(votes, axis=1), counts.shape)

        start = tf.zeros([tf.shape(x)[0], classes], tf.int32)
        _, counts = while_loop(
            lambda i, _: i * BLOCK < n, add, (tf.constant(0), start), differentiates=False
        )
        return counts
