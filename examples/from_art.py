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
scikit-learn's digits, downloads nothing and takes about two minutes on one CPU core, nearly all of
them in ART's C&W.
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
    classifier = trained()

    def accuracy(x, y=y_test):
        return np.mean(classifier.predict(x).argmax(axis=1) == y.argmax(axis=1))

    def report(what, x, begin, clean=x_test, y=y_test):
        left, distance = accuracy(x, y), np.sqrt(((x - clean) ** 2).sum(axis=(1, 2, 3)))
        seconds = time.perf_counter() - begin
        print(f"  {what:32s}{left:6.1%} left, L2 {np.median(distance):5.3f}, {seconds:6.2f} s")

    print(f"  {'clean':32s}{accuracy(x_test):6.1%}")
    begin = time.perf_counter()
    attack = library.FastGradientMethod(estimator=classifier, eps=0.1)
    report("FGSM", attack.generate(x_test, y_test), begin)

    begin = time.perf_counter()
    attack = library.ProjectedGradientDescent(
        classifier, norm=np.inf, eps=0.1, max_iter=40, verbose=False
    )
    report("PGD", attack.generate(x=x_test, y=y_test), begin)
    attack.set_params(eps_step=0.01)
    begin = time.perf_counter()
    report("PGD, eps_step 0.01", attack.generate(x=x_test, y=y_test), begin)

    begin = time.perf_counter()
    attack = library.CarliniL2Method(classifier=classifier, max_iter=10, verbose=False)
    few, labels = x_test[:FEW], y_test[:FEW]
    report(f"C&W L2, {FEW} samples", attack.generate(few, labels), begin, few, labels)

    fgsm = library.FastGradientMethod(classifier, eps=0.1)
    pgd = library.ProjectedGradientDescent(
        classifier, eps=0.1, eps_step=0.025, max_iter=10, num_random_init=1, verbose=False
    )
    begin = time.perf_counter()
    AdversarialTrainer(classifier, [fgsm, pgd], ratio=1.0).fit(
        x_train, y_train, nb_epochs=3, batch_size=128
    )
    print(f"  trained against FGSM and PGD in {time.perf_counter() - begin:.1f} s")
    print(f"  {'clean':32s}{accuracy(x_test):6.1%}")
    begin = time.perf_counter()
    report("PGD, eps_step 0.01", attack_again(library, classifier), begin)


def attack_again(library, classifier):
    attack = library.ProjectedGradientDescent(
        classifier, eps=0.1, eps_step=0.01, max_iter=40, verbose=False
    )
    return attack.generate(x_test, y_test)


print("art.attacks.evasion")
script(evasion)
print("kerasrobust.art.compat")
script(compat)

"""
## What differs

FGSM, and PGD with the step given, do the same. Where the step is left out ART takes 0.1 whatever
the budget, which is as long as the budget here, and this toolbox makes it from the budget. C&W is
ART's line search there and the paper's Adam here. docs/from_art.md has the rest.

ART's trainer crafts between steps of training. `kerasrobust.wrap(model, "adversarial_training",
attack="pgd:eps=0.1")` does it inside of one compiled step, and `fit` is Keras's.
"""
