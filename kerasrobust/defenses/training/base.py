"""The contract of a training defense: a link in a chain, two hooks, a loss per sample."""

from __future__ import annotations

import abc
import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import tensorflow as tf

from kerasrobust.checks import check_length

if TYPE_CHECKING:
    from kerasrobust.engine.classifier import Classifier

MODES = ("training", "inference", "stateless")
# The rank of what crafts adversaries: one link at most.
CRAFTS = 20


@dataclasses.dataclass(frozen=True)
class Batch:
    """What travels down the chain. Every tensor has a leading sample axis.

    Attributes:
        x: Inputs `[batch, ...]`, float32, in the units of the model's `clip_values`.
        y: Labels as the loss shall see them; a defense may change them (label smoothing).
        labels: Labels as they came, for attacks and metrics.
        sample_weight: Weights `[batch]`, or None. They are applied once, to the loss of the whole
            chain; a link only carries them along, for the weighted metrics.
        clip_values: Smallest and largest valid input value.
        origin: What `x` is: ``"clean"`` or what the links made of it, ``"noisy"`` say. Metrics
            measured on anything but clean samples carry it in their name.
        mode: How the model runs on it. ``"training"`` updates batch-norm statistics and draws
            dropout; ``"inference"`` does neither; ``"stateless"`` computes as in training, but
            statistics and dropout seeds stay where they are.
        draws_as: Inputs `[n, ...]` of an earlier pass, and how many copies of each of its samples
            `x` holds in a row: layers draw for each copy what they drew for the sample there,
            dropout masks say. Only in a chain in which a defense declares `repeats_draws`.
        extras: What `prepare` crafted, by name.
    """

    x: tf.Tensor
    y: tf.Tensor
    labels: tf.Tensor
    clip_values: tuple[float, float]
    sample_weight: tf.Tensor | None = None
    origin: str = "clean"
    mode: str = "training"
    draws_as: tuple[tf.Tensor, int] | None = None
    extras: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: Any) -> Batch:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def derive(self, x: tf.Tensor, origin: str, mode: str, *, clip: bool = True) -> Batch:
        """The same samples with other inputs, clipped to the bounds unless `clip` is False.

        `origin` is added to the one they had. A mode other than ``"training"`` that an outer link
        asked for stays.
        """
        return self.replace(
            x=tf.clip_by_value(x, *self.clip_values) if clip else x,
            origin=origin if self.origin == "clean" else f"{self.origin}_{origin}",
            mode=mode if self.mode == "training" else self.mode,
        )

    def with_extra(self, name: str, value: tf.Tensor) -> Batch:
        """A copy that holds one more tensor, `[batch, ...]`, for the objective."""
        return self.replace(extras={**self.extras, name: value})

    def pop_extra(self, name: str) -> tuple[tf.Tensor, Batch]:
        """An extra tensor, and the batch without it."""
        rest = dict(self.extras)
        return rest.pop(name), self.replace(extras=rest)

    def repeat(self, times: int) -> Batch:
        """Every sample `times` times in a row: `[batch * times, ...]`."""

        def rows(value: tf.Tensor | None) -> tf.Tensor | None:
            return None if value is None else tf.repeat(value, times, axis=0)

        return self.replace(
            x=rows(self.x),
            y=rows(self.y),
            labels=rows(self.labels),
            sample_weight=rows(self.sample_weight),
            extras={name: rows(value) for name, value in self.extras.items()},
        )


