"""What protocols share: models that can be compared, evaluations in a common folder."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kerasrobust import models as saved
from kerasrobust.checks import check_finite_scores, check_folder
from kerasrobust.datasets import Dataset
from kerasrobust.engine import store as storage
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.criterion import clean_correct
from kerasrobust.evaluation.conclusion import conclude
from kerasrobust.evaluation.pieces import Evaluation
from kerasrobust.evaluation.resolve import unique
from kerasrobust.metrics.proportion import clustered, proportion
from kerasrobust.protocols.result import ProtocolResult

_SAME = ("input_shape", "known_classes", "clip_values")
# The stream of a randomised model's draws when it judges what was crafted elsewhere; that of
# clean samples. An evaluation's own lie nearer to 0.
JUDGED, CLEAN = -(2**25), -(2**26)


def classifiers(
    argument: str, models: Any, clip_values: tuple[float, float] | None = None, least: int = 1
) -> dict[str, Classifier]:
    """The models by name, held together with their compiled functions.

    Args:
        argument: What they are called in messages.
        models: One model, several, or several by name: each a `keras.Model`, a `Classifier` or the
            path of a saved model.
        clip_values: See `Classifier.of`.
        least: How many there must be.

    Raises:
        ValueError, TypeError, OSError: If there are too few or one is none.
    """
    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
        if len(named) < len(models) or not all(name.strip() for name in named):
            raise ValueError(f"`{argument}` must have different names. Received: {list(models)!r}")
    else:
        named = {}
        for model in models if isinstance(models, (list, tuple)) else [models]:
            path = isinstance(model, (str, os.PathLike))
            inner = model.model if isinstance(model, Classifier) else model
            name = pathlib.Path(model).stem if path else getattr(inner, "name", "model")
            named[unique(str(name), named)] = model
    if len(named) < least:
        raise ValueError(
            f"`{argument}` must hold {least} models or more. Received: {len(named)} of them"
        )
    found = {}
    for name, model in named.items():
        if isinstance(model, (str, os.PathLike)):
            model = saved.load(model)
        found[name] = Classifier.of(model, None if isinstance(model, Classifier) else clip_values)
    return found


def bounds(x: Any, clip_values: tuple[float, float] | None) -> tuple[float, float] | None:
    """Those that are given, else those of a `Dataset`."""
    return x.clip_values if clip_values is None and isinstance(x, Dataset) else clip_values


def check_alike(found: Mapping[str, Classifier]) -> None:
    """Raises unless all take the same inputs and answer with the same classes."""
    (name, first), *others = found.items()
    for other, classifier in others:
        for key in _SAME:
            ours, theirs = getattr(first, key), getattr(classifier, key)
            if ours != theirs:
                raise ValueError(
                    f"Models that are compared must have the same {key}. "
                    f"Received: {ours} of {name!r} and {theirs} of {other!r}"
                )


class Pieces:
    """The evaluations of one protocol: the same samples and options, each in a folder of its own.

    All of them are made, and so checked, before one is run.

    Args:
        protocol: Its name.
        output: Folder for the tables, the picture and `pieces/`, a report for each evaluation.
        options: Arguments of `Evaluation` that all have in common.

    Raises:
        ValueError, NotADirectoryError: If `output` is a URL or a file.
    """

    def __init__(
        self, protocol: str, output: str | os.PathLike[str] | None, options: dict[str, Any]
    ):
        self.protocol, self.options = protocol, options
        self.output = None if output is None else check_folder("output", output)
        self.findings: list[dict[str, Any]] = []
        self._places: dict[str, str] = {}

    def make(self, name: str, model: Any, x: Any, y: Any, **own: Any) -> Evaluation:
        """An evaluation, not yet run.

        Raises:
            ValueError, TypeError, OSError: As of `Evaluation`; also without labels.
        """
        evaluation = Evaluation(model, x, y, **{**self.options, **own, "output": self._place(name)})
        if not evaluation.given:
            raise ValueError("A protocol needs true labels. Received: y=None")
        return evaluation

    def run(
        self, name: str, evaluation: Evaluation, watch: Callable[..., Any] | None = None
    ) -> Any:
        """Runs it, keeps its findings and, where there is a folder, its report.

        Args:
            name: As of `make`.
            evaluation: What `make` gave.
            watch: As of `Evaluation.compute`.

        Returns:
            Its `Report`.
        """
        if watch is None:
            evaluation.run()
        else:
            evaluation.run(watch=watch)
        report = conclude(evaluation)
        place = self._place(name)
        if place is not None:
            report.save(place)
        self.findings += [{"piece": name, **finding.to_dict()} for finding in report.findings]
        return report

    def result(
        self, evaluation: Evaluation, rows: list[dict[str, Any]], **settings: Any
    ) -> ProtocolResult:
        """The outcome, saved where there is a folder.

        Args:
            evaluation: One of them, for the settings that all have in common.
            rows: The figures.
            **settings: Of this protocol, and those in which it differs.
        """
        criterion = evaluation.plan.criterion
        shared = {
            "dataset": evaluation.settings["dataset"],
            "split": evaluation.settings["split"],
            "indices": evaluation.spans,
            "samples": len(evaluation.y),
            "attacks": {
                name: {"attack": attack.name, "config": attack.get_config()}
                for name, attack in evaluation.plan.attacks.items()
            },
            "eps": criterion.eps,
            "norm": None if criterion.eps is None else criterion.norm,
            "clip_values": list(evaluation.classifier.clip_values),
            "classes": evaluation.nb_classes,
            "batch_size": evaluation.batch_size,
            "seed": evaluation.seed,
        }
        found = ProtocolResult(self.protocol, {**shared, **settings}, rows, self.findings)
        if self.output is not None:
            found.save(self.output)
        return found

    def _place(self, name: str) -> pathlib.Path | None:
        """The folder of an evaluation: no other one's, whatever its name."""
        if self.output is None:
            return None
        if name not in self._places:
            place, taken = storage.file_name(name), {*map(str.lower, self._places.values())}
            if place.lower() in taken:
                place = f"{place}-{storage.digest(name)[:8]}"
            self._places[name] = place
        return self.output / "pieces" / self._places[name]


