"""What sweeps cost, and what they survive.

    python scripts/bench/sweeps.py                  # docs/results/sweeps.{json,md}; about half an hour on two cores
    python scripts/bench/sweeps.py hundred kills    # some parts; the others keep the figures they had

`hundred`: a hundred jobs of two steps of the tiny model in one process: what each costs beside its training, and memory.
`kills`: a sweep killed at ten random moments and gone on with, against one left alone. `parallel`: joblib with two jobs at a time
against one after the other, in turns. `hang`: a run whose Weights & Biases server stops answering, against one without, in turns.
`page`: nine small jobs, what they say at the end, and a picture of their page (docs/results/sweep_page.png; needs Chromium).
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from llmrl.tracking.run_folder import machine  # noqa: E402

RESULTS = ROOT / "docs" / "results"
TRAIN = [sys.executable, "-u", "-m", "llmrl.train"]
DEBUG = ["experiment=debug", "evaluation.examples=0"]


def started(words: list[str], folder: Path, **environment: str) -> "subprocess.Popen[str]":
    """The command, its words on one pipe."""
    return subprocess.Popen(
        [*TRAIN, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def lines_of(process: "subprocess.Popen[str]") -> Iterator[tuple[float, str]]:
    """(seconds since the epoch, line) as they come. Raises RuntimeError if the command fails."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        yield time.time(), line
    if process.wait():
        raise RuntimeError(f"{process.args} ended with {process.returncode}:\n{''.join(said[-20:])}")


def hundred(work: Path) -> dict[str, Any]:
    """The same in bf16, and in fp32."""
    return {"bf16": in_one_process(work, "bf16"), "fp32": in_one_process(work, "fp32")}


def in_one_process(work: Path, precision: str, jobs: int = 100) -> dict[str, Any]:
    """Seconds and memory of each job of a sweep in one process."""
    begun = time.time()
    words = [
        "-m",
        *DEBUG,
        f"seed={','.join(map(str, range(jobs)))}",
        f"hydra.sweep.dir={precision}",
        "trainer.checkpoint_every=0",
    ]
    process = started([*words, f"model.precision={precision}"], work)
    watched = psutil.Process(process.pid)
    heads, ready, resident = [], [], []
    end = begun
    for at, line in lines_of(process):
        end = at
        if line.startswith("job "):
            heads.append(at)
            resident.append(watched.memory_info().rss)
        if line.startswith("llmrl: packaged:tiny"):
            ready.append(at)
        if line.startswith("Verdict"):
            resident[-1] = max(resident[-1], watched.memory_info().rss)
    folders = sorted((work / precision).glob("[0-9]*"))
    if len(folders) != jobs or len(heads) != jobs:
        raise RuntimeError(f"{len(folders)} folders, {len(heads)} jobs begun")
    concluding = end - heads[-1]
    overheads = []
    for number, folder in enumerate(folders[:-1]):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = sum(value for row in rows for key, value in row.items() if key.startswith("time/"))
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        overheads.append(heads[number + 1] - heads[number] - steps - record["evaluation_seconds"])
    return {
        "jobs": jobs, "folders": len(folders), "seconds": end - begun, "plan_s": heads[0] - begun,
        "first_starts_s": ready[0] - begun, "others_start_s": median(r - h for r, h in zip(ready[1:], heads[1:], strict=True)),
        "overhead_s": median(overheads[1:]), "slowest_overhead_s": max(overheads[1:]), "third_bytes": resident[2],
        "last_bytes": resident[-1], "most_bytes": max(resident), "concluding_s": concluding,
    }  # fmt: skip


def kills(work: Path, times: int = 10, seed: int = 0) -> dict[str, Any]:
    """Kill a sweep at random moments of its work, going on each time, and compare with one that was left alone."""
    words = ["-m", *DEBUG, "ppo.lr=1e-5,1e-4,1e-3", "seed=1,2,3,4", "trainer.steps=4", "trainer.checkpoint_every=1"]
    whole, killed = work / "whole", work / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    begun = time.time()
    for _ in lines_of(started([*words, "hydra.sweep.dir=sweep"], whole)):
        pass
    seconds, rng = time.time() - begun, random.Random(seed)
    moments, done, jobs = [], 0, len(list((whole / "sweep").glob("*/evaluation.json")))
    for number in range(times):
        resume = ["sweep.resume=sweep"] if (killed / "sweep" / "sweep.json").is_file() else [*words, "hydra.sweep.dir=sweep"]
        process = started(resume, killed)
        wait = 4.0 + rng.uniform(0.0, 2.0 * seconds * (1 - done / jobs) / (times - number))  # spread over the whole work
        threading.Timer(wait, lambda process=process: process.send_signal(signal.SIGKILL)).start()
        process.communicate()
        done = len(list((killed / "sweep").glob("*/evaluation.json")))
        moments.append({"kill": number, "after_s": round(wait, 2), "finished_jobs": done})
        print(f"  {moments[-1]}", flush=True)
    for _ in lines_of(started(["sweep.resume=sweep"], killed)):
        pass
    tables = [_table(folder / "sweep") for folder in (whole, killed)]
    same = [_metrics(path) == _metrics(killed / "sweep" / path.name) for path in sorted((whole / "sweep").glob("[0-9]*"))]
    return {"kills": moments, "jobs": len(same), "same_table": tables[0] == tables[1], "same_metrics": sum(same)}


