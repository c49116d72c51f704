"""The contract of a defense that answers in a model's place."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
import numpy as np

from kerasrobust import _keras
from kerasrobust.checks import check_bounds, check_length
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.pixel_range import default_bounds


class DecisionDefense(keras.Model):
    """A model around a finished one, which it asks, and whose answer it may withhold.

    Without a model it is a *recipe*: `bind(model)` makes it one that answers. It is saved and
    loaded as any Keras model, with the one inside, and shares that one's weights. It is not
    trained: the one inside is, before.

    What a `Classifier` asks of it: `logits_model`, a pass that attacks may follow, and, where the
    defense withholds answers, `accepts(x)` (a detector) or `certain(counts)` (of votes).

    Class attributes:
        name: Registry name; an instance has one of its own.
        source: The documents that name it; where it is empty the paper of the docstring counts.
        lengths: Arguments in the unit of the inputs, each with its default as a share of the width
            of the box. They are None unless they are given.

    Args:
        base: The finished model, built, with one input and one output `[batch, classes]`; None for
            a recipe.
        clip_values: Smallest and largest valid input value. Default: what `base` has, else (0, 1).
        name: Name of the model.

    Raises:
        TypeError: If `base` is no Keras model.
        ValueError: If it is not built, or a decision defense itself.
    """

    name: str = ""
    source: ClassVar[str] = ""
    lengths: ClassVar[Mapping[str, float]] = {}

    def __init__(
        self,
        base: keras.Model | None = None,
        *,
        clip_values: tuple[float, float] | None = None,
        name: str | None = None,
    ):
        if base is not None:
            _check_base(base)
            name = name or f"{type(self).name}_{base.name}"
        # The base converts its own inputs.
        super().__init__(name=name, dtype=None if base is None else base.dtype, autocast=False)
        self.base = base
        self._given_bounds = clip_values
        # What answers, and what it asks: made when they are needed.
        self._outer: Classifier | None = None
        self._inner: Classifier | None = None
        if base is not None:
            bounds = default_bounds(base) if clip_values is None else clip_values
            self.clip_values = check_bounds(bounds)
            self.built = True

    def bind(
        self,
        base: keras.Model,
        clip_values: tuple[float, float] | None = None,
        seed: int | None = None,
    ) -> Self:
        """This recipe for a model.

        Args:
            base: The finished model.
            clip_values: Its bounds; by default the recipe's.
            seed: Seed of what the defense draws; by default the recipe's.
        """
        config = {key: getattr(self, key) for key in self._arguments()}
        config |= {} if seed is None else {"seed": seed}
        bounds = self._given_bounds if clip_values is None else clip_values
        return type(self)(base, **config, clip_values=bounds)

    def decide(self, x: Any, batch_size: int = 128) -> tuple[np.ndarray, np.ndarray]:
        """The answer to samples: int64 labels `[n]`, and bool `[n]`, whether it is given at all.

        Args:
            x: Samples `[n, ...]`, inside the bounds.
            batch_size: Samples per pass.
        """
        if self._outer is None:
            self._outer = Classifier(self)
        x = self._outer.check(np.asarray(x))
        self._outer.look_for_draws(x, batch_size)
        labels, _, accepted = self._outer.judge(x, batch_size)
        return labels, accepted

    @property
    def classifier_options(self) -> dict[str, Any]:
        """Options of a `Classifier` that nobody gave: how many draws an attack is to take, say."""
        return {}

    @property
    def bound(self) -> keras.Model:
        """The model inside.

        Raises:
            ValueError: If this is a recipe.
        """
        if self.base is None:
            raise ValueError(
                f"{type(self).__name__} has no model yet: `bind` it to one, or use kerasrobust."
                f"wrap. Received: base=None"
            )
        return self.base

    @property
    def inner(self) -> Classifier:
        """The logits of the model inside."""
        if self._inner is None:
            self._inner = Classifier(self.bound, self.clip_values)
        return self._inner

    def length(self, name: str) -> float:
        """One of the `lengths` in the unit of the inputs: as it was given, or its default."""
        given = getattr(self, name)
        low, high = self.clip_values
        return float(self.lengths[name] * (high - low) if given is None else given)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.inner.nb_classes)

    @property
    def input_shape(self) -> Any:
        """Input shape of the model inside, batch included."""
        return self.bound.input_shape

    @property
    def output_shape(self) -> Any:
        """Output shape, batch included."""
        return (None, self.inner.nb_classes)

    def fit(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        raise ValueError(
            f"{type(self).__name__} answers in the place of a finished model: fit that one, "
            f"`model.base`, or wrap it when it is trained. Received: model={self.name!r}"
        )

    def get_config(self) -> dict[str, Any]:
        if _keras.is_saving_hdf5():
            raise ValueError(
                "A wrapped model is saved as `.keras`. Received: an older HDF5 format to save to"
            )
        base = self.base and keras.saving.serialize_keras_object(self.base)
        bounds = self._given_bounds if self.base is None else self.clip_values
        config = {key: getattr(self, key) for key in self._arguments()}
        return {"base": base, **config, "clip_values": bounds and list(bounds), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config = dict(config)
        if isinstance(config.get("base"), dict):
            config["base"] = keras.saving.deserialize_keras_object(config["base"], custom_objects)
        return cls(**config)

    @classmethod
    def _arguments(cls) -> list[str]:
        """Names of the hyperparameters."""
        names = inspect.signature(cls).parameters
        return [name for name in names if name not in ("base", "clip_values", "name")]

    def _check_lengths(self) -> None:
        """Refuses lengths in another unit than the inputs."""
        if self.base is None:
            return
        for name, share in self.lengths.items():
            value = getattr(self, name)
            if value is not None:
                check_length(name, value, self.clip_values, usual=share)


def _check_base(base: Any) -> None:
    if not isinstance(base, keras.Model):
        raise TypeError(f"`base` must be a keras.Model. Received: base={base!r}")
    if isinstance(base, DecisionDefense):
        raise ValueError(
            "A decision defense is the last one around a model, and there is one of them: wrap "
            f"`model.base`. Received: base={base.name!r}, {type(base).__name__}"
        )
    if not base.built:
        raise ValueError(
            "The model must be built: give it an Input layer or call it on a batch once. "
            f"Received: base={base.name!r}, not built"
        )
