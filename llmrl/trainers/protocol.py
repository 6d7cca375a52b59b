"""What every trainer is given and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from llmrl.config import TrainConfig
from llmrl.models.load import LanguageModel
from llmrl.prompts import PromptSplit
from llmrl.rewards import Reward
from llmrl.tracking import RunFolder, Tracker


@dataclass
class Workbench:
    """Everything a trainer works with, built and checked before it starts."""

    config: TrainConfig
    run: RunFolder
    tracker: Tracker
    language_model: LanguageModel  # trained in place
    reference: LanguageModel  # where it started: frozen, and the base of the final comparison
    rewards: Mapping[str, Reward]
    prompts: PromptSplit


@dataclass(frozen=True)
class Outcome:
    """How training ended: `status` is finished or interrupted."""

    status: str
    steps: int
    episodes: int


class Trainer(Protocol):
    """Registered in `TRAINERS` under the name that `trainer=` chooses; called with a `Workbench`."""

    def train(self) -> Outcome:
        """Train `workbench.language_model` in place, logging to the run folder and tracker. Raises RunError."""
        ...
