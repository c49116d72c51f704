"""Findings on attacks beside each other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.diagnosis.evidence import (
    LUCK,
    Repeat,
    attacked_by,
    beyond_luck,
    budget_of,
    clearly,
    held,
    inside,
    is_nearer,
    longer,
    nearer_and_farther,
    pgd_in_place_of,
    significant,
    some,
)
from kerasrobust.evaluation.diagnosis.finding import Finding, by_weight
from kerasrobust.evaluation.diagnosis.words import (
    Description,
    attack_again,
    kr_eval,
    listed,
    percent,
    samples,
    spec,
)
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust.norms import norm_name
from kerasrobust.specs import jsonable

# A median this many times another one's is far behind it.
_FAR_BEHIND = 2.0
# Half-width of an interval from which it is worth a sentence.
_WIDE = 0.03
# A step is small that fits into the budget this many times.
_STEPS = 4
# More steps than this are no repetition: a step that needs them was too short, not too long.
_MOST_STEPS = 1000
# Attacks that choose their own step.
_OWN_STEP = ("apgd",)
# How many times the iterations an attack gets that another one put to shame.
_PATIENCE = 5
# Of samples on which two attacks differ, chance gives each half.
_EVEN = 0.5
_NOISE = (
    "The model draws at inference: this may be noise. Repeat it with averaged gradients and votes, "
    "Classifier(model, draws=20, votes=10), before you speak of masked gradients."
)
_AVERAGED = kr_eval("--eot 20", "--votes 10")


def diagnose(
    summaries: Mapping[str, AttackSummary],
    results: Mapping[str, AttackResult],
    repeat: Repeat | None = None,
    in_a_row: bool = False,
    randomised: bool = False,
    available: int | None = None,
) -> list[Finding]:
    """Looks through the results of all attacks for signs that they cannot be trusted.

    - *Gradient masking* (Athalye et al., "Obfuscated gradients give a false sense of security",
      ICML 2018): a black-box attack sees less than a white-box one and cannot do better unless the
      gradient misleads. It is compared with all white-box attacks together: inside the budget
      of each (what none of them broke there), and by distances in the norm of each minimal-norm one
      (paired sign test, p < 0.05). The word falls where a white-box attack with small steps, or one
      repeated with smaller steps, failed as well; otherwise the finding is
      `"black_box_stronger"` and says how to repeat it. A repetition that closes the gap is
      `"step_too_long"` or `"not_converged"`.
    - A single step that broke more than an iterative attack did inside the same budget, and an
      attack that broke fewer samples with a larger budget: both miss what is within their reach
      (Carlini et al., "On evaluating adversarial robustness", 2019; paired sign test, p < 0.05).
    - A minimal-norm attack whose median distance in its own norm is more than twice another one's.
    - A cross-check that is stronger than the attack it checks.
    - Few samples, and samples that a decision attack gave up on.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes they were computed from, by the same names.
        repeat: Runs an attack, given as `{"name": ..., "config": {...}}`, on some of the samples,
            given by at most 32 places, and returns its outcome on them, or `None` where it cannot;
            called at most once per attack and places.
        in_a_row: Whether each outcome holds what the ones before it broke: distances are not
            compared then.
        randomised: Whether the model draws at inference. What a black-box attack did better may be
            noise then: successes that did not hold (column `holds`) are no evidence, and the word
            masking does not fall.
        available: Samples that there are in all, where that is known: more cannot be advised.

    Returns:
        The findings, the most serious first.
    """
    findings: list[Finding] = []
    own = [s for s in summaries.values() if s.checks is None]
    again = _once(repeat)
    for black in (s for s in own if s.knowledge == "black"):
        whites = [s for s in own if s.knowledge == "white" and s.targeted == black.targeted]
        known = {**results, black.name: held(results[black.name])}
        findings += _inside_budgets(black, whites, known, again, randomised)
        if not in_a_row:
            findings += _nearer(black, whites, known, again, randomised)
    if not in_a_row:
        findings += [f for s in own if (f := _far_behind(s, own, results)) is not None]
        findings += _one_step(own, results)
        findings += _falling(own, results)
    for check in summaries.values():
        if check.checks is not None and check.checks in summaries:
            native = summaries[check.checks]
            finding = _cross_check(native, check, results[native.name], results[check.name])
            if finding:
                findings.append(finding)
    count = max((s.samples for s in summaries.values()), default=0)
    half = 1.96 * math.sqrt(0.25 / count) if count else 0.0
    if half > _WIDE:
        enough = math.ceil(0.25 * (1.96 / _WIDE) ** 2)
        more = enough if available is None else min(enough, available)
        findings.append(
            Finding(
                "few_samples",
                f"Judged on {samples(count)}: the 95 % intervals reach up to {100 * half:.0f} "
                "points to either side.",
                half,
                _WIDE,
                kr_eval(f"--samples {more}") if more > count else None,
            )
        )
    for summary in summaries.values():
        if summary.gave_up:
            findings.append(
                Finding(
                    "gave_up",
                    f"{summary.name} found no adversarial starting point for "
                    f"{summary.gave_up} of {samples(summary.attacked)} and gave up on "
                    "them. Their distance counts as infinite, which does not make them robust.",
                    summary.gave_up / summary.attacked,
                    0.0,
                )
            )
    return by_weight(findings)


def _once(repeat: Repeat | None) -> Repeat:
    """`repeat`, asked once for the same thing; `None` always where there is no `repeat`."""
    asked: dict[str, AttackResult | None] = {}

    def again(description: Description, rows: np.ndarray) -> AttackResult | None:
        if repeat is None:
            return None
        key = json.dumps(jsonable([description, rows.tolist()]), sort_keys=True)
        if key not in asked:
            asked[key] = repeat(description, rows)
        return asked[key]

    return again


def _inside_budgets(
    black: AttackSummary,
    whites: list[AttackSummary],
    results: Mapping[str, AttackResult],
    again: Repeat,
    randomised: bool,
) -> Iterable[Finding]:
    """What a black-box attack broke inside a budget in which no white-box attack broke it."""
    attacked = attacked_by([black, *whites], results)
    for norm, eps, names in _budgets(whites):
        broken = {white.name: inside(results[white.name], norm, eps) for white in whites}
        fell = inside(results[black.name], norm, eps)
        missed = attacked & fell & ~np.any([*broken.values()], axis=0)
        if not beyond_luck(int(missed.sum()), int(attacked.sum())):
            continue
        those = [white for white in whites if white.name in names]
        best = max(those, key=lambda white: int(broken[white.name].sum()))
        smaller = _smaller_step(best, norm, eps)
        share = float(missed.sum() / attacked.sum())
        count, where = samples(missed.sum()), f"the budget of {listed(names)} ({norm_name(norm)})"
        if randomised:
            yield Finding(
                "black_box_stronger",
                f"{black.name}, a black-box attack, broke {count} inside {where} that no white-box "
                f"attack broke. {_NOISE}",
                share,
                LUCK,
                _AVERAGED,
            )
            continue
        careful = [white.name for white in those if _is_careful(white, eps)]
        rows = some(missed)
        repeated = again(smaller, rows)
        if repeated is not None:
            closed = inside(repeated, norm, eps, rows)
            left = round(missed.sum() * float(np.mean(~closed)))
            told = f"{spec(smaller)} broke {closed.sum()} of {len(rows)} of them"
            if not beyond_luck(left, int(attacked.sum())):
                short = _is_longer(smaller, best)
                how, why = ("longer", "short") if short else ("smaller", "long or too few")
                yield Finding(
                    "short_steps" if short else "step_too_long",
                    f"{black.name}, which sees no gradient, broke {count} inside {where} that no "
                    f"white-box attack broke; repeated in {how} steps, {told}. No gradient is "
                    f"masked, the steps were too {why}: the accuracy of "
                    f"{percent(best.accuracy)} under {best.name} is not robustness.",
                    share,
                    LUCK,
                    attack_again(smaller),
                )
                continue
            careful = [f"{best.name} repeated in smaller steps ({told})"]
        if careful:
            yield Finding(
                "gradient_masking",
                f"{black.name}, which sees no gradient, broke {count} inside {where} on which "
                f"every white-box attack failed, {listed(careful)} among them. The gradient "
                "misleads the attack (gradient masking): the accuracy of "
                f"{percent(best.accuracy)} under {best.name} is not robustness.",
                share,
                LUCK,
                attack_again({"name": black.attack, "config": black.config}),
            )
        else:
            yield Finding(
                "black_box_stronger",
                f"{black.name}, a black-box attack, broke {count} inside {where} that no white-box "
                "attack broke. The steps were too long or too few, or the gradient misleads: do "
                f"not read the accuracy of {percent(best.accuracy)} under {best.name} as "
                "robustness before it was repeated with a smaller step.",
                share,
                LUCK,
                attack_again(smaller),
            )


def _nearer(
    black: AttackSummary,
    whites: list[AttackSummary],
    results: Mapping[str, AttackResult],
    again: Repeat,
    randomised: bool,
) -> Iterable[Finding]:
    """A black-box attack that came nearer than all white-box attacks, in the norm of some."""
    attacked = attacked_by([black, *whites], results)
    free = [white for white in whites if budget_of(white) is None]
    for norm in sorted({white.norm for white in free}):
        those = [white for white in free if white.norm == norm]
        reach = results[black.name].distance(norm)
        best = np.min([results[white.name].distance(norm) for white in whites], axis=0)
        nearer, farther = nearer_and_farther(reach, best, attacked)
        if not clearly(nearer, farther, attacked):
            continue
        told = (
            f"{black.name}, which sees no gradient, came nearer than every white-box attack in "
            f"{norm_name(norm)}, the norm of {listed(white.name for white in those)}, on "
            f"{samples(nearer)}, and they nearer on {farther}."
        )
        won = nearer / (nearer + farther)
        if randomised:
            yield Finding("black_box_stronger", f"{told} {_NOISE}", won, _EVEN, _AVERAGED)
            continue
        medians = [np.median(results[white.name].distance(norm)[attacked]) for white in those]
        closest = those[int(np.argmin(medians))]
        patient = longer(closest, _PATIENCE)
        rows = some(attacked & is_nearer(reach, best))
        repeated = None if patient is None else again(patient, rows)
        if patient is None or repeated is None:
            yield Finding(
                "black_box_stronger",
                f"{told} {closest.name} was stopped too early or its gradient misleads: do not "
                "take its figures for robustness before it was repeated with more steps.",
                won,
                _EVEN,
                None if patient is None else attack_again(patient),
            )
            continue
        steps = patient["config"]["max_iter"]
        still = float(np.mean(is_nearer(reach[rows], repeated.distance(norm))))
        if clearly(round(nearer * still), farther, attacked):
            yield Finding(
                "gradient_masking",
                f"{told} With max_iter={steps} {closest.name} came no nearer: the gradient "
                "misleads the attack (gradient masking), do not take its figures for robustness.",
                won,
                _EVEN,
                attack_again({"name": black.attack, "config": black.config}),
            )
        else:
            yield Finding(
                "not_converged",
                f"{told} With max_iter={steps} {closest.name} came as near: it had been stopped "
                "too early, its figures are no measure of robustness.",
                won,
                _EVEN,
                attack_again(patient),
            )


def _far_behind(
    late: AttackSummary, own: list[AttackSummary], results: Mapping[str, AttackResult]
) -> Finding | None:
    """A minimal-norm attack far behind one that knows no more, in its own norm."""
    steps = late.config.get("max_iter")
    if late.kind != "minimal" or steps is None:
        return None
    ahead: list[tuple[float, float, str]] = []
    for other in own:
        if (other.knowledge, other.targeted) != (late.knowledge, late.targeted) or other is late:
            continue
        attacked = attacked_by([late, other], results)
        if not attacked.any():
            continue
        far = results[late.name].distance(late.norm)
        near = results[other.name].distance(late.norm)
        medians = float(np.median(near[attacked])), float(np.median(far[attacked]))
        if medians[1] > _FAR_BEHIND * medians[0] and significant(
            *nearer_and_farther(near, far, attacked)
        ):
            ahead.append((*medians, other.name))
    if not ahead:
        return None
    near_median, far_median, name = min(ahead)
    rate = late.config.get("learning_rate")
    settings = f"max_iter={steps}" + ("" if rate is None else f", learning_rate={rate:g}")
    patient = longer(late, _PATIENCE)
    assert patient is not None  # it counts its steps
    return Finding(
        "not_converged",
        f"{late.name}'s median distance in its own norm ({norm_name(late.norm)}) is "
        f"{far_median:.4g} where the points of {name} lie at {near_median:.4g}: {late.name} has "
        f"not converged with {settings}. Its figures are no measure of robustness before it was "
        "repeated with more or larger steps.",
        far_median / near_median if near_median else math.inf,
        _FAR_BEHIND,
        attack_again(patient),
    )


def _one_step(own: list[AttackSummary], results: Mapping[str, AttackResult]) -> Iterable[Finding]:
    """Iterative attacks that broke less than a single step inside the same budget."""
    whites = [(s, eps) for s in own if s.knowledge == "white" and (eps := budget_of(s)) is not None]
    for many, far in (row for row in whites if row[0].config.get("max_iter", 1) != 1):
        for one, reach in (row for row in whites if "max_iter" not in row[0].config):
            same = one.norm == many.norm and one.targeted == many.targeted
            if not same or not np.array_equal(reach, far):
                continue
            more, less = _broken_by_one(one, many, results)
            if significant(more, less):
                yield Finding(
                    "one_step_stronger",
                    f"{one.name} broke {samples(more)} in a single step that {many.name}, which "
                    f"makes several with the same budget, did not, and {many.name} {less} that it "
                    "did not. The steps are too short for their number, or the gradient misleads: "
                    f"the accuracy of {percent(many.accuracy)} under {many.name} is not "
                    "robustness.",
                    more / (more + less),
                    _EVEN,
                    attack_again(_smaller_step(many, many.norm, far)),
                )


def _falling(own: list[AttackSummary], results: Mapping[str, AttackResult]) -> Iterable[Finding]:
    """Attacks that broke less with a larger budget."""
    rows = [(s, float(eps)) for s in own if (eps := budget_of(s)) is not None and not eps.ndim]
    for small, least in rows:
        for large, most in rows:
            if most <= least or _but_lengths(small) != _but_lengths(large):
                continue
            more, less = _broken_by_one(small, large, results)
            if significant(more, less):
                yield Finding(
                    "success_falls",
                    f"{small.name} (eps {least:.4g}) broke {samples(more)} that {large.name} "
                    f"(eps {most:.4g}) did not, and {large.name} {less} that it did not. The "
                    f"larger ball holds the smaller one: {large.name} misses what is within its "
                    "reach, its steps are too long or the gradient misleads.",
                    more / (more + less),
                    _EVEN,
                    attack_again(_smaller_step(large, large.norm, np.asarray(most))),
                )


def _but_lengths(summary: AttackSummary) -> Any:
    """What must be equal for two rows to differ in their budget alone."""
    config = {key: v for key, v in summary.config.items() if not key.startswith("eps")}
    return summary.attack, summary.norm, summary.targeted, json.dumps(jsonable(config))


def _broken_by_one(
    one: AttackSummary, other: AttackSummary, results: Mapping[str, AttackResult]
) -> tuple[int, int]:
    """On how many samples only the one attack succeeded, and only the other."""
    attacked = attacked_by([one, other], results)
    first, second = held(results[one.name]).success, held(results[other.name]).success
    return int((attacked & first & ~second).sum()), int((attacked & second & ~first).sum())


def _budgets(whites: list[AttackSummary]) -> list[tuple[float, np.ndarray, list[str]]]:
    """Each budget once: norm, radius, the attacks that work to it."""
    found: list[tuple[float, np.ndarray, list[str]]] = []
    for white in whites:
        eps = budget_of(white)
        if eps is None:
            continue
        for norm, radius, names in found:
            if norm == white.norm and np.array_equal(radius, eps):
                names.append(white.name)
                break
        else:
            found.append((white.norm, eps, [white.name]))
    return found


def _is_careful(white: AttackSummary, eps: np.ndarray) -> bool:
    """Whether it walked through its budget in small steps, and far enough."""
    if white.attack in _OWN_STEP:
        return True
    step, steps = white.config.get("eps_step"), white.config.get("max_iter")
    if step is None or steps is None:
        return False
    longest, radius = float(np.max(step)), float(np.max(eps))
    return longest <= radius / _STEPS and longest * steps >= radius


def _smaller_step(white: AttackSummary, norm: float, eps: np.ndarray) -> Description:
    """The same attack in smaller steps, and more of them; PGD for one that has a single step.

    Where that would take very many, the steps were too short: then a tenth of the budget each.
    """
    radius, step = float(np.max(eps)), white.config.get("eps_step")
    patient = longer(white, _PATIENCE)
    if white.attack in _OWN_STEP and patient is not None:
        return patient
    if step is None or patient is None:
        return pgd_in_place_of(white, norm, radius, math.ceil(_STEPS * 10))
    config = {**white.config, "eps_step": min(radius / 10, float(np.max(step)) / _STEPS)}
    needed = math.ceil(_STEPS * radius / config["eps_step"])
    if needed > _MOST_STEPS:
        config["eps_step"], needed = radius / 10, 10 * _STEPS
    config["max_iter"] = max(config["max_iter"], needed)
    return {"name": white.attack, "config": config}


def _is_longer(repeated: Description, white: AttackSummary) -> bool:
    """Whether the steps of a repetition are longer than the attack's own."""
    new, old = repeated["config"].get("eps_step"), white.config.get("eps_step")
    return new is not None and old is not None and float(np.max(old)) < new


def _cross_check(
    native: AttackSummary, check: AttackSummary, of_native: AttackResult, of_check: AttackResult
) -> Finding | None:
    attacked = ~of_native.initially_adversarial
    if native.kind == "budget":
        better = int((attacked & of_check.success & ~of_native.success).sum())
        worse = int((attacked & of_native.success & ~of_check.success).sum())
    else:
        ours, theirs = of_native.distance(native.norm), of_check.distance(native.norm)
        better, worse = nearer_and_farther(theirs, ours, attacked)
    if not significant(better, worse):
        return None
    return Finding(
        "cross_check",
        f"{check.name} did better than {native.name} on {samples(better)} and worse on "
        f"{worse}: {native.name} is weaker here than its reference.",
        better / (better + worse),
        _EVEN,
    )
