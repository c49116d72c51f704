"""adv-lib's attacks on weights that came from Keras; run by `optimality.py` with PyTorch's Python.

    python optimality_torch.py FOLDER STEPS NAME...

The folder holds what `torch_twin.py` reads. Each attack's points go to `FOLDER/adv-lib NAME.npz`.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import adv_lib.attacks as library
import numpy as np
import torch
from adv_lib.attacks.auto_pgd import minimal_apgd
from torch_twin import load

INF = float("inf")


def passes(model, x, y, steps):
    """Gradients of the loss alone, at the samples."""
    x = x.requires_grad_()
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(x), y, reduction="sum")
        torch.autograd.grad(loss, x)
    return x


def attacks(steps):
    """adv-lib's minimal-norm attacks at so many passes or about as many, and the passes alone."""
    rounds = steps // 100
    found = {
        "passes": partial(passes, steps=steps),
        "ddn L2": partial(library.ddn, steps=steps, levels=None),
        "sigma_zero L0": partial(library.sigma_zero, num_steps=steps),
        "alma L2": partial(library.alma, num_steps=steps, distance="l2", init_lr_distance=0.1),
        "alma L1": partial(library.alma, num_steps=steps, distance="l1", init_lr_distance=0.5),
        # The proximal operator that its authors prefer for L0.
        "pdpgd L0": partial(library.pdpgd, norm=0, num_steps=steps, proximal_operator=23),
        "pdpgd Linf": partial(library.pdpgd, norm=INF, num_steps=steps),
        "pdpgd L2": partial(library.pdpgd, norm=2, num_steps=steps),
        "pdpgd L1": partial(library.pdpgd, norm=1, num_steps=steps),
        "pdgd L2": partial(library.pdgd, num_steps=steps),
        "deepfool L2": partial(library.df, steps=100, norm=2),
        "deepfool Linf": partial(library.df, steps=100, norm=INF),
        "superdeepfool L2": partial(library.sdf, steps=100),
        "trust_region L2": partial(library.tr, p=2, iter=100),
        "trust_region Linf": partial(library.tr, p=INF, iter=100),
        "cwl2 L2": partial(
            library.carlini_wagner_l2,
            learning_rate=0.1,
            initial_const=0.1,
            binary_search_steps=rounds,
            max_iterations=100,
        ),
        "cwlinf Linf": partial(library.carlini_wagner_linf, max_iterations=100),
        "vfga L0": partial(library.vfga, targeted=False),
    }
    for norm, name in ((0, "L0"), (1, "L1"), (2, "L2"), (INF, "Linf")):
        # The lengths of the first step that serve each norm best here.
        alpha = 10.0 if norm in (0, INF) else 1.0
        found[f"fmn {name}"] = partial(library.fmn, norm=norm, steps=steps, α_init=alpha)
    for norm, name in ((1, "L1"), (2, "L2"), (INF, "Linf")):
        found[f"fab {name}"] = partial(library.fab, norm=norm, n_iter=rounds * 10)
        # Halvings of what is far enough for every sample here.
        found[f"apgd {name}"] = partial(
            minimal_apgd,
            norm=norm,
            max_eps={1: 30.0, 2: 5.0, INF: 0.5}[norm],
            binary_search_steps=rounds,
            n_iter=100,
        )
    return found


def main(folder, steps, names):
    model, x, y = load(folder)
    known = attacks(steps)
    for name in names:
        model.forwards = model.backwards = 0
        begin = time.perf_counter()
        found = known[name](model, x.clone(), y)
        seconds = time.perf_counter() - begin
        np.savez_compressed(
            folder / f"adv-lib {name}.npz",
            x_adv=found.detach().permute(0, 2, 3, 1).numpy(),
            passes=np.array([model.forwards / len(x), model.backwards / len(x)]),
            seconds=seconds,
        )
        print(f"{name}: {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
