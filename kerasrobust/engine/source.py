"""Samples and labels, batch by batch, the same in every pass."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust.checks import check_labels
from kerasrobust.engine.classifier import Classifier


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
    """Samples and labels as arrays, or a `tf.data.Dataset` that is never whole in memory.

    A data set is read anew for each pass. All passes must give the same samples in the same order;
    one that shuffles anew each time is an error, found at the end of the second pass.

    Args:
        x: Samples `[n, ...]`, or a finite `tf.data.Dataset` of `x` or `(x, y)`, batched or not.
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
        self.streams = isinstance(x, tf.data.Dataset)
        if not self.streams:
            self._x = classifier.check(np.asarray(x))
            self._y = None if y is None else self._labels(np.asarray(y), len(self._x))
            self._length = len(self._x)
            self.has_labels = y is not None
            return
        if y is not None:
            raise ValueError(
                "Labels must come with the data set, as (x, y). Received: a tf.data.Dataset and y"
            )
        self._data, self.has_labels = _batched(x, classifier)

    def _labels(self, y: np.ndarray, n: int) -> np.ndarray:
        # How many classes a callable has is known after its first call.
        return check_labels(y, n, self.classifier.known_classes)

    def __len__(self) -> int:
        """Number of samples; of a data set known after the first pass."""
        if self._length is None:
            for _ in self.blocks(1024):
                pass
        assert self._length is not None
        return self._length

    @property
    def fingerprint(self) -> str:
        """Hash of all samples and labels, whatever the size of the blocks."""
        if self._fingerprint is None:
            for _ in self.blocks(1024):
                pass
        assert self._fingerprint is not None
        return self._fingerprint

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
        for x, y in _rebatched(self._data.as_numpy_iterator(), size, self.has_labels):
            x = self.classifier.check(x)
            labels = None if y is None else self._labels(y, len(x))
            _digest(digest, x, labels)
            yield Block(index, first, x, labels)
            first, index = first + len(x), index + 1
        self._finished(digest.hexdigest(), first)

    def _finished(self, fingerprint: str, length: int) -> None:
        if not length:
            raise ValueError("A tf.data.Dataset must hold samples. Received: an empty one")
        if self._fingerprint not in (None, fingerprint):
            raise ValueError(
                "A tf.data.Dataset must give the same samples in the same order each time it is "
                "read: leave out `shuffle`, or give it a seed and `reshuffle_each_iteration=False`."
                " Received: one that does not"
            )
        self._fingerprint, self._length = fingerprint, length

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample as far as it is known before the first pass."""
        if not self.streams:
            return self._x.shape[1:]
        form = self._data.element_spec
        return tuple((form[0] if isinstance(form, tuple) else form).shape[1:])

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

    def whole(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All samples and labels, in memory."""
        blocks = list(self.blocks(1024))
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
        for block in self.blocks(1024):
            for place in wanted & set(range(block.rows.start, block.rows.stop)):
                found[place] = block.x[place - block.first]
        return np.stack([found[place] for place in rows.tolist()])


def _digest(digest: Any, x: np.ndarray, y: np.ndarray | None) -> Any:
    """Adds samples to a hash one by one, so that it does not depend on where blocks end."""
    for row in range(len(x)):
        digest.update(np.ascontiguousarray(x[row]).tobytes())
        digest.update(b"" if y is None else int(y[row]).to_bytes(8, "little"))
    return digest


def _batched(data: tf.data.Dataset, classifier: Classifier) -> tuple[tf.data.Dataset, bool]:
    """The data set in batches, and whether it has labels.

    Raises:
        ValueError: If its elements are neither `x` nor `(x, y)`, or it never ends.
    """
    form = data.element_spec
    parts = form if isinstance(form, tuple) else (form,)
    if len(parts) > 2 or not all(isinstance(part, tf.TensorSpec) for part in parts):
        raise ValueError(
            f"A tf.data.Dataset must give `x` or `(x, y)`. Received: element_spec={form!r}"
        )
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "A tf.data.Dataset must end: leave out `repeat()`, or use `take(n)`. "
            "Received: one that repeats for ever"
        )
    shape = classifier.input_shape
    if shape is not None and parts[0].shape.rank == len(shape):
        data = data.batch(256)
    elif parts[0].shape.rank == 0 or (len(parts) == 2 and parts[1].shape.rank == 0):
        raise ValueError(
            "A tf.data.Dataset must give batches of `x` or `(x, y)` where the model does not say "
            f"what shape a sample has. Received: element_spec={form!r}"
        )
    return data, len(parts) == 2


def _rebatched(
    parts: Iterator[Any], size: int, labelled: bool
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Batches of any size as batches of one size."""
    held: list[tuple[np.ndarray, ...]] = []
    count = 0
    for part in parts:
        held.append(part if labelled else ((part[0] if isinstance(part, tuple) else part),))
        count += len(held[-1][0])
        while count >= size:
            columns = [np.concatenate(column) for column in zip(*held, strict=True)]
            yield columns[0][:size], columns[1][:size] if labelled else None
            count -= size
            held = [tuple(column[size:] for column in columns)] if count else []
    if count:
        columns = [np.concatenate(column) for column in zip(*held, strict=True)]
        yield columns[0], columns[1] if labelled else None