class Inner(Protocol):
    """The rest of the chain, as a link sees it."""

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Loss per sample `[batch]` of the rest of the chain."""

    def logits(self, batch: Batch) -> tf.Tensor:
        """float32 logits of the model at `batch.x`, sharing the pass with `inner(batch)`.

        A single output unit `z` counts as two classes with the logits `(0, z)`.
        """

    def activations(self, batch: Batch) -> list[tf.Tensor]:
        """float32 outputs of all ReLUs at `batch.x`, `[batch, ...]` each, and last the logits.

        They share the pass with `inner(batch)`. Only for a chain in which a defense declares
        `sees_activations`; the logits are those that the model has, one or more.
        """


class Context:
    """What a defense may use while it prepares a step: the model, seeds, its share of the noise.

    All draws are functions of `(seed, step, name)`, so a step repeats bit for bit and resumes after
    loading. What comes from `draw` depends on a sample's position in the *global* batch and is the
    same on one device and on several; what an operation draws by itself from `local_seed` (an
    attack's random starts) is independent from replica to replica. Code compiled by XLA draws
    other numbers than a plain graph.

    Attributes:
        model: The `RobustModel` in training.
        clip_values: Smallest and largest valid input value.
        step: Training steps made before this one, int32 scalar.
        inner: The rest of the chain of the defense that is preparing, for those that need its
            gradient (weight perturbation). Passes made here are not seen by the metrics; their
            batch-norm mode is the batch's own.
    """

    def __init__(self, model: Any, step: tf.Tensor, x: tf.Tensor):
        size = tf.shape(x)[0]
        self.model = model
        self.clip_values: tuple[float, float] = model.clip_values
        self.inner: Inner | None = None
        self.step = tf.cast(step, tf.int32)
        self._size = size
        self._sample_shape = tuple(x.shape[1:])
        self._restores: list[Callable[[], None]] = []
        replica = tf.distribute.get_replica_context()
        self.replicas = 1 if replica is None else replica.num_replicas_in_sync
        self.global_size = size
        self._start = tf.zeros_like(size)
        if self.replicas > 1:
            # The last batch of an epoch may leave replicas with fewer samples, or none: the
            # offset has to be summed up, not multiplied.
            own = tf.one_hot(replica.replica_id_in_sync_group, self.replicas, dtype=size.dtype)
            sizes = replica.all_reduce(tf.distribute.ReduceOp.SUM, own * size)
            self.global_size = tf.reduce_sum(sizes)
            self._start = tf.reduce_sum(tf.cumsum(sizes, exclusive=True) * own)

    def classifier(self, mode: str = "inference") -> Classifier:
        """What an attack sees of the model; see `RobustModel.classifier`."""
        classifier = self.model.classifier(mode)
        with tf.init_scope():
            # A subclassed model tells its classes, and whether it returns logits, by a call.
            classifier.prepare(self._sample_shape)
        return classifier

    def seed(self, name: str) -> tf.Tensor:
        """The seed of this step for the draws called `name`: int32 `[2]`."""
        base = tf.constant([self.model.seed, zlib.crc32(name.encode()) & 0x7FFFFFFF], tf.int32)
        return tf.random.experimental.stateless_fold_in(base, self.step)

    def local_seed(self, name: str) -> tf.Tensor:
        """Like `seed`, but another one on each replica after the first."""
        seed = self.seed(name)
        if self.replicas == 1:
            return seed
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        other = tf.random.experimental.stateless_fold_in(seed, replica)
        return tf.where(tf.equal(replica, 0), seed, other)

    def draw(self, sampler: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """This replica's rows of what `sampler` draws for the global batch.

        Every replica draws for all samples and keeps its own, which is cheap beside a pass through
        the model and exact whatever the number of devices.

        Args:
            sampler: Given a number of samples `n` (a scalar tensor), returns a tensor `[n, ...]`
                drawn with stateless operations.
        """
        if self.replicas == 1:
            return sampler(self._size)
        return sampler(self.global_size)[self._start : self._start + self._size]

    def gather(self, x: tf.Tensor) -> tf.Tensor:
        """The rows `[batch, ...]` of all replicas, on each of them, in the order of `draw`.

        Replicas may hold unequal numbers of rows, or none.
        """
        if self.replicas == 1:
            return x
        rows = tf.distribute.get_replica_context().all_gather(x, axis=0)
        return tf.ensure_shape(rows, [None, *x.shape[1:]])

    def defer(self, restore: Callable[[], None]) -> None:
        """Has `restore` called once the gradients are taken, before they are applied.

        For what `prepare` changes for the time of the objective, weights say. Calls are made in
        reverse order.
        """
        self._restores.append(restore)

    def restore(self) -> None:
        """Undoes what was deferred; called by the training step."""
        while self._restores:
            self._restores.pop()()


class TrainingDefense(abc.ABC):
    """A link of the chain that `RobustModel` trains through.

    Subclasses keep every `__init__` argument as an attribute and in `get_config`, and register
    under ``"kerasrobust"``.

    Attributes:
        name: Registry name; also the prefix of what the defense draws and keeps in `extras`.
        source: The documents that name it; where it is empty the paper of the docstring counts.
        rank: Where in the chain the link belongs, whatever the order it was named in. Low ranks
            sit next to the loss: 0 changes labels or the loss itself, 10 to 19 draw variants of
            the inputs and add penalties, 20 crafts adversaries, 30 changes weights. The link with
            the highest rank is the outermost one, its objective is called first.
        ends: Whether it has a loss of its own and never calls the chain's (MART, say): it is
            refused beside anything that would come after it.
        views: The modes of the classifiers it asks its context for; they are made before tracing.
        lengths: Arguments in the unit of the inputs, each with its default as a share of the width
            of the box, or None where it has none. They are None unless they are given.
        norm: Norm of these lengths.
        sees_activations: Whether it calls `inner.activations`: only then passes are built with the
            ReLU outputs, and a model whose graph cannot be read is refused.
        repeats_draws: Whether it makes batches with `draws_as`.
    """

    name: str = ""
    source: str = ""
    rank: int = 0
    ends: bool = False
    views: tuple[str, ...] = ()
    lengths: ClassVar[Mapping[str, float | None]] = {}
    norm: float = math.inf
    sees_activations: bool = False
    repeats_draws: bool = False

    def length(self, name: str, clip_values: tuple[float, float]) -> Any:
        """One of the `lengths` in the unit of the inputs: as it was given, or its default."""
        given, share = getattr(self, name), self.lengths[name]
        if given is not None or share is None:
            return given
        return share * (clip_values[1] - clip_values[0])

    def check_lengths(self, model: Any) -> None:
        """Refuses lengths in another unit than the inputs of a `RobustModel`."""
        shape = (getattr(model.base, "input_shape", None) or (None, None))[1:]
        features = None if None in shape else math.prod(shape)
        for name, share in self.lengths.items():
            value = getattr(self, name)
            if value is not None:
                usual = 0.0 if name == "eps_step" else share
                check_length(name, value, model.clip_values, self.norm, features, usual)

    def build(self, model: Any) -> None:
        """Creates state that is saved with `model`, a `RobustModel`, with `model.add_weight`.

        Called once for each model that holds the defense, in the scope of its strategy. What it
        makes belongs to that model, not to the defense, which other models may share.
        """
        del model

    def before_fit(self, model: Any, arguments: Mapping[str, Any]) -> None:
        """Work that comes before the first epoch, once callbacks have restored what they restore.

        Args:
            model: The `RobustModel`.
            arguments: Of its `fit`, by name, without `callbacks`: those are the model's own.
        """
        del model, arguments

    def saved(self, model: Any) -> dict[str, Any]:
        """Arrays by name that are saved with the weights of `model`, beside its variables."""
        del model
        return {}

    def load(self, model: Any, values: Mapping[str, Any]) -> None:
        """Takes back what `saved` gave; empty for a file in which there is nothing of this link."""
        del model, values

    def prepare(self, batch: Batch, context: Context) -> Batch:
        """Outside the gradient tape: crafts, draws, perturbs. Links next to the loss come first.

        Returns:
            The batch, with what `objective` needs in its `extras`.
        """
        del context
        return batch

    @abc.abstractmethod
    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        """Inside the tape: the loss per sample `[batch]`, calling `inner` for the rest."""

    def conflict(self, other: TrainingDefense) -> str | None:
        """Why this defense cannot share a chain with `other`, or None if it can."""
        if type(other) is type(self):
            return f"the chain already holds {self.name!r}"
        if self.ends and other.ends:
            return "each is an end of the chain, with a loss of its own"
        if self.ends and other.rank <= self.rank:
            return f"{self.name!r} has a loss of its own and would never call {other.name!r}"
        if self.rank == other.rank == CRAFTS:
            return "both craft adversaries; `ensemble_adversarial_training` takes several attacks"
        return None

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The `__init__` arguments, ready for JSON."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TrainingDefense:
        """The defense with these `__init__` arguments."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def check_mode(name: str, value: str, modes: tuple[str, ...] = MODES) -> str:
    """Checks the batch-norm mode given as argument `name`."""
    if value not in modes:
        raise ValueError(f"`{name}` must be one of {modes}. Received: {name}={value!r}")
    return value


def check_chain(defenses: Any) -> tuple[TrainingDefense, ...]:
    """Training defenses in their order, outermost first.

    Raises:
        TypeError: If they are no list of training defenses.
        ValueError: If two of them do not go together.
    """
    if not isinstance(defenses, Sequence) or isinstance(defenses, str):
        raise TypeError(f"`defenses` must be a list of defenses. Received: defenses={defenses!r}")
    for defense in defenses:
        if not isinstance(defense, TrainingDefense):
            raise TypeError(
                "`defenses` must hold training defenses; `kerasrobust.wrap` takes names too. "
                f"Received: {defense!r}"
            )
    chain = sorted(defenses, key=lambda defense: -defense.rank)
    for first, one in enumerate(chain):
        for other in chain[first + 1 :]:
            reason = one.conflict(other) or other.conflict(one)
            if reason:
                raise ValueError(
                    f"{one.name!r} and {other.name!r} cannot be combined: {reason}. "
                    f"Received: defenses={list(chain)}"
                )
    return tuple(chain)
