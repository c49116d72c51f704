"""`kerasrobust.harden`: from a model to one that withstands more, in the steps of AREB."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tqdm

from kerasrobust import models
from kerasrobust._version import __version__
from kerasrobust.checks import (
    check_batch_size,
    check_bool,
    check_float,
    check_folder,
    check_int,
)
from kerasrobust.defenses import (
    DEFENSES,
    DecisionDefense,
    RobustModel,
    TrainingDefense,
    get,
    wrap,
)
from kerasrobust.defenses.layers.preprocessing import Preprocessing
from kerasrobust.defenses.search_lambda import copy_of
from kerasrobust.engine import backward
from kerasrobust.engine import store as storage
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.criterion import survived
from kerasrobust.engine.pixel_range import default_bounds
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation import presets, tuning
from kerasrobust.evaluation.compare import compare
from kerasrobust.evaluation.evaluate import evaluate
from kerasrobust.evaluation.pieces import Evaluation
from kerasrobust.evaluation.renderers.table import WORST
from kerasrobust.evaluation.report import Report
from kerasrobust.evaluation.resolve import Plan as Threats
from kerasrobust.evaluation.resolve import resolve
from kerasrobust.hardening import rules
from kerasrobust.hardening.journal import Journal
from kerasrobust.hardening.result import Hardening
from kerasrobust.metrics import registry as metric_registry
from kerasrobust.norms import check_norm

if TYPE_CHECKING:
    from kerasrobust.datasets import Dataset

# White box and black box. AREB's other two look for the nearest point at any distance, in norms
# that are not the budget's: they are in the benchmark.
ATTACKS = ("pgd", "hsja")
# Attacks of the check that nothing was tuned for or trained with.
CHECK = ("pma:max_iter=40", "square:max_iter=1000")
# The three metrics of AREB's section 4.1; CLEVER in the norm of the budget.
METRICS = ("psi", "loss_sensitivity_l1", "clever_{norm}:samples=20")
_NORMS = {1.0: "l1", 2.0: "l2", np.inf: "linf"}
STEPS = ("1-attacks", "2-preprocessing", "3-training", "4-check")


def harden(
    model: keras.Model,
    train: Dataset,
    validation: Dataset,
    test: Dataset,
    *,
    output: str | os.PathLike[str],
    attacks: Any = ATTACKS,
    eps: float | None = None,
    norm: float | str | None = None,
    passes: int = 250,
    sweep: str | Sequence[str] | None = None,
    combinations: bool = False,
    defense: str | None = None,
    train_attacks: Sequence[str] | None = None,
    epochs: int | None = None,
    recipe: Any = None,
    learning_rate: float | None = None,
    goal: float | None = None,
    max_loss: float = 0.05,
    rounds: int | None = None,
    max_minutes: float | None = None,
    check: Any = CHECK,
    benchmark: str | None = "areb",
    metrics: Sequence[str] | None = None,
    gradient: str = "straight_through",
    draws: int | None = None,
    votes: int | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    verbose: bool = False,
) -> Hardening:
    """Hardens a model in the five steps of AREB's process flow (its section 5).

    1. *Threats.* Attacks within a budget; the parameters of each are those that make it strongest
       against the undefended model (`rules.STRONGEST`).
    2. *Preprocessing.* `tune`: which layers in front of the model, at which value, if any.
    3. *Training.* Adversarial training with an ensemble of attacks (`rules.ENSEMBLE`), or with the
       defense that is named, starting from the model's weights. The layers of step 2 stand in front
       of the result, as in the paper; a training defense of step 2 takes part.
    4. *Check.* The worst case over all attacks, which see the layers, on the validation samples.
    5. *Another round*, with one thing changed (`rules.NEXT`), until the goal or a limit is reached.

    Of all models the best is kept (`rules.KEPT`), the undefended one where none is better. Only it
    and the undefended one are then attacked on the test samples: within the budget, with attacks
    that took no part in tuning or training beside the others, and by a benchmark with all metrics.

    Choices are made on the validation samples alone. They must not be among those that are trained
    on; where the model that is given was trained on them, it looks better on them than it is, and
    hardening is judged more strictly.

    All that is finished is in `output`; the same call on the same folder goes on from there, and
    comes to the same result.

    Args:
        model: A built `keras.Model`, wrapped or not; it is left alone.
        train: Samples to train on.
        validation: Samples to choose by.
        test: Samples for the final check.
        output: Folder for the model (`hardened.keras`), the report (JSON, Markdown, HTML), and all
            that each step found.
        attacks: The threat model: as of `evaluate`, but no cascade.
        eps: Budget in the unit of the pixels. Default: 0.3, or 8/255 on colour images, of their
            range.
        norm: Its norm: 1, 2 or inf (default).
        passes: Forward passes that an attack of the threat model may take for a sample, a gradient
            counted as two; attacks without gradients ten times as many.
        sweep: What step 2 tries, as of `tune`; `()` for nothing. Default: all layers that suit.
        combinations: Whether step 2 tries them together too.
        defense: A training defense to use in the place of an ensemble, ``"trades:eps=0.1"`` say.
        train_attacks: The ensemble, as in ``["pgd", "ead:max_iter=5", "hsja"]``: within the budget,
            and short where not said otherwise. Default: see `rules.ENSEMBLE`.
        epochs: Of the first round. Default: the recipe's.
        recipe: As of `models.fit`.
        learning_rate: Likewise.
        goal: Share of the validation samples that are to withstand all attacks, from 0 to 1.
        max_loss: Share of the clean accuracy that may be lost.
        rounds: Rounds of training at most. Default: 3 with a goal, else 1.
        max_minutes: No round begins that would probably end later, the final check aside. Default:
            no limit.
        check: Attacks of the final check beside those of the threat model; `()` for none.
        benchmark: Preset of the final check with all metrics; None for none.
        metrics: Of the benchmark. Default: AREB's three: psi, loss sensitivity, and CLEVER of 20
            samples in the norm of the budget.
        gradient: What stands for layers without a gradient of use, as of `tune`.
        draws: Of a `Classifier`, where the model draws.
        votes: Likewise.
        clip_values: Smallest and largest pixel value; by default the model's own.
        batch_size: Samples per batch of an attack; its default is that of `evaluate`.
        seed: Seed of all randomness.
        verbose: Whether to tell of each step and to show progress bars.

    Returns:
        A `Hardening`; the model is `kerasrobust.models.load(output / "hardened.keras")`.

    Raises:
        ValueError, TypeError, OSError: If an argument is of no use, before any attack is run; or
            if training diverges.
        KeyboardInterrupt: On Ctrl-C; the same call goes on.

    Example:

    >>> load = kerasrobust.datasets.load
    >>> train, validation = kerasrobust.datasets.hold_out(load("digits", "train"), 200)
    >>> found = kerasrobust.harden(model, train, validation, load("digits", samples=100),
    ...                            output="hardening/", goal=0.4)
    >>> print(found.verdict)
    """
    if not isinstance(model, keras.Model) or isinstance(model, DecisionDefense):
        raise TypeError(
            "`model` must be a keras.Model that is trained, not a decision defense around one. "
            f"Received: model={model!r}"
        )
    for name, share in (("goal", goal), ("max_loss", max_loss)):
        if share is not None and not 0 <= check_float(name, share) <= 1:
            raise ValueError(f"`{name}` must be a share from 0 to 1. Received: {name}={share!r}")
    if max_minutes is not None:
        check_float("max_minutes", max_minutes, above=True)
    if rounds is not None:
        check_int("rounds", rounds, 0)
    if gradient not in backward.MODES:
        raise ValueError(
            f"`gradient` must be one of {', '.join(backward.MODES)}. Received: {gradient=}"
        )
    check_int("passes", passes, 1)
    check_bool("combinations", combinations)
    if defense is not None and train_attacks is not None:
        raise ValueError(
            "An ensemble is trained with, or a defense that is named. "
            f"Received: defense={defense!r}, train_attacks={train_attacks!r}"
        )
    if clip_values is None:
        clip_values = getattr(model, "clip_values", None) or default_bounds(model)
    changes = {"epochs": epochs, "learning_rate": learning_rate}
    how = models.recipes.get(recipe, train.input_shape, **changes)
    if how.needs_validation:
        raise ValueError(
            "The recipe decays or stops by validation samples, which are kept for choices here. "
            f"Received: recipe={recipe!r}"
        )
    flow = _Flow(
        model=model,
        train=train,
        validation=validation,
        test=test,
        output=check_folder("output", output),
        bounds=clip_values,
        eps=tuning.usual_budget(model, clip_values) if eps is None else eps,
        norm=check_norm(np.inf if norm is None else norm),
        passes=passes,
        gradient=gradient,
        draws=draws,
        votes=votes,
        batch_size=check_batch_size(batch_size, train.input_shape),
        seed=seed,
        recipe=how,
        epochs=how.epochs_for(-(-len(train) // how.batch_size)),
        max_loss=max_loss,
        goal=goal,
        most_rounds=rounds if rounds is not None else 1 if goal is None else 3,
        most_minutes=np.inf if max_minutes is None else max_minutes,
        verbose=verbose,
    )
    return flow.run(attacks, sweep, combinations, defense, train_attacks, check, benchmark, metrics)


@dataclasses.dataclass
class _Flow:
    """What all steps have in common."""

    model: keras.Model
    train: Dataset
    validation: Dataset
    test: Dataset
    output: pathlib.Path
    bounds: tuple[float, float]
    eps: float
    norm: float
    passes: int
    gradient: str
    draws: int | None
    votes: int | None
    batch_size: int
    seed: int
    recipe: models.Recipe
    epochs: int
    max_loss: float
    goal: float | None
    most_rounds: int
    most_minutes: float
    verbose: bool

    def run(
        self,
        attacks: Any,
        sweep: Any,
        combinations: bool,
        defense: str | None,
        train_attacks: Sequence[str] | None,
        check: Any,
        benchmark: str | None,
        metrics: Sequence[str] | None,
    ) -> Hardening:
        """All steps; each reads what it had finished before."""
        threats = resolve(
            list(attacks) if isinstance(attacks, tuple) else attacks,
            eps=self.eps,
            norm=self.norm,
            channels=presets.channels(self.train.input_shape),
            dataset=self.train.name,
            value_range=self.bounds[1] - self.bounds[0],
            nb_classes=self.train.nb_classes,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        if threats.cascade:
            raise ValueError(
                "The attacks of a cascade have no figures of their own: name single ones. "
                f"Received: attacks={attacks!r}"
            )
        plan = self._first(threats, defense, train_attacks)
        extra = list(check) if isinstance(check, (list, tuple)) else [check]
        if metrics is None:
            metrics = [name.format(norm=_NORMS[self.norm]) for name in METRICS]
        self._check_names([*threats.attacks.values(), *extra], benchmark, metrics)
        swept = sweep is None or isinstance(sweep, str) or len(sweep) > 0
        layers = tuning.Trainer(
            self.model,
            self.bounds,
            self.train,
            self.epochs if _trains(sweep) else None,
            self.seed,
            self.output / STEPS[1],
        )
        if swept:
            tuning.read_sweeps(sweep, layers)
        wrap(self.model, plan.spec, clip_values=self.bounds, seed=self.seed)
        settings = {
            "dataset": self.train.name,
            "model": self.model.name,
            "eps": self.eps,
            "norm": self.norm,
            "goal": self.goal,
            "max_loss": self.max_loss,
            "rounds": self.most_rounds,
            "max_minutes": self.most_minutes,
            "attacks": list(threats.attacks),
            "passes": self.passes,
            "sweep": sweep if swept else [],
            "combinations": combinations,
            "defense": defense,
            "train_attacks": None if defense else list(plan.attacks),
            "epochs": self.epochs,
            "recipe": self.recipe.get_config(),
            "check": [str(one) for one in extra],
            "benchmark": benchmark,
            "metrics": list(metrics),
            "gradient": self.gradient,
            "draws": self.draws,
            "votes": self.votes,
            "clip_values": list(self.bounds),
            "classes": self.train.nb_classes,
            "train_samples": len(self.train),
            "validation_samples": len(self.validation),
            "test_samples": len(self.test),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
        self.output.mkdir(parents=True, exist_ok=True)
        sets = [self.train, self.validation, self.test]
        run = [
            settings,
            storage.fingerprint(Classifier(self.model, self.bounds)),
            *(storage.digest({"x": one.x, "y": one.y}) for one in sets),
            [storage.version(), __version__],
        ]
        journal = Journal(self.output / "journal.json", storage.digest(run))
        choices: list[dict[str, Any]] = []

        def chosen(step: str, choice: str, rule: str, because: str) -> None:
            choices.append({"step": step, "choice": choice, "rule": rule, "because": because})
            self._say(f"{choice}: {because}")

        self._say("Step 1: threats, and the parameters of their attacks")
        with journal.piece(STEPS[0]):
            candidates = self._candidates(threats)
        strong: list[dict[str, Any]] = []
        listed = []
        for name, attack in threats.attacks.items():
            tried = [one for one in candidates if one.attack == name]
            best = rules.strongest(tried, rules.allowed_passes(attack, self.passes))
            strong.append(rules.configured(attack, best.parameters))
            listed += [{**dataclasses.asdict(one), "chosen": one is best} for one in tried]
            told = ", ".join(f"{key}={value}" for key, value in best.parameters.items())
            because = (
                f"leaves {best.left[0]} of {len(self.validation)} right, {best.passes:.0f} passes"
            )
            chosen("1", f"{name}: {told or 'as given'}", rules.STRONGEST, because)
        self._say("Step 2: preprocessing")
        runner = tuning.Runner(
            self.model,
            self.bounds,
            self.validation.x,
            self.validation.y,
            self._options(strong),
            {"gradient": self.gradient, "draws": self.draws, "votes": self.votes},
            self.output / STEPS[2],
        )
        tuned = None
        with journal.piece(STEPS[1]):
            if swept:
                tuned = self._tune(strong, sweep, combinations, layers)
                undefended, front = tuned.undefended, tuned.chosen
                chosen("2", front.name, tuned.rule.removeprefix("Rule: "), tuned.verdict)
            else:
                undefended = front = self._row(runner, tuning.UNDEFENDED, self.model)
        chain = [one for one in front.defenses if not isinstance(get(one), Preprocessing)]
        stack = [one for one in front.defenses if one not in chain]
        built = {tuning.UNDEFENDED: self.model}
        rows = {tuning.UNDEFENDED: undefended}
        if front is not undefended:
            rows[front.name], built[front.name] = front, layers.defended(front.defenses)
        start = {tuning.UNDEFENDED: self.model}
        done: list[dict[str, Any]] = []
        last = 0.0
        because = rules.ENSEMBLE if defense is None else "the defense that was named"
        rule = rules.ENSEMBLE if train_attacks is None else "the attacks that were named"
        while True:
            kept = self._kept(rows)
            ended = rules.stop(
                kept,
                goal=self.goal,
                rounds=len(done),
                most_rounds=self.most_rounds,
                minutes=journal.minutes,
                last=last,
                most_minutes=self.most_minutes,
            )
            if ended is not None:
                break
            if done:
                origin = kept.name if kept.name in start else tuning.UNDEFENDED
                plan, because = rules.next_plan(
                    plan,
                    rows[f"round {len(done)}"],
                    undefended,
                    origin,
                    max_loss=self.max_loss,
                    threats=dict(zip(undefended.attacks, threats.attacks.values(), strict=True)),
                    eps=self.eps,
                    norm=self.norm,
                )
                chosen("5", f"round {len(done) + 1}: {plan.spec}", rules.NEXT, because)
            else:
                told = rule if defense is None else because
                chosen("3", f"round 1: {plan.spec}", told, "the first round")
            name = f"round {len(done) + 1}"
            self._say(f"Step 3, {name}: training for {plan.epochs} epochs")
            with journal.piece(name):
                inner, hard = self._trained(plan, start[plan.start], chain, stack)
                rows[name] = self._row(runner, name, hard)
            last = journal.seconds[name] / 60
            start[name], built[name] = inner, hard
            done.append(
                {
                    "plan": dataclasses.asdict(plan),
                    "defense": plan.spec,
                    "row": rows[name].to_dict(),
                    "because": because if done else "the first round",
                }
            )
        chosen(
            "4",
            f"kept: {kept.name}",
            rules.KEPT,
            f"{100 * kept.robust_accuracy:.1f} % of the validation samples withstand, "
            f"{100 * kept.clean_accuracy:.1f} % are right without attack",
        )
        path = self._save(built[kept.name])
        self._say("Step 4: check on the test samples")
        with journal.piece(STEPS[3]):
            after = None if kept is undefended else models.load(path)
            checks = {"threat": self._check("threat", after, [*strong, *extra], budget=True)}
            if benchmark is not None:
                checks["benchmark"] = self._check("benchmark", after, benchmark, metrics=metrics)
        found = Hardening(
            settings=settings,
            candidates=listed,
            preprocessing=None if tuned is None else tuned.to_dict(),
            rounds=done,
            choices=choices,
            checks=checks,
            seconds=journal.seconds,
            kept=kept.name,
            ended=ended,
        )
        found.save(self.output)
        return found

    def _first(
        self, threats: Threats, defense: str | None, named: Sequence[str] | None
    ) -> rules.Plan:
        """The plan of the first round."""
        if defense is not None:
            if not isinstance(get(defense), TrainingDefense):
                raise ValueError(
                    f"`defense` must be a training defense. Received: defense={defense!r}"
                )
            return rules.Plan((), 0.0, self.epochs, defense=defense)
        if isinstance(named, str):
            named = [named]
        wanted = rules.first_ensemble(list(threats.attacks.values()), self.norm)
        wanted = wanted if named is None else list(named)
        if not wanted:
            raise ValueError("At least one attack is needed. Received: train_attacks=[]")
        forms = [rules.training_form(one, self.eps, self.norm) for one in wanted]
        return rules.Plan(tuple(forms), 0.0, self.epochs)

    def _check_names(self, final: list[Any], benchmark: str | None, metrics: Sequence[str]) -> None:
        """Refuses what only the last step would."""
        shared: dict[str, Any] = {
            "dataset": self.test.name,
            "channels": presets.channels(self.test.input_shape),
            "nb_classes": self.test.nb_classes,
        }
        resolve(final, eps=self.eps, norm=self.norm, **shared)
        if benchmark is not None:
            resolve(benchmark, **shared)
        metric_registry.resolve(metrics)

    def _options(self, attacks: Any) -> dict[str, Any]:
        """Of evaluations within the budget."""
        return {
            "attacks": attacks,
            "dataset": self.train.name,
            "eps": self.eps,
            "norm": self.norm,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def _candidates(self, threats: Threats) -> list[rules.Candidate]:
        """Step 1: all parameters of all attacks, on the undefended model."""
        tried: list[tuple[str, dict[str, Any]]] = []
        asked: list[dict[str, Any]] = []
        places: dict[tuple[int, float], int] = {}
        for name, attack in threats.attacks.items():
            for changes in rules.grid(
                attack,
                threats.given[name],
                self.passes,
                self.train.nb_classes,
                as_given=threats.preset is not None,
            ):
                # One run of an attack on the nearest point serves all budgets.
                for share in rules.SHARES if attack.kind == "budget" else rules.SHARES[:1]:
                    places[len(tried), share] = len(asked)
                    asked.append(rules.configured(attack, changes, share))
                tried.append((name, changes))
        evaluation = Evaluation(
            self._seen(self.model),
            self.validation.x,
            self.validation.y,
            output=self.output / STEPS[0],
            verbose=self._bars,
            **self._options(asked),
        )
        evaluation.run()
        names = [step.name for group in evaluation.groups for step in group]
        found = []
        for number, (name, changes) in enumerate(tried):
            left = []
            for share in rules.SHARES:
                place = places.get((number, share), places[number, rules.SHARES[0]])
                result = evaluation.result(names[place])
                left.append(self._left(evaluation, result, share))
            result = evaluation.result(names[places[number, rules.SHARES[0]]])
            spent = (result.queries + 2 * result.gradients)[evaluation.correct]
            passes = float(spent.mean()) if spent.size else 0.0
            found.append(rules.Candidate(name, changes, tuple(left), passes))
        return found

    def _left(self, evaluation: Evaluation, result: AttackResult, share: float) -> int:
        """Samples that stay right within a share of the budget."""
        stands = survived(result.labels, result.accepted, evaluation.y, evaluation.correct)
        near = result.distance(self.norm) <= share * self.eps * (1 + 1e-5)
        return int((evaluation.correct & (stands | ~near)).sum())

    def _tune(
        self, attacks: Any, sweep: Any, combinations: bool, layers: tuning.Trainer
    ) -> tuning.Tuning:
        """Step 2."""
        options = self._options(attacks)
        return tuning.tune(
            self.model,
            self.validation.x,
            self.validation.y,
            sweep=sweep,
            combinations=combinations,
            max_loss=self.max_loss,
            gradient=self.gradient,
            draws=self.draws,
            votes=self.votes,
            train=layers.train if layers.epochs is not None else None,
            epochs=layers.epochs,
            clip_values=self.bounds,
            output=self.output / STEPS[1],
            verbose=self._bars,
            **options,
        )

    def _trained(
        self, plan: rules.Plan, start: keras.Model, chain: list[str], stack: list[str]
    ) -> tuple[keras.Model, keras.Model]:
        """Step 3: what is trained, ready to be trained on, and the model with its layers."""
        trainer = tuning.Trainer(
            start,
            self.bounds,
            self.train,
            plan.epochs,
            self.seed,
            self.output / STEPS[2],
            self.recipe,
        )
        trained = trainer.inner((*chain, plan.spec))
        if not all(np.isfinite(weight).all() for weight in trained.get_weights()):
            raise ValueError(
                "Training has diverged, weights are NaN or infinite: use a smaller "
                f"`learning_rate`. Received: learning_rate={self.recipe.learning_rate:g}"
            )
        # The same network with new weights: the next round adds its own defenses to it.
        inner = copy_of(self.model, self.bounds, self.seed)
        inner.base.set_weights(trained.base.get_weights())
        hard = wrap(trained, stack, clip_values=self.bounds, seed=self.seed) if stack else trained
        return inner, hard

    def _row(self, runner: tuning.Runner, name: str, model: keras.Model) -> tuning.Row:
        with tqdm.tqdm(total=runner.work, desc=name, unit="step", disable=not self._bars) as bar:
            return runner.row(name, model, bar)

    def _kept(self, rows: dict[str, tuning.Row]) -> tuning.Row:
        undefended, *others = rows.values()
        return tuning.choose(others, undefended, self.max_loss)

    def _save(self, kept: keras.Model) -> pathlib.Path:
        """Writes the model: a plain one as plain as it was given, its layers in front."""
        path = self.output / "hardened.keras"
        if isinstance(kept, RobustModel) and not isinstance(self.model, RobustModel):
            kept = kept.base
        part = self.output / "hardened.part.keras"
        kept.save(part)
        os.replace(part, path)
        return path

    def _seen(self, model: keras.Model) -> Classifier:
        return tuning.as_attacked(
            model, self.bounds, gradient=self.gradient, draws=self.draws, votes=self.votes
        )

    def _check(
        self,
        name: str,
        after: keras.Model | None,
        attacks: Any,
        budget: bool = False,
        metrics: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Step 4: the undefended model and the one that was kept, on the test samples."""
        sides = {"before": self.model} | ({} if after is None else {"after": after})
        reports: dict[str, Report] = {}
        for side, model in sides.items():
            self._say(f"{name}, {side}")
            reports[side] = evaluate(
                self._seen(model),
                self.test.x,
                self.test.y,
                attacks=attacks,
                metrics=metrics,
                dataset=self.test.name,
                eps=self.eps if budget else None,
                norm=self.norm if budget else None,
                batch_size=self.batch_size,
                seed=self.seed,
                output=self.output / STEPS[3] / f"{name}-{side}",
                verbose=self._bars,
            )
        shown = [
            one
            for one in reports["before"].metrics
            if one.header is not None and one.table == "main"
        ]
        differences = [] if after is None else compare(reports).differences
        return {
            "samples": len(self.test),
            "metrics": [one.key for one in shown],
            "before": _figures(reports["before"], shown),
            "after": None if after is None else _figures(reports["after"], shown),
            "differences": [dataclasses.asdict(one) for one in differences],
            "findings": {
                side: [one.to_dict() for one in report.findings] for side, report in reports.items()
            },
        }

    @property
    def _bars(self) -> bool:
        """A log takes lines, not bars."""
        return self.verbose and sys.stderr.isatty()

    def _say(self, line: str) -> None:
        if self.verbose:
            tqdm.tqdm.write(line, file=sys.stderr)


def _figures(report: Report, metrics: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The figures of each row that the main table shows."""
    rows = {"clean": report.clean}
    rows |= {name: row.figures for name, row in report.attacks.items()}
    rows[WORST] = report.robust
    keys = {key for one in metrics for key in (one.key, f"{one.key}_interval")}
    return {
        name: {key: value for key, value in figures.items() if key in keys}
        for name, figures in rows.items()
    }


def _trains(sweep: Any) -> bool:
    """Whether a sweep has a defense that has to be trained."""
    items = [sweep] if isinstance(sweep, str) else sweep or []
    names = [str(item).partition(":")[0].strip() for item in items]
    return any(
        issubclass(DEFENSES.find(name), TrainingDefense)
        for name in names
        if name in DEFENSES.names()
    )
