"""The other jobs of a run's sweep, as far as their own files tell."""

import json
from pathlib import Path
from statistics import median

from llmrl.tracking.run_folder import read_json_lines


def rewards_at(run: Path, step: int) -> list[float]:
    """Held-out rewards at `step` of the other jobs in the same sweep folder whose rewards are the same as this run's."""
    own = _reward_of(run)
    found = []
    for path in sorted(run.parent.glob("*/metrics.jsonl")):
        damaged = path.parent.name.startswith("damaged-")  # its job began anew in another folder
        if path.parent != run and not damaged and _reward_of(path.parent) == own:
            found += [row["eval/reward"] for row in _rows(path) if row["step"] == step and "eval/reward" in row]
    return found


def behind(run: Path, step: int, reward: float, least: int) -> str:
    """Why a run should end at `step` by the median rule (Golovin et al., Google Vizier, KDD 2017), or nothing.

    It should where its held-out reward is below the median of the others', of which at least `least` came as far.
    """
    others = rewards_at(run, step)
    if len(others) < least or reward >= median(others):
        return ""
    return (
        f"the held-out reward of {reward:.3f} after step {step} is below {median(others):.3f}, the median of {len(others)} "
        "other jobs (sweep.prune)"
    )


def _reward_of(run: Path) -> str | None:
    """The lines of config.yaml that say what is rewarded; None where there are none."""
    path = run / "config.yaml"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    if "reward:" not in lines:
        return None
    start = lines.index("reward:") + 1
    end = next((number for number in range(start, len(lines)) if not lines[number].startswith(" ")), len(lines))
    return "\n".join(lines[start:end])


def _rows(path: Path) -> list[dict[str, float]]:
    try:
        return read_json_lines(path)
    except (OSError, json.JSONDecodeError):  # another process writes there now
        return []
