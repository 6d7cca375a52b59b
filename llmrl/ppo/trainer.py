"""The loop: sample, score, learn, look at held-out prompts, log, save."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, pstdev
from types import MappingProxyType
from typing import Any

import torch

from llmrl.config import FinalModel, PPOConfig
from llmrl.errors import RunError, UserError
from llmrl.models.policy import Policy
from llmrl.ppo.checkpoint import Best, DamagedError, Progress, checkpoints, load_checkpoint, load_policy, save_checkpoint
from llmrl.ppo.experience import Experience, make_experience
from llmrl.ppo.health import Health
from llmrl.ppo.kl_control import KLController
from llmrl.ppo.masked import masked_mean
from llmrl.ppo.streams import restore_shared_streams, shared_streams
from llmrl.ppo.update import SkippedUpdates, learning_rate_factor, make_optimizer, update
from llmrl.prompts import Prompt
from llmrl.rewards import Scores, score
from llmrl.rollout import Distribution, Rollout, sampler_of
from llmrl.tracking import histogram
from llmrl.tracking.console import ProgressDisplay
from llmrl.tracking.siblings import behind
from llmrl.trainers.held_out import held_out_reward
from llmrl.trainers.interrupt import StopSignal
from llmrl.trainers.protocol import Outcome, Workbench, sample_rows

DIVERGING = {"negative KL", "reward hacking", "value head"}
"""Warnings that a person who is elsewhere wants to hear of."""


class PPOTrainer:
    """Proximal policy optimisation of a language model against a reward; see `PPOConfig` for every setting."""

    can_resume = True

    def __init__(self, workbench: Workbench) -> None:
        if workbench.config.ppo is None:
            raise ValueError("PPOTrainer needs the section ppo of the config")
        self.bench = workbench
        self.config = workbench.config
        self.ppo: PPOConfig = workbench.config.ppo
        self.policy = Policy(workbench.language_model, self.ppo.value_head)
        if self.ppo.gradient_checkpointing:
            self.policy.refuse_if_layers_are_hidden()
        self.optimizer = make_optimizer(self.policy, self.ppo)
        self.distribution = Distribution.of(workbench.language_model, self.config.rollout)
        self.progress = Progress(
            generators={
                name: torch.Generator().manual_seed(2 * self.config.seed + offset)
                for offset, name in enumerate(("sampling", "shuffling"))
            },
            kl_control=KLController(self.ppo.kl_coef, self.ppo.kl_target, self.ppo.kl_horizon),
            skipped=SkippedUpdates(limit=self.ppo.max_skipped_updates),
        )
        rollout = self.config.rollout
        self.health = Health(self.ppo.batch_size, rollout.max_new_tokens, rollout.top_k == 0 and rollout.top_p == 1)
        self.display = ProgressDisplay(self.config.trainer.steps)
        self._sampler = sampler_of(workbench.language_model, rollout, self.config.seed)
        self._saved = -1  # the step of the newest checkpoint

    def train(self) -> Outcome:
        """Train to the last step, or until a stop is asked for or due. Raises RunError, the run's state saved."""
        if self.bench.resumes:
            self._go_on()
        progress, steps = self.progress, self.config.trainer.steps
        self.display.begin_at(progress.step)
        with StopSignal() as stop, self.display:
            self._catch_up()
            while progress.step < steps and not progress.stopped and not stop.requested:
                metrics, samples, histograms = self._learn()
                self._finish_step(metrics, samples, histograms)
            if progress.stopped:
                self.display.say(f"stopped after step {progress.step}: {progress.stopped}")
        if self._saved != progress.step:
            self._save()
        if not progress.stopped and progress.step < steps:
            return Outcome("interrupted", progress.step, progress.episodes)
        if self.config.trainer.final is FinalModel.best and progress.best and progress.best.step != progress.step:
            load_policy(self.bench.run.checkpoints / f"step-{progress.best.step:06d}", self.policy)
        return Outcome("finished", progress.step, progress.episodes, progress.stopped)

    def _go_on(self) -> None:
        """Restore the newest checkpoint that is whole; a run that has none begins again. Raises UserError if all are bad."""
        found = checkpoints(self.bench.run.checkpoints)
        for number, path in enumerate(found):
            try:
                load_checkpoint(path, self.policy, self.optimizer, self.progress, self.bench.settings)
                self._saved = self.progress.step
                for damaged in found[:number]:  # they would count as the newest ones that are kept
                    damaged.rename(damaged.with_name(f"damaged-{damaged.name}"))
                break
            except DamagedError as error:
                if number + 1 == len(found):
                    raise UserError(f"{error}; there is none before it: start the run again") from error
                self.display.warn(path.name, f"{error}; going on from the one before, {found[number + 1].name}")
        step = self.progress.step if self._saved > 0 else -1  # at its very beginning a run looks anew
        self.bench.run.cut_after(step)
        self.bench.tracker.go_on_after(step)
        for row in self.bench.run.rows(self.bench.run.metrics_file, step):
            if "objective/scores" in row:  # step 0 has a held-out look alone
                for kind, _ in self.health.observe(row["step"], row):
                    self.display.has_warned(kind)

    def _catch_up(self) -> None:
        """The held-out evaluation before the first step, or the one that a run broke off in."""
        progress = self.progress
        if progress.step == 0 and self.config.trainer.eval_every and not progress.stopped:
            progress.best = None
            self._finish_step({})
        elif progress.unlogged is not None:
            metrics, progress.unlogged = progress.unlogged, None
            self._finish_step(metrics)

    def _learn(self) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, Any]]:
        """One batch: sampled, scored and learned from. Returns its metrics, samples and, where they are due, histograms."""
        config, bench, progress = self.config, self.bench, self.progress
        clock = [time.perf_counter()]
        with self._keeping_state():
            rollout = self._sampler(self._next_prompts(), progress.generators["sampling"])
            clock.append(time.perf_counter())
            scores = score(bench.rewards, rollout.samples(config.rollout.max_new_tokens))
        clock.append(time.perf_counter())
        progress.score_statistics.update(scores.total)
        normalized = progress.score_statistics.normalize(scores.total, self.ppo.score_normalization)
        coef = progress.kl_control.coef
        experience = make_experience(self.policy, bench.reference, rollout, normalized, self.ppo, self.distribution, coef)
        clock.append(time.perf_counter())
        lr = self._set_learning_rate()
        every = config.trainer.samples_every
        ratios: list[torch.Tensor] | None = [] if every and (progress.step + 1) % every == 0 else None
        with self._saving_if_it_fails():
            update_metrics = update(
                self.policy, self.optimizer, experience, self.ppo, self.distribution, coef, progress.generators["shuffling"],
                progress.skipped, ratios,
            )  # fmt: skip
        clock.append(time.perf_counter())
        progress.step += 1
        progress.episodes += len(rollout.texts)
        seconds = dict(zip(("rollout", "reward", "experience", "update"), map(float.__sub__, clock[1:], clock), strict=True))
        metrics = {
            **objective_metrics(rollout, scores, experience),
            **update_metrics,
            **self._sampler.figures(),
            "objective/kl_coef": coef,
            "lr": lr,
            "episodes": float(progress.episodes),
            "tokens/s": float(rollout.response_mask.sum()) / sum(seconds.values()),
            "samples/s": len(rollout.texts) / sum(seconds.values()),
            **{f"time/{name}_s": value for name, value in seconds.items()},
        }
        progress.kl_control.update(metrics["objective/kl"], len(rollout.texts))
        histograms = {} if ratios is None else histograms_of(scores, rollout, ratios)
        return metrics, sample_rows(rollout.prompts, rollout.texts, scores), histograms

    def _finish_step(
        self,
        metrics: dict[str, float],
        samples: Sequence[dict[str, Any]] = (),
        histograms: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Look at held-out prompts if it is time, write the step's one line, heed it, and save if it is time."""
        trainer, progress, step = self.config.trainer, self.progress, self.progress.step
        self.bench.run.log_samples(samples, step)
        if histograms:
            self.bench.run.log_histograms(histograms, step)
            self.bench.tracker.log_histograms(histograms, step)
        looked = bool(trainer.eval_every) and (step % trainer.eval_every == 0 or step == trainer.steps)
        if looked:
            metrics = metrics | self._evaluate(metrics)
        self.bench.run.log(metrics, step)
        self.bench.tracker.log(metrics, step)
        if samples and trainer.samples_every and step % trainer.samples_every == 0:
            self.bench.tracker.log_samples(samples, step)
        if "objective/scores" in metrics:
            self.display.step(step, metrics)
            self._heed(metrics, looked)
        is_best = looked and progress.best is not None and progress.best.step == step
        if is_best or (step and trainer.checkpoint_every and step % trainer.checkpoint_every == 0):
            self._save()

    def _heed(self, metrics: dict[str, float], looked: bool) -> None:
        """Warn, and decide whether the run should end."""
        progress, limit, patience = self.progress, self.ppo.stop_run_kl, self.config.trainer.patience
        for kind, text in self.health.observe(progress.step, metrics):
            if self.display.warn(kind, text) and kind in DIVERGING:
                self.bench.tracker.alert(kind, text)
        if limit is not None and metrics["objective/kl"] > limit:
            progress.stopped = f"the KL of {metrics['objective/kl']:.2f} nats per response is above ppo.stop_run_kl={limit}"
            self.bench.tracker.alert("divergence", progress.stopped)
        best = progress.best
        if patience is not None and best is not None and best.looks_since >= patience:
            progress.stopped = (
                f"no better held-out reward than {best.reward:.3f} of step {best.step} in {best.looks_since} looks"
            )
        sweep = self.config.sweep if "sweep" in self.bench.run.record else None  # alone, nothing beside it is comparable
        if sweep and sweep.prune and looked and progress.step // self.config.trainer.eval_every > sweep.prune_after:
            progress.stopped = progress.stopped or behind(
                self.bench.run.path, progress.step, metrics["eval/reward"], sweep.prune_least
            )

    def _evaluate(self, step_metrics: dict[str, float]) -> dict[str, float]:
        """Mean reward on held-out prompts, one response each, from a random stream of its own."""
        progress = self.progress
        try:
            metrics = held_out_reward(self.bench)
        except RunError:
            progress.unlogged = step_metrics if progress.step else None
            self._save()
            raise
        reward = metrics["eval/reward"]
        if progress.best is None or reward > progress.best.reward:
            progress.best = Best(progress.step, reward)
        else:
            progress.best.looks_since += 1
        self.display.say(f"held-out reward after {progress.step} steps: {reward:.3f} ({len(self.bench.looked_at)} prompts)")
        return metrics

    def _next_prompts(self) -> list[Prompt]:
        """The next batch of an endless sequence of shuffled passes; it follows from seed and episodes alone."""
        prompts, size = self.bench.prompts.train, self.ppo.batch_size
        chosen = []
        for position in range(self.progress.episodes, self.progress.episodes + size):
            lap, place = divmod(position, len(prompts))
            order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(1000 * self.config.seed + lap))
            chosen.append(prompts[int(order[place])])
        return chosen

    def _set_learning_rate(self) -> float:
        """By schedule; it follows from the step alone. Returns the policy's."""
        factor = learning_rate_factor(self.progress.step, self.config.trainer.steps, self.ppo)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def _save(self) -> None:
        run, keep = self.bench.run, self.config.trainer.keep_checkpoints
        run.flush()  # the lines up to this step, before a checkpoint that counts on them
        save_checkpoint(run.checkpoints, self.policy, self.optimizer, self.progress, self.bench.settings, keep)
        self._saved = self.progress.step

    @contextmanager
    def _keeping_state(self) -> Iterator[None]:
        """If a reward breaks off, save the state from before its samples: resuming draws them again from the same numbers."""
        before = {name: generator.get_state() for name, generator in self.progress.generators.items()}
        shared = shared_streams()
        try:
            yield
        except RunError:
            restore_shared_streams(shared)
            for name, state in before.items():
                self.progress.generators[name].set_state(state)
            self._save()
            raise

    @contextmanager
    def _saving_if_it_fails(self) -> Iterator[None]:
        """An update that gives up leaves the weights of its last good step: keep them, and let the next try count anew."""
        try:
            yield
        except RunError:
            self.progress.skipped.row = 0
            if self._saved != self.progress.step:
                self._save()
            raise


