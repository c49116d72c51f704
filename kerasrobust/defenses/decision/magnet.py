"""MagNet: auto-encoders that reject what is far from clean samples, and reform what is near."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.decision.base import DecisionDefense
from kerasrobust.engine import backward
from kerasrobust.engine.logits import unpack_output
from kerasrobust.specs import parse_spec

# Filters of the convolutions before the middle, and "pool", of the paper's networks: for MNIST
# detector I and reformer, then detector II; for CIFAR-10 one for all.
GREY: tuple[tuple[int | str, ...], ...] = ((3, "pool", 3), (3,))
COLOUR: tuple[tuple[int | str, ...], ...] = ((32,),)
# Which detectors the paper has with them.
GREY_DETECTORS: tuple[str, ...] = ("l2:autoencoder=0", "l1:autoencoder=1")
COLOUR_DETECTORS: tuple[str, ...] = ("l1", "jsd:temperature=10", "jsd:temperature=40")
SCORES = ("l1", "l2", "jsd")
# Keeps logarithms of scores finite.
_SMALLEST = 1e-12


@dataclasses.dataclass(frozen=True)
class Detector:
    """One detector.

    Attributes:
        score: ``"l1"`` or ``"l2"``, the mean absolute or squared error of reconstruction, or
            ``"jsd"``, the Jensen-Shannon divergence of what the model says before and after it.
        autoencoder: Number of the auto-encoder.
        temperature: What logits are divided by for ``"jsd"``.
    """

    score: str
    autoencoder: int = 0
    temperature: float = 10.0

    @classmethod
    def read(cls, text: str) -> Detector:
        """A detector from `"jsd:autoencoder=0,temperature=10"`.

        Raises:
            ValueError: If the text does not describe one.
        """
        name, arguments = parse_spec(text)
        unknown = set(arguments) - {"autoencoder", "temperature"}
        if name not in SCORES or unknown:
            raise ValueError(
                "A detector must be 'l1', 'l2' or 'jsd', with the arguments autoencoder and "
                f"temperature. Received: {text!r}"
            )
        detector = cls(name, **arguments)
        check_int("autoencoder", detector.autoencoder, 0)
        check_float("temperature", detector.temperature, above=True)
        return detector


def autoencoder(
    shape: tuple[int, ...], structure: Sequence[int | str], seed: int = 0
) -> keras.Model:
    """A convolutional auto-encoder for images in 0..1, as the paper has them.

    Args:
        shape: (height, width, channels).
        structure: Filters of 3x3 convolutions with a sigmoid, and ``"pool"`` for averages over 2x2;
            the second half is its mirror image.
        seed: Seed of the initial weights.
    """
    layers = keras.layers
    inputs = keras.Input(shape, dtype="float32")
    x, number = inputs, 0

    def convolution(x: Any, filters: int) -> Any:
        nonlocal number
        number += 1
        start = keras.initializers.GlorotUniform(seed + number)
        return layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="sigmoid",
            kernel_initializer=start,
            dtype="float32",
        )(x)

    for part in structure:
        if isinstance(part, int):
            x = convolution(x, part)
        else:
            x = layers.AveragePooling2D(2, padding="same", dtype="float32")(x)
    for part in reversed(structure):
        x = convolution(x, part) if isinstance(part, int) else layers.UpSampling2D(2)(x)
    above, left = x.shape[1] - shape[0], x.shape[2] - shape[1]
    if above or left:  # of an image with an odd side
        x = layers.Cropping2D(((0, above), (0, left)), dtype="float32")(x)
    return keras.Model(inputs, convolution(x, shape[-1]))


@keras.saving.register_keras_serializable("kerasrobust")
class Magnet(DecisionDefense):
    """Auto-encoders that know clean samples: detectors reject, a reformer moves back to them.

    A sample is rejected where a detector's score reaches its threshold: the error of its
    reconstruction, or the Jensen-Shannon divergence between `softmax(z(x) / T)` and
    `softmax(z(ae(x)) / T)`. What is accepted is reformed, and the model is given `ae(x)`. With
    several reformers one of them is drawn for each batch.

    `learn(x, held_out)` trains the auto-encoders on clean samples and sets the thresholds, so that
    each detector rejects the share `false_positive_rate` of clean samples that it has not seen. The
    model inside stays as it is. `decide` gives label and acceptance; `predict`, the scores of the
    reformed samples alone.

    A `Classifier` of this model sees detectors and reformer: white-box attacks follow gradients
    through both, and points that are rejected do not count. `Classifier(magnet, gradient="ignore")`
    is the grey box: crafted on the model inside, judged with all.

    Meng and Chen, "MagNet: a Two-Pronged Defense against Adversarial Examples", 2017,
    arXiv:1705.09064. As in the authors' code `l2` is the mean of squares. Here noise is drawn anew
    for each batch, activities are not regularised, and auto-encoders of a collection are trained
    apart, from different starts, where the paper has a term that drives them apart.

    Limits: made against attacks that do not know of it. Those that do break it (Carlini and
    Wagner, "MagNet and Efficient Defenses Against Adversarial Attacks Are Not Robust to Adversarial
    Examples", 2017, arXiv:1711.08478): judge it by the white box.

    Args:
        base: See `DecisionDefense`.
        autoencoders: Built models from images in 0..1 to such images. Default: the paper's, for
            images of one channel those of MNIST, else that of CIFAR-10.
        detectors: ``"l1"``, ``"l2"`` or ``"jsd"``, each with the number of its `autoencoder` (0)
            and its `temperature` (10), as in ``"jsd:autoencoder=1,temperature=40"``. Default: the
            paper's; for `autoencoders` of one's own ``"l1"`` with each.
        reformers: Numbers of the auto-encoders among which the reformer of a batch is drawn;
            empty for none. Default: the first one, and those of the `collection`.
        collection: Number of reformers among the default auto-encoders, all of the first one's
            kind. Default 1.
        false_positive_rate: Share of clean samples that each detector may reject, between 0 and 1.
            Default 0.001, the paper's for MNIST (0.005 for CIFAR-10).
        noise: Standard deviation of the noise that is added in training, as a share of the width of
            the box. Default 0.1, the paper's for MNIST (0.025 for CIFAR-10).
        seed: Seed of initial weights, noise, order and of which reformer is drawn.
        clip_values: See `DecisionDefense`.
        name: Name of the model.

    Raises:
        ValueError: If an argument is out of range, or a number is that of no auto-encoder.

    Example:
        >>> guarded = kerasrobust.wrap(model, "magnet")
        >>> guarded.learn(x_train[5000:], held_out=x_train[:5000])
        >>> labels, accepted = guarded.decide(x_test)
    """

    name = "magnet"
    source = "E2SAD"
    gradients = ("exact", "straight_through", "ignore")

    def __init__(
        self,
        base: keras.Model | None = None,
        *,
        autoencoders: Sequence[keras.Model] | None = None,
        detectors: Sequence[str] | None = None,
        reformers: Sequence[int] | None = None,
        collection: int = 1,
        false_positive_rate: float = 0.001,
        noise: float = 0.1,
        seed: int = 0,
        clip_values: tuple[float, float] | None = None,
        name: str | None = None,
    ):
        super().__init__(base, clip_values=clip_values, name=name)
        self.collection = check_int("collection", collection, 1)
        self.false_positive_rate = check_float(
            "false_positive_rate", false_positive_rate, above=True
        )
        if false_positive_rate >= 1:
            raise ValueError(
                "`false_positive_rate` must be a number between 0 and 1. "
                f"Received: false_positive_rate={false_positive_rate!r}"
            )
        self.noise = check_float("noise", noise)
        self.seed = check_int("seed", seed, 0)
        self.detectors = detectors if detectors is None else tuple(detectors)
        self.reformers = reformers if reformers is None else tuple(reformers)
        self.autoencoders = autoencoders if autoencoders is None else list(autoencoders)
        self._read = [Detector.read(text) for text in self.detectors or ()]
        if base is not None:
            self._build(base)

    def _build(self, base: keras.Model) -> None:
        if self.autoencoders is None:
            shape = base.input_shape[1:]
            if len(shape) != 3 or None in shape:
                raise ValueError(
                    "The default auto-encoders are for images of a known shape: give "
                    f"`autoencoders`. Received: input shape {shape}"
                )
            grey = shape[-1] == 1
            kinds = list(GREY if grey else COLOUR)
            own: tuple[str, ...] = GREY_DETECTORS if grey else COLOUR_DETECTORS
            extra = range(len(kinds), len(kinds) + self.collection - 1)
            self.reformers = (0, *extra) if self.reformers is None else self.reformers
            kinds += [kinds[0]] * len(extra)
            self.autoencoders = [
                autoencoder(shape, kind, self.seed + 1000 * i) for i, kind in enumerate(kinds)
            ]
        else:
            own = tuple(f"l1:autoencoder={i}" for i in range(len(self.autoencoders)))
            self.reformers = (0,) if self.reformers is None else self.reformers
        self.detectors = own if self.detectors is None else self.detectors
        self._read = [Detector.read(text) for text in self.detectors]
        count = len(self.autoencoders)
        for number in (*self.reformers, *(detector.autoencoder for detector in self._read)):
            check_int("autoencoder", number, 0, count - 1)
        self.thresholds = self.add_weight(
            name="thresholds",
            shape=(len(self._read),),
            dtype="float32",
            initializer=keras.initializers.Constant(math.nan),
            trainable=False,
        )
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    @property
    def classifier_options(self) -> dict[str, Any]:
        return {"draws": max(1, len(self.reformers or ()))}

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        del training
        x = backward.substitute(tf.cast(inputs, tf.float32), self._reform)
        return unpack_output(self.bound(x, training=False))

    def logits_model(self, x: Any, training: bool = False) -> Any:
        """Logits `[batch, classes]` of the reformed samples: what attacks follow."""
        x = backward.substitute(tf.cast(x, tf.float32), self._reform)
        return self.inner.plain_logits(x, training)

    def reform(self, x: Any, batch_size: int = 128) -> np.ndarray:
        """What the model inside is given for samples `[n, ...]`."""
        x = self.inner.check(np.asarray(x))
        parts = [
            self._reform(tf.constant(x[i : i + batch_size])) for i in range(0, len(x), batch_size)
        ]
        return np.concatenate(parts)

    def accepts(self, x: tf.Tensor) -> tf.Tensor:
        """bool `[batch]`: no detector rejects the samples.

        Raises:
            ValueError: If the thresholds are not set.
        """
        return self.excess(x) < 0

    def excess(self, x: tf.Tensor) -> tf.Tensor:
        """`[batch]`, the largest `log(score / threshold)` of all detectors: rejected from 0 on.

        Raises:
            ValueError: If the thresholds are not set.
        """
        with tf.init_scope():
            set_ = bool(np.isfinite(np.asarray(self.thresholds)).all())
        if not set_:
            raise ValueError(
                "The detectors have no thresholds: `learn(x, held_out)`, or `calibrate(held_out)`, "
                f"on clean samples. Received: model={self.name!r}, not calibrated"
            )
        if not self._read:
            return tf.fill([tf.shape(x)[0]], -math.inf)
        scores = tf.maximum(self._scores(tf.cast(x, tf.float32)), _SMALLEST)
        thresholds = tf.maximum(tf.convert_to_tensor(self.thresholds), _SMALLEST)
        return tf.reduce_max(tf.math.log(scores / thresholds), axis=-1)

    def scores(self, x: Any, batch_size: int = 128) -> np.ndarray:
        """float32 scores `[n, detectors]` of samples `[n, ...]`."""
        x = self.inner.check(np.asarray(x))
        compute = tf.function(self._scores, autograph=False, reduce_retracing=True)
        parts = [compute(tf.constant(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
        return np.concatenate(parts)

    def learn(
        self,
        x: Any,
        held_out: Any = None,
        *,
        epochs: int = 100,
        batch_size: int = 256,
        learning_rate: float = 0.001,
        verbose: int | str = 0,
    ) -> None:
        """Trains the auto-encoders on clean samples, then sets the thresholds.

        They learn to remove Gaussian noise: Adam on the mean squared error.

        Args:
            x: Clean samples `[n, ...]`, inside the bounds.
            held_out: Clean samples that are not among them; see `calibrate`.
            epochs: Passes over the samples. Default 100, the paper's.
            batch_size: Samples per step.
            learning_rate: Adam's.
            verbose: As in `keras.Model.fit`.

        Raises:
            ValueError: If samples do not fit, or there are too few that are held out.
        """
        held_out = self._check_held_out(held_out)
        unit = self._unit(self.inner.check(np.asarray(x)))
        epochs, batch_size = check_int("epochs", epochs, 1), check_int("batch_size", batch_size, 1)
        steps = -(-len(unit) // batch_size)
        for number, one in enumerate(self.autoencoders or ()):
            seed = self.seed + 1000 * number
            # On the same weights: what it is compiled with is not saved with this model.
            trainer = keras.Model(one.inputs, one.outputs)
            trainer.compile(keras.optimizers.Adam(learning_rate), "mse")
            trainer.fit(
                self._noisy(unit, batch_size, seed),
                epochs=epochs,
                steps_per_epoch=steps,
                verbose=verbose,
                shuffle=False,  # it is
            )
        self.calibrate(held_out)

    def calibrate(self, held_out: Any) -> None:
        """Sets each threshold so that its detector rejects `false_positive_rate` of these samples.

        It is the smallest of the largest `floor(n * false_positive_rate)` scores.

        Args:
            held_out: Clean samples `[n, ...]`, apart from those that the auto-encoders have
                learned.

        Raises:
            ValueError: If there are none, or too few to reject one of them.
        """
        held_out = self._check_held_out(held_out)
        rejected = self._rejected(len(held_out))
        self.thresholds.assign(np.sort(self.scores(held_out), axis=0)[-rejected])

    def _rejected(self, samples: int) -> int:
        # Of 1,000 a thousandth is one, whatever floating point makes of it.
        return math.floor(samples * self.false_positive_rate + 1e-9)

    def _check_held_out(self, held_out: Any) -> np.ndarray:
        samples = 0 if held_out is None else len(held_out)
        if self._rejected(samples) < 1:
            raise ValueError(
                "Detectors are calibrated on clean samples that are held out, at least "
                f"{math.ceil(1 / self.false_positive_rate)} for a false-positive rate of "
                f"{self.false_positive_rate:g}. Received: {samples} samples"
            )
        return self.inner.check(np.asarray(held_out))

    def _noisy(self, unit: np.ndarray, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches of noisy and clean samples, in another order and with other noise each epoch."""

        def add(step: tf.Tensor, clean: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            noise = tf.random.stateless_normal(
                tf.shape(clean), tf.stack([tf.cast(seed, tf.int64), step]), stddev=self.noise
            )
            return tf.clip_by_value(clean + noise, 0.0, 1.0), clean

        data = tf.data.Dataset.from_tensor_slices(unit).shuffle(len(unit), seed=seed)
        return data.batch(batch_size).repeat().enumerate().map(add).prefetch(2)

    def _unit(self, x: Any) -> Any:
        low, high = self.clip_values
        return (x - low) / (high - low)

    def _reconstructed(self, unit: tf.Tensor, number: int) -> tf.Tensor:
        assert self.autoencoders is not None
        outputs = unpack_output(self.autoencoders[number](unit, training=False))
        return tf.clip_by_value(tf.cast(outputs, tf.float32), 0.0, 1.0)

    def _reform(self, x: tf.Tensor) -> tf.Tensor:
        reformers, (low, high) = self.reformers or (), self.clip_values
        if not reformers:
            return x
        unit = self._unit(x)
        if len(reformers) == 1:
            return low + (high - low) * self._reconstructed(unit, reformers[0])
        drawn = keras.random.randint((), 0, len(reformers), seed=self.seed_generator)
        choices = [lambda number=number: self._reconstructed(unit, number) for number in reformers]
        return low + (high - low) * tf.switch_case(drawn, choices)

    def _scores(self, x: tf.Tensor) -> tf.Tensor:
        """`[batch, detectors]`."""
        unit, (low, high) = self._unit(x), self.clip_values
        used = {detector.autoencoder for detector in self._read}
        again = {number: self._reconstructed(unit, number) for number in used}
        diverges = {d.autoencoder for d in self._read if d.score == "jsd"}
        after = {
            number: self.inner.plain_logits(low + (high - low) * again[number])
            for number in diverges
        }
        before = self.inner.plain_logits(x) if diverges else None
        axes = list(range(1, x.shape.rank))
        columns = []
        for detector in self._read:
            number = detector.autoencoder
            if detector.score == "jsd":
                columns.append(divergence(before, after[number], detector.temperature))
                continue
            error = again[number] - unit
            error = tf.abs(error) if detector.score == "l1" else error**2
            columns.append(tf.reduce_mean(error, axis=axes))
        return tf.stack(columns, axis=-1)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self.autoencoders is not None:
            config["autoencoders"] = [
                keras.saving.serialize_keras_object(one) for one in self.autoencoders
            ]
        for key in ("detectors", "reformers"):
            config[key] = None if config[key] is None else list(config[key])
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Magnet:
        config = dict(config)
        if config.get("autoencoders") is not None:
            config["autoencoders"] = [
                keras.saving.deserialize_keras_object(one, custom_objects)
                if isinstance(one, dict)
                else one
                for one in config["autoencoders"]
            ]
        return super().from_config(config, custom_objects)


def divergence(first: tf.Tensor, second: tf.Tensor, temperature: float) -> tf.Tensor:
    """Jensen-Shannon divergence `[batch]` of two softmaxes of logits over a temperature, in nats.

    `JSD(P, Q) = KL(P | M) / 2 + KL(Q | M) / 2` with `M = (P + Q) / 2`.

    Args:
        first: Logits `[batch, classes]`.
        second: Logits, likewise.
        temperature: What they are divided by.
    """
    logs = [tf.nn.log_softmax(z / temperature, axis=-1) for z in (first, second)]
    middle = tf.reduce_logsumexp(tf.stack(logs), axis=0) - math.log(2)
    parts = [tf.reduce_sum(tf.exp(log) * (log - middle), axis=-1) for log in logs]
    return 0.5 * (parts[0] + parts[1])
