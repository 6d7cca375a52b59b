"""vLLM's CPU build sampling, compiled, in an environment of its own. Usage: vllm_sampling.py MODEL BATCH NEW_TOKENS [--eager]

Its weights are loaded once: those of a policy in training would have to be brought over at every step.
"""

import argparse
import os
import time
from typing import Any

from turns import take_turns
from works import PROMPTS

os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="2", VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_LOGGING_LEVEL="ERROR",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("batch", type=int)
    parser.add_argument("new_tokens", type=int)
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=args.model, dtype="bfloat16", max_model_len=256, max_num_seqs=args.batch, enforce_eager=args.eager,
        gpu_memory_utilization=0.2,
    )  # fmt: skip
    wanted = SamplingParams(
        temperature=1.0, max_tokens=args.new_tokens, min_tokens=args.new_tokens, ignore_eos=True, logprobs=0
    )

    def one_round() -> dict[str, Any]:
        start = time.perf_counter()
        made = llm.generate([PROMPTS[6]] * args.batch, wanted, use_tqdm=False)
        seconds = time.perf_counter() - start
        return {"tokens": sum(len(one.outputs[0].token_ids) for one in made), "rollout_s": seconds}

    take_turns(one_round)


if __name__ == "__main__":
    main()
