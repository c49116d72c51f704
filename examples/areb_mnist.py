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

TRAINED, ATTACKED, EPOCHS = 6000, 50, 5
folder = pathlib.Path(tempfile.mkdtemp(prefix="areb_mnist_"))

train = kerasrobust.datasets.load("mnist", "train", samples=TRAINED, seed=0, download=True)
test = kerasrobust.datasets.load("mnist", "test", samples=ATTACKED, seed=0)

"""
## Train and evaluate

The network is the CNN of the AREB paper. It ends in a softmax; the attacks find its logits by
themselves, because a gradient through a saturated softmax is zero and would fake robustness.
"""

model = kerasrobust.models.get("areb_cnn", train.input_shape, train.nb_classes, seed=0)
kerasrobust.models.fit(model, train, epochs=EPOCHS, batch_size=32, verbose=2)
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
kerasrobust.models.fit(defended, train, epochs=EPOCHS, batch_size=32, verbose=2)
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

The two reports side by side: what is left in percent, and for the attacks that look for the nearest
adversarial sample the median distance in their norm.
"""

reports = {"plain": report, "defended": defended_report}
table = [f"| attack | {' | '.join(reports)} |", "| --- | --- | --- |"]
clean = [f"{100 * one.clean_accuracy:.1f}" for one in reports.values()]
table.append(f"| none | {' | '.join(clean)} |")
for name in report.attacks:
    rows = [one.attacks[name] for one in reports.values()]
    cells = [f"{100 * row.accuracy:.1f}" for row in rows]
    if rows[0].kind == "minimal":
        key = f"median_l{rows[0].norm:g}"
        cells = [f"{cell} ({getattr(row, key):.2f})" for cell, row in zip(cells, rows, strict=True)]
    table.append(f"| {name} | {' | '.join(cells)} |")
print(*table, sep="\n")
