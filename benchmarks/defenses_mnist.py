"""What each training defense is worth on MNIST: short runs of one network, attacked alike.

    python benchmarks/defenses_mnist.py --output study --rows natural
    python benchmarks/defenses_mnist.py --output study --threads 1

Every row trains the AREB CNN with one defense, for the same epochs on the same samples but for the
costliest ones, and is then attacked:

* clean accuracy on all test samples;
* FGSM with eps 0.3, and IFGSM with that budget in k = 10 and in 30 steps of eps / k, on 1,000;
* Square, a black-box attack with the same budget, on the same 1,000;
* AREB (PGD, C&W, EAD, HopSkipJump with that paper's parameters) on 100. The last three look for the
  nearest adversarial sample, however far it is: their median distance tells, not the accuracy.

The settings of a defense are those of its paper for MNIST where it has some. "further" in the table
means that the natural network was trained further, at a tenth of the learning rate, as the paper of
NsLoss does with both of its penalties. What is crafted for training is crafted in ten steps, where
the papers take up to forty of 0.01. Distillation trains its teacher for as many epochs first;
its seconds are part of the row's. The rows of 6,000 samples are AREB's, adversarial samples and
smoothed labels alone, crafted with a part of that paper's budget.

Batch normalisation needs some 500 steps until its moving averages are those of the data: with large
batches of few samples every row would be at the level of guessing.

Each row is stored in the output folder as soon as it is there: the model, and the figures with the
settings they belong to. The same call goes on with what is missing, so that several processes may
work in one folder on different rows. The table shows all rows stored with the same settings.

A row is marked "!" where a black-box attack succeeded, on more than a few samples, where IFGSM or
an attack of AREB with the same budget or at the same distance had failed, and "?" where it only
went farther (see `kerasrobust.evaluation.diagnosis`); its white-box figures overestimate it. Below
the table stand these findings in words, and the orderings of the papers (CLAIMS) that did not
appear.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import tensorflow as tf

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.datasets import Dataset
from kerasrobust.engine.classifier import Classifier
from kerasrobust.specs import jsonable

EPS = 0.3
PGD = {"eps": EPS, "eps_step": 0.05, "max_iter": 10}
IFGSM = {"eps": EPS, "eps_step": 0.03, "max_iter": 10}


def against(name: str, alpha: float, **config: Any) -> dict[str, Any]:
    """Adversarial training with one attack."""
    attack = {"name": name, "config": config}
    return {"name": "adversarial_training", "config": {"attack": attack, "alpha": alpha}}


@dataclasses.dataclass(frozen=True)
class Row:
    """How one network is trained.

    Attributes:
        defense: As `wrap` takes it; None for none.
        further: Whether it trains the natural network further.
        samples: Most samples that it is trained on; None for no limit.
    """

    defense: list[Any] | None
    further: bool = False
    samples: int | None = None


COSTLY = 6000
# PGD as in the row of PGD alone, EAD and HopSkipJump with a small part of the paper's budget.
ENSEMBLE = {
    "name": "ensemble_adversarial_training",
    "config": {
        "attacks": [
            {"name": "pgd", "config": PGD},
            {
                "name": "ead",
                "config": {
                    "confidence": 0.5,
                    "learning_rate": 0.05,
                    "binary_search_steps": 3,
                    "max_iter": 10,
                    "beta": 0.01,
                    "decision_rule": "L1",
                },
            },
            {"name": "hsja", "config": {"max_iter": 2, "max_eval": 30, "init_eval": 30}},
        ]
    },
}
ROWS: dict[str, Row] = {
    "natural": Row(None),
    "fgsm": Row([against("fgsm", 0.5, eps=EPS)]),
    "ifgsm": Row([against("bim", 0.5, **IFGSM)]),
    "e2sad-entropy": Row(["e2sad:second_step=entropy"]),
    "e2sad-random_start": Row(["e2sad:second_step=random_start"]),
    "e2sad-literal": Row(["e2sad:second_step=literal"]),
    "minimax": Row(["minimax:eps=0.3"]),
    "gda": Row(["gda:sigma=0.3,N=10"]),
    "gda-brelu": Row(["gda:sigma=0.3,N=10", "brelu:t=1.0"]),
    # The GEA paper's eps of 15 in MNIST's units, see the defense.
    "vat": Row(["vat:eps=1.6,max_iter=3"]),
    "superimpose-1": Row(["superimpose:alpha=0.4"]),
    "superimpose-2": Row(["superimpose:alpha=0.4,kl_weight=10"]),
    "superimpose-3": Row(["superimpose:p=2,q=4,kl_weight=10"]),
    "nsloss": Row(["nsloss:weight=2.0,eps=1.0,N=5"], further=True),
    "jacobian": Row(["jacobian:weight=0.01"], further=True),
    "nsloss-jacobian": Row(["nsloss:weight=2.0,eps=1.0,N=5", "jacobian:weight=0.01"], further=True),
    "distillation": Row(["distillation:temperature=20"]),
    "label_smoothing": Row(["label_smoothing:k=0.9"]),
    "trades": Row([{"name": "trades", "config": {**PGD, "beta": 1.0}}]),
    # AREB trains on adversarial samples alone, with label smoothing.
    "pgd-6000": Row([against("pgd", 0.0, **PGD), "label_smoothing:k=0.9"], samples=COSTLY),
    "ensemble-6000": Row([ENSEMBLE, "label_smoothing:k=0.9"], samples=COSTLY),
}

# A figure, the row that is better by it, the row that is worse, and where it is said.
CLAIMS: list[tuple[str, str, str, str]] = [
    ("fgsm", "fgsm", "e2sad-entropy", "E2SAD table 3.1"),
    ("fgsm", "e2sad-entropy", "ifgsm", "E2SAD table 3.1"),
    ("fgsm", "ifgsm", "natural", "E2SAD table 3.1"),
    ("bim-10", "ifgsm", "e2sad-entropy", "E2SAD table 3.1"),
    ("bim-10", "e2sad-entropy", "fgsm", "E2SAD table 3.1"),
    ("bim-10", "fgsm", "natural", "E2SAD table 3.1"),
    ("bim-30", "ifgsm", "e2sad-entropy", "E2SAD table 3.1"),
    ("bim-30", "e2sad-entropy", "fgsm", "E2SAD table 3.1"),
    ("bim-30", "fgsm", "natural", "E2SAD table 3.1"),
    ("clean", "natural", "e2sad-entropy", "E2SAD table 3.1"),
    ("clean", "e2sad-entropy", "ifgsm", "E2SAD table 3.1"),
    ("fgsm", "gda-brelu", "natural", "BRELU-GDA table 1, there eps 0.1"),
    ("fgsm", "gda-brelu", "gda", "BRELU-GDA figures 3 to 5"),
    ("bim-10", "vat", "natural", "GEA table 2, there transferred attacks"),
    ("bim-10", "vat", "superimpose-3", "GEA table 2, there transferred attacks"),
    ("bim-10", "superimpose-3", "natural", "GEA table 2, there transferred attacks"),
    ("cwl2 median", "nsloss-jacobian", "jacobian", "NsLoss table III, budget 1"),
    ("cwl2 median", "jacobian", "nsloss", "NsLoss table III, budget 1"),
    ("cwl2 median", "nsloss", "natural", "NsLoss table III, budget 1"),
    ("pgd", "label_smoothing", "natural", "AREB table 5"),
    ("pgd", "ensemble-6000", "pgd-6000", "AREB table 8"),
    ("cwl2 median", "ensemble-6000", "pgd-6000", "AREB table 8, there accuracy"),
    ("ead median", "ensemble-6000", "pgd-6000", "AREB table 8, there accuracy"),
    ("hsja median", "ensemble-6000", "pgd-6000", "AREB table 8, there accuracy"),
]
MARKS = {"gradient_masking": "!", "black_box_stronger": "?"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all rows have in common; figures are only comparable where it is the same."""

    dataset: str
    samples: int | None
    epochs: int
    batch_size: int
    seed: int
    attacked: int
    attacked_by_areb: int
    queries: int


