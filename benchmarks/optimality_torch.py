"""adv-lib's attacks on weights that came from Keras; run by `optimality.py` with PyTorch's Python.

    python optimality_torch.py FOLDER STEPS NAME...

`FOLDER/network.json` lists the layers, `FOLDER/arrays.npz` their weights, the samples `x` and `y`,
and the logits that are to come out. Each attack's points go to `FOLDER/adv-lib NAME.npz`.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path

import adv_lib.attacks as library
import numpy as np
import torch
from adv_lib.attacks.auto_pgd import minimal_apgd

INF = float("inf")
TOLERANCE = 1e-4  # of logits, relative to the largest


class Flatten(torch.nn.Module):
    """Keras's order: channels last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x


class Counted(torch.nn.Module):
    """A network that counts the samples of its passes, forward and backward."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.forwards = self.backwards = 0

    def forward(self, x):
        self.forwards += len(x)
        logits = self.inner(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backwards += len(gradient)


def network(layers, arrays):
    """The PyTorch twin of a chain of Keras layers."""
    made = []
    for i, layer in enumerate(layers):
        w = [torch.tensor(arrays[f"{i}.{j}"]) for j in range(layer["weights"])]
        kind = layer["kind"]
        if kind == "Conv2D":
            kernel = w[0].permute(3, 2, 0, 1).contiguous()
            out, into = kernel.shape[:2]
            same = layer["padding"] == "same"
            module = torch.nn.Conv2d(
                into,
                out,
                tuple(kernel.shape[2:]),
                stride=tuple(layer["strides"]),
                padding="same" if same else 0,
                bias=len(w) > 1,
            )
            module.weight.data = kernel
            if len(w) > 1:
                module.bias.data = w[1]
        elif kind == "Dense":
            module = torch.nn.Linear(*w[0].shape)
            module.weight.data, module.bias.data = w[0].T.contiguous(), w[1]
        elif kind == "BatchNormalization":
            module = torch.nn.BatchNorm2d(len(w[0])) if layer["rank"] == 4 else None
            module = module or torch.nn.BatchNorm1d(len(w[0]))
            module.eps = layer["epsilon"]
            module.weight.data, module.bias.data = w[0], w[1]
            module.running_mean, module.running_var = w[2], w[3]
        elif kind == "MaxPooling2D":
            module = torch.nn.MaxPool2d(tuple(layer["pool_size"]), tuple(layer["strides"]))
        elif kind == "Flatten":
            module = Flatten()
        else:
            raise ValueError(f"No twin of the layer {kind} is known here.")
        made.append(module)
        if layer["relu"]:
            made.append(torch.nn.ReLU())
    return torch.nn.Sequential(*made).eval()


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
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arrays = dict(np.load(folder / "arrays.npz"))
    model = Counted(network(json.loads((folder / "network.json").read_text()), arrays))
    x = torch.tensor(arrays["x"]).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(arrays["y"])
    with torch.no_grad():
        apart = (model(x).numpy() - arrays["logits"]).__abs__().max()
    if apart > TOLERANCE * np.abs(arrays["logits"]).max():
        raise ValueError(f"The logits of the twin differ by {apart:g}.")
    print(f"logits within {apart:.2g}", file=sys.stderr)
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
