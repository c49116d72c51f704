"""What the gradients of several logits cost, by each way to take them.

    python benchmarks/class_gradients.py --network areb_cnn_mnist --network MobileNetV2

The networks are those of `kerasrobust.models` and of `keras.applications`, with random weights, and
samples are noise. Each way gives the same gradients of `--classes` logits, which is checked:

- one by one: a backward pass for each, side by side in the graph, on one forward pass;
- in a loop: the same in `tf.map_fn`, whose graph does not grow with the classes;
- jacobian: what `Classifier.jacobian` makes of it;
- vectorised: `tf.GradientTape.batch_jacobian`, one backward pass over all samples and classes;
- copies: a forward and a backward pass over a copy of each sample for each class;
- anew: a forward and a backward pass for each class, as ART does.

Forward mode takes a pass for each input value; one is timed, and multiplied. One thread; CPU
milliseconds per sample and multiples of a forward pass, the ways taking turns, the best of
`--repeats`. The last line is JSON.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from kerasrobust import models
from kerasrobust.engine.classifier import Classifier


def ways(classifier: Classifier, classes: int) -> dict[str, Any]:
    """Functions of samples `[n, ...]` to gradients `[n, classes, ...]`, by name."""
    one_hot = tf.eye(classes, classifier.nb_classes)

    def one(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return classifier.gradient(x, lambda z: tf.reduce_sum(z * weights, axis=-1))[2]

    def backward(x: tf.Tensor, take: Any) -> tf.Tensor:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = classifier.logits(x)
        rows = tf.ones([tf.shape(logits)[0], 1])
        return take(lambda weights: tape.gradient(logits, x, output_gradients=rows * weights))

    def one_by_one(x: tf.Tensor) -> tf.Tensor:
        return backward(x, lambda of: tf.stack([of(row) for row in tf.unstack(one_hot)], axis=1))

    def in_a_loop(x: tf.Tensor) -> tf.Tensor:
        rows = backward(x, lambda of: tf.map_fn(of, one_hot, parallel_iterations=1))
        return tf.experimental.numpy.moveaxis(rows, 0, 1)

    def jacobian(x: tf.Tensor) -> tf.Tensor:
        return classifier.jacobian(x, lambda z: tf.repeat(one_hot[None], tf.shape(z)[0], axis=0))[1]

    def vectorised(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            chosen = classifier.logits(x)[:, :classes]
        return tape.batch_jacobian(chosen, x)

    def copies(x: tf.Tensor) -> tf.Tensor:
        gradients = one(tf.repeat(x, classes, axis=0), tf.tile(one_hot, [tf.shape(x)[0], 1]))
        return tf.reshape(gradients, [-1, classes, *x.shape[1:]])

    def anew(x: tf.Tensor) -> tf.Tensor:
        return tf.stack([one(x, row) for row in tf.unstack(one_hot)], axis=1)

    return {
        "one by one": one_by_one,
        "in a loop": in_a_loop,
        "jacobian": jacobian,
        "vectorised": vectorised,
        "copies": copies,
        "anew": anew,
    }


def measure(network: str, samples: int, classes: int, repeats: int) -> dict[str, float]:
    """CPU milliseconds per sample, by the way."""
    keras.utils.set_random_seed(0)
    if network in models.names():
        model = models.get(network)
    else:
        model = getattr(keras.applications, network)(weights=None, classifier_activation=None)
    classifier = Classifier(model, (0.0, 1.0))
    x = tf.random.stateless_uniform([samples, *model.input_shape[1:]], [0, 1])

    def forward_mode(x: tf.Tensor) -> tf.Tensor:
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            logits = classifier.logits(x)
        return accumulator.jvp(logits)

    taken = ways(classifier, classes)
    functions = {"forward": classifier.logits, **taken, "forward mode": forward_mode}
    compiled, expected = {}, None
    for name, function in functions.items():
        compiled[name] = tf.function(function, jit_compile=classifier.jit_compile)
        found = compiled[name](x)
        if name in taken:
            expected = found if expected is None else expected
            scale = float(tf.reduce_max(tf.abs(expected)))
            np.testing.assert_allclose(found, expected, atol=1e-4 * scale, err_msg=name)
    best = dict.fromkeys(functions, np.inf)
    for _ in range(repeats):
        for name, call in compiled.items():
            begin = time.process_time()
            call(x)
            seconds = time.process_time() - begin
            best[name] = min(best[name], 1000 * seconds / samples)
    best["forward mode"] *= int(np.prod(x.shape[1:]))
    return best


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--network", "networks", multiple=True, default=("areb_cnn_mnist",))
@click.option("--samples", default=32, show_default=True, help="In a batch.")
@click.option("--classes", default=10, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(networks: tuple[str, ...], samples: int, classes: int, repeats: int) -> None:
    """A row for each network and way."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    table, rows = Table("network", "way", "ms a sample", "forward passes"), {}
    for network in networks:
        rows[network] = measure(network, samples, classes, repeats)
        for way, milliseconds in rows[network].items():
            passes = milliseconds / rows[network]["forward"]
            table.add_row(network, way, f"{milliseconds:.3g}", f"{passes:.3g}")
    Console(width=100).print(table)
    print(json.dumps({"samples": samples, "classes": classes, "rows": rows}))


if __name__ == "__main__":
    main()
