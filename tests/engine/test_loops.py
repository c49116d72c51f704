"""No graph runs twice at a time: kernels keep between their calls what they work on."""

from __future__ import annotations

import ast
import collections
import functools
import itertools
import threading
import time
from concurrent import futures
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kerasrobust
from kerasrobust import Classifier, attacks

X = np.random.default_rng(0).random((6, 6, 6, 1), np.float32)
SOURCES = sorted(Path(kerasrobust.__file__).parent.rglob("*.py"))


def loops(source: Path) -> list[ast.Call]:
    """Calls of TensorFlow's loops, which run ten iterations at a time unless told otherwise."""
    calls = (node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call))
    named = ("tf.while_loop", "tf.map_fn", "tf.scan", "tf.foldl", "tf.foldr")
    return [call for call in calls if ast.unparse(call.func) in named]


def test_loops_run_one_iteration_after_the_other():
    found = [(source.name, call) for source in SOURCES for call in loops(source)]
    assert len(found) > 5
    for name, call in found:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("parallel_iterations") == "1", f"{name}:{call.lineno}"


def in_threads(work) -> list:
    with futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: work(), range(4)))


class Watch:
    """How many runs of each graph of a layer are under way, and were at most."""

    def __init__(self):
        self.lock, self.graphs = threading.Lock(), itertools.count()
        self.now, self.most = collections.Counter(), collections.Counter()

    def run(self, graph: int, x):
        with self.lock:
            self.now[graph] += 1
            self.most[graph] = max(self.most[graph], self.now[graph])
        time.sleep(0.02)
        with self.lock:
            self.now[graph] -= 1
        return x


class Watched(layers.Layer):
    """Passes its inputs on."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def call(self, inputs):
        run = functools.partial(self.watch.run, next(self.watch.graphs))
        return tf.ensure_shape(tf.numpy_function(run, [inputs], tf.float32), inputs.shape)


@pytest.mark.parametrize("what", ["predict", "simba"])
def test_threads_wait_in_turn(what):
    watch = Watch()
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), Watched(watch), layers.Flatten(), layers.Dense(3)]
    )
    classifier = Classifier(model, from_logits=True)
    works = {
        "predict": lambda: classifier.predict(X),
        "simba": lambda: attacks.get("simba", max_iter=3).bind(classifier).generate(X),
    }
    expected = works[what]()  # and compiled
    watch.most.clear()
    for found in in_threads(works[what]):
        np.testing.assert_array_equal(found, expected)
    assert watch.most and set(watch.most.values()) == {1}


def test_threads_share_a_network_with_shortcuts():
    # What TensorFlow's own graph of it does not survive from two threads.
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    first = layers.Conv2D(4, 3, padding="same")(image)
    second = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(first))
    joined = layers.Concatenate()([layers.Add()([first, second]), first])
    outputs = layers.Dense(3)(layers.Flatten()(joined))
    classifier = Classifier(keras.Model(image, outputs), from_logits=True)
    expected = classifier.predict(X)
    for found in in_threads(lambda: [classifier.predict(X) for _ in range(50)]):
        for scores in found:
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
