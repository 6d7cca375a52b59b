"""Results and run folders made by hand, and a launcher that makes them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import OmegaConf

from llmrl.config import TrainConfig
from llmrl.errors import UserError
from llmrl.evaluation.bootstrap import Interval
from llmrl.explain import explain
from llmrl.sweeps.launch import Launch
from llmrl.sweeps.plan import Job, settings_of
from llmrl.sweeps.results import Result
from tests.test_config import composed

Maker = Callable[..., Result]


def leave_run(folder: Path, config: TrainConfig, reward: float, **facts: object) -> None:
    """A run folder as a finished job leaves it, with that reward on each of four prompts; `facts` are for run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"status": "finished", "steps": 2, "seconds": 1.0, "sweep": folder.parent.name, **facts}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    OmegaConf.save(OmegaConf.structured(config), folder / "config.yaml")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 1, "objective/scores": reward}) + "\n")
    sample = {"response": "so", "reward": reward}
    evaluation = {
        "pairs": [[f"Number {i}", sample, sample] for i in range(4)], "prompts": 4, "samples": 4, "base_reward": 0.0, "kl": 1.0,
        "verdict": "improved", "difference": {"mean": reward, "low": 0.0, "high": 1.0, "resampled": "4 prompts"},
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")


@dataclass
class StubLaunch(Launch):
    """Jobs that end at once, with the reward that `reward` says, or in the error that it raises; `ran` are their numbers."""

    reward: Callable[[Job], float] = lambda job: float(job.number)
    ran: list[int] = field(default_factory=list)

    def compose(self, overrides: Sequence[str]) -> TrainConfig:
        try:
            return composed("train", *overrides)
        except HydraException as error:
            raise UserError(explain(error, TrainConfig)) from error

    def run(self, jobs: Sequence[tuple[Job, Sequence[str]]], configs: Callable[[Job], TrainConfig]) -> None:
        for job, _ in jobs:
            self.ran.append(job.number)
            leave_run(self.folder / job.folder, configs(job), self.reward(job))


@pytest.fixture
def launch(tmp_path: Path) -> StubLaunch:
    """A launcher of a sweep in tmp_path/sweep."""
    basic = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    hydra = {
        "sweep": {"dir": str(tmp_path / "sweep")}, "launcher": {"_target_": basic},
        "runtime": {"choices": {"hydra/launcher": "basic"}},
    }  # fmt: skip
    context = HydraContext.__new__(HydraContext)
    context.config_loader = None  # type: ignore[assignment]
    task = type("Task", (), {"statuses": []})
    return StubLaunch(context, OmegaConf.create({"hydra": hydra, "sweep": {"resume": None}}), task)  # type: ignore[arg-type]


@pytest.fixture
def made() -> Maker:
    """made("ppo.lr=1e-5 seed=1", 0.5, kl=2.0): a finished job with that mean held-out reward, 20 prompts, one response each."""
    count = iter(range(10_000))

    def make(words: str, mean: float, kl: float = 1.0, reward: str = "no_repeat", spread: float = 0.1) -> Result:
        number, overrides = next(count), tuple(words.split())
        rewards = mean + spread * np.linspace(-1, 1, 20)[:, None]
        interval = Interval(mean, mean - 0.05, mean + 0.05, "20 prompts")
        job = Job(number, overrides, f"{number:03d}", str(number))
        return Result(
            job, Path(job.folder), "finished", settings=settings_of(overrides), reward_name=reward, reward=interval,
            rewards=rewards, base_reward=0.0, difference=Interval(mean, 0, 1, ""), verdict="improved", kl=kl,
            steps=2, seconds=1.0,
        )  # fmt: skip

    return make
