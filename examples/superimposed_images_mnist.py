"""
Title: Superimposed images against transferred attacks
Description: Train with every image laid under another one; attack with an ensemble of other models.
Accelerator: None
"""

"""
## Introduction

An attacker who cannot see a model can still train models of his own and hope that what fools them
fools it as well. The gradient ensemble attack (GEA) makes that likely: it steps along the sum of
the unit-length gradients of several models, to where the adversarial regions of all of them meet.

The defense that comes with it lays another image of the batch over each training image and asks
the network for the same prediction: with `x~ = (1 - a) x + a x'` and `a ~ Beta(2, 4)` the loss is
`CE(y, p(x)) + 10 KL(p(x) || p(x~))`. No adversary is crafted: a step costs two passes.

MNIST is read with TensorFlow Datasets. Where the environment variable `TFDS_DATA_DIR` names a
folder that holds it prepared, nothing is downloaded. The script takes about two minutes on one CPU
core.
"""

import numpy as np

import kerasrobust
from kerasrobust.evaluation import pictures, surfaces

EPS = 0.2
TRAINED, ATTACKED, EPOCHS = 6000, 500, 4

train = kerasrobust.datasets.load("mnist", "train", samples=TRAINED, seed=0, download=True)
test = kerasrobust.datasets.load("mnist", "test", samples=ATTACKED, seed=0)


def network(seed, defense=None):
    model = kerasrobust.models.get("areb_cnn", train.input_shape, train.nb_classes, seed=seed)
    if defense is not None:
        model = kerasrobust.wrap(model, defense)
    kerasrobust.models.fit(model, train, epochs=EPOCHS, batch_size=32, seed=seed, verbose=2)
    return model


def accuracy(model, x, y):
    return np.mean(model.predict(x, verbose=0).argmax(axis=1) == y)


"""
## Train

Three networks belong to the attacker. A fourth, trained in the same way from other weights, is what
he attacks; the fifth is the same with the defense.
"""

crafting = [network(seed) for seed in (1, 2, 3)]
victims = {
    "plain": network(0),
    "superimposed": network(0, "superimpose:p=2,q=4,kl_weight=10"),
}

"""
## Attack

As in the paper the samples are crafted on one and on three of the attacker's networks and counted
where they fool all of these: the attacker sends nothing that he sees fail.
"""

table = [
    "| crafting models | samples sent | plain: clean, attacked | superimposed: clean, attacked |",
    "| --- | --- | --- | --- |",
]
for count in (1, 3):
    attack = kerasrobust.attacks.GradientEnsembleAttack(
        crafting[:count], eps=EPS, eps_step=EPS / 16, max_iter=20
    )
    x_adv = attack.generate(test.x, test.y)
    sent = attack.fools_all(x_adv, test.y)
    left = []
    for model in victims.values():
        values = (accuracy(model, x[sent], test.y[sent]) for x in (test.x, x_adv))
        left.append(", ".join(f"{100 * value:.1f}" for value in values))
    table.append(f"| {count} | {sent.sum()} | {left[0]} | {left[1]} |")
print(*table, sep="\n")

"""
## Attack what can be seen

The defense is meant for transferred samples. An attacker who has the model itself needs none.
"""

for name, model in victims.items():
    report = kerasrobust.evaluate(
        model, test.x[:200], test.y[:200], attacks=[f"pgd:eps={EPS},eps_step=0.02,max_iter=20"]
    )
    print(f"{name}: {report.attacks['pgd'].accuracy:.2f} under PGD")

"""
## Look around the samples

The paper's Figures 5 and 6: classes and loss on the plane of the direction of an attacker's network
(across) and the model's own (up), and the loss of 128 samples along FGSM. The pictures are
`decision_space.png` and `loss_against_eps.png`.
"""

planes = surfaces.planes(
    victims,
    test.x[:1],
    test.y[:1],
    eps=EPS,
    source=crafting[0],
    across=(-2 * EPS, 2 * EPS),
    up=(-EPS, 4 * EPS),
)
pictures.decision_space("decision_space.png", planes)
lines = surfaces.lines(victims, test.x[:128], test.y[:128], eps=EPS, across=(0, 0.5))
pictures.loss_against_eps("loss_against_eps.png", lines)

"""
## What it prints

Four epochs on 6,000 samples each, 500 test samples but those that did not fool every crafting
model, one run with the seeds of the script:

| crafting models | samples sent | plain: clean, attacked | superimposed: clean, attacked |
| --- | --- | --- | --- |
| 1 | 500 | 99.2, 72.2 | 94.4, 85.2 |
| 3 | 472 | 99.2, 49.4 | 94.1, 77.8 |

and below it

    plain: 0.00 under PGD
    superimposed: 0.00 under PGD

An ensemble transfers better than one model. The superimposed network loses a third of what the
plain one does (9 points instead of 27, 16 instead of 50), at five points of clean accuracy. Under
PGD, which sees the model, neither keeps a single one of 200 samples: this is a defense against
transferred samples and no other.

The paper's own figures (Table 2, "true" and adversarial accuracy) are of VGG13 on its own 100
classes of objects, eps 16/255:

| crafting models | base | Beta(2, 4), KL 10 |
| --- | --- | --- |
| 1 | 89.9, 23.8 | 88.8, 71.9 |
| 3 | 95.3, 4.1 | 93.5, 62.1 |

The order is the same. The defense keeps more there, a quarter and a third being lost of what the
base loses, and its price in clean accuracy is smaller.
"""