class Jury:
    """Models that judge, batch by batch, what was crafted elsewhere; pass `watch` to `run`.

    Attributes:
        labels: By attack and model, labels of the adversarial samples, in the order of the samples.
        accepted: Likewise, whether the model accepts them.
    """

    def __init__(self, judges: Mapping[str, Classifier], evaluation: Evaluation):
        self.judges, self.evaluation = judges, evaluation
        self.labels: dict[str, dict[str, np.ndarray]] = {}
        self.accepted: dict[str, dict[str, np.ndarray]] = {}

    def watch(self, attack: str, rows: np.ndarray, result: Any) -> None:
        """Judges a batch; see `Evaluation.compute`.

        Raises:
            ValueError: If the scores of a judge are not finite.
        """
        for name, judge in self.judges.items():
            key = (self.evaluation.seed, JUDGED - int(rows[0]))
            size = self.evaluation.batch_size
            labels, confidence, accepted = judge.judging.judge(result.x_adv, size, key)
            check_finite_scores(confidence, f"The model {name!r}", f"samples of {attack}")
            for kept, part in ((self.labels, labels), (self.accepted, accepted)):
                whole = kept.setdefault(attack, {}).setdefault(
                    name, np.zeros(len(self.evaluation.y), part.dtype)
                )
                whole[rows] = part


def clean(judges: Mapping[str, Classifier], evaluation: Evaluation) -> dict[str, np.ndarray]:
    """bool `[n]` by model: the samples of an evaluation that it gets right without attack.

    Raises:
        ValueError: If the scores of one are not finite.
    """
    right = {}
    for name, judge in judges.items():
        parts = []
        for block in evaluation.source.blocks(evaluation.batch_size):
            key = (evaluation.seed, CLEAN - block.index)
            labels, confidence, accepted = judge.judging.judge(block.x, evaluation.batch_size, key)
            check_finite_scores(confidence, f"The model {name!r}")
            parts.append(clean_correct(labels, accepted, evaluation.y[block.rows]))
        right[name] = np.concatenate(parts)
    return right


def share(flags: Any) -> dict[str, Any] | None:
    """A share as rows hold it: of samples `[n]`, or of instances `[n, k]` of them."""
    flags = np.asarray(flags)
    found = proportion(flags) if flags.ndim == 1 else clustered(flags)
    return None if found is None else found._asdict()
