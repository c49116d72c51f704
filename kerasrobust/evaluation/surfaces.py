"""What models say around samples: labels and losses on lines and planes through them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import norms
from kerasrobust.attacks import Attack
from kerasrobust.checks import (
    check_batch_size,
    check_bool,
    check_float,
    check_int,
    check_labels,
)
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation.resolve import resolve

SECOND = ("random", "class", "own")
# A pixel that moved by less, as a share of the width of the box, has not: it was rounded.
_MOVED = 1e-6
# What is left of a direction that leads the same way as another one is rounding.
_PARALLEL = 1e-4


@dataclasses.dataclass(frozen=True)
class Surface:
    """What a model says at points around samples.

    The point `[i, a, b]` is `x_i + axes[0][a] * d_i + axes[1][b] * e_i` with the directions `d` and
    `e`, which have length 1 in the norm; on a line it is `[i, a]`.

    Attributes:
        axes: Lengths along each direction, in the unit of the inputs: one array for a line, two for
            a plane.
        losses: Cross-entropy of the true labels in nats, float64 `[n, a, b]`, the mean over the
            passes of a randomised model; NaN where the model answers labels only.
        labels: The model's labels, int64 `[n, a, b]`; -1 where it rejects the point.
        confidence: The probability of the label, float32 `[n, a, b]`.
        sizes: Distance of the points from their sample in the norm, float32 `[n, a, b]`: less than
            the lengths say where the box ends.
        y: True labels, int64 `[n]`.
        norm: Norm of lengths and distances.
        eps: The budget they are compared with; None without one.
        names: What the directions are.
        queries: Forward passes over a sample, those of the attacks that gave directions included.
        gradients: Backward passes of these attacks.
    """

    axes: tuple[np.ndarray, ...]
    losses: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    sizes: np.ndarray
    y: np.ndarray
    norm: float = math.inf
    eps: float | None = None
    names: tuple[str, ...] = ()
    queries: int = 0
    gradients: int = 0

    def take(self, rows: Any) -> Surface:
        """The part of some samples, by their places."""
        rows = np.atleast_1d(np.arange(len(self.y))[rows])
        of_samples = ("losses", "labels", "confidence", "sizes", "y")
        return dataclasses.replace(self, **{key: getattr(self, key)[rows] for key in of_samples})


def explore(
    model: Any,
    x: Any,
    y: Any,
    directions: Sequence[np.ndarray],
    axes: Sequence[Any],
    *,
    norm: float | str = math.inf,
    clip: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> Surface:
    """Labels and losses of samples that are moved along one or two directions.

    Args:
        model: A `keras.Model`, a `Classifier`, or a callable.
        x: Samples `[n, ...]`, inside the bounds.
        y: Labels, integers `[n]` or one-hot `[n, classes]`.
        directions: One or two arrays of the shape of `x`, or of one sample for all of them.
        axes: As many increasing arrays of lengths.
        norm: Norm of the distances `sizes`: 1, 2 or inf.
        clip: Whether points are moved back into the bounds, where alone an attack can go. Without
            it they lie on the plane wherever that leads.
        batch_size: Points per pass.
        seed: Of what a randomised model draws.

    Returns:
        A `Surface`; `n` times as many points as the axes span, and no more than a batch of them is
        in memory at a time.

    Raises:
        ValueError: If samples, labels, directions and axes do not fit.
    """
    classifier, order = Classifier.of(model).judging, norms.check_norm(norm)
    x = classifier.check(np.asarray(x))
    y = check_labels(np.asarray(y), len(x), classifier.known_classes)
    if len(directions) != len(axes) or len(axes) not in (1, 2):
        raise ValueError(
            "Expected one or two directions, and an axis for each. "
            f"Received: {len(directions)} directions and {len(axes)} axes"
        )
    moves = [_direction(direction, x) for direction in directions]
    lengths = tuple(_axis(axis) for axis in axes)
    clip, batch_size = check_bool("clip", clip), check_batch_size(batch_size, x.shape[1:])
    grid = np.stack(np.meshgrid(*lengths, indexing="ij"), axis=-1).reshape(-1, len(lengths))
    grid = grid.astype(np.float32)
    low, high = classifier.clip_values
    total = len(x) * len(grid)
    found: list[tuple[np.ndarray, ...]] = []
    for number, first in enumerate(range(0, total, batch_size)):
        sample, point = np.divmod(np.arange(first, min(first + batch_size, total)), len(grid))
        clean = x[sample]
        points = clean.copy()
        for move, length in zip(moves, grid[point].T, strict=True):
            points += length.reshape(-1, *[1] * (x.ndim - 1)) * move[sample]
        if clip:
            np.clip(points, low, high, out=points)
        answers = classifier.examine(points, y[sample], batch_size, (seed, number))
        found.append((*answers, np.asarray(norms.norm(tf.constant(points - clean), order))))
    shape = (len(x), *map(len, lengths))
    columns = (np.concatenate(column).reshape(shape) for column in zip(*found, strict=True))
    labels, confidence, accepted, losses, sizes = columns
    return Surface(
        axes=lengths,
        losses=losses,
        labels=np.where(accepted, labels, -1),
        confidence=confidence,
        sizes=sizes,
        y=y,
        norm=order,
        queries=classifier.votes * total,
    )


def planes(
    models: Any,
    x: Any,
    y: Any,
    *,
    eps: float,
    norm: float | str = math.inf,
    attack: str | Attack = "fgsm",
    source: Any = None,
    second: str | None = None,
    across: tuple[float, float] | None = None,
    up: tuple[float, float] | None = None,
    points: int = 41,
    clip: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Surface]:
    """Labels and losses on a plane through each sample that an attack's direction spans.

    The first direction is `x_adv - x` of an attack on the model, as `sign(x_adv - x)` in Linf and
    with length 1 in other norms. Where there is a `source` it is that of an attack on the source,
    the same for all models.

    - E2SAD, Figure 3.3: `attack="fgsm"` or `"bim"`, a random second direction orthogonal to the
      first, `across=up=(0, 0.4)` at `eps=0.3`; draw it with `pictures.loss_surface`.
    - GEA, Figure 5: the loss at `x + e1 sign(grad L1) + e2 sign(grad L2)` with `L1` of an
      unprotected model and `L2` of the model itself: `source=base`, `across=(-16, 16)` and
      `up=(-8, 32)` of 255 levels; draw it with `pictures.decision_space`.

    Args:
        models: A model, or several by their names.
        x: Samples `[n, ...]`.
        y: True labels, integers `[n]` or one-hot.
        eps: Budget that the attack is given, in the unit of the inputs.
        norm: Its norm: 1, 2 or inf.
        attack: Where the first direction comes from: the name of an attack, a specification, or an
            attack.
        source: A model whose direction is the first one for all models.
        second: Where the second direction comes from: ``"random"``; ``"class"``, the attack aimed
            at the likeliest class but the true one and the one it found; ``"own"``, the attack on
            the model itself, beside a `source`. The first two are made orthogonal to the first
            direction. By default ``"own"`` with a source and ``"random"`` without.
        across: Least and largest length along the first direction; by default twice the budget both
            ways.
        up: The same along the second.
        points: Points along each axis.
        clip: See `explore`.
        batch_size: Points per pass.
        seed: Seed of the attack, the random direction, and what a randomised model draws.

    Returns:
        A `Surface` by name of the model.

    Raises:
        TypeError: If the attack needs gradients that a model does not have.
        ValueError: If an argument does not fit, or the attack leaves all samples as they are.

    Example:

    >>> found = kerasrobust.evaluation.surfaces.planes(model, x[:1], y[:1], eps=0.1)
    >>> kerasrobust.evaluation.pictures.decision_space("space.png", found)
    """
    named, eps, order = _named(models), check_float("eps", eps, above=True), norms.check_norm(norm)
    second = second or ("random" if source is None else "own")
    if second not in SECOND or (second == "own") != (source is not None):
        raise ValueError(
            "`second` must be 'random' or 'class', and 'own' beside a `source`. "
            f"Received: second={second!r}, source={source!r}"
        )
    points = check_int("points", points, 2)
    axes = [_span(name, span, eps, points) for name, span in (("across", across), ("up", up))]
    explored: dict[str, Any] = {"norm": norm, "clip": clip, "batch_size": batch_size, "seed": seed}
    crafting: dict[str, Any] = {"eps": eps, "norm": order, "batch_size": batch_size, "seed": seed}
    given = None if source is None else adversarial(source, x, y, attack, **crafting)
    found = {}
    for name, model in named.items():
        first = given or adversarial(model, x, y, attack, **crafting)
        parts = [first]
        if second == "random":
            other = orthogonal(first.vectors, None, order, seed)
            names = (first.name, "random, orthogonal")
        else:
            towards = _other_class(model, x, y, first.labels) if second == "class" else None
            parts.append(adversarial(model, x, y, attack, targets=towards, **crafting))
            other = parts[-1].vectors
            names = (f"{first.name} of the source", f"{first.name} of the model")
            if second == "class":
                other = orthogonal(first.vectors, other, order)
                names = (first.name, "another class, orthogonal")
        surface = explore(model, x, y, [first.vectors, other], axes, **explored)
        found[name] = _paid(surface, eps, names, parts)
    return found


def lines(
    models: Any,
    x: Any,
    y: Any,
    *,
    eps: float,
    norm: float | str = math.inf,
    attack: str | Attack = "fgsm",
    source: Any = None,
    across: tuple[float, float] | None = None,
    points: int = 33,
    clip: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Surface]:
    """Labels and losses along an attack's direction from each sample.

    GEA's Figure 6: 128 samples along their FGSM, up to 128 of 255 levels. Loss that rises and falls
    again is what an attack with that budget steps over.

    Args:
        models, x, y, eps, norm, attack, source, points, clip, batch_size, seed: As of `planes`.
        across: Least and largest length; by default from 0 to four times the budget.

    Returns:
        A `Surface` by name of the model; draw them with `pictures.loss_against_eps`.

    Raises:
        TypeError, ValueError: As `planes`.
    """
    named, eps, order = _named(models), check_float("eps", eps, above=True), norms.check_norm(norm)
    span = _span("across", (0.0, 4 * eps) if across is None else across, eps, points)
    explored: dict[str, Any] = {"norm": norm, "clip": clip, "batch_size": batch_size, "seed": seed}
    crafting: dict[str, Any] = {"eps": eps, "norm": order, "batch_size": batch_size, "seed": seed}
    given = None if source is None else adversarial(source, x, y, attack, **crafting)
    found = {}
    for name, model in named.items():
        first = given or adversarial(model, x, y, attack, **crafting)
        surface = explore(model, x, y, [first.vectors], [span], **explored)
        found[name] = _paid(surface, eps, (first.name,), [first])
    return found


def maps(
    models: Any, *, points: int = 201, batch_size: int | None = None, seed: int = 0
) -> dict[str, Surface]:
    """Labels and confidence of models of two inputs all over the square of valid inputs.

    BRELU-GDA's Figure 2; `datasets.load("moons")` and `"circles"` have the samples. The axes of
    these surfaces are the two inputs, `labels[0, a, b]` is the label of `(axes[0][a], axes[1][b])`.

    Args:
        models: A model, or several by their names.
        points: Points along each input.
        batch_size: Points per pass.
        seed: Of what a randomised model draws.

    Returns:
        A `Surface` of one sample by name of the model; draw them with `pictures.decision_boundary`.

    Raises:
        ValueError: If a model has not two inputs.
    """
    points, found = check_int("points", points, 2), {}
    for name, model in _named(models).items():
        classifier = Classifier.of(model)
        if classifier.input_shape != (2,):
            raise ValueError(
                "Expected a model of two inputs, (2,). "
                f"Received: {name!r} of the input shape {classifier.input_shape}"
            )
        low, high = classifier.clip_values
        corner = np.full((1, 2), low, np.float32)
        axes = (np.linspace(0, high - low, points),) * 2
        surface = explore(
            model, corner, [0], list(np.eye(2)), axes, batch_size=batch_size, seed=seed
        )
        inputs = tuple(low + axis for axis in axes)
        found[name] = dataclasses.replace(surface, axes=inputs, names=("input 1", "input 2"))
    return found


@dataclasses.dataclass(frozen=True)
class Directions:
    """Where an attack went.

    Attributes:
        vectors: Directions of length 1 in the norm, float32, the shape of the samples; zero where
            the attack left the sample as it was.
        labels: The labels at the points it found, int64 `[n]`.
        name: Name of the attack.
        queries: Forward passes that it took.
        gradients: Backward passes.
    """

    vectors: np.ndarray
    labels: np.ndarray
    name: str
    queries: int
    gradients: int


def adversarial(
    model: Any,
    x: Any,
    y: Any,
    attack: str | Attack = "fgsm",
    *,
    eps: float,
    norm: float | str = math.inf,
    targets: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Directions:
    """The direction of `x_adv - x` of an attack.

    In Linf it is `sign(x_adv - x)` (E2SAD, section 3.4), which of FGSM is the sign of the gradient;
    else `x_adv - x` divided by its norm.

    Args:
        model: What is attacked.
        x: Samples `[n, ...]`.
        y: True labels.
        attack: Name, specification or attack; one that is named is given budget, norm and seed
            where it says nothing of them itself.
        eps: The budget.
        norm: Its norm, and that of the length 1.
        targets: Classes to aim at, integers `[n]`; None for an untargeted attack.
        batch_size: Samples per batch of an attack that is named.
        seed: Likewise.

    Raises:
        TypeError: If the attack needs gradients that the model does not have.
        ValueError: If it leaves all samples as they are.
    """
    order, aimed = norms.check_norm(norm), targets is not None
    plan = resolve(attack, eps=eps, norm=norm, batch_size=batch_size, seed=seed, targeted=aimed)
    if len(plan.attacks) != 1:
        raise ValueError(f"Expected one attack. Received: attack={attack!r}")
    (recipe,) = plan.attacks.values()
    x = np.asarray(x)
    result = recipe.bind(model).run(x, targets if aimed else y)
    assert result.x_adv is not None  # `run` keeps the samples
    low, high = Classifier.of(model).clip_values
    moved = result.x_adv - x
    moved = np.where(np.abs(moved) > _MOVED * (high - low), moved, 0).astype(np.float32)
    if not moved.any():
        raise ValueError(
            f"{recipe.name!r} leaves all {len(x)} samples as they are: there is no direction. "
            f"Received: attack={attack!r}"
        )
    return Directions(
        vectors=np.sign(moved) if order == math.inf else _unit(moved, order),
        labels=result.labels,
        name=recipe.name,
        queries=int(result.queries.sum()),
        gradients=int(result.gradients.sum()),
    )


def orthogonal(
    first: np.ndarray, second: np.ndarray | None, norm: float | str = math.inf, seed: int = 0
) -> np.ndarray:
    """What of a second direction is orthogonal to the first, with length 1 in the norm.

    Args:
        first: Directions `[n, ...]`.
        second: The same shape; None for one drawn at random: in Linf of signs, whose entries are
            all nearly as large as the largest, else of Gaussian variates.
        norm: 1, 2 or inf.
        seed: Seed of the draw.

    Returns:
        float32, the shape of `first`; zero where both lead the same way.

    Raises:
        ValueError: If that is so of all samples.
    """
    order = norms.check_norm(norm)
    if second is None:
        draw = np.random.default_rng(seed)
        second = draw.standard_normal(first.shape)
        if order == math.inf:
            # Signs alone could lead the same way where there are few inputs.
            second = np.sign(second) * draw.uniform(0.9, 1.0, first.shape)
    flat = np.asarray(first, np.float64).reshape(len(first), -1)
    other = np.asarray(second, np.float64).reshape(flat.shape)
    square = np.maximum((flat**2).sum(axis=1, keepdims=True), norms.TINY)
    rest = other - (other * flat).sum(axis=1, keepdims=True) / square * flat
    left = np.linalg.norm(rest, axis=1, keepdims=True)
    rest[(left <= _PARALLEL * np.linalg.norm(other, axis=1, keepdims=True))[:, 0]] = 0.0
    if not rest.any():
        raise ValueError(
            "Expected a second direction that leads elsewhere than the first. Received: two that "
            f"are parallel, for all {len(flat)} samples"
        )
    return _unit(rest.reshape(first.shape).astype(np.float32), order)


def _unit(vectors: np.ndarray, order: float) -> np.ndarray:
    return np.asarray(norms.normalize(tf.constant(vectors), order))


def _named(models: Any) -> dict[str, Any]:
    if not isinstance(models, Mapping):
        inner = Classifier.of(models).model
        return {str(getattr(inner, "name", "model")): models}
    if not models:
        raise ValueError(f"Expected at least one model. Received: models={models!r}")
    return {str(name): model for name, model in models.items()}


def _span(name: str, span: Any, eps: float, points: int) -> np.ndarray:
    low, high = (-2 * eps, 2 * eps) if span is None else span
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"`{name}` must be a least and a largest length. Received: {name}={span!r}"
        )
    return np.linspace(low, high, check_int("points", points, 2))


def _axis(axis: Any) -> np.ndarray:
    lengths = np.asarray(axis, np.float64)
    if lengths.ndim != 1 or len(lengths) < 2 or not (np.diff(lengths) > 0).all():
        raise ValueError(
            "An axis must be two or more increasing lengths. "
            f"Received: axes with an array of shape {lengths.shape}"
        )
    return lengths


def _direction(direction: Any, x: np.ndarray) -> np.ndarray:
    array = np.asarray(direction, np.float32)
    if array.shape not in (x.shape, x.shape[1:]) or not np.isfinite(array).all():
        raise ValueError(
            f"A direction must be finite and of shape {x.shape} or {x.shape[1:]}. "
            f"Received: directions with an array of shape {array.shape}"
        )
    return np.broadcast_to(array, x.shape)


def _other_class(model: Any, x: Any, y: Any, found: np.ndarray) -> np.ndarray:
    """The likeliest class but the true one and the one that was found."""
    classifier = Classifier.of(model)
    x = classifier.check(np.asarray(x))
    y = check_labels(np.asarray(y), len(x), classifier.known_classes)
    scores = classifier.predict(x)
    if scores.shape[1] < 3:
        raise ValueError(
            "Of two classes there is no other one than the true one and the one that was found. "
            "Received: second='class'"
        )
    rows = np.arange(len(x))
    scores[rows, y] = scores[rows, found] = -np.inf
    return scores.argmax(axis=1)


def _paid(
    surface: Surface, eps: float, names: tuple[str, ...], parts: Sequence[Directions]
) -> Surface:
    return dataclasses.replace(
        surface,
        eps=eps,
        names=names,
        queries=surface.queries + sum(part.queries for part in parts),
        gradients=sum(part.gradients for part in parts),
    )
