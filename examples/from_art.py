"""
Title: A script that was written for ART
Description: The same lines with ART's attack classes and with those of kerasrobust.art.compat.
Accelerator: None
"""

"""
## Introduction

The Adversarial Robustness Toolbox (ART) and this toolbox share 19 attacks by name. A script that
uses them changes one import:

    from art.attacks.evasion import CarliniL2Method, FastGradientMethod, ProjectedGradientDescent
    from kerasrobust.art.compat import CarliniL2Method, FastGradientMethod, ProjectedGradientDescent

This example runs the lines below it twice, once with each, and prints what comes out. It reads
scikit-learn's digits, downloads nothing and takes a minute and a half on one CPU core, most of
it in ART's classes.
"""

import time

import keras
import numpy as np
from art.attacks import evasion
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import TensorFlowV2Classifier

import kerasrobust
from kerasrobust.art import compat

train = kerasrobust.datasets.load("digits", "train")
test = kerasrobust.datasets.load("digits", "test", samples=100, seed=0)
x_train, y_train = train.x, keras.utils.to_categorical(train.y, 10)
x_test, y_test = test.x, keras.utils.to_categorical(test.y, 10)
FEW = 20  # for C&W

"""
## The classifier

ART's, as ever: it stays what it is. The attacks of this toolbox find the Keras model in it, its
bounds, and a mean and standard deviation if it has them.
"""


def trained():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    classifier = TensorFlowV2Classifier(
        model,
        nb_classes=10,
        input_shape=(8, 8, 1),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(1e-3),
        clip_values=(0, 1),
    )
    classifier.fit(x_train, y_train, batch_size=32, nb_epochs=10)
    return classifier


"""
## The script

Attacks with a budget of 0.1, the nearest points by C&W, then adversarial training by ART's own
trainer against two attacks in turn.
"""


def script(library):
    classifier, rows = trained(), []

    def accuracy(x, y):
        return np.mean(classifier.predict(x).argmax(axis=1) == y.argmax(axis=1))

    def clean(what):
        rows.append([what, f"{accuracy(x_test, y_test):.0%}", "", ""])

    def attacked(what, attack, x=x_test, y=y_test):
        begin = time.perf_counter()
        x_adv = attack.generate(x=x, y=y)
        seconds = time.perf_counter() - begin
        distance = np.median(np.sqrt(((x_adv - x) ** 2).sum(axis=(1, 2, 3))))
        rows.append([what, f"{accuracy(x_adv, y):.0%}", f"{distance:.3f}", f"{seconds:.2f}"])

    clean("clean")
    attacked("FGSM", library.FastGradientMethod(estimator=classifier, eps=0.1))
    pgd = library.ProjectedGradientDescent(
        classifier, norm=np.inf, eps=0.1, max_iter=40, verbose=False
    )
    attacked("PGD, 40 steps, `eps_step` left out", pgd)
    pgd.set_params(eps_step=0.01)
    attacked("PGD, 40 steps of 0.01", pgd)
    cwl2 = library.CarliniL2Method(classifier=classifier, max_iter=10, verbose=False)
    attacked("C&W L2, 10 iterations", cwl2, x_test[:FEW], y_test[:FEW])

    begin = time.perf_counter()
    attacks = [
        library.FastGradientMethod(classifier, eps=0.1),
        library.ProjectedGradientDescent(
            classifier, eps=0.1, eps_step=0.025, max_iter=10, num_random_init=1, verbose=False
        ),
    ]
    AdversarialTrainer(classifier, attacks, ratio=1.0).fit(
        x_train, y_train, nb_epochs=3, batch_size=128
    )
    seconds = time.perf_counter() - begin
    rows.append(["`AdversarialTrainer` with FGSM and PGD, 3 epochs", "", "", f"{seconds:.1f}"])
    clean("clean, then")
    again = library.ProjectedGradientDescent(
        classifier, eps=0.1, eps_step=0.01, max_iter=40, verbose=False
    )
    attacked("PGD, 40 steps of 0.01, then", again)
    return rows


"""
## Both

What is left of 100 samples (20 for C&W), the median L2 distance, and the seconds, for ART's classes
and then for those of this toolbox. docs/from_art.md has the table.
"""

print("| | `art.attacks.evasion` | | | `kerasrobust.art.compat` | | |")
print("| --- | --- | --- | --- | --- | --- | --- |")
print("| | left | median L2 | seconds | left | median L2 | seconds |")
for theirs, ours in zip(script(evasion), script(compat), strict=True):
    print(f"| {' | '.join([*theirs, *ours[1:]])} |".replace("  ", " "))

"""
## What differs

FGSM, and PGD with the step given, do the same. Where the step is left out ART takes 0.1 whatever
the budget, which is as long as the budget here, and this toolbox makes it from the budget. C&W is
ART's line search there and the paper's Adam here. docs/from_art.md has the rest.

ART's trainer crafts between steps of training. `kerasrobust.wrap(model, "adversarial_training",
attack="pgd:eps=0.1")` does it inside of one compiled step, and `fit` is Keras's.
"""
