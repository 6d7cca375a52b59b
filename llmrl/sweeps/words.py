"""What a ranking says, in words."""

from collections import Counter
from typing import Any

from llmrl.evaluation.bootstrap import Interval
from llmrl.sweeps.importance import LEAST_JOBS, Importance
from llmrl.sweeps.ranking import Group, Ranking

HEAD = ("", "settings", "seeds", "reward", "95 % interval", "over the base", "KL", "verdicts")


def row(place: int, group: Group) -> list[str]:
    """A group's row of the ranking, cells under `HEAD`."""
    over = sum(result.difference.mean for result in group.results if result.difference) / len(group.results)
    verdicts = Counter(result.verdict for result in group.results)
    reward, count = group.reward, len(group.results)
    what = next((word for word in ("seeds", "responses", "prompts") if word in reward.resampled), reward.resampled)
    ends = [f"{number} {verdict}" for verdict, number in verdicts.items()]
    ends += [f"{number} {end}" for end, number in Counter(result.ended_early for result in group.results).items() if end]
    return [
        str(place), settings_text(group), f"{count} of {group.planned}" if count < group.planned else str(count),
        f"{reward.mean:.3f}", f"{reward.low:.3f} to {reward.high:.3f} ({what})", f"{over:+.3f}",
        f"{group.kl:.2f}{'*' if group.on_frontier else ''}", ", ".join(ends),
    ]  # fmt: skip


def settings_text(group: Group) -> str:
    """A group's settings as words."""
    return " ".join(f"{key}={short(value)}" for key, value in group.settings.items()) or "(nothing varied)"


def short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def whole(value: Any) -> Any:
    """A value with all its digits: 1234567, not 1.23457e+06."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sayings(ranking: Ranking, matters: Importance | None) -> list[str]:
    """What the table says, in sentences: how sure the first place is, and which settings matter."""
    lines = []
    if len(ranking.groups) > 1:
        lines.append("* after a KL: no other settings have this reward or more at a lower KL")
        span = f" by {_span(ranking.lead)} ({ranking.lead.resampled})" if ranking.lead else ""
        lines.append(f"first over second{span}: {ranking.lead_verdict}")
        of = f"the first of {len(ranking.groups)}" if len(ranking.groups) > 2 else "the better one"
        lines.append(f"{of} was chosen by these very figures: expect less of it on new prompts")
    if any(len(group.results) < group.planned for group in ranking.groups):
        lines.append("settings with a seed that failed or is left are ranked by the others alone")
    if any(result.ended_early for group in ranking.groups for result in group.results):
        lines.append("a run that ended early is ranked by the model it had then")
    if any(len(group.results) == 2 for group in ranking.groups):
        lines.append(
            "an interval over two seeds is very wide (Student's t, one degree of freedom): three or more say much more"
        )
    if matters:
        told = ", ".join(f"{key} {mean:.2f}" for key, (mean, _) in matters.of.items())
        lines.append(
            f"what matters (permutation importance over {matters.jobs} jobs; R^2 out of bag {matters.fit:.2f}"
            f"{', too low to trust' if matters.fit < 0.3 else ''}): {told}"
        )
    elif len(ranking.groups) > 1:
        lines.append(f"what matters can't be told of so few jobs (at least {LEAST_JOBS} with different results)")
    return lines


def _span(interval: Interval) -> str:
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
