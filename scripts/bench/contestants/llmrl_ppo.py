"""llmrl's PPO, a batch at each turn: what `llmrl.ppo.trainer` does in a step, with random rewards, on the seed work or another.

Usage: llmrl_ppo.py MODEL WORK [--precision auto] [--frozen-layers 0] [--batch N --minibatch N --new-tokens N]
"""

import argparse
import dataclasses
import itertools
import random
import time

import torch
from turns import take_turns
from works import WORKS, Work

from llmrl.config import ModelConfig, PPOConfig, Precision, RolloutConfig
from llmrl.models.load import load
from llmrl.models.policy import Policy
from llmrl.models.trainable import freeze_trunk, lightened, train_all
from llmrl.ppo.experience import make_experience
from llmrl.ppo.update import SkippedUpdates, make_optimizer, update
from llmrl.prompts import Prompt
from llmrl.rollout import Distribution, sample


class Contestant:
    def __init__(self, args: argparse.Namespace, work: Work) -> None:
        self.work = work
        self.language_model = load(ModelConfig(name_or_path=args.model, precision=Precision(args.precision)))
        self.language_model.stop_ids = ()  # exactly as many tokens as asked for
        policy = self.language_model
        self.reference = lightened(
            freeze_trunk(policy, args.frozen_layers) if args.frozen_layers else train_all(policy), policy
        )
        self.rollout = RolloutConfig(max_new_tokens=work.new_tokens, top_k=work.top_k, top_p=work.top_p)
        self.config = PPOConfig(
            batch_size=work.batch, minibatch_size=work.minibatch, epochs=work.epochs, lr=1.41e-5,
            frozen_layers=args.frozen_layers,
        )  # fmt: skip
        self.policy = Policy(policy)
        self.optimizer = make_optimizer(self.policy, self.config)
        self.distribution = Distribution.of(policy, self.rollout)
        self.sampling, self.shuffling = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
        self.prompts = [Prompt(text, id=str(number)) for number, text in enumerate(self._texts())]
        embeddings = {id(each.weight) for each in policy.model.modules() if isinstance(each, torch.nn.Embedding)}
        head = policy.model.get_output_embeddings().weight  # type: ignore[union-attr]
        self.head_parameters = head.numel()
        self.trunk_parameters = sum(
            each.numel() for each in policy.model.parameters() if each.dim() == 2 and id(each) not in embeddings | {id(head)}
        )

    def _texts(self) -> list[str]:
        """The prompts, or texts that are exactly so many tokens long."""
        length, tokenizer = self.work.prompt_tokens, self.language_model.tokenizer
        if length is None:
            return self.work.prompts()
        texts = [tokenizer.decode(tokenizer(24 * f"{text} ")["input_ids"][:length]) for text in self.work.prompts()]  # type: ignore[index]
        assert all(len(tokenizer(text)["input_ids"]) == length for text in texts)  # type: ignore[arg-type]
        return texts

    def step(self) -> dict[str, object]:
        clock = [time.perf_counter()]

        def lap() -> None:
            if self.language_model.device.type == "cuda":
                torch.cuda.synchronize()
            clock.append(time.perf_counter())

        rollout = sample(self.language_model, self.prompts, self.rollout, self.sampling)
        lap()
        scores = [random.random() for _ in self.prompts]
        experience = make_experience(
            self.policy, self.reference, rollout, scores, self.config, self.distribution, self.config.kl_coef
        )
        lap()
        update(
            self.policy, self.optimizer, experience, self.config, self.distribution, self.config.kl_coef, self.shuffling,
            SkippedUpdates(),
        )  # fmt: skip
        lap()
        read = int(rollout.attention_mask.sum()) - len(self.prompts)
        seconds = [after - before for before, after in itertools.pairwise(clock)]
        return {
            "rollout_s": seconds[0], "experience_s": seconds[1], "update_s": seconds[2], "samples": len(self.prompts),
            "tokens_read": read, "tokens_predicted": int(rollout.response_mask.sum()), "precision": self._precision,
            "head_parameters": self.head_parameters, "trunk_parameters": self.trunk_parameters,
            "threads": torch.get_num_threads(),
        }  # fmt: skip

    @property
    def _precision(self) -> str:
        return "bf16" if self.language_model.bf16 else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--frozen-layers", type=int, default=0)
    for name in ("batch", "minibatch", "new-tokens"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    changes = {name: getattr(args, name) for name in ("batch", "minibatch", "new_tokens") if getattr(args, name) is not None}
    random.seed(0)
    take_turns(Contestant(args, dataclasses.replace(WORKS[args.work], **changes)).step)


if __name__ == "__main__":
    main()
