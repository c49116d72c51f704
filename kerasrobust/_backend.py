"""The check that Keras runs on TensorFlow, before anything else is imported."""

from __future__ import annotations

import os
import sys


def require_tensorflow() -> None:
    """Raise `ImportError` when Keras runs, or is about to run, on another backend."""
    # Importing Keras for another backend fails by itself where that backend is not installed, with
    # a message that does not help; so the environment is asked first.
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules or backend == "tensorflow":
        import keras

        backend = keras.config.backend()
    if backend != "tensorflow":
        raise ImportError(
            "kerasrobust runs on Keras' TensorFlow backend: set the environment variable "
            f"KERAS_BACKEND=tensorflow before Keras is imported. Received: backend={backend!r}"
        )
