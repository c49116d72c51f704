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
from collections.abc import Callable
from typing import Any, ClassVar, TypedDict

import numpy as np
import tensorflow as tf

from kerasrobust import norms
from kerasrobust.checks import (
    check_bool,
    check_int,
    check_labels,
    check_mask,
    check_per_sample,
    check_samples,
    check_unit,
    unpack,
)
from kerasrobust.engine import drivers
from kerasrobust.engine.classifier import BlackBox, Classifier, use_jit
from kerasrobust.engine.result import AttackResult

State = dict[str, tf.Tensor]
Params = dict[str, tf.Tensor]


class Common(TypedDict, total=False):
    """The arguments that every attack takes; see `Attack`."""

    targeted: bool
    batch_size: int
    seed: int
    verbose: bool
    jit_compile: bool | str


class Attack:
    """Base class of all attacks.

    Subclasses define the class attributes below, `__init__` with keyword hyperparameters that are
    stored under their own names and `**common` for the rest, and `init`, `step`, `done`, `finish`,
    `max_steps`.

    Class attributes:
        name: Registry name.
        kind: ``"budget"`` (strongest point inside a ball) or ``"minimal"`` (nearest adversarial
            point).
        access: What it needs of the model: ``"gradient"``, ``"scores"`` or ``"labels"``.
        traced: Hyperparameters that enter the graph as tensors: changing them retraces nothing.
        chunk: Steps per compiled call of the host driver.
        needs_starts: Whether it needs adversarial starting points from the data.
        common: The arguments that it shares with others.
        job: What `run` runs: batches, drivers and judging.
        norms: The norms it knows.
        strategy: ``"sensitivity"`` (follows the gradient) or ``"optimization"`` (solves a problem).
        source: Which documents of the literature table name it.
        can_target: Whether it can be `targeted`.
        in_graph: Whether it can be part of a graph (`perturb`).
        random: Whether it draws random numbers even without random starts.
        art_defaults: Where ART's class of the same kind has other defaults: ART's. `like_art`
            takes them. (ART's batch sizes, which change no result, are not among them.)

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
    kind: str
    access: ClassVar[str] = "gradient"
    traced: ClassVar[tuple[str, ...]] = ()
    chunk: ClassVar[int] = 32
    needs_starts: ClassVar[bool] = False
    common: ClassVar[Any] = Common
    job: ClassVar[type[drivers.Job]] = drivers.Job
    norms: ClassVar[tuple[float, ...]] = (1.0, 2.0, math.inf)
    strategy: ClassVar[str]
    source: ClassVar[str]
    can_target: ClassVar[bool] = True
    in_graph: ClassVar[bool] = True
    random: ClassVar[bool] = False
    art_defaults: ClassVar[dict[str, Any]] = {}

    # Told of all that a callable was asked: sample, point and whether it fooled the model.
    witness: Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None = None
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
        if self.targeted and not self.can_target:
            raise ValueError(
                f"{type(self).__name__} cannot aim at a class. Received: targeted={targeted!r}"
            )
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.seed = check_int("seed", seed, 0)
        if self.seed >= 2**32:  # it enters the graph as 32 bits
            raise ValueError(f"`seed` must be smaller than 2**32. Received: seed={seed!r}")
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
                "zero_gradients": self._count_zeros(state, logits, gradient),
                "gradients": state["gradients"] + 1,
                "executed_gradients": state["executed_gradients"] + 1,
            },
        )

    def differentiate_classes(
        self, model: Classifier, state: State, x: tf.Tensor, weigh: Any
    ) -> tuple[tf.Tensor, tf.Tensor, State]:
        """`Classifier.jacobian` at `x`, masked, with non-finite entries zeroed, and counted.

        Each of its k backward passes counts as one gradient.

        Returns:
            Logits, gradients `[batch, k, ...]` and the new state.
        """
        logits, gradients = model.jacobian(x, weigh)
        gradients = tf.where(tf.math.is_finite(gradients), gradients, tf.zeros_like(gradients))
        if "mask" in state:
            gradients = gradients * state["mask"][:, None]
        k = gradients.shape[1]
        return (
            logits,
            gradients,
            {
                **state,
                "zero_gradients": self._count_zeros(state, logits, gradients),
                "gradients": state["gradients"] + k,
                "executed_gradients": state["executed_gradients"] + k,
            },
        )

    def _count_zeros(self, state: State, logits: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """The counter, one higher where a sample that stands was given no direction at all.

        Where the sample is fooled a zero is what a hinge is made for.
        """
        labels = tf.argmax(logits, axis=-1, output_type=tf.int32)
        lost = tf.equal(norms.norm(gradient, 0), 0) & ~self.is_adversarial(labels, state["y"])
        return state["zero_gradients"] + tf.cast(lost, tf.int32)

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

    def _query_limit(self) -> int | None:
        """Most queries that the algorithm may make for a sample; None for no limit."""
        return None

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
        own = inspect.signature(type(self).__init__).parameters
        names = [name for name in own if name not in ("self", "model", "common")]
        return {
            name: _plain(getattr(self, name)) for name in [*names, *self.common.__annotations__]
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Attack:
        """A recipe from what `get_config` returned."""
        return cls(None, **config)

    @classmethod
    def like_art(cls, **arguments: Any) -> Attack:
        """A recipe with ART's defaults where its class has other ones; see `art_defaults`."""
        return cls(None, **{**cls.art_defaults, **arguments})

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def _check_budget(self, clip_values: tuple[float, float]) -> None:
        """An Linf budget in the wrong unit is an error, not a weak attack."""
        eps = getattr(self, "eps", None)
        if eps is not None and self.norm == math.inf:
            check_unit("eps", eps, clip_values)

    def _static_key(self) -> tuple[Any, ...]:
        dynamic = {*self.traced, "eps", "eps_step", "max_queries", *Common.__annotations__}
        dynamic.remove("targeted")
        fixed = {key: value for key, value in self.get_config().items() if key not in dynamic}
        return (type(self), self._jit(), repr(fixed))

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
            "zero_gradients": zeros,
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
        state["done"] = state["done"] | self._ended(state, params)
        return state

    def _one_step(self, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor) -> State:
        """A step, with the rows that were done before left as they were."""
        new = self.step(self._view(), state, params, tf.random.fold_in(seed, t), t)
        changed = [k for k in state if new[k] is not state[k] and k not in drivers.EXECUTED]

        def put_back() -> State:
            return {
                key: tf.where(norms.expand(state["done"], new[key]), state[key], new[key])
                for key in changed
            }

        kept = tf.cond(
            tf.reduce_any(state["done"]),
            put_back,
            lambda: {k: tf.identity(new[k]) for k in changed},
        )
        merged = {**{key: new[key] for key in state}, **kept}
        merged["done"] = state["done"] | self._ended(merged, params)
        return merged

    def _ended(self, state: State, params: Params) -> tf.Tensor:
        ended = self.done(state, params)
        return ended | (state["queries"] >= state["limit"]) if "limit" in state else ended

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
        outcome = {key: state[key] for key in (*drivers.COUNTED, *drivers.EXECUTED)}
        points = {"x_adv": self.finish(state, params)}
        if "best" in state:
            points["best"] = state["best"]
        for key, point in points.items():
            point = self.clip(self._bound(), point)
            if "mask" in state:
                point = tf.where(state["mask"] > 0, point, state["x"])
            outcome[key] = tf.where(tf.math.is_finite(point), point, state["x"])
        for key in ("found", "gave_up"):
            if key in state:
                outcome[key] = state[key]
        return outcome

    # ---- driver 1: in graph -----------------------------------------------------------------

    def perturb(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        *,
        seed: tf.Tensor,
        scale: float | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The attack as part of a graph: the strongest point found for each sample.

        Unlike `generate` it does not return a sample clean because the attack failed, and it
        makes no pass beyond the algorithm's own. No gradient flows through the result.

        Args:
            x: float32 samples `[batch, ...]` inside the bounds.
            y: Labels or targets, integers `[batch]` or one-hot `[batch, classes]`.
            seed: int32 `[2]`.
            scale: Factor of `eps` and `eps_step`, for a budget that changes while a model trains:
                a scalar, or one per sample `[batch]`.

        Returns:
            float32 tensor of the shape of `x`.
        """
        self._bound()
        x = tf.stop_gradient(tf.cast(x, tf.float32))
        one_hot = y.shape.rank == 2 and y.shape[-1] != 1
        y = tf.argmax(y, axis=-1) if one_hot else tf.reshape(y, [-1])
        y = tf.cast(y, tf.int32)
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
                if scale is not None:
                    leaves[key] *= tf.cast(scale, tf.float32)
        limit = self._query_limit()
        if limit is not None:
            leaves["limit"] = tf.fill([rows], limit)
        params = self._params()
        pool = (x, self._view().decide(x)) if self.needs_starts else ()
        state = self._initialise(leaves, params, seed, pool)
        steps = tf.constant(self.max_steps())
        state = self._advance(state, params, seed, tf.constant(0), steps)
        return tf.stop_gradient(self._finish(state, params)["x_adv"])

    # ---- the public call --------------------------------------------------------------------

    def leaves(self, n: int) -> dict[str, np.ndarray]:
        """The hyperparameters that may differ from sample to sample, `[n]` each."""
        leaves = {
            key: check_per_sample(key, getattr(self, key), n)
            for key in ("eps", "eps_step")
            if getattr(self, key, None) is not None
        }
        limit = self._query_limit()
        if limit is not None:
            leaves["limit"] = np.full(n, limit, np.int32)
        return leaves

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
        x, y = unpack(x, y)
        x = check_samples(x, classifier)
        n = len(x)
        if y is None and self.targeted:
            raise ValueError("A targeted attack needs the target classes `y`. Received: y=None")
        labels_given = None if y is None else check_labels(y, n, classifier.known_classes)
        leaves: dict[str, np.ndarray] = {"x": x, **self.leaves(n)}
        if mask is not None:
            leaves["mask"] = check_mask(mask, x)
        return self.job(self, classifier, leaves).run(labels_given)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return "inf" if isinstance(value, float) and value == math.inf else value
