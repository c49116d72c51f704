"""
Title: How robust is an MNIST classifier, and what does adversarial training change?
Description: Train a network, attack it with the AREB benchmark, defend it, attack it again.
Accelerator: None
"""

"""
## Introduction

A network that reads 99 % of the MNIST digits can be made to misread nearly all of them by changes
that a person hardly notices. This example measures that with the four attacks of the AREB
benchmark: projected gradient descent, which looks for the strongest change inside a
budget, and three attacks that look for the smallest change: Carlini & Wagner (L2), elastic net (L1)
and HopSkipJump, which sees nothing of the model but its decisions. It then trains the same network
on adversarial samples and measures again.

MNIST is read with TensorFlow Datasets. Where the environment variable `TFDS_DATA_DIR` names a
folder that holds it prepared, nothing is downloaded. The script takes about five minutes on two CPU
cores.
"""

import pathlib
import tempfile

import keras

import kerasrobust

SAMPLES = 100
folder = pathlib.Path(tempfile.mkdtemp(prefix="areb_mnist_"))

train = kerasrobust.datasets.load("mnist", "train", download=True)
test = kerasrobust.datasets.load("mnist", "test", samples=SAMPLES, seed=0)

"""
## Train and evaluate

The network is the CNN of the AREB paper. It ends in a softmax; the attacks find its logits by
themselves, because a gradient through a saturated softmax is zero and would fake robustness.
"""

model = kerasrobust.models.get("areb_cnn", train.input_shape, train.nb_classes, seed=0)
kerasrobust.models.fit(model, train, epochs=2, verbose=2)
report = kerasrobust.evaluate(model, test.x, test.y, attacks="areb", dataset="mnist")
print(report)

"""
Accuracy under attack is close to zero for every attack. The medians of the three minimal attacks
are the size of the change that half of the digits do not survive; a failed attack counts as an
infinite one.

## Defend

`wrap` returns a Keras model. It is compiled, trained, saved and loaded like any other; each
training step crafts adversarial samples against the model as it is at that step. The defense holds
a *recipe*, an attack without a model. With `alpha=0` the model never trains on a clean sample.
"""

recipe = kerasrobust.attacks.get("pgd", eps=0.3, eps_step=0.1, max_iter=5, num_random_init=1)
defended = kerasrobust.wrap(
    kerasrobust.models.get("areb_cnn", train.input_shape, train.nb_classes, seed=0),
    defense="adversarial_training",
    attack=recipe,
    alpha=0.0,
)
kerasrobust.models.fit(defended, train, epochs=2, verbose=2)
defended.save(folder / "defended.keras")

"""
## Evaluate again

The saved model carries its value range with it and is evaluated like the first one. `save` writes
the table, every attack's parameters, and a grid of adversarial samples.
"""

loaded = keras.saving.load_model(folder / "defended.keras")
defended_report = kerasrobust.evaluate(loaded, test.x, test.y, attacks="areb", dataset="mnist")
print(defended_report)
report.save(folder / "plain")
defended_report.save(folder / "defended")
print(f"Reports and pictures: {folder}")

"""
## What to take from it

Inside the budget it was trained for (Linf 0.3) the defended model keeps most of its accuracy under
PGD. The minimal attacks still succeed on nearly every sample, because they may go beyond any
budget: compare their median distances instead. And the report warns where a black-box attack beats
a white-box one, the sign of gradients that are masked rather than of a model that is robust.
"""

print(f"Clean accuracy {report.clean_accuracy:.2f} -> {defended_report.clean_accuracy:.2f}")
for name in ("pgd", "cwl2", "ead", "hsja"):
    before, after = report.attacks[name], defended_report.attacks[name]
    print(
        f"{name}: accuracy {before.accuracy:.2f} -> {after.accuracy:.2f}, "
        f"median L2 {before.median_l2:.2f} -> {after.median_l2:.2f}"
    )
