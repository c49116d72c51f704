"""
Title: Bounded ReLU and Gaussian data augmentation
Description: Two cheap defenses that need no adversarial samples, alone and together.
Accelerator: None
"""

"""
## Introduction

A perturbation grows on its way through a network: each ReLU passes on whatever it is given. A
bounded ReLU, `min(max(x, 0), t)`, cuts that off. Gaussian data augmentation trains on noisy copies
of each sample, `E J(x + d, y)` with `d ~ N(0, sigma^2)`, so that the prediction is the same in a
neighbourhood and not at a point. Neither crafts an adversarial sample.

`wrap` takes both in one list, in any order. The bounded ReLU is part of the network that is saved
and served, the augmentation of its training alone.

MNIST is read with TensorFlow Datasets. Where the environment variable `TFDS_DATA_DIR` names a
folder that holds it prepared, nothing is downloaded.
"""

import kerasrobust

TRAINED, ATTACKED, EPOCHS = 6000, 500, 4
BUDGETS = (0.05, 0.1, 0.2, 0.3)

train = kerasrobust.datasets.load("mnist", "train", samples=TRAINED, seed=0, download=True)
test = kerasrobust.datasets.load("mnist", "test", samples=ATTACKED, seed=0)

"""
## Train

Sigma is the paper's for MNIST, with four copies of each sample in place of its ten.
"""

defenses = {
    "plain": None,
    "bounded ReLU": "brelu:t=1",
    "augmentation": "gda:sigma=0.3,N=4",
    "both": ["gda:sigma=0.3,N=4", "brelu:t=1"],
}
models = {}
for name, defense in defenses.items():
    model = kerasrobust.models.get("areb_cnn", train.input_shape, train.nb_classes, seed=0)
    if defense is not None:
        model = kerasrobust.wrap(model, defense)
    kerasrobust.models.fit(model, train, epochs=EPOCHS, batch_size=32, verbose=2)
    models[name] = model

"""
## Evaluate

FGSM with growing budgets, as in the paper, PGD and an attack that sees no gradient.
"""

attacks = [f"fgsm:eps={eps}" for eps in BUDGETS]
attacks += ["pgd:eps=0.2,eps_step=0.02,max_iter=20", "square:eps=0.2,max_iter=300"]
for name, model in models.items():
    print(name)
    print(kerasrobust.evaluate(model, test.x, test.y, attacks=attacks))
