"""How a classifier is trained: rates, their decay, when to stop, what images go through."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras

from kerasrobust.checks import check_bool, check_float, check_int
from kerasrobust.models import augmentation
from kerasrobust.specs import is_description, jsonable, near_match, parse_spec

# `plateau` is no function of the step: a callback lowers a constant rate.
_SCHEDULES: dict[str, Callable[..., Any]] = {}
# They are no optimizers by themselves.
_OF_OPTIMIZERS = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap")


def _schedule(function: Callable[..., Any]) -> Callable[..., Any]:
    _SCHEDULES[function.__name__] = function
    return function


@_schedule
def constant(rate: float, steps: int, epochs: int) -> Any:
    """The rate as it is."""
    return rate


@_schedule
def cosine(rate: float, steps: int, epochs: int, *, alpha: float = 0.0) -> Any:
    """Down to `alpha` of the rate after the last step."""
    alpha = check_float("alpha", alpha)
    return keras.optimizers.schedules.CosineDecay(rate, steps * epochs, alpha=alpha)


@_schedule
def step(rate: float, steps: int, epochs: int, *, at: Any = None, factor: float = 0.1) -> Any:
    """Times `factor` after each of the epochs `at`."""
    factor = _check_factor(factor)
    if at is None:
        at = sorted({max(1, epochs // 2), max(1, 3 * epochs // 4)})
    at = [at] if isinstance(at, int) else at
    if not isinstance(at, (list, tuple)) or not at:
        raise ValueError(f"`at` must be a list of epochs. Received: at={at!r}")
    epoch_ends = [check_int("at", epoch, 1) for epoch in at]
    if epoch_ends != sorted(set(epoch_ends)):
        raise ValueError(f"The epochs of `at` must ascend. Received: at={at!r}")
    # Keras counts steps from 0 and keeps a value up to and with its boundary.
    boundaries = [epoch * steps - 1 for epoch in epoch_ends]
    values = [rate * factor**number for number in range(len(boundaries) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


@_schedule
def plateau(
    rate: float,
    steps: int,
    epochs: int,
    *,
    factor: float = 0.1,
    patience: int = 10,
    min_delta: float = 1e-4,
    cooldown: int = 0,
    min_lr: float = 0.0,
) -> Any:
    """Times `factor` where nothing has become better for `patience` epochs."""
    _check_factor(factor)
    check_int("patience", patience, 1)
    check_int("cooldown", cooldown, 0)
    check_float("min_delta", min_delta)
    check_float("min_lr", min_lr)
    return rate


def _check_factor(factor: float) -> float:
    factor = check_float("factor", factor, above=True)
    if factor >= 1:
        raise ValueError(f"`factor` must be below 1. Received: factor={factor}")
    return factor


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained; `kerasrobust.models.recipes` has those of the documents.

    Optimizers, decay, stopping and augmentation are Keras's own. Where a field takes a name, it
    takes `"name:key=value"` too, and in Python `{"name": ..., "config": {...}}`.

    Images are augmented on their way to the training step: a defense crafts its adversaries on
    augmented images, and neither the model nor an attack on it knows of them. What is drawn is a
    function of seed, epoch and batch. The result is clipped to the bounds of the data.

    Args:
        epochs: Passes over the samples, or as long as `steps_per_epoch` says. Default: 3, or on few
            samples as many as 600 steps take.
        steps: The length of the run in steps in the place of `epochs`; rounded up to whole epochs.
        steps_per_epoch: Length of an epoch in steps, whatever the samples: after so many come
            validation, callbacks and the checkpoint, and `epochs` and schedules count by it. The
            samples are passed over all the same, again and again. Default: one pass.
        batch_size: Samples per step. Default 64.
        optimizer: Keras's name of an optimizer, its further arguments behind it, as in
            `"sgd:momentum=0.9,nesterov=true"`. Default `"adam"`.
        learning_rate: At the start, above 0. Default 0.001.
        schedule: What becomes of it. `"cosine"` (default): down to `alpha=0` of it with the last
            step. `"constant"`. `"step"`: times `factor=0.1` after each of the epochs `at`, by
            default half and three quarters of the run. `"plateau"`: times `factor=0.1` when
            `monitor` has not become better for `patience=10` epochs; also `min_delta=0.0001`,
            `cooldown=0`, `min_lr=0` of `keras.callbacks.ReduceLROnPlateau`.
        weight_decay: Share of every trainable weight, times the learning rate, that is taken off in
            each step, beside the gradient, as Keras's `weight_decay` does (AdamW). Default: none.
        early_stopping: Epochs without a better `monitor` after which training stops; the weights
            of the best epoch are kept, even if it did not come to that. Default: no stop.
        monitor: What plateaus and early stopping look at: a name of the logs that ends in `loss`
            or `accuracy`, as they are called: `adversarial_accuracy`, where that is trained on.
            Default: `"val_loss"`, without validation samples `"loss"`.
        augment: Keras layers that images go through in training, in this order, each by its class
            name with Keras's own arguments, as in `["RandomFlip:mode=horizontal"]`, or as a layer.
            `value_range` is that of the data where it is left out. What mixes the images of a batch
            (`MixUp`), whose labels stay, is refused. Default: none.
        standardize: Whether the model has to subtract the mean of each image and divide by its
            standard deviation, see `kerasrobust.models.standardize`. Default False.

    Raises:
        ValueError: If a value is out of range or a name unknown.
        TypeError: If an argument is of the wrong type, or none that the named thing takes.

    Example:
        >>> recipe = Recipe(epochs=10, optimizer="sgd:momentum=0.9", schedule="step:at=[5,8]")
        >>> history = kerasrobust.models.fit(model, train, recipe=recipe)
    """

    epochs: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    batch_size: int = 64
    optimizer: Any = "adam"
    learning_rate: float = 0.001
    schedule: Any = "cosine"
    weight_decay: float | None = None
    early_stopping: int | None = None
    monitor: str | None = None
    augment: Any = ()
    standardize: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "steps_per_epoch", "early_stopping"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                "A recipe is as long as its `epochs` or its `steps` say. "
                f"Received: epochs={self.epochs}, steps={self.steps}"
            )
        check_int("batch_size", self.batch_size, 1)
        check_float("learning_rate", self.learning_rate, above=True)
        if self.weight_decay is not None:
            check_float("weight_decay", self.weight_decay, above=True)
        if self.monitor is not None and (
            not isinstance(self.monitor, str) or not self.monitor.endswith(("loss", "accuracy"))
        ):
            raise ValueError(
                "`monitor` must be a name of the logs that ends in 'loss' or 'accuracy'. "
                f"Received: monitor={self.monitor!r}"
            )
        check_bool("standardize", self.standardize)
        augment = self.augment if isinstance(self.augment, (list, tuple)) else [self.augment]
        object.__setattr__(self, "augment", tuple(augment))
        self.optimizer_for(1, 1)
        augmentation.layers(self.augment, (0.0, 1.0), check_range=False)

    @property
    def needs_validation(self) -> bool:
        """Whether it makes choices by samples that are not trained on."""
        watches = self.early_stopping is not None or self._schedule_name == "plateau"
        return watches and (self.monitor is None or self.monitor.startswith("val_"))

    @property
    def depends_on_length(self) -> bool:
        """Whether the rate of a step depends on how many there will be."""
        return self._schedule_name not in ("constant", "plateau")

    def epochs_for(self, steps: int) -> int:
        """Length of a run whose epochs are so many steps long."""
        if self.epochs is not None:
            return self.epochs
        if self.steps is not None:
            return -(-self.steps // steps)
        # On a small set three epochs are too few steps to train anything.
        return max(3, -(-600 // steps))

    def optimizer_for(self, steps: int, epochs: int) -> keras.optimizers.Optimizer:
        """A new optimizer for a run of so many epochs of so many steps."""
        name, config = _parsed("optimizer", self.optimizer)
        kinds = {
            key.lower(): value
            for key, value in vars(keras.optimizers).items()
            if isinstance(value, type) and key not in _OF_OPTIMIZERS
        }
        kind = kinds.get(name.lower(), keras.saving.get_registered_object(name))
        if not (isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)):
            raise ValueError(
                f"Unknown optimizer. {near_match(name, kinds)} Received: optimizer={name!r}"
            )
        if self.weight_decay is not None:
            if "weight_decay" in config:
                raise ValueError(
                    "Weight decay is the recipe's or the optimizer's. Received: "
                    f"weight_decay={self.weight_decay}, optimizer={self.optimizer!r}"
                )
            config["weight_decay"] = self.weight_decay
        name, arguments = _parsed("schedule", self.schedule)
        if name not in _SCHEDULES:
            raise ValueError(
                f"Unknown schedule. {near_match(name, _SCHEDULES)} Received: schedule={name!r}"
            )
        _check_arguments("schedule", name, _SCHEDULES[name], arguments)
        # Keras's optimizers take no integer.
        rate = _SCHEDULES[name](float(self.learning_rate), steps, epochs, **arguments)
        _check_arguments("optimizer", kind.__name__, kind, config)
        return kind(learning_rate=rate, **config)

    def callbacks_for(
        self, validated: bool, restore: bool = True
    ) -> list[keras.callbacks.Callback]:
        """New callbacks that lower the rate on plateaus and stop early.

        Args:
            validated: Whether there are validation samples.
            restore: Whether early stopping puts the weights of its best epoch back.

        Raises:
            ValueError: If `monitor` needs validation samples and there are none.
        """
        monitor = self.monitor or ("val_loss" if validated else "loss")
        if monitor.startswith("val_") and not validated:
            raise ValueError(
                f"The recipe looks at validation samples. Received: monitor={monitor!r} and "
                "validation=None"
            )
        watched = {"monitor": monitor, "mode": "min" if monitor.endswith("loss") else "max"}
        callbacks: list[keras.callbacks.Callback] = []
        if self._schedule_name == "plateau":
            arguments = _parsed("schedule", self.schedule)[1]
            callbacks.append(keras.callbacks.ReduceLROnPlateau(**watched, **arguments))
        if self.early_stopping is not None:
            callbacks.append(
                keras.callbacks.EarlyStopping(
                    patience=self.early_stopping, restore_best_weights=restore, **watched
                )
            )
        return callbacks

    def get_config(self) -> dict[str, Any]:
        """The fields, ready for JSON; layers and descriptions by name and arguments."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["augment"] = [augmentation.told(layer) for layer in self.augment]
        return jsonable(fields)

    @property
    def _schedule_name(self) -> str:
        return _parsed("schedule", self.schedule)[0]


def _parsed(field: str, value: Any) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of what a field holds."""
    if isinstance(value, str):
        return parse_spec(value)
    if is_description(value):
        return value["name"], dict(value.get("config") or {})
    raise TypeError(
        f"Expected {field} as a name, 'name:key=value' or a description. "
        f"Received: {field}={value!r}"
    )


def _check_arguments(
    field: str, name: str, function: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    """Refuses what it does not take: Keras's optimizers would say so without its name."""
    own = ("rate", "steps", "epochs", "learning_rate", "kwargs")
    known = [key for key in inspect.signature(function).parameters if key not in own]
    unknown = [f"{key}={value!r}" for key, value in arguments.items() if key not in known]
    if unknown:
        raise TypeError(
            f"The {field} {name!r} takes {', '.join(known) or 'no arguments'}. "
            f"Received: {', '.join(unknown)}"
        )