def histograms_of(scores: Scores, rollout: Rollout, ratios: Sequence[torch.Tensor]) -> dict[str, Any]:
    """How the step's rewards, response lengths in tokens, and probability ratios in its last epoch lie."""
    finite = torch.cat(list(ratios)).float().cpu() if ratios else torch.ones(1)
    return {
        "reward": histogram(scores.total),
        "response/length": histogram(rollout.response_mask.sum(-1).tolist()),
        "policy/ratio": histogram(finite[finite.isfinite()].numpy()),
    }


def objective_metrics(rollout: Rollout, scores: Scores, experience: Experience) -> dict[str, float]:
    """What was sampled and how it was judged: rewards, KL (nats per response), entropy, lengths."""
    mask = experience.response_mask
    kl = experience.kl.sum(-1)
    metrics = {
        "objective/scores": fmean(scores.total),
        "objective/scores_std": pstdev(scores.total),
        "objective/kl": float(kl.mean()),
        "objective/kl_std": float(kl.std(correction=0)),
        "objective/entropy": float((experience.entropies * mask).sum(-1).mean()),
        "objective/rlhf_reward": float(experience.rewards.sum(-1).mean()),
        "objective/ref_perplexity": float((-masked_mean(experience.reference_logprobs, mask)).exp()),
        "policy/entropy": float(masked_mean(experience.entropies, mask)),
        "response/length": float(mask.sum(-1).mean()),
        "response/finished": float(rollout.finished.float().mean()),
        "val/mean": float(masked_mean(experience.values, mask)),
        "returns/mean": float(masked_mean(experience.returns, mask)),
    }
    for name, values in scores.components.items():
        metrics[f"rewards/{name}/mean"] = fmean(values)
        metrics[f"rewards/{name}/std"] = pstdev(values)
    return metrics
