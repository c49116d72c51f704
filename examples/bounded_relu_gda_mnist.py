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
from kerasrobust.evaluation import pictures, surfaces

TRAINED, ATTACKED, EPOCHS = 6000, 200, 3
BUDGETS = (0.1, 0.2, 0.3)

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

FGSM with growing budgets, as in the paper, and at the largest of them two more attacks: PGD, which
follows the gradient for forty steps, and Square, which sees none. Where Square breaks what PGD
leaves, the gradient misleads, and the report says so: findings are printed above the table,
accuracies in percent.
"""

attacks = [f"fgsm:eps={eps}" for eps in BUDGETS]
attacks += ["pgd:eps=0.3,eps_step=0.01,max_iter=40", "square:eps=0.3,max_iter=300"]
table = [
    "| training | clean | FGSM 0.1 | FGSM 0.2 | FGSM 0.3 | PGD 0.3 | Square 0.3 |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]
for name, model in models.items():
    report = kerasrobust.evaluate(model, test.x, test.y, attacks=attacks)
    for finding in report.findings:
        print(f"{name}: {finding.message}")
    left = [report.clean_accuracy, *(row.accuracy for row in report.attacks.values())]
    table.append(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in left)} |")
print(*table, sep="\n")

"""
## The boundary in two dimensions

With two inputs the boundary itself can be drawn: half-moons, a network with two hidden layers, and
the paper's sigma of 0.3 in the unit of the moons, which is 0.075 in 0..1. The plain network is sure
of itself right up to the boundary, the one that saw noisy copies grows unsure well before it. The
bounded ReLU changes next to nothing here: of two inputs in 0..1 few activations reach its bound.
The picture is `decision_boundary.png`.
"""

points = kerasrobust.datasets.load("moons", "train")
networks = {}
for name, defense in {
    "plain": None,
    "augmentation": "gda:sigma=0.075,keep_original=true",
    "both": ["gda:sigma=0.075,keep_original=true", "brelu:t=1"],
}.items():
    network = kerasrobust.models.brelu_gda_mlp(seed=0)
    if defense is not None:
        network = kerasrobust.wrap(network, defense)
    kerasrobust.models.fit(network, points, epochs=60, batch_size=32, learning_rate=0.01)
    networks[name] = network
shown = kerasrobust.datasets.load("moons", samples=100)
pictures.decision_boundary("decision_boundary.png", surfaces.maps(networks), shown.x, shown.y)

"""
## What was measured

Three epochs on all of MNIST, with the network, sigma and copies of this script, but not with the
bounded ReLU alone. Accuracy in percent of 1,000 test samples under FGSM with eps 0.1, 0.2 and 0.3,
and of 100 under PGD with eps 0.3 and under HopSkipJump, with its median distance:

| training | clean | 0.1 | 0.2 | 0.3 | PGD | HopSkipJump |
| --- | --- | --- | --- | --- | --- | --- |
| plain | 99.3 | 79.1 | 32.2 | 11.1 | 0 | 0 (1.90) |
| augmentation | 99.2 | 92.4 | 69.9 | 39.9 | 0 | 0 (3.35) |
| both | 98.8 | 96.0 | 91.3 | 85.5 | 66 | 0 (3.52) |

Under FGSM the order is the paper's. But HopSkipJump, which sees no gradient, reaches both from
equally near: what the bounded ReLU adds is for the most part a gradient that misleads. In shorter
runs on 6,000 samples the square attack leaves 20 % where IFGSM leaves 60 (`docs/measured.md`).
"""
