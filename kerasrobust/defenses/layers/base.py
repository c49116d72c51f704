"""The contract of a defense that changes the network itself."""

from __future__ import annotations

import abc
from typing import ClassVar

import keras


class LayerDefense(abc.ABC):
    """A defense that is part of the network: a layer that knows how to enter a model.

    Class attributes:
        source: The documents that name it; where it is empty the paper of the docstring counts.
    """

    source: ClassVar[str] = ""

    @abc.abstractmethod
    def rebuild(self, model: keras.Model) -> keras.Model:
        """A new model with the defense in it; `model` stays as it was.

        Its weights are copies, unless the defense stands in front of all of it.

        Raises:
            ValueError: If the defense finds no place in the model.
        """
