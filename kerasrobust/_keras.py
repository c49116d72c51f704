"""The private names of Keras that the package leans on, each behind a function."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.random import seed_generator


def flatten_layers(model: keras.Model) -> list[Any]:
    """All layers of a model, those inside of others too, and the model itself."""
    return list(model._flatten_layers())


def seed_states(model: keras.Model) -> list[Any]:
    """State variables of the seed generators of all layers of a model, each once."""
    found: dict[int, Any] = {}
    for layer in flatten_layers(model):
        for generator in layer._seed_generators:
            found.setdefault(id(generator.state), generator.state)
    return list(found.values())


def global_seed_state() -> Any:
    """State variable of the generator that layers draw from which have none of their own."""
    return seed_generator.global_seed_generator().state
