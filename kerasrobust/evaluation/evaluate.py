"""`kerasrobust.evaluate`: how hard a model is to fool, in numbers."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from kerasrobust.checks import check_bool, check_int
from kerasrobust.engine import store as storage
from kerasrobust.evaluation import provenance
from kerasrobust.evaluation.adversaries import FOLDER, Adversaries
from kerasrobust.evaluation.conclusion import conclude
from kerasrobust.evaluation.pieces import Evaluation, Watch, unwatched
from kerasrobust.evaluation.report import Report
from kerasrobust.evaluation.workers import check_ray, shared_out
from kerasrobust.metrics import Metric

# Arguments that a report need not tell to repeat it.
_UNTOLD = ("model_file", "command", "verbose")


def evaluate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    attacks: Any = "areb",
    metrics: str | Metric | Sequence[str | Metric] = (),
    pictures: str | Sequence[str] = (),
    dataset: str | None = None,
    class_names: Sequence[str] | None = None,
    eps: float | Sequence[float] | None = None,
    norm: float | str | None = None,
    targets: str | None = None,
    max_queries: int | None = None,
    only_correct: bool = False,
    repeats: int = 1,
    samples: int | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    cross_check: bool = False,
    keep_adversaries: bool = False,
    save_adversaries: bool = False,
    output: str | os.PathLike[str] | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    probes: bool = True,
    model_file: str | os.PathLike[str] | None = None,
    command: str | None = None,
    verbose: bool = False,
) -> Report:
    """Attacks a classifier and reports what is left of its accuracy.

    All attacks get the same samples and start from the true labels. One run serves two questions:

    - *accuracy* is measured against the true label, over all samples;
    - *success* is measured against the model's own label (AREB, section 2.3.1), over the
      samples the model gets right, where own and true label are the same. A sample that is wrong
      already leaves an untargeted attack nothing to do: it counts as wrong in the accuracy, and
      not at all in the success rate and the median distances.

    AutoAttack runs its attacks in a row, inside each batch, each on what the ones before it left:
    its rows hold the accuracy and the distances after each step, and the passes and seconds of that
    step.

    A model that draws at inference is found out by two clean passes. It draws by `seed` from then
    on, and its figures are means over draws and votes where the model is given as
    `Classifier(model, draws=20, votes=10)`.

    A model that certifies its answers, a smoothed one say (`certify(x)`, with `labels` and L2
    `radii`), is asked for its certificates as well, and the report has a verdict from both sides.

    `robust_accuracy` is the worst case per sample: right without attack, and changed by no attack;
    with several budgets, by no attack at any of them, which is that at the largest.

    Ctrl-C ends the run with an `EvaluationInterrupted`, which holds a report of what is finished.

    Args:
        model: A `keras.Model`, a `Classifier`, an ART estimator, or a callable that returns
            scores (black-box attacks only) or labels (of these, those that ask for no more). A
            callable that fails ends the run with an `AttackInterrupted`, or is asked again where
            it is given as `Classifier(model, retries=3)`.
        x: Samples, shape `(n, ...)`, inside the bounds; or a finite `tf.data.Dataset` of
            `(x, y)`, which is read once for the clean pass and once per attack and is never whole
            in memory; or a `kerasrobust.datasets.Dataset`, which brings labels, bounds, its name,
            the names of the classes, and which samples of which split these are.
        y: True labels, integers of shape `(n,)` or one-hot of shape `(n, classes)`. Without them
            the model's own predictions stand in, and the report says so.
        attacks: The name of a preset (`presets.names()`), an attack specification such as
            `"fgsm:eps=0.1"`, an attack, or a list of these. An attack instance keeps its own
            batch size and seed.
        metrics: Further figures for the report: names (`kerasrobust.metrics.names()`),
            specifications such as `"clever_l2:samples=20"`, or metrics.
        pictures: Further pictures of the report, of samples that are right without attack:
            `"decision_space"`, `"loss_surface"`, `"loss_against_eps"` (some 4,000 passes each;
            `evaluation.illustrations`) and `"security_curves"`.
        dataset: Name of the data set; `"mnist"` and `"cifar10"` choose the paper's parameters.
        class_names: A name for each class, for the tables and pictures.
        eps: Budget. It replaces the budget of every attack that was not given one of its own, and
            adversarial samples beyond it do not count for *any* attack. Of several budgets, rising,
            each attack has a row for each (`pgd@0.1`), by one compiled program; what is left in the
            worst case at each stands in `report.robust["budgets"]`.
        norm: Norm of that budget, 1, 2 or inf (the default).
        targets: Make every attack aim at a wrong class: `"random"`, drawn with `seed`; `"next"`,
            the one after the true class; `"least_likely"`, by the model's scores; or `"all"`, every
            wrong class in turn, of which the worst per sample counts: the sample is attacked until
            a target is reached, by minimal-norm attacks towards all, for the shortest way. Without
            it an attack that is `targeted` itself gets a random one.
        max_queries: Most queries per sample, and target, of every attack that counts them, see
            `QueryAttack`; a lower limit of an attack's own stays.
        only_correct: Attack and count only the samples that the model gets right without attack.
        repeats: Measure so many draws of `samples` samples (AREB: 10 of 100) from the arrays `x`
            and `y`, in one run. The figures are those of all draws together, which is their mean,
            and beside each accuracy stands the standard deviation of one draw.
        samples: Size of a draw, 100 by default.
        clip_values: Smallest and largest pixel value; by default the model's own, else `(0, 1)`.
        batch_size: Samples per batch. Default: 128, or as many as hold 2^22 numbers (27 images of
            224x224x3).
        seed: Seed of all randomness.
        cross_check: Run every attack that ART has through ART as well, on the same samples, and
            show both.
        keep_adversaries: Keep all adversarial samples (`report.samples`), which takes as much
            memory as the samples per attack. Without it figures per sample are kept, and a few
            samples for the pictures.
        save_adversaries: Write them to `output`, a file for each attack in `adversarial/`, batch by
            batch; see `kerasrobust.evaluation.adversaries.Adversaries`.
        output: Folder for the report, a path or a URL that `fsspec` opens. Each batch's result is
            stored there as soon as it is finished; the same call on the same folder goes on after
            the last finished one.
        workers: Processes that the batches are shared out to, by Ray (`kerasrobust[ray]`): the same
            report, within rounding where they have another number of threads.
        ray_address: Of a running Ray cluster; `output` must be where all its hosts reach it.
            By default workers are started on this machine.
        probes: Spend passes on whether the attacks can be trusted, on a few samples: whether they
            succeed where everything is allowed, beat noise, gain by more steps and find an
            adversarial example that was planted (`diagnosis.probes`). What that cost is in
            `report.settings["probes"]`.
        model_file: The file that the model was read from, for the report.
        command: The command line that repeats the evaluation, for the report; by default this call.
        verbose: Show a progress bar over the batches of all attacks, on a terminal.

    Returns:
        A `Report`.

    Raises:
        EvaluationInterrupted: On Ctrl-C.
        ValueError: If a sample, a label, a bound or a hyperparameter is out of range, or an attack
            or preset is unknown; before any attack is run.
        TypeError: If an argument is of the wrong kind, or an attack or metric needs gradients that
            the model does not have; before any attack is run.
        OSError: If `output` cannot be written; before any attack is run.

    Example:

    >>> report = kerasrobust.evaluate(model, x, y, attacks=["fgsm:eps=0.1", "pgd"])
    >>> report.clean_accuracy, report.robust_accuracy, report.attacks["pgd"].median_linf
    >>> report.save("report/")
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(evaluate).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _UNTOLD
    }
    given = {name: value for name, value in locals().items() if name in defaults}
    call = provenance.call(["model", "x", "y"][: 2 + (y is not None)], given, defaults)
    shared = check_int("workers", workers, 1) > 1 or ray_address is not None
    if shared:
        check_ray(workers)
    if check_bool("save_adversaries", save_adversaries) and output is None:
        raise ValueError(
            "Adversarial samples are written to `output`. Received: save_adversaries=True, "
            "output=None"
        )
    if ray_address is not None and output is None:
        raise ValueError(
            "The hosts of a cluster share an `output` folder. Received: output=None, "
            f"ray_address={ray_address!r}"
        )
    with contextlib.ExitStack() as stack:
        folder = output
        if shared and folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        evaluation = Evaluation(
            model,
            x,
            y,
            attacks=attacks,
            metrics=metrics,
            pictures=pictures,
            dataset=dataset,
            class_names=class_names,
            eps=eps,
            norm=norm,
            targets=targets,
            max_queries=max_queries,
            only_correct=only_correct,
            repeats=repeats,
            samples=samples,
            clip_values=clip_values,
            batch_size=batch_size,
            seed=seed,
            cross_check=cross_check,
            keep_adversaries=keep_adversaries,
            output=folder,
            probes=probes,
            model_file=model_file,
            command=command or call,
            verbose=verbose,
        )
        watch: Watch = unwatched
        adversaries = None
        if save_adversaries:
            adversaries = stack.enter_context(Adversaries(evaluation.y, evaluation.places))
            watch = adversaries.watch
        pieces = evaluation.pieces()
        report: Report | None
        interrupt = None
        try:
            if shared:
                pieces = stack.enter_context(shared_out(evaluation, workers, ray_address))
            evaluation.run(pieces, watch)
            report = conclude(evaluation)
        except KeyboardInterrupt as error:
            interrupt = error
            finished = evaluation.finished()
            report = None if finished is None else conclude(finished)
        if output is not None and report is not None:
            storage.put(output, report.save)
            if adversaries is not None:
                storage.put(f"{os.fspath(output)}/{FOLDER}", adversaries.save)
    if interrupt is not None:
        raise EvaluationInterrupted(report) from interrupt
    assert report is not None
    return report


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of an evaluation.

    Attributes:
        report: Of the batches that were finished, `settings["partial"]` says of what; None where
            there was none. It lies in `output` as well, where there is one, and the same call on
            the same folder goes on.
    """

    def __init__(self, report: Report | None):
        super().__init__("The evaluation was interrupted.")
        self.report = report
