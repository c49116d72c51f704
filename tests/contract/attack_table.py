"""One row per registered attack and norm: settings that run the whole table in seconds."""

from __future__ import annotations

import math

# Settings under which the attack fools most digits of the small CNN.
ROWS = [
    ("fgsm", {"eps": 0.4}),
    ("fgsm", {"eps": 2.0, "norm": 2}),
    ("fgsm", {"eps": 6.0, "norm": 1}),
    ("pgd", {"eps": 0.3, "eps_step": 0.05, "max_iter": 10}),
    ("pgd", {"eps": 1.5, "eps_step": 0.3, "max_iter": 10, "norm": 2}),
    ("pgd", {"eps": 6.0, "eps_step": 1.0, "max_iter": 10, "norm": 1}),
    ("pgd", {"eps": 0.3, "eps_step": 0.05, "max_iter": 5, "num_random_init": 3}),
    ("cwl2", {"max_iter": 30, "learning_rate": 0.2, "binary_search_steps": 5}),
    ("ead", {"max_iter": 20, "binary_search_steps": 6, "initial_const": 0.1}),
    ("ead", {"max_iter": 20, "binary_search_steps": 6, "decision_rule": "L1"}),
    ("hsja", {"max_iter": 3, "max_eval": 40, "init_eval": 40}),
    ("hsja", {"max_iter": 3, "max_eval": 40, "init_eval": 40, "norm": math.inf}),
]
# One row of each attack, for what costs a compilation.
FIRST_ROWS = [row for i, row in enumerate(ROWS) if row[0] not in [name for name, _ in ROWS[:i]]]


def row_id(row):
    name, settings = row
    told = ("norm", "decision_rule", "num_random_init")
    return "-".join([name, *(f"{key}={settings[key]}" for key in told if key in settings)])


def is_random(row):
    name, settings = row
    return name == "hsja" or settings.get("num_random_init", 0) > 0
