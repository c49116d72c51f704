"""Image classification data as NumPy arrays: embedded digits, TFDS names, files, folders.

And points of two coordinates, on which a decision boundary can be drawn.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from kerasrobust.checks import check_bool, check_bounds, check_int

SPLITS = ("train", "test")
# Points of two coordinates, by scikit-learn, and where their middle is.
POINTS = {"circles": (0.0, 0.0), "moons": (0.5, 0.25)}
# Points in each split, and the width of the box in scikit-learn's unit.
_POINTS_EACH, _POINTS_WIDTH = 500, 4.0
# Images that Keras's index of a folder passes over.
_NOT_READ = (".avif", ".heic", ".jfif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels of one split.

    Attributes:
        name: Name of the data set, as an evaluation preset knows it.
        split: "train" or "test", or the TFDS split it was read from.
        x: float32 images [n, height, width, channels], or points [n, 2], within `clip_values`.
        y: int64 labels [n] in 0..nb_classes-1.
        class_names: One name per class.
        clip_values: The bounds (lowest, highest) of a valid pixel.
        indices: int64 [n], the places of the images in the split that they were loaded from; None
            where that is not known.
        available: Number of images of that split; None where it is not known.
    """

    name: str
    split: str
    x: np.ndarray
    y: np.ndarray
    class_names: tuple[str, ...]
    clip_values: tuple[float, float] = (0.0, 1.0)
    indices: np.ndarray | None = None
    available: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def nb_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels), or (2,)."""
        return tuple(self.x.shape[1:])

    def take(self, rows: np.ndarray) -> Dataset:
        """Some of them, by their places here: integers, or bool `[n]`."""
        indices = None if self.indices is None else self.indices[rows]
        return dataclasses.replace(self, x=self.x[rows], y=self.y[rows], indices=indices)


def load(
    name: str | os.PathLike,
    split: str = "test",
    data_dir: str | os.PathLike | None = None,
    samples: int | None = None,
    seed: int = 0,
    *,
    balanced: bool = False,
    clip_values: tuple[float, float] = (0.0, 1.0),
    download: bool = False,
) -> Dataset:
    """Load one split of an image classification data set.

    - `"digits"`: scikit-learn's 8x8 grey digits, 1437 for training and 360 for testing, a fixed
      stratified split. Nothing is downloaded.
    - `"circles"` and `"moons"`: scikit-learn's points of two classes, one around the other or
      interlocked, with noise of 0.05 and 0.1; 500 for training and 500 for testing. The bounds are
      4 apart in scikit-learn's unit: a length of 0.3 there, as in BRELU-GDA, is 0.075 in 0..1.
    - a path ending in `.npz`: the arrays `x_train`, `y_train`, `x_test`, `y_test`, or `x` and `y`,
      which serve as the test split. Images are [n, height, width] or [n, height, width, channels],
      labels integers [n] or [n, 1]. An optional array `class_names` holds one string per class;
      without it the classes are 0 up to the largest label in the file.
    - the path of a folder of images, one folder per class, as
      `keras.utils.image_dataset_from_directory` reads them: `train/cat/1.png`, `test/cat/7.png`,
      and `split` may be any such folder; or `cat/7.png`, which serves as the test split. Classes
      are numbered in the order of their names. All images are of one size, grey or all in colour.
      A bare name is a folder where it is none of TensorFlow Datasets.
    - any other name: TensorFlow Datasets, which must already be prepared in `data_dir` unless
      `download=True`. `split` may be any split of it.

    uint8 images are scaled from 0..255 to `clip_values`; images of floating-point type must lie
    within `clip_values` already and are taken as they are.

    Args:
        name: Name or path, see above.
        split: "test" (default) or "train".
        data_dir: Folder of prepared TFDS data sets. Default: the environment variable
            TFDS_DATA_DIR, else the folder TFDS itself takes.
        samples: Number of samples to draw at random without replacement; they keep the order of
            the data set, and a smaller draw with the same seed is part of a larger one.
            Default: all.
        seed: Seed of that draw, 0 or more. Default 0.
        balanced: Draw equally many of each class, together `samples`; without `samples` as many as
            the smallest class has. Default False.
        clip_values: The bounds of a pixel. Default (0.0, 1.0).
        download: Let TFDS download and prepare what is missing. Default False.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: For an unknown name or split, too many samples, missing arrays, wrong shapes,
            labels out of range, values that are not finite or out of bounds; for a folder without
            images, with a single class, or with images of several sizes.
        FileNotFoundError: For a file or folder that is not there, or TFDS data that are not
            prepared.
        TypeError: For an argument of the wrong type.

    Example:
        >>> test = kerasrobust.datasets.load("digits", samples=100, seed=1)
        >>> test.x.shape
        (100, 8, 8, 1)
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"load expects a name or a path. Received: name={name!r}")
    if not isinstance(split, str):
        raise TypeError(f"load expects split as a string. Received: split={split!r}")
    samples = None if samples is None else check_int("samples", samples, 1)
    seed = check_int("seed", seed, 0, None)
    draw = _Draw(samples, seed, check_bool("balanced", balanced))
    bounds = check_bounds(clip_values)
    text = os.fspath(name)
    if text.lower().endswith(".npz"):
        return _load_npz(Path(text), split, draw, bounds)
    if text == "digits":
        return _load_digits(split, draw, bounds)
    if text in POINTS:
        return _load_points(text, split, draw, bounds)
    if _is_folder(name):
        return _load_folder(Path(text).expanduser(), split, draw, bounds)
    return _load_tfds(text, split, data_dir, draw, bounds, download)


