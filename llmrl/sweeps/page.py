"""sweep.html: one page with everything about a sweep."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrl.pages.page import plots, table, write
from llmrl.sweeps.figures import figures_of
from llmrl.sweeps.importance import Importance
from llmrl.sweeps.plan import Plan, label
from llmrl.sweeps.ranking import Ranking
from llmrl.sweeps.results import Result, samples_of
from llmrl.sweeps.words import HEAD, row, sayings

SAMPLES = 6


def write_page(
    folder: Path, plan: Plan, results: Sequence[Result], rankings: Sequence[Ranking], matters: dict[str, Importance | None]
) -> Path:
    """Write sweep.html into the sweep's folder. Returns its path."""
    figures: dict[str, Any] = {}
    sections = []
    for number, ranking in enumerate(rankings):
        of_it = [result for result in results if result.reward_name == ranking.reward_name]
        made = figures_of(ranking, of_it, matters[ranking.reward_name])
        figures |= {f"{name}-{number}": figure for name, (_, figure) in made.items()}
        captions = {f"{name}-{number}": caption for name, (caption, _) in made.items()}
        sections.append(_section(ranking, matters[ranking.reward_name], captions))
    body = "\n".join(sections) or "<p>No job came as far as a held-out reward.</p>"
    words = " ".join(["python -m llmrl.train", *plan.words])
    return write(folder / "sweep.html", folder.name, _summary(results), words, body + _failures(results), figures)


def _summary(results: Sequence[Result]) -> str:
    statuses = [result.status for result in results]
    parts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    seconds = sum(result.seconds or 0 for result in results if result.status != "same")
    spent = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    return f"{len(results)} jobs: {', '.join(parts)}; {spent} of runs"


def _section(ranking: Ranking, matters: Importance | None, captions: dict[str, str]) -> str:
    said = "".join(f"<li>{html.escape(line)}</li>" for line in sayings(ranking, matters))
    rows = table(HEAD, (row(place, group) for place, group in enumerate(ranking.groups, 1)))
    best = ranking.groups[0].best
    worst = min(ranking.groups[-1].results, key=lambda result: result.reward.mean)  # type: ignore[union-attr]
    samples = _samples("The best run", best) + (_samples("The worst run", worst) if worst is not best else "")
    return (
        f"<section><h2>Rewarded: {html.escape(ranking.reward_name)}</h2><ul class=said>{said}</ul>{rows}{plots(captions)}"
        f'<h3>Samples, unpicked</h3><div class="samples">{samples}</div></section>'
    )


def _samples(title: str, result: Result) -> str:
    shown = "".join(
        f"<li><span class=reward>{reward:+.2f}</span> <span class=prompt>{html.escape(prompt[-240:])}</span>"
        f"{html.escape(text)}</li>"
        for prompt, text, reward in samples_of(result, SAMPLES)
    )
    return f"<div><h4>{title}: {html.escape(label(result.job.overrides))}</h4><ol>{shown}</ol></div>"


def _failures(results: Sequence[Result]) -> str:
    left = [result for result in results if result.status not in ("finished", "same")]
    if not left:
        return ""
    rows = [(result.job.number + 1, result.status, label(result.job.overrides), result.reason) for result in left]
    return "<section><h2>Not finished</h2>" + table(("job", "status", "settings", "why"), rows) + "</section>"
