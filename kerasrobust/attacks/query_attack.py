"""What the attacks share that see scores or labels only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base

# Points that one pass evaluates, over the whole batch: enough to keep the machine busy, few enough
# to bound memory, as `checks.VALUES_PER_PASS` does for large images.
POINTS_PER_PASS = 2560


class QueryCommon(base.Common, total=False):
    """The arguments that every query attack takes; see `QueryAttack`."""

    max_queries: int | None


class QueryAttack(base.Attack):
    """Base class of the attacks that query a model and know nothing else of it.

    All queries go through `ask` (labels) and `scores` (logits). Both send what is needed and
    nothing else, count it, and never exceed the budget: what it does not cover is not sent, and
    the sample is done.

    Args:
        model: See `Attack`; a callable that returns scores will do, and one that returns labels
            where `access` is ``"labels"``.
        max_queries: Most queries per sample and attack, the label of the clean sample, the final
            judgement and, of an attack that needs starting points, its label as one of them
            included; None for no limit but the attack's own. The clean passes of `evaluate` are
            not in it.
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
            votes = self.bound.judging.votes
            pool = ", and its place in the pool of starting points" if self.needs_starts else ""
            raise ValueError(
                f"`max_queries` must be at least {self._reserved()}: the clean sample and the "
                f"outcome are judged by {votes} queries each{pool}. "
                f"Received: max_queries={self.max_queries}"
            )

    def _query_limit(self) -> int | None:
        if self.max_queries is None:
            return None
        return self.max_queries - self._reserved()

    def _reserved(self) -> int:
        """Queries of a sample outside of the algorithm."""
        pool = self.bound.votes if self.needs_starts else 0
        return 2 * self.bound.judging.votes + pool

    def static_key(self) -> tuple[Any, ...]:
        # It decides how many points one pass draws, and so which ones.
        return (*super().static_key(), self.batch_size)

    def ask(
        self, model: Any, state: base.State, points: tf.Tensor, needed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, base.State]:
        """Whether points are adversarial, counting the queries.

        Args:
            model: What `step` was given.
            state: The state, whose counters are raised.
            points: `[batch, k, ...]`, k points per sample, in as many passes as they need.
            needed: bool `[batch, k]`, the points that are really wanted. Samples that are done
                want none.

        Returns:
            bool `[batch, k]` (False where not needed or not paid for) and the new state.
        """
        (fits,), granted, state = self._send(model, state, points, needed, self._verdict)
        return fits & granted, state

    def scores(
        self, model: Any, state: base.State, points: tf.Tensor, needed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, base.State]:
        """Logits of points, counting the queries; arguments as for `ask`.

        Returns:
            Logits `[batch, k, classes]`, bool `[batch, k]` whether they are adversarial, bool
            `[batch, k]` where there are any (needed and paid for), and the new state.
        """
        answers, granted, state = self._send(model, state, points, needed, self._logits)
        return answers[0], answers[1] & granted, granted, state

    def _verdict(self, model: Any, points: tf.Tensor, y: tf.Tensor, salt: Any) -> list[tf.Tensor]:
        labels, accepted = model.decide(points, salt)
        return [self.criterion.met(labels, y, accepted)]

    def _logits(self, model: Any, points: tf.Tensor, y: tf.Tensor, salt: Any) -> list[tf.Tensor]:
        logits = model.logits(points, salt)
        return [logits, self.criterion.reached(logits, y, accepted=model.accepts(points))]

    def _send(
        self, model: Any, state: base.State, points: tf.Tensor, needed: Any, answer: Any
    ) -> tuple[list[tf.Tensor], tf.Tensor, base.State]:
        """What `answer` says of the points that are needed and paid for, zeros for the others.

        The last of the answers says whether a point is adversarial. Points that are more than a
        pass holds are sent one part after the other.
        """
        if needed is None:
            needed = tf.ones(tf.shape(points)[:2], tf.bool)
        count = points.shape[1]
        part = self.points_at_once(count, math.prod(points.shape[2:]))
        none = tf.zeros(tf.shape(points)[:2], tf.bool)
        found = [none, none]
        if answer == self._logits:
            found.insert(0, tf.zeros([*tf.unstack(tf.shape(none)), model.nb_classes]))

        def send(state: base.State, points: tf.Tensor, needed: tf.Tensor) -> tuple[Any, ...]:
            answers, granted, state = self._send_part(model, state, points, needed, answer)
            return state, *answers, granted

        state, *answers, granted = self.in_parts(state, part, send, (points, needed), found)
        return answers, granted, state

    def _send_part(
        self, model: Any, state: base.State, points: tf.Tensor, needed: tf.Tensor, answer: Any
    ) -> tuple[list[tf.Tensor], tf.Tensor, base.State]:
        """See `_send`; of points that one pass holds."""
        shape = tf.shape(points)
        batch, count = shape[0], shape[1]
        needed &= ~state["done"][:, None]
        votes = model.votes if answer == self._verdict else 1
        if "limit" in state:
            left = (state["limit"] - state["queries"])[:, None]
            needed &= tf.cumsum(tf.cast(needed, tf.int32), axis=1) * votes <= left
        asked = tf.reduce_sum(tf.cast(needed, tf.int32), axis=1)
        flat = tf.reshape(points, tf.concat([[batch * count], shape[2:]], 0))
        flat = tf.ensure_shape(flat, [None, *points.shape[2:]])
        y = tf.repeat(state["y"], count)
        # Another number in each round of a loop: what a randomised model draws by.
        salt = tf.reduce_sum(state["executed_queries"])
        if model.is_keras and self.compiles():  # XLA wants to know beforehand how many there are
            answers, computed = answer(model, flat, y, salt), count
        else:
            rows = tf.where(tf.reshape(needed, [-1]))[:, 0]
            sent, computed = tf.gather(flat, rows), asked
            # TensorFlow's convolutions on a CPU lose the shape of a batch of no samples.
            found = tf.cond(
                tf.size(rows) > 0,
                lambda: answer(model, sent, tf.gather(y, rows), salt),
                lambda: self._no_answers(model, answer),
            )
            if model.witness is not None:
                sample = rows // tf.cast(count, tf.int64)
                model.witness(*(np.asarray(value) for value in (sample, sent, found[-1])))
            answers = [self._scattered(part, rows, batch * count) for part in found]
        answers = [
            tf.ensure_shape(
                tf.reshape(part, tf.concat([[batch, count], tf.shape(part)[1:]], 0)),
                [*points.shape[:2], *part.shape[1:]],
            )
            for part in answers
        ]
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
    def _scattered(found: tf.Tensor, rows: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
        whole = tf.concat([[total], tf.shape(found)[1:]], 0)
        numbers = tf.cast(found, tf.int32) if found.dtype == tf.bool else found
        spread = tf.scatter_nd(rows[:, None], numbers, tf.cast(whole, tf.int64))
        return tf.cast(tf.ensure_shape(spread, [None, *found.shape[1:]]), found.dtype)

    def _no_answers(self, model: Any, answer: Any) -> list[tf.Tensor]:
        none = [tf.zeros([0], tf.bool)]
        return none if answer == self._verdict else [tf.zeros([0, model.nb_classes]), *none]

    def find_start(
        self, model: Any, state: base.State, params: base.Params, seed: Any
    ) -> tuple[tf.Tensor, tf.Tensor, base.State]:
        """An adversarial point for each sample that is not done, whatever its distance.

        The `start` that the caller gave, where it is adversarial. Else the first of `init_size`
        uniform images that is; where none is, the nearest of the other data points of the call.

        Returns:
            The points, bool `[batch]` where there is one, and the new state.
        """
        wanted = ~state["done"]
        if "has_start" not in state:
            fits, state = self.ask(model, state, state["start"][:, None], wanted[:, None])
            good = wanted & fits[:, 0]
            start, found, state = self._random_start(model, state, params, seed, wanted & ~good)
            start = norms.select(good, state["start"], start)
            return start, found | good, state
        start, found, state = self._random_start(model, state, params, seed, wanted)
        fallback = wanted & ~found & state["has_start"]
        fits, state = self.ask(model, state, state["start"][:, None], fallback[:, None])
        use = fallback & fits[:, 0]
        start = norms.select(use, state["start"], start)
        return start, found | use, state

    def _random_start(
        self, model: Any, state: base.State, params: base.Params, seed: Any, wanted: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, base.State]:
        low, high = model.clip_values
        x = state["x"]

        def draw(state: base.State, i: Any, start: Any, found: Any) -> tuple[Any, ...]:
            image = tf.random.stateless_uniform(tf.shape(x), tf.random.fold_in(seed, i), low, high)
            image = tf.ensure_shape(image, x.shape)
            if "mask" in state:
                image = tf.where(state["mask"] > 0, image, x)
            fits, state = self.ask(model, state, image[:, None], (wanted & ~found)[:, None])
            start = norms.select(fits[:, 0], image, start)
            return state, i + 1, start, found | fits[:, 0]

        state, _, start, found = self.loop(
            state,
            lambda i, start, found: (i < params["init_size"]) & ~tf.reduce_all(found | ~wanted),
            draw,
            (0, x, tf.zeros_like(wanted)),
        )
        return start, found, state

    def in_parts(
        self,
        state: base.State,
        part: int,
        body: Callable[..., tuple[Any, ...]],
        given: Sequence[tf.Tensor],
        found: Sequence[tf.Tensor],
    ) -> tuple[Any, ...]:
        """What is found of k things of each sample, some of them at a time, to bound memory.

        Args:
            state: The state.
            part: How many at a time.
            body: State, and of each tensor in `given` one part, to the new state and what is found.
            given: `[batch, k, ...]` each. What the last part lacks is zero and False.
            found: Zeros in the shapes of what will be found, `[batch, k, ...]` each.

        Returns:
            The new state, and what was found.
        """
        count = given[0].shape[1]
        parts = -(-count // part)
        if parts == 1:
            return body(state, *given)

        def padded(one: tf.Tensor) -> tf.Tensor:
            return tf.pad(
                one, [[0, 0], [0, parts * part - count]] + [[0, 0]] * (len(one.shape) - 2)
            )

        given = [padded(one) for one in given]

        def run(state: base.State, i: Any, *found: tf.Tensor) -> tuple[Any, ...]:
            some = (tf.gather(one, i * part + tf.range(part), axis=1) for one in given)
            state, *new = body(state, *some)
            # What was found moves up, until the first part is in the first place.
            moved = (
                tf.concat([old[:, part:], one], axis=1) for old, one in zip(found, new, strict=True)
            )
            return state, i + 1, *moved

        start = (0, *(padded(one) for one in found))
        state, _, *ends = self.loop(state, lambda i, *_: i < parts, run, start)
        return state, *(whole[:, :count] for whole in ends)

    def points_at_once(self, count: int, features: int) -> int:
        """Points per sample and pass, so that whole passes make up `count` as nearly as can be."""
        most = min(
            count,
            max(POINTS_PER_PASS // self.batch_size, 1),
            max(checks.VALUES_PER_PASS // (self.batch_size * features), 1),
        )
        return -(-count // -(-count // most))
