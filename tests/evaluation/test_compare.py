"""Reports side by side: differences by hand, tests by SciPy and by the formulas."""

import dataclasses
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binom, hypergeom

import kerasrobust
from kerasrobust.evaluation import Report, compare
from kerasrobust.evaluation.compare import detectable, difference
from kerasrobust.metrics.outcomes import flags
from kerasrobust_cli import compare as command


def pairs(both, gained, lost, neither):
    before = np.repeat([True, False, True, False], [both, gained, lost, neither])
    after = np.repeat([True, True, False, False], [both, gained, lost, neither])
    return before, after


def test_pairs_are_tested_by_those_that_differ():
    value, low, high, p = difference(*pairs(30, 12, 3, 55), paired=True)
    assert value == pytest.approx(0.09)
    # McNemar exact: 3 or fewer of 15 under a fair coin, on both sides.
    assert p == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    # Agresti and Min: 12.5 and 3.5 pairs of 102 differ.
    middle = (12.5 - 3.5) / 102
    spread = 1.959964 / 102 * math.sqrt(12.5 + 3.5 - (12.5 - 3.5) ** 2 / 102)
    assert (low, high) == pytest.approx((middle - spread, middle + spread))


def test_pairs_without_a_difference():
    value, low, high, p = difference(*pairs(5, 0, 0, 5), paired=True)
    assert value == 0 and p == 1 and low < 0 < high and high == pytest.approx(-low)


def test_other_samples_are_tested_by_their_counts():
    before, after = np.arange(80) < 56, np.arange(80) < 48
    value, low, high, p = difference(before, after, paired=False)
    assert value == pytest.approx(-0.1)
    ends = []
    for hits in (56, 48):
        share, z = hits / 80, 1.959963984540054
        middle = (share + z**2 / 160) / (1 + z**2 / 80)
        width = z / (1 + z**2 / 80) * math.sqrt(share * (1 - share) / 80 + z**2 / 25600)
        ends.append((share, middle - width, middle + width))
    (one, one_low, one_high), (two, two_low, two_high) = ends
    assert low == pytest.approx(value - math.hypot(two - two_low, one_high - one))
    assert high == pytest.approx(value + math.hypot(two_high - two, one - one_low))
    table = hypergeom(160, 104, 80)
    rare = [table.pmf(k) for k in range(24, 81) if table.pmf(k) <= table.pmf(56) * (1 + 1e-7)]
    assert p == pytest.approx(sum(rare))


def test_newcombe_s_example():
    # Newcombe (1998), Table II: 56/70 against 48/80 by method 10 gives 0.0524 to 0.3339.
    before, after = np.arange(80) < 48, np.arange(70) < 56
    value, low, high, _ = difference(before, after, paired=False)
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def power(n, differ, value):
    """Of McNemar's exact test, summed over how many pairs differ and in which direction."""
    total = 0.0
    for k in range(n + 1):
        gained = np.arange(k + 1)
        rejects = 2 * binom.cdf(np.minimum(gained, k - gained), k, 0.5) < 0.05
        share = (differ + value) / (2 * differ)
        total += binom.pmf(k, n, differ) * binom.pmf(gained, k, share)[rejects].sum()
    return total


@pytest.mark.parametrize("counts", [(300, 60, 40, 100), (30, 12, 3, 55), (480, 2, 1, 17)])
def test_detectable_is_found_in_four_of_five_cases(counts):
    before, after = pairs(*counts)
    value, n = detectable(before, after, paired=True), len(before)
    # The exact test needs a little more than the normal approximation.
    assert 0.72 < power(n, max((before != after).mean(), value), value) < 0.83


def test_detectable_in_other_samples_and_in_a_handful():
    before, after = np.arange(400) < 240, np.arange(300) < 150
    shares = (242 / 404, 404), (152 / 304, 304)
    expected = 2.801585 * math.sqrt(sum(p * (1 - p) / n for p, n in shares))
    assert detectable(before, after, paired=False) == pytest.approx(expected, rel=1e-6)
    assert detectable(*pairs(1, 0, 0, 1), paired=True) == 1.0
    # With more pairs of the same kinds it falls as the root of their number.
    few, many = (detectable(*pairs(30 * k, 8 * k, 4 * k, 8 * k), True) for k in (10, 1000))
    assert few / many == pytest.approx(10, rel=0.01)


