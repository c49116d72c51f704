"""Checks of arguments and data, each before any work; each returns the value in its plain type."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import numpy as np

# Grey, colour, colour with transparency.
_CHANNELS = (1, 3, 4)
# How far labels that are distributions may be from adding up to 1.
ROW_TOLERANCE = 1e-3
ROWS_MESSAGE = (
    "Rows of a two-dimensional `y` must be one-hot, or probabilities that add up to 1. "
    "Received: y with sums of rows in"
)


# What counts in a graph are 32 bits.
LARGEST = 2**31 - 1

# Samples of a batch where nobody says how many, and the numbers that they hold at most; the numbers
# of a pass that is not differentiated and so keeps nothing, or of what is read at once.
USUAL_BATCH, VALUES_PER_BATCH, VALUES_PER_PASS = 128, 2**22, 2**24


def check_int(name: str, value: Any, low: int, high: int | None = LARGEST) -> int:
    """An integer of at least `low` and at most `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"`{name}` must be an integer >= {low}. Received: {name}={value!r}")
    if high is not None and value > high:
        raise ValueError(f"`{name}` must be an integer <= {high}. Received: {name}={value!r}")
    return int(value)


def check_float(
    name: str, value: Any, low: float = 0.0, *, above: bool = False, below: float | None = None
) -> float:
    """A finite number of at least (or, with `above`, more than) `low`, and less than `below`."""
    good = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value < low or (above and value == low):
        sign = ">" if above else ">="
        raise ValueError(f"`{name}` must be a number {sign} {low:g}. Received: {name}={value!r}")
    if below is not None and value >= below:
        raise ValueError(f"`{name}` must be a number < {below:g}. Received: {name}={value!r}")
    return float(value)


def check_batch_size(value: Any, sample_shape: Any, name: str = "batch_size") -> int:
    """Samples per batch: as many as are asked for, else 128, or fewer of large ones.

    A gradient keeps what all layers made of a batch, which grows with the number of its values. By
    default they are 2^22 at most: 27 images of 224x224x3.

    Args:
        value: An integer >= 1; None for the default.
        sample_shape: Shape of one sample; None, whole or in it, where it is not known.
        name: Of the argument.
    """
    if value is not None:
        return check_int(name, value, 1)
    return fitting(USUAL_BATCH, sample_shape, VALUES_PER_BATCH)


def channel_axis(shape: tuple[int | None, ...]) -> int | None:
    """The axis of an image's channels, 0 or 2, which come first or last.

    It is the one beside two equal axes, or the one of 1, 3 or 4 entries; the last of three equal
    ones.

    Args:
        shape: Of one sample, of three axes.

    Returns:
        None where both places would do.
    """
    first, middle, last = shape
    if first == last:
        return 2
    if middle is not None and middle in (first, last):  # a square image
        return 2 if middle == first else 0
    usual = [axis for axis in (0, 2) if shape[axis] in _CHANNELS]
    return usual[0] if len(usual) == 1 else None


def check_images(who: str, shape: tuple[int | None, ...] | None) -> None:
    """Refuses the shape of a sample that is no image's; None, not known yet, passes.

    Args:
        who: Needs images.
        shape: Of one sample.
    """
    if shape is not None and len(shape) != 3:
        raise ValueError(
            f"{who} needs images [height, width, channels]. Received: samples of shape {shape}"
        )


def channels_last(x: np.ndarray) -> np.ndarray:
    """Images `[n, ...]` with their channels last: as they are but where they are clearly first."""
    return np.moveaxis(x, 1, -1) if channel_axis(x.shape[1:]) == 0 else x


def fitting(most: int, sample_shape: Any, values: int) -> int:
    """As many samples as hold `values` numbers, but one at least and `most` at most."""
    if sample_shape is None or None in sample_shape:
        return most
    return max(1, min(most, values // max(1, math.prod(sample_shape))))


def check_bounds(clip_values: Any) -> tuple[float, float]:
    """The smallest and the largest valid pixel."""
    try:
        bounds = [np.asarray(value, np.float64) for value in clip_values]
    except (TypeError, ValueError):
        bounds = []
    if len(bounds) == 2 and any(np.ptp(bound) > 0 for bound in bounds):
        raise ValueError(
            "`clip_values` must be the same for all input values, since a budget is one length for "
            "all of them: scale each to 0..1 in the first layer of the model. "
            f"Received: clip_values={clip_values!r}"
        )
    low, high = (float(bound.flat[0]) for bound in bounds) if len(bounds) == 2 else (math.nan,) * 2
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "`clip_values` must be two finite numbers, the smallest and the largest valid pixel. "
            f"Received: clip_values={clip_values!r}"
        )
    return low, high


def check_preprocessing(value: Any) -> tuple[Any, Any] | None:
    """Mean and standard deviation as floats or nested tuples of them; None for neither."""
    if value is None:
        return None
    try:
        mean, deviation = (np.asarray(part, np.float64) for part in value)
    except (TypeError, ValueError):
        mean, deviation = np.array(math.nan), np.array(math.nan)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
        raise ValueError(
            "`preprocessing` must be mean and standard deviation, (mean, std): finite numbers or "
            f"arrays of them, the second above 0. Received: preprocessing={value!r}"
        )
    return _tuples(mean.tolist()), _tuples(deviation.tolist())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def check_length(
    name: str,
    value: Any,
    clip_values: tuple[float, float],
    norm: float = math.inf,
    features: int | None = None,
    usual: float | None = None,
) -> None:
    """Refuses a length, or several, that cannot be in the unit of the inputs.

    None is longer than the diagonal of the box. Beside grey levels none is shorter than half a
    level, which is the shortest change of an image in any norm.

    Args:
        name: Of the argument.
        value: A number, or several; the sign does not matter.
        clip_values: The box.
        norm: Norm of the length.
        features: Values of a sample, where that is known.
        usual: What is usual, as a share of the width of the box: lengths that are commonly much
            shorter than half a grey level may be so.
    """
    largest, span = float(np.max(np.abs(value))), clip_values[1] - clip_values[0]
    diagonal = math.inf
    if norm == math.inf or norm < 1:
        diagonal = span
    elif features is not None:
        diagonal = span * features ** (1 / norm)
    shortest = span * min(1 / 500, math.inf if usual is None else usual / 10)
    # Room for the rounding of a diagonal that is given.
    if largest > diagonal * (1 + 1e-6) or (span > 2 and 0 < largest < shortest):
        raise ValueError(
            f"`{name}` does not fit inputs in {clip_values}: it is in the unit of the inputs. "
            f"Received: {name}={value!r}"
        )


def check_scale(x: np.ndarray, clip_values: tuple[float, float]) -> None:
    """Refuses values in 0..1 where the bounds are those of grey levels."""
    low, high = clip_values
    if high - low <= 100:
        return
    least, most = float(x.min()), float(x.max())
    if least >= 0 and 0 < most <= 1 and bool((x % 1).any()):
        raise ValueError(
            f"`x` looks like values in 0..1, the bounds are clip_values=({low:g}, {high:g}): scale "
            "the samples, or give other bounds (--clip-min, --clip-max). "
            f"Received: values from {least:g} to {most:g}"
        )


def check_size(name: str, value: Any) -> float | np.ndarray:
    """A non-negative number, or an array of one per sample: `[n]`, or `[n, 1, ...]`."""
    if np.ndim(value) == 0:
        return check_float(name, value)
    values = np.asarray(value)
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"`{name}` must hold finite numbers >= 0. Received: {name}={value!r}")
    if any(size != 1 for size in values.shape[1:]):
        raise ValueError(
            f"`{name}` must be one number or one per sample, of shape (n,) or (n, 1, ...): each "
            "has one budget for all of its values; a `mask` says which of them may change. "
            f"Received: {name} of shape {values.shape}"
        )
    return values.astype(np.float32)


def check_folder(name: str, value: str | os.PathLike[str]) -> pathlib.Path:
    """A folder of this machine, which need not be there yet.

    Raises:
        ValueError: If it is a URL, which would become a path.
        NotADirectoryError: If it is a file.
    """
    if "://" in os.fspath(value):
        raise ValueError(f"`{name}` must be a folder of this machine. Received: {name}={value!r}")
    path = pathlib.Path(value)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"`{name}` must be a folder. Received: {name}={value!r}")
    return path


def check_bool(name: str, value: Any) -> bool:
    """A bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def check_labels(y: np.ndarray, n: int, nb_classes: int | None) -> np.ndarray:
    """int64 labels `[n]` from integers `[n]`, `[n, 1]` or one-hot rows `[n, classes]`.

    Raises:
        ValueError: If shape or values are none of these.
    """
    received = f"Received: y of shape {y.shape} and dtype {y.dtype}"
    if y.dtype.kind not in "fiub" or y.ndim not in (1, 2) or len(y) != n:
        raise ValueError(f"`y` must be {n} integer labels or one-hot rows. {received}")
    if y.ndim == 2 and y.shape[1] > 1:
        if nb_classes is not None and y.shape[1] != nb_classes:
            raise ValueError(f"One-hot `y` must have {nb_classes} columns. {received}")
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise ValueError(
                "Rows of a two-dimensional `y` must be one-hot: an attack leaves or reaches one "
                f"class. Of soft labels give `y.argmax(axis=1)`. {received}"
            )
        return y.argmax(axis=1)
    y = y.reshape(-1)
    if not np.isfinite(y).all() or (y != np.round(y)).any():
        raise ValueError(f"`y` must hold integer labels. {received}")
    y = y.astype(np.int64)
    if y.min() < 0 or (nb_classes is not None and y.max() >= nb_classes):
        limit = "" if nb_classes is None else f" to {nb_classes - 1}"
        raise ValueError(
            f"Labels must be integers from 0{limit}. Received: labels from {y.min()} to {y.max()}"
        )
    return y


def check_rows(y: np.ndarray) -> None:
    """Refuses rows of labels `[n, classes]` that are no distribution, several classes at once say.

    Raises:
        ValueError: If a row has negative entries or does not add up to 1.
    """
    if y.ndim != 2 or y.shape[1] == 1 or y.dtype.kind not in "fiub":
        return
    sums = y.sum(axis=1, dtype=np.float64)
    if len(y) and not ((np.abs(sums - 1) <= ROW_TOLERANCE).all() and (y >= 0).all()):
        raise ValueError(f"{ROWS_MESSAGE} [{sums.min():g}, {sums.max():g}]")


def check_finite_scores(
    confidence: np.ndarray, who: str = "The model", samples: str = "clean samples"
) -> None:
    """Refuses the answers of a model whose scores are broken.

    Args:
        confidence: Probabilities of the labels, `[n]`.
        who: Whose they are, in the message.
        samples: What they are of, likewise.

    Raises:
        ValueError: If one is not finite: its label is no answer.
    """
    broken = int((~np.isfinite(confidence)).sum())
    if broken:
        raise ValueError(
            f"{who} must return finite scores. Received: NaN or infinite scores for {broken} of "
            f"{len(confidence)} {samples}"
        )


def check_mask(mask: Any, x: np.ndarray) -> np.ndarray:
    """float32 mask of 0 and 1, of the shape of `x`."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "fiub" or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            "`mask` must hold zeros and ones only: a value may change or it may not. Give "
            "`mask != 0` for wherever it may. Received: other values"
        )
    try:
        return np.broadcast_to(mask, x.shape).astype(np.float32)
    except ValueError:
        raise ValueError(
            f"`mask` must have the shape {x.shape} or {x.shape[1:]}. "
            f"Received: mask of shape {mask.shape}"
        ) from None


def check_per_sample(
    name: str, value: Any, n: int, sample_shape: tuple[int, ...] = ()
) -> np.ndarray:
    """float32 `[n]` from a number or one value per sample.

    NumPy would broadcast an array of shape `(n,)` along the last axis of the samples: where that is
    as long as there are samples, what is meant cannot be told.

    Args:
        name: Of the argument.
        value: A number, or an array of shape `(n,)` or `(n, 1, ...)`.
        n: Number of samples.
        sample_shape: Shape of one.
    """
    values = np.asarray(value, np.float32)
    ambiguous = len(sample_shape) > 1 and sample_shape[-1] == n > 1
    if values.ndim == 1 and values.size == n and ambiguous and np.ptp(values) > 0:
        raise ValueError(
            f"`{name}` must say whether it is one per sample, by the shape ({n}, 1): as many as "
            "there are samples, its values may be meant for the last axis as well. "
            f"Received: {name} of shape {values.shape} beside samples of shape {sample_shape}"
        )
    values = values.reshape(-1)
    if len(values) not in (1, n):
        raise ValueError(
            f"`{name}` must be one number or one per sample ({n}). Received: {len(values)} values"
        )
    return np.broadcast_to(values, (n,)).copy()
