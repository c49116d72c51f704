"""What layers in front of a model share: bounds, when they act, and which gradient they offer."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasrobust.checks import check_bool, check_bounds
from kerasrobust.defenses.layers.base import LayerDefense
from kerasrobust.engine import backward


class Preprocessing(keras.layers.Layer, LayerDefense):
    """A layer that changes images before the model sees them, and leaves their unit alone.

    It computes in float32 whatever the precision of the network, and holds no state but the seed of
    what it draws. What stands for its gradient is the attacker's choice (`engine.backward`).

    Class attributes:
        gradients: The choices that it offers.
        keeps_unit: Whoever looks for the range of pixels in a model's first layers looks past it.

    Args:
        clip_values: Smallest and largest valid pixel. Default: what `wrap` is given, (0, 1) alone.
        apply_fit: Whether it acts in training.
        apply_predict: Whether it acts in inference.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range.
    """

    source = "AREB"
    gradients: tuple[str, ...] = ("exact", "straight_through", "ignore")
    keeps_unit = True

    def __init__(
        self,
        clip_values: tuple[float, float] | None = None,
        apply_fit: bool = False,
        apply_predict: bool = True,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        self.clip_values = None if clip_values is None else check_bounds(clip_values)
        self.apply_fit = check_bool("apply_fit", apply_fit)
        self.apply_predict = check_bool("apply_predict", apply_predict)

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds that it works with."""
        return (0.0, 1.0) if self.clip_values is None else self.clip_values

    def draw(self, x: tf.Tensor) -> dict[str, Any]:
        """What is drawn at random for images, once in a call: more arguments of `transform`.

        `surrogate` is given the same, so that output and gradient are those of one draw.
        """
        del x
        return {}

    @abc.abstractmethod
    def transform(self, x: tf.Tensor) -> tf.Tensor:
        """What it makes of float32 images."""

    def surrogate(self, x: tf.Tensor) -> tf.Tensor | None:
        """A differentiable function near to `transform`, if there is one."""
        raise NotImplementedError

    def check_images(self, shape: Sequence[int | None]) -> None:
        """Refuses images that it cannot work on, as far as their shape is known."""
        del shape

    def build(self, input_shape: Any) -> None:  # noqa: D102
        self.check_images(tuple(input_shape))
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:  # noqa: D102
        x = tf.cast(inputs, tf.float32)
        if self.apply_fit if training else self.apply_predict:
            self.check_images(tuple(x.shape))
            drawn = self.draw(x)
            transform = functools.partial(self.transform, **drawn)
            near = functools.partial(self.surrogate, **drawn)
            none = type(self).surrogate is Preprocessing.surrogate
            x = backward.substitute(x, transform, None if none else near)
        return tf.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:  # noqa: D102
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().get_config(),
            "clip_values": self.clip_values,
            "apply_fit": self.apply_fit,
            "apply_predict": self.apply_predict,
        }

    def within(self, clip_values: tuple[float, float]) -> Preprocessing:
        """A copy for a model of these bounds.

        Raises:
            ValueError: If it was given others.
        """
        if self.clip_values not in (None, clip_values):
            raise ValueError(
                f"The clip_values of {type(self).__name__} must be those of the model, "
                f"{clip_values}; leave them out to have them so. "
                f"Received: clip_values={self.clip_values}"
            )
        return type(self).from_config({**self.get_config(), "clip_values": clip_values})

    def rebuild(self, model: keras.Model) -> keras.Model:
        """A model with the layer in front of `model`, of layers already there too.

        The model is shared, not copied.

        Raises:
            ValueError: If the images are none that it works on, the model has several inputs, or
                expects other bounds than the layer's.
        """
        fronts, inner = taken_apart(model)
        if fronts and self.bounds != fronts[0].bounds:
            self.within(fronts[0].bounds)
        return in_front([self, *fronts], inner, self.bounds)


