"""PPO, GRPO and RLOO on SmolLM2-135M: the same reward, samples and seeds; held-out reward against samples, seconds and KL.

    python scripts/bench/trainers.py       # docs/results/trainers.{json,md,png}; under an hour on two cores
    python scripts/bench/trainers.py --model tiny --steps 2 --seeds 0     # does it work? the figures go to --work

Every trainer runs with the defaults of its own section, which share the batch, minibatch, epochs, learning rate and clip range.
The one exception is `ppo.score_scale=5`: the reward goes from -20 to 20, and PPO's value head wants it about 1, where the
others divide by a deviation. Runs alternate between the trainers; one whose folder is complete is not made again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from llmrl.tracking.run_folder import machine, read_json_lines

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
TRAINERS = {"ppo": ["ppo.score_scale=5"], "grpo": [], "rloo": []}
WORDS = [
    "reward=end_of_sentence", "rollout.max_new_tokens=35", "trainer.eval_every=2", "trainer.checkpoint_every=0",
    "evaluation.samples=128", "tracker=none",
]  # fmt: skip
PANELS = (
    ("samples", "responses learned from"),
    ("seconds", "seconds of training"),
    ("kl", "KL to the base, nats per response"),
)


def run(trainer: str, seed: int, model: str, steps: int, folder: Path) -> dict:
    """One run, unless its folder is complete; its looks at held-out prompts and its final comparison."""
    words = [f"trainer={trainer}", f"model={model}", *WORDS, f"trainer.steps={steps}", f"seed={seed}", *TRAINERS[trainer]]
    if not (folder / "evaluation.json").is_file():
        command = [sys.executable, "-m", "llmrl.train", *words, f"hydra.run.dir={folder}"]
        subprocess.run(command, cwd=ROOT, check=True)
    rows = read_json_lines(folder / "metrics.jsonl")
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    looks, step_seconds, episodes = [], [], 0.0
    for row in rows:
        if "samples/s" in row:
            step_seconds.append((row["episodes"] - episodes) / row["samples/s"])
            episodes = row["episodes"]
        if "eval/reward" in row:
            looks.append({"step": row["step"], "samples": episodes, "kl": row["eval/kl"], "reward": row["eval/reward"]})
    return {
        "trainer": trainer, "seed": seed, "command": " ".join(["python -m llmrl.train", *words]), "looks": looks,
        "step_seconds": step_seconds, "precision": record["precision"], "threads": record["threads"],
        "versions": record["versions"], "commit": record["commit"],
        **{key: evaluation[key] for key in ("samples", "base_reward", "trained_reward", "difference", "verdict", "kl")},
        "base": evaluation["base"], "trained": evaluation["trained"],
    }  # fmt: skip


def add_seconds(runs: list[dict]) -> None:
    """Seconds at each look: its step times the median step of that trainer in all runs, as the machine may do other work."""
    for trainer in TRAINERS:
        mine = [each for each in runs if each["trainer"] == trainer]
        typical = median(seconds for each in mine for seconds in each["step_seconds"])
        for each in mine:
            each["median_step_seconds"] = typical
            for look in each["looks"]:
                look["seconds"] = look["step"] * typical


def row(each: dict) -> str:
    gain, base, trained = each["difference"], each["base"], each["trained"]
    cells = [
        each["trainer"],
        each["seed"],
        f"{each['base_reward']:.2f}",
        f"{each['trained_reward']:.2f}",
        f"{gain['mean']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f})",
        each["verdict"],
        f"{each['kl']:.2f}",
        f"{base['finished']:.0%} / {trained['finished']:.0%}",
        f"{base['words']:.0f} / {trained['words']:.0f}",
        f"{base['perplexity_under_base']:.0f} / {trained['perplexity_under_base']:.0f}",
        f"{len(each['step_seconds']) * median(each['step_seconds']):.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def means(runs: list[dict], trainer: str) -> str:
    mine = [each for each in runs if each["trainer"] == trainer]
    gains = [each["difference"]["mean"] for each in mine]
    return (
        f"| {trainer} | {fmean(each['trained_reward'] for each in mine):.2f} | {min(gains):+.2f} to {max(gains):+.2f} | "
        f"{fmean(each['kl'] for each in mine):.2f} | {mine[0]['median_step_seconds']:.1f} |"
    )


def commits(runs: list[dict]) -> str:
    """Which, and of whom where they differ."""
    by_commit: dict[str, set[str]] = {}
    for each in runs:
        by_commit.setdefault(str(each["commit"])[:7], set()).add(each["trainer"])
    return ", ".join(f"{commit} ({', '.join(sorted(who))})" for commit, who in by_commit.items())


def about_bases(runs: list[dict]) -> str:
    """Why the base's reward may not be one number."""
    if len({each["base_reward"] for each in runs}) == 1:
        return ""
    return (
        "The base's reward is not the same in all rows, as the rows come from two commits whose products round differently, so "
        "that the same random numbers chose other tokens now and then; each trained model is compared with the base of its own "
        "row.\n\n"
    )


