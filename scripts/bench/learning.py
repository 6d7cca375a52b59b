"""Does it learn? Runs the recipes whose figures the README quotes, over several seeds, and renders what came out.

    python scripts/bench/learning.py quickstart      # docs/results/quickstart.{json,md,png}
    python scripts/bench/learning.py smollm2         # docs/results/smollm2_end_of_sentence.{json,md,png}

Each seed is a run of its own, by the command a person would type; everything shown is read from its run folder.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from llmrl.tracking.run_folder import machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
RECIPES = {
    "quickstart": ("quickstart", "quickstart", "A tiny model learns not to repeat itself"),
    "smollm2": ("smollm2_end_of_sentence", "smollm2_end_of_sentence", "SmolLM2-135M learns to end its sentences"),
}


def run(experiment: str, seed: int, folder: Path, extra: list[str]) -> dict:
    """One run, from the command line, unless its folder is there already. Its figures."""
    words = [f"experiment={experiment}", f"seed={seed}", "tracker=none", f"hydra.run.dir={folder}", *extra]
    command = [sys.executable, "-m", "llmrl.train", *words]
    if not (folder / "evaluation.json").is_file():
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        (folder / "wall_seconds").write_text(f"{time.perf_counter() - start:.1f}", encoding="utf-8")
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "seed": seed,
        "command": " ".join(["python -m llmrl.train", *[word for word in words if not word.startswith("hydra.run.dir")]]),
        "wall_seconds": float((folder / "wall_seconds").read_text(encoding="utf-8")),
        "precision": record["precision"],
        "threads": record["threads"],
        "versions": record["versions"],
        "responses": record["episodes"],
        **{key: evaluation[key] for key in ("samples", "base_reward", "trained_reward", "difference", "verdict", "kl")},
        "base": evaluation["base"],
        "trained": evaluation["trained"],
        "examples": [evaluation["pairs"][i] for i in range(0, len(evaluation["pairs"]), len(evaluation["pairs"]) // 4)][:4],
        "held_out": [[row["step"], row["eval/reward"]] for row in metrics if "eval/reward" in row],
        "curve": [[row["episodes"], row["objective/scores"], row["objective/kl"]] for row in metrics if "episodes" in row],
    }


HEADER = """
| seed | responses | base | trained | difference | verdict | KL | repeating | words | perplexity | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def row(each: dict) -> str:
    """One run as a line of the table."""
    base, trained, gain = each["base"], each["trained"], each["difference"]
    cells = [
        each["seed"],
        each["responses"],
        f"{each['base_reward']:.3f}",
        f"{each['trained_reward']:.3f}",
        f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})",
        each["verdict"],
        f"{each['kl']:.2f}",
        f"{base['repeating']:.0%} / {trained['repeating']:.0%}",
        f"{base['words']:.1f} / {trained['words']:.1f}",
        f"{base['perplexity_under_base']:.1f} / {trained['perplexity_under_base']:.1f}",
        f"{each['wall_seconds']:.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def flat(text: str) -> str:
    return text.strip().replace("\n", " / ")


def render(title: str, runs: list[dict], name: str, recipe: str) -> str:
    first = runs[0]
    examples = "\n".join(
        f"- **{prompt}**\n  - base ({base['reward']:+.2f}): {flat(base['response'])}\n"
        f"  - trained ({trained['reward']:+.2f}): {flat(trained['response'])}"
        for prompt, base, trained in first["examples"]
    )
    evals = "\n".join(
        f"- seed {each['seed']}: " + ", ".join(f"step {step}: {value:.2f}" for step, value in each["held_out"])
        for each in runs
        if each["held_out"]
    )
    return (
        f"# {title}\n\nMade by `python scripts/bench/learning.py {recipe}`; each row is `{first['command']}` with its seed.\n"
        f"{machine()['processors']} processors, {first['threads']} threads, products in {first['precision']}, "
        f"torch {first['versions']['torch']}, transformers {first['versions']['transformers']}.\n\n"
        f"{first['samples']} responses of each model to held-out prompts, 95 % bootstrap interval over prompts; KL to the base "
        "in nats per response. Before / after: share of responses that say three words in a row again or stutter; words; "
        "median perplexity under the base. Seconds are the whole command's, whatever else the machine was doing.\n"
        f"{HEADER}{chr(10).join(map(row, runs))}\n\n"
        + (f"Held-out reward while training (32 prompts):\n\n{evals}\n\n" if evals else "")
        + f"![learning curve]({name}.png)\n\nFour pairs of seed {first['seed']}, evenly spaced, none picked:\n\n{examples}\n"
    )


def draw(title: str, runs: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for each in runs:
        episodes, reward, kl = zip(*each["curve"], strict=True)
        axes[0].plot(episodes, reward, label=f"seed {each['seed']}")
        axes[1].plot(episodes, kl, label=f"seed {each['seed']}")
    for axis, label in zip(axes, ("reward of the batch", "KL to the reference, nats per response"), strict=True):
        axis.set(xlabel="responses learned from", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "bench", help="where the run folders go")
    parser.add_argument("overrides", nargs="*", help="more words for llmrl.train")
    args = parser.parse_args()
    experiment, name, title = RECIPES[args.recipe]
    runs = [run(experiment, seed, (args.work / f"{name}_{seed}").resolve(), args.overrides) for seed in args.seeds]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(render(title, runs, name, args.recipe), encoding="utf-8")
    draw(title, runs, RESULTS / f"{name}.png")
    print(render(title, runs, name, args.recipe))


if __name__ == "__main__":
    main()
