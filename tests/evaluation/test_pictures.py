"""Pictures: what is in the pixels, not only that a file appears."""

import math
import warnings

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from kerasrobust.evaluation import pictures
from kerasrobust.evaluation.pictures import reports
from kerasrobust.evaluation.surfaces import Surface

NAN = math.nan


def drawn(path):
    return matplotlib.image.imread(path)[..., :3]


def has_colour(image, colour, tolerance=0.02):
    return bool((np.abs(image - colour).max(axis=-1) < tolerance).any())


def test_grid_shows_the_pixels_of_colour_images(make_result, tmp_path):
    # One sample: orange when clean, blue when attacked; bounds other than 0..1.
    clean, attacked = np.array([255.0, 128.0, 0.0]), np.array([0.0, 0.0, 255.0])
    x = np.broadcast_to(clean, (1, 6, 6, 3)).astype(np.float32)
    x_adv = np.broadcast_to(attacked, (1, 6, 6, 3)).astype(np.float32)
    y = np.zeros(1, np.int64)
    result = make_result([0.5], x=x, x_adv=x_adv)
    path = tmp_path / "grid.png"
    examples = pictures.Examples(x, y, y, {"fake": result})
    pictures.adversarial_grid(path, examples, (0.0, 255.0), class_names=["a", "b"])
    image = drawn(path)
    third = len(image) // 3
    parts = image[:third], image[third : 2 * third], image[2 * third :]
    # The difference, (-255, -128, 255), is too large to be magnified: it ends at black and white.
    shown = clean / 255, attacked / 255, np.array([0.0, 0.0, 1.0])
    for part, own, other in ((parts[0], *shown[:2]), (parts[1], shown[1], shown[0])):
        assert has_colour(part, own) and not has_colour(part, other)
    assert has_colour(parts[2], shown[2])


