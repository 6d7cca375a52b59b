"""Compare a finished run with its base, or with any other model."""

import torch
from rich.console import Console

from llmrl.config import CompareConfig, read_train_config
from llmrl.evaluation.comparison import compare, write_comparison
from llmrl.evaluation.show import show_comparison
from llmrl.models.load import load
from llmrl.prompts import load_prompts
from llmrl.tracking import find_run


def compare_run(config: CompareConfig) -> int:
    """Sample base and trained on the run's prompts, score by the run's rewards, write evaluation.json, print the verdict."""
    if config.threads:
        torch.set_num_threads(config.threads)
    run = find_run(config.run)
    trained_on = read_train_config(run.path / "config.yaml")
    split = load_prompts(trained_on.prompts)
    settings = trained_on.model
    started_from = config.base or settings.name_or_path
    settings.name_or_path = str(run.path)
    trained = load(settings)
    settings.name_or_path = started_from
    base = load(settings)
    prompts = split.held_out if config.held_out else split.train
    comparison = compare(base, trained, prompts, trained_on.reward, trained_on.rollout, config.evaluation)
    if config.held_out and config.base is None:
        write_comparison(run.evaluation_file, comparison)
    show_comparison(comparison, Console(highlight=False, soft_wrap=True), config.evaluation.examples, held_out=config.held_out)
    return 0