def _table(sweep: Path) -> Any:
    found = json.loads((sweep / "ranking.json").read_text(encoding="utf-8"))
    for job in found["jobs"]:
        del job["seconds"]
    return found


def _metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in row if not key.startswith(("time/", "tokens/s", "samples/s"))} for row in rows]


WORKS = {
    "small": ["experiment=debug", f"seed={','.join(map(str, range(40)))}"],
    "quickstart": ["experiment=quickstart", "tracker=none", "trainer.steps=6", "seed=1,2,3,4,5,6,7,8"],
}


def parallel(work: Path) -> dict[str, Any]:
    """Forty jobs of two small steps, and eight of six quickstart steps."""
    return {name: in_turns(work, words, rounds=3 if name == "small" else 1) for name, words in WORKS.items()}


def in_turns(work: Path, words: list[str], rounds: int) -> dict[str, Any]:
    """One job after the other in one process, and two at a time in two, in turns; whole commands."""
    ways = {"in_turn": [], "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, more in ways.items():
            begun = time.time()
            common = ["-m", "evaluation.examples=0", "trainer.checkpoint_every=0", f"hydra.sweep.dir={name}_{number}"]
            for _ in lines_of(started([*common, *words, *more], work)):
                pass
            times[name].append(time.time() - begun)
            shutil.rmtree(work / f"{name}_{number}")
        print(f"  round {number}: { {name: round(each[-1], 1) for name, each in times.items()} }", flush=True)
    return {"words": words, "rounds": rounds, "seconds": times, "ratio": median(times["in_turn"]) / median(times["joblib"])}


def hang(work: Path, rounds: int = 5) -> dict[str, Any]:
    """Seconds from the first step to the last, and of the whole command, without a tracker and with a server that hangs."""
    from tests.tracking.wandb_server import Server

    words = ["experiment=quickstart", "trainer.checkpoint_every=0", "evaluation.enabled=false", "tracker.init_timeout=20"]
    ways = {"none": "tracker=none", "never_answers": "tracker=wandb", "stops_answering": "tracker=wandb"}
    found: dict[str, dict[str, list[float]]] = {name: {"steps_s": [], "whole_s": []} for name in ways}
    for number in range(rounds):
        for name, tracker in ways.items():
            server = Server(0, work / f"server_{name}_{number}", hang_after=0 if name == "never_answers" else 3)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            begun = time.time()
            steps = []
            process = started(
                [*words, tracker, f"hydra.run.dir={name}_{number}"], work, WANDB_BASE_URL=server.url, WANDB_API_KEY="0" * 40,
                HOME=str(work),
            )  # fmt: skip
            for at, line in lines_of(process):
                if line.startswith("step "):
                    steps.append(at)
            found[name]["steps_s"].append(steps[-1] - steps[0])
            found[name]["whole_s"].append(time.time() - begun)
            server.shutdown()
        print(f"  round {number}: { {name: round(each['steps_s'][-1], 1) for name, each in found.items()} }", flush=True)
    return {"rounds": rounds, **found}


def page(work: Path) -> dict[str, Any]:
    """A sweep of nine small jobs, and its page in a browser."""
    from tests.browser import browser

    words = ["-m", *DEBUG, "ppo.lr=1e-5,1e-4,1e-3", "seed=1,2,3", "trainer.steps=10", "trainer.eval_every=2"]
    begun = time.time()
    said = [line for _, line in lines_of(started([*words, "hydra.sweep.dir=sweep"], work))]
    with browser() as chromium:
        opened = chromium.new_page(viewport={"width": 1180, "height": 1000})
        opened.goto((work / "sweep" / "sweep.html").as_uri())
        opened.wait_for_timeout(3000)
        opened.screenshot(path=RESULTS / "sweep_page.png", full_page=True)
    first = next(number for number, line in enumerate(said) if line.startswith("Held-out reward"))
    table = "".join(said[first:]).split("the whole picture")[0].rstrip()
    return {"seconds": time.time() - begun, "words": " ".join(words), "table": table}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "hundred": hundred,
    "kills": kills,
    "parallel": parallel,
    "hang": hang,
    "page": page,
}


