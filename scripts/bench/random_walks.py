"""A task with a known optimum: does PPO find the shortest ways? Three seeds, measured on every start node.

python scripts/bench/random_walks.py      # docs/results/random_walks.{json,md,png}
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from llmrl.config import Device, ModelConfig, Precision, PromptsConfig, PromptSource, RolloutConfig
from llmrl.evaluation.bootstrap import paired_interval
from llmrl.models.load import load
from llmrl.prompts import load_prompts
from llmrl.rewards import Sample
from llmrl.rewards.random_walk import RandomWalk
from llmrl.rollout import sample
from llmrl.tracking.run_folder import machine, read_json_lines

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
EACH, WANTED = 64, 0.9


def measure(model: str, max_new_tokens: int) -> dict:
    """Rewards of 64 walks from each of the 20 starts, sampled as in training, and of the likeliest walk from each."""
    prompts = load_prompts(PromptsConfig(PromptSource.text, path="packaged:random_walks/starts.txt", held_out_share=0.09))
    everything = sorted([*prompts.train, *prompts.held_out], key=lambda prompt: prompt.text)
    language_model = load(ModelConfig(name_or_path=model, precision=Precision.fp32, device=Device.cpu))
    reward, rollout = RandomWalk(), RolloutConfig(max_new_tokens=max_new_tokens)
    generator = torch.Generator().manual_seed(1234)

    def scores(asked: list, greedy: bool) -> list[float]:
        made = sample(language_model, asked, rollout, generator, greedy=greedy)
        return reward([Sample(prompt=one.text, response=text) for one, text in zip(asked, made.texts, strict=True)])

    sampled = np.array(scores([one for one in everything for _ in range(EACH)], greedy=False)).reshape(len(everything), EACH)
    interval = paired_interval(sampled, seed=0)
    return {
        "mean": interval.mean, "low": interval.low, "high": interval.high, "shortest": float((sampled == 1).mean()),
        "greedy": fmean(scores(everything, greedy=True)),
        "by_start": {one.text: float(row.mean()) for one, row in zip(everything, sampled, strict=True)},
        "held_out": sorted(one.text for one in prompts.held_out),
    }  # fmt: skip


def run(seed: int, folder: Path) -> dict:
    """One run by the command a person would type, unless its folder is there already; and what it learned."""
    words = ["experiment=random_walks", f"seed={seed}", "tracker=none"]
    if not (folder / "evaluation.json").is_file():
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "llmrl.train", *words, f"hydra.run.dir={folder}"], cwd=ROOT, check=True)
        (folder / "wall_seconds").write_text(f"{time.perf_counter() - began:.1f}", encoding="utf-8")
    rows = [row for row in read_json_lines(folder / "metrics.jsonl") if "episodes" in row]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "seed": seed, "command": " ".join(["python -m llmrl.train", *words]), "threads": record["threads"],
        "wall_seconds": float((folder / "wall_seconds").read_text(encoding="utf-8")), "responses": record["episodes"],
        "curve": [[row["episodes"], row["objective/scores"], row["objective/kl"]] for row in rows],
        "trained": measure(str(folder), 11),
    }  # fmt: skip


def line(name: str, found: dict, seconds: str) -> str:
    held_out = fmean(found["by_start"][start] for start in found["held_out"])
    worst = min(found["by_start"], key=lambda start: found["by_start"][start])
    return (
        f"| {name} | {found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f}) | {found['shortest']:.0%} | "
        f"{found['greedy']:.3f} | {held_out:.3f} | {worst}: {found['by_start'][worst]:.2f} | {seconds} |"
    )


def render(base: dict, runs: list[dict]) -> str:
    rows = [line("base", base, "")] + [
        line(f"seed {each['seed']}", each["trained"], f"{each['wall_seconds']:.0f}") for each in runs
    ]
    return (
        "# Random walks: a task with a known optimum\n\nMade by `python scripts/bench/random_walks.py`; the first run is "
        f"`{runs[0]['command']}`, {runs[0]['responses']} walks. {machine()['processors']} processors, {runs[0]['threads']} "
        "threads, fp32.\n\nA random directed graph of 21 nodes; a GPT-2 of 0.34 M parameters that has seen random walks "
        "through it ([card](../../llmrl/assets/random_walks/README.md)); the reward is 1 for a shortest walk to the goal, less "
        "for a longer one, 0 for one that breaks off or makes a move the graph does not have. Measured on all 20 start nodes, "
        f"{EACH} walks each, 95 % bootstrap interval over start nodes; greedy is the likeliest walk from each. Starts "
        f"{', '.join(base['held_out'])} were never a start in training.\n\n"
        "| model | mean reward | shortest walks | greedy | held-out starts | worst start | seconds, whole command |\n"
        f"| --- | --- | --- | --- | --- | --- | --- |\n{chr(10).join(rows)}\n\n![reward and KL by walks](random_walks.png)\n"
    )


def draw(base: dict, runs: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
    for each in runs:
        episodes, reward, kl = zip(*each["curve"], strict=True)
        axes[0].plot(episodes, reward, label=f"seed {each['seed']}: {each['trained']['mean']:.3f} at the end, all starts")
        axes[1].plot(episodes, kl)
    axes[0].axhline(base["mean"], color="grey", ls=":", label=f"base: {base['mean']:.3f}")
    axes[0].axhline(WANTED, color="black", ls="--", lw=0.8, label=f"wanted: {WANTED}")
    axes[0].axhline(1, color="black", lw=0.8, label="optimum: 1")
    axes[0].legend(loc="lower right")
    for axis, label in zip(axes, ("reward of the batch", "KL to the base, nats per walk"), strict=True):
        axis.set(xlabel="walks learned from", ylabel=label)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "bench", help="where the run folders go")
    args = parser.parse_args()
    base = measure("packaged:random_walks", 11)
    runs = [run(seed, (args.work / f"random_walks_{seed}").resolve()) for seed in args.seeds]
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "base": base, "runs": runs}
    (RESULTS / "random_walks.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "random_walks.md").write_text(render(base, runs), encoding="utf-8")
    draw(base, runs, RESULTS / "random_walks.png")
    print(render(base, runs))
    if any(each["trained"]["mean"] < WANTED for each in runs):
        raise SystemExit(f"a seed stayed below {WANTED}")


if __name__ == "__main__":
    main()