@pytest.fixture(scope="module")
def folders(digits_model, digits, tmp_path_factory):
    x, y = digits
    base = tmp_path_factory.mktemp("reports")
    options = {"dataset": "digits", "batch_size": 32}
    for name, rows, attacks in (
        ("weak", slice(0, 40), "fgsm:eps=0.05"),
        ("strong", slice(0, 40), "fgsm:eps=0.2"),
        ("elsewhere", slice(40, 80), ["fgsm:eps=0.05", "bim:eps=0.05,max_iter=3"]),
    ):
        report = kerasrobust.evaluate(digits_model, x[rows], y[rows], attacks=attacks, **options)
        report.save(base / name)
    return base


def test_reports_keep_who_withstood(folders):
    report = Report.load(folders / "strong")
    for figures in (report.clean, report.robust, report.attacks["fgsm"].figures):
        outcome = flags(figures["outcomes"])
        assert len(outcome) == 40 and outcome.mean() == pytest.approx(figures["accuracy"])


def test_reports_side_by_side(folders):
    reports = {name: Report.load(folders / name) for name in ("weak", "strong", "elsewhere")}
    found = compare(reports)
    assert list(found.accuracies) == ["clean", "fgsm", "bim", "worst case"]
    assert found.accuracies["bim"]["weak"] is None
    by_place = {(one.row, one.report): one for one in found.differences}
    assert ("bim", "elsewhere") not in by_place
    worse = by_place["fgsm", "strong"]
    lost = reports["weak"].robust_accuracy - reports["strong"].robust_accuracy
    assert worse.paired and worse.value == pytest.approx(-lost) and lost > 0
    assert worse.p_value == pytest.approx(2 * 0.5 ** round(40 * lost))  # none was won back
    assert by_place["clean", "strong"].value == 0
    assert not by_place["fgsm", "elsewhere"].paired
    notes = " ".join(found.notes)
    assert "elsewhere alone has bim" in notes and "the parameters of fgsm" in notes
    assert json.loads(json.dumps(found.to_dict()))["accuracies"]["bim"]["weak"] is None


def test_samples_that_count_several_times_are_told(folders):
    report = Report.load(folders / "weak")
    repeats = {"draws": 4, "samples": 10, "of": 20}
    drawn = dataclasses.replace(report, settings={**report.settings, "repeats": repeats})
    assert not any("several draws" in note for note in compare({"a": report, "b": report}).notes)
    (note,) = (n for n in compare({"a": drawn, "b": drawn}).notes if "several draws" in n)
    assert "a, b" in note and "p is too small" in note


def test_accuracy_on_own_predictions_is_told(folders):
    report = Report.load(folders / "weak")
    own = dataclasses.replace(report, settings={**report.settings, "labels": "predicted"})
    (note,) = (n for n in compare({"a": report, "b": own}).notes if "No labels" in n)
    assert "for b:" in note and "100 % without attack" in note


def test_the_command(folders):
    arguments = [str(folders / "weak"), str(folders / "strong")]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 0 and "the same" in result.output
    result = CliRunner().invoke(command.main, [*arguments, "--format", "json"])
    assert json.loads(result.output)["differences"][0]["row"] == "clean"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["weak"], "at least two"),
        (["weak", "weak"], "once"),
        (["weak", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(folders, names, message):
    result = CliRunner().invoke(command.main, [str(folders / name) for name in names])
    assert result.exit_code != 0 and message in result.output
    assert "Traceback" not in result.output


def test_bad_reports():
    with pytest.raises(ValueError, match="at least two"):
        compare({"one": object()})
    with pytest.raises(TypeError, match="reports by name"):
        compare({"one": object(), "two": object()})
