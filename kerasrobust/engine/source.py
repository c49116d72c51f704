"""Samples and labels, batch by batch, the same in every pass."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust.checks import VALUES_PER_PASS, check_labels, fitting
from kerasrobust.engine.classifier import Classifier

# Samples of a block that are only looked at.
LOOKED_AT = 1024
# Samples read in one go from data that come one by one.
READ_AT_ONCE = 256
# Data of unknown size that have given more do not end, it is assumed.
MOST_SAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Block:
    """Neighbouring samples.

    Attributes:
        index: Number of the block.
        first: Place of its first sample among all.
        x: float32 `[rows, ...]`, checked.
        y: int64 labels `[rows]`, or None.
    """

    index: int
    first: int
    x: np.ndarray
    y: np.ndarray | None

    @property
    def rows(self) -> slice:
        """Places of its samples among all."""
        return slice(self.first, self.first + len(self.x))


class Source:
    """Samples and labels as arrays, or as data in batches that are never whole in memory.

    A data set is read anew for each pass. All passes must give the same samples in the same order;
    one that shuffles anew each time is an error, found at the end of the second pass.

    Args:
        x: Samples `[n, ...]`, a finite `tf.data.Dataset` of `x` or `(x, y)`, batched or not, or a
            `keras.utils.PyDataset`.
        y: Labels, integers `[n]` or one-hot `[n, classes]`; None where `x` holds them or there are
            none.
        classifier: The model that the samples are for.
        mask: Where samples may change, shape of `x`; only beside arrays.

    Raises:
        TypeError, ValueError: If samples or labels do not fit the model: of arrays at once, of a
            data set during the first pass.
    """

    def __init__(self, x: Any, y: Any, classifier: Classifier, mask: np.ndarray | None = None):
        self.classifier = classifier
        self.mask = mask
        self._fingerprint: str | None = None
        self._length: int | None = None
        # Number of the next block, size of blocks, and the pass that gives them.
        self._reading: tuple[int, int, Iterator[Block]] | None = None
        self._kept: np.ndarray | None = None
        self.streams = is_stream(x)
        if not self.streams:
            self._x = classifier.check(np.asarray(x))
            self._y = None if y is None else self._labels(np.asarray(y), len(self._x))
            self._length = len(self._x)
            self.has_labels = y is not None
            return
        if y is not None:
            raise ValueError(
                f"Labels must come with the data, as (x, y). Received: {_name(x)} and y"
            )
        self._data = _Batches(x, classifier.input_shape)
        self.has_labels = self._data.labelled

    def _labels(self, y: np.ndarray, n: int) -> np.ndarray:
        # How many classes a callable has is known after its first call.
        return check_labels(y, n, self.classifier.known_classes)

    def __len__(self) -> int:
        """Number of samples; of a data set known after the first pass."""
        if self._length is None:
            for _ in self.blocks(self.at_once):
                pass
        assert self._length is not None
        return self._length

    @property
    def fingerprint(self) -> str:
        """Hash of all samples and labels, whatever the size of the blocks."""
        if self._fingerprint is None:
            for _ in self.blocks(self.at_once):
                pass
        assert self._fingerprint is not None
        return self._fingerprint

    def keep(self, rows: np.ndarray) -> None:
        """Leaves out all other samples from here on.

        Args:
            rows: bool `[n]`.
        """
        self._fingerprint, self._reading, self._length = None, None, int(rows.sum())
        if self.streams:
            self._kept = rows
            return
        self._x = self._x[rows]
        self._y = None if self._y is None else self._y[rows]

    def blocks(self, size: int) -> Iterator[Block]:
        """All samples in order, in blocks of one size, the last one maybe smaller."""
        if not self.streams:
            for index, first in enumerate(range(0, len(self._x), size)):
                rows = slice(first, first + size)
                yield Block(index, first, self._x[rows], None if self._y is None else self._y[rows])
            if self._fingerprint is None:
                self._fingerprint = _digest(hashlib.sha256(), self._x, self._y).hexdigest()
            return
        digest, first, index = hashlib.sha256(), 0, 0
        parts = iter(self._data) if self._kept is None else _only(iter(self._data), self._kept)
        for x, y in _rebatched(parts, size, self.has_labels):
            x = self.classifier.check(x)
            labels = None if y is None else self._labels(y, len(x))
            _digest(digest, x, labels)
            yield Block(index, first, x, labels)
            first, index = first + len(x), index + 1
        self._finished(digest.hexdigest(), first)

    def _finished(self, fingerprint: str, length: int) -> None:
        if not length:
            raise ValueError(f"{_name(self._data.data)} must hold samples. Received: an empty one")
        if self._fingerprint not in (None, fingerprint):
            raise ValueError(
                f"{_name(self._data.data)} must give the same samples in the same order each time "
                "it is read: leave out `shuffle`, or give it a seed and "
                "`reshuffle_each_iteration=False`. Received: one that does not"
            )
        self._fingerprint, self._length = fingerprint, length

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample as far as it is known before the first pass."""
        if not self.streams:
            return self._x.shape[1:]
        return self._data.sample_shape

    @property
    def at_once(self) -> int:
        """Samples of a block where each of them is only looked at: 1,024, or fewer of large ones.

        Together they hold 2^24 numbers at most: 111 images of 224x224x3.
        """
        return fitting(LOOKED_AT, self.classifier.input_shape, VALUES_PER_PASS)

    def block(self, index: int, size: int) -> Block:
        """One block. Blocks of a data set that are asked for in order are read in one pass."""
        if not self.streams:
            first = index * size
            rows = slice(first, first + size)
            return Block(index, first, self._x[rows], None if self._y is None else self._y[rows])
        if self._reading is None or self._reading[:2] != (index, size):
            self._reading = None
        passing = self.blocks(size) if self._reading is None else self._reading[2]
        block = next(passing)
        while block.index < index:
            block = next(passing)
        self._reading = (index + 1, size, passing)
        if block.rows.stop == len(self):
            next(passing, None)  # the end of the pass: were the samples the same?
            self._reading = None
        return block

    def __getstate__(self) -> dict[str, Any]:
        """All but the samples, which another process is given block by block."""
        len(self), self.fingerprint  # known from here on
        own = ("_x", "_y", "_data", "_reading", "_kept", "mask")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def whole(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All samples and labels, in memory."""
        blocks = list(self.blocks(self.at_once))
        x = np.concatenate([block.x for block in blocks])
        if not self.has_labels:
            return x, None
        return x, np.concatenate([block.y for block in blocks if block.y is not None])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some samples, by their places."""
        if not self.streams:
            return self._x[rows]
        found: dict[int, np.ndarray] = {}
        wanted = set(rows.tolist())
        for block in self.blocks(self.at_once):
            for place in wanted & set(range(block.rows.start, block.rows.stop)):
                found[place] = block.x[place - block.first]
        return np.stack([found[place] for place in rows.tolist()])


def _digest(digest: Any, x: np.ndarray, y: np.ndarray | None) -> Any:
    """Adds samples to a hash one by one, so that it does not depend on where blocks end."""
    for row in range(len(x)):
        digest.update(np.ascontiguousarray(x[row]).tobytes())
        digest.update(b"" if y is None else int(y[row]).to_bytes(8, "little"))
    return digest


def unpack(x: Any, y: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays from arrays, tensors, or batches of `x` or `(x, y)`, then whole in memory.

    Raises:
        TypeError: If they are no arrays of numbers.
        ValueError: If labels come twice, or the data are empty or without end.
    """
    if not is_stream(x):
        return _array("x", x), None if y is None else _array("y", y)
    if y is not None:
        raise ValueError(f"Labels must come with the data, as (x, y). Received: {_name(x)} and y")
    data = _Batches(x, None)
    batches = list(data)
    if not batches:
        raise ValueError(f"{_name(x)} must hold samples. Received: an empty one")
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    return columns[0], columns[1] if data.labelled else None


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array or a tensor. Received: {type(value).__name__} ({error})"
        ) from error


def is_stream(x: Any) -> bool:
    """Whether data come in batches."""
    return isinstance(x, (tf.data.Dataset, keras.utils.PyDataset))


def _name(data: Any) -> str:
    return "A tf.data.Dataset" if isinstance(data, tf.data.Dataset) else "A PyDataset"


class _Batches:
    """A data set as batches `(x,)` or `(x, y)` of arrays, the same ones each time it is read.

    Weights, the third part of an element, are left out.

    Raises:
        ValueError: If its elements are nothing of the kind, or it never ends.
    """

    def __init__(self, data: Any, shape: tuple[int | None, ...] | None):
        self.data = data
        self.sample_shape: tuple[int | None, ...] = ()
        if not isinstance(data, tf.data.Dataset):
            if data.num_batches is None:
                raise ValueError("A PyDataset must end. Received: one without `num_batches`")
            first = data[0]
            self.labelled = isinstance(first, (tuple, list)) and len(first) > 1
            self.sample_shape = np.shape(first[0] if isinstance(first, (tuple, list)) else first)[
                1:
            ]
            return
        form = data.element_spec
        parts = form if isinstance(form, tuple) else (form,)
        if len(parts) > 3 or not all(isinstance(part, tf.TensorSpec) for part in parts):
            raise ValueError(
                "A tf.data.Dataset must give batches of `x` or `(x, y)`. "
                f"Received: a tf.data.Dataset with elements {form}"
            )
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "A tf.data.Dataset must end: leave out `repeat()`, or use `take(n)`. "
                "Received: one that repeats for ever"
            )
        if shape is not None and parts[0].shape.rank == len(shape):
            self.data = data.batch(READ_AT_ONCE)
        elif any(part.shape.rank == 0 for part in parts):
            raise ValueError(
                "A tf.data.Dataset must give batches of `x` or `(x, y)`. "
                f"Received: a tf.data.Dataset with elements {form}"
            )
        self.labelled = len(parts) > 1
        form = self.data.element_spec
        self.sample_shape = tuple((form[0] if isinstance(form, tuple) else form).shape[1:])

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        seen = 0
        tells_size = not isinstance(self.data, tf.data.Dataset) or (
            self.data.cardinality() != tf.data.UNKNOWN_CARDINALITY
        )
        for batch in self._elements():
            columns = batch[:2] if isinstance(batch, (tuple, list)) else (batch,)
            arrays = tuple(np.asarray(column) for column in columns)
            seen += len(arrays[0])
            if seen > MOST_SAMPLES and not tells_size:
                raise ValueError(
                    f"{_name(self.data)} must end: use `take(n)`, or `assert_cardinality` where it "
                    f"does. Received: one of unknown size that has given {seen:,} samples"
                )
            yield arrays

    def _elements(self) -> Iterator[Any]:
        if isinstance(self.data, tf.data.Dataset):
            return self.data.as_numpy_iterator()
        return (self.data[i] for i in range(self.data.num_batches))


def _only(parts: Iterator[Any], rows: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of any size, some samples left out."""
    first = 0
    for part in parts:
        held = rows[first : first + len(part[0])]
        first += len(part[0])
        yield tuple(column[held] for column in part)


def _rebatched(
    parts: Iterator[Any], size: int, labelled: bool
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Batches of any size as batches of one size."""
    held: list[tuple[np.ndarray, ...]] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(held[-1][0])
        while count >= size:
            columns = [np.concatenate(column) for column in zip(*held, strict=True)]
            yield columns[0][:size], columns[1][:size] if labelled else None
            count -= size
            held = [tuple(column[size:] for column in columns)] if count else []
    if count:
        columns = [np.concatenate(column) for column in zip(*held, strict=True)]
        yield columns[0], columns[1] if labelled else None
