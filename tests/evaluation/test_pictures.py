"""Pictures: what is in the pixels, not only that a file appears."""

import math

import matplotlib.image
import numpy as np
import pytest

from kerasrobust.evaluation import pictures

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
