"""A training run from config to verdict: run folder, model, prompts, trainer, final model, held-out comparison."""

import dataclasses
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich.console import Console
from safetensors import SafetensorError

from llmrl.config import TrackerKind, TrainConfig, plain
from llmrl.errors import INTERRUPTED, RunError, UserError
from llmrl.evaluation.comparison import compare, write_comparison
from llmrl.evaluation.show import show_comparison
from llmrl.models.load import LanguageModel, fingerprint, load, save
from llmrl.models.resident import borrow
from llmrl.models.trainable import add_adapters, freeze_trunk, lightened, merged, train_all
from llmrl.ppo.streams import seed_shared_streams
from llmrl.prompts import PromptSplit, load_prompts
from llmrl.registry import TRAINERS
from llmrl.rollout import check_engine, encode_prompts
from llmrl.tracking import RunFolder, Tracker, check_tracker, make_tracker
from llmrl.trainers.protocol import Outcome, Workbench
from llmrl.trainers.resume import can_resume, find_place

THREADS = torch.get_num_threads()  # of a run that does not say: a job before it in this process may have said
PLAIN_WORDS = re.compile(r"[\w ,]+")  # what needs no care in a shell


def train(config: TrainConfig, report: Callable[[RunFolder], None] | None = None) -> int:
    """Train as `config` says. Returns the exit status: 0, or 130 if it was interrupted. Raises UserError.

    `report` writes a finished run's page, which Weights & Biases is given.
    """
    console = Console(highlight=False, soft_wrap=True)
    place = find_place(config)
    run, config = place.run, place.config
    if place.finished:
        console.print(f"{_relative(run.path)} is finished: nothing is left to do", markup=False)
        return 0
    torch.set_num_threads(config.trainer.threads or THREADS)
    seed_shared_streams(config.seed)
    check_tracker(config.tracker)
    check_engine(config.rollout)
    prompts = load_prompts(config.prompts)
    _refuse_too_few(prompts, config)
    language_model, weights_sha256 = _load(config)
    index: dict[str, Any] = {}
    if config.retriever.name != "none":
        from llmrl.rollout.contexts import with_context  # here, as few runs retrieve and it takes seconds to load

        grounding = with_context(prompts, config, language_model)
        prompts, index = grounding.split, {"index": grounding.index_sha256, "contexts": grounding.counts}
    encode_prompts(language_model, [*prompts.train, *prompts.held_out], config.rollout.max_new_tokens)  # refuse long ones now
    facts = {
        "source": language_model.source, "weights": weights_sha256, "device": str(language_model.device),
        "precision": "bf16" if language_model.bf16 else "fp32", "threads": torch.get_num_threads(), **index,
    }  # fmt: skip
    reference = _make_trainable(language_model, config)
    if place.resumes:
        _refuse_other_machine(run, facts, config)
        run.mark("running", resumed=run.record.get("resumed", 0) + 1, **facts)
    else:
        overrides = list(HydraConfig.get().overrides.task)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            facts["sweep"] = Path(HydraConfig.get().sweep.dir).name
        run.begin(config, seed=config.seed, model=config.model.name_or_path, overrides=overrides, **facts)
    _say_hello(run, config, console)
    tracker = _start_tracker(config, run)
    bench = Workbench(
        config, run, tracker, language_model, reference, config.reward, prompts, settings=plain(config), resumes=place.resumes
    )
    return _carried_through(bench, console, report if config.tracker.kind is TrackerKind.wandb else None)


def _load(config: TrainConfig) -> tuple[LanguageModel, str]:
    """(the model, SHA-256 of its weights); in a sweep a copy of one that stays in memory."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return borrow(config.model, config.ppo.frozen_layers if config.ppo else 0)
    language_model = load(config.model)
    return language_model, fingerprint(language_model.model)


def _make_trainable(language_model: LanguageModel, config: TrainConfig) -> LanguageModel:
    """Decide which weights are trained. Returns the frozen reference."""
    if config.ppo is None:
        return train_all(language_model)
    if config.ppo.lora_rank:
        return add_adapters(language_model, config.ppo.lora_rank, config.ppo.lora_alpha, config.ppo.lora_targets)
    frozen = config.ppo.frozen_layers
    return lightened(freeze_trunk(language_model, frozen) if frozen else train_all(language_model), language_model)


def _refuse_too_few(prompts: PromptSplit, config: TrainConfig) -> None:
    """Prompts that chose the model can't judge it, so there must be others."""
    trainer = config.trainer
    if trainer.selects and len(prompts.held_out) <= trainer.eval_prompts:
        raise UserError(
            f"trainer.patience and trainer.final=best choose by {trainer.eval_prompts} held-out prompts, and there are only "
            f"{len(prompts.held_out)}: none would be left for the final comparison; lower trainer.eval_prompts"
        )


def _refuse_other_machine(run: RunFolder, facts: dict[str, Any], config: TrainConfig) -> None:
    """Going on with other weights would be another run; with other threads or precision, it says so and goes on."""
    then = run.record.get("weights")
    if then is not None and then != facts["weights"]:
        raise UserError(
            f"model {config.model.name_or_path!r} is not what {run.path} began with: its weights have changed since"
        )
    if run.record.get("index") != facts.get("index"):
        raise UserError(f"index {config.retriever.index} is not what {run.path} began with: it was ingested into since")
    for name in ("device", "precision", "threads"):
        if run.record.get(name) != facts[name]:
            print(
                f"llmrl: {name} was {run.record.get(name)}, now it is {facts[name]}: the last digits will differ",
                file=sys.stderr,
            )


