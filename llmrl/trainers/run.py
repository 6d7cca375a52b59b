"""A training run from config to verdict: run folder, model, prompts, trainer, final model, held-out comparison."""

import dataclasses
import shutil
import sys
import time
import traceback
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from safetensors import SafetensorError

from llmrl.config import TrainConfig, read_train_config
from llmrl.errors import INTERRUPTED, RunError, UserError
from llmrl.evaluation.comparison import compare, write_comparison
from llmrl.evaluation.show import show_comparison
from llmrl.models.load import load, save
from llmrl.prompts import load_prompts
from llmrl.registry import TRAINERS
from llmrl.rollout import encode_prompts
from llmrl.tracking import RunFolder, Tracker, check_tracker, find_run, make_tracker
from llmrl.trainers.protocol import Outcome, Workbench


def train(config: TrainConfig) -> int:
    """Train as `config` says. Returns the exit status: 0, or 130 if it was interrupted. Raises UserError."""
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    if config.resume:
        run, config = _resumed(config.resume)
    else:
        run.refuse_if_taken()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.seed)
    check_tracker(config.tracker)
    prompts = load_prompts(config.prompts)
    language_model = load(config.model)
    encode_prompts(language_model, [*prompts.train, *prompts.held_out], config.rollout.max_new_tokens)  # refuse long ones now
    machine = {
        "source": language_model.source, "device": str(language_model.device),
        "precision": "bf16" if language_model.bf16 else "fp32", "threads": torch.get_num_threads(),
    }  # fmt: skip
    if config.resume:
        run.mark("running", resumed=run.record.get("resumed", 0) + 1, **machine)
    else:
        overrides = list(HydraConfig.get().overrides.task)
        run.begin(config, seed=config.seed, model=config.model.name_or_path, overrides=overrides, **machine)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"llmrl: {config.model.name_or_path}, reward {' + '.join(config.reward)}, {config.trainer.steps} steps of "
        f"{config.trainer.name}, {run.record['precision']} on {run.record['device']}, in {_relative(run.path)}",
        markup=False,
    )
    if config.rollout.top_k or config.rollout.top_p < 1:
        console.print(
            "warning: sampling is cut by top-k or top-p, but log-probabilities are those of the full distribution: the KL can "
            "fall below zero and the ratio no longer measures what was sampled; rollout.top_k=0 rollout.top_p=1 avoid that",
            style="yellow",
        )
    tracker = _start_tracker(config, run)
    bench = Workbench(config, run, tracker, language_model, language_model.frozen_copy(), config.reward, prompts)
    return _carried_through(bench, console)


def _start_tracker(config: TrainConfig, run: RunFolder) -> Tracker:
    """The tracker, or a run that is marked failed."""
    settings = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    try:
        return make_tracker(config.tracker, run, settings)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        run.mark("interrupted")
        raise
    except BaseException as error:
        _mark_failed(run, error)
        raise


def _carried_through(bench: Workbench, console: Console) -> int:
    """Train, save and compare; whatever happens, run.json says how it ended and the tracker is closed."""
    exit_code = 1
    try:
        outcome = TRAINERS.get(bench.config.trainer.name)(bench).train()
        _save_final(bench)
        if outcome.status == "finished" and bench.config.evaluation.enabled:
            _judge(bench, console)
        bench.run.mark(outcome.status, steps=outcome.steps, episodes=outcome.episodes)
        exit_code = 0 if outcome.status == "finished" else INTERRUPTED
        _say_goodbye(bench, outcome, console)
        return exit_code
    except KeyboardInterrupt:
        exit_code = INTERRUPTED
        bench.run.mark("interrupted")
        raise
    except BaseException as error:
        _mark_failed(bench.run, error)
        if isinstance(error, RunError) and list(bench.run.checkpoints.glob("step-*")):
            folder = _relative(bench.run.path)
            raise RunError(f"{error}; traceback in {folder}/error.txt; once mended: resume={folder}") from error
        raise
    finally:
        _close(bench.tracker, exit_code)


def _save_final(bench: Workbench) -> None:
    """final/, in one piece or not at all."""
    temporary = bench.run.path / ".final.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        save(bench.language_model.model, bench.language_model.tokenizer, temporary)
        shutil.rmtree(bench.run.final, ignore_errors=True)
        temporary.rename(bench.run.final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"{bench.run.final} could not be written: {error}; free space, then resume={bench.run.path}") from error


def _judge(bench: Workbench, console: Console) -> None:
    """Base against trained on held-out prompts: evaluation.json, the summary, and words on the terminal."""
    start = time.perf_counter()
    trained = dataclasses.replace(bench.language_model, name=_relative(bench.run.path))
    comparison = compare(
        bench.reference, trained, bench.prompts.held_out, bench.rewards, bench.config.rollout, bench.config.evaluation
    )
    write_comparison(bench.run.evaluation_file, comparison)
    bench.run.mark("running", verdict=comparison.verdict, evaluation_seconds=round(time.perf_counter() - start, 1))
    bench.tracker.summarise({"eval/final/" + name: value for name, value in comparison.headline().items()})
    show_comparison(comparison, console, bench.config.evaluation.examples)


def _say_goodbye(bench: Workbench, outcome: Outcome, console: Console) -> None:
    folder = _relative(bench.run.path)
    if outcome.status == "interrupted":
        text = f"interrupted after {outcome.steps} steps, state saved; to go on: python -m llmrl.train resume={folder}"
    else:
        text = (
            f"{outcome.episodes} responses in {bench.run.record['seconds']:.0f} s; the model is in {folder}/final\n"
            f"try it: python -m llmrl.generate run={folder} 'prompt=\"One morning\"'"
        )
    console.print(text, markup=False)


def _mark_failed(run: RunFolder, error: BaseException) -> None:
    """run.json says why; the traceback is kept in error.txt. On a full disk neither may fit; the error itself matters more."""
    try:
        run.mark("failed", error=f"{type(error).__name__}: {error}")
        (run.path / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except (OSError, RunError) as second:
        print(f"llmrl: run.json could not be updated either: {second}", file=sys.stderr)


def _close(tracker: Tracker, exit_code: int) -> None:
    try:
        tracker.finish(exit_code)
    except Exception as error:  # the run is done; its numbers are in metrics.jsonl
        print(f"llmrl: the tracker could not be closed: {error}", file=sys.stderr)


def _resumed(folder: str) -> tuple[RunFolder, TrainConfig]:
    """The run to go on with, and its own config. Raises UserError if it is finished, or if other options were given, too."""
    others = [word for word in HydraConfig.get().overrides.task if not word.startswith("resume=")]
    if others:
        raise UserError(f"resume= goes on with the config of the run; {others[0]} can't be changed")
    run = find_run(folder)
    run.newest_checkpoint()  # refused before a model loads if there is none
    if run.record.get("status") == "finished":
        raise UserError(f"{folder} is finished; start a new run from its model with model.name_or_path={folder}")
    config = read_train_config(run.path / "config.yaml")
    config.resume = folder
    return run, config


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
