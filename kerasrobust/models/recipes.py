"""The recipes of the documents, by name: `get("areb")`, `get("areb:epochs=3,batch_size=64")`.

What a document prints is in the table of the guide (docs/training.md), and so is what it leaves
open and what is taken there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from kerasrobust.models.recipe import Recipe
from kerasrobust.specs import is_description, near_match, parse_spec

# AREB's images went through Keras's ImageDataGenerator, whose shear is in degrees and whose borders
# repeat the nearest pixel. What it does in one interpolation these layers do in four.
_SHEAR = math.tan(math.radians(0.1))
_AREB: dict[str, Any] = {
    "batch_size": 32,
    "optimizer": "adam",
    "schedule": "plateau:patience=5",
    "early_stopping": 10,
}


def _generator(degrees: float, shift: float) -> tuple[str, ...]:
    nearest = "fill_mode=nearest"
    return (
        f"RandomRotation:factor={degrees}/360,{nearest}",
        f"RandomTranslation:height_factor={shift},width_factor={shift},{nearest}",
        f"RandomShear:x_factor={_SHEAR:.6f},{nearest}",
        f"RandomZoom:height_factor=0.1,width_factor=0.1,{nearest}",
        "RandomFlip:mode=horizontal",
    )


PRESETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "areb_mnist": {**_AREB, "epochs": 30, "augment": _generator(20, 0.1)},
    "areb_cifar10": {**_AREB, "epochs": 100, "augment": _generator(30, 0.15)},
    "e2sad_mnist": {"steps": 30000, "batch_size": 256, "schedule": "constant"},
    "e2sad_svhn": {
        "epochs": 20,
        "batch_size": 256,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "schedule": "constant",
        "standardize": True,
    },
    "nsloss_mnist": {
        "epochs": 20,
        "batch_size": 128,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "schedule": "constant",
    },
    "nsloss_cifar10": {
        "epochs": 100,
        "batch_size": 128,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "schedule": "constant",
    },
    "brelu_gda": {},
    "gea": {},
}
# For grey images, and for those in colour.
_BY_IMAGES = {
    "areb": ("areb_mnist", "areb_cifar10"),
    "e2sad": ("e2sad_mnist", "e2sad_svhn"),
    "nsloss": ("nsloss_mnist", "nsloss_cifar10"),
}


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted([*PRESETS, *_BY_IMAGES])


def get(
    recipe: Any = None, input_shape: Sequence[int | None] = (28, 28, 1), /, **changes: Any
) -> Recipe:
    """A recipe from its name, its description or itself.

    `"areb"`, `"e2sad"` and `"nsloss"` are what their document did with MNIST, or with CIFAR-10 or
    SVHN where the images are in colour. What is changed counts instead of what the document says.

    - `"plain"`: as `Recipe` is by default: Adam at 0.001, cosine decay to zero, batches of 64.
    - `"areb_mnist"`, `"areb_cifar10"` (AREB, appendix A): 30 and 100 epochs, batches of 32, Adam,
      learning-rate decay and early stopping by callbacks; rotation by 20 and 30 degrees, shifts by
      0.1 and 0.15, shear 0.1, zoom 0.1, horizontal flip. Not given, and taken: Adam's rate
      (Keras's 0.001), the decay (a tenth after 5 epochs without a lower validation loss), the
      patience (10 epochs, then the weights of the best).
    - `"e2sad_mnist"` (E2SAD, section 3.3.1): 30,000 steps, batches of 256. Not given, and taken
      from its SVHN: Adam at 0.001, constant.
    - `"e2sad_svhn"` (E2SAD, section 3.3.2): 20 epochs, batches of 256, Adam at 0.001, each image
      less its mean and divided by its standard deviation. Not given: a decay; the rate is constant.
      That pixels are "within [-1, 1]" then is not so; nothing is done about it.
    - `"nsloss_mnist"`, `"nsloss_cifar10"` (NSLOSS, section IV-B): 20 and 100 epochs, from a trained
      network on, Adam at 0.0001. Not given: the batch (128, as in the Keras example whose network
      it takes) and a decay (the rate is constant).
    - `"brelu_gda"`, `"gea"`: their documents give neither batch, epochs, optimizer nor rate; these
      are `"plain"`. GEA has balanced classes: `kerasrobust.datasets.load(..., balanced=True)`.

    Args:
        recipe: A name, a name with fields of `Recipe` (`"areb:epochs=3"`), fields alone
            (`"epochs=3,schedule=constant"`), a description, or a `Recipe`. Default: `"plain"`.
        input_shape: (height, width, channels) of the images, with the batch in front or without.
            Default (28, 28, 1).
        **changes: Fields of `Recipe`; None leaves a field as it is.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: For an unknown name, or a value out of range.
        TypeError: If `recipe` is of another type, or has no such field.

    Example:
        >>> get("nsloss", (32, 32, 3), batch_size=64).epochs
        100
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    if recipe is None:
        recipe = "plain"
    if isinstance(recipe, Recipe):
        fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
    else:
        name, own = _parsed(recipe)
        if name in _BY_IMAGES:
            name = _BY_IMAGES[name][(input_shape[-1] or 1) > 1]
        if name not in PRESETS:
            raise ValueError(
                f"Unknown recipe. {near_match(name, names())} Received: recipe={recipe!r}"
            )
        fields = _changed(PRESETS[name], own)
    return Recipe(**_changed(fields, changes))


def _parsed(recipe: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(recipe, str):
        fields_alone = "=" in recipe and ":" not in recipe.partition("=")[0]
        return parse_spec(f"plain:{recipe}" if fields_alone else recipe)
    if is_description(recipe):
        return recipe["name"], dict(recipe.get("config") or {})
    raise TypeError(
        f"Expected a recipe as a name, a description or a Recipe. Received: recipe={recipe!r}"
    )


def _changed(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(Recipe)]
    unknown = [f"{key}={value!r}" for key, value in changes.items() if key not in known]
    if unknown:
        raise TypeError(
            f"The fields of a recipe are {', '.join(known)}. Received: {', '.join(unknown)}"
        )
    fields = dict(fields)
    # One length in the place of the other.
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if changes.get(one) is not None and other not in changes:
            fields.pop(other, None)
    return {**fields, **changes}
