"""Pictures of what models say around samples: of `kerasrobust.evaluation.surfaces`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kerasrobust.evaluation.pictures.reports import COLOURS, File
from kerasrobust.evaluation.surfaces import Surface

_TRUE, _OTHERS, _REJECTED = "#f2f2f2", "#999999", "#333333"
_LOSS = "viridis"
_PANEL = 2.7
_LEVELS = (0.6, 0.7, 0.8, 0.9, 0.99)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def decision_space(
    path: File, surfaces: Mapping[str, Surface], class_names: Sequence[str] | None = None
) -> None:
    """Draws the classes on a plane through a sample, and the loss of the true class below.

    One column for each surface: several models on one sample, or several samples. Axes are in units
    of the budget, the sample lies at the cross; what is within the budget is inside of the dashed
    line. The loss has one scale for all panels, up to its 99th percentile. With a `source` it is
    GEA's Figure 5, seen from above.

    Args:
        path: PNG file to write, a path or an open file.
        surfaces: Planes of one sample each, by what stands above them; see `surfaces.planes` and
            `Surface.take`.
        class_names: Names to show in place of the labels' numbers.

    Raises:
        ValueError: If there is no surface, or one is no plane of one sample.
    """
    _check(surfaces, 2, alone=True)
    drawn = {name: _classes(surface) for name, surface in surfaces.items()}
    # The classes that take most room have a colour of their own.
    areas: dict[int, int] = {}
    for labels in drawn.values():
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            areas[int(label)] = areas.get(int(label), 0) + int(count)
    areas.pop(-1, None), areas.pop(_IS_TRUE, None)
    ranked = sorted(areas, key=lambda label: (-areas[label], label))
    colour = dict(zip(ranked, COLOURS, strict=False))
    losses = [surface.losses for surface in surfaces.values()]
    known = np.isfinite(np.concatenate([loss.ravel() for loss in losses])).all()
    top = _top(losses) if known else 1.0
    rows = 2 if known else 1
    figure = Figure(figsize=(_PANEL * len(drawn) + 1.3, _PANEL * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(drawn), squeeze=False, sharex="col", sharey="col")
    for column, (name, surface) in enumerate(surfaces.items()):
        labels, across, up = drawn[name], *_in_budgets(surface)
        extent = (across[0], across[-1], up[0], up[-1])
        upper = axes[0, column]
        picture = np.empty((*labels.shape, 3))
        picture[:] = to_rgb(_OTHERS)
        for label, shade in {**colour, -1: _REJECTED, _IS_TRUE: _TRUE}.items():
            picture[labels == label] = to_rgb(shade)
        options: dict[str, Any] = {"origin": "lower", "extent": extent, "aspect": "auto"}
        upper.imshow(picture.transpose(1, 0, 2), interpolation="nearest", **options)
        upper.set_title(_title(name), fontsize=9)
        if known:
            image = axes[1, column].imshow(
                surface.losses[0].T, cmap=_LOSS, vmin=0.0, vmax=top, **options
            )
        for axis in axes[:, column]:
            _mark(axis, surface, across, up)
            if column == 0:
                axis.set_ylabel(_axis_label(surface, 1), fontsize=8)
        axes[-1, column].set_xlabel(_axis_label(surface, 0), fontsize=8)
    if known:
        bar = figure.colorbar(image, ax=list(axes[1]), extend="max")
        bar.set_label("loss", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    present = set(np.concatenate([labels.ravel() for labels in drawn.values()]).tolist())

    def called(label: int) -> str:
        return f"class {label}" if class_names is None else str(class_names[label])

    handles: list[Any] = [Patch(facecolor=_TRUE, edgecolor="black", label="true class")]
    handles += [Patch(color=colour[label], label=called(label)) for label in colour]
    if len(ranked) > len(colour):
        handles.append(Patch(color=_OTHERS, label="other classes"))
    if -1 in present:
        handles.append(Patch(color=_REJECTED, label="rejected"))
    if any(surface.eps is not None for surface in surfaces.values()):
        handles.append(Line2D([], [], color="black", linestyle="--", label="budget"))
    # Under the panels of a single column there is no room for many.
    _legend(figure, handles, min(len(handles), 2 + 2 * len(drawn)))
    figure.savefig(path, dpi=120, format="png")


def loss_surface(path: File, surfaces: Mapping[str, Surface]) -> None:
    """Draws the mean loss over the samples as a surface in space, one panel for each model.

    E2SAD's Figure 3.3, which has the sum over 128 samples. All panels have the same height, so that
    a model whose loss is flat looks flat.

    Args:
        path: PNG file to write, a path or an open file.
        surfaces: Planes by name of the model; see `surfaces.planes`.

    Raises:
        ValueError: If there is no surface, one is no plane, or one has no loss.
    """
    _check(surfaces, 2)
    means = {name: _losses(name, surface).mean(axis=0) for name, surface in surfaces.items()}
    top = max(float(mean.max()) for mean in means.values()) or 1.0
    columns = min(2, len(means)) if len(means) != 3 else 3
    rows = -(-len(means) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows))
    FigureCanvasAgg(figure)
    for place, (name, surface) in enumerate(surfaces.items(), start=1):
        axis: Any = figure.add_subplot(rows, columns, place, projection="3d")
        across, up = np.meshgrid(*_in_budgets(surface), indexing="ij")
        axis.plot_surface(
            across,
            up,
            means[name],
            cmap=_LOSS,
            vmin=0.0,
            vmax=top,
            rcount=40,
            ccount=40,
            edgecolor="black",
            linewidth=0.15,
        )
        axis.set_zlim(0.0, top)
        axis.set_title(_title(name, 40), fontsize=10, y=0.94)
        axis.set_xlabel(_axis_label(surface, 0), fontsize=8)
        axis.set_ylabel(_axis_label(surface, 1), fontsize=8)
        axis.set_zlabel(f"loss, mean of {len(surface.y)}", fontsize=8)
        axis.tick_params(labelsize=7)
        for ticked in (axis.xaxis, axis.yaxis, axis.zaxis):
            ticked.set_major_locator(MaxNLocator(4))
        axis.set_box_aspect(None, zoom=0.9)
        axis.view_init(elev=25, azim=-125)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=0.97, wspace=0.06, hspace=0.06)
    figure.savefig(path, dpi=120, format="png")


def loss_against_eps(path: File, surfaces: Mapping[str, Surface]) -> None:
    """Draws the loss along an attack's direction: median and quantiles over the samples.

    GEA's Figure 6. One panel for each model, with one scale; the bands hold the middle half of the
    samples and nine in ten, a dotted line is the budget.

    Args:
        path: PNG file to write, a path or an open file.
        surfaces: Lines by name of the model; see `surfaces.lines`.

    Raises:
        ValueError: If there is no surface, one is no line, or one has no loss.
    """
    _check(surfaces, 1)
    columns = min(3, len(surfaces))
    rows = -(-len(surfaces) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.7 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colour = COLOURS[0]
    for axis, (name, surface) in zip(axes.flat, surfaces.items(), strict=False):
        lengths = surface.axes[0]
        low, quarter, middle, most, high = np.quantile(_losses(name, surface), _QUANTILES, axis=0)
        axis.fill_between(lengths, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.fill_between(lengths, quarter, most, color=colour, alpha=0.4, linewidth=0)
        axis.plot(lengths, middle, color=colour)
        if surface.eps is not None:
            axis.axvline(surface.eps, color="black", linestyle=":")
        axis.set_title(_title(name, 40), fontsize=9)
        axis.grid(alpha=0.3)
        axis.set_xlim(lengths[0], lengths[-1])
        axis.set_ylim(bottom=0)
        axis.xaxis.set_tick_params(labelbottom=True)
        along = f" along {surface.names[0]}" if surface.names else ""
        axis.set_xlabel(f"{_norm(surface.norm)} length{along}", fontsize=9)
    for axis in list(axes.flat)[len(surfaces) :]:
        axis.set_axis_off()
    some = next(iter(surfaces.values()))
    for axis in axes[:, 0]:
        axis.set_ylabel("loss", fontsize=9)
    handles: list[Any] = [
        Line2D([], [], color=colour, label=f"median of {len(some.y)}"),
        Patch(color=colour, alpha=0.55, label="25 to 75 %"),
        Patch(color=colour, alpha=0.2, label="5 to 95 %"),
    ]
    if some.eps is not None:
        handles.append(Line2D([], [], color="black", linestyle=":", label="budget"))
    _legend(figure, handles, 4 if columns > 1 else 2)
    figure.savefig(path, dpi=120, format="png")


def decision_boundary(
    path: File,
    surfaces: Mapping[str, Surface],
    x: np.ndarray,
    y: np.ndarray,
    augmented: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> None:
    """Draws which class a model of two inputs gives each point, and how sure it is of it.

    BRELU-GDA's Figure 2, a panel for each model: colours are classes, strong where the model is
    sure; thin lines join points of the same confidence, thick ones are the boundary.

    Args:
        path: PNG file to write, a path or an open file.
        surfaces: See `surfaces.maps`.
        x: Samples to show, `(n, 2)`.
        y: Their labels, integers `(n,)`.
        augmented: By name of a surface, points that its model was trained on beside them and their
            labels: smaller.

    Raises:
        ValueError: If there is no surface, one is no map, or `x` are no points.
    """
    _check(surfaces, 2, alone=True)
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or x.shape[1:] != (2,) or y.shape != (len(x),):
        raise ValueError(
            "Expected points (n, 2) and a label for each. "
            f"Received: x of shape {x.shape}, y of shape {y.shape}"
        )
    seen = np.concatenate([y, *(surface.labels.ravel() for surface in surfaces.values())])
    classes = sorted(set(seen.tolist()) - {-1})
    shade = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(classes)}
    columns = min(3, len(surfaces))
    rows = -(-len(surfaces) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis, (name, surface) in zip(axes.flat, surfaces.items(), strict=False):
        labels, confidence = surface.labels[0].T, surface.confidence[0].T
        across, up = surface.axes
        picture = np.ones((*labels.shape, 3))
        # White where all classes are equally likely.
        least = 1.0 / max(len(classes), 2)
        strength = np.clip((confidence - least) / (1.0 - least), 0.0, 1.0)[..., None]
        for label in classes:
            at = labels == label
            picture[at] = (1 - 0.75 * strength * (1 - np.array(to_rgb(shade[label]))))[at]
        picture[labels == -1] = to_rgb(_REJECTED)
        extent = (across[0], across[-1], up[0], up[-1])
        axis.imshow(picture, origin="lower", extent=extent, interpolation="bilinear")
        inside = [level for level in _LEVELS if confidence.min() < level < confidence.max()]
        if inside:
            axis.contour(across, up, confidence, inside, colors="black", linewidths=0.5)
        for label in classes[1:] if len(classes) == 2 else classes:
            if 0 < (labels == label).sum() < labels.size:
                # Signed, so that the line lies where the confidences meet and not on the grid.
                other = np.where(labels == label, confidence, 2 * least - confidence)
                axis.contour(across, up, other, [least], colors="black", linewidths=1.6)
        further = {"size": 5, "edge": 0.2}, {"size": 16, "edge": 0.5}
        for points, style in zip(((augmented or {}).get(name), (x, y)), further, strict=True):
            if points is None:
                continue
            for label in classes:
                at = np.asarray(points[0])[np.asarray(points[1]) == label]
                axis.scatter(
                    *at.T,
                    s=style["size"],
                    color=shade[label],
                    edgecolor="black",
                    linewidth=style["edge"],
                )
        axis.set_title(_title(name, 34), fontsize=9)
        axis.set_xlim(*extent[:2])
        axis.set_ylim(*extent[2:])
    for axis in list(axes.flat)[len(surfaces) :]:
        axis.set_axis_off()
    handles: list[Any] = [Patch(color=shade[label], label=f"class {label}") for label in classes]
    shown = ", ".join(f"{100 * level:g}" for level in _LEVELS)
    handles.append(Line2D([], [], color="black", linewidth=1.6, label="boundary"))
    handles.append(Line2D([], [], color="black", linewidth=0.5, label=f"confidence {shown} %"))
    _legend(figure, handles, len(handles) if columns > 1 else 2)
    figure.savefig(path, dpi=120, format="png")


# In a picture of classes, where the label is the true one.
_IS_TRUE = -2


def _classes(surface: Surface) -> np.ndarray:
    labels = surface.labels[0]
    return np.where(labels == surface.y[0], _IS_TRUE, labels)


def _check(surfaces: Mapping[str, Surface], axes: int, alone: bool = False) -> None:
    kind = "plane" if axes == 2 else "line"
    if not surfaces:
        raise ValueError(f"Expected at least one {kind}. Received: surfaces={surfaces!r}")
    for name, surface in surfaces.items():
        if len(surface.axes) != axes or (alone and len(surface.y) != 1):
            raise ValueError(
                f"Expected a {kind} of {'one sample' if alone else 'samples'}. "
                f"Received: {name!r} with {len(surface.axes)} axes and {len(surface.y)} samples"
            )


def _losses(name: str, surface: Surface) -> np.ndarray:
    if not np.isfinite(surface.losses).all():
        raise ValueError(
            f"Expected a model that answers scores. Received: {name!r} without finite losses"
        )
    return surface.losses


def _top(losses: Sequence[np.ndarray]) -> float:
    """The 99th percentile, so that a few peaks do not make all else look flat."""
    return float(np.quantile(np.concatenate([loss.ravel() for loss in losses]), 0.99)) or 1.0


def _in_budgets(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    across, up = (axis / (surface.eps or 1.0) for axis in surface.axes)
    return across, up


def _axis_label(surface: Surface, place: int) -> str:
    unit = "" if surface.eps is None else " (in budgets)"
    name = surface.names[place] if surface.names else f"direction {place + 1}"
    return name + unit


def _norm(order: float) -> str:
    return "Linf" if order == math.inf else f"L{order:g}"


def _title(name: str, width: int = 26) -> str:
    return "\n".join(textwrap.wrap(name, width)[:3])


def _mark(axis: Any, surface: Surface, across: np.ndarray, up: np.ndarray) -> None:
    """A cross at the sample, a dashed line around what is within the budget."""
    axis.plot(0, 0, "+", color="black", markersize=9, markeredgewidth=3.2)
    axis.plot(0, 0, "+", color="white", markersize=8, markeredgewidth=1.6)
    sizes = surface.sizes[0].T
    if surface.eps is not None and sizes.min() < surface.eps < sizes.max():
        for style, colour in (("-", "white"), ("--", "black")):
            axis.contour(
                across, up, sizes, [surface.eps], colors=colour, linewidths=1.2, linestyles=style
            )
    axis.set_xlim(across[0], across[-1])
    axis.set_ylim(up[0], up[-1])
    axis.tick_params(labelsize=7)


def _legend(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
