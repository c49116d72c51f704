"""The contract of an attack, and the three drivers that run it.

An attack is a state machine over a dictionary of tensors whose every leaf has a leading sample
axis. Four methods are the paper: `init`, `step`, `done` and `finish`. Everything else is here,
once: labels, bounds, batches, masks, seeds, packing, counting, judging.

Three drivers run the same four methods:

* in graph (`perturb`): one masked `while_loop`, for `train_step`, `tf.distribute` and XLA;
* on the host (`run`, `generate`): some steps per compiled call; samples whose algorithm has ended
  leave, and the rest are packed into one of a few bucket sizes;
* eager (`run` on a Python callable): the samples still at work and nothing else are sent, so that
  the query count is exact, and the best points so far survive a failure of the callable.
"""

from __future__ import annotations

import copy
import inspect
import math
import time
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tqdm
from scipy import special

from kerasrobust import norms
from kerasrobust.attacks.result import AttackInterrupted, AttackResult
from kerasrobust.classifier import BlackBox, Classifier, ModelFailure, use_jit

State = dict[str, tf.Tensor]
Params = dict[str, tf.Tensor]

# What a pass costs is counted whether or not the sample is still at work.
EXECUTED = ("executed_queries", "executed_gradients")
# Relative to the value range: a smaller change counts as no change in L0.
L0_TOLERANCE = 1e-6
SMALLEST_BUCKET = 4
POOL_SIZE = 256


