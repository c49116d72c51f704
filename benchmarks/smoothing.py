"""Randomized smoothing on MNIST: what is certified, and what attacks leave of it.

    python benchmarks/smoothing.py --output smoothing

The AREB CNN is trained on Gaussian copies of the samples (`gda`, one of each, not clipped, as
Cohen et al. train), smoothed with the same noise and certified on test samples. Then PGD looks, in
L2, for points where the smoothed model gives another class:

* with the budgets 0.25, 0.5 and 1.0: the report's verdict has both sides;
* inside each sample's own certified radius, where there should be none. Every point that it ends at
  is voted on by as many draws as a certificate has, seeded otherwise. Abstaining is no violation.

PGD's gradients are means over `--draws` draws. The certificates are compared with the formula of
the paper, recomputed with SciPy from the counts.

Model, certificates and finished attacks are stored in the output folder: the same call goes on with
what is missing. The last lines are JSON, in `smoothing.json` too.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from scipy import stats

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.attacks import ProjectedGradientDescent
from kerasrobust.defenses import RandomizedSmoothing
from kerasrobust.defenses.decision.randomized_smoothing import Certificate, certified
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import pictures

RADII = (0.25, 0.5, 1.0)


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--network", default="areb_cnn_mnist", show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--samples", default=200, show_default=True)
@click.option("--sigma", default=0.5, show_default=True)
@click.option("--alpha", default=0.001, show_default=True)
@click.option("--n", default=10_000, show_default=True)
@click.option("--draws", default=20, show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(
    output, dataset, data_dir, network, epochs, samples, sigma, alpha, n, draws, steps, seed
) -> None:
    """Train, certify, attack."""
    output.mkdir(parents=True, exist_ok=True)
    base = trained(output, dataset, data_dir, network, epochs, sigma, seed)
    data = datasets.load(dataset, "test", samples=samples, seed=seed, data_dir=data_dir)
    smoothed = RandomizedSmoothing(base, sigma=sigma, alpha=alpha, n=n, draws=draws, seed=seed)
    specs = [f"pgd:norm=2,eps={radius},max_iter={steps}" for radius in RADII]
    report = kerasrobust.evaluate(
        smoothed, data.x, data.y, attacks=specs, output=output / "report", verbose=True
    )
    print(report)

    proven = report.samples.certificate
    certificate = Certificate(proven["labels"], proven["radii"], np.full(len(data), np.nan))
    wide = np.linspace(0, sigma * 4, 81)
    curve = {"radius": wide, "accuracy": certificate.accuracy(data.y, wide)}
    pictures.certified_curves(output / "certified.png", {f"sigma {sigma:g}": curve})
    held = np.flatnonzero(certificate.labels >= 0)
    pgd = ProjectedGradientDescent(
        Classifier(smoothed, seed=seed + 1),
        norm=2,
        eps=0.999 * certificate.radii[held],
        max_iter=steps,
        num_random_init=1,
    )
    result = pgd.run(data.x[held], certificate.labels[held])
    assert result.x_adv is not None
    delta = (result.x_adv - data.x[held]).reshape(len(held), -1)
    length = np.linalg.norm(delta.astype(np.float64), axis=1)
    assert (length <= certificate.radii[held]).all()
    counts = smoothed.counts(result.x_adv, n, seed=seed + 2)
    answers, sure = counts.argmax(axis=1), smoothed.certain(counts).numpy()
    figures = {
        "samples": len(data),
        "sigma": sigma,
        "alpha": alpha,
        "n": n,
        "clean_accuracy_bare": float(np.mean(Classifier(base).predict(data.x).argmax(1) == data.y)),
        "certified_accuracy": {
            str(radius): float(certificate.accuracy(data.y, radius)) for radius in (0.0, *RADII)
        },
        "pgd_accuracy": {
            str(radius): row.accuracy
            for radius, row in zip(RADII, report.attacks.values(), strict=True)
        },
        "abstained": int((certificate.labels < 0).sum()),
        "attacked_inside_radius": len(held),
        "median_length": float(np.median(length)),
        "median_radius": float(np.median(certificate.radii[held])),
        "abstained_inside_radius": int((~sure).sum()),
        "violations": int((sure & (answers != certificate.labels[held])).sum()),
        "difference_from_formula": difference(smoothed, data.x[:20]),
    }
    text = json.dumps(figures, indent=2)
    (output / "smoothing.json").write_text(text + "\n")
    print(text)


def trained(output, dataset, data_dir, network, epochs, sigma, seed):
    """The network, trained with noise, or read where it was before."""
    path = output / f"{network}-{sigma:g}-{epochs}-{seed}.keras"
    if not path.exists():
        train = datasets.load(dataset, "train", data_dir=data_dir)
        base = models.get(network, train.x.shape[1:], train.nb_classes, seed=seed)
        noisy = kerasrobust.wrap(base, f"gda:sigma={sigma},N=1,clip=False", seed=seed)
        models.fit(noisy, train, epochs=epochs, seed=seed, verbose=2)
        kerasrobust.unwrap(noisy).save(path)
    return models.load(path)


def difference(smoothed: RandomizedSmoothing, x: np.ndarray) -> float:
    """Largest difference of a radius from the authors' formula on the same counts."""
    guess, counts = (smoothed.counts(x, k, seed=s) for k, s in ((smoothed.n0, 7), (smoothed.n, 8)))
    sigma = smoothed.length("sigma")
    found = certified(guess, counts, smoothed.n, sigma, smoothed.alpha)
    hits = counts[np.arange(len(x)), guess.argmax(axis=1)]
    lower = stats.beta.ppf(smoothed.alpha, hits, smoothed.n - hits + 1)
    radii = np.where(lower > 0.5, sigma * stats.norm.ppf(lower), 0.0)
    return float(np.abs(found.radii - radii).max())


if __name__ == "__main__":
    main()