def _say_hello(run: RunFolder, config: TrainConfig, console: Console) -> None:
    console.print(
        f"llmrl: {config.model.name_or_path}, reward {' + '.join(config.reward)}, {config.trainer.steps} steps of "
        f"{config.trainer.name}, {run.record['precision']} on {run.record['device']}, in {_relative(run.path)}",
        markup=False,
    )
    if contexts := run.record.get("contexts"):
        kinds = ", ".join(f"{count} {kind}" for kind, count in contexts.items() if kind != "answered")
        console.print(f"contexts: {kinds}; {contexts['answered']} hold the answer", markup=False)
    if config.rollout.top_k or config.rollout.top_p < 1:
        console.print(
            "warning: sampling is cut by top-k or top-p, but log-probabilities are those of the full distribution: the KL can "
            "fall below zero and the ratio no longer measures what was sampled; rollout.top_k=0 rollout.top_p=1 avoid that",
            style="yellow",
        )


def _start_tracker(config: TrainConfig, run: RunFolder) -> Tracker:
    """The tracker, or a run that is marked failed."""
    try:
        return make_tracker(config.tracker, run, plain(config))
    except KeyboardInterrupt:
        run.mark("interrupted")
        raise
    except BaseException as error:
        _mark_failed(run, error)
        raise


def _carried_through(bench: Workbench, console: Console, report: Callable[[RunFolder], None] | None) -> int:
    """Train, save and compare; whatever happens, run.json says how it ended and the tracker is closed."""
    exit_code = 1
    try:
        outcome = TRAINERS.get(bench.config.trainer.name)(bench).train()
        _save_final(bench)
        if outcome.status == "finished" and bench.config.evaluation.enabled:
            _judge(bench, console)
        stopped = {"stopped": outcome.stopped} if outcome.stopped else {}
        bench.run.mark(outcome.status, steps=outcome.steps, episodes=outcome.episodes, **stopped)
        exit_code = 0 if outcome.status == "finished" else INTERRUPTED
        if report and bench.run.evaluation_file.is_file():
            _write(report, bench.run)
        _say_goodbye(bench, outcome, console)
        return exit_code
    except KeyboardInterrupt:
        exit_code = INTERRUPTED
        bench.run.mark("interrupted")
        raise
    except BaseException as error:
        bench.tracker.alert("the run failed", f"{type(error).__name__}: {error}")
        _mark_failed(bench.run, error)
        if isinstance(error, RunError) and list(bench.run.checkpoints.glob("step-*")):
            folder = _relative(bench.run.path)
            raise RunError(f"{error}; traceback in {folder}/error.txt; once mended: resume={folder}") from error
        raise
    finally:
        _close(bench.tracker, exit_code)
        bench.run.unlock()


def _write(report: Callable[[RunFolder], None], run: RunFolder) -> None:
    try:
        report(run)
    except (OSError, ValueError, UserError) as error:  # the run is done without a page
        print(f"llmrl: report.html could not be written: {error}", file=sys.stderr)


def _save_final(bench: Workbench) -> None:
    """final/, in one piece or not at all."""
    temporary = bench.run.path / ".final.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        save(merged(bench.language_model).model, bench.language_model.tokenizer, temporary)
        shutil.rmtree(bench.run.final, ignore_errors=True)
        temporary.rename(bench.run.final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"{bench.run.final} could not be written: {error}; free space, then resume={bench.run.path}") from error


def _judge(bench: Workbench, console: Console) -> None:
    """Base against trained on held-out prompts: evaluation.json, the summary, and words on the terminal."""
    start = time.perf_counter()
    trained = dataclasses.replace(merged(bench.language_model), name=_relative(bench.run.path))
    comparison = compare(
        bench.reference, trained, bench.judged_on, bench.rewards, bench.config.rollout, bench.config.evaluation
    )
    write_comparison(bench.run.evaluation_file, comparison)
    bench.run.mark("running", verdict=comparison.verdict, evaluation_seconds=round(time.perf_counter() - start, 1))
    bench.tracker.summarise(
        {"eval/final/" + name: value for name, value in comparison.headline().items()} | held_out_looks(bench.run)
    )
    show_comparison(comparison, console, bench.config.evaluation.examples)


def held_out_looks(run: RunFolder) -> dict[str, float]:
    """The best and the last held-out look while training, each with its interval."""
    looks = [row for row in run.rows(run.metrics_file, 2**62) if "eval/reward" in row]
    if not looks:
        return {}
    chosen = {"best": max(looks, key=lambda row: row["eval/reward"]), "last": looks[-1]}
    names = ("eval/reward", "eval/reward_low", "eval/reward_high", "step")
    return {
        f"eval/{which}/{name.rpartition('/')[2]}": row[name] for which, row in chosen.items() for name in names if name in row
    }


def _say_goodbye(bench: Workbench, outcome: Outcome, console: Console) -> None:
    folder = _relative(bench.run.path)
    if outcome.status == "interrupted" and not can_resume(bench.config):
        text = f"interrupted after {outcome.steps} steps; the model as it is then is in {folder}/final"
    elif outcome.status == "interrupted":
        text = f"interrupted after {outcome.steps} steps, state saved; to go on: python -m llmrl.train resume={folder}"
    else:
        prompt = min((one.text for one in bench.prompts.held_out if PLAIN_WORDS.fullmatch(one.text)), key=len, default="")
        text = (
            f"{outcome.episodes} samples in {bench.run.record['seconds']:.0f} s; the model is in {folder}/final\n"
            f"try it: python -m llmrl.generate run={folder} 'prompt=\"{prompt or 'One morning'}\"'"
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


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
