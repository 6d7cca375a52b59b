"""Seconds from the command to a held-out `end_of_sentence` of 10 on SmolLM2-135M, and what TRL reaches in its own time.

    python scripts/bench/time_to_reward.py                    # llmrl, three seeds; docs/results/time_to_reward.{json,md}
    python scripts/bench/time_to_reward.py --peers            # and TRL 1.16 GRPO and TRL 0.11.3 PPO, given the same samples

llmrl's clock runs from the command to the line that tells of the first look at 32 held-out prompts with a mean of 10 or more;
looks are on the clock. Every parameter is trained. GRPO is driven by llmrl (`trainer=grpo`), with its defaults; TRL 0.11.3 by a
program of its own, as the original system configured it, with the same reward, prompts and number of samples. What they reach
is looked at once, after as many samples as llmrl's slowest seed needed.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from speed import CONTESTANTS, SMOLLM2, trl_classic_python

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import read_train_config
from llmrl.tracking.run_folder import machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
GOAL = 10.0
LOOK = re.compile(r"held-out reward after (\d+) steps: (-?[\d.]+)")
COMMON = [
    "model=smollm2_135m",
    "reward=end_of_sentence",
    "rollout.max_new_tokens=35",
    "tracker=none",
    "evaluation.enabled=false",
]
OURS = ["experiment=smollm2_fast", "tracker=none"]


def looks(words: list[str]) -> list[dict[str, float]]:
    """Every look at held-out prompts, with the seconds since the command; the run is ended at the goal."""
    command = [sys.executable, "-m", "llmrl.train", *words]
    begun, found = time.perf_counter(), []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if said := LOOK.search(line):
            found.append({"step": int(said[1]), "reward": float(said[2]), "seconds": time.perf_counter() - begun})
            if found[-1]["reward"] >= GOAL:
                process.kill()
    process.wait()
    return found


def ours(seed: int, work: Path) -> dict[str, Any]:
    folder = work / f"time_to_reward_{os.getpid()}_{seed}"
    words = [*OURS, f"seed={seed}", f"hydra.run.dir={folder}"]
    found = looks(words)
    reached = next((look for look in found if look["reward"] >= GOAL), None)
    ppo = read_train_config(folder / "config.yaml").ppo
    assert ppo is not None
    return {
        "seed": seed, "command": "python -m llmrl.train " + " ".join(words[:-1]), "looks": found, "reached": reached,
        "samples": int((reached or found[-1])["step"]) * ppo.batch_size,
    }  # fmt: skip


def grpo(seed: int, samples: int, work: Path) -> dict[str, Any]:
    """GRPO's defaults, batches of 32, a look at the end."""
    steps = -(-samples // 32)
    words = [
        *COMMON, "trainer=grpo", f"trainer.steps={steps}", f"trainer.eval_every={steps}", f"seed={seed}",
        f"hydra.run.dir={work / f'time_to_reward_grpo_{os.getpid()}_{seed}'}",
    ]  # fmt: skip
    return {"seed": seed, "samples": 32 * steps, **looks(words)[-1]}


def classic(seed: int, samples: int) -> dict[str, Any]:
    words = [str(CONTESTANTS / "trl_classic_learning.py"), str(SMOLLM2), str(seed), str(samples)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    python, begun = trl_classic_python(), time.perf_counter()
    done = subprocess.run([str(python), *words], capture_output=True, text=True, check=True, env=environment)
    return {"seed": seed, **json.loads(done.stdout.splitlines()[-1]), "seconds": time.perf_counter() - begun}


def row(run: dict[str, Any]) -> str:
    reached = run["reached"]
    ended = f"{reached['seconds']:.0f} | {reached['step']} | {reached['reward']:.2f}" if reached else "not reached | |"
    return f"| {run['seed']} | {run['looks'][0]['reward']:.2f} | {ended} | {run['samples']} |"


def render(found: dict[str, Any]) -> str:
    times = [run["reached"]["seconds"] if run["reached"] else math.inf for run in found["ours"]]
    lines = [
        "# Time to reward",
        "",
        "Made by `python scripts/bench/time_to_reward.py`: seconds from the command to a mean `end_of_sentence` of "
        f"{GOAL:g} on 32 held-out prompts, SmolLM2-135M, every parameter trained, looks on the clock.",
        "",
        f"`{found['ours'][0]['command']}`, {found['machine']['processors']} processors, {found['precision']}, torch "
        f"{found['versions']['torch']}, {found['date']}: median {median(times):.0f} s (bar 90). The clock stops at the first "
        "look that reaches the goal, by 32 responses; a run left alone ends with a comparison of 128.",
        "",
        "| seed | before | seconds | steps | held-out reward there | samples |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(row, found["ours"]),
        "",
    ]
    peers = {"grpo": "TRL 1.16 GRPO (`trainer=grpo`, its defaults)", "classic": "TRL 0.11.3 PPO as the original configured it"}
    for name, title in peers.items():
        if name in found:
            each = found[name]
            done = f"{each['samples']} samples and {each['seconds']:.0f} s, its start and one look included"
            lines += [f"{title}: {each['reward']:.2f} after {done}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "bench")
    args = parser.parse_args()
    path = RESULTS / "time_to_reward.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = (
        {"machine": machine(), "date": time.strftime("%Y-%m-%d")} if args.peers else found | {"date": time.strftime("%Y-%m-%d")}
    )
    found["ours"] = [ours(seed, args.work.resolve()) for seed in args.seeds]
    record = json.loads((args.work / f"time_to_reward_{os.getpid()}_{args.seeds[0]}" / "run.json").read_text(encoding="utf-8"))
    found |= {"versions": record["versions"], "precision": record["precision"], "threads": record["threads"]}
    if args.peers:
        samples = max(run["samples"] for run in found["ours"])
        found["grpo"] = grpo(args.seeds[0], samples, args.work.resolve())
        found["classic"] = classic(args.seeds[0], samples)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(render(found), encoding="utf-8")
    print(render(found))


if __name__ == "__main__":
    main()
