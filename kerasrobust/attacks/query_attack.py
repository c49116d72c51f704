"""What the attacks share that see scores or labels only."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base

# Points that one pass evaluates, over the whole batch: enough to keep the machine busy, few enough
# to bound memory; and the same in numbers rather than points, for large images.
POINTS_PER_PASS = 2560
VALUES_PER_PASS = 2**24


class QueryCommon(base.Common, total=False):
    """The arguments that every query attack takes; see `QueryAttack`."""

    max_queries: int | None


class QueryAttack(base.Attack):
    """Base class of the attacks that query a model and know nothing else of it.

    All queries go through `ask` (labels) and `scores` (logits). Both send what is needed and
    nothing else, count it, and never exceed the budget: what it does not cover is not sent, and
    the sample is done.

    Args:
        model: See `Attack`; a callable that returns scores will do, and one-hot decisions where
            `access` is ``"labels"``.
        max_queries: Most queries per sample, the label of the clean sample and the final
            judgement included; None for no limit but the attack's own.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.
    """

    access = "scores"
    random = True
    common: ClassVar[Any] = QueryCommon

    def __init__(
        self,
        model: Any = None,
        *,
        max_queries: int | None = None,
        **common: Unpack[base.Common],
    ):
        if max_queries is not None:
            checks.check_int("max_queries", max_queries, 1)
        self.max_queries = max_queries
        super().__init__(model, **common)

    def check(self) -> None:
        left = self._query_limit()
        if left is not None and left < 0:
            votes = self._bound().votes
            raise ValueError(
                f"`max_queries` must be at least {2 * votes}: the clean sample and the outcome are "
                f"judged by {votes} queries each. Received: max_queries={self.max_queries}"
            )

    def _query_limit(self) -> int | None:
        if self.max_queries is None:
            return None
        return self.max_queries - 2 * self._bound().votes

    def _static_key(self) -> tuple[Any, ...]:
        # It decides how many points one pass draws, and so which ones.
        return (*super()._static_key(), self.batch_size)

    def ask(
        self, model: Any, state: base.State, points: tf.Tensor, needed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, base.State]:
        """Whether points are adversarial, counting the queries.

        Args:
            model: What `step` was given.
            state: The state, whose counters are raised.
            points: `[batch, k, ...]`, k points per sample.
            needed: bool `[batch, k]`, the points that are really wanted. Samples that are done
                want none.

        Returns:
            bool `[batch, k]` (False where not needed or not paid for) and the new state.
        """
        labels, granted, state = self._send(model, state, points, needed, labels=True)
        return self.is_adversarial(labels, state["y"][:, None]) & granted, state

    def scores(
        self, model: Any, state: base.State, points: tf.Tensor, needed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, base.State]:
        """Logits of points, counting the queries; arguments as for `ask`.

        Returns:
            Logits `[batch, k, classes]`, bool `[batch, k]` where there are any (needed and paid
            for), and the new state.
        """
        return self._send(model, state, points, needed, labels=False)

    def _send(
        self, model: Any, state: base.State, points: tf.Tensor, needed: Any, *, labels: bool
    ) -> tuple[tf.Tensor, tf.Tensor, base.State]:
        shape = tf.shape(points)
        batch, count = shape[0], shape[1]
        everything = tf.ones([batch, count], tf.bool) if needed is None else needed
        needed = everything & ~state["done"][:, None]
        votes = model.votes if labels else 1
        if "limit" in state:
            left = (state["limit"] - state["queries"])[:, None]
            needed &= tf.cumsum(tf.cast(needed, tf.int32), axis=1) * votes <= left
        asked = tf.reduce_sum(tf.cast(needed, tf.int32), axis=1)
        flat = tf.reshape(points, tf.concat([[batch * count], shape[2:]], 0))
        flat = tf.ensure_shape(flat, [None, *points.shape[2:]])
        call = model.decide if labels else model.logits
        if model.is_keras and self._jit():  # XLA wants to know beforehand how many there are
            answers, computed = call(flat), count
        else:
            rows = tf.where(tf.reshape(needed, [-1]))[:, 0]
            sent, computed = tf.gather(flat, rows), asked
            # TensorFlow's convolutions on a CPU lose the shape of a batch of no samples.
            found = tf.cond(
                tf.size(rows) > 0,
                lambda: call(sent),
                lambda: self._no_answers(model, labels=labels),
            )
            if self.witness is not None:
                decided = found if labels else tf.argmax(found, axis=-1, output_type=tf.int32)
                sample = rows // tf.cast(count, tf.int64)
                fits = self.is_adversarial(decided, tf.gather(state["y"], sample))
                self.witness(*(np.asarray(value) for value in (sample, sent, fits)))
            whole = tf.concat([[batch * count], tf.shape(found)[1:]], 0)
            answers = tf.scatter_nd(rows[:, None], found, tf.cast(whole, tf.int64))
        answers = tf.reshape(answers, tf.concat([[batch, count], tf.shape(answers)[1:]], 0))
        answers = tf.ensure_shape(answers, [*points.shape[:2], *([] if labels else [None])])
        return (
            answers,
            needed,
            {
                **state,
                "queries": state["queries"] + asked * votes,
                "executed_queries": state["executed_queries"] + computed * votes,
            },
        )

    @staticmethod
    def _no_answers(model: Any, *, labels: bool) -> tf.Tensor:
        return tf.zeros([0], tf.int32) if labels else tf.zeros([0, model.nb_classes])

    def find_start(
        self, model: Any, state: base.State, params: base.Params, seed: Any
    ) -> tuple[tf.Tensor, tf.Tensor, base.State]:
        """An adversarial point for each sample that is not done, whatever its distance.

        The first of `init_size` uniform images that is adversarial; where none is, the nearest of
        the other data points of the call that is.

        Returns:
            The points, bool `[batch]` where there is one, and the state without the leaves
            `start` and `has_start`.
        """
        wanted = ~state["done"]
        start, found, state = self._random_start(model, state, params, seed)
        fallback = wanted & ~found & state["has_start"]
        fits, state = self.ask(model, state, state["start"][:, None], fallback[:, None])
        use = fallback & fits[:, 0]
        start = tf.where(norms.expand(use, start), state["start"], start)
        state = {key: leaf for key, leaf in state.items() if key not in ("start", "has_start")}
        return start, found | use, state

    def _random_start(
        self, model: Any, state: base.State, params: base.Params, seed: Any
    ) -> tuple[tf.Tensor, tf.Tensor, base.State]:
        low, high = model.clip_values
        x, wanted = state["x"], ~state["done"]

        def draw(i: Any, start: Any, found: Any, queries: Any, executed: Any) -> tuple[Any, ...]:
            image = tf.random.stateless_uniform(tf.shape(x), tf.random.fold_in(seed, i), low, high)
            image = tf.ensure_shape(image, x.shape)
            if "mask" in state:
                image = tf.where(state["mask"] > 0, image, x)
            counted = {**state, "queries": queries, "executed_queries": executed}
            fits, counted = self.ask(model, counted, image[:, None], (wanted & ~found)[:, None])
            start = tf.where(norms.expand(fits[:, 0], x), image, start)
            return i + 1, start, found | fits[:, 0], counted["queries"], counted["executed_queries"]

        _, start, found, queries, executed = tf.while_loop(
            lambda i, start, found, *_: (i < params["init_size"]) & ~tf.reduce_all(found | ~wanted),
            draw,
            (0, x, tf.zeros_like(wanted), state["queries"], state["executed_queries"]),
            parallel_iterations=1,
        )
        return start, found, {**state, "queries": queries, "executed_queries": executed}

    def points_at_once(self, count: int, features: int) -> int:
        """Points per sample and pass, so that whole passes make up `count` as nearly as can be."""
        most = min(
            count,
            max(POINTS_PER_PASS // self.batch_size, 1),
            max(VALUES_PER_PASS // (self.batch_size * features), 1),
        )
        return -(-count // -(-count // most))