class ImagePreprocessing(Preprocessing):
    """A preprocessing layer that looks at an image as such: it has to know where the channels are.

    Args:
        data_format: ``"channels_last"`` or ``"channels_first"``. Default: Keras's setting.
        **kwargs: Of `Preprocessing`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(
                "`data_format` must be 'channels_last' or 'channels_first'. "
                f"Received: data_format={data_format!r}"
            )
        self.data_format = data_format or keras.config.image_data_format()

    def transform(self, x: tf.Tensor) -> tf.Tensor:  # noqa: D102
        return self._on_channels_last(x, self.transform_images)

    def transform_images(self, x: tf.Tensor) -> tf.Tensor:
        """What it makes of float32 images `[batch, height, width, channels]`.

        For layers that leave the order of axes to `transform`.
        """
        raise NotImplementedError

    def check_images(self, shape: Sequence[int | None]) -> None:  # noqa: D102
        if len(shape) != 4:
            raise ValueError(
                f"{type(self).__name__} needs images [batch, height, width, channels], in the order"
                f" of `data_format`. Received: inputs of shape {tuple(shape)}"
            )

    def sides(self, shape: Sequence[int | None]) -> Sequence[int | None]:
        """Height and width of images of a shape."""
        return shape[1:3] if self.data_format == "channels_last" else shape[2:]

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return {**super().get_config(), "data_format": self.data_format}

    def _on_channels_last(self, x: tf.Tensor, function: Any) -> tf.Tensor:
        if self.data_format == "channels_last":
            return function(x)
        return tf.transpose(function(tf.transpose(x, (0, 2, 3, 1))), (0, 3, 1, 2))


@keras.saving.register_keras_serializable("kerasrobust")
class Preprocessed(keras.Model):
    """Preprocessing layers and, behind them, the model that they stand in front of."""

    @property
    def clip_values(self) -> tuple[float, float]:
        """The bounds of the layers."""
        return taken_apart(self)[0][0].bounds


def in_front(
    layers: Sequence[Preprocessing], model: keras.Model, clip_values: tuple[float, float]
) -> keras.Model:
    """`model` behind copies of `layers`, the first of which sees the images first.

    Raises:
        ValueError: If a layer has other bounds, images are none that it works on, or the model has
            several inputs.
    """
    if not layers:
        return model
    copies = [layer.within(clip_values) for layer in layers]
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or isinstance(shape[0], tuple):
        raise ValueError(
            "Preprocessing needs a functional or sequential model with one input. "
            f"Received: model={model.name!r}"
        )
    taken = {model.name}
    inputs = x = keras.Input(shape[1:], dtype="float32", name=_free("images", taken))
    for layer in copies:
        config = {**layer.get_config(), "name": _free(_stem(layer), taken), "dtype": "float32"}
        x = type(layer).from_config(config)(x)
    return Preprocessed(inputs, model(x), name=f"preprocessed_{model.name}")


def taken_apart(model: keras.Model) -> tuple[list[Preprocessing], keras.Model]:
    """The layers in front of a model, first one first, and the model."""
    if not isinstance(model, Preprocessed):
        return [], model
    return [layer for layer in model.layers if isinstance(layer, Preprocessing)], model.layers[-1]


def _stem(layer: keras.layers.Layer) -> str:
    """Its name, without the number that Keras counts up in each process where it names by itself.

    The name is part of what a stored result is found by.
    """
    stem = layer.name.rstrip("0123456789").rstrip("_")
    return stem if stem.replace("_", "") == type(layer).__name__.lower() else layer.name


def _free(name: str, taken: set[str]) -> str:
    """The name, or with a number the first one that is not `taken`; it is then."""
    found, tries = name, 0
    while found in taken:
        tries += 1
        found = f"{name}_{tries}"
    taken.add(found)
    return found


@tf.custom_gradient
def rounded(x: tf.Tensor) -> Any:
    """`tf.round`, halves to even, with its gradient: zero rather than none."""
    return tf.round(x), tf.zeros_like
