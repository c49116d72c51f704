"""The contract of an attack.

An attack is a state machine over a dictionary of tensors whose every leaf has a leading sample
axis. Four methods are the paper: `init`, `step`, `done` and `finish`. There points are in 0..1,
whatever the unit of the inputs (`kerasrobust.engine.box`). Everything else is written once: labels,
bounds, masks and seeds here, the drivers, batches and judging in `kerasrobust.engine`.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, TypedDict

import numpy as np
import tensorflow as tf
import tqdm

from kerasrobust import norms
from kerasrobust.checks import (
    LARGEST,
    check_batch_size,
    check_bool,
    check_int,
    check_labels,
    check_length,
    check_mask,
    check_per_sample,
)
from kerasrobust.engine import drivers
from kerasrobust.engine.batches import Batch, Prologue, find_prologue, run_batch
from kerasrobust.engine.classifier import BlackBox, Classifier, ModelFailure, View, use_jit
from kerasrobust.engine.criterion import Criterion
from kerasrobust.engine.loops import while_loop
from kerasrobust.engine.result import AttackInterrupted, AttackResult
from kerasrobust.engine.source import Source, unpack
from kerasrobust.engine.state import COUNTERS, EXECUTED, Params, State
from kerasrobust.specs import jsonable

__all__ = ["Attack", "Common", "Params", "State"]

# Data points that a decision attack looks for a starting point among.
POOL_SIZE = 128


class Common(TypedDict, total=False):
    """The arguments that every attack takes; see `Attack`."""

    targeted: bool
    batch_size: int | None
    seed: int
    verbose: bool
    jit_compile: bool | str


class _Sealing(type):
    """Marks an attack as complete when its constructor is through; see `Attack.__setattr__`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        attack = super().__call__(*args, **kwargs)
        attack.__dict__["sealed"] = True
        return attack


