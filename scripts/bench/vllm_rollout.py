"""`rollout=vllm` for real: the same short run with llmrl's sampling and with vLLM's CPU build, side by side.

    python scripts/bench/vllm_rollout.py       # docs/results/vllm_rollout.{json,md}

vLLM can't share llmrl's environment; both runs use one of vLLM's own, made once, with llmrl's dependencies installed too.
What counts: that vLLM's log-probabilities stay those of the policy while it is trained, so that the weights really came over,
and what a step costs.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from speed import ROOT, vllm_python

from llmrl.tracking.run_folder import machine, read_json_lines

RESULTS = ROOT / "docs" / "results"
NEEDED = (
    "hydra-core==1.3.8",
    "omegaconf==2.3.1",
    "rich",
    "filelock",
    "gguf",
    "peft",
    "accelerate",
    "datasets",
    "trl==1.16.0",
    "wandb",
)
WORDS = [
    "model=smollm2_135m", "reward=end_of_sentence", "rollout.max_new_tokens=35", "trainer.steps=4",
    "trainer.checkpoint_every=0",
    "ppo.lr=1e-4", "ppo.epochs=1", "ppo.score_scale=5", "tracker=none", "evaluation.enabled=false",
]  # fmt: skip


def run(rollout: str, python: Path) -> dict[str, Any]:
    folder = ROOT / "outputs" / "bench" / f"vllm_rollout_{rollout}_{os.getpid()}"
    words = ["-m", "llmrl.train", *WORDS, f"rollout={rollout}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    begun = time.perf_counter()
    subprocess.run(
        [str(python), *words, f"hydra.run.dir={folder}"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    rows = read_json_lines(folder / "metrics.jsonl")
    return {
        "rollout": rollout, "command": "python " + " ".join(words), "seconds": time.perf_counter() - begun,
        "steps": [
            {name: row.get(name) for name in ("step", "rollout/logprob_gap", "objective/kl", "time/rollout_s", "time/update_s")}
            for row in rows
        ],
    }  # fmt: skip


def render(found: list[dict[str, Any]]) -> str:
    rows = []
    for each in found:
        for step in each["steps"]:
            gap = step["rollout/logprob_gap"]
            shown = "" if gap is None else f"{gap:.3f}"
            rows.append(
                f"| {each['rollout']} | {step['step']} | {step['objective/kl']:.2f} | {shown} | {step['time/rollout_s']:.2f} |"
            )
    own, theirs = (median(step["time/rollout_s"] for step in each["steps"][1:]) for each in found)
    lines = [
        "# vLLM in the loop",
        "",
        "Made by `python scripts/bench/vllm_rollout.py`: SmolLM2-135M, 32 responses of at most 35 tokens a step, bf16, "
        f"{machine()['processors']} processors, vLLM's CPU build 0.32 without compiling; `{found[0]['command']}` and the same "
        "with `rollout=vllm`.",
        "",
        "| rollout | step | KL, nats per response | log-probabilities differ from llmrl's, nats per token | rollout s |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        "The weights change at every step (the KL says so) and the difference stays that of two roundings to bf16: it samples "
        f"from the policy being trained. After the first step a rollout takes {theirs / own:.1f} times as long as llmrl's own, "
        "the weights' way over and llmrl's own log-probabilities included.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    python = vllm_python()
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *NEEDED], check=True)
    found = [run(rollout, python) for rollout in ("sample", "vllm")]
    (RESULTS / "vllm_rollout.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "vllm_rollout.md").write_text(render(found), encoding="utf-8")
    print(render(found))


if __name__ == "__main__":
    main()
