"""Reading a saved model, with one clear error for a file that is none."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import keras

ENDINGS = (".keras", ".h5", ".hdf5")


def is_file(name: str) -> bool:
    """Whether this is meant as the path of a saved model, not as the name of a network."""
    return name.lower().endswith(ENDINGS) or os.sep in name or os.path.isfile(name)


def load(path: str | os.PathLike) -> keras.Model:
    """Read a Keras model saved as `.keras` or `.h5`, to attack or to train it.

    Models wrapped by `kerasrobust.wrap` are read as such. The model is not compiled, so that
    losses and optimizers of the program that trained it need not be known here.

    Args:
        path: The file.

    Returns:
        The `keras.Model`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a Keras model, or holds layers that are not registered with Keras.

    Example:
        >>> model = kerasrobust.models.load("model.keras")
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"load expects the path of a model. Received: path={path!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected a Keras model file (.keras or .h5). Received: path={os.fspath(path)!r}"
        )
    if Path(path).suffix.lower() not in ENDINGS:
        raise ValueError(
            "Expected a Keras model file, its name ending in .keras or .h5. "
            f"Received: path={os.fspath(path)!r}"
        )
    if Path(path).suffix.lower() == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(
            "Expected a Keras model file, but this one is damaged or cut short: it is no zip "
            f"archive. Received: path={os.fspath(path)!r}"
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # zip, JSON, HDF5 and Keras each raise their own kinds
        # Of an object it does not know, Keras prints the whole configuration before the reason, or
        # behind it.
        reason = str(error).rpartition("Exception encountered: ")[2].strip().partition("\n")[0]
        reason = reason.partition(" Full object config: ")[0]
        raise ValueError(
            f"Expected a Keras model file (.keras or .h5), but it cannot be read: "
            f"{reason or type(error).__name__} "
            f"Received: path={os.fspath(path)!r}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a file that holds a keras.Model, not a {type(model).__name__}. "
            f"Received: path={os.fspath(path)!r}"
        )
    return model
