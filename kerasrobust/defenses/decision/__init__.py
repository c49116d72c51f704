"""Defenses that answer in a model's place: one defense, one file; their contract in `base.py`."""
