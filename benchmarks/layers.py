"""Preprocessing layers beside ART's preprocessors and Pillow, on MNIST and CIFAR-10.

    python benchmarks/layers.py --samples 500

Both get the same images, ours in batches of `--batch-size`. Seconds are for 1,000 images, of the
fastest of three passes once compiled; what takes ART long is timed on fewer images and scaled.

Total variance minimization is given ART's mask (ART's generator is seeded and its draws are made
again), AREB's `lamb`, and is stopped after `--iterations`, or stops at its tolerance. It is timed
on `--tvm-samples` images; ART, with its ten iterations and with `--long` of them, on the first
`--art-samples` of these, on which objectives are compared. ART does not take the norm inf.
Objectives are computed here, in float64. The last line is JSON.
"""

from __future__ import annotations

import io
import json
import time
from typing import Any

import click
import numpy as np
import tensorflow as tf
from art.defences.preprocessor import FeatureSqueezing as ArtSqueezing
from art.defences.preprocessor import JpegCompression as ArtJpeg
from art.defences.preprocessor import SpatialSmoothing as ArtSmoothing
from art.defences.preprocessor import TotalVarMin
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity

from kerasrobust import datasets
from kerasrobust.defenses import (
    FeatureSqueezing,
    JPEGCompression,
    SpatialSmoothing,
    TotalVarianceMinimization,
)

LAMB = {"mnist": 0.2, "cifar10": 0.09}
BITS, WINDOWS, QUALITIES = (1, 5, 8), (2, 3, 4, 5), (6, 50, 85)
NORMS = (1, 2, np.inf)


@click.command()
@click.option("--dataset", "names", multiple=True, default=("mnist", "cifar10"), show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--samples", default=500, show_default=True)
@click.option("--tvm-samples", default=64, show_default=True)
@click.option("--art-samples", default=20, show_default=True, help="For ART's TVM.")
@click.option("--long", default=200, show_default=True, help="Iterations of ART's TVM, besides 10.")
@click.option("--iterations", default=20, show_default=True, help="Of ours, besides tolerance.")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(names, data_dir, samples, tvm_samples, art_samples, long, iterations, batch_size, seed):
    """Compare, print."""
    rows = []
    for name in names:
        data = datasets.load(name, "test", samples=samples, seed=seed, data_dir=data_dir)
        lamb = LAMB.get(name, 0.1)
        rows += simple(name, data.x, batch_size)
        rows += jpeg(name, data.x, batch_size)
        few = data.x[:tvm_samples]
        rows += minimized(name, few, art_samples, lamb, iterations, long, batch_size, seed)
    table = Table("data", "layer", "figures", "s per 1,000", "ART's", "times")
    for row in rows:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in row["figures"].items())
        art = row["art_seconds"]
        table.add_row(
            *(row["data"], row["layer"], figures, f"{row['seconds']:.3f}"),
            *(("", "") if art is None else (f"{art:.3f}", f"{art / row['seconds']:.1f}")),
        )
    Console(width=150).print(table)
    print(json.dumps(rows))


def entry(data, layer, figures, seconds, art_seconds=None) -> dict[str, Any]:
    figures = {key: float(value) for key, value in figures.items()}
    return {
        "data": data,
        "layer": layer,
        "figures": figures,
        "seconds": seconds,
        "art_seconds": art_seconds,
    }


def timed(function, x, times=3) -> tuple[Any, float]:
    """What a function of images returns, and seconds for 1,000 of them."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        result = function(x)
        seconds.append(time.perf_counter() - begin)
    return result, 1000 * min(seconds) / len(x)


def in_batches(layer, batch_size):
    """A compiled function of an array, which passes it in batches."""
    compiled = tf.function(layer, reduce_retracing=True)

    def function(x):
        parts = [compiled(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        return np.concatenate([part.numpy() for part in parts])

    return function


def ours(layer, x, batch_size):
    function = in_batches(layer, batch_size)
    function(x)  # compiles
    return timed(function, x)


def simple(name, x, batch_size):
    """Feature squeezing and the median: largest difference from ART's."""
    pairs = [(f"bits {k}", FeatureSqueezing(k), ArtSqueezing((0, 1), k)) for k in BITS]
    pairs += [(f"window {k}", SpatialSmoothing(k), ArtSmoothing(k)) for k in WINDOWS]
    for title, layer, reference in pairs:
        found, seconds = ours(layer, x, batch_size)
        (expected, _), art_seconds = timed(reference, x)
        figures = {"max difference": np.abs(found - expected).max()}
        yield entry(name, title, figures, seconds, art_seconds)


