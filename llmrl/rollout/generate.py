"""Sampling for people: streaming to the terminal, or a file of prompts in and JSON lines out."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from rich.console import Console
from rich.text import Text

from llmrl.config import GenerateConfig, PromptsConfig, PromptSource, read_train_config
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel, load
from llmrl.prompts import Prompt
from llmrl.prompts.sources import read_prompts
from llmrl.rollout.sampler import Rollout, sample
from llmrl.rollout.stream import as_it_comes
from llmrl.rollout.write import write_rows
from llmrl.tracking import find_run


def generate(config: GenerateConfig) -> int:
    """Sample as `config` says and show or write the responses. Raises UserError."""
    if config.threads:
        torch.set_num_threads(config.threads)
    prompts = [prompt for prompt in _prompts(config) for _ in range(config.samples)]
    out = Path(config.out).expanduser() if config.out is not None else None
    if config.run is not None:
        run = find_run(config.run, with_model=True)
        config.model.name_or_path = str(run.path)
        if not any(word.startswith("rollout") for word in HydraConfig.get().overrides.task):
            config.rollout = read_train_config(run.path / "config.yaml").rollout  # as it was trained and compared
    language_model = load(config.model)
    console = Console(highlight=False, soft_wrap=True)
    generator = torch.Generator().manual_seed(config.seed)
    if out is None and config.stream and len(prompts) == 1 and sys.stdout.isatty():
        _stream(language_model, prompts[0], config, generator, console)
        return 0
    rows = _responses(language_model, prompts, config, generator)
    if out is not None:
        replaced = ", in place of what stood there" if out.is_file() else ""
        write_rows(out, rows)
        console.print(f"{len(prompts)} responses written to {out}{replaced}", markup=False)
        return 0
    for row in rows:
        if sys.stdout.isatty() or config.file is None:
            console.print(Text(str(row["prompt"]), style="cyan") + Text(str(row["response"])), end="\n\n")
        else:
            print(json.dumps(row, ensure_ascii=False))
    return 0


def _prompts(config: GenerateConfig) -> list[Prompt]:
    if config.file is not None:
        source = PromptSource.jsonl if config.file.endswith((".jsonl", ".json")) else PromptSource.text
        found = read_prompts(PromptsConfig(source=source, path=config.file), option="file")
        if not found:
            raise UserError(f"file={config.file} holds no prompts")
        return found
    texts = [str(text) for text in (config.prompt if isinstance(config.prompt, list) else [config.prompt])]
    if not texts or any(not text.strip() for text in texts):
        raise UserError("a prompt is empty; give it some words, for example 'prompt=\"Once upon a time\"'")
    return [Prompt(text=text, id=str(number)) for number, text in enumerate(texts)]


def _responses(
    language_model: LanguageModel, prompts: list[Prompt], config: GenerateConfig, generator: torch.Generator
) -> Iterator[dict[str, object]]:
    for start in range(0, len(prompts), config.batch_size):
        part = prompts[start : start + config.batch_size]
        rollout: Rollout = sample(language_model, part, config.rollout, generator, greedy=config.greedy)
        lengths = rollout.response_mask.sum(-1).tolist()
        for i, prompt in enumerate(part):
            yield {
                "id": prompt.id, "prompt": prompt.text, "response": rollout.texts[i], "tokens": int(lengths[i]),
                "finished": bool(rollout.finished[i]), "logprob": round(float(rollout.logprobs[i].sum()), 4),
            }  # fmt: skip


def _stream(
    language_model: LanguageModel, prompt: Prompt, config: GenerateConfig, generator: torch.Generator, console: Console
) -> None:
    console.print(Text(prompt.text, style="cyan"), end="")
    show = as_it_comes(language_model, lambda text: console.print(Text(text), end=""))
    sample(language_model, [prompt], config.rollout, generator, greedy=config.greedy, on_token=show)
    console.print()
