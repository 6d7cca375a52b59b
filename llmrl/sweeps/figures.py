"""The pictures of a sweep, as plotly takes them: plain data, no colours of the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmrl.pages.page import COLOURS, OTHER, Figure, band, curve, layout
from llmrl.sweeps.importance import Importance
from llmrl.sweeps.ranking import Group, Ranking
from llmrl.sweeps.results import Result, curve_of
from llmrl.sweeps.words import settings_text


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
    return {"data": data, "layout": layout("KL to the base, nats per response", "held-out reward")}


def curves(ranking: Ranking, metric: str) -> Figure:
    """Mean over seeds of a metric by step, with a band from the lowest to the highest; the steps that all seeds have."""
    data: list[Figure] = []
    for place, group in list(enumerate(ranking.groups))[: len(COLOURS)]:
        steps, rows = _by_step(group, metric)
        if not steps:
            continue
        colour, name = _colour(place), settings_text(group)
        if len(rows) > 1:
            data.append(band(name, steps, rows.min(axis=0).tolist(), rows.max(axis=0).tolist(), colour))
        data.append(curve(name, steps, rows.mean(axis=0).tolist(), colour))
    return {"data": data, "layout": layout("step", metric)}


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
    return {"data": [bars], "layout": layout("drop of R^2", "")}
