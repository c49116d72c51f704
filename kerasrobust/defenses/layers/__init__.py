"""Defenses that are part of the network: one layer, one file; their contract in `base.py`."""

from kerasrobust.defenses.layers.base import LayerDefense
from kerasrobust.defenses.layers.bounded_relu import BoundedReLU

__all__ = ["BoundedReLU", "LayerDefense"]
