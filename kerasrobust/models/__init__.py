"""Networks that the papers and the documentation measure, built by name; training and loading.

Every builder returns a functional `keras.Model` for images of `input_shape` (height, width,
channels; no batch axis), `brelu_gda_mlp` for points; their values lie in the bounds the caller
trains with. The output is a softmax over `nb_classes`; `logits=True` leaves the softmax out, with
the same weights in the same order, so that one can be loaded into the other.

| document | name | parameters | weight layers |
| --- | --- | --- | --- |
| AREB | areb_cnn_mnist, areb_cnn_cifar10; areb_cnn picks one | 0.43 M, 0.36 M | 4, 8 |
| AREB | areb_cnn_robust, for adversarial training | 0.70 M, 0.89 M | 5, 9 |
| AREB | areb_resnet | 0.27 M | 20 |
| E2SAD | e2sad_cnn_mnist, e2sad_cnn_svhn | 3.3 M, 1.8 M | 4, 5 |
| BRELU-GDA | brelu_gda_cnn, brelu_gda_resnet | 0.71 M, 0.32 M | 4, 6 |
| BRELU-GDA | brelu_gda_mlp, for points of two coordinates | 0.004 M | 3 |
| GEA | vgg13, resnet32, resnet50 | 9.4 M, 0.46 M, 23.5 M | 11, 32, 50 |
| NSLOSS | nsloss_cnn, vgg19 | 1.2 M, 20.6 M | 4, 19 |
| - | digits_cnn, resnet18 | 0.04 M, 11.2 M | 4, 18 |

Parameters without batch statistics, for ten classes at the shape each builder has by default;
weight layers are convolutions (but those of shortcuts) and dense layers.

`kerasrobust.models.recipes` has the documents' ways to train them.
"""

from kerasrobust.models import recipes
from kerasrobust.models.areb import (
    areb_cnn,
    areb_cnn_cifar10,
    areb_cnn_mnist,
    areb_cnn_robust,
    areb_resnet,
)
from kerasrobust.models.brelu_gda import brelu_gda_cnn, brelu_gda_mlp, brelu_gda_resnet
from kerasrobust.models.digits import digits_cnn
from kerasrobust.models.e2sad import e2sad_cnn_mnist, e2sad_cnn_svhn
from kerasrobust.models.loading import load
from kerasrobust.models.nsloss import nsloss_cnn
from kerasrobust.models.recipe import Recipe
from kerasrobust.models.registry import get, names
from kerasrobust.models.resnet import resnet18, resnet32, resnet50
from kerasrobust.models.standardization import standardize
from kerasrobust.models.training import default_name, fit, train_default
from kerasrobust.models.vgg import vgg13, vgg19

__all__ = [
    "Recipe",
    "areb_cnn",
    "areb_cnn_cifar10",
    "areb_cnn_mnist",
    "areb_cnn_robust",
    "areb_resnet",
    "brelu_gda_cnn",
    "brelu_gda_mlp",
    "brelu_gda_resnet",
    "default_name",
    "digits_cnn",
    "e2sad_cnn_mnist",
    "e2sad_cnn_svhn",
    "fit",
    "get",
    "load",
    "names",
    "nsloss_cnn",
    "recipes",
    "resnet18",
    "resnet32",
    "resnet50",
    "standardize",
    "train_default",
    "vgg13",
    "vgg19",
]
