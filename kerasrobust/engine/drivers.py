"""The state machine that an attack is, and the three drivers that run it.

* in graph (`in_graph`): one masked `while_loop`, for `train_step`, `tf.distribute` and XLA;
* host (`drive`): some steps per compiled call; samples whose algorithm has ended leave, and the
  rest are packed into one of a few bucket sizes;
* eager (`drive` on a Python callable): the samples still at work and nothing else are sent, so that
  the query count is exact, and the best points so far survive a failure of the callable.

`in_graph` and `drive` take and return points and lengths in the unit of the model's inputs. In
between they are in 0..1 (`Box`), so that an attack does the same in any unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from kerasrobust import norms
from kerasrobust.engine.box import Box
from kerasrobust.engine.classifier import BlackBox, Classifier, ModelFailure, as_seed
from kerasrobust.engine.criterion import Criterion
from kerasrobust.engine.loops import one_at_a_time, while_loop
from kerasrobust.engine.state import (
    COUNTERS,
    EXECUTED,
    Params,
    State,
    check_leaves,
    check_same_leaves,
)

SMALLEST_BUCKET = 4
# The stream of the starting state is apart from those of the steps, which are numbered from 0.
START_STREAM = 2**30
# Of what leaves the state machine, the points.
POINTS_OUT = {"x_adv", "best"}


class Steps(Protocol):
    """What a driver needs of an attack; see `kerasrobust.attacks.Attack`."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def access(self) -> str: ...

    @property
    def chunk(self) -> int: ...

    @property
    def needs_starts(self) -> bool: ...

    @property
    def norm(self) -> float: ...

    @property
    def criterion(self) -> Criterion: ...

    def init(self, model: Any, state: State, params: Params, seed: tf.Tensor) -> State: ...

    def step(
        self, model: Any, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor
    ) -> State: ...

    def done(self, state: State, params: Params) -> tf.Tensor: ...

    def finish(self, model: Any, state: State, params: Params) -> tf.Tensor: ...

    def max_steps(self) -> int: ...

    def params(self) -> Params: ...

    def own_leaves(self) -> tuple[str, ...]: ...

    def static_key(self) -> tuple[Any, ...]: ...

    def compiles(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Machine:
    """An attack on a classifier, as pure functions of its state.

    Attributes:
        attack: The attack.
        classifier: The model that it sees.
        witness: See `BlackBox`.
    """

    attack: Steps
    classifier: Classifier
    witness: Callable[..., None] | None = None

    def _view(self, seed: tf.Tensor) -> BlackBox:
        return self.classifier.view(self.attack.access, seed, self.witness)

    def initialise(
        self, given: State, params: Params, seed: tf.Tensor, pool: tuple[tf.Tensor, ...] = ()
    ) -> State:
        """The state before the first step.

        Args:
            given: `x`, `y`, `done` and, where there are any, `mask`, `eps`, `eps_step`, `limit`,
                `start`.
            params: Traced hyperparameters.
            seed: int32 `[2]`, of the batch.
            pool: Points and their labels, among which an attack that needs starts finds them.
        """
        attack = self.attack
        zeros = tf.zeros([tf.shape(given["x"])[0]], tf.int32)
        state = {**given, **dict.fromkeys((*COUNTERS, *EXECUTED), zeros)}
        if attack.needs_starts and "start" not in state:
            state["start"], state["has_start"] = self._nearest_start(state, *pool)
        seed = tf.random.fold_in(seed, START_STREAM)
        state = attack.init(self._view(seed), state, params, seed)
        check_leaves(attack.name, state, attack.own_leaves())
        state["done"] = state["done"] | self._ended(state, params)
        return state

    def _nearest_start(
        self, state: State, pool: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """For each sample the nearest point of the pool whose label is adversarial for it."""
        flat, points = norms.flatten(state["x"]), norms.flatten(pool)
        distance = tf.reduce_sum(points**2, axis=1)[None] - 2 * tf.matmul(
            flat, points, transpose_b=True
        )
        # Points that a detector rejects have no label.
        fits = self.attack.criterion.met(labels[None], state["y"][:, None], labels[None] >= 0)
        distance = tf.where(fits, distance, tf.fill(tf.shape(distance), math.inf))
        start = tf.gather(pool, tf.argmin(distance, axis=1))
        if "mask" in state:
            start = tf.where(state["mask"] > 0, start, state["x"])
        return start, tf.reduce_any(fits, axis=1)

    def one_step(self, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor) -> State:
        """A step, with the rows that were done before left as they were."""
        seed = tf.random.fold_in(seed, t)
        new = self.attack.step(self._view(seed), state, params, seed, t)
        check_same_leaves(self.attack.name, state, new)
        changed = [key for key in state if new[key] is not state[key] and key not in EXECUTED]

        def put_back() -> State:
            return {key: norms.select(state["done"], state[key], new[key]) for key in changed}

        kept = tf.cond(
            tf.reduce_any(state["done"]),
            put_back,
            lambda: {key: tf.identity(new[key]) for key in changed},
        )
        merged = {**{key: new[key] for key in state}, **kept}
        merged["done"] = state["done"] | self._ended(merged, params)
        return merged

    def _ended(self, state: State, params: Params) -> tf.Tensor:
        ended = self.attack.done(state, params)
        return ended | (state["queries"] >= state["limit"]) if "limit" in state else ended

    def advance(
        self, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor, stop: tf.Tensor
    ) -> State:
        """Steps `t` to `stop`, or fewer when every sample is done."""
        keys = sorted(state)

        def body(t: tf.Tensor, *leaves: tf.Tensor) -> tuple[tf.Tensor, ...]:
            new = self.one_step(dict(zip(keys, leaves, strict=True)), params, seed, t)
            return (
                t + 1,
                *(
                    tf.ensure_shape(new[key], leaf.shape)
                    for key, leaf in zip(keys, leaves, strict=True)
                ),
            )

        def alive(t: tf.Tensor, *leaves: tf.Tensor) -> tf.Tensor:
            return (t < stop) & ~tf.reduce_all(leaves[keys.index("done")])

        _, *leaves = while_loop(alive, body, (t, *(state[key] for key in keys)))
        return dict(zip(keys, leaves, strict=True))

    def finish(self, state: State, params: Params, seed: tf.Tensor) -> State:
        """What leaves the state machine, inside the box and outside the mask untouched."""
        view = self._view(seed)
        outcome = {key: state[key] for key in (*COUNTERS, *EXECUTED)}
        points = {"x_adv": self.attack.finish(view, state, params)}
        if "best" in state:
            points["best"] = state["best"]
        for key, point in points.items():
            point = tf.clip_by_value(point, 0.0, 1.0)
            if "mask" in state:
                point = tf.where(state["mask"] > 0, point, state["x"])
            outcome[key] = norms.select(tf.math.is_finite(point), point, state["x"])
        for key in ("found", "gave_up"):
            if key in state:
                outcome[key] = state[key]
        return outcome


def in_graph(attack: Steps, classifier: Classifier, given: State, seed: tf.Tensor) -> State:
    """The attack as part of a graph: what `Machine.finish` returns, without gradient."""
    machine, box = Machine(attack, classifier), Box(*classifier.clip_values)
    params = attack.params()
    inside = box.leaves(given)
    pool: tuple[tf.Tensor, ...] = ()
    if attack.needs_starts and "start" not in given:
        labels, _ = classifier.decide(given["x"])
        pool = (inside["x"], labels)
    state = machine.initialise(inside, params, seed, pool)
    steps = tf.constant(attack.max_steps())
    state = machine.advance(state, params, seed, tf.constant(0), steps)
    outcome = machine.finish(state, params, seed)
    if not box.is_unit:
        for key in POINTS_OUT & set(outcome):
            moved = tf.clip_by_value(box.outwards(outcome[key]), box.low, box.high)
            outcome[key] = tf.where(tf.equal(outcome[key], inside["x"]), given["x"], moved)
    return {key: tf.stop_gradient(value) for key, value in outcome.items()}


@dataclasses.dataclass
class Crafted:
    """What an attack made of a batch, before anybody judged it.

    Attributes:
        x_adv: The points, `[n, ...]`.
        best: Points to return where those fail.
        found: bool `[n]`, whether `best` was adversarial.
        gave_up: bool `[n]`, no starting point was found.
        queries: int64 `[n]`.
        gradients: int64 `[n]`.
        zero_gradients: int64 `[n]`.
        executed_queries: Forward passes executed, padding included.
        executed_gradients: Forward and backward passes, likewise.
    """

    x_adv: np.ndarray
    best: np.ndarray
    found: np.ndarray
    gave_up: np.ndarray
    queries: np.ndarray
    gradients: np.ndarray
    zero_gradients: np.ndarray
    executed_queries: int = 0
    executed_gradients: int = 0

    @classmethod
    def untouched(cls, x: np.ndarray) -> Crafted:
        """Nothing done yet."""
        flags, counts = np.zeros((2, len(x)), bool), np.zeros((len(COUNTERS), len(x)), np.int64)
        return cls(x.copy(), x.copy(), *flags, *counts)

    def collect(self, rows: np.ndarray, outcome: State, leaving: np.ndarray) -> None:
        """Stores what rows that leave have found, and the cost of all rows, padding (-1) too."""
        leaving = leaving & (rows >= 0)
        for key in EXECUTED:
            setattr(self, key, getattr(self, key) + int(np.sum(outcome.pop(key))))
        for key, value in outcome.items():
            values = np.asarray(value)[leaving]
            if key in COUNTERS:
                getattr(self, key)[rows[leaving]] += values
            else:
                getattr(self, key)[rows[leaving]] = values


class Noted:
    """The nearest points that fooled a callable, kept for the case that it fails."""

    def __init__(self, x: np.ndarray, norm: float, done: np.ndarray):
        self.x, self.norm = x, norm
        self.points = x.copy()
        self.distance = np.where(done, 0.0, np.inf)
        self.at_work = np.arange(len(x))

    def __call__(self, sample: np.ndarray, points: np.ndarray, fits: np.ndarray) -> None:
        rows, points = self.at_work[sample[fits]], points[fits]
        if not len(rows):
            return
        delta = (points - self.x[rows]).reshape(len(rows), -1)
        distance = np.linalg.norm(delta, self.norm, axis=1)
        closer = np.flatnonzero(distance < self.distance[rows])
        # Of several assignments to one row the last one stays: the nearest.
        closer = closer[np.argsort(-distance[closer])]
        self.points[rows[closer]] = points[closer]
        self.distance[rows[closer]] = distance[closer]


class Stopped(ModelFailure):
    """A callable failed while a batch was attacked.

    Attributes:
        points: The nearest points so far that fooled it, `[n, ...]`.
        found: bool `[n]`, where there is one.
    """

    def __init__(self, message: str, points: np.ndarray, found: np.ndarray):
        super().__init__(message)
        self.points = points
        self.found = found


def drive(
    attack: Steps,
    classifier: Classifier,
    given: dict[str, np.ndarray],
    seed: tuple[int, int],
    pool: tuple[np.ndarray, ...] = (),
    whole: int | None = None,
    progress: Callable[[int], None] = lambda steps: None,
) -> Crafted:
    """Attacks one batch on the host.

    Args:
        attack: The attack.
        classifier: The model that it sees.
        given: See `Machine.initialise`, as arrays.
        seed: Of the batch.
        pool: See `Machine.initialise`.
        whole: Samples in a full batch; the buckets are shares of it. Default: as many as given.
        progress: Told of steps that are behind, summed over samples.

    Returns:
        What was found.

    Raises:
        Stopped: If a callable fails.
    """
    seeds = as_seed(*seed)
    box = Box(*classifier.clip_values)
    points = tuple(
        tf.constant(part, tf.int32)
        if part.dtype.kind == "i"
        else tf.constant(box.inwards(part), tf.float32)
        for part in pool
    )
    x, given = given["x"], box.leaves(given)

    def outwards(point: np.ndarray) -> np.ndarray:
        """Points in the unit of the inputs, exactly the sample's values where they are its own."""
        if box.is_unit:
            return point
        moved = np.clip(box.outwards(point), np.float32(box.low), np.float32(box.high))
        return np.where(point == given["x"], x, moved)

    crafted = Crafted.untouched(given["x"])
    if classifier.is_keras:
        size = len(x) if whole is None else whole
        _drive_compiled(attack, classifier, given, seeds, points, size, progress, crafted)
    else:
        noted = Noted(given["x"], attack.norm, given["done"])
        try:
            _drive_eager(attack, classifier, given, seeds, points, noted, progress, crafted)
        except ModelFailure as error:
            found = np.isfinite(noted.distance)
            raise Stopped(str(error), outwards(noted.points), found) from error
    crafted.x_adv, crafted.best = outwards(crafted.x_adv), outwards(crafted.best)
    return crafted


def _drive_compiled(
    attack: Steps,
    classifier: Classifier,
    given: dict[str, np.ndarray],
    seed: tf.Tensor,
    pool: tuple[tf.Tensor, ...],
    whole: int,
    progress: Callable[[int], None],
    crafted: Crafted,
) -> None:
    machine, params = Machine(attack, classifier), attack.params()
    call = Compiled(attack, classifier)
    limit, n = attack.max_steps(), len(given["x"])
    steps_left = limit * n
    bucket = bucket_size(n, whole)
    index = np.concatenate([np.arange(n), np.zeros(bucket - n, int)])
    leaves = {key: tf.constant(value[index]) for key, value in given.items()}
    real = np.arange(bucket) < n
    leaves["done"] |= tf.constant(~real)
    rows = np.where(real, index, -1)
    state = call("init", machine.initialise, leaves, params, seed, pool)
    for t in range(0, limit, attack.chunk):
        stop = tf.constant(min(t + attack.chunk, limit))
        state = call("advance", machine.advance, state, params, seed, tf.constant(t), stop)
        done = state["done"].numpy()
        left = int((~done).sum()) * (limit - int(stop))
        progress(steps_left - left)
        steps_left = left
        if done.all():
            break
        bucket = bucket_size(int((~done).sum()), whole)
        if bucket < len(rows) and int(stop) < limit:
            crafted.collect(rows, call("finish", machine.finish, state, params, seed), done)
            alive = np.flatnonzero(~done)
            index = np.concatenate([alive, np.repeat(alive[:1], bucket - len(alive))])
            state = {key: tf.gather(leaf, index) for key, leaf in state.items()}
            real = np.arange(bucket) < len(alive)
            state["done"] = tf.constant(~real)
            state.update(dict.fromkeys(EXECUTED, tf.zeros([bucket], tf.int32)))
            rows = np.where(real, rows[index], -1)
    everyone = np.ones(len(rows), bool)
    crafted.collect(rows, call("finish", machine.finish, state, params, seed), everyone)


def bucket_size(rows: int, whole: int) -> int:
    """The smallest of a few batch sizes (1, 3/4, 1/2, 3/8 ... of the whole) that holds the rows."""
    size = whole
    while size > SMALLEST_BUCKET and (size + 1) // 2 >= rows:
        size = (size + 1) // 2
    three_quarters = (3 * size + 3) // 4
    return three_quarters if three_quarters >= rows else size


def _drive_eager(
    attack: Steps,
    classifier: Classifier,
    given: dict[str, np.ndarray],
    seed: tf.Tensor,
    pool: tuple[tf.Tensor, ...],
    noted: Noted,
    progress: Callable[[int], None],
    crafted: Crafted,
) -> None:
    machine, params = Machine(attack, classifier, noted), attack.params()
    limit = attack.max_steps()
    # Samples that are done ask for nothing, but their rows decide what the others draw.
    rows = noted.at_work
    leaves = {key: tf.constant(value) for key, value in given.items()}
    state = machine.initialise(leaves, params, seed, pool)
    try:
        for t in range(limit):
            done = state["done"].numpy()
            if done.any():
                crafted.collect(rows, machine.finish(state, params, seed), done)
                progress((limit - t) * int(done.sum()))
                noted.at_work = rows = rows[~done]
                state = {key: leaf[~done] for key, leaf in state.items()}
                state.update(dict.fromkeys(EXECUTED, tf.zeros([len(rows)], tf.int32)))
            if not len(rows):
                return
            state = machine.one_step(state, params, seed, tf.constant(t))
            progress(len(rows))
    finally:
        if len(rows):
            everyone = np.ones(len(rows), bool)
            crafted.collect(rows, machine.finish(state, params, seed), everyone)


class Compiled:
    """Calls the drivers' pieces through functions compiled once per attack kind and shape."""

    def __init__(self, attack: Steps, classifier: Classifier):
        self.name = attack.name
        self.classifier = classifier
        self.jit = attack.compiles()
        self.key = attack.static_key()

    def __call__(self, role: str, function: Any, state: State, *rest: Any) -> State:
        # Without XLA one graph serves every bucket size; XLA compiles one for each.
        specs = (
            tf.nest.map_structure(lambda leaf: self._spec(leaf, not self.jit), state),
            *(tf.nest.map_structure(lambda leaf: self._spec(leaf, False), item) for item in rest),
        )
        key = (self.key, role, str(sorted(specs[0].items())), str(specs[1:]))
        compiled = self.classifier.functions.get(key)
        if compiled is None:
            traces = self.classifier.traces
            label = f"{self.name}:{role}"

            def traced(*arguments: Any) -> State:
                traces[label] = traces.get(label, 0) + 1
                with self.classifier.folding():
                    return function(*arguments)

            compiled = tf.function(
                traced, autograph=False, jit_compile=self.jit
            ).get_concrete_function(*specs)
            compiled = self.classifier.functions[key] = one_at_a_time(compiled)
        return compiled(state, *rest)

    @staticmethod
    def _spec(leaf: tf.Tensor, any_batch: bool) -> tf.TensorSpec:
        shape = [None, *leaf.shape[1:]] if any_batch and leaf.shape.rank else leaf.shape
        return tf.TensorSpec(shape, leaf.dtype)
