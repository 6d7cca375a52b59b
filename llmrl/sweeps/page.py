"""sweep.html: one page with everything, which opens from the disk without a network."""

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from llmrl.files import replace_text
from llmrl.sweeps.figures import figures_of
from llmrl.sweeps.importance import Importance
from llmrl.sweeps.plan import Plan, label
from llmrl.sweeps.ranking import Ranking
from llmrl.sweeps.results import Result, samples_of
from llmrl.sweeps.words import sayings, settings_text

SAMPLES = 6


def write_page(
    folder: Path, plan: Plan, results: Sequence[Result], rankings: Sequence[Ranking], matters: dict[str, Importance | None]
) -> Path:
    """Write sweep.html into the sweep's folder. Returns its path. Text of models is shown as text, never as HTML."""
    figures: dict[str, Any] = {}
    sections = []
    for number, ranking in enumerate(rankings):
        of_it = [result for result in results if result.reward_name == ranking.reward_name]
        made = figures_of(ranking, of_it, matters[ranking.reward_name])
        figures |= {f"{name}-{number}": figure for name, (_, figure) in made.items()}
        sections.append(
            _section(number, ranking, matters[ranking.reward_name], {name: note for name, (note, _) in made.items()})
        )
    template = Template(resources.files("llmrl.sweeps").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(folder.name), summary=_summary(results), words=html.escape(" ".join(plan.words)),
        sections="\n".join(sections) or "<p>No job came as far as a held-out reward.</p>", failures=_failures(results),
        figures=json.dumps(figures, allow_nan=False).replace("</", "<\\/"),
        plotly=resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8"),
    )  # fmt: skip
    replace_text(folder / "sweep.html", page)
    return folder / "sweep.html"


def _summary(results: Sequence[Result]) -> str:
    statuses = [result.status for result in results]
    parts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    seconds = sum(result.seconds or 0 for result in results if result.status != "same")
    spent = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    return html.escape(f"{len(results)} jobs: {', '.join(parts)}; {spent} of runs")


def _section(number: int, ranking: Ranking, matters: Importance | None, notes: dict[str, str]) -> str:
    plots = "\n".join(
        f'<figure><div class="plot" id="{name}-{number}"></div><figcaption>{html.escape(note)}</figcaption></figure>'
        for name, note in notes.items()
    )
    said = "".join(f"<li>{html.escape(line)}</li>" for line in sayings(ranking, matters))
    best = ranking.groups[0].best
    worst = min(ranking.groups[-1].results, key=lambda result: result.reward.mean)  # type: ignore[union-attr]
    samples = _samples("The best run", best) + (_samples("The worst run", worst) if worst is not best else "")
    return (
        f"<section><h2>Rewarded: {html.escape(ranking.reward_name)}</h2><ul class=said>{said}</ul>{_table(ranking)}"
        f'<div class="plots">{plots}</div><h3>Samples, unpicked</h3><div class="samples">{samples}</div></section>'
    )


def _table(ranking: Ranking) -> str:
    rows = []
    for place, group in enumerate(ranking.groups, 1):
        over = [result.difference.mean for result in group.results if result.difference]
        verdicts = ", ".join(sorted({result.verdict for result in group.results if result.verdict}))
        cells = (
            str(place), settings_text(group), str(len(group.results)), f"{group.reward.mean:.3f}",
            f"{group.reward.low:.3f} to {group.reward.high:.3f}", f"{sum(over) / max(len(over), 1):+.3f}",
            f"{group.kl:.2f}{'*' if group.on_frontier else ''}", verdicts,
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(
        f"<th>{name}</th>" for name in ("", "settings", "seeds", "reward", "95 % interval", "over the base", "KL", "verdicts")
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _samples(title: str, result: Result) -> str:
    shown = "".join(
        f"<li><span class=reward>{reward:+.2f}</span> <span class=prompt>{html.escape(prompt[-240:])}</span>"
        f"{html.escape(text)}</li>"
        for prompt, text, reward in samples_of(result, SAMPLES)
    )
    return f"<div><h4>{title}: {html.escape(label(result.job.overrides))}</h4><ol>{shown}</ol></div>"


def _failures(results: Sequence[Result]) -> str:
    rows = "".join(
        f"<tr><td>{result.job.number + 1}</td><td>{html.escape(result.status)}</td>"
        f"<td>{html.escape(label(result.job.overrides))}</td><td>{html.escape(result.reason)}</td></tr>"
        for result in results
        if result.status not in ("finished", "same")
    )
    if not rows:
        return ""
    head = "<tr><th>job</th><th>status</th><th>settings</th><th>why</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f'<section><h2>Not finished</h2><div class="scroll">{table}</div></section>'