class Attack(metaclass=_Sealing):
    """Base class of all attacks.

    Subclasses define the class attributes below, `__init__` with keyword hyperparameters that are
    stored under their own names and `**common` for the rest, and `init`, `step`, `done`, `finish`,
    `max_steps`. Hyperparameters may be assigned later; they are checked as the constructor does.

    Class attributes:
        name: Registry name.
        kind: ``"budget"`` (strongest point inside a ball) or ``"minimal"`` (nearest adversarial
            point).
        access: What it needs of the model: ``"gradient"``, ``"scores"`` or ``"labels"``.
        lengths: Hyperparameters in the unit of the inputs, each with its default as a share of the
            width of the box, or None where it has none. They are None until the attack is bound,
            unless they are given; all others are unit-free, made for pixels in 0..1.
        traced: Hyperparameters that enter the graph as tensors: changing them retraces nothing.
        state_leaves: The leaves that it adds to the state, beside those that drivers know
            (`kerasrobust.engine.state.RESERVED`); they add to those of its base classes.
        chunk: Steps per compiled call of the host driver.
        needs_starts: Whether it needs adversarial starting points from the data.
        common: The arguments that it shares with others.
        norms: The norms it knows.
        strategy: ``"sensitivity"`` (follows the gradient) or ``"optimization"`` (solves a problem).
        source: Which documents of the literature table name it.
        can_target: Whether it can be `targeted`.
        always_aims: Whether it aims at a class of its own choice where it is given none.
        takes_start: Whether it can be told where to begin (`start`).
        in_graph: Whether it can be part of a graph (`perturb`).
        random: Whether it draws random numbers even without random starts.
        art_defaults: Where ART's class of the same kind has other defaults: ART's. `like_art`
            takes them. (ART's batch sizes, which change no result, are not among them.)

    Args:
        model: A `keras.Model`, a `Classifier`, an ART estimator or a callable. Without one the
            attack is a recipe, made runnable by `bind`.
        targeted: Whether `y` holds the classes to reach (True) or to leave (False).
        batch_size: Samples per batch. Default: 128, or as many as hold 2^22 numbers (27 images of
            224x224x3), settled when the attack is bound to a model that says its input shape.
        seed: Seed of all randomness. Same seed and batch size, same result.
        verbose: Show a progress bar.
        jit_compile: True, False or ``"auto"`` (XLA only where an accelerator is present).
    """

    name: ClassVar[str]
    kind: str
    access: ClassVar[str] = "gradient"
    lengths: ClassVar[dict[str, float | None]] = {}
    traced: ClassVar[tuple[str, ...]] = ()
    state_leaves: ClassVar[tuple[str, ...]] = ()
    chunk: ClassVar[int] = 32
    needs_starts: ClassVar[bool] = False
    common: ClassVar[Any] = Common
    norms: ClassVar[tuple[float, ...]] = (1.0, 2.0, math.inf)
    strategy: ClassVar[str] = ""
    source: ClassVar[str] = ""
    can_target: ClassVar[bool] = True
    always_aims: ClassVar[bool] = False
    takes_start: ClassVar[bool] = False
    in_graph: ClassVar[bool] = True
    random: ClassVar[bool] = False
    art_defaults: ClassVar[dict[str, Any]] = {}

    norm: float
    targeted: bool

    def __init__(
        self,
        model: Any = None,
        *,
        targeted: bool = False,
        batch_size: int | None = None,
        seed: int = 0,
        verbose: bool = False,
        jit_compile: bool | str = "auto",
    ):
        self.targeted = check_bool("targeted", targeted)
        if self.targeted and not self.can_target:
            raise ValueError(
                f"{type(self).__name__} cannot aim at a class. Received: targeted={targeted!r}"
            )
        if batch_size is not None:
            batch_size = check_int("batch_size", batch_size, 1)
        self.batch_size: Any = batch_size  # an integer once it is bound
        self.seed = check_int("seed", seed, 0, None)
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
        """Adds the attack's own leaves to the leaves `x`, `y`, `mask` (if any), `eps` (budget).

        Args:
            model: What the attack sees of the model: a `View`, or a `BlackBox` without gradient.
            state: The leaves that are given.
            params: The `traced` hyperparameters as tensors.
            seed: int32 `[2]`, unique to seed, batch and step.
        """
        raise NotImplementedError

    def step(
        self, model: Any, state: State, params: Params, seed: tf.Tensor, t: tf.Tensor
    ) -> State:
        """One step of every sample; rows that are done are put back by the driver."""
        raise NotImplementedError

    def done(self, state: State, params: Params) -> tf.Tensor:
        """bool `[batch]`: samples whose algorithm has ended."""
        raise NotImplementedError

    def finish(self, model: Any, state: State, params: Params) -> tf.Tensor:
        """The point found for each sample, shape of `x`."""
        raise NotImplementedError

    def max_steps(self) -> int:
        """Upper bound on the number of steps."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises if the hyperparameters do not fit the bound model; called when binding."""

    # ---- helpers for subclasses -------------------------------------------------------------

    @property
    def criterion(self) -> Criterion:
        """When a point counts."""
        return Criterion(self.targeted)

    def fools(
        self, model: BlackBox, state: State, x: tf.Tensor, logits: tf.Tensor, confidence: Any = None
    ) -> tf.Tensor:
        """bool `[batch]`: whether points count, by their logits and the model's detector if any.

        Args:
            model: What `step` was given.
            state: The state, for the labels.
            x: The points `[batch, ...]`.
            logits: Their logits `[batch, classes]`.
            confidence: Margin that they are to have.
        """
        return self.criterion.reached(logits, state["y"], confidence, model.accepts(x))

    def differentiate(
        self, model: View, state: State, x: tf.Tensor, loss: Any, salt: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, State]:
        """`Classifier.gradient` at `x`, masked, with non-finite entries zeroed, and counted.

        In a loop `salt` tells its rounds apart, by which a randomised model draws anew.

        Returns:
            Logits, losses, gradient and the new state.
        """
        seen = self.criterion.beside_detector(state["y"])
        logits, value, gradient = model.gradient(x, loss, seen, salt)
        gradient = norms.finite(gradient)
        if "mask" in state:
            gradient = gradient * state["mask"]
        return logits, value, gradient, self._paid(model, state, logits, gradient, 1)

    def differentiate_classes(
        self, model: View, state: State, x: tf.Tensor, weigh: Any
    ) -> tuple[tf.Tensor, tf.Tensor, State]:
        """`Classifier.jacobian` at `x`, masked, with non-finite entries zeroed, and counted.

        Each of its k backward passes counts as one gradient.

        Returns:
            Logits, gradients `[batch, k, ...]` and the new state.
        """
        seen = self.criterion.beside_detector(state["y"])
        logits, gradients = model.jacobian(x, weigh, seen)
        gradients = norms.finite(gradients)
        if "mask" in state:
            gradients = gradients * state["mask"][:, None]
        return logits, gradients, self._paid(model, state, logits, gradients, gradients.shape[1])

    def _paid(
        self,
        model: View,
        state: State,
        logits: tf.Tensor,
        gradient: tf.Tensor,
        passes: int,
    ) -> State:
        """The state with raised counters."""
        # Where the sample is fooled a zero is what a hinge is made for.
        fooled = self.criterion.reached(logits, state["y"])
        zero = tf.reduce_all(tf.equal(norms.flatten(gradient), 0), axis=1)
        lost = zero & ~fooled
        passes *= model.draws
        return {
            **state,
            "zero_gradients": state["zero_gradients"] + passes * tf.cast(lost, tf.int32),
            "gradients": state["gradients"] + passes,
            "executed_gradients": state["executed_gradients"] + passes,
        }

    def loop(
        self,
        state: State,
        condition: Callable[..., tf.Tensor],
        body: Callable[..., tuple[Any, ...]],
        variables: tuple[Any, ...],
        changes: tuple[str, ...] = (),
    ) -> tuple[Any, ...]:
        """A loop inside of a step, around passes of the model, one round after the other.

        Side by side each round would hold what all layers made of the batch.

        Args:
            state: The state.
            condition: The variables to a bool: whether to go on.
            body: State and variables to the new state and variables.
            variables: Their values at the start.
            changes: The leaves that `body` changes, beside the counters.

        Returns:
            The new state, and the variables at the end.
        """
        differentiates, n = self.access == "gradient", len(variables)
        # No constants: for XLA TensorFlow 2.21 loses the body of a loop in a loop that has one.
        counters = [k for k in (*COUNTERS, *EXECUTED) if differentiates or "gradients" not in k]
        keys = (*counters, *changes)

        def run(*values: Any) -> tuple[Any, ...]:
            current = {**state, **dict(zip(keys, values[n:], strict=True))}
            current, *new = body(current, *values[:n])
            return (*new, *(current[key] for key in keys))

        ends = while_loop(
            lambda *values: condition(*values[:n]),
            run,
            (*variables, *(state[key] for key in keys)),
            differentiates,
        )
        return {**state, **dict(zip(keys, ends[n:], strict=True))}, *ends[:n]

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

    def __setattr__(self, name: str, value: Any) -> None:
        """A hyperparameter that is assigned is checked, and all that follows from it made anew."""
        if "sealed" not in self.__dict__ or name not in self._arguments():
            super().__setattr__(name, value)
            return
        arguments = {key: getattr(self, key) for key in self._arguments()}
        changed = type(self)(None, **{**arguments, name: value})
        if self.classifier is not None:
            changed._attach(self.classifier)
        self.__dict__.update(changed.__dict__)

    def _attach(self, model: Any) -> None:
        classifier = Classifier.of(model)
        if self.access == "gradient" and not classifier.has_gradient:
            reason = classifier.no_gradient or "give a keras.Model, or choose a black-box attack"
            raise TypeError(
                f"{type(self).__name__} needs gradients: {reason}. "
                f"Received: model={classifier.model!r}"
            )
        self.classifier = classifier
        self._fit_lengths(classifier)
        self.__dict__["batch_size"] = check_batch_size(self.batch_size, classifier.input_shape)
        self.check()
        if self.max_steps() > LARGEST:
            raise ValueError(
                f"{type(self).__name__} must take at most {LARGEST} steps in all. "
                f"Received: {self.max_steps()} steps, {self!r}"
            )

    def bind(self, model: Any) -> Attack:
        """A copy of this recipe that runs against `model`."""
        bound = copy.copy(self)
        bound._attach(model)
        return bound

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments but the model, in types that JSON knows (inf as ``"inf"``)."""
        return {name: jsonable(getattr(self, name)) for name in self._arguments()}

    @classmethod
    def _arguments(cls) -> list[str]:
        own = inspect.signature(cls.__init__).parameters
        names = [name for name in own if name not in ("self", "model", "common")]
        return list(dict.fromkeys([*names, *cls.common.__annotations__]))

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

    def _fit_lengths(self, classifier: Classifier) -> None:
        """Gives lengths their defaults; one in the wrong unit is an error, not a weak attack."""
        low, high = classifier.clip_values
        shape = classifier.input_shape
        features = None if shape is None or None in shape else math.prod(shape)  # type: ignore[arg-type]
        for name, share in self.lengths.items():
            value = getattr(self, name)
            if value is not None:
                # A search for the nearest point may be let go further than there is room.
                free = name == "eps" and self.kind == "minimal"
                norm, room = (self.norm, features) if not free else (1.0, None)
                # Of steps there may be many: how far they reach together is another question.
                usual = 0.0 if name == "eps_step" else share
                check_length(name, value, (low, high), norm, room, usual)
            elif share is not None:
                self.__dict__[name] = share * (high - low)

    def in_unit(self, name: str) -> Any:
        """A length in the unit that attacks work in, a share of the width of the box."""
        low, high = self.bound.clip_values
        return getattr(self, name) / (high - low)

    def own_leaves(self) -> tuple[str, ...]:
        """The `state_leaves` of the class and of all that it derives from."""
        every = (vars(base).get("state_leaves", ()) for base in type(self).__mro__)
        return tuple(dict.fromkeys(name for names in every for name in names))

    def static_key(self) -> tuple[Any, ...]:
        """What changes the graph, and so is part of the key under which it is compiled.

        A traced hyperparameter that is None, and so not there, is one such thing.
        """
        traced = (name for name in self.traced if getattr(self, name) is not None)
        dynamic = {*traced, "eps", "eps_step", "max_queries", *Common.__annotations__}
        dynamic.remove("targeted")
        fixed = {key: value for key, value in self.get_config().items() if key not in dynamic}
        return (type(self), self.compiles(), repr(fixed))

    def compiles(self) -> bool:
        """Whether XLA compiles its graphs."""
        return use_jit(self.jit_compile)

    def params(self) -> Params:
        """The `traced` hyperparameters as tensors, without those that are None."""
        params = {}
        for name in self.traced:
            if getattr(self, name) is None:
                continue
            value = self.in_unit(name) if name in self.lengths else getattr(self, name)
            dtype = tf.int32 if isinstance(value, int) else tf.float32
            params[name] = tf.constant(value, dtype)
        return params

    @property
    def bound(self) -> Classifier:
        """The classifier that it attacks.

        Raises:
            ValueError: If there is none yet.
        """
        if self.classifier is None:
            raise ValueError(
                f"{type(self).__name__} has no model yet: give one to the constructor or call "
                "`bind(model)`. Received: model=None"
            )
        return self.classifier

    # ---- in a graph -------------------------------------------------------------------------

    def perturb(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        *,
        seed: tf.Tensor,
        scale: float | tf.Tensor | None = None,
        start: tf.Tensor | None = None,
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
            start: Where to begin, shape of `x`, for an attack that can be given a place.

        Returns:
            float32 tensor of the shape of `x`.
        """
        return self.outcome(x, y, seed=seed, scale=scale, start=start)["x_adv"]

    def outcome(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        *,
        seed: tf.Tensor,
        scale: float | tf.Tensor | None = None,
        start: tf.Tensor | None = None,
    ) -> State:
        """As `perturb`, with everything that the algorithm says of its work.

        Args:
            x, y, seed, scale, start: As for `perturb`.

        Returns:
            Tensors with a leading sample axis: the points `x_adv`, the passes asked for (`queries`,
            `gradients`) and executed (`executed_queries`, `executed_gradients`), and where the
            attack keeps them `best`, `found` and `gave_up`.
        """
        classifier = self.bound
        self._check_start(start)
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
        if start is not None:
            leaves["start"] = tf.stop_gradient(tf.cast(start, tf.float32))
        return drivers.in_graph(self, classifier, leaves, seed)

    # ---- the public call --------------------------------------------------------------------

    def generate(
        self,
        x: Any,
        y: Any = None,
        *,
        mask: np.ndarray | None = None,
        start: np.ndarray | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Adversarial samples for `x`.

        Where it fails a minimal-norm attack returns the clean sample, a budget attack its strongest
        point.

        Args:
            x: Samples `[n, ...]`: array, tensor, or a batched `tf.data.Dataset` of `x` or
                `(x, y)`.
            y: Labels or targets, integers `[n]` or one-hot `[n, classes]`. Without them an
                untargeted attack leaves the class that the model predicts.
            mask: Where the samples may change (non-zero), shape of `x` or of one sample.
            start: Where to begin, shape of `x`, for an attack that can be given a place.

        Returns:
            float32 array of the shape of `x`.

        Raises:
            TypeError, ValueError: If an input does not fit the model; before any work is done.
            AttackInterrupted: If a callable model fails; it carries the best points so far.
        """
        found = self.run(x, y, mask=mask, start=start, **kwargs).x_adv
        assert found is not None  # `run` keeps the samples
        return found

    def run(
        self,
        x: Any,
        y: Any = None,
        *,
        mask: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ) -> AttackResult:
        """Like `generate`, with all that is to be known about the outcome."""
        classifier = self.bound
        x, y = unpack(x, y)
        x = classifier.check(x)
        n = len(x)
        if y is None and self.targeted:
            raise ValueError("A targeted attack needs the target classes `y`. Received: y=None")
        labels = None if y is None else check_labels(y, n, classifier.known_classes)
        given = {"x": x}
        if mask is not None:
            given["mask"] = check_mask(mask, x)
        self._check_start(start)
        if start is not None:
            start = classifier.check(np.asarray(start))
            if start.shape != x.shape:
                raise ValueError(
                    f"`start` must have the shape of `x`, {x.shape}. "
                    f"Received: start of shape {start.shape}"
                )
            given["start"] = start
        sent = classifier.queries
        parts: list[AttackResult] = []
        with tqdm.tqdm(
            total=self.max_steps() * n, desc=self.name, unit="step", disable=not self.verbose
        ) as bar:
            try:
                source = Source(x, labels, classifier, given.get("mask"))
                prologue = {} if "start" in given else find_prologue(self, source)
                for index, first in enumerate(range(0, n, self.batch_size)):
                    rows = np.arange(first, min(first + self.batch_size, n))
                    own = {key: value[rows] for key, value in given.items()}
                    wanted = None if labels is None else labels[rows]
                    batch = self.batch(index, rows, n, own, wanted)
                    parts.append(run_batch(self, batch, prologue, bar.update))
            except (ModelFailure, AttackInterrupted) as error:
                raise self._interrupted(error, parts, x, classifier.queries - sent) from error
        result = AttackResult.concatenate(parts)
        idle = int(result.initially_adversarial.sum())
        if labels is not None and 2 * idle > n:
            meant = "aims at the classes `y`" if self.targeted else "leaves the classes `y`"
            warnings.warn(
                f"{idle} of {n} samples were adversarial before {self.name!r} did anything: it "
                f"{meant}. For the other meaning give targeted={not self.targeted}.",
                stacklevel=2,
            )
        return result

    def batch(
        self,
        index: int,
        rows: np.ndarray,
        total: int,
        given: dict[str, np.ndarray],
        y: np.ndarray | None,
    ) -> Batch:
        """A batch of a run on `total` samples.

        Args:
            index: Number of the batch.
            rows: Places of its samples among all.
            total: Number of samples of the run.
            given: Their `x`, and `mask` and `start` if there are any.
            y: Their labels or targets; None for the model's own labels.
        """
        shape = given["x"].shape[1:]
        leaves = {key: value[rows] for key, value in self._per_sample(total, shape).items()}
        whole = min(self.batch_size, total)
        return Batch(index, rows, total, {**given, **leaves}, y, whole)

    def other_models(self) -> list[Classifier]:
        """The models beside the bound one that its result depends on."""
        return []

    def prologue(self, source: Source) -> Prologue:
        """What all samples share, computed once: by default a pool of starting points if needed."""
        if not self.needs_starts:
            return {}
        # Always as many, so that the number of samples retraces nothing; each is asked for once.
        places = np.linspace(0, len(source) - 1, POOL_SIZE).astype(int)
        asked, every = np.unique(places, return_inverse=True)
        points = source.take(asked)
        size = min(POOL_SIZE, self.batch_size)
        labels, _, accepted = self.bound.judge(points, size, (self.seed, -1))
        labels = np.where(accepted, labels, -1)
        return {"pool": points[every], "labels": labels[every], "asked": asked}

    def craft(
        self, batch: Batch, prologue: Prologue, progress: Callable[[int], None]
    ) -> drivers.Crafted:
        """Attacks a batch; nothing is judged yet.

        Args:
            batch: Samples with `y` and `done`.
            prologue: What `find_prologue` returned.
            progress: Told of steps that are behind, summed over samples.
        """
        pool = (prologue["pool"], prologue["labels"]) if prologue else ()
        seed = (self.seed, batch.index)
        crafted = drivers.drive(self, self.bound, batch.given, seed, pool, batch.whole, progress)
        if prologue:  # the label of a point of the pool is paid for by the sample that it is
            paid = self.bound.votes * np.isin(batch.rows, prologue["asked"])
            crafted.queries += paid
            crafted.executed_queries += int(paid.sum())
        return crafted

    def _per_sample(self, n: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The hyperparameters that may differ from sample to sample, `[n]` each."""
        leaves = {
            key: check_per_sample(key, getattr(self, key), n, shape)
            for key in ("eps", "eps_step")
            if getattr(self, key, None) is not None
        }
        limit = self._query_limit()
        if limit is not None:
            leaves["limit"] = np.full(n, limit, np.int32)
        return leaves

    def _check_start(self, start: Any) -> None:
        if start is not None and not (self.takes_start or self.needs_starts):
            raise ValueError(
                f"{type(self).__name__} always begins at the sample. Received: start=..."
            )

    @staticmethod
    def _interrupted(
        error: Exception, parts: list[AttackResult], x: np.ndarray, queries: int
    ) -> AttackInterrupted:
        """What was found before a callable failed."""
        x_adv, found, first = x.copy(), np.zeros(len(x), bool), 0
        for part in parts:
            rows = slice(first, first + len(part.y))
            x_adv[rows], found[rows], first = part.x_adv, part.success, rows.stop
        if isinstance(error, drivers.Stopped):
            rows = slice(first, first + len(error.found))
            x_adv[rows], found[rows] = error.points, error.found
        return AttackInterrupted(
            f"{error} {int(found.sum())} of {len(x)} samples had been fooled by then; "
            "`x_adv`, `success` and `queries` of this error hold what was found.",
            x_adv,
            found,
            queries,
        )
