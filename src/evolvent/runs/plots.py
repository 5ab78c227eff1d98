"""Plots as SVG text whose colours are CSS variables, so that a page shows them in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Colours that stand for CSS variables while matplotlib draws.
_INK, _GRID = "#010101", "#020202"
_SERIES = tuple(f"#0300{i:02x}" for i in range(1, 7))
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--grid)"} | {c: f"var(--series-{i + 1})" for i, c in enumerate(_SERIES)}


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Loss over steps, one line a run; the faint line is each step, the strong one a running mean.

    Args:
        curves: name -> (step, loss in nats per answer token).
    """
    figure, axes = _figure()
    for (name, points), color in zip(curves.items(), _SERIES, strict=False):
        steps, losses = np.array([p[0] for p in points]), np.array([p[1] for p in points])
        width = max(1, len(losses) // 20)
        smooth = np.convolve(np.pad(losses, (width - 1, 0), mode="edge"), np.ones(width) / width, mode="valid")
        axes.plot(steps, np.maximum(losses, 1e-4), color=color, alpha=0.25, linewidth=1)
        axes.plot(steps, np.maximum(smooth, 1e-4), color=color, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per answer token")
    axes.legend()
    return _svg(figure)


def reliability(confidence: Sequence[float], correct: Sequence[bool], *, bins: int = 8) -> str:
    """Share of right answers against confidence, in bins of equally many rows; dashed: perfect calibration."""
    figure, axes = _figure()
    order = np.argsort(confidence, kind="stable")
    sure, right = np.asarray(confidence, float)[order], np.asarray(correct, float)[order]
    groups = [g for g in np.array_split(np.arange(len(sure)), bins) if len(g)]
    x = [sure[g].mean() for g in groups]
    y = [right[g].mean() for g in groups]
    error = [1.96 * np.sqrt(max(m * (1 - m), 1 / (4 * len(g))) / len(g)) for m, g in zip(y, groups, strict=True)]
    low = min([0.95, *x, *y]) - 0.05
    axes.plot([low, 1], [low, 1], color=_GRID, linestyle="--")
    axes.errorbar(x, y, yerr=np.clip(error, 0, None), color=_SERIES[0], marker="o", capsize=3)
    axes.set_ylim(max(0.0, low - 0.1), 1.03)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of right answers")
    return _svg(figure)


def calibration_curves(curves: Mapping[str, Sequence[tuple[float, float, int]]], *, said: str, was: str) -> str:
    """What was said against what was so, one line a group; dashed: perfect calibration. Larger dots count more rows.

    Args:
        curves: name -> (probability said, share that was so, rows).
        said: label of the probabilities.
        was: label of the shares.
    """
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=_GRID, linestyle="--")
    most = max((n for curve in curves.values() for *_, n in curve), default=1)
    for (name, curve), color in zip(curves.items(), _SERIES, strict=False):
        x, y, n = (np.array(column, float) for column in zip(*curve, strict=True))
        axes.plot(x, y, color=color, label=name, linewidth=1)
        axes.scatter(x, y, s=6 + 60 * n / most, color=color)
    axes.set_xlabel(said)
    axes.set_ylabel(was)
    axes.legend()
    return _svg(figure)


def grouped_bars(
    rows: Mapping[str, Mapping[str, float]], *, label: str, percent: bool = True, floor: float = 0.0
) -> str:
    """Bars side by side.

    Args:
        rows: group -> series -> value.
        label: of the value axis.
        percent: whether values are shares.
        floor: where the value axis begins.
    """
    figure, axes = _figure()
    series = list(dict.fromkeys(s for values in rows.values() for s in values))
    width = 0.8 / max(1, len(series))
    scale = 100 if percent else 1
    for number, (name, color) in enumerate(zip(series, _SERIES, strict=False)):
        places = np.arange(len(rows)) + (number - (len(series) - 1) / 2) * width
        heights = [values.get(name, np.nan) * scale for values in rows.values()]
        axes.bar(places, heights, width * 0.92, color=color, label=name)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_ylim(bottom=floor * scale)
    axes.set_ylabel(label)
    _legend_above(axes, len(series))
    return _svg(figure)


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, percent: bool = True) -> str:
    """Values along a number: name -> (x, value), with the axes' labels; values are shares if `percent`."""
    figure, axes = _figure()
    for (name, points), color in zip(curves.items(), _SERIES, strict=False):
        scale = 100 if percent else 1
        axes.plot([p[0] for p in points], [p[1] * scale for p in points], color=color, marker="o", label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if percent:
        axes.set_ylim(-4, 104)
    _legend_above(axes, len(curves))
    return _svg(figure)


def frontier(points: Mapping[str, tuple[float, float]], *, x: str, y: str) -> str:
    """A gain against its cost, one named point a variant; those that no other one beats in both are joined.

    Args:
        points: name -> (cost, gain in [0, 1]).
        x: label of the costs.
        y: label of the gains, which are drawn in %.
    """
    figure, axes = _figure()
    best: list[tuple[float, float]] = []
    for cost, gain in sorted(points.values(), key=lambda p: (p[0], -p[1])):
        if not best or gain > best[-1][1]:
            best.append((cost, gain))
    axes.plot([cost for cost, _ in best], [100 * gain for _, gain in best], color=_GRID, linestyle="--", zorder=0)
    for (name, (cost, gain)), color in zip(points.items(), _SERIES * len(points), strict=False):
        axes.scatter([cost], [100 * gain], color=color, s=36, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(-4, 104)
    axes.margins(x=0.08)
    _legend_above(axes, len(points))
    return _svg(figure)


def accuracy_bars(
    variants: Mapping[str, tuple[float, float, float]], *, label: str = "accuracy, %, with 95 % interval"
) -> str:
    """Accuracy of each variant with its interval: name -> (value, low, high), all in [0, 1]."""
    figure, axes = _figure(height=0.6 + 0.42 * len(variants))
    names = list(variants)[::-1]
    for place, name in enumerate(names):
        value, low, high = (100 * v for v in variants[name])
        color = _SERIES[1] if place == 0 else _SERIES[0]
        axes.errorbar(
            value,
            place,
            xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
            color=color,
            marker="o",
            capsize=4,
        )
        axes.annotate(f"{value:.1f}", (value, place), textcoords="offset points", xytext=(0, 7), ha="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.3)
    axes.set_xlabel(label)
    return _svg(figure)


def stage_times(seconds: Mapping[str, float]) -> str:
    """Seconds of each stage, in order."""
    figure, axes = _figure(height=0.7 + 0.24 * len(seconds))
    names = list(seconds)[::-1]
    axes.barh(names, [seconds[n] for n in names], color=_SERIES[0])
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    return _svg(figure)


def family_tree(
    points: Mapping[str, tuple[float, float, float, str | None]], path: Sequence[str], *, label: str
) -> str:
    """Scores over rounds with lines from parent to child.

    Args:
        points: name -> (round, score, half its 95 % interval, name of the parent).
        path: names whose lines are set off, from the first ancestor to the last child.
        label: of the score axis.
    """
    figure, axes = _figure(height=3.6)
    rounds: dict[float, list[str]] = {}
    for name, (when, *_) in points.items():
        rounds.setdefault(when, []).append(name)
    place = {}
    for when, names in rounds.items():  # children of one round stand beside each other
        for number, name in enumerate(sorted(names, key=lambda n: points[n][1])):
            place[name] = when + (number - (len(names) - 1) / 2) * min(0.14, 0.7 / len(names))
    for name, (_, score, half, parent) in points.items():
        chosen = name in path
        color = _SERIES[1] if chosen else _SERIES[0]
        if parent is not None and parent in points:
            ends = [place[parent], place[name]], [points[parent][1], score]
            axes.plot(*ends, color=color, linewidth=1.8 if chosen else 0.7, alpha=1 if chosen else 0.5)
        axes.errorbar(place[name], score, yerr=half, color=color, marker="o", markersize=4, capsize=2, linewidth=1)
    if path:
        end = (place[path[-1]], points[path[-1]][1])
        axes.annotate(path[-1], end, textcoords="offset points", xytext=(0, 9), ha="center")
    axes.set_xticks(sorted(rounds))
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    return _svg(figure)


def spectra(values: Mapping[str, Sequence[float]]) -> str:
    """Falling eigenvalues on a logarithmic axis, one line each."""
    figure, axes = _figure()
    for (name, found), color in zip(values.items(), _SERIES, strict=False):
        shown = np.maximum(np.asarray(found, float), 1e-12)
        axes.plot(np.arange(1, len(shown) + 1), shown, color=color, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("rank of the eigenvalue")
    axes.set_ylabel("eigenvalue")
    axes.legend()
    return _svg(figure)


def stacked_histogram(groups: Mapping[str, Sequence[float]], *, label: str, bins: int = 24) -> str:
    """Counts of values, the groups stacked on each other."""
    figure, axes = _figure()
    axes.hist(list(groups.values()), bins=bins, stacked=True, color=list(_SERIES[: len(groups)]), label=list(groups))
    axes.set_xlabel(label)
    axes.set_ylabel("rows")
    axes.legend()
    return _svg(figure)


def _legend_above(axes: Any, names: int) -> None:
    """Rows of three, of two when a name is long: a wide legend would squeeze the axes."""
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(2 if longest > 16 else 3, names))


def _figure(height: float = 3.2) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "font.family": "sans-serif",
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "evolvent",
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _GRID,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "grid.color": _GRID,
    }
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "evolvent"})
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.6, linewidth=0.5)
        axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    legend = figure.axes[0].get_legend()
    if legend is not None:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_color(_INK)
    for text in figure.axes[0].texts:
        text.set_color(_INK)
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        axis.label.set_color(_INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    # The page decides the width; ids are made unique so that plots do not share each other's markers.
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)
    return svg.replace("font: ", "font-family: inherit; font: ") if "font: " in svg else svg