def hold_out(
    data: Dataset, samples: int, seed: int = 0, *, balanced: bool = False
) -> tuple[Dataset, Dataset]:
    """Split samples off at random, to choose by what is neither trained on nor tested on.

    Args:
        data: Samples, a training split say.
        samples: How many to split off, at least 1 and fewer than all. Both parts keep the order.
        seed: Seed of the draw, 0 or more. Default 0.
        balanced: Split off equally many of each class. Default False.

    Returns:
        What is left of `data`, and the part that was split off, its `split` being `"validation"`.

    Raises:
        ValueError: If a number is out of range, or balanced and none that the classes share equally
            and have.

    Example:
        >>> train, validation = hold_out(load("digits", "train"), 200)
    """
    samples, seed = check_int("samples", samples, 1), check_int("seed", seed, 0, None)
    if samples >= len(data):
        raise ValueError(
            f"Expected to hold out fewer samples than the {len(data)} there are. "
            f"Received: samples={samples}"
        )
    held = np.zeros(len(data), bool)
    draw = _Draw(samples, seed, check_bool("balanced", balanced))
    held[draw.rows(data.y, data.name, data.class_names)] = True
    return data.take(~held), dataclasses.replace(data.take(held), split="validation")


@dataclasses.dataclass(frozen=True)
class _Draw:
    """How samples are drawn."""

    samples: int | None
    seed: int
    balanced: bool = False

    @property
    def all(self) -> bool:
        """Whether there is nothing to draw."""
        return self.samples is None and not self.balanced

    def rows(self, labels: np.ndarray, name: str, classes: tuple[str, ...]) -> np.ndarray:
        """Sorted indices of the samples; the labels matter to balanced draws alone."""
        available = len(labels)
        if self.all:
            return np.arange(available)
        if self.samples is not None and self.samples > available:
            raise ValueError(
                f"{name!r} has {available} samples in this split. Received: samples={self.samples}"
            )
        # The head of one permutation makes draws of different size nest.
        order = np.random.default_rng(self.seed).permutation(available)
        if not self.balanced:
            return np.sort(order[: self.samples])
        counts = np.bincount(labels, minlength=len(classes))
        least = int(counts.argmin())
        each = int(counts[least]) if self.samples is None else self.samples // len(classes)
        if self.samples is not None and each * len(classes) != self.samples:
            near = [n * len(classes) for n in (each, each + 1) if n]
            raise ValueError(
                f"Expected a number of samples that the {len(classes)} classes of {name!r} share "
                f"equally, {' or '.join(map(str, near))} say. "
                f"Received: samples={self.samples}, balanced=True"
            )
        if counts[least] < max(each, 1):
            raise ValueError(
                f"Class {classes[least]!r} of {name!r} has {counts[least]} samples in this split, "
                f"too few for {max(each, 1)} of each class. "
                f"Received: samples={self.samples}, balanced=True"
            )
        heads = [order[labels[order] == label][:each] for label in range(len(classes))]
        return np.sort(np.concatenate(heads))


def _scale(images: np.ndarray, bounds: tuple[float, float], out: np.ndarray | None = None):
    """Map 0..255 to the bounds, in float32 and without a wider intermediate copy."""
    low, high = bounds
    out = np.empty(images.shape, np.float32) if out is None else out
    np.divide(images, np.float32(255), out=out, dtype=np.float32)
    if (low, high) != (0.0, 1.0):
        out *= np.float32(high - low)
        out += np.float32(low)
        # low + (high - low) can round past the upper bound.
        np.clip(out, np.float32(low), np.float32(high), out=out)
    return out


