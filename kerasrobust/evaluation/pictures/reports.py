"""Pictures of a report."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kerasrobust.engine.result import AttackResult

# A path, or an open file.
File = str | os.PathLike[str] | IO[bytes]
_RIGHT, _FOOLED, _UNTOUCHED = "#1b7837", "#c51b7d", "#767676"
_COLUMNS = 10
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_MARKERS, _STYLES = "osD^vP", ("-", "--", ":")
# Letters of a name that fit above an image, and beside a curve or a row of cells.
_LETTERS, _BESIDE = 14, 40
# Cells of a panel that names and figures tell apart, the room of more of them either way, panels in
# a row, and how wide in inches they may be together.
_TOLD, _CROWD, _PANELS, _WIDE = 400, 20, 4, 100.0


@dataclasses.dataclass(frozen=True)
class Examples:
    """A few samples to look at, and what each attack made of them.

    Which ones, `choose` says from the clean pass alone; an attack's part of them is
    `result.take(rows)`, batch by batch: only these few samples need be kept.

    Attributes:
        x: Clean samples, shape `(m, ...)`.
        y: True labels, shape `(m,)`.
        labels: Labels the model gives the clean samples, shape `(m,)`.
        results: Outcome of each attack on these samples alone, by its name in the report.
    """

    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray
    results: Mapping[str, AttackResult]


def choose(y: np.ndarray, right: np.ndarray, columns: int = _COLUMNS) -> np.ndarray:
    """Rows of the samples to show: one of each class, then a second; right before wrong ones.

    Args:
        y: True labels, shape `(n,)`.
        right: Booleans of shape `(n,)`, what the model gets right.
        columns: Largest number of samples.

    Returns:
        At most `columns` indices, by class.
    """
    order = np.argsort(~right, kind="stable")
    rank = np.empty(len(y), int)
    seen: dict[int, int] = {}
    for position in order[: 100 * columns]:
        label = int(y[position])
        rank[position] = seen.get(label, 0)
        seen[label] = rank[position] + 1
    shown = order[: 100 * columns]
    shown = shown[np.argsort(rank[shown], kind="stable")][:columns]
    return shown[np.lexsort((rank[shown], y[shown]))]


def are_images(x: np.ndarray) -> bool:
    """Whether samples can be drawn: images of one, three or four channels."""
    return x.ndim == 4 and x.shape[-1] in (1, 3, 4) and min(x.shape[1:3]) > 1


def adversarial_grid(
    path: File,
    examples: Examples,
    clip_values: tuple[float, float] = (0.0, 1.0),
    class_names: Sequence[str] | None = None,
) -> None:
    """Draws clean images, and for each attack what it made of them and the difference.

    One column per sample, the clean ones in the first row. Above each image stands the label the
    model gives it: green where it is the true one, red where it is not, grey "rejected" where a
    detector caught it, "not fooled" where the attack failed, "wrong already", with the clean image,
    where there was nothing to do.
    Below an attack's images lie their differences from the clean ones, magnified by the factor
    that stands beside them: medium grey where nothing changed. Factors are 1, 2 or 5 times a power
    of ten, such that the largest difference of the row stays inside of black and white.

    It is Figures 3 and 4 of AREB and Figure 1 of BRELU-GDA, with differences.

    Args:
        path: PNG file to write, a path or an open file.
        examples: The samples.
        clip_values: Pixel values of black and white.
        class_names: Names to show in place of the labels' numbers, long ones cut off; a label
            beyond them keeps its number.

    Raises:
        ValueError: If `examples.x` holds no images.
    """
    x, y, clean_labels = np.asarray(examples.x), examples.y, examples.labels
    low, high = clip_values
    if x.ndim != 4 or x.shape[-1] not in (1, 3, 4) or len(x) == 0:
        raise ValueError(
            "Expected images of shape (n, height, width, channels) with 1, 3 or 4 channels. "
            f"Received: x of shape {x.shape}"
        )

    def name(label: int) -> str:
        if class_names is None or label >= len(class_names):
            return str(label)
        text = str(class_names[label])
        return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"

    colours = np.where(clean_labels == y, _RIGHT, _FOOLED)
    cells = [
        (image, name(label), c) for image, label, c in zip(x, clean_labels, colours, strict=True)
    ]
    rows: list[tuple[str, list[tuple[np.ndarray, str, str] | None]]] = [("clean", [*cells])]
    for attack, result in examples.results.items():
        cells, differences = [], {}
        for i, image in enumerate(x):
            shown, colour = image if result.x_adv is None else result.x_adv[i], _UNTOUCHED
            if result.initially_adversarial[i]:
                text, shown = "wrong already", image
            elif result.success[i]:
                text, colour = name(result.labels[i]), _FOOLED
            elif result.accepted is not None and not result.accepted[i]:
                text = "rejected"
            else:
                text, shown = "not fooled", image
            cells.append((shown, text, colour))
            if shown is not image:
                # Of pixels with transparency the colours are shown.
                differences[i] = (shown - image)[..., :3] / (high - low)
        rows.append((attack, [*cells]))
        if differences:
            factor = magnification([*differences.values()])
            grey = {i: low + (0.5 + factor * d) * (high - low) for i, d in differences.items()}
            below = [(grey[i], "", _UNTOUCHED) if i in grey else None for i in range(len(x))]
            rows.append((f"difference\n× {factor:g}", below))

    # A canvas of its own: pyplot's global state belongs to the caller.
    figure = Figure(figsize=(1.1 * len(x) + 0.9, 1.25 * len(rows) + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(x), squeeze=False)
    for (label, row), of_row in zip(rows, axes, strict=True):
        for axis, cell in zip(of_row, row, strict=True):
            axis.set(xticks=[], yticks=[], frame_on=cell is not None)
            if cell is not None:
                _show(axis, cell[0], clip_values)
                axis.set_title(cell[1], color=cell[2], fontsize=8, parse_math=False)
        of_row[0].set_ylabel(
            label, rotation=0, ha="right", va="center", fontsize=9, parse_math=False
        )
    figure.savefig(path, dpi=120, format="png")


def magnification(differences: Sequence[np.ndarray]) -> float:
    """The factor at which differences of 0..1 pixels are shown around medium grey.

    Args:
        differences: Adversarial less clean images, any shapes.

    Returns:
        The largest of 1, 2, 5, 10, 20 ... with which none goes beyond 0.5; 1 where there is none,
        or one is larger.
    """
    largest = max((float(np.abs(one).max()) for one in differences), default=0.0)
    if largest == 0.0:
        return 1.0
    # Rounding must not halve the factor of a difference of exactly 0.1.
    limit = 0.5 / largest * (1 + 1e-4)
    power = 10.0 ** math.floor(math.log10(limit))
    return max(1.0, power * max(step for step in (1, 2, 5) if step * power <= limit))


def budget_curves(path: File, curves: Mapping[str, Mapping]) -> None:
    """Draws accuracy against budget, one panel per norm.

    Args:
        path: PNG file to write, a path or an open file.
        curves: By attack, `{"norm", "eps", "accuracy"}` as in `AttackSummary.budget_curve`.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError(f"Expected at least one curve. Received: curves={curves!r}")
    norms = sorted({float(curve["norm"]) for curve in curves.values()})
    figure = Figure(figsize=(4.0 * len(norms), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, norm in zip(figure.subplots(1, len(norms), squeeze=False)[0], norms, strict=True):
        chosen = {name: c for name, c in curves.items() if float(c["norm"]) == norm}
        _accuracy_panel(axis, chosen, "eps", f"L{norm:g} budget")
    figure.savefig(path, dpi=120, format="png")


def certified_curves(path: File, curves: Mapping[str, Mapping]) -> None:
    """Draws accuracy against L2 radius: what is certified of models, or what bounds one from above.

    Args:
        path: PNG file to write, a path or an open file.
        curves: By name, `{"radius": radii, "accuracy": shares}`; for `Certificate.accuracy`, say.

    Raises:
        ValueError: If there is no curve, or the two lists of one differ in length.
    """
    if not curves:
        raise ValueError(f"Expected at least one curve. Received: curves={curves!r}")
    figure = Figure(figsize=(4.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    _accuracy_panel(figure.subplots(), curves, "radius", "L2 radius")
    figure.savefig(path, dpi=120, format="png")


def security_curves(
    path: File,
    curves: Mapping[str, Mapping],
    certified: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Draws accuracy against budget of all attacks, and what is certified, one panel per norm.

    What each attack left bounds the accuracy from above, what is certified from below: between the
    lowest curve and the shaded area lies what is not known. An attack that was run with one budget
    is a single mark.

    Args:
        path: PNG file to write, a path or an open file.
        curves: By attack, `{"norm": p, "eps": budgets, "accuracy": shares}`.
        certified: `{"radius": L2 radii, "accuracy": shares}` of a certified model.

    Raises:
        ValueError: If there is no curve, or the two lists of one differ in length.
    """
    if not curves:
        raise ValueError(f"Expected at least one curve. Received: curves={curves!r}")
    norms = sorted(
        {float(curve["norm"]) for curve in curves.values()} | ({2.0} if certified else set())
    )
    longest = max(len(_shown(name)) for name in curves)
    figure = Figure(figsize=((3.9 + 0.075 * longest) * len(norms), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, norm in zip(figure.subplots(1, len(norms), squeeze=False)[0], norms, strict=True):
        chosen = {name: c for name, c in curves.items() if float(c["norm"]) == norm}
        if certified and norm == 2:
            axis.fill_between(
                certified["radius"],
                100 * np.asarray(certified["accuracy"]),
                color=_UNTOUCHED,
                alpha=0.35,
                linewidth=0,
                label="certified",
            )
        _accuracy_panel(axis, chosen, "eps", f"L{norm:g} budget")
        for number, line in enumerate(axis.lines):
            line.set_color(COLOURS[number % len(COLOURS)])
            line.set_marker(_MARKERS[number % len(_MARKERS)])
            line.set_linestyle(_STYLES[number // len(COLOURS) % len(_STYLES)])
            line.set(markersize=4, clip_on=False, zorder=3)
            line.set_markevery(max(1, len(line.get_xdata()) // 8))
        axis.set_xlim(left=0)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    figure.savefig(path, dpi=120, format="png")


def tuning_curves(
    path: File,
    panels: Mapping[str, Mapping[str, Mapping]],
    levels: Mapping[str, float],
) -> None:
    """Draws accuracy against the parameter of a defense, one panel per defense.

    It is Figure 5 of AREB, with a line for each attack.

    Args:
        path: PNG file to write, a path or an open file.
        panels: By defense and parameter, the curves by name: `{"value": values, "accuracy":
            shares}`. Values that are no numbers stand side by side.
        levels: Accuracies without the defense, by the name of the curve, drawn dashed.

    Raises:
        ValueError: If there is no panel, or the two lists of a curve differ in length.
    """
    if not panels:
        raise ValueError(f"Expected at least one panel. Received: panels={panels!r}")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.0 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (label, curves) in zip(axes, panels.items(), strict=False):
        _accuracy_panel(axis, _drawable(curves), "value", label)
        for line, name in zip(list(axis.lines), curves, strict=True):
            if name in levels:
                axis.axhline(100 * levels[name], linestyle="--", color=line.get_color(), alpha=0.6)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=120, format="png")


def _drawable(curves: Mapping[str, Mapping]) -> dict[str, dict]:
    """The curves with all of their values as text where one is no number."""
    values = [value for curve in curves.values() for value in curve["value"]]
    if all(isinstance(value, (int, float)) and np.isfinite(value) for value in values):
        return {name: dict(curve) for name, curve in curves.items()}
    return {
        name: {**curve, "value": [str(value) for value in curve["value"]]}
        for name, curve in curves.items()
    }


def adaptive_curves(
    path: File,
    restarts: Mapping[str, Mapping],
    expectation: Mapping[str, Mapping],
) -> None:
    """Draws how a model stands up to adaptive attacks: two panels of accuracy.

    On the left against the number of random restarts, on the right against the budget with and
    without gradients averaged over neighbours. Curves that stay level on the left and coincide on
    the right are what a defense shows whose gradients do not mislead. It is Figure 1 of the paper
    on NsLoss, a regulariser that flattens the loss around the training samples; the attacks are
    `CarliniL2Method` with `restarts` and with `gradient_samples`.

    Args:
        path: PNG file to write, a path or an open file.
        restarts: By name of the curve, `{"restarts": counts, "accuracy": shares}`.
        expectation: By name of the curve, `{"eps": budgets, "accuracy": shares}`; a
            `budget_curve` of an `AttackSummary` is one.

    Raises:
        ValueError: If there is no curve at all, or the two lists of a curve differ in length.
    """
    if not restarts and not expectation:
        raise ValueError("Expected at least one curve. Received: restarts={}, expectation={}")
    panels = [
        (curves, key, label)
        for curves, key, label in (
            (restarts, "restarts", "random restarts"),
            (expectation, "eps", "L2 budget"),
        )
        if curves
    ]
    figure = Figure(figsize=(4.0 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (curves, key, label) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _accuracy_panel(axis, curves, key, label)
    figure.savefig(path, dpi=120, format="png")


def heat_maps(
    path: str | os.PathLike[str],
    maps: Mapping[str, Sequence[Sequence[float | None]]],
    down: Sequence[str],
    across: Sequence[str],
    down_label: str,
    across_label: str,
    label: str = "accuracy, %",
) -> None:
    """Draws shares as coloured cells, one panel for each attack.

    More than 400 cells of a panel have neither names nor figures: nobody could read them.

    Args:
        path: PNG file to write.
        maps: By name of the panel, shares by row and column; a cell without one is left empty.
        down: Names of the rows.
        across: Names of the columns.
        down_label: What the rows are.
        across_label: What the columns are.
        label: What the shares are.

    Raises:
        ValueError: If there is no panel, or one is not of the size that the names give.
    """
    if not maps:
        raise ValueError(f"Expected at least one panel. Received: maps={maps!r}")
    told = len(down) * len(across) <= _TOLD
    wide, high = (len(of) if told else min(len(of), _CROWD) for of in (across, down))
    width, height = max(1.8 + 0.6 * wide, 3.5), max(1.6 + 0.35 * high, 2.6)
    columns = max(1, min(len(maps), _PANELS, int(_WIDE / width)))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(maps) :]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes.flat, maps.items(), strict=False):
        cells = 100 * np.array(values, dtype=float)  # None becomes NaN
        if cells.shape != (len(down), len(across)):
            raise ValueError(
                f"Expected a share for each of {len(down)} rows and {len(across)} columns. "
                f"Received: {name!r} of shape {cells.shape}"
            )
        image = axis.imshow(cells, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        if told:
            for i, j in np.argwhere(np.isfinite(cells)):
                colour = "black" if cells[i, j] > 55 else "white"
                text = f"{cells[i, j]:.0f}"
                axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
            names = [_shown(name) for name in across]
            axis.set_xticks(range(len(across)), names, rotation=30, ha="right", fontsize=7)
            axis.set_yticks(range(len(down)), [_shown(name) for name in down], fontsize=7)
        axis.set_title(_shown(name), fontsize=9)
        axis.set_xlabel(across_label)
        axis.set_ylabel(down_label)
    figure.colorbar(image, ax=axes, label=label)
    figure.savefig(path, dpi=120, format="png")


def spread(path: str | os.PathLike[str], values: Mapping[str, Sequence[float]]) -> None:
    """Draws accuracies of several draws as dots, with their mean and standard deviation.

    Args:
        path: PNG file to write.
        values: By attack, an accuracy for each draw, two or more.

    Raises:
        ValueError: If there is no attack.
    """
    if not values:
        raise ValueError(f"Expected at least one attack. Received: values={values!r}")
    figure = Figure(figsize=(max(4.0, 0.9 * len(values) + 1), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, of in enumerate(values.values()):
        cells = 100 * np.asarray(of)
        axis.plot(np.full(len(cells), place - 0.12), cells, ".", color=_UNTOUCHED, alpha=0.6)
        axis.errorbar(place + 0.12, cells.mean(), cells.std(ddof=1), fmt="o", color=_RIGHT)
    axis.set_xticks(range(len(values)), [_shown(name) for name in values], rotation=20, ha="right")
    axis.set_ylabel("accuracy, %")
    axis.set_ylim(-2, 102)
    axis.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120, format="png")


def _shown(name: str) -> str:
    """A name for matplotlib: on one line, of a length that leaves room, dollars as they are.

    Of a long one the middle is left out: names often begin alike, or end alike.
    """
    name = " ".join(str(name).split())
    if len(name) > _BESIDE:
        name = f"{name[: _BESIDE // 2]}…{name[1 - _BESIDE // 2 :]}"
    name = name.replace("$", r"\$")
    # A label with an underscore in front would be left out of a legend.
    return f" {name}" if name.startswith("_") else name


def _accuracy_panel(axis, curves: Mapping[str, Mapping], key: str, label: str) -> None:
    for name, curve in curves.items():
        if len(curve[key]) != len(curve["accuracy"]):
            raise ValueError(
                f"Expected one accuracy for each of {key!r}. Received: {len(curve[key])} and "
                f"{len(curve['accuracy'])} values for {name!r}"
            )
        # A few points want marks, a dense curve does not.
        marker = "." if len(curve[key]) < 20 else None
        shares = 100 * np.asarray(curve["accuracy"])
        axis.plot(curve[key], shares, marker=marker, label=_shown(name))
    axis.set_xlabel(label)
    axis.set_ylabel("accuracy, %")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    axis.legend()


def _show(axis, image: np.ndarray, clip_values: tuple[float, float]) -> None:
    low, high = clip_values
    scaled = np.clip((image - low) / (high - low), 0.0, 1.0)
    if scaled.shape[-1] == 1:
        axis.imshow(scaled[..., 0], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    else:
        axis.imshow(scaled, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
