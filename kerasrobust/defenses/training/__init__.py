"""Training defenses: one link of the chain, one file; their contract in `base.py`."""
