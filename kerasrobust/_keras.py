"""Every private name of Keras that we lean on, each behind a function of ours.

No other module uses one. Each has a test of its own, which fails when Keras changes the name.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

_FUNCTIONAL = keras.src.models.Functional
# What runs a model that is nothing but its graph.
_OWN_CALLS = (_FUNCTIONAL.call, keras.Sequential.call)


def has_graph(model: Any) -> bool:
    """Whether a model is functional or sequential, subclasses with a `call` of their own too."""
    return isinstance(model, (keras.Sequential, _FUNCTIONAL))


def is_its_graph(model: Any) -> bool:
    """Whether a model computes its graph and nothing else: it has no `call` of its own."""
    return (
        has_graph(model)
        and type(model).call in _OWN_CALLS
        and type(model).__call__ is keras.layers.Layer.__call__
        and "call" not in vars(model)
    )


def graph_of(model: keras.Model) -> keras.Model | None:
    """The functional model behind a functional or sequential one; None before it is built."""
    return model._functional if isinstance(model, keras.Sequential) else model


def run_graph(
    graph: keras.Model,
    inputs: Any,
    operation: Callable[[Any], Callable[..., Any]],
    training: bool | None = None,
) -> Any:
    """What a functional model computes with another callable in the place of each operation.

    Args:
        graph: The functional model, as `graph_of` gives it.
        inputs: Its inputs.
        operation: Given an operation of the graph, what is called for it.
        training: The mode of the call. As in Keras it replaces what the graph has written down;
            None leaves that as it is.
    """

    def in_mode(one: Any) -> Callable[..., Any]:
        view = operation(one)
        if training is None or not takes_training(one):
            return view

        def run(*args: Any, **kwargs: Any) -> Any:
            return view(*args, **{**kwargs, "training": training})

        return run

    outputs = graph._run_through_graph(graph._standardize_inputs(inputs), operation_fn=in_mode)
    single = isinstance(outputs, (list, tuple)) and len(outputs) == 1
    return outputs[0] if single else outputs


def producer(tensor: Any) -> tuple[Any, list[Any]]:
    """The operation that a symbolic tensor comes from, and the tensors that went into it."""
    operation, node_index, _ = tensor._keras_history
    return operation, list(operation._inbound_nodes[node_index].input_tensors)


class Call(NamedTuple):
    """One use of an operation in a graph.

    Attributes:
        operation: The operation.
        inputs: The symbolic tensors that it takes.
        arguments: Its positional arguments.
        output: Its first output.
    """

    operation: Any
    inputs: list[Any]
    arguments: tuple[Any, ...]
    output: Any


def calls(model: keras.Model) -> list[Call]:
    """What a functional or sequential model does, from the outputs back, each call once.

    The graph is walked: layers keep their places in graphs that are no more.
    """
    found, seen, left = [], set(), list(model.outputs)
    while left:
        operation, node_index, _ = left.pop()._keras_history
        node = operation._inbound_nodes[node_index]
        if node in seen:
            continue
        seen.add(node)
        left += node.input_tensors
        inputs, arguments = list(node.input_tensors), tuple(node.arguments.args)
        found.append(Call(operation, inputs, arguments, node.output_tensors[0]))
    return found


def out_of_graphs(operation: Any) -> None:
    """Takes from an operation, a copy say, its places in all graphs."""
    operation._inbound_nodes, operation._outbound_nodes = [], []


def takes_training(operation: Any) -> bool:
    """Whether a layer's `call` has the argument `training`."""
    return bool(getattr(operation, "_call_has_training_arg", False))


def flat_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A model or layer, and all layers within it at any depth, each once."""
    return model._flatten_layers()


def look_alike(operation: Any, **attributes: Any) -> Any:
    """A shallow copy of a layer or model, on the same variables, with other attributes.

    Keras's bookkeeping of attributes is passed by: nothing is tracked a second time, and the
    original is not touched.
    """
    twin = object.__new__(type(operation))
    twin.__dict__.update(operation.__dict__)
    twin.__dict__.update(attributes)
    return twin


def is_saving_hdf5() -> bool:
    """Whether Keras is writing, or reading, a model in its older HDF5 format at this moment."""
    state = keras.src.backend.common.global_state
    return bool(state.get_global_attribute("use_legacy_config", False))


def compile_settings(model: keras.Model) -> dict[str, Any]:
    """The arguments that a model was compiled with, as they were given."""
    return model._compile_config.config


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """The mean that a compiled model reports as its loss."""
    return model._loss_tracker


def build_for_training(model: keras.Model, batch: Any) -> None:
    """Creates all variables of a compiled model, its optimizer and metrics, without a step.

    Args:
        model: The model.
        batch: Tensors or specifications of a batch `(x, y)` or `(x, y, sample_weight)`.
    """
    model._symbolic_build(data_batch=batch)


class NamedLogs(keras.Model):
    """A model that gives the logs of its training steps names of its own.

    Keras takes the logs of an epoch from the metrics, merged over replicas, if it knows the names,
    and from one replica's last step otherwise. Here it knows those that `name_logs` gives.
    """

    def name_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs of a training step under their names."""
        raise NotImplementedError

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        merged = self.name_logs(self.get_metrics_result())
        if isinstance(logs, dict) and set(logs) == set(merged):
            return merged
        return super()._get_metrics_result_or_logs(logs)


def global_seed_state() -> keras.Variable:
    """The state of the generator that draws where a layer or operation is given no seed.

    Where Keras has not made one yet it is made; Python's generator, from which it takes its seed,
    is left as it was.
    """
    before = random.getstate()
    try:
        with tf.init_scope():
            return keras.src.random.seed_generator.global_seed_generator().state
    finally:
        random.setstate(before)


def own_seed_states(model: keras.layers.Layer) -> list[keras.Variable]:
    """The states of the seed generators that a model's layers hold, each once.

    Those of nested models and of preprocessing layers are among them.
    """
    states = [
        generator.state for layer in flat_layers(model) for generator in layer._seed_generators
    ]
    return list({id(state): state for state in states}.values())


def seed_states(model: keras.layers.Layer) -> list[keras.Variable]:
    """The states of all that a model draws from by Keras, each once: its own, last the global one.

    Mapped in a `keras.StatelessScope`, they settle what the model draws.
    """
    last = global_seed_state()
    return [*(state for state in own_seed_states(model) if state is not last), last]
