"""What became of each job of a sweep, read from its run folder alone: whoever ran it, wherever and however it ended."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from llmrl.errors import UserError, one_line
from llmrl.evaluation.bootstrap import Interval, paired_interval
from llmrl.files import is_locked
from llmrl.sweeps.plan import Job, Plan, settings_of
from llmrl.tracking.run_folder import RunFolder, read_json_lines


@dataclass
class Result:
    """A job and its end. Rewards are weighted sums on held-out prompts; None where the job did not come so far."""

    job: Job
    folder: Path
    status: str  # finished, failed, interrupted, running, missing, or same (as another job)
    reason: str = ""  # of a failure, or why a run ended early
    settings: dict[str, Any] = field(default_factory=dict)  # what tells it from the other jobs, the seed included
    reward_name: str = ""  # what was rewarded, weights and parameters included: rewards of different names can't be compared
    reward: Interval | None = None  # of the trained model, with its interval over prompts
    rewards: np.ndarray | None = None  # [prompts, responses to each], of the trained model
    base_reward: float | None = None
    difference: Interval | None = None  # trained minus base
    verdict: str = ""
    kl: float | None = None  # nats per response
    best_look: tuple[int, float] | None = None  # (step, reward) of the best look at held-out prompts while training
    last_look: tuple[int, float] | None = None
    steps: int | None = None
    seconds: float | None = None
    damaged: bool = False  # what it left can't be gone on with

    @property
    def ended_early(self) -> str:
        """At which step a run ended that was not to go on, by sweep.prune or a limit of its own; empty for any other."""
        return f"ended early at step {self.steps}" if self.status == "finished" and self.reason else ""

    @property
    def counts(self) -> bool:
        """Whether it has a held-out reward to be ranked by."""
        return self.status == "finished" and self.reward is not None


def read_results(folder: Path, plan: Plan) -> list[Result]:
    """The end of every job, in their order; a job that was the same as another has that one's figures."""
    found: dict[int, Result] = {}
    for job in plan.jobs:
        if job.same_as is not None and job.same_as in found:
            twin = found[job.same_as]
            found[job.number] = Result(job, twin.folder, "same", f"as job {job.same_as + 1}", settings_of(job.overrides))
        else:
            found[job.number] = read_result(folder, job)
    return list(found.values())


def read_result(sweep: Path, job: Job) -> Result:
    """The end of one job. A folder that is damaged counts as failed, with what is wrong as the reason."""
    folder = sweep / job.folder
    result = Result(job, folder, "missing", settings=settings_of(job.overrides))
    try:
        _fill(result, RunFolder(folder))
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        result.status, result.reason, result.damaged = "failed", f"its folder can't be read: {one_line(error)}", True
    return result


def _fill(result: Result, run: RunFolder) -> None:
    if not run.exists:
        error_file = run.path / "error.txt"
        if error_file.is_file():
            result.status, result.reason = "failed", _last_line(error_file.read_text(encoding="utf-8"))
        kept = (run.metrics_file, run.samples_file, run.histograms_file, run.checkpoints, run.final, run.evaluation_file)
        result.damaged = any(path.exists() for path in kept)  # a new run would write on
        return
    record = run.record
    result.status = str(record["status"])
    result.reason = one_line(record.get("error") or record.get("stopped") or "")
    result.steps, result.seconds = record.get("steps"), record.get("seconds")
    if result.status == "running" and not is_locked(run.path):
        result.status, result.reason = "interrupted", "killed"
    settings = OmegaConf.load(run.path / "config.yaml")
    result.reward_name = reward_name(OmegaConf.to_container(settings.reward))  # type: ignore[arg-type]
    if run.metrics_file.is_file():
        looks = [(row["step"], row["eval/reward"]) for row in read_json_lines(run.metrics_file) if "eval/reward" in row]
        if looks:
            result.best_look, result.last_look = max(looks, key=lambda look: look[1]), looks[-1]
    if run.evaluation_file.is_file():
        _judge(result, json.loads(run.evaluation_file.read_text(encoding="utf-8")), int(settings.evaluation.seed))
    elif result.status == "finished" and settings.evaluation.enabled:
        result.status, result.reason, result.damaged = "failed", "evaluation.json is gone", True


def _judge(result: Result, evaluation: dict[str, Any], seed: int) -> None:
    rewards = np.array([trained["reward"] for _, _, trained in evaluation["pairs"]])
    shape = (evaluation["prompts"], evaluation["samples"] // evaluation["prompts"])
    result.rewards = rewards.reshape(shape)
    result.reward = paired_interval(result.rewards, seed)
    result.base_reward, result.kl, result.verdict = evaluation["base_reward"], evaluation["kl"], evaluation["verdict"]
    result.difference = Interval(**evaluation["difference"])


def reward_name(rewards: dict[str, dict[str, Any]]) -> str:
    """Every reward with its weight and parameters in one line."""
    parts = []
    for name, options in sorted(rewards.items()):
        told = ", ".join(f"{key}={value}" for key, value in options.items() if key != "weight" and value not in (None, {}))
        weight = options.get("weight", 1.0)
        parts.append(("" if weight == 1 else f"{weight:g} x ") + name + (f"({told})" if told else ""))
    return " + ".join(parts)


def samples_of(result: Result, count: int) -> list[tuple[str, str, float]]:
    """(prompt, response, reward) of some held-out responses of the trained model, evenly from all, unpicked."""
    pairs = json.loads((result.folder / "evaluation.json").read_text(encoding="utf-8"))["pairs"]
    return [
        (prompt, trained["response"], trained["reward"]) for prompt, _, trained in pairs[:: max(1, len(pairs) // count)][:count]
    ]


def curve_of(result: Result, name: str) -> list[tuple[int, float]]:
    """(step, value) of one metric over a run; empty where it was not logged."""
    path = result.folder / "metrics.jsonl"
    rows: Sequence[dict[str, Any]] = read_json_lines(path) if path.is_file() else []
    return [(row["step"], row[name]) for row in rows if name in row]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
