"""The loop: sample, score, learn, log; now and then look up and save."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean, pstdev

import torch

from llmrl.errors import RunError
from llmrl.models.policy import Policy
from llmrl.ppo.checkpoint import Progress, load_checkpoint, save_checkpoint
from llmrl.ppo.experience import Experience, make_experience
from llmrl.ppo.masked import masked_mean
from llmrl.ppo.update import make_optimizer, update
from llmrl.prompts import Prompt
from llmrl.rewards import Scores, score
from llmrl.rollout import Rollout, sample
from llmrl.tracking.console import ProgressDisplay
from llmrl.trainers.interrupt import StopSignal
from llmrl.trainers.protocol import Outcome, Workbench


class PPOTrainer:
    """Proximal policy optimisation of a language model against a reward; see `PPOConfig` for every setting."""

    def __init__(self, workbench: Workbench) -> None:
        if workbench.config.ppo is None:
            raise ValueError("PPOTrainer needs the section ppo of the config")
        self.bench = workbench
        self.config = workbench.config
        self.ppo = workbench.config.ppo
        workbench.language_model.model.requires_grad_(True)
        self.policy = Policy(workbench.language_model)
        self.optimizer = make_optimizer(self.policy, self.ppo)
        generators = {}
        for offset, name in enumerate(("sampling", "shuffling")):
            generators[name] = torch.Generator().manual_seed(2 * self.config.seed + offset)
        self.progress = Progress(step=0, episodes=0, generators=generators)
        if self.config.resume:
            self.progress = load_checkpoint(workbench.run.newest_checkpoint(), self.policy, self.optimizer, generators)
            workbench.run.cut_after(self.progress.step or -1)  # a run at its very beginning evaluates anew

    def train(self) -> Outcome:
        """Train to the last step, or to the step in which a stop was asked for. Raises RunError, the run's state saved."""
        trainer = self.config.trainer
        saved = self.progress.step if self.config.resume else -1
        with StopSignal() as stop, ProgressDisplay(trainer.steps, self.progress.step) as display:
            if self.progress.step == 0 and trainer.eval_every:
                self._evaluate(display)
            while self.progress.step < trainer.steps and not stop.requested:
                metrics = self._step(display)
                display.step(self.progress.step, metrics)
                step = self.progress.step
                if trainer.checkpoint_every and step % trainer.checkpoint_every == 0:
                    self._save()
                    saved = step
                if trainer.eval_every and (step % trainer.eval_every == 0 or step == trainer.steps):
                    self._evaluate(display)
        if saved != self.progress.step:
            self._save()
        status = "finished" if self.progress.step == trainer.steps else "interrupted"
        return Outcome(status=status, steps=self.progress.step, episodes=self.progress.episodes)

    def _step(self, display: ProgressDisplay) -> dict[str, float]:
        """One batch: sampled, scored, learned from and logged. Returns its metrics."""
        config, bench, generators = self.config, self.bench, self.progress.generators
        clock = [time.perf_counter()]
        with self._keeping_state():
            rollout = sample(bench.language_model, self._next_prompts(), config.rollout, generators["sampling"])
            clock.append(time.perf_counter())
            scores = score(bench.rewards, rollout.samples(config.rollout.max_new_tokens))
        if len(set(scores.total)) == 1:
            same = f"all {len(scores.total)} rewards of step {self.progress.step + 1} are {scores.total[0]:g}"
            display.warn("rewards are equal", f"{same}: there is nothing to learn from")
        clock.append(time.perf_counter())
        experience = make_experience(self.policy, bench.reference, rollout, scores, self.ppo, config.rollout.temperature)
        clock.append(time.perf_counter())
        lr = self._set_learning_rate()
        update_metrics = update(
            self.policy, self.optimizer, experience, self.ppo, config.rollout.temperature, generators["shuffling"]
        )
        clock.append(time.perf_counter())
        self.progress.step += 1
        self.progress.episodes += len(rollout.texts)
        seconds = dict(zip(("rollout", "reward", "experience", "update"), map(float.__sub__, clock[1:], clock), strict=True))
        metrics = {
            **objective_metrics(rollout, scores, experience),
            **update_metrics,
            "objective/kl_coef": self.ppo.kl_coef,
            "lr": lr,
            "episodes": float(self.progress.episodes),
            "tokens/s": float(rollout.response_mask.sum()) / sum(seconds.values()),
            "samples/s": len(rollout.texts) / sum(seconds.values()),
            **{f"time/{name}_s": value for name, value in seconds.items()},
        }
        self._log(metrics, rollout, scores, self.progress.step)
        return metrics

    def _log(self, metrics: dict[str, float], rollout: Rollout, scores: Scores, step: int) -> None:
        bench, every = self.bench, self.config.trainer.samples_every
        bench.run.log(metrics, step)
        bench.tracker.log(metrics, step)
        rows = [
            {
                "prompt_id": prompt.id, "prompt": prompt.text, "response": text, "reward": scores.total[i],
                "components": {name: values[i] for name, values in scores.components.items()},
            }
            for i, (prompt, text) in enumerate(zip(rollout.prompts, rollout.texts, strict=True))
        ]  # fmt: skip
        bench.run.log_samples(rows, step)
        if every and step % every == 0:
            bench.tracker.log_samples(rows[:8], step)

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
        """Linear to zero over the run, as in lm-human-preferences. Returns the policy's."""
        factor = 1 - self.progress.step / self.config.trainer.steps
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def _evaluate(self, display: ProgressDisplay) -> None:
        """Mean reward on held-out prompts, one response each, from a random stream of its own."""
        prompts = self.bench.prompts.held_out[: self.config.trainer.eval_prompts]
        generator = torch.Generator().manual_seed(self.config.evaluation.seed)
        with self._keeping_state():
            rollout = sample(self.bench.language_model, prompts, self.config.rollout, generator)
            scores = score(self.bench.rewards, rollout.samples(self.config.rollout.max_new_tokens))
        metrics = {"eval/reward": fmean(scores.total)}
        metrics |= {f"eval/{name}": fmean(values) for name, values in scores.components.items()}
        self.bench.run.log(metrics, self.progress.step)
        self.bench.tracker.log(metrics, self.progress.step)
        display.say(f"held-out reward after {self.progress.step} steps: {metrics['eval/reward']:.3f} ({len(prompts)} prompts)")

    def _save(self) -> None:
        save_checkpoint(
            self.bench.run.checkpoints, self.policy, self.optimizer, self.progress, self.config.trainer.keep_checkpoints
        )

    @contextmanager
    def _keeping_state(self) -> Iterator[None]:
        """If a reward breaks off, save the state from before its samples: resuming draws them again from the same numbers."""
        before = {name: generator.get_state() for name, generator in self.progress.generators.items()}
        try:
            yield
        except RunError:
            for name, state in before.items():
                self.progress.generators[name].set_state(state)
            self._save()
            raise


def objective_metrics(rollout: Rollout, scores: Scores, experience: Experience) -> dict[str, float]:
    """What was sampled and how it was judged: rewards, KL (nats per response), entropy, lengths."""
    mask = experience.response_mask
    metrics = {
        "objective/scores": fmean(scores.total),
        "objective/scores_std": pstdev(scores.total),
        "objective/kl": float(experience.kl.sum(-1).mean()),
        "objective/entropy": float((experience.entropies * mask).sum(-1).mean()),
        "policy/entropy": float(masked_mean(experience.entropies, mask)),
        "objective/rlhf_reward": float(experience.rewards.sum(-1).mean()),
        "response/length": float(mask.sum(-1).mean()),
        "response/finished": float(rollout.finished.float().mean()),
        "val/mean": float(masked_mean(experience.values, mask)),
        "returns/mean": float(masked_mean(experience.returns, mask)),
    }
    for name, values in scores.components.items():
        metrics[f"rewards/{name}/mean"] = fmean(values)
        metrics[f"rewards/{name}/std"] = pstdev(values)
    return metrics
