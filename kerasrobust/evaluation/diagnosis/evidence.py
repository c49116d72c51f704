"""When outcomes count as evidence: paired tests, and how attacks are repeated on a few samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from kerasrobust.engine.criterion import SLACK
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.diagnosis.words import Description
from kerasrobust.evaluation.summary import AttackSummary

SIGNIFICANCE = 0.05
# A distance must be this much smaller before one attack counts as nearer than another.
MARGIN = 0.03
# A white-box attack may miss this share of the samples by bad luck.
LUCK = 0.01
# On how many samples an attack is repeated, at most.
REPEATED = 32
# What attacks call the number of their starts.
STARTS = ("num_random_init", "nb_random_init", "restarts")

# An attack on some of the samples, given by their places: its outcome, or None where it cannot be
# repeated.
Repeat = Callable[[Description, np.ndarray], AttackResult | None]


def beyond(share: float, count: int, total: int) -> bool:
    """Whether so many of all are more than this share explains (exact binomial test)."""
    if not count:
        return False
    return bool(binomtest(count, total, share, alternative="greater").pvalue < SIGNIFICANCE)


def below(share: float, count: int, total: int) -> bool:
    """Whether so many of all are fewer than this share explains (exact binomial test)."""
    return bool(binomtest(count, total, share, alternative="less").pvalue < SIGNIFICANCE)


def beyond_luck(missed: int, attacked: int) -> bool:
    """Whether so many samples are more than an attack may miss by bad luck."""
    return beyond(LUCK, missed, attacked)


def significant(more: int, less: int) -> bool:
    """One-sided sign test of paired outcomes."""
    return more > less and beyond(0.5, more, more + less)


def is_nearer(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where one distance is clearly smaller than another."""
    return one < (1.0 - MARGIN) * other


def nearer_and_farther(one: np.ndarray, other: np.ndarray, attacked: np.ndarray) -> tuple[int, int]:
    """On how many samples one attack came clearly nearer than another, and the other way round."""
    nearer, farther = attacked & is_nearer(one, other), attacked & is_nearer(other, one)
    return int(nearer.sum()), int(farther.sum())


def clearly(nearer: int, farther: int, attacked: np.ndarray) -> bool:
    """More often nearer than farther, and on more samples than bad luck explains."""
    return significant(nearer, farther) and beyond_luck(nearer, int(attacked.sum()))


def attacked_by(rows: Sequence[AttackSummary], results: Mapping[str, AttackResult]) -> np.ndarray:
    """Samples that all of these attacks had something to do on."""
    return ~np.any([results[row.name].initially_adversarial for row in rows], axis=0)


def budget_of(summary: AttackSummary) -> np.ndarray | None:
    """The radius, one or one per sample, that a budget attack works to."""
    if summary.kind != "budget" or summary.config.get("eps") is None:
        return None
    eps = np.asarray(summary.config["eps"], dtype=np.float64)
    return eps if eps.ndim == 0 else eps.reshape(-1)


def inside(
    result: AttackResult, norm: float, eps: np.ndarray, rows: Any = slice(None)
) -> np.ndarray:
    """Which successes lie in a budget: a radius, or one per sample of which `rows` are these."""
    radius = eps[rows] if eps.ndim else eps
    return result.success & (result.distance(norm) <= radius * (1.0 + SLACK))


def held(result: AttackResult) -> AttackResult:
    """The same outcome without the successes that did not count a second time."""
    holds = result.columns.get("holds")
    if holds is None:
        return result
    gone = result.success & ~holds
    distances: dict[str, Any] = {
        norm: np.where(gone, np.inf, getattr(result, norm)) for norm in ("l0", "l1", "l2", "linf")
    }
    return dataclasses.replace(result, success=result.success & holds, **distances)


def some(which: np.ndarray, most: int = REPEATED) -> np.ndarray:
    """Places of these samples, of many only a few from all over."""
    rows = np.flatnonzero(which)
    return rows[:: max(-(-len(rows) // most), 1)]


def longer(white: AttackSummary, factor: int, restarts: bool = False) -> Description | None:
    """The same attack with so many times the steps; None for one that counts none.

    Args:
        white: The attack.
        factor: Of the steps.
        restarts: Whether its starts become as many times more, where it has some.
    """
    if not white.config.get("max_iter"):
        return None
    config = {**white.config, "max_iter": factor * white.config["max_iter"]}
    for key in STARTS if restarts else ():
        if config.get(key):
            config[key] *= factor
    return {"name": white.attack, "config": config}


def pgd_in_place_of(white: AttackSummary, norm: float, radius: float, steps: int) -> Description:
    """PGD within the same budget, for an attack of a single step."""
    kept = ("eps", "targeted", "batch_size", "seed", "verbose")
    config = {key: white.config[key] for key in kept if key in white.config}
    config.update(norm="inf" if norm == math.inf else norm, eps_step=radius / 10, max_iter=steps)
    return {"name": "pgd", "config": config}
