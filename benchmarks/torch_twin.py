"""A Keras network's twin in PyTorch, made from what `optimality.export` wrote.

`FOLDER/network.json` lists the layers, `FOLDER/arrays.npz` their weights, the samples `x` and `y`,
and the logits that are to come out. It needs PyTorch and NumPy and is no part of our environment.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

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
        elif kind in ("MaxPooling2D", "AveragePooling2D"):
            pool = torch.nn.MaxPool2d if kind == "MaxPooling2D" else torch.nn.AvgPool2d
            module = pool(tuple(layer["pool_size"]), tuple(layer["strides"]))
        elif kind == "Flatten":
            module = Flatten()
        else:
            raise ValueError(f"No twin of the layer {kind} is known here.")
        made.append(module)
        if layer["relu"]:
            made.append(torch.nn.ReLU())
    return torch.nn.Sequential(*made).eval()


def load(folder):
    """The network, counted, and the samples, once its logits are the recorded ones; one thread."""
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
    return model, x, y
