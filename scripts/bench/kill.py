"""Does a run that is killed go on as if nothing had happened? SIGKILL at random moments, resume, compare to the last bit.

    python scripts/bench/kill.py                          # 20 kills, 6 of them while a checkpoint is being written
    python scripts/bench/kill.py --kills 3 --saves 1 --no-results

One run of the tiny model is left alone. Each of the others is killed once, gone on with (`resume=FOLDER`, or the same command
with `resume=auto`, as a queue would run it again), and must end with the same metrics, samples, final weights and optimiser
state. Exit status 1 if one does not. Writes docs/results/kill.{json,md}.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from llmrl.tracking.run_folder import machine, read_json_lines

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
WORDS = [
    "experiment=debug", "tracker=none", "evaluation.enabled=false", "trainer.steps=12", "trainer.checkpoint_every=2",
    "trainer.eval_every=3", "trainer.eval_prompts=8", "ppo.lr=1e-3", "ppo.kl_target=2", "ppo.score_normalization=standardize",
    "ppo.warmup_steps=2", "ppo.epochs=2",
]  # fmt: skip
"""Everything that a checkpoint has to hold changes from step to step: KL coefficient, running statistics, best, schedule."""
TIMED = ("time/", "tokens/s", "samples/s")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmrl.train", *words]
    log = folder.with_suffix(".log").open("a", encoding="utf-8")
    return subprocess.Popen(command, cwd=folder.parent, stdout=log, stderr=subprocess.STDOUT, text=True)


def kill_while_saving(process: subprocess.Popen[str], checkpoints: Path, number: int) -> bool:
    """Kill in the midst of writing the `number`-th checkpoint; whether its half-written folder is there to prove it."""
    seen: set[str] = set()
    while process.poll() is None:
        for path in checkpoints.glob(".step-*.tmp"):
            seen.add(path.name)
        if len(seen) >= number:
            process.kill()
            process.wait()
            break
    return any(checkpoints.glob(".step-*.tmp"))


def kill_at(process: subprocess.Popen[str], run: Path, seconds: float) -> None:
    """Kill so many seconds after the run has its folder: what comes before is Python loading its packages."""
    while process.poll() is None and not (run / "run.json").is_file():
        time.sleep(0.01)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def outcome(folder: Path) -> dict[str, object]:
    """What must be the same: metrics without clock times, samples, final weights, the last checkpoint's tensors."""
    rows = [
        {key: value for key, value in row.items() if not key.startswith(TIMED)}
        for row in read_json_lines(folder / "metrics.jsonl")
    ]
    last = max((folder / "checkpoints").glob("step-*"))
    tensors = {
        str(path.relative_to(folder)): load_file(path)
        for path in [folder / "final" / "model.safetensors", *sorted(last.glob("*.safetensors"))]
    }
    return {"metrics": rows, "samples": read_json_lines(folder / "samples.jsonl"), "tensors": tensors}


def differences(one: dict, other: dict) -> list[str]:
    found = [name for name in ("metrics", "samples") if one[name] != other[name]]
    if one["tensors"].keys() != other["tensors"].keys():
        return [*found, "files"]
    for path, tensors in one["tensors"].items():
        twin = other["tensors"][path]
        if tensors.keys() != twin.keys() or any((tensors[name] != twin[name]).any() for name in tensors):
            found.append(path)
    return found


def one_kill(number: int, folder: Path, saving: bool, seconds: float, rng: random.Random) -> dict:
    """Kill one run, go on with it, and say where it stood."""
    command = [*WORDS, f"hydra.run.dir={folder}"]
    process = start(folder, *command, "resume=auto")
    began = time.perf_counter()
    if saving:
        saving = kill_while_saving(process, folder / "checkpoints", rng.randint(1, 6))
    else:
        kill_at(process, folder, rng.uniform(0, 0.9) * seconds)
    killed_at = time.perf_counter() - began
    if process.returncode != -9:
        raise SystemExit(f"kill {number}: the run ended by itself with {process.returncode}; see {folder.with_suffix('.log')}")
    lines = len(read_json_lines(folder / "metrics.jsonl")) if (folder / "metrics.jsonl").is_file() else 0
    saved = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    named = number % 2 == 0 and (folder / "run.json").is_file()
    again = [f"resume={folder}"] if named else [*command, "resume=auto"]
    status = start(folder, *again).wait()
    return {
        "kill": number, "while_saving": saving, "seconds": round(killed_at, 2), "metrics_lines": lines,
        "newest_checkpoint": saved[-1] if saved else "none", "resume": "FOLDER" if named else "auto", "status": status,
    }  # fmt: skip


def render(rows: list[dict], steps: int) -> str:
    identical = sum(not row["differences"] for row in rows)
    table = "\n".join(
        f"| {row['kill']} | {'while a checkpoint was written' if row['while_saving'] else 'random'} | {row['seconds']:.1f} | "
        f"{row['metrics_lines']} | {row['newest_checkpoint']} | `resume={row['resume']}` | "
        f"{', '.join(row['differences']) or 'identical'} |"
        for row in rows
    )
    return (
        "# Killed and gone on with\n\nMade by `python scripts/bench/kill.py`: the tiny model, "
        f"{steps} steps, `{' '.join(WORDS)}`. Each row is a run that got SIGKILL once and was gone on with; its metrics (but "
        "for clock times), samples, final weights, optimiser state and random streams are held against those of a run left "
        f"alone.\n\n**{identical} of {len(rows)} identical to the bit**, {sum(row['while_saving'] for row in rows)} of them "
        "killed while a checkpoint was being written (its half-written folder was found), the others at a moment drawn from "
        "the seconds in which the run has its folder. Seconds are from the start of the process, of which about the first four "
        "load Python packages.\n\n"
        "| kill | moment | seconds | lines of metrics | newest whole checkpoint | gone on with | against the run left alone |\n"
        f"| --- | --- | --- | --- | --- | --- | --- |\n{table}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--saves", type=int, default=6, help="how many of them while a checkpoint is being written")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "kill", help="where the run folders go")
    parser.add_argument("--no-results", action="store_true", help="write nothing to docs/results")
    args = parser.parse_args()
    work = (args.work / time.strftime("%H%M%S")).resolve()
    work.mkdir(parents=True)
    rng = random.Random(args.seed)
    whole = work / "whole"
    if start(whole, *WORDS, f"hydra.run.dir={whole}").wait():
        raise SystemExit(f"the run left alone failed: see {whole.with_suffix('.log')}")
    seconds = json.loads((whole / "run.json").read_text(encoding="utf-8"))["seconds"]
    expected = outcome(whole)
    rows = []
    for number in range(args.kills):
        folder = work / f"killed_{number}"
        row = one_kill(number, folder, number < args.saves, seconds, rng)
        row["differences"] = differences(expected, outcome(folder)) if row["status"] == 0 else ["did not finish"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    if not args.no_results:
        report = {"machine": machine(), "words": WORDS, "kills": rows}
        (RESULTS / "kill.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "kill.md").write_text(render(rows, 12), encoding="utf-8")
    saves = sum(row["while_saving"] for row in rows)
    identical = sum(not row["differences"] for row in rows)
    print(f"{identical} of {len(rows)} identical to the bit, {saves} killed while a checkpoint was being written")
    if identical < len(rows) or saves < min(args.saves, 5):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
