"""The host and the eager driver: batches, buckets, counting and judging.

The third driver, in graph, is `Attack.perturb`.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tqdm

from kerasrobust.checks import check_labels
from kerasrobust.engine.classifier import Classifier, ModelFailure
from kerasrobust.engine.result import AttackInterrupted, AttackResult

if TYPE_CHECKING:
    from kerasrobust.attacks.base import Attack, State

# Per sample, while it is at work.
COUNTED = ("queries", "gradients", "zero_gradients")
# What a pass costs is counted whether or not the sample is still at work.
EXECUTED = ("executed_queries", "executed_gradients")
# Relative to the value range: a smaller change counts as no change in L0.
L0_TOLERANCE = 1e-6
SMALLEST_BUCKET = 4
# Data points that a decision attack looks for a starting point among.
POOL_SIZE = 128


class Job:
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
        self.zero_gradients = np.zeros(self.n, np.int64)
        self.executed = dict.fromkeys(EXECUTED, 0)
        self.sent_before = classifier.queries
        if not classifier.is_keras:  # what a failing callable has answered must not be lost
            self.attack = copy.copy(attack)
            self.attack.witness = self._note
            self.at_work = np.arange(0)
            self.noted = leaves["x"].copy()
            self.noted_distance = np.full(self.n, np.inf)

    def run(self, labels: np.ndarray | None) -> AttackResult:
        """Attacks every batch, then judges what came out with forward passes of its own.

        Args:
            labels: int64 `[n]`, or None for the model's own.
        """
        begin = time.perf_counter()
        try:
            return self._run(labels, begin)
        except ModelFailure as error:
            found = np.isfinite(self.noted_distance)
            raise AttackInterrupted(
                f"{error} {int(found.sum())} of {self.n} samples had been fooled by then; "
                "`x_adv`, `success` and `queries` of this error hold what was found.",
                self.noted,
                found,
                self.classifier.queries - self.sent_before,
            ) from error

    def craft(self, labels_given: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Attacks every batch and leaves what it found in `x_adv`, not judged yet.

        Returns:
            Labels and confidence of the clean samples, and which were adversarial from the start.
        """
        attack, x = self.attack, self.leaves["x"]
        everything = np.arange(self.n)
        clean_labels, clean_confidence = self._predict(x, everything)
        broken = int((~np.isfinite(clean_confidence)).sum())
        if broken:
            raise ValueError(
                "The model must return finite scores. Received: NaN or infinite scores for "
                f"{broken} of {self.n} clean samples"
            )
        y = clean_labels if labels_given is None else labels_given
        if labels_given is not None:  # a callable has told its number of classes by now
            check_labels(y, self.n, self.classifier.known_classes)
        self.leaves["y"] = y.astype(np.int32)
        initially = self._fooled(clean_labels, everything)
        # The nearest adversarial point of a sample that is adversarial already is the sample.
        at_once = initially if attack.kind == "minimal" else np.zeros(self.n, bool)
        self.leaves["done"] = at_once
        self.found[at_once] = True
        if not self.classifier.is_keras:
            self.noted_distance[at_once] = 0.0

        pool: tuple[tf.Tensor, ...] = ()
        if attack.needs_starts:
            # Always as many, so that the number of samples retraces nothing.
            chosen = np.linspace(0, self.n - 1, POOL_SIZE).astype(int)
            pool = (tf.constant(x[chosen]), tf.constant(clean_labels[chosen], tf.int32))
        total = attack.max_steps() * self.n
        with tqdm.tqdm(
            total=total, desc=attack.name, unit="step", disable=not attack.verbose
        ) as bar:
            for index, first in enumerate(range(0, self.n, attack.batch_size)):
                rows = np.arange(first, min(first + attack.batch_size, self.n))
                self._drive(rows, tf.constant([attack.seed, index], tf.int32), pool, bar)
        return clean_labels, clean_confidence, initially

    def _run(self, labels_given: np.ndarray | None, begin: float) -> AttackResult:
        clean_labels, clean_confidence, initially = self.craft(labels_given)
        attack, x, everything = self.attack, self.leaves["x"], np.arange(self.n)
        labels, confidence = self._predict(self.x_adv, everything)
        # A budget attack whose last iterate fails returns an earlier one that did not.
        other = (self.best != self.x_adv).reshape(self.n, -1).any(axis=1)
        lost = np.flatnonzero(self.found & other & ~self._fooled(labels, everything))
        if len(lost):
            self.x_adv[lost] = self.best[lost]
            labels[lost], confidence[lost] = self._predict(self.x_adv, lost)
        failed = np.flatnonzero(~self._fooled(labels, everything))
        self.x_adv[failed] = x[failed]
        labels[failed], confidence[failed] = clean_labels[failed], clean_confidence[failed]
        success = self._fooled(labels, everything)
        distances = self._distances()
        for distance in distances.values():
            distance[initially] = 0.0
            distance[~success] = np.inf
        return AttackResult(
            name=attack.name,
            config=attack.get_config(),
            targeted=attack.targeted,
            x=x,
            x_adv=self.x_adv,
            y=self.leaves["y"].astype(np.int64),
            success=success,
            initially_adversarial=initially,
            labels=labels.astype(np.int64),
            confidence=confidence,
            queries=self.queries,
            gradients=self.gradients,
            zero_gradients=self.zero_gradients,
            executed_queries=self.executed["executed_queries"],
            executed_gradients=self.executed["executed_gradients"],
            gave_up=self.gave_up & ~success,
            seconds=time.perf_counter() - begin,
            **distances,
        )

    def _distances(self) -> dict[str, np.ndarray]:
        """How far `x_adv` is from `x` in each norm, batch by batch to save memory."""
        low, high = self.classifier.clip_values
        parts = []
        for first in range(0, self.n, self.attack.batch_size):
            rows = slice(first, first + self.attack.batch_size)
            delta = self.x_adv[rows].astype(np.float64) - self.leaves["x"][rows]
            size = np.abs(delta.reshape(len(delta), -1))
            changed = (size > L0_TOLERANCE * (high - low)).sum(axis=1)
            length = np.sqrt((size**2).sum(axis=1))
            parts.append([changed, size.sum(axis=1), length, size.max(axis=1, initial=0.0)])
        columns = np.concatenate(parts, axis=1).astype(np.float64)
        return dict(zip(("l0", "l1", "l2", "linf"), columns, strict=True))

    def _fooled(self, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        y = self.leaves["y"][rows]
        return labels == y if self.attack.targeted else labels != y

    def _predict(self, x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels and confidence of some rows, by majority where the model is randomised."""
        votes = self.classifier.votes
        self.queries[rows] += votes
        self.executed["executed_queries"] += votes * len(rows)
        return self.classifier.judge(x[rows], self.attack.batch_size)

    def _collect(self, rows: np.ndarray, outcome: State, done: np.ndarray) -> None:
        """Stores what the rows that leave found, and the cost of all rows, padding (-1) too."""
        leaving = (rows >= 0) & done
        for key in EXECUTED:
            self.executed[key] += int(np.sum(outcome.pop(key)))
        for key, value in outcome.items():
            values = np.asarray(value)[leaving]
            if key in COUNTED:
                getattr(self, key)[rows[leaving]] += values
            else:
                getattr(self, key)[rows[leaving]] = values

    def _note(self, sample: np.ndarray, points: np.ndarray, fits: np.ndarray) -> None:
        """Keeps the nearest of the points that fooled a callable, for each sample."""
        rows, points = self.at_work[sample[fits]], points[fits]
        if not len(rows):
            return
        delta = (points - self.leaves["x"][rows]).reshape(len(rows), -1)
        distance = np.linalg.norm(delta, self.attack.norm, axis=1)
        closer = np.flatnonzero(distance < self.noted_distance[rows])
        # Of several assignments to one row the last one stays: the nearest.
        closer = closer[np.argsort(-distance[closer])]
        self.noted[rows[closer]] = points[closer]
        self.noted_distance[rows[closer]] = distance[closer]

    def _leaves(self, rows: np.ndarray) -> State:
        return {key: tf.constant(value[rows]) for key, value in self.leaves.items()}

    def _drive(self, rows: np.ndarray, seed: Any, pool: Any, bar: Any) -> None:
        """Attacks one batch."""
        drive = self._drive_compiled if self.classifier.is_keras else self._drive_eager
        drive(rows, seed, pool, bar)

    def _drive_compiled(self, rows: np.ndarray, seed: Any, pool: Any, bar: Any) -> None:
        attack, classifier = self.attack, self.classifier
        call = Compiled(attack, classifier)
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
        # Samples that are done ask for nothing, but their rows decide what the others draw.
        self.at_work = rows
        state = attack._initialise(self._leaves(rows), self.params, seed, pool)
        try:
            for t in range(limit):
                done = state["done"].numpy()
                if done.any():
                    self._collect(rows, attack._finish(state, self.params), done)
                    bar.update((limit - t) * int(done.sum()))
                    self.at_work = rows = rows[~done]
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


class Compiled:
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

            compiled = tf.function(
                traced, autograph=False, jit_compile=self.jit
            ).get_concrete_function(*specs)
            self.classifier.functions[key] = compiled
        return compiled(state, *rest)

    @staticmethod
    def _spec(leaf: tf.Tensor, any_batch: bool) -> tf.TensorSpec:
        shape = [None, *leaf.shape[1:]] if any_batch and leaf.shape.rank else leaf.shape
        return tf.TensorSpec(shape, leaf.dtype)