def render(runs: list[dict]) -> str:
    first = runs[0]
    commands = "\n".join(f"- `{each['command']}`" for each in runs if each["seed"] == first["seed"])
    return (
        "# PPO, GRPO and RLOO\n\nMade by `python scripts/bench/trainers.py`; the first seed's commands were:\n\n"
        f"{commands}\n\nEvery trainer has the defaults of its own section: 32 responses a step, minibatches of 16, four "
        "passes, learning rate 2e-5 falling to 0, clip range 0.2; GRPO and RLOO take eight responses to each of four prompts, "
        "PPO one to each of 32. None was tuned for this table. PPO is llmrl's own; GRPO and RLOO are TRL's, driven by llmrl. "
        f"{machine()['processors']} processors, {first['threads']} threads, products in {first['precision']}, torch "
        f"{first['versions']['torch']}, transformers {first['versions']['transformers']}; made at commit {commits(runs)}.\n\n"
        "Mean over seeds, after all responses:\n\n"
        "| trainer | held-out reward | difference to base, by seed | KL, nats per response | median seconds of a step |\n"
        f"| --- | --- | --- | --- | --- |\n{chr(10).join(means(runs, name) for name in TRAINERS)}\n\n"
        f"Each run, {first['samples']} responses of each model to held-out prompts, 95 % bootstrap interval over prompts; "
        "before / after for what the reward can't buy:\n\n"
        "| trainer | seed | base | trained | difference | verdict | KL | ended by themselves | words | perplexity under base "
        f"| seconds of training |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        f"{chr(10).join(map(row, runs))}\n\nLooks while training are at 32 held-out prompts, one response each, the same "
        "random numbers for all. Seconds are sampling, scoring and learning; looks, checkpoints and the final comparison are "
        "left out; they are steps times the median step, of the run in the table and of the trainer in the picture, as the "
        "machine may do other work. Runs alternate between trainers.\n\n"
        f"{about_bases(runs)}"
        "![held-out reward against samples, seconds and KL](trainers.png)\n"
    )


def draw(runs: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained", sharey=True)
    for number, trainer in enumerate(TRAINERS):
        mine = [each["looks"] for each in runs if each["trainer"] == trainer]
        average = [
            {key: fmean(look[key] for look in looks) for key in ("samples", "seconds", "kl", "reward")}
            for looks in zip(*mine, strict=True)
        ]
        for axis, (key, _) in zip(axes, PANELS, strict=True):
            for looks in mine:
                axis.plot([look[key] for look in looks], [look["reward"] for look in looks], f"C{number}", lw=0.8, alpha=0.4)
            axis.plot([look[key] for look in average], [look["reward"] for look in average], f"C{number}o-", label=trainer)
    for axis, (_, label) in zip(axes, PANELS, strict=True):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out reward")
    axes[0].legend(title="mean of seeds; thin: each")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "bench", help="where the run folders go")
    args = parser.parse_args()
    runs = [
        run(trainer, seed, args.model, args.steps, (args.work / f"trainers_{trainer}_{seed}").resolve())
        for seed in args.seeds
        for trainer in TRAINERS
    ]
    add_seconds(runs)
    results = RESULTS if args.model == parser.get_default("model") else args.work
    results.mkdir(parents=True, exist_ok=True)
    (results / "trainers.json").write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n", encoding="utf-8")
    (results / "trainers.md").write_text(render(runs), encoding="utf-8")
    draw(runs, results / "trainers.png")
    print(render(runs))


if __name__ == "__main__":
    main()