def _load_digits(split, draw: _Draw, bounds) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in SPLITS:
        raise ValueError(f"'digits' has the splits {list(SPLITS)}. Received: split={split!r}")
    bunch = load_digits()
    parts = train_test_split(
        np.arange(len(bunch.target)), test_size=360, random_state=0, stratify=bunch.target
    )
    rows = np.sort(parts[SPLITS.index(split)])
    available = len(rows)
    names = tuple(str(label) for label in bunch.target_names)
    places = draw.rows(bunch.target[rows], "digits", names)
    rows = rows[places]
    # Values run from 0 to 16 in steps of one.
    x = _scale(bunch.images[rows, :, :, None] * (255 / 16), bounds)
    y = bunch.target[rows].astype(np.int64)
    return Dataset("digits", split, x, y, names, bounds, places, available)


def _load_points(name: str, split, draw: _Draw, bounds) -> Dataset:
    from sklearn.datasets import make_circles, make_moons

    if split not in SPLITS:
        raise ValueError(f"{name!r} has the splits {list(SPLITS)}. Received: split={split!r}")
    if name == "moons":
        x, y = make_moons(2 * _POINTS_EACH, noise=0.1, random_state=0)
    else:
        x, y = make_circles(2 * _POINTS_EACH, noise=0.05, factor=0.5, random_state=0)
    first = _POINTS_EACH * SPLITS.index(split)
    names = ("0", "1")
    rows = first + draw.rows(y[first : first + _POINTS_EACH], name, names)
    low, high = bounds
    share = (x[rows] - np.array(POINTS[name])) / _POINTS_WIDTH + 0.5
    points = (low + (high - low) * share).astype(np.float32)
    return Dataset(name, split, points, y[rows].astype(np.int64), names, bounds)


def _load_npz(path: Path, split, draw: _Draw, bounds) -> Dataset:
    if split not in SPLITS:
        raise ValueError(f"A .npz file has the splits {list(SPLITS)}. Received: split={split!r}")
    if not path.is_file():
        raise FileNotFoundError(f"Expected a .npz file. Received: name={str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Expected a file written by numpy.savez. Received: name={str(path)!r}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _from_archive(archive, path, split, draw, bounds)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"Expected a file written by numpy.savez, but it is damaged. "
            f"Received: name={str(path)!r}"
        ) from error


def _from_archive(archive, path: Path, split, draw: _Draw, bounds) -> Dataset:
    keys = (f"x_{split}", f"y_{split}")
    if split == "test" and "x" in archive and "y" in archive:
        keys = ("x", "y")
    missing = [key for key in keys if key not in archive]
    if missing:
        wanted = "x_test and y_test, or x and y" if split == "test" else "x_train and y_train"
        raise ValueError(
            f"Expected the arrays {wanted} for split={split!r}. "
            f"Received: {path.name!r} with the arrays {sorted(archive.files)}"
        )
    x, y = _read(archive, keys[0]), _labels(archive, keys[1])
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or len(x) == 0:
        raise ValueError(
            "Expected at least one image, [n, height, width] or [n, height, width, channels]. "
            f"Received: {keys[0]} of shape {x.shape}"
        )
    if len(x) != len(y):
        raise ValueError(
            f"Expected one label per image. Received: {len(x)} images and {len(y)} labels"
        )
    if "class_names" in archive:
        names = tuple(str(label) for label in np.ravel(_read(archive, "class_names")))
    else:
        # A test split may lack the last class, so the labels of the whole file count.
        stored = [_labels(archive, k) for k in ("y", "y_train", "y_test") if k in archive]
        largest = max(int(labels.max()) for labels in stored if labels.size)
        names = tuple(str(label) for label in range(largest + 1))
    available = len(y)
    places = np.arange(available)
    if not draw.all:
        _check_labels(y, names, path.stem)
        places = draw.rows(y, path.name, names)
        x, y = x[places], y[places]
    if x.dtype == np.uint8:
        x = _scale(x, bounds)
    elif np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float32, copy=False)
    else:
        raise TypeError(
            "Expected images of type uint8 (0..255) or of a floating-point type. "
            f"Received: {keys[0]} of type {x.dtype}"
        )
    return Dataset(path.stem, split, x, y, names, bounds, places, available)


def _read(archive, key: str) -> np.ndarray:
    try:
        return archive[key]
    except ValueError as error:
        raise ValueError(
            f"Expected arrays of numbers and strings, not of Python objects. Received: {key}"
        ) from error


