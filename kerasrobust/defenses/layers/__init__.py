"""Defenses that are part of the network: one layer, one file; their contract in `base.py`."""
