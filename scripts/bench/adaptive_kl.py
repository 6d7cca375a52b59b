"""Does the adaptive coefficient hold the KL at its target? Three seeds and two targets of the tiny model, 100 steps each.

python scripts/bench/adaptive_kl.py      # docs/results/adaptive_kl.{json,md,png}
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from llmrl.tracking.run_folder import machine, read_json_lines

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
STEPS, TOLERANCE, WINDOW = 100, 0.25, 10
WORDS = [
    "experiment=quickstart", "tracker=none", "evaluation.enabled=false", f"trainer.steps={STEPS}", "trainer.checkpoint_every=0",
    "rollout.max_new_tokens=24", "ppo.epochs=2",
]  # fmt: skip


def run(target: float, seed: int, folder: Path) -> dict:
    """One run, unless its folder is there already; its KL and coefficient by step, and how near the target it stayed."""
    words = [*WORDS, f"ppo.kl_target={target:g}", f"seed={seed}"]
    if not (folder / "final").is_dir():
        command = [sys.executable, "-m", "llmrl.train", *words, f"hydra.run.dir={folder}"]
        subprocess.run(command, cwd=ROOT, check=True)
    rows = read_json_lines(folder / "metrics.jsonl")
    kl = [row["objective/kl"] for row in rows]
    windows = [fmean(kl[i : i + WINDOW]) for i in range(STEPS // 2, STEPS, WINDOW)]
    return {
        "target": target, "seed": seed, "command": " ".join(["python -m llmrl.train", *words]), "kl": kl,
        "coef": [row["objective/kl_coef"] for row in rows], "reward": [row["objective/scores"] for row in rows],
        "last_half": fmean(kl[STEPS // 2 :]), "windows": windows,
    }  # fmt: skip


def within(value: float, target: float) -> bool:
    return abs(value / target - 1) <= TOLERANCE


def render(runs: list[dict]) -> str:
    table = "\n".join(
        f"| {each['target']:g} | {each['seed']} | {each['last_half']:.2f} ({each['last_half'] / each['target'] - 1:+.0%}) | "
        f"{min(each['windows']):.2f} to {max(each['windows']):.2f} | {each['coef'][0]:.3g} | {each['coef'][-1]:.3g} | "
        f"{'yes' if within(each['last_half'], each['target']) else 'no'} |"
        for each in runs
    )
    return (
        f"# Adaptive KL\n\nMade by `python scripts/bench/adaptive_kl.py`; the first row is `{runs[0]['command']}`.\n"
        f"{machine()['processors']} processors. The reward wants no repetition; the coefficient starts at 0.05 and adapts over "
        "`ppo.kl_horizon=300` episodes. KL in nats per response, measured on each batch before it is learned from.\n\n"
        f"| target | seed | mean KL, steps {STEPS // 2 + 1} to {STEPS} | means of {WINDOW} steps there | coefficient, first | "
        f"last | mean within 25 % |\n| --- | --- | --- | --- | --- | --- | --- |\n{table}\n\n![KL by step](adaptive_kl.png)\n"
    )


def draw(runs: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    colours = {target: f"C{number}" for number, target in enumerate(sorted({each["target"] for each in runs}))}
    for each in runs:
        for axis, name in zip(axes, ("kl", "coef", "reward"), strict=True):
            axis.plot(range(1, STEPS + 1), each[name], color=colours[each["target"]], lw=1, alpha=0.75)
    for target, colour in colours.items():
        axes[0].axhline(target, color=colour, ls="--", label=f"target {target:g}")
        axes[0].axhspan(target * (1 - TOLERANCE), target * (1 + TOLERANCE), color=colour, alpha=0.08)
    axes[0].axvline(STEPS / 2, color="grey", lw=0.8)
    axes[0].legend()
    axes[1].set_yscale("log")
    for axis, label in zip(axes, ("KL, nats per response", "KL coefficient", "reward of the batch"), strict=True):
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", type=float, nargs="+", default=[3.0, 6.0])
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "bench", help="where the run folders go")
    args = parser.parse_args()
    runs = [
        run(target, seed, (args.work / f"adaptive_kl_{target:g}_{seed}").resolve())
        for target in args.targets
        for seed in args.seeds
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "adaptive_kl.json").write_text(
        json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n", encoding="utf-8"
    )
    (RESULTS / "adaptive_kl.md").write_text(render(runs), encoding="utf-8")
    draw(runs, RESULTS / "adaptive_kl.png")
    print(render(runs))
    if not all(within(each["last_half"], each["target"]) for each in runs):
        raise SystemExit("the KL was not held within 25 % of its target")


if __name__ == "__main__":
    main()