def pillow(levels, quality):
    compressed = []
    for image in levels:
        file = io.BytesIO()
        plain = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(plain).save(file, "jpeg", quality=quality)
        compressed.append(np.asarray(Image.open(file)).reshape(image.shape))
    return np.array(compressed)


def jpeg(name, x, batch_size):
    """JPEG: difference from Pillow in grey levels, of ours and of ART's."""
    levels = np.round(255 * x).astype(np.uint8)
    for quality in QUALITIES:
        found, seconds = ours(JPEGCompression(quality), x, batch_size)
        (other, _), art_seconds = timed(ArtJpeg((0, 1), quality), x, 1)
        expected = pillow(levels, quality).astype(np.float64)
        difference = np.abs(255 * found - expected)
        likeness = [
            structural_similarity(255 * one, true, channel_axis=-1, data_range=255)
            for one, true in zip(found.astype(np.float64), expected, strict=True)
        ]
        figures = {
            "mean": difference.mean(),
            "99.9 %": np.percentile(difference, 99.9),
            "SSIM": np.mean(likeness),
            "ART's mean": np.abs(255 * other - expected).mean(),
        }
        yield entry(name, f"quality {quality}", figures, seconds, art_seconds)


def objective(z, x, mask, norm, lamb):
    """`[n]`, summed over channels."""
    z, x = np.float64(z), np.float64(x)
    total = np.sqrt((mask * (z - x) ** 2).sum(axis=(1, 2)))
    total += lamb * np.linalg.norm(z[:, 1:] - z[:, :-1], norm, axis=2).sum(axis=1)
    total += lamb * np.linalg.norm(z[:, :, 1:] - z[:, :, :-1], norm, axis=1).sum(axis=1)
    return total.sum(axis=-1)


def minimized(name, x, art_samples, lamb, iterations, long, batch_size, seed):
    """Total variance minimization: objectives, after few iterations and at the tolerance."""
    np.random.seed(seed)  # noqa: NPY002 (what ART draws from)
    mask = np.stack([np.random.rand(*one.shape) < 0.3 for one in x])  # noqa: NPY002
    mask = mask.astype(np.float32)
    few, kept = x[:art_samples], mask[:art_samples]
    for norm in NORMS:
        art: dict[int, tuple[np.ndarray, float]] = {}
        for steps in (10, long) if norm != np.inf else ():

            def reference(x, norm=norm, steps=steps):
                np.random.seed(seed)  # noqa: NPY002
                return TotalVarMin(norm=norm, lamb=lamb, max_iter=steps, clip_values=(0, 1))(x)[0]

            points, seconds = timed(reference, few, 1)
            art[steps] = objective(points, few, kept, norm, lamb), seconds
        for title, layer in (
            (
                f"{iterations} iterations",
                TotalVarianceMinimization(0.3, norm, lamb, max_iter=iterations),
            ),
            ("to tolerance", TotalVarianceMinimization(0.3, norm, lamb)),
        ):
            # As one array, so that it goes in batches.
            both = np.concatenate([x, mask], axis=-1)
            channels = x.shape[-1]

            def solve(both, layer=layer, channels=channels):
                return layer.minimize(both[..., :channels], both[..., channels:]).points

            points, seconds = ours(solve, both, batch_size)
            value = objective(points[:art_samples], few, kept, norm, lamb)
            converged = layer.minimize(few, kept).converged.numpy()
            figures = {"objective": value.mean(), "converged": converged.mean()}
            if not art:
                yield entry(name, f"TVM norm {norm:g}, {title}", figures, seconds)
            for steps, (theirs, art_seconds) in art.items():
                beside = {"ART's": theirs.mean(), "share not above": np.mean(value <= theirs)}
                yield entry(
                    *(name, f"TVM norm {norm:g}, {title}; ART {steps}"),
                    *({**figures, **beside}, seconds, art_seconds),
                )


if __name__ == "__main__":
    main()
