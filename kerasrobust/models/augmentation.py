"""Images on their way to a training step, through random layers of Keras."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust import _keras
from kerasrobust.specs import is_description, near_match, parse_spec


def layers(
    augment: Sequence[Any], clip_values: tuple[float, float], *, check_range: bool = True
) -> list[keras.layers.Layer]:
    """The layers that a recipe names.

    Args:
        augment: Class names of Keras layers, with arguments or without, descriptions, or layers.
        clip_values: The bounds of the images: the `value_range` of layers that were given none.
        check_range: Whether a layer with another `value_range` is refused. Default True.

    Raises:
        ValueError: If a name is unknown, an argument out of range, or a layer works on pixels in
            another range.
        TypeError: For an argument that a layer does not take.
    """
    made = [_layer(item, clip_values) for item in augment]
    for layer in made:
        own = getattr(layer, "value_range", None)
        if check_range and own is not None and tuple(map(float, own)) != clip_values:
            raise ValueError(
                f"{type(layer).__name__} must work in the range of the images, {clip_values}: "
                f"leave its value_range out. Received: value_range={tuple(own)}"
            )
    return made


def told(item: Any) -> Any:
    """What a recipe names, ready for JSON: of a layer its class and arguments."""
    if not isinstance(item, keras.layers.Layer):
        return item
    config = {k: v for k, v in item.get_config().items() if k not in ("name", "seed")}
    return {"name": type(item).__name__, "config": config}


def apply(
    made: Sequence[keras.layers.Layer],
    images: tf.Tensor,
    seed: Any,
    clip_values: tuple[float, float],
) -> tf.Tensor:
    """Images `[batch, height, width, channels]` after the layers, within the bounds.

    Args:
        made: The layers.
        images: float32 images.
        seed: Two integers; what all layers draw is a function of them.
        clip_values: The bounds.
    """
    states = list({id(s): s for layer in made for s in _keras.seed_states(layer)}.values())
    keys = tf.random.stateless_uniform(
        [len(states), 2], seed, minval=0, maxval=2**31 - 1, dtype=tf.int64
    )
    mapping = [
        (state, tf.cast(key, state.dtype))
        for state, key in zip(states, tf.unstack(keys), strict=True)
    ]
    x = images
    with keras.StatelessScope(state_mapping=mapping):
        for layer in made:
            x = layer(x, training=True) if _keras.takes_training(layer) else layer(x)
    return tf.clip_by_value(tf.cast(x, tf.float32), *clip_values)


def check(
    made: Sequence[keras.layers.Layer], images: tf.Tensor, clip_values: tuple[float, float]
) -> None:
    """Refuses layers that do not take the images, change their shape or have weights.

    And those that mix images of a batch, since nobody mixes their labels, or draw from elsewhere
    than `apply` says, so that a run would not repeat.
    """
    if not made:
        return
    before = random.getstate(), np.random.get_state(legacy=False)
    try:
        _check_images(made, images, clip_values)
        first, again, beside = _varied(made, images[:1], clip_values)
        now = random.getstate(), np.random.get_state(legacy=False)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
    names = " and ".join(type(layer).__name__ for layer in made)
    drawn = now[0] != before[0] or now[1]["state"]["pos"] != before[1]["state"]["pos"]
    if drawn or not np.array_equal(first, again):
        raise ValueError(
            "Layers of augmentation must draw by Keras's seed generators, or a run would not "
            f"repeat, nor go on after an interruption. Received: {names}"
        )
    if np.abs(first - beside).max() > 1e-3 * (clip_values[1] - clip_values[0]):
        raise ValueError(
            "Layers of augmentation must take each image by itself: its label is not mixed with "
            f"those of others. The defense 'superimpose' mixes images. Received: {names}"
        )


def _varied(
    made: Sequence[keras.layers.Layer], image: tf.Tensor, clip_values: tuple[float, float]
) -> list[np.ndarray]:
    """What becomes of four copies of an image beside four more, again, and beside its negative."""
    low, high = clip_values
    same = tf.repeat(image, 4, axis=0)
    batches = [tf.concat([same, other], axis=0) for other in (same, same, low + high - same)]
    return [apply(made, batch, (0, 0), clip_values).numpy()[:4] for batch in batches]


def _check_images(
    made: Sequence[keras.layers.Layer], images: tf.Tensor, clip_values: tuple[float, float]
) -> None:
    """Refuses layers that do not take the images, change their shape or have weights."""
    try:
        shape = tuple(apply(made, images, (0, 0), clip_values).shape)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"The augmentation takes no images of this kind: {reason} "
            f"Received: images of shape {tuple(images.shape[1:])}"
        ) from error
    trained = [type(layer).__name__ for layer in made if layer.weights]
    if trained:
        raise ValueError(
            f"Layers of augmentation must have no weights. Received: {', '.join(trained)}"
        )
    if shape != tuple(images.shape):
        raise ValueError(
            "Augmentation must leave the shape of images as it is. "
            f"Received: {' and '.join(type(layer).__name__ for layer in made)}, which make "
            f"{shape[1:]} of {tuple(images.shape[1:])}"
        )


def _layer(item: Any, clip_values: tuple[float, float]) -> keras.layers.Layer:
    if isinstance(item, keras.layers.Layer):
        return item
    if isinstance(item, str):
        name, config = parse_spec(item)
    elif is_description(item):
        name, config = item["name"], dict(item.get("config") or {})
    else:
        raise TypeError(
            "Expected the name of a Keras layer, a description or a layer. "
            f"Received: augment={item!r}"
        )
    kind = getattr(keras.layers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, keras.layers.Layer)):
        known = [key for key in dir(keras.layers) if key.startswith("Random")]
        raise ValueError(f"Unknown layer. {near_match(name, known)} Received: augment={name!r}")
    parameters = inspect.signature(kind).parameters
    unknown = [key for key in config if key not in parameters]
    if unknown:
        known = [key for key in parameters if key not in ("seed", "kwargs")]
        raise TypeError(
            f"{name} takes {', '.join(known)}. "
            f"Received: {', '.join(f'{key}={config[key]!r}' for key in unknown)}"
        )
    if "value_range" in parameters:
        config.setdefault("value_range", clip_values)
    if "seed" in parameters:
        # Of no consequence, see `apply`, but Keras would draw one from Python's generator.
        config.setdefault("seed", 0)
    try:
        return kind(**config, dtype="float32")
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name}: {reason} Received: augment={item!r}") from error
