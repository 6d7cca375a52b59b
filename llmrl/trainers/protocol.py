"""What every trainer is given and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmrl.config import TrainConfig
from llmrl.models.load import LanguageModel
from llmrl.prompts import Prompt, PromptSplit
from llmrl.rewards import Reward, Scores
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
    settings: Mapping[str, Any] = field(default_factory=dict)  # the config as plain nested containers
    resumes: bool = False  # whether the run goes on from what its folder holds

    @property
    def looked_at(self) -> list[Prompt]:
        """The held-out prompts that are looked at while training."""
        return self.prompts.held_out[: self.config.trainer.eval_prompts]

    @property
    def judged_on(self) -> list[Prompt]:
        """The held-out prompts of the final comparison: none that chose the model or the end of the run."""
        return self.prompts.held_out[len(self.looked_at) if self.config.trainer.selects else 0 :]


@dataclass(frozen=True)
class Outcome:
    """How training ended: `status` is finished or interrupted; `stopped` says why it ended before its last step, if it did."""

    status: str
    steps: int
    episodes: int
    stopped: str = ""


class Trainer(Protocol):
    """Registered in `TRAINERS` under the name that `trainer=` chooses; called with a `Workbench`.

    A class that says `can_resume = True` goes on from its checkpoints where `workbench.resumes`.
    """

    def train(self) -> Outcome:
        """Train `workbench.language_model` in place, logging to the run folder and tracker. Raises RunError."""
        ...


def sample_rows(prompts: Sequence[Prompt], texts: Sequence[str], scores: Scores) -> list[dict[str, Any]]:
    """Responses as samples.jsonl holds them."""
    return [
        {
            "prompt_id": prompt.id, "prompt": prompt.text, "response": text, "reward": scores.total[i],
            "components": {name: values[i] for name, values in scores.components.items()},
        }
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]  # fmt: skip
