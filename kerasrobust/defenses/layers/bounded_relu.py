"""Bounded ReLU, and the exchange of a model's ReLUs for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras

from kerasrobust import _keras
from kerasrobust.checks import check_float
from kerasrobust.defenses.layers.base import LayerDefense


@keras.saving.register_keras_serializable("kerasrobust")
class BoundedReLU(keras.layers.Layer, LayerDefense):
    """ReLU that saturates: 0 below 0, the input from 0 to `t`, `t` above.

    A perturbation cannot grow beyond `t` per unit on its way through the network:
    `|F(x) - F(x + d)| <= t * |1|` for the units of the layer.

    Liew, Khalil-Hani and Bakhteri, "Bounded activation functions for enhanced training stability
    of deep neural networks on visual pattern recognition problems", 2016; as a defense in
    Zantedeschi, Nicolae and Rawat, "Efficient Defenses Against Adversarial Attacks", 2017,
    arXiv:1707.06728, section 3.1.

    Limits: a saturated unit passes no gradient, so part of the robustness that gradient attacks
    see may be masking. Too small a `t` costs capacity; it should fit the range of the inputs.
    A model that was trained with plain ReLUs needs training after the exchange.

    Args:
        t: The bound, above 0. Default 1, the paper's value for inputs in 0..1.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If `t` is no finite number above 0.

    Example:
        >>> keras.layers.Conv2D(64, 8, activation=BoundedReLU(t=1.0))
        >>> model = kerasrobust.wrap(model, defense="brelu", t=1.0)
    """

    source = "BRELU-GDA"

    def __init__(self, t: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.t = check_float("t", t, above=True)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return keras.ops.minimum(keras.ops.relu(inputs), self.t)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "t": self.t}

    def rebuild(self, model: keras.Model) -> keras.Model:
        """A copy of `model` with every ReLU replaced by a `BoundedReLU(t)`, weights copied.

        Replaced are ReLU layers and operations, ``activation="relu"`` of any layer, and both
        inside nested models and wrappers such as `TimeDistributed`. Left alone is what is no plain
        ReLU: a slope or threshold, or a bound of its own (ReLU6).

        Args:
            model: A functional or sequential model. It is not touched, and its weights are not
                shared.

        Raises:
            ValueError: If the model is subclassed, so that its graph cannot be read, or holds no
                ReLU.
        """
        exchange = _Exchange(self.t)
        try:
            twin = exchange.clone(model)
        except NotImplementedError as error:
            raise ValueError(
                "brelu needs functional or sequential models, or layers that can be rebuilt from "
                f"their config. Received: model={model.name!r}"
            ) from error
        if not exchange.replaced:
            raise ValueError(f"brelu found no ReLU to replace. Received: model={model.name!r}")
        if model.built:
            twin.set_weights(model.get_weights())
        return twin


class _Exchange:
    """Clones models, each ReLU on the way exchanged, and counts them."""

    def __init__(self, t: float):
        self.t = t
        self.replaced = 0
        self._clones: dict[int, Any] = {}

    def clone(self, model: keras.Model) -> keras.Model:
        if not _keras.is_its_graph(model):
            raise NotImplementedError
        return keras.models.clone_model(model, clone_function=self._operation)

    def _operation(self, operation: Any) -> Any:
        if id(operation) not in self._clones:
            self._clones[id(operation)] = self._exchange(operation)
        return self._clones[id(operation)]

    def _exchange(self, operation: Any) -> Any:
        if _keras.has_graph(operation):
            return self.clone(operation)
        if isinstance(operation, keras.layers.Layer):
            config = operation.get_config()
            if type(operation) is keras.layers.ReLU and is_plain(config):
                return keras.saving.deserialize_keras_object(self._bounded(config))
            return type(operation).from_config(self._rewrite(config, config.get("dtype")))
        if type(operation).__name__ in ("Relu", "ReLU") and is_plain(vars(operation)):
            self.replaced += 1
            return BoundedReLU(self.t, name=self._name())
        # An operation of `keras.ops` has no state but its place in the graph.
        twin = copy.copy(operation)
        _keras.out_of_graphs(twin)
        return twin

    def _rewrite(self, config: Any, dtype: Any) -> Any:
        """A layer's config with bounded ReLUs, whatever it wraps."""
        if isinstance(config, (list, tuple)):
            return type(config)(self._rewrite(value, dtype) for value in config)
        if not isinstance(config, dict):
            return config
        if config.get("class_name") == "ReLU" and is_plain(config.get("config")):
            return {**config, **self._bounded(config["config"])}
        dtype = config.get("dtype", dtype)
        return {
            key: self._bounded({"dtype": dtype})
            if key.endswith("activation") and is_relu_name(value)
            else self._rewrite(value, dtype)
            for key, value in config.items()
        }

    def _bounded(self, config: dict[str, Any]) -> dict[str, Any]:
        # In the precision of the layer it serves, whatever the global policy is now.
        self.replaced += 1
        kept = {key: config[key] for key in ("name", "dtype") if config.get(key) is not None}
        made = BoundedReLU(self.t, **{"name": self._name(), **kept})
        return keras.saving.serialize_keras_object(made)

    def _name(self) -> str:
        # Keras's own would count on in a process, and it is part of what results are found by.
        return f"brelu_{self.replaced}"


def is_relu_name(value: Any) -> bool:
    """Whether a value from a layer's config is the ReLU function."""
    return value == "relu" or (
        isinstance(value, dict)
        and value.get("class_name") == "function"
        and value.get("config") == "relu"
    )


def is_plain(config: Any) -> bool:
    """Whether a ReLU with these attributes has no slope, threshold or bound."""
    return (
        isinstance(config, Mapping)
        and config.get("max_value") is None
        and not config.get("negative_slope")
        and not config.get("threshold")
    )
