"""The pictures of a sweep, as plotly takes them: plain data, no colours of the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmrl.sweeps.importance import Importance
from llmrl.sweeps.ranking import Group, Ranking
from llmrl.sweeps.results import Result, curve_of
from llmrl.sweeps.words import settings_text

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c2e", "#7f6bd1")
"""Told apart by colour-blind people, too (after Okabe and Ito), on light and on dark."""
OTHER = "#8a9199"
LEGEND = {"orientation": "h", "yanchor": "top", "y": -0.25}
Figure = dict[str, Any]


def figures_of(ranking: Ranking, results: Sequence[Result], matters: Importance | None) -> dict[str, tuple[str, Figure]]:
    """Name to (caption, figure) of every picture that there is something to draw for."""
    found = {"reward-kl": ("Held-out reward against KL to the base, a point a run.", reward_against_kl(ranking))}
    for name, metric, words in (
        ("training", "objective/scores", "Mean reward of the responses trained on"),
        ("held-out", "eval/reward", "Reward on held-out prompts while training"),
    ):
        figure = curves(ranking, metric)
        if figure["data"]:
            found[name] = (f"{words}; lines are means over seeds, bands go from the lowest seed to the highest.", figure)
    if keys := varied(results):
        words = "Every run as a line through its settings, its KL and its reward, the highest in orange."
        found["parallel"] = (words, parallel(results, keys))
    if matters:
        found["importance"] = (
            f"How much worse a forest predicts the reward once a setting is shuffled; {matters.jobs} jobs, "
            f"R^2 out of bag {matters.fit:.2f}.",
            importances(matters),
        )
    return found


def _colour(place: int) -> str:
    return COLOURS[place] if place < len(COLOURS) else OTHER


def _layout(x: str, y: str, **more: Any) -> Figure:
    return {
        "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "legend": LEGEND, "hovermode": "closest", **more,
    }  # fmt: skip


def reward_against_kl(ranking: Ranking) -> Figure:
    """A point a run, with its interval over prompts; groups in the colours of their place."""
    data = []
    for place, group in enumerate(ranking.groups):
        rewards = [result.reward for result in group.results if result.reward]
        data.append({
            "type": "scatter", "mode": "markers", "name": settings_text(group), "x": [result.kl for result in group.results],
            "y": [each.mean for each in rewards], "marker": {"size": 9, "color": _colour(place)},
            "error_y": {
                "type": "data", "symmetric": False, "array": [each.high - each.mean for each in rewards],
                "arrayminus": [each.mean - each.low for each in rewards], "color": _colour(place), "thickness": 1, "width": 0,
            },
            "text": [f"job {result.job.number + 1}" for result in group.results],
            "showlegend": place < len(COLOURS),
        })  # fmt: skip
    return {"data": data, "layout": _layout("KL to the base, nats per response", "held-out reward")}


def curves(ranking: Ranking, metric: str) -> Figure:
    """Mean over seeds of a metric by step, with a band from the lowest to the highest; the steps that all seeds have."""
    data: list[Figure] = []
    for place, group in list(enumerate(ranking.groups))[: len(COLOURS)]:
        steps, rows = _by_step(group, metric)
        if not steps:
            continue
        colour, name = _colour(place), settings_text(group)
        if len(rows) > 1:
            low, high = rows.min(axis=0).tolist(), rows.max(axis=0).tolist()
            data.append({
                "type": "scatter", "x": [*steps, *steps[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "mode": "lines",
                "line": {"width": 0}, "fillcolor": f"rgba({','.join(str(int(colour[i:i + 2], 16)) for i in (1, 3, 5))},0.18)",
                "hoverinfo": "skip", "showlegend": False, "legendgroup": name,
            })  # fmt: skip
        data.append({
            "type": "scatter", "mode": "lines+markers" if len(steps) < 3 else "lines", "x": steps,
            "y": rows.mean(axis=0).tolist(), "name": name, "legendgroup": name, "line": {"color": colour, "width": 2},
        })  # fmt: skip
    return {"data": data, "layout": _layout("step", metric)}


def _by_step(group: Group, metric: str) -> tuple[list[int], np.ndarray]:
    found = [dict(curve_of(result, metric)) for result in group.results]
    steps = sorted(set(found[0]).intersection(*found[1:]))
    return steps, np.array([[each[step] for step in steps] for each in found], dtype=float)


def varied(results: Sequence[Result]) -> list[str]:
    """Settings that have more than one value."""
    keys = dict.fromkeys(key for result in results if result.counts for key in result.settings)
    return [key for key in keys if len({str(result.settings.get(key)) for result in results if result.counts}) > 1]


def parallel(results: Sequence[Result], keys: Sequence[str]) -> Figure:
    """Parallel coordinates: a line a run."""
    counted = [result for result in results if result.counts]
    rewards = [result.reward.mean for result in counted]  # type: ignore[union-attr]
    dimensions = [_dimension(key, [result.settings.get(key) for result in counted]) for key in keys]
    dimensions += [{"label": "KL", "values": [result.kl for result in counted]}, {"label": "reward", "values": rewards}]
    line = {"color": rewards, "colorscale": [[0, COLOURS[0]], [0.5, OTHER], [1, COLOURS[1]]], "showscale": False}
    return {
        "data": [{"type": "parcoords", "dimensions": dimensions, "line": line}],
        "layout": {"margin": {"l": 72, "r": 48, "t": 44, "b": 24}},
    }


def _dimension(key: str, values: Sequence[Any]) -> Figure:
    """Numbers and names alike at even distances: 1e-5 and 1e-3 would lie on top of one another."""
    numbers = all(isinstance(value, float) for value in values)
    known = sorted(set(values)) if numbers else sorted({str(value) for value in values})
    places = {value: place for place, value in enumerate(known)}
    return {
        "label": key, "values": [places[value if numbers else str(value)] for value in values],
        "tickvals": list(places.values()),
        "ticktext": [f"{value:g}" if numbers else str(value)[:24] for value in known],
    }  # fmt: skip


def importances(matters: Importance) -> Figure:
    """Bars, the most important on top."""
    names = list(matters.of)[::-1]
    bars = {
        "type": "bar", "orientation": "h", "y": names, "x": [matters.of[name][0] for name in names],
        "marker": {"color": COLOURS[0]},
        "error_x": {"type": "data", "array": [matters.of[name][1] for name in names], "color": OTHER},
    }  # fmt: skip
    return {"data": [bars], "layout": _layout("drop of R^2", "")}
