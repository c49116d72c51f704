"""Networks that the papers and the documentation measure, built by name; training and loading.

Every builder returns a functional `keras.Model` for images of `input_shape` (height, width,
channels; no batch axis) whose pixel values lie in the bounds the caller trains with.
The output is a softmax over `nb_classes`; `logits=True` leaves the softmax out, with the same
weights in the same order, so that one can be loaded into the other.
"""

from kerasrobust.models.areb import areb_cnn, areb_cnn_cifar10, areb_cnn_mnist
from kerasrobust.models.digits import digits_cnn
from kerasrobust.models.loading import load
from kerasrobust.models.registry import get, names
from kerasrobust.models.training import default_name, fit, train_default

__all__ = [
    "areb_cnn",
    "areb_cnn_cifar10",
    "areb_cnn_mnist",
    "default_name",
    "digits_cnn",
    "fit",
    "get",
    "load",
    "names",
    "train_default",
]
