"""RobustModel: a Keras model that trains through a chain of defenses."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust import _keras
from kerasrobust.checks import (
    ROW_TOLERANCE,
    ROWS_MESSAGE,
    check_bounds,
    check_int,
    check_rows,
    check_scale,
)
from kerasrobust.defenses.activations import ActivationTap
from kerasrobust.defenses.point_loss import PointLoss
from kerasrobust.defenses.registry import DEFENSES
from kerasrobust.defenses.training.base import (
    CRAFTS,
    Batch,
    Context,
    Inner,
    TrainingDefense,
    check_chain,
)
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.logits import LogitsHead, logits_head, prove, unpack_output
from kerasrobust.engine.pixel_range import default_bounds

# As many samples of noise as tell whether what was read from a model is the model.
PROBE_SAMPLES = 4
# How TensorFlow words the failure of one of the assertions below.
_ASSERTION = re.compile(r"assertion failed: \[(.* must .*)\] \[(\S+)\] \[(\S+)\]")


@keras.saving.register_keras_serializable("kerasrobust")
class RobustModel(_keras.NamedLogs):
    """A model whose `fit` goes through a chain of training defenses.

    Calling, predicting and evaluating are those of `base`, on clean inputs; the one output of a
    `base` that puts it into a dictionary or a list is taken out. A training step asks
    each defense to `prepare` (outside the gradient tape), then takes the loss per sample from the
    chain of their objectives, which ends in the compiled loss. It is weighted by `sample_weight`
    and reduced over the global batch, as the compiled loss says (`None` counts as the mean);
    weight regularisers are added once, as are losses that layers add during a pass, averaged over
    the passes of the step. Under `tf.distribute` the sum of all replicas is therefore the step of
    one device, which plain Keras gives only for batches that divide evenly and without
    regularisers.

    The order of the defenses does not matter: each knows its place (`TrainingDefense.rank`).

    Compiled metrics measure the clean prediction if the step made one. If it did not, they measure
    what was trained on and are logged with its name in front (`noisy_accuracy`,
    `adversarial_accuracy`); no pass is made for their sake. Validation is always on clean inputs.

    Randomness is a function of `seed` and of a step counter that is saved with the weights, so a
    run that was saved and loaded continues as if it had not been interrupted.

    Args:
        base: The model to train, with one input and one output `[batch, classes]`. It is shared,
            not copied: training trains it. Another `RobustModel` is taken apart, and its defenses
            join the chain.
        defenses: Training defenses.
        clip_values: Smallest and largest valid input value. Default: those of `base` if it is a
            `RobustModel`, else (0, 1).
        seed: Seed of everything the defenses draw, at least 0. Default: as with `clip_values`,
            else 0.
        name: Name of the model.

    Raises:
        TypeError: If `base` is no Keras model or a defense no training defense.
        ValueError: If `base` is not built, bounds or seed are out of range, two defenses do not go
            together, a defense needs activations that `base` does not show, `base` has a training
            step of its own, which would not be made, or it belongs to another distribution strategy
            than the current one.

    Example:
        >>> model = RobustModel(base, [GaussianDataAugmentation(sigma=0.1)])
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = model.fit(x, y)
    """

    base: keras.Model
    defenses: tuple[TrainingDefense, ...]
    clip_values: tuple[float, float]
    seed: int

    def __init__(
        self,
        base: keras.Model,
        defenses: Sequence[TrainingDefense] = (),
        *,
        clip_values: tuple[float, float] | None = None,
        seed: int | None = None,
        name: str | None = None,
    ):
        if not isinstance(base, keras.Model):
            raise TypeError(f"`base` must be a keras.Model. Received: base={base!r}")
        if not base.built:
            raise ValueError(
                "The model must be built: give it an Input layer or call it on a batch once. "
                f"Received: base={base.name!r}, not built"
            )
        previous = base if isinstance(base, RobustModel) else None
        if isinstance(base, RobustModel):
            defenses = [*base.defenses, *defenses]
            clip_values = base.clip_values if clip_values is None else clip_values
            seed = base.seed if seed is None else seed
            base = base.base
        _check_training(base)
        chain = check_chain(defenses)
        bounds = check_bounds(default_bounds(base) if clip_values is None else clip_values)
        _check_strategy(base)
        strategy = base.distribute_strategy
        with strategy.scope():
            # The base converts its own inputs; a second conversion here would round float32 pixels
            # before a layer that asked for them in full.
            super().__init__(
                name=name or f"robust_{base.name}", dtype=_policy(base), autocast=False
            )
            self.base = base
            self.defenses = chain
            self.clip_values = bounds
            self.seed = _check_seed(0 if seed is None else seed)
            # Not the optimizer's counter: that one restarts with every `compile`, and stands still
            # when a float16 step overflows.
            self.step = self.add_weight(
                name="step",
                shape=(),
                dtype="int32",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )
            for defense in chain:
                defense.check_lengths(self)
                defense.build(self)
        if previous is not None:
            self.inherit(previous)
        self._point_loss: PointLoss | None = None
        self._views = _Views(self)
        self._measured_origin = "clean"
        self.built = True
        self._views.head  # noqa: B018  a base with several inputs or outputs is refused here
        if self.sees_activations:
            self._views.tap  # noqa: B018  and here one that does not show them

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return unpack_output(self.base(inputs, training=training))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base.compute_output_shape(input_shape)

    @property
    def input_shape(self) -> Any:
        """Input shape of the base, batch included."""
        return self.base.input_shape

    @property
    def output_shape(self) -> Any:
        """Output shape of the base, batch included."""
        return self.base.output_shape

    @property
    def sees_activations(self) -> bool:
        """Whether a defense of the chain looks at activations."""
        return any(defense.sees_activations for defense in self.defenses)

    @property
    def repeats_draws(self) -> bool:
        """Whether a defense of the chain makes passes that draw what earlier ones drew."""
        return any(defense.repeats_draws for defense in self.defenses)

    @property
    def logits_model(self) -> Callable[..., tf.Tensor] | None:
        """`call(x, training=False)` giving float32 logits, or None if the base hides them."""
        head = self._views.head
        return None if head is None or head.activation is None else head.call

    def classifier(self, mode: str = "inference") -> Classifier:
        """What an attack sees of the model while it trains.

        Args:
            mode: ``"inference"``, or ``"training"`` for batch statistics and dropout, without
                moving the statistics or the dropout seeds.
        """
        return self._views.classifier(mode)

    def make_train_function(self, force: bool = False) -> Any:
        # The loss is resolved, heads and classifiers are built and opaque models probed before
        # anything is traced. `compile` stays Keras's own: loading would not call another one.
        self._point_loss = None
        self._resolve_loss()
        for mode in sorted({mode for defense in self.defenses for mode in defense.views}):
            self.classifier(mode)
        return super().make_train_function(force)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        arguments = inspect.signature(super().fit).bind(x, *args, **kwargs).arguments
        arguments["x"] = self._checked(x, arguments.get("y"))
        callbacks = arguments.pop("callbacks", None)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            self._before_fit(arguments)
        else:
            # After the callbacks given, one of which may restore what is then not made again.
            begin = keras.callbacks.LambdaCallback(
                on_train_begin=lambda logs: self._before_fit(arguments)
            )
            callbacks = [*keras.tree.flatten(callbacks or []), begin]
        try:
            return super().fit(callbacks=callbacks, **arguments)
        except tf.errors.InvalidArgumentError as error:
            found = _ASSERTION.search(error.message or "")
            if found is None:
                raise
            raise ValueError("{} [{}, {}]".format(*found.groups())) from error

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return super().train_on_batch(self._checked(x, y), y, *args, **kwargs)

    def _before_fit(self, arguments: Mapping[str, Any]) -> None:
        for defense in self.defenses:
            defense.before_fit(self, arguments)

    def inherit(self, previous: RobustModel) -> None:
        """Takes over what defenses of a model on the same base have made (a teacher).

        The step counter, and state that belongs to it, start anew: the model is compiled again.
        """
        for defense in previous.defenses:
            defense.load(self, defense.saved(previous))

    def save_own_variables(self, store: Any) -> None:  # noqa: D102
        super().save_own_variables(store)
        for defense in self.defenses:
            for key, value in defense.saved(self).items():
                store[f"{defense.name}.{key}"] = value

    def load_own_variables(self, store: Any) -> None:  # noqa: D102
        own: dict[str, Any] = {}
        of_links: dict[str, dict[str, Any]] = {}
        for key in store.keys():
            name, dot, rest = key.partition(".")
            (of_links.setdefault(name, {}) if dot else own)[rest or name] = store[key]
        super().load_own_variables(own)
        for defense in self.defenses:
            defense.load(self, of_links.get(defense.name, {}))

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step through the chain; see the class."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if keras.tree.is_nested(x) or keras.tree.is_nested(y) or y is None:
            raise ValueError(
                "Training needs batches (x, y) or (x, y, sample_weight) with one input and one "
                f"label tensor. Received: x={type(x).__name__}, y={type(y).__name__}"
            )
        x, y = tf.cast(x, tf.float32), tf.convert_to_tensor(y)
        # XLA drops assertions: `fit` has seen to it.
        with tf.control_dependencies([] if self.jit_compile else self._assertions(x, y)):
            x = tf.identity(x)
        size = tf.shape(x)[0]
        if sample_weight is not None:
            sample_weight = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        batch = Batch(x, y, y, self.clip_values, sample_weight)
        self._views.settle(tuple(x.shape[1:]))
        context = Context(self, self.step.value, x)
        end = _ChainEnd(self)
        try:
            for position in reversed(range(len(self.defenses))):
                context.inner = _Preparing(self, self.defenses[position + 1 :])
                batch = self.defenses[position].prepare(batch, context)
            with tf.GradientTape() as tape:
                values = _chain(self.defenses, end)(batch)
                loss, logged = self._reduce(values, sample_weight, end, context)
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, self.trainable_weights)
        finally:
            context.restore()
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.step.assign_add(1)
        _keras.loss_tracker(self).update_state(logged, sample_weight=size)
        measured = end.measured()
        logs = self.compute_metrics(
            measured.batch.x, measured.batch.labels, measured.outputs, measured.batch.sample_weight
        )
        self._measured_origin = measured.batch.origin
        return self.name_logs(logs)

    def name_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Logs of a training step, metrics under names that say what they were measured on."""
        if self._measured_origin == "clean":
            return logs
        return {
            key if key == "loss" else f"{self._measured_origin}_{key}": value
            for key, value in logs.items()
        }

    def _reduce(
        self,
        values: tf.Tensor,
        sample_weight: tf.Tensor | None,
        end: _ChainEnd,
        context: Context,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """This replica's share of the loss, and the value that its loss tracker is given.

        The shares add up to the loss of the global batch; the tracker, which weights by samples,
        arrives at the same value.
        """
        weighted = values if sample_weight is None else values * sample_weight
        own = tf.reduce_sum(weighted)
        reduction = self._resolve_loss().reduction
        size = tf.cast(tf.shape(values)[0], tf.float32)
        global_size = tf.cast(context.global_size, tf.float32)
        if reduction == "mean_with_sample_weight" and sample_weight is not None:
            total = tf.reduce_sum(sample_weight)
            if context.replicas > 1:
                replica = tf.distribute.get_replica_context()
                total = replica.all_reduce(tf.distribute.ReduceOp.SUM, total)
            own = tf.math.divide_no_nan(own, total)
        elif reduction != "sum":
            own = tf.math.divide_no_nan(own, global_size)
        extra = end.activity + _total(_weight_regularizers(self))
        return own + extra / context.replicas, tf.math.divide_no_nan(
            own * global_size, size
        ) + extra

    def _resolve_loss(self) -> PointLoss:
        if self._point_loss is None:
            if self.loss is None:
                raise ValueError("A wrapped model is compiled with a loss. Received: loss=None")
            weight = _keras.compile_settings(self).get("loss_weights")
            self._point_loss = PointLoss(self.loss, weight, self._views.ending)
        return self._point_loss

    @property
    def ending(self) -> str | None:
        """What the base does to its logits: ``"softmax"``, ``"linear"``, or what hides them."""
        return self._views.ending

    def end(self) -> Inner:
        """An end of the chain of its own, to measure a link's term outside of a training step."""
        return _ChainEnd(self)

    def forward(
        self,
        x: tf.Tensor,
        mode: str,
        seen: list[tf.Tensor] | None = None,
        seeds: Sequence[tf.Tensor] = (),
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """One pass of the base: what it returns, and its float32 logits where they can be had.

        Args:
            x: Inputs `[batch, ...]`.
            mode: As `Batch.mode`.
            seen: A list that receives the ReLU outputs of the pass.
            seeds: What `seeds` gave before an earlier pass, whose draws this one repeats.
        """
        if mode == "stateless":
            with keras.StatelessScope():
                return self.forward(x, "training", seen, seeds)
        if seeds:
            for state, value in zip(_keras.own_seed_states(self.base), seeds, strict=True):
                state.assign(value)
        training = mode == "training"
        if seen is not None:
            logits, activations = self._views.tap(x, training)
            seen.extend(activations)
            return (tf.nn.softmax(logits) if self._views.ending == "softmax" else logits), logits
        head, ending = self._views.head, self._views.ending
        if head is not None and ending == "softmax":
            logits = head.call(x, training=training)
            return tf.nn.softmax(logits), logits
        outputs = unpack_output(self.base(x, training=training))
        return outputs, tf.cast(outputs, tf.float32) if ending == "linear" else None

    def seeds(self) -> list[tf.Tensor]:
        """What the layers of the base would draw next depends on; empty if they draw nothing."""
        return [tf.identity(state.value) for state in _keras.own_seed_states(self.base)]

    def _checked(self, x: Any, y: Any) -> Any:
        """The data of a training run, which are checked before or while they are drawn.

        Arrays are checked at once, the first batch of a `keras.utils.PyDataset` too; batches of a
        generator, and under XLA, which drops assertions, those of a `tf.data.Dataset`, on their way
        to the step. Plain graphs check in the step.
        """
        if isinstance(x, np.ndarray):
            self._check_batch(x, y)
        elif isinstance(x, keras.utils.PyDataset):
            self._check_drawn(x[0])
        elif isinstance(x, tf.data.Dataset) and self.jit_compile:
            return x.map(self._assert_batch)
        elif isinstance(x, Iterator):
            return self._checked_batches(x)
        return x

    def _checked_batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._check_drawn(batch)
            yield batch

    def _check_drawn(self, batch: Any) -> None:
        if isinstance(batch, (list, tuple)) and len(batch) > 1:  # the step refuses others
            self._check_batch(*batch[:2])

    def _check_batch(self, x: Any, y: Any) -> None:
        x = np.asarray(x)
        if not x.size or x.dtype.kind not in "fiub":
            return
        low, high = self._tolerated_bounds()
        least, most = float(np.min(x)), float(np.max(x))
        if not (low <= least and most <= high):
            raise ValueError(
                f"Inputs must lie within the bounds clip_values={self.clip_values}. "
                f"Received: x in [{least:g}, {most:g}]"
            )
        check_scale(x, self.clip_values)
        if self._reads_classes and isinstance(y, (np.ndarray, tf.Tensor)):
            check_rows(np.asarray(y))

    @property
    def _reads_classes(self) -> bool:
        """Whether a defense of the chain crafts against the class that a label names."""
        return any(defense.rank == CRAFTS for defense in self.defenses)

    def _assert_batch(self, x: Any, y: Any = None, *rest: Any) -> Any:
        if keras.tree.is_nested(x) or keras.tree.is_nested(y) or y is None:
            return (x, *([] if y is None else [y]), *rest)  # the step refuses it
        with tf.control_dependencies(self._assertions(tf.cast(x, tf.float32), y)):
            return (tf.identity(x), y, *rest)

    def _assertions(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Operation]:
        if tf.executing_eagerly():
            self._check_batch(x, y)
            return []
        low, high = self._tolerated_bounds()
        inside = tf.reduce_all((x >= low) & (x <= high))
        message = (
            f"Inputs must lie within the bounds clip_values={self.clip_values}. Received: x in"
        )
        checks = [tf.debugging.Assert(inside, [message, tf.reduce_min(x), tf.reduce_max(x)])]
        if self._reads_classes and y.shape.rank == 2 and y.shape[1] != 1:
            rows = tf.cast(y, tf.float32)
            sums = tf.reduce_sum(rows, axis=1)
            good = tf.reduce_all(tf.abs(sums - 1) <= ROW_TOLERANCE) & tf.reduce_all(rows >= 0)
            received = [ROWS_MESSAGE, tf.reduce_min(sums), tf.reduce_max(sums)]
            checks.append(tf.debugging.Assert(good, received))
        return [check for check in checks if check is not None]

    def _tolerated_bounds(self) -> tuple[float, float]:
        """The bounds with room for the rounding of whoever scaled the data."""
        low, high = self.clip_values
        return low - 1e-6 * (high - low), high + 1e-6 * (high - low)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Saves as Keras does, in its own format.

        Raises:
            ValueError: If the file is to be of the older HDF5 format, which cannot be loaded again.
        """
        if os.fspath(filepath).lower().endswith((".h5", ".hdf5")):
            raise _hdf5(f"filepath={os.fspath(filepath)!r}")
        return super().save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Exports what serves: the base, in inference mode."""
        return self.base.export(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        if _keras.is_saving_hdf5():  # `keras.saving.save_model` does not go by `save`
            raise _hdf5("an HDF5 file")
        return {
            "base": keras.saving.serialize_keras_object(self.base),
            "defenses": [keras.saving.serialize_keras_object(link) for link in self.defenses],
            "clip_values": list(self.clip_values),
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RobustModel:
        # Keras knows the classes of a plugin once they are imported.
        DEFENSES.classes()
        config = dict(config)
        config["base"] = keras.saving.deserialize_keras_object(config["base"], custom_objects)
        config["defenses"] = [
            keras.saving.deserialize_keras_object(link, custom_objects)
            for link in config["defenses"]
        ]
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class _Pass:
    """A forward pass of the objective."""

    batch: Batch
    outputs: tf.Tensor
    logits: tf.Tensor | None
    activations: list[tf.Tensor] | None
    seeds: Sequence[tf.Tensor] = ()


class _Views:
    """Other views on the base: its logits, and the classifiers that attacks see.

    They share its variables; being held here, Keras does not count or save them a second time.
    """

    def __init__(self, model: RobustModel):
        self._model = model
        self._classifiers: dict[str, Classifier] = {}
        self._head: LogitsHead | None = None
        self._searched = self._settled = False
        self._tap: ActivationTap | None = None

    @property
    def head(self) -> LogitsHead | None:
        if not self._searched:
            self._head = logits_head(self._model.base)
            self._searched = True
            shape = getattr(self._model.base, "input_shape", None)
            if isinstance(shape, tuple):
                self.settle(shape[1:])
        return self._head

    def settle(self, sample_shape: tuple[Any, ...]) -> None:
        """Keeps the head only if it computes what the base does, once inputs have a shape."""
        head, known = self._head, [size for size in sample_shape if size is not None]
        if self._settled or head is None or len(known) < len(sample_shape):
            return
        self._settled = True
        if head.activation is None or head.declared:
            return
        low, high = self._model.clip_values
        noise = np.random.default_rng(0).uniform(low, high, (PROBE_SAMPLES, *known))
        with tf.init_scope():
            self._head = prove(self._model.base, head, tf.constant(noise, tf.float32)).head
        if self._head is not head:
            self._model._point_loss = None  # resolved anew: it may have counted on the logits

    @property
    def ending(self) -> str | None:
        """What the base does to its logits, None where it is not known.

        It is ``"probabilities"`` where it returns these and more lies between them and the logits
        in training: dropout, or a penalty, which has to see them.
        """
        head = self.head
        # What a model declares to be its logits says nothing of its outputs.
        if head is None or head.declared:
            return None
        return head.activation if head.in_training else "probabilities"

    @property
    def tap(self) -> ActivationTap:
        """The base with its ReLU outputs."""
        if self._tap is None:
            if self.head is not None and self.ending not in ("softmax", "linear"):
                raise _no_logits(self._model)
            self._tap = ActivationTap(self._model.base)
        return self._tap

    def classifier(self, mode: str) -> Classifier:
        if mode not in self._classifiers:
            kind = _TrainingView if mode == "training" else Classifier
            base = self._model.base
            # What a rounding layer passes back is zero: adversaries of no use to train on.
            offered = {
                choice
                for layer in _keras.flat_layers(base)
                for choice in getattr(layer, "gradients", ())
            }
            gradient = "straight_through" if "straight_through" in offered else "exact"
            self._classifiers[mode] = kind(base, self._model.clip_values, gradient=gradient)
        return self._classifiers[mode]


class _TrainingView(Classifier):
    """A model in training mode whose statistics and dropout seeds stay where they are."""

    def logits(
        self, x: tf.Tensor, training: bool = False, key: tf.Tensor | None = None
    ) -> tf.Tensor:
        del training, key
        with keras.StatelessScope():
            return super().logits(x, training=True)


# Outputs of a pass, its logits and its activations.
_Answers = tuple[tf.Tensor, tf.Tensor | None, list[tf.Tensor] | None]


class _ChainEnd:
    """The end of the chain: the compiled loss per sample. Remembers the passes that were made.

    Losses that layers add are not collected where nobody asks: Keras cannot list them in a
    `StatelessScope`, in which a link may prepare.
    """

    def __init__(self, model: RobustModel, collects: bool = True):
        self._model = model
        self._collects = collects
        self._passes: dict[tuple[int, str], _Pass] = {}
        self._activity: list[tf.Tensor] = []

    def __call__(self, batch: Batch) -> tf.Tensor:
        made = self._run(batch)
        return self._model._resolve_loss()(batch.y, made.outputs, made.logits)

    def logits(self, batch: Batch) -> tf.Tensor:
        logits = self._run(batch).logits
        if logits is None:
            raise _no_logits(self._model)
        if logits.shape[-1] == 1:  # two classes, as `Classifier` has it
            return tf.concat([tf.zeros_like(logits), logits], axis=-1)
        return logits

    def activations(self, batch: Batch) -> list[tf.Tensor]:
        made = self._run(batch)
        if made.activations is None or made.logits is None:
            raise ValueError(
                "A defense that calls `inner.activations` must have the class attribute "
                f"`sees_activations = True`. Received: defenses={list(self._model.defenses)}"
            )
        return [*made.activations, made.logits]

    def _run(self, batch: Batch) -> _Pass:
        # The inputs are kept with the pass, so that their id stays theirs.
        key = (id(batch.x), batch.mode)
        if key not in self._passes:
            seeds = self._model.seeds() if self._model.repeats_draws else ()
            self._passes[key] = _Pass(batch, *self._repeated(batch), seeds)
        return self._passes[key]

    def _repeated(self, batch: Batch) -> _Answers:
        """A pass with draws of its own, or those of an earlier one: pass by pass, copy by copy."""
        if batch.draws_as is None or batch.mode == "inference":
            return self._forward(batch.x, batch.mode)
        (x, copies), passes = batch.draws_as, self._passes.items()
        seeds = next(p.seeds for (one, how), p in passes if one == id(x) and how != "inference")
        if not seeds:
            return self._forward(batch.x, batch.mode)
        parts = [self._forward(batch.x[i::copies], batch.mode, seeds) for i in range(copies)]
        return keras.tree.map_structure(lambda *values: _woven(values), *parts)

    def _forward(self, x: tf.Tensor, mode: str, seeds: Sequence[tf.Tensor] = ()) -> _Answers:
        seen: list[tf.Tensor] | None = [] if self._model.sees_activations else None
        outputs, logits = self._model.forward(x, mode, seen, seeds)
        if self._collects and mode == "training":
            self._activity.append(_total(_activity_losses(self._model.base)))
        return outputs, logits, seen

    @property
    def activity(self) -> tf.Tensor:
        """Losses that layers added during the passes, as their mean over passes."""
        return _total(self._activity) / max(len(self._activity), 1)

    def measured(self) -> _Pass:
        """The pass that metrics are taken from: the clean one, else the first."""
        passes = list(self._passes.values())
        if not passes:
            raise ValueError("The objective made no pass through the model.")
        return next((made for made in passes if made.batch.origin == "clean"), passes[0])


class _Link:
    """A defense joined to the rest of its chain."""

    def __init__(self, defense: TrainingDefense, inner: Inner):
        self._defense = defense
        self._inner = inner

    def __call__(self, batch: Batch) -> tf.Tensor:
        return self._defense.objective(batch, self._inner)

    def logits(self, batch: Batch) -> tf.Tensor:
        return self._inner.logits(batch)

    def activations(self, batch: Batch) -> list[tf.Tensor]:
        return self._inner.activations(batch)


class _Preparing:
    """The rest of the chain for a link that prepares.

    Every call makes its own passes: weights may have moved since the last one, and metrics do not
    count them.
    """

    def __init__(self, model: RobustModel, rest: Sequence[TrainingDefense]):
        self._model = model
        self._rest = rest

    def _end(self) -> _ChainEnd:
        return _ChainEnd(self._model, collects=False)

    def __call__(self, batch: Batch) -> tf.Tensor:
        return _chain(self._rest, self._end())(batch)

    def logits(self, batch: Batch) -> tf.Tensor:
        return self._end().logits(batch)

    def activations(self, batch: Batch) -> list[tf.Tensor]:
        return self._end().activations(batch)


def _woven(parts: Sequence[Any]) -> Any:
    """Rows of several tensors in turn, `[batch * parts, ...]`; None of Nones."""
    if parts[0] is None:
        return None
    shape = tf.concat([[-1], tf.shape(parts[0])[1:]], axis=0)
    rows = tf.reshape(tf.stack(parts, axis=1), shape)
    return tf.ensure_shape(rows, [None, *parts[0].shape[1:]])


def _no_logits(model: RobustModel) -> ValueError:
    return ValueError(
        "This defense needs the model's logits: the model must end in a softmax or return logits, "
        f"and its graph must be readable. Received: model={model.base.name!r}"
    )


def _chain(defenses: Sequence[TrainingDefense], end: _ChainEnd) -> Inner:
    """The chain of these defenses, the first of them outermost."""
    chain: Inner = end
    for defense in reversed(defenses):
        chain = _Link(defense, chain)
    return chain


def _weight_regularizers(model: keras.Model) -> list[tf.Tensor]:
    return [
        variable.regularizer(variable)
        for variable in model.trainable_weights
        if variable.regularizer is not None
    ]


def _activity_losses(model: keras.Model) -> list[tf.Tensor]:
    """What layers added in the pass just made; `losses` lists it before the weight regularisers."""
    losses = list(model.losses)
    return losses[: len(losses) - len(_weight_regularizers(model))]


def _total(values: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.zeros([]), *(tf.reduce_sum(tf.cast(v, tf.float32)) for v in values)])


def _policy(base: keras.Model) -> keras.DTypePolicy:
    """The policy that tells `compile` whether losses must be scaled.

    Keras saves the policies of layers but not of functional models: a loaded model claims the
    global policy of the moment.
    """
    policies = [layer.dtype_policy for layer in _keras.flat_layers(base)]
    return next((one for one in policies if one.name == "mixed_float16"), base.dtype_policy)


def _hdf5(received: str) -> ValueError:
    return ValueError(
        "A wrapped model is saved as a `.keras` file; `kerasrobust.unwrap(model)` can be saved as "
        f"HDF5. Received: {received}"
    )


def _check_training(base: keras.Model) -> None:
    """A training step of the model's own would not be made: the chain has its own."""
    for name in ("train_step", "compute_loss"):
        if getattr(type(base), name) is not getattr(keras.Model, name) or name in vars(base):
            raise ValueError(
                f"A wrapped model trains by a step of its own, and this one's `{name}` would be "
                "left out: put what it does into a loss, or into a defense. "
                f"Received: base={base.name!r} with `{name}`"
            )


def _check_strategy(base: keras.Model) -> None:
    """A base built outside of the current strategy's scope would not be mirrored."""
    if not tf.distribute.has_strategy():
        return
    current = tf.distribute.get_strategy()
    for variable in base.variables:
        if not current.extended.variable_created_in_scope(variable.value):
            raise ValueError(
                "The model must be built in the scope of the strategy it is trained with. "
                f"Received: a model built outside of the scope of {type(current).__name__}"
            )


def _check_seed(seed: Any) -> int:
    if check_int("seed", seed, 0, None) >= 2**31:
        raise ValueError(f"`seed` must be below 2^31. Received: seed={seed!r}")
    return int(seed)