def test_grid_magnifies_differences_around_grey(make_result, tmp_path):
    x = np.full((1, 6, 6, 3), 0.2, np.float32)
    x_adv = x.copy()
    x_adv[:, :3, :, 0] += 0.04  # of 0.5 / 0.04 = 12.5 the next step below is 10
    y = np.zeros(1, np.int64)
    examples = pictures.Examples(x, y, y, {"fake": make_result([0.5], x=x, x_adv=x_adv)})
    pictures.adversarial_grid(tmp_path / "g.png", examples)
    image = drawn(tmp_path / "g.png")
    for colour in ([0.9, 0.5, 0.5], [0.5, 0.5, 0.5]):
        assert has_colour(image[2 * len(image) // 3 :], np.array(colour), 0.01)
    failed = pictures.Examples(x, y, y, {"fake": make_result([NAN], x=x, x_adv=x_adv)})
    pictures.adversarial_grid(tmp_path / "f.png", failed)
    assert len(drawn(tmp_path / "f.png")) < 0.8 * len(image)  # no row without a difference


@pytest.mark.parametrize(
    ("largest", "factor"),
    [(0.5, 1), (0.9, 1), (0.25, 2), (0.1, 5), (8 / 255, 10), (0.004, 100), (0.0, 1)],
)
def test_magnification(largest, factor):
    differences = [np.array([-largest, 0.0]), np.array([largest / 3])]
    assert pictures.magnification(differences) == pytest.approx(factor)
    assert pictures.magnification([]) == 1


def test_grid_shows_any_name_of_a_class(make_result, tmp_path):
    result, y = make_result([0.5]), np.zeros(1, np.int64)
    examples = pictures.Examples(result.x, y, y, {"$fake": result})
    names = [r"$\frac", "<b>a name that is longer than its picture</b>"]
    pictures.adversarial_grid(tmp_path / "g.png", examples, class_names=names)
    pictures.adversarial_grid(tmp_path / "g.png", examples, class_names=names[:1])


def test_grid_marks_labels(make_result, tmp_path):
    green, red = np.array([0x1B, 0x78, 0x37]) / 255, np.array([0xC5, 0x1B, 0x7D]) / 255
    y = np.zeros(1, np.int64)
    for shift, fooled in ((0.5, True), (NAN, False)):
        result = make_result([shift])
        examples = pictures.Examples(result.x, y, y, {"fake": result})
        pictures.adversarial_grid(tmp_path / "g.png", examples)
        image = drawn(tmp_path / "g.png")
        assert has_colour(image, green, 0.1)
        assert has_colour(image, red, 0.1) == fooled


def test_grid_shows_a_rejected_image_and_not_one_that_failed(make_result, tmp_path):
    x = np.zeros((1, 6, 6, 3), np.float32)
    y, blue = np.zeros(1, np.int64), np.array([0.0, 0.0, 1.0])
    x_adv = np.broadcast_to(blue, x.shape).astype(np.float32)
    for accepted, shown in ((np.array([False]), True), (np.array([True]), False), (None, False)):
        result = make_result([NAN], x=x, x_adv=x_adv, accepted=accepted)
        pictures.adversarial_grid(tmp_path / "g.png", pictures.Examples(x, y, y, {"fake": result}))
        assert has_colour(drawn(tmp_path / "g.png"), blue) == shown


def test_grid_shows_one_sample_of_each_class_right_ones_first():
    y = np.array([0, 0, 0, 1, 1, 2])
    right = np.array([False, True, True, True, True, False])
    assert pictures.choose(y, right, 3).tolist() == [1, 3, 5]
    assert pictures.choose(y, right, 5).tolist() == [1, 2, 3, 4, 5]
    assert sorted(pictures.choose(y, right, 10)) == list(range(6))


def test_curves_and_bad_input(tmp_path):
    curves = {
        "cwl2": {"norm": 2.0, "eps": [0, 1], "accuracy": [1, 0]},
        "ead": {"norm": 1.0, "eps": [0, 9], "accuracy": [1, 0.5]},
    }
    pictures.budget_curves(tmp_path / "two.png", curves)
    pictures.budget_curves(tmp_path / "one.png", {"cwl2": curves["cwl2"]})
    two, one = drawn(tmp_path / "two.png"), drawn(tmp_path / "one.png")
    assert two.shape[1] == 2 * one.shape[1]  # a panel for each norm
    assert has_colour(one, np.array([0x1F, 0x77, 0xB4]) / 255)  # the line
    with pytest.raises(ValueError, match="at least one curve"):
        pictures.budget_curves(tmp_path / "none.png", {})
    with pytest.raises(ValueError, match="Received: x of shape"):
        examples = pictures.Examples(np.zeros((2, 9)), np.zeros(2), np.zeros(2), {})
        pictures.adversarial_grid(tmp_path / "x.png", examples)


def test_names_are_shown_as_they_are_and_leave_room(tmp_path):
    """Formulas, hidden labels, and a name that would leave no panel."""
    warnings.simplefilter("error")  # axes that collapsed
    for name in ("_a$^{$", "x" * 300 + "\n"):
        curve = {"norm": 2.0, "eps": [0, 1], "accuracy": [1, 0]}
        pictures.budget_curves(tmp_path / "curves.png", {name: curve})
        assert has_colour(drawn(tmp_path / "curves.png"), np.array([0x1F, 0x77, 0xB4]) / 255)
        pictures.heat_maps(tmp_path / "m.png", {name: [[0.0]]}, [name], [name], "down", "across")
        assert has_colour(drawn(tmp_path / "m.png"), np.array([0x44, 0x01, 0x54]) / 255)
    pictures.spread(tmp_path / "spread.png", {name: [0.1, 0.9], "_a$^{$": [0.5, 0.5]})
    assert reports._shown("_under") == " _under"
    assert reports._shown("models/" + "x" * 300 + "/last.keras").endswith("/last.keras")


def test_maps_of_many_classes_and_attacks_can_be_drawn(tmp_path):
    names = [str(number) for number in range(1000)]
    pictures.heat_maps(tmp_path / "classes.png", {"pgd": np.ones((1, 1000))}, ["0"], names, "", "")
    maps = {str(number): [[0.5, None]] for number in range(5)}
    pictures.heat_maps(tmp_path / "attacks.png", maps, ["a"], ["b", "c"], "", "")
    classes, attacks = (drawn(tmp_path / f"{name}.png").shape for name in ("classes", "attacks"))
    assert classes[1] < 1800 and attacks[:2] == (2 * 312, 4 * 420)  # two rows of panels


def test_adaptive_curves_show_where_the_lines_are(tmp_path):
    """At 100 % the line is near the top of its panel, at 0 % near the bottom."""
    blue = np.array([0x1F, 0x77, 0xB4]) / 255

    def height(accuracy):
        path = tmp_path / "curves.png"
        curve = {"restarts": [0, 10, 400], "accuracy": [accuracy] * 3}
        pictures.adaptive_curves(path, {"cwl2": curve}, {})
        image = drawn(path)[:, ::2]
        # The line itself is the longest row of that colour; the legend has some as well.
        return (np.abs(image - blue).max(axis=-1) < 0.02).sum(axis=1).argmax() / len(image)

    assert height(1.0) < 0.2 < 0.4 < height(0.5) < 0.6 < 0.7 < height(0.0)
    restarts = {"cwl2": {"restarts": [0, 1], "accuracy": [0.9, 0.8]}}
    expectation = {
        "cwl2": {"eps": [0, 1, 2], "accuracy": [1, 0.5, 0]},
        "mean of 10": {"eps": [0, 1, 2], "accuracy": [1, 0.6, 0]},
    }
    pictures.adaptive_curves(tmp_path / "both.png", restarts, expectation)
    pictures.adaptive_curves(tmp_path / "right.png", {}, expectation)
    both, right = drawn(tmp_path / "both.png"), drawn(tmp_path / "right.png")
    assert both.shape[1] == 2 * right.shape[1]
    assert has_colour(right, np.array([0xFF, 0x7F, 0x0E]) / 255)  # the second curve
    with pytest.raises(ValueError, match="at least one curve"):
        pictures.adaptive_curves(tmp_path / "none.png", {}, {})
    expectation["cwl2"]["accuracy"] = [1.0]
    with pytest.raises(ValueError, match="Received: 3 and 1 values for 'cwl2'"):
        pictures.adaptive_curves(tmp_path / "none.png", {}, expectation)


def test_certified_curves(tmp_path):
    lines = {
        "low": {"radius": [0.0, 1.0], "accuracy": [0.5, 0.0]},
        "high": {"radius": [0.0, 1.0], "accuracy": [1.0, 0.5]},
    }
    pictures.certified_curves(tmp_path / "two.png", lines)
    pictures.certified_curves(tmp_path / "one.png", {"low": lines["low"]})
    orange = np.array([0xFF, 0x7F, 0x0E]) / 255  # of a second line
    assert has_colour(drawn(tmp_path / "two.png"), orange, 0.05)
    assert not has_colour(drawn(tmp_path / "one.png"), orange, 0.05)
    with pytest.raises(ValueError, match="at least one curve"):
        pictures.certified_curves(tmp_path / "none.png", {})
    lines["low"]["accuracy"] = [0.5]
    with pytest.raises(ValueError, match="one accuracy for each of 'radius'. Received: 2 and 1"):
        pictures.certified_curves(tmp_path / "bad.png", lines)


def test_tuning_has_a_panel_for_each_defense_and_the_undefended_dashed(tmp_path):
    blue = np.array([0x1F, 0x77, 0xB4]) / 255
    numbers = {"clean": {"value": [1, 2], "accuracy": [1, 1]}}
    words = {"clean": {"value": ["rank", None], "accuracy": [0.5, 0.5]}}
    pictures.tuning_curves(tmp_path / "one.png", {"a": numbers}, {})
    pictures.tuning_curves(tmp_path / "two.png", {"a": numbers, "b": words}, {})
    pictures.tuning_curves(tmp_path / "level.png", {"a": numbers}, {"clean": 0.25, "other": 0.5})
    one, two, level = (drawn(tmp_path / f"{name}.png") for name in ("one", "two", "level"))
    assert two.shape[1] == 2 * one.shape[1] and has_colour(one, blue)
    changed = np.flatnonzero((np.abs(one - level) > 0.02).any(axis=(1, 2)))
    # The level alone, at a quarter of the height.
    assert 0 < len(changed) < 6 and changed.min() > 0.6 * len(one)
    with pytest.raises(ValueError, match="at least one panel"):
        pictures.tuning_curves(tmp_path / "none.png", {}, {})
    with pytest.raises(ValueError, match="one accuracy for each"):
        curves = {"a": {"clean": {"value": [1], "accuracy": []}}}
        pictures.tuning_curves(tmp_path / "none.png", curves, {})


# ---- what models say around samples -------------------------------------------------------------


def surface(labels, losses, *, y=0, axes=None, eps=0.1, sizes=None, confidence=1.0):
    """A `Surface` of given values, `[n, a, b]` or `[n, a]`."""
    labels, losses = np.asarray(labels), np.asarray(losses, float)
    axes = axes or [np.linspace(-0.2, 0.2, n) for n in labels.shape[1:]]
    return Surface(
        axes=tuple(axes),
        losses=losses,
        labels=labels,
        confidence=np.broadcast_to(np.float32(confidence), labels.shape),
        sizes=np.zeros(labels.shape) if sizes is None else sizes,
        y=np.full(len(labels), y),
        eps=eps,
        names=("fgsm", "random, orthogonal")[: len(axes)],
    )


def share(image, colour):
    return float((np.abs(image - np.array(to_rgb(colour))).max(axis=-1) < 0.02).mean())


def test_decision_space_colours_classes_and_the_loss(tmp_path):
    true, blue, orange = "#f2f2f2", "#0072b2", "#e69f00"
    halves = np.zeros((1, 20, 20), int)
    halves[:, 10:] = 3
    quarter = halves.copy()
    quarter[:, :10, :10] = 5
    flat = np.zeros(halves.shape)
    path = tmp_path / "space.png"
    pictures.decision_space(path, {"a": surface(halves, flat, eps=None)})
    half = drawn(path)
    upper = half[: len(half) // 2]
    # Half of the panel each; the fooled half is on the right, the loss below is one colour.
    assert share(upper, blue) == pytest.approx(share(upper, true), rel=0.1) and share(upper, blue)

    def columns(colour):
        """Those where a quarter of the height and more has the colour."""
        found = (np.abs(upper - to_rgb(colour)).max(axis=-1) < 0.02).mean(axis=0)
        return np.flatnonzero(found > 0.25)

    assert 0 < columns(blue).min() - columns(true).max() < 4
    pictures.decision_space(path, {"a": surface(quarter, flat)}, [f"name {i}" for i in range(6)])
    three = drawn(path)[: len(half) // 2]
    assert share(three, blue) > 1.8 * share(three, orange) > 0.02
    # A steep loss beside a flat one has the same scale: only the steep one is bright.
    steep = np.broadcast_to(np.linspace(0, 9, 20)[:, None], halves.shape)
    pictures.decision_space(path, {"flat": surface(halves, flat), "steep": surface(halves, steep)})
    low = drawn(path)[len(half) // 2 :]
    middle = low.shape[1] // 2
    purple = "#440154"
    assert share(low[:, :middle], purple) > 3 * share(low[:, middle:], purple)
    # Without a loss, of a model that answers labels, there is one row.
    pictures.decision_space(path, {"a": surface(halves, np.full(halves.shape, NAN))})
    assert len(drawn(path)) < 0.7 * len(half)


def test_decision_space_shows_the_budget_and_what_is_rejected(tmp_path):
    inside = np.zeros((1, 30, 30), int)
    sizes = np.abs(np.linspace(-0.2, 0.2, 30))[None, :, None] + np.zeros(inside.shape)
    path = tmp_path / "space.png"
    pictures.decision_space(path, {"a": surface(inside, inside)})
    none = drawn(path)
    pictures.decision_space(path, {"a": surface(inside, inside, sizes=sizes)})
    some = drawn(path)
    changed = (np.abs(none - some).max(axis=-1) > 0.1).sum(axis=0)
    lines = np.flatnonzero(changed > 0.2 * len(none))
    # Two upright lines, a budget to the left and to the right of the sample.
    assert len(lines) >= 2 and 0.3 < np.ptp(lines) / none.shape[1] < 0.5
    rejected = inside.copy()
    rejected[:, :15] = -1
    pictures.decision_space(path, {"a": surface(rejected, inside)})
    assert share(drawn(path), "#333333") > 0.05 > share(none, "#333333")


def test_loss_surface_has_one_height_for_all_panels(tmp_path):
    losses = np.linspace(0, 5, 9)[:, None] + np.zeros((2, 9, 9))
    labels = np.zeros(losses.shape, int)
    steep, flat = surface(labels, losses), surface(labels, 0 * losses)
    path = tmp_path / "surface.png"

    def bright(surfaces):
        pictures.loss_surface(path, surfaces)
        image = drawn(path)
        # Yellow and green: the upper part of the scale.
        return float(((image[..., 1] > 0.65) & (image[..., 2] < 0.5)).mean()), image.shape

    alone, shape = bright({"steep": steep})
    beside, wide = bright({"flat": flat, "steep": steep})
    none, _ = bright({"flat": flat})
    assert alone > 0.02 and none == 0 and wide[1] == 2 * shape[1]
    assert beside == pytest.approx(alone / 2, rel=0.3)  # half of the picture has none
    _, four = bright(dict.fromkeys("abcd", flat))
    assert four[0] == 2 * shape[0] and four[1] == 2 * shape[1]


def test_loss_against_eps_shows_quantiles(tmp_path):
    """Samples with a constant loss of 0 to 100: the median lies at half of the height."""
    losses = np.linspace(0, 100, 101)[:, None] + np.zeros((101, 5))
    line = surface(np.zeros(losses.shape, int), losses, axes=[np.linspace(0, 0.4, 5)])
    path = tmp_path / "lines.png"
    pictures.loss_against_eps(path, {"a": line})
    image = drawn(path)

    def rows(colour):
        """Those where a third of the width and more has the colour."""
        found = (np.abs(image - np.array(to_rgb(colour))).max(axis=-1) < 0.03).sum(axis=1)
        return np.flatnonzero(found > image.shape[1] / 3)

    blue = np.array(to_rgb("#0072b2"))
    outer = 1 - 0.18 * (1 - blue)
    inner = outer - 0.4 * (outer - blue)
    median, outer, inner = rows(blue), rows(outer), rows(inner)
    height = np.ptp(outer) / 0.9  # nine in ten of the samples
    assert len(median) and np.ptp(median) < 5
    assert np.ptp(inner) / height == pytest.approx(0.5, abs=0.03)
    assert (median.mean() - outer.min()) / height == pytest.approx(0.45, abs=0.03)
    pictures.loss_against_eps(path, {name: line for name in "abcd"})
    assert drawn(path).shape[0] > 1.6 * image.shape[0]  # in two rows


def test_decision_boundary_is_strong_where_the_model_is_sure(tmp_path):
    labels = np.zeros((1, 40, 40), int)
    labels[:, 20:] = 1
    axes = [np.linspace(0, 1, 40)] * 2
    x, y = np.array([[0.25, 0.5], [0.75, 0.5]]), np.array([0, 1])
    path = tmp_path / "boundary.png"

    def colourfulness(confidence, **options):
        one = surface(labels, 0.0 * labels, axes=axes, confidence=confidence)
        pictures.decision_boundary(path, {"a": one}, x, y, **options)
        image = drawn(path)
        return float(np.ptp(image, axis=-1).mean()), image

    sure, image = colourfulness(1.0)
    unsure, _ = colourfulness(0.5001)
    assert sure > 5 * unsure
    # Blue on the left, orange on the right.
    blue = image[..., 2] - image[..., 0]
    half = image.shape[1] // 2
    assert blue[:, :half].mean() > 0.1 and blue[:, half:].mean() < -0.1
    more = {"a": (np.full((1, 2), 0.9), np.zeros(1, int))}
    _, beside = colourfulness(1.0, augmented=more)
    assert 0 < (np.abs(image - beside) > 0.1).any(axis=-1).mean() < 0.01


def test_security_curves_have_a_panel_for_each_norm(tmp_path):
    fgsm = {"norm": math.inf, "eps": [0.0, 0.1], "accuracy": [1.0, 0.2]}
    cwl2 = {"norm": 2, "eps": [0.0, 1.0], "accuracy": [1.0, 0.0]}
    point = {"norm": math.inf, "eps": [0.1], "accuracy": [0.1]}
    certified = {"radius": [0.0, 0.5], "accuracy": [0.8, 0.0]}
    path = tmp_path / "curves.png"
    grey = "#d2d2d2"

    def image(*arguments):
        pictures.security_curves(path, *arguments)
        return drawn(path)

    one, two = image({"fgsm": fgsm}), image({"fgsm": fgsm, "cwl2": cwl2})
    assert two.shape[1] == pytest.approx(2 * one.shape[1], abs=2)
    proven = image({"fgsm": fgsm, "cwl2": cwl2}, certified)
    assert share(proven, grey) > 0.02 > share(two, grey)
    # The certificate has its own panel where no attack has its norm.
    assert image({"fgsm": fgsm}, certified).shape == two.shape
    marked = image({"fgsm": fgsm, "pgd": point})
    assert 0 < share(marked, "#e69f00") < 0.01  # a mark, and the one in the legend
    for curves in ({}, {"a": {**fgsm, "accuracy": [1.0]}}):
        with pytest.raises(ValueError, match="at least one curve|2 and 1 values for 'a'"):
            pictures.security_curves(path, curves)


def test_surfaces_that_cannot_be_drawn(tmp_path):
    path = tmp_path / "none.png"
    plane = surface(np.zeros((2, 3, 3), int), np.zeros((2, 3, 3)))
    line = surface(np.zeros((2, 3), int), np.full((2, 3), NAN))
    for draw, surfaces, message in (
        (pictures.decision_space, {}, "at least one plane"),
        (pictures.decision_space, {"a": plane}, "'a' with 2 axes and 2 samples"),
        (pictures.loss_surface, {"a": line}, "'a' with 1 axes"),
        (pictures.loss_against_eps, {"a": plane}, "Expected a line"),
        (pictures.loss_against_eps, {"a": line}, "'a' without finite losses"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(path, surfaces)
    with pytest.raises(ValueError, match=r"x of shape \(2, 3\)"):
        pictures.decision_boundary(path, {"a": plane.take(0)}, np.zeros((2, 3)), np.zeros(2))