def _labels(archive, key: str) -> np.ndarray:
    labels = _read(archive, key)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"Expected integer labels. Received: {key} of type {labels.dtype}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            f"Expected integer labels [n] or [n, 1]. Received: {key} of shape {labels.shape}"
        )
    return labels.astype(np.int64)


def _is_folder(name: str | os.PathLike) -> bool:
    """Whether a name means a folder, there or not."""
    text = os.fspath(name)
    if not isinstance(name, str) or os.path.isabs(text) or text.startswith((".", "~")):
        return True
    if not os.path.isdir(text):
        return False
    if os.sep in text:
        return True
    import tensorflow_datasets as tfds

    # A folder of a data set's name may hold anything, its TFDS files in the first place.
    return text not in tfds.list_builders(with_community_datasets=False)


def _load_folder(path: Path, split, draw: _Draw, bounds) -> Dataset:
    import keras

    received = f"Received: name={os.fspath(path)!r}, split={split!r}"
    if not path.is_dir():
        raise FileNotFoundError(f"Expected a folder of images. {received}")
    folder, held = path / split, _folders(path)
    if split not in held:
        if split != "test" or set(SPLITS) & held:
            raise ValueError(
                f"Expected a folder {split!r} that holds a folder per class. {received}, "
                f"which holds the folders {sorted(held)[:10]}"
            )
        folder = path
    names = tuple(sorted(_folders(folder)))
    if len(names) < 2:
        raise ValueError(
            f"Expected at least two classes, each a folder of images. {received}, "
            f"with the classes {list(names)}"
        )
    for other in held & set(SPLITS) if folder != path else ():
        if differing := _folders(path / other) ^ set(names):
            raise ValueError(
                "Expected the same classes in each split; the folder of one without samples may be "
                f"empty. {received}, where {other!r} differs by {sorted(differing)}"
            )
    try:
        # It tells what there is; images are read below, once those wanted are known.
        index = keras.utils.image_dataset_from_directory(
            os.fspath(folder), shuffle=False, seed=0, verbose=False
        )
    except ValueError as error:
        raise ValueError(
            f"Expected images in the folders of classes: {error} {received}"
        ) from error
    files = [Path(file) for file in index.file_paths]
    parts = [file.relative_to(folder).parts for file in files]
    inside = {name: {part[1] for part in parts if part[0] == name} for name in names}
    shared = inside[names[0]]
    # Files have their endings, so these are folders.
    if folder == path and len(shared) > 1 and shared <= _folders(path / names[0]):
        if all(found == shared for found in inside.values()):
            raise ValueError(
                f"The folders {sorted(shared)[:10]} are in each of {list(names)}, which look like "
                f"splits and not like classes: name one of them, split={names[0]!r} say. {received}"
            )
    for place, _, held_files in os.walk(folder):
        passed = [file for file in held_files if file.lower().endswith(_NOT_READ)]
        if passed:
            raise ValueError(
                "Expected images as PNG, JPEG, BMP or GIF files; others would be left out. "
                f"Received: {os.path.join(place, min(passed))!r}"
            )
    labels = np.array([names.index(part[0]) for part in parts], np.int64)
    rows = draw.rows(labels, path.name, names)
    first = _read_image(files[rows[0]])
    x = np.empty((len(rows), *first.shape), np.float32)
    for number, row in enumerate(rows):
        image = _read_image(files[row])
        if image.shape != first.shape:
            raise ValueError(
                "Expected images of one shape, (height, width, channels). "
                f"Received: {os.fspath(files[rows[0]])!r} of shape {first.shape} and "
                f"{os.fspath(files[row])!r} of shape {image.shape}"
            )
        _scale(image, bounds, out=x[number])
    available = len(labels)
    return Dataset(path.resolve().name, split, x, labels[rows], names, bounds, rows, available)


def _folders(path: Path) -> set[str]:
    """Names of the folders in a folder, as Keras counts them."""
    return {part.name for part in path.iterdir() if part.is_dir() and part.name[0] != "."}