def render(found: dict[str, Any]) -> str:
    """docs/results/sweeps.md"""
    lines = [
        "# Sweeps: what they cost, and what they survive", "",
        f"Made by `python scripts/bench/sweeps.py`; {found['machine']['processors']} processors, tiny model.", "",
    ]  # fmt: skip
    if one := found.get("hundred"):
        one, fp32 = one["bf16"], one["fp32"]
        grown, grown_fp32 = (each["last_bytes"] / each["third_bytes"] - 1 for each in (one, fp32))
        lines += [
            f"**{one['jobs']} jobs of two steps in one process**, bf16: {one['folders']} folders, {one['seconds']:.0f} s. Beside its "
            f"sampling, learning and evaluation a job costs **{one['overhead_s']:.2f} s** (median; slowest "
            f"{one['slowest_overhead_s']:.2f}; bar 0.7): copying the model, saving it; composing and checking it came before the first began (see below), which with it is above the bar in bf16. From the command to the first "
            f"job's model being ready {one['first_starts_s']:.1f} s, of which {one['plan_s']:.1f} compose and check all "
            f"{one['jobs']} configs; from a later job's first word to its model being ready **{one['others_start_s']:.2f} s** "
            f"(bar: a third). Memory at the end of the third job {one['third_bytes'] / 1e9:.2f} GB, of the last "
            f"{one['last_bytes'] / 1e9:.2f}: **{grown:+.0%}** (bar 10 %). Ranking and page take {one['concluding_s']:.1f} s with the "
            "last job.", "",
            f"In fp32 a job costs {fp32['overhead_s']:.2f} s, and memory goes from {fp32['third_bytes'] / 1e9:.2f} to "
            f"{fp32['last_bytes'] / 1e9:.2f} GB: **{grown_fp32:+.0%}**. No Python object and no tensor is left of a job that ended; "
            "what grows in bf16 is what torch keeps for each shape that its products and its attention have seen, and it grows less "
            "and less.", "",
        ]  # fmt: skip
    if one := found.get("kills"):
        same = "the same table" if one["same_table"] else "ANOTHER TABLE"
        lines += [
            f"**Killed at {len(one['kills'])} random moments** and gone on with: {same}, and the same metrics in "
            f"{one['same_metrics']} of {one['jobs']} jobs, as a sweep that was left alone.", "",
            "| kill | after, s | jobs that were finished then |", "| --- | --- | --- |",
            *(f"| {each['kill']} | {each['after_s']} | {each['finished_jobs']} |" for each in one["kills"]), "",
        ]  # fmt: skip
    if one := found.get("parallel"):
        lines += [
            "**Two at a time** (`hydra/launcher=joblib hydra.launcher.n_jobs=2`, one thread a job) against one after the other (two "
            "threads). Whole commands, in turns, medians; bar 1.5 times.", "",
            "| jobs | in turn, s | two at a time, s | times as fast | rounds |", "| --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        titles = {
            "small": "40 of two steps, 8 responses of 8 tokens",
            "quickstart": "8 of six steps, 32 responses of 48 tokens",
        }
        for name, title in titles.items():
            each = one[name]
            lines.append(
                f"| {title} | {median(each['seconds']['in_turn']):.0f} | {median(each['seconds']['joblib']):.0f} | "
                f"**{each['ratio']:.2f}** | {each['rounds']} |"
            )
        lines.append("")
    return "\n".join([*lines, *hang_and_page(found)])


def hang_and_page(found: dict[str, Any]) -> list[str]:
    """The lines of these two parts."""
    lines: list[str] = []
    if one := found.get("hang"):
        base = median(one["none"]["steps_s"])
        lines += ["**A Weights & Biases server that hangs.** In turns, medians of " f"{one['rounds']}.", "",
                  "| server | first step to last, s | against none | whole command, s |", "| --- | --- | --- | --- |"]  # fmt: skip
        for name, title in (("none", "no tracker"), ("never_answers", "never answers"), ("stops_answering", "stops answering")):
            steps = median(one[name]["steps_s"])
            lines.append(f"| {title} | {steps:.1f} | {steps / base - 1:+.1%} | {median(one[name]['whole_s']):.1f} |")
        rounds = sorted(one["none"]["steps_s"])
        lines += [
            "",
            f"Rounds without a tracker took {rounds[0]:.1f} to {rounds[-1]:.1f} s, so a difference of a few percent is not told from none.",
        ]
        waited = median(one["stops_answering"]["whole_s"]) - median(one["none"]["whole_s"])
        lines += ["", f"The bar is 2 % of training. At the end a run waits once, here {waited:.0f} s in all (`tracker.finish_timeout` sets it), for a "
                  "server that began to answer; then it keeps everything offline and says how to upload it.", ""]  # fmt: skip
    if one := found.get("page"):
        lines += [f"**What a sweep says at its end**, `python -m llmrl.train {one['words']}`:", "",
                  "```", one["table"], "```", "", "![its page](sweep_page.png)", ""]  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    args = parser.parse_args()
    path = RESULTS / "sweeps.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in args.parts or PARTS:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as work:
            found[name] = PARTS[name](Path(work))
        found["machine"] = machine()
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "sweeps.md").write_text(render(found), encoding="utf-8")
    print(render(found))


if __name__ == "__main__":
    main()
