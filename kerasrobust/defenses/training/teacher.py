"""The teacher of a distilled model: where it comes from, and how it is held."""

from __future__ import annotations

import copy
import json
import os
import random
from typing import Any

import keras
import numpy as np

from kerasrobust import _keras
from kerasrobust.engine.classifier import Classifier
from kerasrobust.models.loading import load


class Teacher:
    """A network that predicts and is not trained; being held here, Keras does not track it.

    Attributes:
        network: The `keras.Model`.
        classifier: Its logits.
        trained: Whether its weights are those of a trained model.
    """

    def __init__(self, network: keras.Model, clip_values: tuple[float, float]):
        self.network = network
        self.classifier = Classifier(network, clip_values)
        self.trained = False

    def take(self, weights: list[np.ndarray]) -> None:
        """Sets its weights to those of a trained model."""
        self.network.set_weights(weights)
        self.freeze()

    def freeze(self) -> None:
        """Says that it is trained, and shall be no longer."""
        self.network.trainable = False
        self.trained = True


def read(teacher: Any) -> keras.Model:
    """The teacher from a model, a path or a configuration."""
    if isinstance(teacher, (str, os.PathLike)):
        teacher = load(teacher)
    elif isinstance(teacher, dict):
        # Keras takes a configuration apart while it reads it.
        teacher = keras.saving.deserialize_keras_object(copy.deepcopy(teacher))
    if not isinstance(teacher, keras.Model):
        raise TypeError(
            "`teacher` must be a keras.Model or the path of a saved one. "
            f"Received: teacher={teacher!r}"
        )
    # A wrapped model: its links are for training, and its own teacher is not asked again.
    teacher = teacher.base if hasattr(teacher, "defenses") else teacher
    if not teacher.built:
        raise ValueError(
            f"The teacher must be built. Received: teacher={teacher.name!r}, not built"
        )
    return teacher


def architecture(model: keras.Model) -> dict[str, Any]:
    """The configuration of a model, without that of its optimizer and loss."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    # As it comes back from a file, where tuples are lists.
    return json.loads(json.dumps(config))


def twin(model: keras.Model, seed: int) -> keras.Model:
    """A model of the same architecture, its weights drawn anew from the seed.

    What training does not change, the weights of frozen layers or of a `Normalization` say, is
    copied.
    """
    classes = {type(layer).__name__: type(layer) for layer in _keras.flat_layers(model)}
    # Keras draws the seeds of initialisers and of dropout that have none from Python's generator.
    state = random.getstate()
    random.seed(seed)
    try:
        other = keras.saving.deserialize_keras_object(
            architecture(model), custom_objects=classes, safe_mode=False
        )
    except Exception as error:  # layers raise their own kinds
        raise ValueError(
            "distillation needs a second network of the same kind, and this one cannot be rebuilt "
            f"from its configuration ({type(error).__name__}). Received: model={model.name!r}"
        ) from error
    finally:
        random.setstate(state)
    for ours, theirs in zip(other.weights, model.weights, strict=True):
        if not theirs.trainable:
            ours.assign(theirs)
    return other


def check_fits(teacher: Classifier, model: Classifier) -> None:
    """Refuses a teacher of other inputs or classes, as far as the two tell."""
    theirs, ours = teacher.input_shape, model.input_shape
    if theirs is not None and ours is not None:
        fits = len(theirs) == len(ours) and all(
            None in pair or pair[0] == pair[1] for pair in zip(theirs, ours, strict=True)
        )
        if not fits:
            raise ValueError(
                f"The teacher must take the model's inputs, {ours}. Received: a teacher of {theirs}"
            )
    if None not in (teacher.known_classes, model.known_classes) and (
        teacher.known_classes != model.known_classes
    ):
        raise ValueError(
            f"The teacher must know the model's {model.known_classes} classes. "
            f"Received: a teacher of {teacher.known_classes}"
        )