class Study:
    """The data, the folder, and how a row is trained and judged."""

    def __init__(self, folder: Path, settings: Settings, start: Path | None, data_dir: str | None):
        self.folder, self.settings = folder, settings
        self.start = start or folder / "natural" / "model.keras"
        self.train = datasets.load(
            settings.dataset, "train", data_dir, settings.samples, settings.seed
        )
        self.test = datasets.load(settings.dataset, "test", data_dir)

    def row(self, name: str) -> dict[str, Any]:
        """The figures of a row: stored ones, or trained and judged now."""
        row, told, folder = ROWS[name], self._told(name), self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        stored = read(folder / "row.json", told)
        if stored is not None:
            return stored
        trained = read(folder / "training.json", told)
        if trained is None:
            begin = time.perf_counter()
            self._fit(row).save(folder / "model.keras")
            trained = {"settings": told, "seconds": time.perf_counter() - begin}
            write(folder / "training.json", trained)
        model = models.load(folder / "model.keras")
        report = {**trained, "further": row.further, **self._judge(model, folder)}
        write(folder / "row.json", report)
        return report

    def stored(self, name: str) -> dict[str, Any] | None:
        """The figures of a row if they are there."""
        return read(self.folder / name / "row.json", self._told(name))

    def _told(self, name: str) -> dict[str, Any]:
        """What the figures of a row depend on."""
        row = ROWS[name]
        told = {**dataclasses.asdict(self.settings), "defense": row.defense}
        told["samples"] = self._samples(row)
        if row.further:
            told["start"] = str(self.start)
        return jsonable(told)

    def _samples(self, row: Row) -> int:
        return min(len(self.train), row.samples or len(self.train))

    def _fit(self, row: Row) -> Any:
        seed = self.settings.seed
        if not row.further:
            shape = self.train.input_shape
            name = models.default_name(shape)  # of images as large as MNIST's the AREB CNN
            model = models.get(name, shape, self.train.nb_classes, seed=seed)
        elif self.start.is_file():
            model = models.load(self.start)
        else:
            raise click.ClickException(
                f"{self.start} is not there: run the row natural first, or give --start."
            )
        if row.defense is not None:
            model = kerasrobust.wrap(
                model, row.defense, clip_values=self.train.clip_values, seed=seed
            )
        train, samples = self.train, self._samples(row)
        if samples < len(train):
            chosen = np.random.default_rng(seed).permutation(len(train))[:samples]
            train = dataclasses.replace(train, x=train.x[chosen], y=train.y[chosen])
        models.fit(
            model,
            train,
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            learning_rate=1e-4 if row.further else 1e-3,
            seed=seed,
            verbose=2,
        )
        return model

    def _judge(self, model: Any, folder: Path) -> dict[str, Any]:
        settings, seed = self.settings, self.settings.seed
        begin = time.perf_counter()
        labels = Classifier.of(model).predict(self.test.x).argmax(axis=1)
        figures = {"clean": float(np.mean(labels == self.test.y))}
        findings: list[dict[str, Any]] = []
        many = draw(self.test, settings.attacked, seed)
        few = draw(self.test, settings.attacked_by_areb, seed)
        ifgsm = {f"bim-{k}": f"bim:eps={EPS},eps_step={EPS / k},max_iter={k}" for k in (10, 30)}
        square = f"square:eps={EPS},max_iter={settings.queries}"
        # A single step, or ten, may miss what a black-box attack finds without any masking.
        rounds: list[tuple[Dataset, dict[str, str]]] = [
            (many, {"fgsm": f"fgsm:eps={EPS}", "bim-10": ifgsm["bim-10"]}),
            (many, {"bim-30": ifgsm["bim-30"], "square": square}),
            (few, {"areb": "areb"}),
        ]
        for data, attacks in rounds:
            report = kerasrobust.evaluate(
                model,
                data.x,
                data.y,
                attacks=list(attacks.values()),
                dataset=settings.dataset,
                seed=seed,
                output=folder / "-".join(attacks),
            )
            names = list(report.attacks) if "areb" in attacks else list(attacks)
            for name, attack in zip(names, report.attacks.values(), strict=True):
                figures[name] = attack.accuracy
                if attack.kind == "minimal":
                    norm = f"{attack.norm:g}"
                    figures[f"{name} median"] = getattr(attack, f"median_l{norm}")
            findings += [found.to_dict() for found in report.findings if found.code in MARKS]
        seconds = time.perf_counter() - begin
        return {"figures": figures, "findings": findings, "judged_in": seconds}


