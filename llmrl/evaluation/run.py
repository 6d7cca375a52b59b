"""Compare a finished run with its base, or with any other model."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from llmrl.config import CompareConfig, read_train_config
from llmrl.errors import UserError
from llmrl.evaluation.comparison import compare, write_comparison
from llmrl.evaluation.show import show_comparison
from llmrl.models.load import load
from llmrl.prompts import load_prompts
from llmrl.tracking import find_run


def compare_run(config: CompareConfig) -> int:
    """Sample base and trained on the run's prompts, score by the run's rewards, write evaluation.json, print the verdict."""
    if config.threads:
        torch.set_num_threads(config.threads)
    run = find_run(config.run, with_model=True)
    trained_on = read_train_config(run.path / "config.yaml")
    split = load_prompts(trained_on.prompts)
    settings = trained_on.model
    started_from = config.base or settings.name_or_path
    trained = load(replace(settings, name_or_path=str(run.path)))
    base = load(replace(settings, name_or_path=started_from))
    if trained_on.retriever.name != "none":
        from llmrl.rollout.contexts import with_context  # here, as few runs retrieve and it takes seconds to load

        grounding = with_context(split, trained_on, trained)
        if grounding.index_sha256 != run.record.get("index"):
            index = trained_on.retriever.index
            raise UserError(f"index {index} is not what {run.path} was trained with: it was ingested into since")
        split = grounding.split
    prompts = split.held_out if config.held_out else split.train
    comparison = compare(base, trained, prompts, trained_on.reward, trained_on.rollout, config.evaluation)
    console = Console(highlight=False, soft_wrap=True)
    show_comparison(comparison, console, config.evaluation.examples, held_out=config.held_out)
    # Beside the run's own evaluation.json, never over it: a verdict is not asked for until it pleases.
    against = re.sub(r"\W+", "-", Path(config.base).name) if config.base else "base"
    path = run.path / f"comparison_{'held_out' if config.held_out else 'training'}_{against}.json"
    write_comparison(path, comparison)
    console.print(f"written to {path}", markup=False, soft_wrap=True)
    return 0
