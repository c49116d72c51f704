"""Peak memory of each attack on images of 224x224x3 and 1,000 classes.

    python benchmarks/large_images.py --network MobileNetV2 --samples 4

The network is one of `keras.applications` with random weights; what it predicts is taken for right.
The attacks are those of AREB, the parts of AutoAttack, the other minimal-norm attacks and those on
queries, with a few steps each, since memory does not grow with their number, and CLEVER. Each row
is a process of its own: its peak, that above a forward pass of one sample, and its seconds,
compilation included. A batch is the default one, 27 of these images: with `--samples 27` it is
full. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import click

# Few steps, but as many samples, classes and queries at once as with the usual number.
ATTACKS = {
    "pgd": "pgd:eps=0.03,max_iter=3",
    "cwl2": "cwl2:max_iter=5,binary_search_steps=2",
    "ead": "ead:max_iter=5,binary_search_steps=2",
    "hsja": "hsja:max_iter=2,init_eval=100,max_eval=1000",
    "apgd-ce": "apgd:eps=0.001,max_iter=5",
    "apgd-t": "apgd:eps=0.001,max_iter=5,loss_type=difference_logits_ratio,nb_target_classes=9",
    "fab-t": "fab:eps=0.001,max_iter=2,nb_target_classes=9,norm=inf",
    "fab": "fab:max_iter=2,norm=2",
    "square": "square:eps=0.001,max_iter=20",
    "deepfool": "deepfool:max_iter=3",
    "ddn": "ddn:max_iter=5",
    "fmn L0": "fmn:norm=0,max_iter=5",
    "alma L1": "alma:norm=1,max_iter=5",
    "sigma_zero": "sigma_zero:max_iter=5",
    "jsma": "jsma:gamma=0.0001",
    "apgd-ce, 20 draws": "apgd:eps=0.001,max_iter=2,eot_iter=20",
    "boundary": "boundary:max_iter=2",
    "signopt": "signopt:max_iter=1,num_trial=2",
    "simba": "simba:max_iter=20",
    "zoo": "zoo:max_iter=2",
}
# CLEVER with 32 points for a maximum, against the ten likeliest classes, and with 4 against all.
CLEVER = {
    "clever": {"nb_batches": 2, "batch_size": 32, "nb_grads": 10},
    "clever, all classes": {"nb_batches": 2, "batch_size": 4},
}
ROWS = (*ATTACKS, *CLEVER)
WIDTH = max(map(len, ROWS))


def measure(network: str, samples: int, name: str) -> None:
    """One row, in this process, as JSON: MiB before, MiB at the peak, seconds, success."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np

    import kerasrobust
    from kerasrobust import attacks

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, network)(weights=None, classifier_activation=None)
    x = np.random.default_rng(0).random((samples, 224, 224, 3), np.float32)
    classifier = kerasrobust.Classifier.of(model, (0.0, 1.0))
    y = classifier.predict(x, 1).argmax(axis=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    if name in CLEVER:
        kerasrobust.metrics.clever(classifier, x[:1], radius=1.0, norm=2, **CLEVER[name])
        success = 0
    else:
        result = attacks.get(ATTACKS[name]).bind(classifier).run(x, y)
        success = int(result.success.sum())
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([before / 1024, after / 1024, seconds, success]))


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--network", default="MobileNetV2", show_default=True, help="In keras.applications.")
@click.option("--samples", default=4, show_default=True)
@click.option("--attack", "names", multiple=True, type=click.Choice(ROWS))
@click.option("--row", hidden=True)
def main(network: str, samples: int, names: tuple[str, ...], row: str | None) -> None:
    """A process for each row."""
    if row:
        measure(network, samples, row)
        return
    rows = {}
    print(f"{network}, {samples} samples")
    print(f"{'attack':{WIDTH}s}  GiB at peak  above the model  seconds  broken")
    for name in names or ROWS:
        command = [sys.executable, __file__, "--network", network, "--samples", str(samples)]
        run = subprocess.run([*command, "--row", name], capture_output=True, text=True)
        if run.returncode:
            print(f"{name:{WIDTH}s}  failed with status {run.returncode}: {run.stderr[-300:]}")
            continue
        before, after, seconds, success = json.loads(run.stdout.splitlines()[-1])
        rows[name] = {"peak": after / 1024, "above": (after - before) / 1024, "seconds": seconds}
        print(
            f"{name:{WIDTH}s} {after / 1024:12.2f} {(after - before) / 1024:16.2f} {seconds:8.0f} "
            f"{success:7d}",
            flush=True,
        )
    print(json.dumps({"network": network, "samples": samples, "rows": rows}))


if __name__ == "__main__":
    main()