def draw(data: Dataset, samples: int, seed: int) -> Dataset:
    """Some samples at random, smaller draws being part of larger ones."""
    chosen = np.random.default_rng(seed).permutation(len(data))[:samples]
    return dataclasses.replace(data, x=data.x[chosen], y=data.y[chosen])


def read(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What is stored there, if it was made with these settings."""
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored if stored["settings"] == settings else None


def write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(jsonable(content), indent=2), encoding="utf-8")
    part.replace(path)


def floats(row: dict[str, Any]) -> dict[str, float]:
    """The figures; JSON has the infinite ones as strings."""
    return {key: float(value) for key, value in row["figures"].items()}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """All rows in Markdown, the findings, and the claims that did not appear."""
    budget = ["clean", "fgsm", "bim-10", "bim-30", "square", "pgd"]
    minimal = {"cwl2": "L2", "ead": "L1", "hsja": "L2"}
    header = ["row", "", "samples x epochs", "minutes", "clean", "FGSM", "IFGSM 10", "IFGSM 30"]
    header += ["Square", "PGD", *(f"{name.upper()} (median {n})" for name, n in minimal.items())]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    for name, row in rows.items():
        figures, settings = floats(row), row["settings"]
        marks = sorted({MARKS[found["code"]] for found in row["findings"]})
        cells = [name, "".join(marks), f"{settings['samples']} x {settings['epochs']}"]
        cells[2] += ", further" if row["further"] else ""
        cells.append(f"{row['seconds'] / 60:.1f}")
        cells += [f"{100 * figures[key]:.{2 if key == 'clean' else 1}f}" for key in budget]
        cells += [f"{100 * figures[k]:.0f} ({figures[f'{k} median']:.2f})" for k in minimal]
        lines.append(" | ".join(cells))
    lines = [f"| {line} |" for line in lines]
    lines += ["", "Black-box attacks that did better than a white-box one:", ""]
    for name, row in rows.items():
        for found in row["findings"]:
            lines.append(f"- {name} ({MARKS[found['code']]}): {found['message']}")
    lines += ["", "Orderings of the papers that did not appear:", ""]
    for figure, better, worse, source in CLAIMS:
        if better in rows and worse in rows:
            values = [floats(rows[name])[figure] for name in (better, worse)]
            if not values[0] > values[1]:
                first, second = (f"{value:.4g}" for value in values)
                lines.append(
                    f"- {figure}: {better} above {worse} ({source}); here {first} and {second}"
                )
    return "\n".join(lines) + "\n"


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option(
    "--rows",
    "names",
    default=",".join(ROWS),
    help=f"Separated by commas. Default: all of {', '.join(ROWS)}.",
)
@click.option("--dataset", default="mnist", show_default=True, help="Name, as kr-train takes it.")
@click.option("--data-dir", default=None, help="Folder of prepared TFDS data sets.")
@click.option("--samples", default=None, type=click.IntRange(1), help="To train on. Default: all.")
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--attacked", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--attacked-by-areb", default=100, show_default=True, type=click.IntRange(1))
@click.option(
    "--queries", default=1000, show_default=True, type=click.IntRange(1), help="Square's."
)
@click.option(
    "--start",
    default=None,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Natural network that some rows train further. Default: that of the row natural.",
)
@click.option("--threads", default=None, type=click.IntRange(1), help="Default: all cores.")
def main(
    output: Path,
    names: str,
    dataset: str,
    data_dir: str | None,
    samples: int | None,
    epochs: int,
    batch_size: int,
    seed: int,
    attacked: int,
    attacked_by_areb: int,
    queries: int,
    start: Path | None,
    threads: int | None,
) -> None:
    """Runs the rows that are missing and prints the table of all."""
    chosen = [name.strip() for name in names.split(",")]
    unknown = sorted(set(chosen) - set(ROWS))
    if unknown:
        raise click.BadParameter(f"unknown {', '.join(unknown)}; known: {', '.join(ROWS)}")
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    settings = Settings(
        dataset, samples, epochs, batch_size, seed, attacked, attacked_by_areb, queries
    )
    study = Study(output, settings, start, data_dir)
    for name in chosen:
        click.echo(f"{name} ...", err=True)
        study.row(name)
    rows = {name: study.stored(name) for name in ROWS}
    text = table({name: row for name, row in rows.items() if row is not None})
    (output / "table.md").write_text(text, encoding="utf-8")
    click.echo(text, nl=False)


if __name__ == "__main__":
    main()
