"""Are an attack's defaults the settings that a user would have had to find?

    python benchmarks/defaults.py --model areb_cnn.keras --dataset mnist --linf 0.1

Runs each attack with a budget alone, and with each setting of its grid: what is left of the model's
accuracy. Beside the default stand the best setting of about as many passes and the best of all;
a minimal-norm attack is shown with the share of samples that it fools and its median distance, for
which the grid holds the settings of a longer search. Each figure is stored in the output folder as
soon as it is there: the same call goes on with what is missing.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import attacks
from kerasrobust.engine.classifier import Classifier


def grid(**values: list[Any]) -> list[dict[str, Any]]:
    """All combinations of these settings."""
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


# Settings beside the defaults of budget attacks, lengths as shares of the budget. `longer`
# are those that make more passes than the default does.
STEPS = grid(eps_step=[0.01, 0.025, 0.1, 0.25, 1.0])
BUDGET: dict[str, dict[str, list[dict[str, Any]]]] = {
    "fgsm": {"same": []},
    "rand_fgsm": {"same": grid(alpha=[0.1, 0.25, 0.75], noise=["sign"])},
    "pgd": {
        "same": [*STEPS, {"num_random_init": 1}],
        "longer": [{"num_random_init": 5}, {"max_iter": 400}],
    },
    "bim": {"same": STEPS, "longer": [{"max_iter": 400}]},
    "mifgsm": {"same": [*STEPS, {"decay": 0.0}, {"decay": 1.0}], "longer": [{"max_iter": 400}]},
    "ilc": {"same": STEPS, "longer": [{"max_iter": 400}]},
    "gea": {
        "same": [{"combine": "logits"}, *grid(eps_step=[0.025, 0.1, 0.25])],
        "longer": [{"max_iter": 400}],
    },
    "vat": {
        "same": grid(finite_diff=[0.01, 0.05, 0.1, 0.25, 0.5, 1.0]),
        "longer": [{"max_iter": 50}],
    },
    "apgd": {
        "same": [{"loss_type": "difference_logits_ratio"}, {"nb_random_init": 1, "max_iter": 500}],
        "longer": [{"nb_random_init": 20}],
    },
    "square": {"same": grid(p_init=[0.05, 0.3]), "longer": [{"max_iter": 5000}]},
}
# Norms that these attacks take beside infinity.
NORMS = {"fgsm": (2, 1), "pgd": (2, 1), "mifgsm": (2, 1), "apgd": (2, 1), "square": (2,)}
MINIMAL: dict[str, list[dict[str, Any]]] = {
    "fgsm:minimal=true": [],
    "deepfool": [{"nb_grads": 3}],
    "jsma": [{"outputs": "logits"}],
    "cwl2": [{"learning_rate": 0.01}, {"max_iter": 300}],
    "ead": [{"learning_rate": 0.1}, {"decision_rule": "L1"}, {"max_iter": 300}],
    "fab": [{"restarts": 3}],
    "ddn": [{"gamma": 0.02}, {"max_iter": 100}],
    "fmn": [{"alpha": 1.0}, {"max_iter": 100}],
    "fmn:norm=2": [{"alpha": 10.0}],
    "fmn:norm=1": [{"alpha": 0.3}],
    "fmn:norm=0": [{"alpha": 1.0}],
    "alma": [{"alpha": 0.5}, {"first_step": 0.1}, {"max_iter": 100}],
    "alma:norm=1": [{"alpha": 0.5}, {"first_step": 0.5}],
    "sigma_zero": [{"threshold_step": 0.003}, {"max_iter": 100}],
    "cwlinf": [{"learning_rate": 0.1}, {"max_iter": 300}],
    "cwl0": [{"binary_search_steps": 5}],
    "hsja": [{"max_iter": 20}],
    "boundary": [{"max_iter": 1000}],
    "signopt": [{"max_iter": 100}],
    "simba": [{"attack": "px"}, {"max_iter": 10000}],
    "zoo": [
        {"max_iter": 10, "learning_rate": 0.01, "initial_const": 1e-3},
        {"binary_search_steps": 3},
        {"max_iter": 1000},
    ],
}
# The attacks whose search takes minutes on a few samples.
COSTLY = {"hsja", "boundary", "signopt", "simba", "zoo"}


def told(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "default"


class Study:
    """Runs attacks on one model's samples, and remembers."""

    def __init__(self, model: str, dataset: str, samples: int, few: int, output: Path) -> None:
        network = kerasrobust.models.load(model)
        data = kerasrobust.datasets.load(dataset, "test", samples=samples, seed=0)
        self.classifier = Classifier.of(network)
        self.x, self.y, self.few = data.x, data.y, few
        self.path = output / f"{Path(model).stem}.json"
        self.known = json.loads(self.path.read_text()) if self.path.exists() else {}

    def run(self, spec: str, settings: dict[str, Any]) -> dict[str, float]:
        """Percent of the samples left, the median distance, and gradients and queries a sample."""
        few = spec.partition(":")[0] in COSTLY
        n = self.few if few else len(self.x)
        key = f"{spec} {told(settings)} {n}"
        if key not in self.known:
            attack = attacks.get(spec, **settings).bind(self.classifier)
            begin = time.perf_counter()
            result = attack.run(self.x[:n], self.y[:n])
            right = ~result.initially_adversarial
            self.known[key] = {
                "left": 100 * float(np.mean(~result.success)),
                "fooled": 100 * float(result.success[right].mean()),
                "median": float(np.median(result.distance(attack.norm)[right])),
                "passes": float(np.mean((result.gradients + result.queries)[right])),
                "seconds": time.perf_counter() - begin,
            }
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.known, indent=1))
            print(key, json.dumps(self.known[key]), flush=True)
        return self.known[key]


