"""Where the time of a round goes, by kind of operation: what is left between llmrl and the processor's peak.

    python scripts/bench/profile_stages.py        # docs/results/profile.{json,md}; two minutes

The work of `speed.py`, one round under torch's profiler after two without it. Seconds are each operation's own, summed by kind;
`between` is what the stage took beside them: Python, dispatch, waiting. The profiler itself adds to that.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent / "contestants"))
import llmrl_ppo
from llmrl_ppo import Contestant
from speed import DISTILGPT2, SMOLLM2
from works import WORKS

from llmrl.tracking.run_folder import machine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
KINDS = {
    "products": ("mm", "linear", "matmul", "mkldnn", "prepacked"),
    "attention": ("scaled_dot", "flash", "softmax"),
    "optimiser": ("adamw", "vector_norm"),
    "copies and indexing": (
        "copy", "cat", "index", "fill", "zero", "gather", "embedding", "sort", "topk", "cumsum", "empty", "clone",
    ),
}  # fmt: skip
WORKS_PROFILED = (("seed work", DISTILGPT2, "seed"), ("SmolLM2 work", SMOLLM2, "smollm2"))
STAGES = {"sample": "rollout", "make_experience": "experience", "update": "update"}


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)), "everything else")


def watched(work: Callable[..., Any], found: dict[str, Any], stage: str) -> Callable[..., Any]:
    """`work`, its operations told to `found`."""

    def done(*args: Any, **options: Any) -> Any:
        with profile(activities=[ProfilerActivity.CPU]) as told:
            begun = time.perf_counter()
            result = work(*args, **options)
            seconds = time.perf_counter() - begun
        kinds: Counter[str] = Counter()
        for each in told.key_averages():
            kinds[kind_of(each.key)] += each.self_cpu_time_total / 1e6
        found[stage] = {"seconds": seconds, "kinds": {**kinds, "between": max(seconds - sum(kinds.values()), 0.0)}}
        return result

    return done


def profiled(model: Path, work: str) -> dict[str, Any]:
    words = argparse.Namespace(model=str(model), precision="auto", frozen_layers=0)
    contestant, found = Contestant(words, WORKS[work]), {}
    for _ in range(2):
        plain = contestant.step()
    kept = {name: getattr(llmrl_ppo, name) for name in STAGES}
    for name, stage in STAGES.items():
        setattr(llmrl_ppo, name, watched(kept[name], found, stage))
    contestant.step()
    for name, each in kept.items():
        setattr(llmrl_ppo, name, each)
    return {stage: each | {"unwatched_seconds": plain[f"{stage}_s"]} for stage, each in found.items()}


def render(found: dict[str, Any]) -> str:
    columns = [*KINDS, "everything else", "between"]
    lines = [
        "# Where the time goes", "",
        f"Made by `python scripts/bench/profile_stages.py`, {found['date']}, {found['threads']} threads, torch "
        f"{torch.__version__}: one round under torch's profiler, shares of the stage's time by kind of operation. *Between* is "
        "Python, dispatch and waiting, which the profiler adds to: the last column is what the stage takes without it.", "",
        "| work, stage | " + " | ".join(columns) + " | watched s | unwatched s |",
        "| --- |" + " --- |" * (len(columns) + 2),
    ]  # fmt: skip
    for work, stages in found["works"].items():
        for stage, each in stages.items():
            total = max(each["seconds"], sum(each["kinds"].values()))
            shares = [f"{each['kinds'].get(column, 0) / total:.0%}" for column in columns]
            lines.append(
                f"| {work}, {stage} | " + " | ".join(shares) + f" | {each['seconds']:.2f} | {each['unwatched_seconds']:.2f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "profile.json")
    args = parser.parse_args()
    found = {
        "date": time.strftime("%Y-%m-%d"), "machine": machine(), "threads": torch.get_num_threads(),
        "works": {title: profiled(model, work) for title, model, work in WORKS_PROFILED},
    }  # fmt: skip
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(render(found), encoding="utf-8")
    print(render(found))


if __name__ == "__main__":
    main()
