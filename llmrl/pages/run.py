"""report.html: one run, from its folder alone."""

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from llmrl.errors import UserError
from llmrl.pages.page import COLOURS, Figure, band, curve, layout, plots, table, write
from llmrl.tracking.run_folder import RunFolder, read_json_lines

PAIRS = 12
SPAN = "{mean:+.3f} ({low:+.3f} to {high:+.3f})"
CURVES: Sequence[tuple[str, str, Sequence[str], str]] = (
    (
        "reward", "reward", ("objective/scores", "eval/reward"),
        "Mean reward of the responses trained on, and on held-out prompts with its 95 % interval.",
    ),
    ("kl", "nats per response", ("objective/kl", "eval/kl"), "KL to the base."),
    ("length", "tokens", ("response/length",), "Length of the responses."),
    ("entropy", "nats per token", ("policy/entropy",), "Entropy of the policy."),
    (
        "update", "", ("policy/clipfrac", "policy/approxkl", "val/var_explained"),
        "The update: share clipped, its KL, what the value head explains.",
    ),
    ("loss", "loss", ("loss",), "Loss."),
)  # fmt: skip
"""Name, unit, metrics and caption of each plot."""


def write_report(run: RunFolder) -> None:
    """Write report.html into a run's folder. Raises UserError if there is nothing to report of."""
    rows = read_json_lines(run.metrics_file) if run.metrics_file.is_file() else []
    if not rows:
        raise UserError(f"{run.path} has logged nothing yet: there is nothing to report of")
    figures = figures_of(rows)
    evaluation = json.loads(run.evaluation_file.read_text(encoding="utf-8")) if run.evaluation_file.is_file() else None
    body = _verdict(evaluation) if evaluation else "<p>It has no held-out comparison.</p>"
    body += plots({name: caption for name, (caption, _) in figures.items()})
    if evaluation:
        body += "<section><h2>Held-out pairs, unpicked</h2>" + _pairs(evaluation["pairs"]) + "</section>"
    record = run.record
    summary = (
        f"{record.get('status')}, {record.get('steps', rows[-1]['step'])} steps, {record.get('seconds', 0):.0f} s on "
        f"{record.get('device')} in {record.get('precision')}; model {record.get('model')}, seed {record.get('seed')}"
    )
    words = " ".join(["python -m llmrl.train", *record.get("overrides", [])])
    write(
        run.path / "report.html", run.path.name, summary, words, body, {name: figure for name, (_, figure) in figures.items()}
    )


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, Figure]]:
    """Name to (caption, figure) of everything that was logged."""
    found: dict[str, tuple[str, Figure]] = {}
    for name, unit, metrics, caption in CURVES:
        if data := [trace for place, metric in enumerate(metrics) for trace in _traces(rows, metric, COLOURS[place])]:
            found[name] = (caption, {"data": data, "layout": layout("step", unit)})
    components = sorted({key for row in rows for key in row if key.startswith("rewards/") and key.endswith("/mean")})
    if len(components) > 1:
        data = [trace for place, key in enumerate(components) for trace in _traces(rows, key, COLOURS[place % len(COLOURS)])]
        found["components"] = ("Each reward by itself, unweighted.", {"data": data, "layout": layout("step", "reward")})
    clocks = [(key, [row[key] for row in rows if key in row]) for key in rows[-1] if key.startswith("time/")]
    if clocks:
        bars = {
            "type": "bar", "orientation": "h", "y": [key.removeprefix("time/").removesuffix("_s") for key, _ in clocks],
            "x": [fmean(values) for _, values in clocks], "marker": {"color": COLOURS[0]},
        }  # fmt: skip
        found["time"] = ("Where the time of a step went, mean.", {"data": [bars], "layout": layout("seconds", "")})
    return found


def _traces(rows: Sequence[dict[str, Any]], metric: str, colour: str) -> list[Figure]:
    kept = [row for row in rows if metric in row]
    if not kept:
        return []
    steps, traces = [row["step"] for row in kept], []
    if all(f"{metric}_low" in row for row in kept):
        low, high = ([row[f"{metric}_{end}"] for row in kept] for end in ("low", "high"))
        traces.append(band(metric, steps, low, high, colour))
    return [*traces, curve(metric, steps, [row[metric] for row in kept], colour)]


def _verdict(evaluation: dict[str, Any]) -> str:
    base, trained, components = evaluation["base"], evaluation["trained"], evaluation["components"]
    rewards = [f"{evaluation[f'{name}_reward']:.3f}" for name in ("base", "trained")]
    rows = [("reward", *rewards, SPAN.format(**evaluation["difference"]))]
    if len(components) > 1:
        rows += [(f"reward {name}", "", "", SPAN.format(**each)) for name, each in components.items()]
    rows += [
        ("repeat themselves", f"{base['repeating']:.0%}", f"{trained['repeating']:.0%}", ""),
        ("words", f"{base['words']:.1f}", f"{trained['words']:.1f}", ""),
        ("ended by themselves", f"{base['finished']:.0%}", f"{trained['finished']:.0%}", ""),
        ("perplexity under base", f"{base['perplexity_under_base']:.1f}", f"{trained['perplexity_under_base']:.1f}", ""),
        ("KL to base, nats per response", "", f"{evaluation['kl']:.2f}", ""),
    ]  # fmt: skip
    said = (
        f"Verdict: {evaluation['verdict']} - {evaluation['samples']} responses of each model to {evaluation['prompts']} "
        "held-out prompts"
    )
    return f"<section><h2>{said}</h2>" + table(("", "base", "trained", "difference, 95 % interval"), rows) + "</section>"


def _pairs(pairs: Sequence[Any]) -> str:
    shown = pairs[:: max(1, len(pairs) // PAIRS)][:PAIRS]
    rows = [
        (prompt[-240:], f"{base['reward']:+.2f}", base["response"], f"{trained['reward']:+.2f}", trained["response"])
        for prompt, base, trained in shown
    ]
    return table(("prompt", "reward", "base", "reward", "trained"), rows, "pairs")
