"""wrap, unwrap: defenses by name."""

from __future__ import annotations

from typing import Any

import keras

from kerasrobust.checks import check_bounds
from kerasrobust.defenses import registry
from kerasrobust.defenses.decision.base import DecisionDefense
from kerasrobust.defenses.layers.base import LayerDefense
from kerasrobust.defenses.layers.preprocessing import Preprocessing, in_front, taken_apart
from kerasrobust.defenses.robust_model import RobustModel
from kerasrobust.defenses.training.base import TrainingDefense, check_chain
from kerasrobust.engine.pixel_range import default_bounds


def wrap(
    model: keras.Model,
    defense: Any,
    *,
    clip_values: tuple[float, float] | None = None,
    seed: int | None = None,
    **config: Any,
) -> RobustModel | DecisionDefense:
    """A model that defends itself: compile, fit, evaluate, save and load it as usual.

    Training defenses share the given model, which they train; nothing else about it changes.
    Layer defenses inside it (``"brelu"``) put a rebuilt copy of it, with copied weights, in its
    place and leave the given one alone. Those in front of it (``"jpeg"``) share it. A decision
    defense (``"randomized_smoothing"``), one at most, comes around the whole, answers in its place,
    and is not trained.

    Wrapping a wrapped model adds to it: the result is one `RobustModel`, never one inside another.
    It has to be compiled (again), and counts its steps
    from zero. What its defenses had made for the given model, a teacher say, goes with it, but not
    where a layer defense puts a copy in that model's place.

    The order in which defenses are named matters for layers in front of the model only: images go
    through them in this order. Layers that are added to a wrapped model come before its own.

    Args:
        model: A built `keras.Model` with one input and one output `[batch, classes]`.
        defense: A name (``"gda"``), ``"gda:N=5,sigma=0.1"``, ``{"name": ..., "config": {...}}``,
            an instance, or a list of any of these.
        clip_values: Smallest and largest valid input value; saved with the model. Default: what
            a wrapped `model` has, else (0, 1), unless its first layers expect another range.
            Lengths that a defense is not given are scaled to it.
        seed: Seed of what the defenses draw. Default: what a wrapped `model` has, else 0.
        **config: Arguments of the defense, where `defense` is a single one.

    Returns:
        The wrapped model.

    Raises:
        TypeError: If `model` or `defense` is of the wrong type, or an argument does not exist.
        ValueError: If a name is unknown, an argument is out of range, defenses do not go together,
            a layer defense finds no place in the model, or a layer has other bounds.

    Example:
        >>> model = kerasrobust.wrap(model, defense="gda", sigma=0.1)
        >>> model = kerasrobust.wrap(model, defense=["brelu", "adversarial_training"])
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if isinstance(model, DecisionDefense):
        raise ValueError(
            "A decision defense is the last one around a model: wrap `model.base`. "
            f"Received: model={model.name!r}, {type(model).__name__}"
        )
    defenses = resolve(defense, **config)
    decisions = [one for one in defenses if isinstance(one, DecisionDefense)]
    if decisions:
        rest = [one for one in defenses if one not in decisions]
        inside = wrap(model, rest, clip_values=clip_values, seed=seed) if rest else model
        return decisions[0].bind(inside, clip_values, seed)
    links: list[TrainingDefense] = []
    base: keras.Model = model
    if isinstance(model, RobustModel):
        links = list(model.defenses)
        base = model.base
        clip_values = model.clip_values if clip_values is None else clip_values
        seed = model.seed if seed is None else seed
    own, inner = taken_apart(base)
    fronts = [one for one in defenses if isinstance(one, Preprocessing)]
    changed = inner
    for one in defenses:
        if isinstance(one, LayerDefense) and one not in fronts:
            with inner.distribute_strategy.scope():
                changed = one.rebuild(changed)
        elif isinstance(one, TrainingDefense):
            links.append(one)
    if fronts or changed is not inner:
        base = changed
    if fronts or (own and changed is not inner):
        if not inner.built:
            raise ValueError(
                "The model must be built: give it an Input layer or call it on a batch once. "
                f"Received: base={inner.name!r}, not built"
            )
        if clip_values is None:
            clip_values = own[0].bounds if own else default_bounds(inner)
        with inner.distribute_strategy.scope():
            base = in_front([*fronts, *own], changed, check_bounds(clip_values))
    wrapped = RobustModel(base, links, clip_values=clip_values, seed=seed)
    if isinstance(model, RobustModel) and base is model.base:
        wrapped.inherit(model)
    return wrapped


def resolve(defense: Any, **config: Any) -> list[registry.Defense]:
    """The defenses that `wrap` would use, before there is a model.

    Args:
        defense: As in `wrap`.
        **config: As in `wrap`.

    Raises:
        TypeError: If `defense` is of the wrong type, or an argument does not exist.
        ValueError: If a name is unknown, an argument is out of range, or defenses do not go
            together.
    """
    if isinstance(defense, (list, tuple)):
        if config:
            raise TypeError(
                "Arguments beside a list of defenses belong to none of them; write "
                f"'name:key=value'. Received: {', '.join(config)}"
            )
        if not defense:
            raise ValueError("At least one defense is needed. Received: defense=[]")
        defenses = [registry.get(one) for one in defense]
    else:
        defenses = [registry.get(defense, **config)]
    check_chain([one for one in defenses if isinstance(one, TrainingDefense)])
    decisions = [one for one in defenses if isinstance(one, DecisionDefense)]
    if len(decisions) > 1:
        raise ValueError(
            "A decision defense is the last one around a model, and there is one of them. "
            f"Received: {' and '.join(type(one).__name__ for one in decisions)}"
        )
    return defenses


def unwrap(model: keras.Model) -> keras.Model:
    """The bare model: what serves, without what only training needs.

    It is the model itself, not a copy. Layer defenses inside it are part of it and stay; those in
    front of it (``"jpeg"``) go, and with them what they did to its inputs: `RobustModel.base` has
    them, and is what `export` writes. A model that is not wrapped is returned as it is.

    Args:
        model: A `keras.Model`, wrapped or not.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if isinstance(model, DecisionDefense):
        model = model.bound
    return taken_apart(model.base)[1] if isinstance(model, RobustModel) else model
