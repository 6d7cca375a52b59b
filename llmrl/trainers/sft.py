"""TRL's SFT: supervised fine-tuning on the answers of the prompts."""

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from llmrl.errors import UserError
from llmrl.prompts import Prompt
from llmrl.trainers.protocol import Outcome, Workbench
from llmrl.trainers.trl_adapter import Steps, run_trl, training_arguments


class SFT:
    """Learn to say the answers, or the texts where there are no answers; see `SFTConfig` of `llmrl.config`."""

    def __init__(self, workbench: Workbench) -> None:
        if workbench.config.sft is None:
            raise ValueError("trainer=sft needs the section sft of the config")
        self.bench, self.settings = workbench, workbench.config.sft
        self.rows = examples(workbench.prompts.train)

    def train(self) -> Outcome:
        """Train to the last step, or to the one in which a stop was asked for."""
        return run_trl(self.bench, 1, self.settings.batch_size, self._make)

    def _make(self, steps: Steps) -> SFTTrainer:
        arguments = SFTConfig(
            **training_arguments(self.bench, self.settings, self.settings.batch_size, 1), max_length=self.settings.max_length
        )
        return SFTTrainer(
            model=self.bench.language_model.model, processing_class=self.bench.language_model.tokenizer, args=arguments,
            train_dataset=Dataset.from_list(self.rows),
        )  # fmt: skip


def examples(prompts: list[Prompt]) -> list[dict[str, str]]:
    """Prompt and answer apart, so that the loss is on the answer alone; or, where no prompt has an answer, the text itself.

    Raises UserError if only some have one.
    """
    without = [prompt for prompt in prompts if prompt.answer is None]
    if without and len(without) < len(prompts):
        raise UserError(
            f"trainer=sft: {len(without)} of {len(prompts)} prompts have no answer (first: {without[0].id}); give all of them "
            "one (prompts.answer_field), or none to learn the texts themselves"
        )
    if without:
        return [{"text": prompt.text} for prompt in prompts]
    return [{"prompt": prompt.text, "completion": _apart(prompt)} for prompt in prompts]


def _apart(prompt: Prompt) -> str:
    """The answer, a space before it if nothing else stands between the two."""
    answer = prompt.answer or ""
    return answer if prompt.text[-1:].isspace() or answer[:1].isspace() else f" {answer}"
