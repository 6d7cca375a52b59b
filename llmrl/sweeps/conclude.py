"""The end of a sweep: a ranked table on the terminal, as CSV, JSON and a page, and the exit status."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrl.files import replace_text
from llmrl.sweeps.importance import Importance, importance
from llmrl.sweeps.launch import Launch
from llmrl.sweeps.page import write_page
from llmrl.sweeps.plan import label, read_plan
from llmrl.sweeps.ranking import Ranking, rank
from llmrl.sweeps.results import Result, read_results
from llmrl.sweeps.words import HEAD, row, sayings, whole

SHOWN = 20
Everything = tuple[list[Result], list[Ranking], dict[str, Importance | None]]


def conclude(folder: Path, console: Console | None = None) -> int:
    """Read what became of every job, show it, and write ranking.csv, ranking.json and sweep.html. Returns 0, or 1 if a job
    failed or is missing."""
    console = console or Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    results, rankings, matters = read_all(folder)
    show_jobs(results, console)
    for ranking in rankings:
        show_ranking(ranking, matters[ranking.reward_name], console, several=len(rankings) > 1)
    try:
        page = write_all(folder, (results, rankings, matters))
        console.print(f"\nthe whole picture: {page.absolute()}", markup=False)
    except OSError as error:  # a full disk, or somebody else's folder: what is on the terminal must do
        console.print(f"\nthe page can't be written to {folder}: {error.strerror or error}", markup=False)
    left = [result for result in results if result.status not in ("finished", "same")]
    if left:
        console.print(f"to run what is left: python -m llmrl.train sweep.resume={folder}", markup=False)
    return 1 if left else 0


@contextmanager
def concluding(launch: Launch) -> Iterator[None]:
    """A sweep at work: it is concluded when it ends, and when a person has it stop."""
    try:
        yield
    finally:
        launch.end(conclude(launch.folder))


def read_all(folder: Path) -> Everything:
    """Every job's end, a ranking for each reward, and which settings matter in it."""
    results = read_results(folder, read_plan(folder))
    rankings = rank(results)
    return results, rankings, {ranking.reward_name: importance(_of(results, ranking)) for ranking in rankings}


def write_all(folder: Path, everything: Everything | None = None) -> Path:
    """Write ranking.csv, ranking.json and sweep.html. Returns the page's path."""
    results, rankings, matters = everything or read_all(folder)
    write_csv(folder / "ranking.csv", results, rankings)
    replace_text(folder / "ranking.json", json.dumps(as_json(results, rankings, matters), indent=1) + "\n")
    return write_page(folder, read_plan(folder), results, rankings, matters)


def _of(results: Sequence[Result], ranking: Ranking) -> list[Result]:
    return [result for result in results if result.reward_name == ranking.reward_name]


def show_jobs(results: Sequence[Result], console: Console) -> None:
    """How many ended how, and every failure with its reason."""
    counts = Counter(result.status for result in results)
    console.print(f"\n{len(results)} jobs: " + ", ".join(f"{count} {status}" for status, count in counts.items()), style="bold")
    for result in results:
        if result.status not in ("finished", "same"):
            reason = f": {result.reason}" if result.reason else ""
            console.print(
                Text(f"  job {result.job.number + 1} {result.status} ({label(result.job.overrides)}){reason}", style="red")
            )


def show_ranking(ranking: Ranking, matters: Importance | None, console: Console, several: bool) -> None:
    """The table of one reward's settings, best first, and what it says."""
    title = f"Held-out reward, {ranking.reward_name}" if several else "Held-out reward"
    console.print(f"\n{title}", style="bold", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in HEAD:
        table.add_column(name, justify="left" if name in ("settings", "verdicts") else "right")
    for place, group in enumerate(ranking.groups[:SHOWN], 1):
        table.add_row(*row(place, group), style="bold" if place == 1 else None)
    console.print(table)
    if len(ranking.groups) > SHOWN:
        console.print(f"and {len(ranking.groups) - SHOWN} more in ranking.csv")
    for line in sayings(ranking, matters):
        console.print(line, markup=False)


def write_csv(path: Path, results: Sequence[Result], rankings: Sequence[Ranking]) -> None:
    """A line a job, best group first, failures with their reason at the end."""
    places = {
        id(result): place for ranking in rankings for place, group in enumerate(ranking.groups, 1) for result in group.results
    }
    keys = list(dict.fromkeys(key for result in results for key in result.settings))
    ends = ("finished", "same", "interrupted", "running", "missing", "failed")
    ordered = sorted(
        results, key=lambda one: (id(one) not in places, ends.index(one.status), one.reward_name, places.get(id(one), 0))
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([
            "job", "place", "status", *keys, "rewarded", "reward", "low", "high", "base_reward", "difference", "verdict", "kl",
            "best_look_step", "best_look_reward", "steps", "seconds", "folder", "reason",
        ])  # fmt: skip
        for one in ordered:
            reward = one.reward if one.counts else None
            writer.writerow([
                one.job.number + 1, places.get(id(one), ""), one.status, *[whole(one.settings.get(key, "")) for key in keys],
                one.reward_name, *((reward.mean, reward.low, reward.high) if reward else ("", "", "")),
                one.base_reward if reward else "", one.difference.mean if one.difference and reward else "", one.verdict,
                one.kl if reward else "", *(one.best_look or ("", "")), one.steps, one.seconds, one.folder.name, one.reason,
            ])  # fmt: skip


def as_json(results: Sequence[Result], rankings: Sequence[Ranking], matters: dict[str, Importance | None]) -> dict[str, Any]:
    """Everything that the table says, for programs."""
    return {
        "jobs": [
            {
                "job": one.job.number + 1, "status": one.status, "reason": one.reason,
                "ended_early": bool(one.ended_early), "settings": one.settings,
                "rewarded": one.reward_name, "reward": asdict(one.reward) if one.reward else None,
                "base_reward": one.base_reward, "difference": asdict(one.difference) if one.difference else None,
                "verdict": one.verdict, "kl": one.kl, "best_look": one.best_look, "last_look": one.last_look,
                "steps": one.steps, "seconds": one.seconds, "folder": one.folder.name,
            }
            for one in results
        ],
        "rankings": [
            {
                "rewarded": ranking.reward_name,
                "groups": [
                    {
                        "settings": group.settings, "seeds": group.seeds, "planned": group.planned,
                        "reward": asdict(group.reward), "kl": group.kl,
                        "jobs": [result.job.number + 1 for result in group.results],
                        "ended_early": [result.job.number + 1 for result in group.results if result.ended_early],
                    }
                    for group in ranking.groups
                ],
                "first_over_second": asdict(ranking.lead) if ranking.lead else None, "verdict": ranking.lead_verdict,
                "importance": asdict(found) if (found := matters[ranking.reward_name]) else None,
            }
            for ranking in rankings
        ],
    }  # fmt: skip