def _read_image(file: Path) -> np.ndarray:
    """uint8 [height, width, channels], one or three of these."""
    import tensorflow as tf

    try:
        image = tf.io.decode_image(file.read_bytes(), expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError as error:
        reason = str(error.message).partition("\n")[0]
        raise ValueError(
            f"Expected an image, but it cannot be read: {reason} Received: {os.fspath(file)!r}"
        ) from error
    if image.shape[-1] not in (1, 3):
        raise ValueError(
            "Expected images in grey or in colour, without transparency. "
            f"Received: {os.fspath(file)!r} with {image.shape[-1]} channels"
        )
    return image


def _load_tfds(name, split, data_dir, draw: _Draw, bounds, download) -> Dataset:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = _builder(tfds, name, data_dir)
    if not builder.is_prepared():
        if not download:
            raise FileNotFoundError(
                f"The TFDS data set {name!r} is not prepared here. Set data_dir (or the "
                "environment variable TFDS_DATA_DIR) to a folder that holds it, or ask for "
                f"download=True. Received: data_dir={data_dir!r}"
            )
        builder.download_and_prepare()
    info = builder.info
    if split not in info.splits:
        raise ValueError(
            f"{name!r} has the splits {sorted(info.splits)}. Received: split={split!r}"
        )
    features = info.features
    keys: tuple[str, ...] = info.supervised_keys or ()
    if (
        len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise ValueError(
            "Expected a TFDS data set of images with one class label each. "
            f"Received: {name!r} with supervised keys {info.supervised_keys}"
        )
    image_key, label_key = keys
    shape, dtype = features[image_key].shape, features[image_key].np_dtype
    if None in shape or dtype != np.uint8:
        raise ValueError(
            "Expected uint8 images of one fixed size. "
            f"Received: {name!r} with images of shape {shape} and type {np.dtype(dtype).name}"
        )

    available = info.splits[split].num_examples
    names = tuple(features[label_key].names)
    rows = builder.as_dataset(
        split=split,
        shuffle_files=False,
        # One file after the other, so that an index means the same record in every run.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        decoders={image_key: tfds.decode.SkipDecoding()},
    )
    chosen = np.arange(available)
    if not draw.all:
        labels = np.zeros(available, np.int64)
        if draw.balanced:
            labels[:] = list(rows.map(lambda row: row[label_key]).as_numpy_iterator())
        chosen = draw.rows(labels, name, names)
        wanted = np.zeros(available, bool)
        wanted[chosen] = True
        wanted = tf.constant(wanted)
        rows = rows.enumerate().filter(lambda i, _: wanted[i]).map(lambda _, row: row)
    decode = features[image_key].decode_example
    rows = rows.map(
        lambda row: (decode(row[image_key]), row[label_key]), num_parallel_calls=tf.data.AUTOTUNE
    )
    x, y = np.empty((len(chosen), *shape), np.float32), np.empty(len(chosen), np.int64)
    start = 0
    for images, labels in rows.batch(512).prefetch(1).as_numpy_iterator():
        stop = start + len(labels)
        _scale(images, bounds, out=x[start:stop])
        y[start:stop] = labels
        start = stop
    return Dataset(name, split, x, y, names, bounds, chosen, available)


def _builder(tfds, name: str, data_dir):
    """The TFDS builder, without looking anything up on the network."""
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    if data_dir is not None and not Path(data_dir).is_dir():
        raise FileNotFoundError(f"Expected a folder. Received: data_dir={os.fspath(data_dir)!r}")
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (DatasetNotFoundError, ValueError) as error:
        known = ["digits", *POINTS, *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            "Expected 'digits', 'moons', 'circles', the path of a .npz file or of a folder of "
            "images, or the name of a TFDS data set."
            f"{hint} Received: name={name!r}"
        ) from error


def _check(data: Dataset) -> None:
    """What every attack may rely on, checked once."""
    low, high = data.clip_values
    form = data.x.ndim == 4 or data.x.shape[1:] == (2,)
    if not form or len(data.x) == 0 or len(data.x) != len(data.y):
        raise ValueError(
            "Expected at least one image [n, height, width, channels], or point [n, 2], and one "
            f"label each. Received: images of shape {data.x.shape} and labels of shape "
            f"{data.y.shape}"
        )
    if data.indices is not None and data.indices.shape != data.y.shape:
        raise ValueError(
            "Expected one index for each image. "
            f"Received: {len(data.y)} images and indices of shape {data.indices.shape}"
        )
    smallest, largest = float(data.x.min()), float(data.x.max())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise ValueError(f"Expected finite images. Received: {data.name!r} with NaN or infinity")
    if smallest < np.float32(low) or largest > np.float32(high):
        raise ValueError(
            f"Expected images within clip_values=({low:g}, {high:g}). "
            f"Received: {data.name!r} with values from {smallest:g} to {largest:g}"
        )
    _check_labels(data.y, data.class_names, data.name)


def _check_labels(y: np.ndarray, names: tuple[str, ...], name: str) -> None:
    if y.min() < 0 or y.max() >= len(names):
        raise ValueError(
            f"Expected labels from 0 to {len(names) - 1}. "
            f"Received: {name!r} with labels from {y.min()} to {y.max()}"
        )