def lengths(settings: dict[str, Any], eps: float) -> dict[str, Any]:
    """Settings with their lengths in pixels."""
    names = ("eps_step", "alpha", "finite_diff")
    return {name: value * eps if name in names else value for name, value in settings.items()}


def budget_rows(study: Study, eps: dict[float, float]) -> list[tuple[str, ...]]:
    """Default and best of every budget attack, in each of its norms that a budget is given for."""
    rows = []
    for name, settings in BUDGET.items():
        for norm in (np.inf, *NORMS.get(name, ())):
            own = 2.0 if name == "vat" else norm
            if own not in eps:
                continue
            given = {"eps": eps[own]} if norm == np.inf else {"eps": eps[own], "norm": norm}
            figures = {
                kind: {
                    told(one): study.run(name, {**given, **lengths(one, eps[own])})["left"]
                    for one in ([{}] if kind == "default" else settings.get(kind, []))
                }
                for kind in ("default", "same", "longer")
            }
            default = figures["default"]["default"]
            cells = []
            for kinds in (("default", "same"), ("default", "same", "longer")):
                found = {key: left for kind in kinds for key, left in figures[kind].items()}
                best = min(found, key=lambda key: found[key])
                better = found[best] < default
                cells.append(f"{found[best]:.1f} ({best})" if better else f"{default:.1f}")
            rows.append((f"{name}, L{own:g} {eps[own]:g}", f"{default:.1f}", *cells))
    return rows


def minimal_rows(study: Study) -> list[tuple[str, ...]]:
    """What the default of every minimal-norm attack reaches, and what else was tried."""
    rows = []
    for spec, settings in MINIMAL.items():
        shown = [study.run(spec, one) for one in ({}, *settings)]
        others = [
            f"{one['fooled']:.1f}, {one['median']:.4g} ({told(setting)})"
            for one, setting in zip(shown[1:], settings, strict=True)
        ]
        one = shown[0]
        rows.append((spec, f"{one['fooled']:.1f}, {one['median']:.4g}", "; ".join(others)))
    return rows


@click.command()
@click.option("--model", required=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--samples", default=100, show_default=True)
@click.option("--few", default=20, show_default=True, help="Samples of the costly attacks.")
@click.option("--linf", type=float, help="Budget in each norm, in pixels.")
@click.option("--l2", type=float)
@click.option("--l1", type=float)
@click.option("--minimal", is_flag=True, help="Also the minimal-norm attacks.")
@click.option("--output", type=Path, default=Path("defaults"), show_default=True)
def main(model, dataset, samples, few, linf, l2, l1, minimal, output) -> None:
    """Prints the tables of one model."""
    study = Study(model, dataset, samples, few, output)
    given = {np.inf: linf, 2.0: l2, 1.0: l1}
    eps = {norm: value for norm, value in given.items() if value is not None}
    tables = [
        (
            ("attack", "left by default, %", "best of as many passes", "best of all"),
            budget_rows(study, eps),
        )
    ]
    if minimal:
        heads = ("attack", "fooled %, median", "other settings: fooled %, median")
        tables.append((heads, minimal_rows(study)))
    for heads, rows in tables:
        table = Table(*heads)
        for row in rows:
            table.add_row(*row)
        Console(width=160).print(table)


if __name__ == "__main__":
    main()
