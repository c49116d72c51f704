"""Defensive distillation: learn from the softened predictions of a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust import _keras
from kerasrobust.checks import check_float
from kerasrobust.defenses.training.base import Batch, Context, Inner, TrainingDefense
from kerasrobust.defenses.training.labels import class_distribution
from kerasrobust.defenses.training.teacher import Teacher, architecture, check_fits, read, twin
from kerasrobust.engine.classifier import Classifier

# What a teacher's `fit` does not take over: how the student is watched and where it goes on.
_STUDENTS_OWN = ("validation_data", "validation_steps", "validation_batch_size", "initial_epoch")


def softened_cross_entropy(target: tf.Tensor, logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """`-sum_c target_c log softmax(logits / T)_c` of `[batch, classes]`, `[batch]`."""
    return tf.nn.softmax_cross_entropy_with_logits(labels=target, logits=logits / temperature)


@keras.saving.register_keras_serializable("kerasrobust")
class Distillation(TrainingDefense):
    """Trains a model, at a high temperature, on the predictions of a teacher of the same shape.

    The loss of a sample is, with `z` the logits and `T` the temperature,

        -sum_c softmax(z_teacher(x) / T)_c * log softmax(z(x) / T)_c

    and takes the place of the compiled one, which still says how labels look and how losses are
    reduced. The target is the teacher's for the clean sample, also where an outer link trains on
    variants of it. Afterwards the model is used as it is, at `T = 1`: its logits have grown by
    about `T`, and its predictions are that much more confident.

    Without a teacher, `fit` first trains one: the same network, its trainable weights drawn anew
    (initialisers with a seed of their own draw what they drew before), on the same data at the same
    temperature with the cross-entropy of the labels, the compiled optimizer's settings and as many
    epochs. Links around this one and callbacks are for the model alone. The teacher is
    `model.teacher.network`; it is frozen and none of the model's layers, so it is not in `weights`
    or `count_params`, but it is saved with them, and a model that was loaded or restored does not
    train it again.

    Papernot, McDaniel, Wu, Jha and Swami, "Distillation as a Defense to Adversarial Perturbations
    against Deep Neural Networks", 2016, arXiv:1511.04508, section IV; eq. 2.9 of the thesis that
    defines e2SAD.

    Limits: it masks gradients and does not make a model robust. Where the logits are large, the
    float32 gradient of the loss vanishes and attacks that follow it fail; attacks that work on
    differences of logits, C&W's above all, succeed as before (Carlini and Wagner, "Towards
    Evaluating the Robustness of Neural Networks", 2017, arXiv:1608.04644), and so do transferred
    and black-box ones. Memory for a second network, and one more forward pass in each step.

    Args:
        temperature: `T` of teacher and student, above 0. Default 20; the paper tries 1 to 100.
        teacher: A built `keras.Model` with the same input shape and classes, trained at that
            temperature, or the path of a saved one. It is copied and left alone; of a wrapped
            model the base is taken. Default: none, one is trained.

    Raises:
        TypeError: If `teacher` is of another type.
        FileNotFoundError: If there is no such file.
        ValueError: If `temperature` is out of range, the teacher is not built, cannot be copied, or
            does not fit the model.

    Example:
        >>> model = kerasrobust.wrap(model, "distillation", temperature=20)
        >>> model = kerasrobust.wrap(model, "distillation:teacher=teacher.keras")
    """

    name = "distillation"
    source = "E2SAD, BRELU-GDA"
    ends = True

    def __init__(self, temperature: float = 20.0, teacher: Any = None):
        self.temperature = check_float("temperature", temperature, above=True)
        # A configuration has no weights; they come from the file it was saved in.
        self._weightless = isinstance(teacher, dict)
        self.teacher = None if teacher is None else read(teacher)

    def build(self, model: Any) -> None:
        source = model.base if self.teacher is None else self.teacher
        network = twin(source, model.seed)
        model.teacher = Teacher(network, model.clip_values)
        if self.teacher is not None:
            check_fits(model.teacher.classifier, Classifier(model.base, model.clip_values))
            if not self._weightless:
                model.teacher.take(self.teacher.get_weights())

    def before_fit(self, model: Any, arguments: Mapping[str, Any]) -> None:
        if model.teacher.trained:
            return
        if self.teacher is not None:
            raise ValueError(
                "The teacher was read from a configuration, which has no weights: load those of "
                f"the model before it is trained. Received: teacher={self.teacher.name!r}"
            )
        if isinstance(arguments["x"], Iterator):
            raise ValueError(
                "The teacher is trained on the same data first, which an iterator gives once: use "
                "arrays or a tf.data.Dataset, or give a `teacher`. "
                f"Received: x={type(arguments['x']).__name__}"
            )
        fit = {key: value for key, value in arguments.items() if key not in _STUDENTS_OWN}
        # With `validation_split` the same samples are held out, and never looked at.
        fit["validation_freq"] = fit.get("epochs", 1) + 1
        if fit.get("verbose", "auto"):
            print(f"Training the teacher at temperature {self.temperature:g}", flush=True)
        self._trainee(model).fit(**fit)
        model.teacher.freeze()

    def _trainee(self, model: Any) -> keras.Model:
        """The teacher in training: compiled like the model, which is the student."""
        link = _AtTemperature(self.temperature)
        network, settings = model.teacher.network, _keras.compile_settings(model)
        same = ("loss", "loss_weights", "run_eagerly", "steps_per_execution", "jit_compile")
        optimizer = type(model.optimizer)
        trainee = type(model)(network, [link], clip_values=model.clip_values, seed=model.seed)
        with model.distribute_strategy.scope():
            trainee.compile(
                optimizer=optimizer.from_config(model.optimizer.get_config()),
                **{key: settings[key] for key in same},
            )
        return trainee

    def saved(self, model: Any) -> dict[str, Any]:
        if not model.teacher.trained:
            return {}
        return {str(i): value for i, value in enumerate(model.teacher.network.get_weights())}

    def load(self, model: Any, values: Mapping[str, Any]) -> None:
        if values:
            model.teacher.take([np.asarray(values[str(i)]) for i in range(len(values))])

    def prepare(self, batch: Batch, context: Context) -> Batch:
        if not context.model.teacher.trained:
            raise ValueError(
                "There is no teacher yet: `fit` trains one, a single batch does not. Call `fit`, "
                "or give a `teacher`. Received: teacher=None"
            )
        # The links around this one prepare later: `x` is still clean.
        logits = context.model.teacher.classifier.logits(batch.x)
        target = tf.stop_gradient(tf.nn.softmax(logits / self.temperature))
        return batch.with_extra(self.name, target)

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        target, batch = batch.pop_extra(self.name)
        return softened_cross_entropy(target, inner.logits(batch), self.temperature)

    def get_config(self) -> dict[str, Any]:
        teacher = None if self.teacher is None else architecture(self.teacher)
        return {"temperature": self.temperature, "teacher": teacher}

    def __repr__(self) -> str:
        teacher = None if self.teacher is None else self.teacher.name
        return f"Distillation(temperature={self.temperature!r}, teacher={teacher!r})"


class _AtTemperature(TrainingDefense):
    """The loss that a teacher is trained with: the cross-entropy of the labels, softened."""

    name = "temperature"
    ends = True

    def __init__(self, temperature: float):
        self.temperature = temperature

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        logits = inner.logits(batch)
        target = class_distribution(batch.y, logits.shape[-1])
        return softened_cross_entropy(target, logits, self.temperature)

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature}