class Attack:
    """Base class of all attacks.

    Subclasses define the class attributes below, `__init__` with keyword hyperparameters that are
    stored under their own names, and `init`, `step`, `done`, `finish`, `max_steps`.

    Class attributes:
        name: Registry name.
        kind: ``"budget"`` (strongest point inside a ball) or ``"minimal"`` (nearest adversarial
            point).
        access: What it needs of the model: ``"gradient"``, ``"scores"`` or ``"labels"``.
        traced: Hyperparameters that enter the graph as tensors: changing them retraces nothing.
        chunk: Steps per compiled call of the host driver.
        needs_starts: Whether it needs adversarial starting points from the data.
        deterministic: Whether the result does not depend on `seed`.
        norms: The norms it knows.

    Args:
        model: A `keras.Model`, a `Classifier`, an ART estimator or a callable. Without one the
            attack is a recipe, made runnable by `bind`.
        targeted: Whether `y` holds the classes to reach (True) or to leave (False).
        batch_size: Samples per batch.
        seed: Seed of all randomness. Same seed and batch size, same result.
        verbose: Show a progress bar.
        jit_compile: True, False or ``"auto"`` (XLA only where an accelerator is present).
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    access: ClassVar[str] = "gradient"
    traced: ClassVar[tuple[str, ...]] = ()
    chunk: ClassVar[int] = 32
    needs_starts: ClassVar[bool] = False
    norms: ClassVar[tuple[float, ...]] = (1.0, 2.0, math.inf)

    norm: float
    targeted: bool

    def __init__(
        self,
        model: Any = None,
        *,
        targeted: bool = False,
        batch_size: int = 128,
        seed: int = 0,
        verbose: bool = False,
        jit_compile: bool | str = "auto",
    ):
        self.targeted = check_bool("targeted", targeted)
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.seed = check_int("seed", seed, 0)
        self.verbose = check_bool("verbose", verbose)
        self.jit_compile = jit_compile
        use_jit(jit_compile)
        self.classifier: Classifier | None = None
        if model is not None:
            self._attach(model)

    # ---- the paper: what a subclass defines -------------------------------------------------

    def init(self, model: Any, state: State, params: Params, seed: tf.Tensor) -> State:
        """Adds the attack's own leaves to the leaves `x`, `y`, `mask` (if any), `eps` (budget)."""
        raise NotImplementedError

    def step(
        self, model: Any, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor
    ) -> State:
        """One step of every sample; rows that are done are put back by the driver."""
        raise NotImplementedError

    def done(self, state: State, params: Params) -> tf.Tensor:
        """bool `[batch]`: samples whose algorithm has ended."""
        raise NotImplementedError

    def finish(self, state: State, params: Params) -> tf.Tensor:
        """The point found for each sample, shape of `x`."""
        raise NotImplementedError

    def max_steps(self) -> int:
        """Upper bound on the number of steps."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises if the hyperparameters do not fit the bound model; called when binding."""

    # ---- helpers for subclasses -------------------------------------------------------------

    def is_adversarial(self, labels: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """bool: the labels are the target (targeted) or not the class to leave."""
        return tf.equal(labels, y) if self.targeted else tf.not_equal(labels, y)

    def ask(
        self, model: Any, state: State, points: tf.Tensor, needed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, State]:
        """Whether points are adversarial, counting the queries.

        Args:
            model: What `step` was given.
            state: The state, whose counters are raised.
            points: `[batch, k, ...]`, k points per sample.
            needed: bool `[batch, k]`, the points that are really wanted. A compiled model
                computes all of them, a callable is sent only these.

        Returns:
            bool `[batch, k]` (False where not needed) and the new state.
        """
        shape = tf.shape(points)
        batch, count = shape[0], shape[1]
        needed = tf.ones([batch, count], tf.bool) if needed is None else needed
        flat = tf.reshape(points, tf.concat([[batch * count], shape[2:]], 0))
        flat = tf.ensure_shape(flat, [None, *points.shape[2:]])
        y = tf.repeat(state["y"], count)
        if model.is_keras:
            answer = self.is_adversarial(model.decide(flat), y)
        else:
            rows = tf.where(tf.reshape(needed, [-1]))[:, 0]
            sent = self.is_adversarial(model.decide(tf.gather(flat, rows)), tf.gather(y, rows))
            answer = tf.scatter_nd(rows[:, None], sent, tf.cast([batch * count], tf.int64))
        answer = tf.reshape(answer, [batch, count]) & needed
        asked = tf.reduce_sum(tf.cast(needed, tf.int32), axis=1)
        return answer, {
            **state,
            "queries": state["queries"] + asked * model.votes,
            "executed_queries": state["executed_queries"] + count * model.votes,
        }

    def differentiate(
        self, model: Classifier, state: State, x: tf.Tensor, loss: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, State]:
        """`Classifier.gradient` at `x`, masked, with non-finite entries zeroed, and counted.

        Returns:
            Logits, losses, gradient and the new state.
        """
        logits, value, gradient = model.gradient(x, loss)
        gradient = tf.where(tf.math.is_finite(gradient), gradient, tf.zeros_like(gradient))
        if "mask" in state:
            gradient = gradient * state["mask"]
        return (
            logits,
            value,
            gradient,
            {
                **state,
                "gradients": state["gradients"] + 1,
                "executed_gradients": state["executed_gradients"] + 1,
            },
        )

    def score(self, model: Any, state: State, x: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Logits at `x`, counted as one query per sample."""
        return model.logits(x), {
            **state,
            "queries": state["queries"] + 1,
            "executed_queries": state["executed_queries"] + 1,
        }

    def clip(self, model: Any, x: tf.Tensor) -> tf.Tensor:
        """`x` clipped to the valid box."""
        low, high = model.clip_values
        return tf.clip_by_value(x, low, high)

    # ---- configuration ----------------------------------------------------------------------

    def _attach(self, model: Any) -> None:
        classifier = Classifier.of(model)
        if self.access == "gradient" and not classifier.has_gradient:
            raise TypeError(
                f"{type(self).__name__} needs gradients: give a keras.Model, or choose a black-box "
                f"attack. Received: model={classifier.model!r}"
            )
        self.classifier = classifier
        self._check_budget(classifier.clip_values)
        self.check()

    def bind(self, model: Any) -> Attack:
        """A copy of this recipe that runs against `model`."""
        bound = copy.copy(self)
        bound._attach(model)
        return bound

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments but the model, in types that JSON knows (inf as ``"inf"``)."""
        names = list(inspect.signature(type(self).__init__).parameters)[2:]
        return {name: _plain(getattr(self, name)) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Attack:
        """A recipe from what `get_config` returned."""
        return cls(None, **config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def _check_budget(self, clip_values: tuple[float, float]) -> None:
        """An Linf budget in the wrong unit is an error, not a weak attack."""
        eps = getattr(self, "eps", None)
        if eps is None or self.norm != math.inf:
            return
        largest, span = float(np.max(eps)), clip_values[1] - clip_values[0]
        if largest > span or (span > 2 and 0 < largest < span / 1000):
            raise ValueError(
                f"`eps` does not fit inputs in {clip_values}: it is in the unit of the inputs. "
                f"Received: eps={eps!r}"
            )

    def _static_key(self) -> tuple[Any, ...]:
        ignored = {*self.traced, "seed", "batch_size", "verbose", "eps", "eps_step", "jit_compile"}
        config = self.get_config()
        return (type(self), self._jit(), repr({k: v for k, v in config.items() if k not in ignored}))

    def _jit(self) -> bool:
        return use_jit(self.jit_compile)

    def _params(self) -> Params:
        params = {}
        for name in self.traced:
            value = getattr(self, name)
            dtype = tf.int32 if isinstance(value, int) else tf.float32
            params[name] = tf.constant(value, dtype)
        return params

    def _bound(self) -> Classifier:
        if self.classifier is None:
            raise ValueError(
                f"{type(self).__name__} has no model yet: give one to the constructor or call "
                "`bind(model)`."
            )
        return self.classifier

    def _view(self) -> Classifier | BlackBox:
        classifier = self._bound()
        return classifier if self.access == "gradient" else classifier.black_box()

    # ---- pieces shared by the drivers -------------------------------------------------------

    def _start(self, leaves: State, pool: tuple[tf.Tensor, ...]) -> State:
        rows = tf.shape(leaves["x"])[0]
        zeros = tf.zeros([rows], tf.int32)
        state = {
            **leaves,
            "queries": zeros,
            "gradients": zeros,
            "executed_queries": zeros,
            "executed_gradients": zeros,
        }
        if self.needs_starts:
            state["start"], state["has_start"] = self._nearest_start(state, *pool)
        return state

    def _nearest_start(
        self, state: State, pool: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """For each sample the nearest point of the pool whose label is adversarial for it."""
        flat, points = norms.flatten(state["x"]), norms.flatten(pool)
        distance = tf.reduce_sum(points**2, axis=1)[None] - 2 * tf.matmul(
            flat, points, transpose_b=True
        )
        fits = self.is_adversarial(labels[None], state["y"][:, None])
        distance = tf.where(fits, distance, tf.fill(tf.shape(distance), math.inf))
        start = tf.gather(pool, tf.argmin(distance, axis=1))
        if "mask" in state:
            start = tf.where(state["mask"] > 0, start, state["x"])
        return start, tf.reduce_any(fits, axis=1)

    def _initialise(
        self,
        leaves: State,
        params: Params,
        seed: tf.Tensor,
        pool: tuple[tf.Tensor, ...],
    ) -> State:
        # The starting state has a stream of its own, apart from those of the steps.
        seed = tf.random.fold_in(seed, 2**30)
        state = self.init(self._view(), self._start(leaves, pool), params, seed)
        state["done"] = state["done"] | self.done(state, params)
        return state

    def _one_step(self, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor) -> State:
        """A step, with the rows that were done before left as they were."""
        new = self.step(self._view(), state, params, tf.random.fold_in(seed, t), t)
        merged = {}
        for key, old in state.items():
            if new[key] is old or key in EXECUTED:
                merged[key] = new[key]
            else:
                merged[key] = tf.where(norms.expand(state["done"], old), old, new[key])
        merged["done"] = state["done"] | self.done(merged, params)
        return merged

    def _advance(
        self, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor, stop: tf.Tensor
    ) -> State:
        """Steps `t` to `stop`, or fewer when every sample is done."""
        keys = sorted(state)

        def body(t: tf.Tensor, *leaves: tf.Tensor) -> tuple[tf.Tensor, ...]:
            new = self._one_step(dict(zip(keys, leaves, strict=True)), params, seed, t)
            return (
                t + 1,
                *(
                    tf.ensure_shape(new[key], leaf.shape)
                    for key, leaf in zip(keys, leaves, strict=True)
                ),
            )

        def alive(t: tf.Tensor, *leaves: tf.Tensor) -> tf.Tensor:
            return (t < stop) & ~tf.reduce_all(leaves[keys.index("done")])

        # Parallel iterations keep every iterate alive at once and cost a third of the speed.
        _, *leaves = tf.while_loop(
            alive, body, (t, *(state[key] for key in keys)), parallel_iterations=1
        )
        return dict(zip(keys, leaves, strict=True))

    def _finish(self, state: State, params: Params) -> State:
        """What leaves the state machine, inside the box and outside the mask untouched."""
        x_adv = self.clip(self._bound(), self.finish(state, params))
        outcome = {key: state[key] for key in ("queries", "gradients", *EXECUTED)}
        if "mask" in state:
            x_adv = tf.where(state["mask"] > 0, x_adv, state["x"])
        outcome["x_adv"] = tf.where(tf.math.is_finite(x_adv), x_adv, state["x"])
        for key in ("best", "found", "gave_up"):
            if key in state:
                outcome[key] = state[key]
        return outcome

    # ---- driver 1: in graph -----------------------------------------------------------------

    def perturb(self, x: tf.Tensor, y: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """The attack as part of a graph: the strongest point found for each sample.

        Unlike `generate` it does not return a sample clean because the attack failed, and it
        makes no pass beyond the algorithm's own. No gradient flows through the result.

        Args:
            x: float32 samples `[batch, ...]` inside the bounds.
            y: Integer labels or targets `[batch]`.
            seed: int32 `[2]`.

        Returns:
            float32 tensor of the shape of `x`.
        """
        self._bound()
        x = tf.stop_gradient(tf.cast(x, tf.float32))
        y = tf.cast(tf.reshape(y, [-1]), tf.int32)
        rows = tf.shape(x)[0]
        leaves = {"x": x, "y": y, "done": tf.zeros([rows], tf.bool)}
        for key in ("eps", "eps_step"):
            value = getattr(self, key, None)
            if value is not None:
                if np.ndim(value):
                    raise ValueError(
                        f"`{key}` must be one number where an attack is part of a graph. "
                        f"Received: an array of shape {np.shape(value)}"
                    )
                leaves[key] = tf.fill([rows], tf.constant(value, tf.float32))
        params = self._params()
        pool = (x, self._view().decide(x)) if self.needs_starts else ()
        state = self._initialise(leaves, params, seed, pool)
        steps = tf.constant(self.max_steps())
        state = self._advance(state, params, seed, tf.constant(0), steps)
        return tf.stop_gradient(self._finish(state, params)["x_adv"])

    # ---- the public call --------------------------------------------------------------------

    def generate(
        self, x: Any, y: Any = None, *, mask: np.ndarray | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Adversarial samples for `x`; a sample on which the attack fails is returned clean.

        Args:
            x: Samples `[n, ...]`: array, tensor, or a batched `tf.data.Dataset` of `x` or
                `(x, y)`.
            y: Labels or targets, integers `[n]` or one-hot `[n, classes]`. Without them an
                untargeted attack leaves the class that the model predicts.
            mask: Where the samples may change (non-zero), shape of `x` or of one sample.

        Returns:
            float32 array of the shape of `x`.

        Raises:
            TypeError, ValueError: If an input does not fit the model; before any work is done.
            AttackInterrupted: If a callable model fails; it carries the best points so far.
        """
        return self.run(x, y, mask=mask, **kwargs).x_adv

    def run(self, x: Any, y: Any = None, *, mask: np.ndarray | None = None) -> AttackResult:
        """Like `generate`, with all that is to be known about the outcome."""
        classifier = self._bound()
        begin = time.perf_counter()
        x, y = unpack(x, y)
        x = check_samples(x, classifier)
        n = len(x)
        if y is None and self.targeted:
            raise ValueError("A targeted attack needs the target classes `y`. Received: y=None")
        nb_classes = classifier.nb_classes if classifier.is_keras or y is not None else None
        labels_given = None if y is None else check_labels(y, n, nb_classes)
        leaves: dict[str, np.ndarray] = {"x": x}
        if mask is not None:
            leaves["mask"] = check_mask(mask, x)
        for key in ("eps", "eps_step"):
            value = getattr(self, key, None)
            if value is not None:
                leaves[key] = check_per_sample(key, value, n)
        job = _Job(self, classifier, leaves)
        return job.run(labels_given, begin)


class _Job:
    """One run of an attack over `n` samples: batches, buckets, counting and judging."""

    def __init__(self, attack: Attack, classifier: Classifier, leaves: dict[str, np.ndarray]):
        self.attack = attack
        self.classifier = classifier
        self.leaves = leaves
        self.n = len(leaves["x"])
        self.params = attack._params()
        self.x_adv = leaves["x"].copy()
        self.best = leaves["x"].copy()
        self.found = np.zeros(self.n, bool)
        self.gave_up = np.zeros(self.n, bool)
        self.queries = np.zeros(self.n, np.int64)
        self.gradients = np.zeros(self.n, np.int64)
        self.executed = dict.fromkeys(EXECUTED, 0)
        self.sent_before = classifier.queries

    def run(self, labels: np.ndarray | None, begin: float) -> AttackResult:
        """Attacks every batch, then judges what came out with forward passes of its own."""
        try:
            return self._run(labels, begin)
        except ModelFailure as error:
            raise AttackInterrupted(
                f"{error} {int(self.found.sum())} of {self.n} samples had been fooled by then; "
                "`x_adv`, `success` and `queries` of this error hold what was found.",
                np.where(
                    self.found.reshape(-1, *[1] * (self.best.ndim - 1)),
                    self.best,
                    self.leaves["x"],
                ),
                self.found,
                self.classifier.queries - self.sent_before,
            ) from error

    def _run(self, labels_given: np.ndarray | None, begin: float) -> AttackResult:
        attack, x = self.attack, self.leaves["x"]
        everything = np.arange(self.n)
        clean_labels, clean_confidence = self._predict(x, everything)
        y = clean_labels if labels_given is None else labels_given
        self.leaves["y"] = y.astype(np.int32)
        initially = self._fooled(clean_labels, everything)
        # The nearest adversarial point of a sample that is adversarial already is the sample.
        at_once = initially if attack.kind == "minimal" else np.zeros(self.n, bool)
        self.leaves["done"] = at_once
        self.found[at_once] = True

        pool: tuple[tf.Tensor, ...] = ()
        if attack.needs_starts:
            chosen = np.unique(np.linspace(0, self.n - 1, min(self.n, POOL_SIZE)).astype(int))
            pool = (tf.constant(x[chosen]), tf.constant(clean_labels[chosen], tf.int32))
        drive = self._drive_compiled if self.classifier.is_keras else self._drive_eager
        total = attack.max_steps() * self.n
        with tqdm.tqdm(
            total=total, desc=attack.name, unit="step", disable=not attack.verbose
        ) as bar:
            for index, first in enumerate(range(0, self.n, attack.batch_size)):
                rows = np.arange(first, min(first + attack.batch_size, self.n))
                drive(rows, tf.constant([attack.seed, index], tf.int32), pool, bar)

        labels, confidence = self._predict(self.x_adv, everything)
        # A budget attack whose last iterate fails returns an earlier one that did not.
        lost = np.flatnonzero(self.found & ~self._fooled(labels, everything))
        if len(lost):
            self.x_adv[lost] = self.best[lost]
            labels[lost], confidence[lost] = self._predict(self.x_adv, lost)
        failed = np.flatnonzero(~self._fooled(labels, everything))
        self.x_adv[failed] = x[failed]
        labels[failed], confidence[failed] = clean_labels[failed], clean_confidence[failed]
        success = self._fooled(labels, everything)
        low, high = self.classifier.clip_values
        size = np.abs((self.x_adv - x).reshape(self.n, -1).astype(np.float64))
        distances = {
            "l0": (size > L0_TOLERANCE * (high - low)).sum(axis=1).astype(np.float64),
            "l1": size.sum(axis=1),
            "l2": np.sqrt((size**2).sum(axis=1)),
            "linf": size.max(axis=1, initial=0.0),
        }
        for distance in distances.values():
            distance[initially] = 0.0
            distance[~success] = np.inf
        return AttackResult(
            name=attack.name,
            config=attack.get_config(),
            targeted=attack.targeted,
            x=x,
            x_adv=self.x_adv,
            y=y.astype(np.int64),
            success=success,
            initially_adversarial=initially,
            labels=labels.astype(np.int64),
            confidence=confidence,
            queries=self.queries,
            gradients=self.gradients,
            executed_queries=self.executed["executed_queries"],
            executed_gradients=self.executed["executed_gradients"],
            gave_up=self.gave_up & ~success,
            seconds=time.perf_counter() - begin,
            **distances,
        )

    def _fooled(self, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        y = self.leaves["y"][rows]
        return labels == y if self.attack.targeted else labels != y

    def _predict(self, x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels and confidence of some rows, by majority where the model is randomised."""
        votes = self.classifier.votes
        scores = np.stack(
            [self.classifier.predict(x[rows], self.attack.batch_size) for _ in range(votes)]
        )
        self.queries[rows] += votes
        self.executed["executed_queries"] += votes * len(rows)
        probability = special.softmax(scores, axis=2)
        ballots = np.eye(scores.shape[2])[scores.argmax(axis=2)].sum(axis=0)
        labels = ballots.argmax(axis=1)
        return labels, probability.mean(axis=0)[np.arange(len(rows)), labels].astype(np.float32)

    def _collect(self, rows: np.ndarray, outcome: State, done: np.ndarray) -> None:
        """Stores what the rows that leave found, and the cost of all rows, padding (-1) included."""
        leaving = (rows >= 0) & done
        for key in EXECUTED:
            self.executed[key] += int(np.sum(outcome.pop(key)))
        for key, value in outcome.items():
            values = np.asarray(value)[leaving]
            if key in ("queries", "gradients"):
                getattr(self, key)[rows[leaving]] += values
            else:
                getattr(self, key)[rows[leaving]] = values

    def _leaves(self, rows: np.ndarray) -> State:
        return {key: tf.constant(value[rows]) for key, value in self.leaves.items()}

    def _drive_compiled(self, rows: np.ndarray, seed: Any, pool: Any, bar: Any) -> None:
        attack, classifier = self.attack, self.classifier
        call = _Compiled(attack, classifier)
        limit = attack.max_steps()
        steps_left = limit * len(rows)
        bucket = self._bucket(len(rows))
        index = np.concatenate([rows, np.repeat(rows[:1], bucket - len(rows))])
        leaves = self._leaves(index)
        real = np.arange(bucket) < len(rows)
        leaves["done"] |= tf.constant(~real)
        rows = np.where(real, index, -1)
        state = call("init", attack._initialise, leaves, self.params, seed, pool)
        for t in range(0, limit, attack.chunk):
            stop = tf.constant(min(t + attack.chunk, limit))
            state = call("advance", attack._advance, state, self.params, seed, tf.constant(t), stop)
            done = state["done"].numpy()
            left = int((~done).sum()) * (limit - int(stop))
            bar.update(steps_left - left)
            steps_left = left
            if done.all():
                break
            bucket = self._bucket(int((~done).sum()))
            if bucket < len(rows) and int(stop) < limit:
                self._collect(rows, call("finish", attack._finish, state, self.params), done)
                alive = np.flatnonzero(~done)
                index = np.concatenate([alive, np.repeat(alive[:1], bucket - len(alive))])
                state = {key: tf.gather(leaf, index) for key, leaf in state.items()}
                real = np.arange(bucket) < len(alive)
                state["done"] = tf.constant(~real)
                state.update(dict.fromkeys(EXECUTED, tf.zeros([bucket], tf.int32)))
                rows = np.where(real, rows[index], -1)
        everyone = np.ones(len(rows), bool)
        self._collect(rows, call("finish", attack._finish, state, self.params), everyone)

    def _bucket(self, rows: int) -> int:
        """The smallest of a few batch sizes (1, 3/4, 1/2, 3/8, 1/4 ...) that holds the rows."""
        size = min(self.attack.batch_size, self.n)
        while size > SMALLEST_BUCKET and (size + 1) // 2 >= rows:
            size = (size + 1) // 2
        three_quarters = (3 * size + 3) // 4
        return three_quarters if three_quarters >= rows else size


    def _drive_eager(self, rows: np.ndarray, seed: Any, pool: Any, bar: Any) -> None:
        attack = self.attack
        limit = attack.max_steps()
        at_work = rows[~self.leaves["done"][rows]]
        bar.update(limit * (len(rows) - len(at_work)))
        rows = at_work
        if not len(rows):
            return
        state = attack._initialise(self._leaves(rows), self.params, seed, pool)
        try:
            for t in range(limit):
                done = state["done"].numpy()
                if done.any():
                    self._collect(rows, attack._finish(state, self.params), done)
                    bar.update((limit - t) * int(done.sum()))
                    rows = rows[~done]
                    state = {key: leaf[~done] for key, leaf in state.items()}
                    state.update(dict.fromkeys(EXECUTED, tf.zeros([len(rows)], tf.int32)))
                if not len(rows):
                    return
                state = attack._one_step(state, self.params, seed, tf.constant(t))
                bar.update(len(rows))
        finally:
            if len(rows):
                everyone = np.ones(len(rows), bool)
                self._collect(rows, attack._finish(state, self.params), everyone)


class _Compiled:
    """Calls the drivers' pieces through functions compiled once per attack kind and shape."""

    def __init__(self, attack: Attack, classifier: Classifier):
        self.classifier = classifier
        self.jit = attack._jit()
        self.key = attack._static_key()

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
            label = f"{self.key[0].name}:{role}"

            def traced(*arguments: Any) -> State:
                traces[label] = traces.get(label, 0) + 1
                return function(*arguments)

            compiled = tf.function(traced, jit_compile=self.jit).get_concrete_function(*specs)
            self.classifier.functions[key] = compiled
        return compiled(state, *rest)

    @staticmethod
    def _spec(leaf: tf.Tensor, any_batch: bool) -> tf.TensorSpec:
        shape = [None, *leaf.shape[1:]] if any_batch and leaf.shape.rank else leaf.shape
        return tf.TensorSpec(shape, leaf.dtype)


# ---- input checks, each before any work --------------------------------------------------------


def unpack(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays from arrays, tensors or a batched `tf.data.Dataset` of `x` or `(x, y)`."""
    if isinstance(x, tf.data.Dataset):
        if y is not None:
            raise ValueError("With a tf.data.Dataset the labels come from it: leave `y` out.")
        batches = list(x.as_numpy_iterator())
        if not batches:
            raise ValueError("The data set is empty. Received: x=a tf.data.Dataset with no batch")
        if isinstance(batches[0], tuple):
            y = np.concatenate([batch[1] for batch in batches])
            batches = [batch[0] for batch in batches]
        x = np.concatenate(batches)
    return np.asarray(x), None if y is None else np.asarray(y)


def check_samples(x: np.ndarray, classifier: Classifier) -> np.ndarray:
    """float32 samples that fit the model's input shape and bounds, and are finite.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If shape, bounds or values do not fit.
    """
    if x.dtype.kind not in "fiub":
        raise TypeError(f"`x` must hold numbers. Received: x of dtype {x.dtype}")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(
            f"`x` must be a batch of samples, [n, ...], with n >= 1. Received: x of shape {x.shape}"
        )
    expected = classifier.input_shape
    if expected is not None and (
        len(expected) != x.ndim - 1
        or any(a not in (None, b) for a, b in zip(expected, x.shape[1:], strict=False))
    ):
        raise ValueError(
            f"`x` must have the model's input shape (n, {', '.join(map(str, expected))}). "
            f"Received: x of shape {x.shape}"
        )
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError("`x` must be finite. Received: x with NaN or infinite values")
    low, high = classifier.clip_values
    least, most = float(x.min()), float(x.max())
    tolerance = 1e-6 * (high - low)
    if least < low - tolerance or most > high + tolerance:
        raise ValueError(
            f"`x` must lie within the bounds clip_values=({low:g}, {high:g}). "
            f"Received: values from {least:g} to {most:g}"
        )
    if high - low > 100 and least >= 0 and 0 < most <= 1 and bool((x % 1).any()):
        raise ValueError(
            f"`x` looks like values in 0..1, the bounds are clip_values=({low:g}, {high:g}). "
            f"Received: values from {least:g} to {most:g}"
        )
    classifier.prepare(x.shape[1:])
    return np.clip(x, low, high)


def check_labels(y: np.ndarray, n: int, nb_classes: int | None) -> np.ndarray:
    """int64 labels `[n]` from integers `[n]`, `[n, 1]` or one-hot rows `[n, classes]`.

    Raises:
        ValueError: If shape or values are none of these.
    """
    received = f"Received: y of shape {y.shape} and dtype {y.dtype}"
    if y.dtype.kind not in "fiub" or len(y) != n or y.ndim not in (1, 2):
        raise ValueError(f"`y` must be {n} integer labels or one-hot rows. {received}")
    if y.ndim == 2 and y.shape[1] > 1:
        if nb_classes is not None and y.shape[1] != nb_classes:
            raise ValueError(f"One-hot `y` must have {nb_classes} columns. {received}")
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise ValueError(f"Rows of a two-dimensional `y` must be one-hot. {received}")
        return y.argmax(axis=1)
    y = y.reshape(-1)
    if not np.isfinite(y).all() or (y != np.round(y)).any():
        raise ValueError(f"`y` must hold integer labels. {received}")
    y = y.astype(np.int64)
    if y.min() < 0 or (nb_classes is not None and y.max() >= nb_classes):
        limit = "" if nb_classes is None else f" to {nb_classes - 1}"
        raise ValueError(
            f"Labels must be integers from 0{limit}. "
            f"Received: labels from {y.min()} to {y.max()}"
        )
    return y


def check_mask(mask: Any, x: np.ndarray) -> np.ndarray:
    """float32 mask of 0 and 1, of the shape of `x`."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "fiub" or not np.isin(mask, (0, 1)).all():
        raise ValueError("`mask` must hold zeros and ones only. Received: other values")
    try:
        return np.broadcast_to(mask, x.shape).astype(np.float32)
    except ValueError:
        raise ValueError(
            f"`mask` must have the shape {x.shape} or {x.shape[1:]}. "
            f"Received: mask of shape {mask.shape}"
        ) from None


def check_per_sample(name: str, value: Any, n: int) -> np.ndarray:
    """float32 `[n]` from a number or one value per sample."""
    values = np.asarray(value, np.float32).reshape(-1)
    if len(values) not in (1, n):
        raise ValueError(
            f"`{name}` must be one number or one per sample ({n}). "
            f"Received: {len(values)} values"
        )
    return np.broadcast_to(values, (n,)).copy()


# ---- argument checks ---------------------------------------------------------------------------


def check_int(name: str, value: Any, low: int) -> int:
    """An integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"`{name}` must be an integer >= {low}. Received: {name}={value!r}")
    return int(value)


def check_float(name: str, value: Any, low: float = 0.0, *, above: bool = False) -> float:
    """A finite number of at least (or, with `above`, more than) `low`."""
    good = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value < low or (above and value == low):
        sign = ">" if above else ">="
        raise ValueError(f"`{name}` must be a number {sign} {low:g}. Received: {name}={value!r}")
    return float(value)


def check_size(name: str, value: Any) -> float | np.ndarray:
    """A non-negative number, or an array of one per sample."""
    if np.ndim(value) == 0:
        return check_float(name, value)
    values = np.asarray(value)
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"`{name}` must hold finite numbers >= 0. Received: {name}={value!r}")
    return values.astype(np.float32).reshape(-1)


def check_bool(name: str, value: Any) -> bool:
    """A bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return "inf" if isinstance(value, float) and value == math.inf else value
