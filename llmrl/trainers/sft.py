"""TRL's SFT: supervised fine-tuning on the answers of the prompts."""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.models.policy import position_ids
from llmrl.prompts import Prompt
from llmrl.trainers.protocol import Outcome, Workbench
from llmrl.trainers.trl_adapter import run_trl, shuffled_passes, training_arguments
from llmrl.trainers.trl_steps import Steps

Example = dict[str, list[int]]
"""`input_ids`, and `labels`: the same, -100 where nothing is learned."""


class SFT:
    """Learn to say the answers, or the texts where there are no answers; see `SFTConfig` of `llmrl.config`."""

    def __init__(self, workbench: Workbench) -> None:
        if workbench.config.sft is None:
            raise ValueError("trainer=sft needs the section sft of the config")
        self.bench, self.settings = workbench, workbench.config.sft
        prompts = workbench.prompts.train
        made = examples(workbench.language_model, [*prompts, *workbench.looked_at], self.settings.max_length)
        self.rows, self.looked_at = made[: len(prompts)], made[len(prompts) :]
        self.collate = DataCollatorForLanguageModeling(pad_token_id=workbench.language_model.pad_id)

    def train(self) -> Outcome:
        """Train to the last step, or to the one in which a stop was asked for."""
        return run_trl(self.bench, 1, self.settings.batch_size, self._make)

    def _make(self, steps: Steps) -> SFTTrainer:
        steps.look_further = lambda: {"eval/loss": self.held_out_loss()}
        bench, count = self.bench, self.bench.config.trainer.steps * self.settings.batch_size
        arguments = SFTConfig(
            **training_arguments(bench, self.settings, self.settings.batch_size, 1),
            max_length=None,  # they are cut already
            train_sampling_strategy="sequential",
        )
        return SFTTrainer(
            model=bench.language_model.model, processing_class=bench.language_model.tokenizer, args=arguments,
            train_dataset=shuffled_passes(self.rows, count, bench.config.seed), data_collator=self.collate,
        )  # fmt: skip

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean over what is to be said on the held-out prompts looked at, in nats per token."""
        language_model, total, count = self.bench.language_model, 0.0, 0
        for start in range(0, len(self.looked_at), 16):
            batch = {
                name: rows.to(language_model.device) for name, rows in self.collate(self.looked_at[start : start + 16]).items()
            }
            labels = batch.pop("labels")[:, 1:].flatten()
            with language_model.autocast():
                output = language_model.model(**batch, position_ids=position_ids(batch["attention_mask"]), use_cache=False)
            total += float(cross_entropy(output.logits[:, :-1].float().flatten(0, 1), labels, reduction="sum"))
            count += int((labels != -100).sum())
        return total / count


def examples(language_model: LanguageModel, prompts: Sequence[Prompt], max_length: int) -> list[Example]:
    """What is learned of each prompt, at most `max_length` tokens: the answer and the token that ends a text after it.

    Where no prompt has an answer, it is the texts themselves, without an end: a prompt is a beginning, and a model that had
    learned to stop there would have nothing to say. Raises UserError if only some have an answer, or
    one leaves nothing to learn.
    """
    without = [prompt for prompt in prompts if prompt.answer is None]
    if without and len(without) < len(prompts):
        raise UserError(
            f"trainer=sft: {len(without)} of {len(prompts)} prompts have no answer (first: {without[0].id}); give all of them "
            "one (prompts.answer_field), or none to learn the texts themselves"
        )
    limit = min(max_length, language_model.context_length or max_length)
    made = [_example(language_model, prompt, limit) for prompt in prompts]
    for prompt, each in zip(prompts, made, strict=True):
        if all(label == -100 for label in each["labels"][1:]):
            raise UserError(
                f"prompt {prompt.id} leaves nothing to learn within {limit} tokens: raise sft.max_length, or leave it out"
            )
    return made


def _example(language_model: LanguageModel, prompt: Prompt, limit: int) -> Example:
    """The prompt has the tokens it has in sampling, and the answer those that follow it."""
    tokenizer = language_model.tokenizer
    given: list[int] = list(tokenizer(prompt.text)["input_ids"])  # type: ignore[arg-type]
    if prompt.answer is None:
        return {"input_ids": given[:limit], "labels": given[:limit]}
    answer = prompt.answer if prompt.text[-1:].isspace() or prompt.answer[:1].isspace() else f" {prompt.answer}"
    whole: list[int] = list(tokenizer(prompt.text + answer)["input_ids"])  # type: ignore[arg-type]
    if whole[: len(given)] == given:
        said = whole[len(given) :]
    else:  # the two melt into one token where they meet
        said = list(tokenizer(answer, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
    end = tokenizer.eos_token_id if isinstance(tokenizer.eos_token_id, int) else next(iter(language_model.stop_ids), None)
    if end is not None and said[-1:] != [end]:
        said = [*said, end]
    return {"input_ids": [*given, *said][:limit], "labels": [*[-100] * len(given), *said][:limit]}
