"""Sweeps as a person runs them: to their end, past failures and kills, to one ranked answer."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command, refused

SMALL = ("-m", "experiment=debug", "hydra.sweep.dir=sweep", "evaluation.examples=0")
REWARD = "reward=python", "reward.python.function=mine.py:f"
PICKY = """
def f(sample, boost=0.0):
    if boost == 13:
        raise ValueError("thirteen")
    return boost + len(sample.response) / 100
"""


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def metrics(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in row if not key.startswith(("time/", "tokens/s", "samples/s"))} for row in rows]


def figures(sweep: Path) -> dict:
    """What ranking.json says but for times."""
    found = json.loads((sweep / "ranking.json").read_text(encoding="utf-8"))
    for job in found["jobs"]:
        del job["seconds"]
    return found


def test_a_failure_is_told_and_counted_and_the_others_go_on(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PICKY, encoding="utf-8")
    words = (*SMALL, *REWARD, "reward.python.parameters.boost=0,13,0.5,0")
    done = command("train", *words)
    assert done.returncode == 1, done.stderr
    sweep = tmp_path / "sweep"
    with (sweep / "ranking.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished", "finished", "same", "failed"]
    assert [float(row["reward.python.parameters.boost"]) for row in rows] == [0.5, 0, 0, 13]
    assert float(rows[0]["low"]) < float(rows[0]["reward"]) < float(rows[0]["high"])
    assert "thirteen" in rows[3]["reason"]
    assert "job 2 failed (reward.python.parameters.boost=13)" in done.stdout
    assert "thirteen" in done.stderr
    failed = next(sweep.glob("001_*"))
    assert "Traceback" in (failed / "error.txt").read_text(encoding="utf-8")
    assert not list(sweep.glob("003_*"))  # the same config as the first: run once
    assert (sweep / "sweep.html").stat().st_size > 1_000_000
    shown = command("sweep", "show", "sweep")
    assert shown.returncode == 1
    assert "python -m llmrl.train experiment=debug" in shown.stdout
    assert "++reward.python.parameters.boost=0.5" in shown.stdout

    before = {folder.name: (folder / "run.json").stat().st_mtime_ns for folder in sweep.glob("00[02]_*")}
    (tmp_path / "mine.py").write_text(PICKY.replace("== 13", "== 14"), encoding="utf-8")
    mended = command("train", "sweep.resume=sweep")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert mended.stdout.count("\njob ") == 1  # what was finished is left alone
    assert before == {folder.name: (folder / "run.json").stat().st_mtime_ns for folder in sweep.glob("00[02]_*")}
    assert record(failed)["status"] == "finished"
    ranked = figures(sweep)["rankings"]
    assert len(ranked) == 1 or {each["rewarded"] for each in ranked}  # each boost is another reward: no ranking across them


def test_every_job_failing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(sample):\n    raise ValueError('never')\n", encoding="utf-8")
    done = command("train", *SMALL, *REWARD, "seed=1,2")
    assert done.returncode == 1
    assert "2 jobs: 2 failed" in done.stdout
    assert "No job came as far" in (tmp_path / "sweep" / "sweep.html").read_text(encoding="utf-8")
    assert "sweep.resume=" in done.stdout


def test_a_choice_that_does_not_exist_is_refused_before_the_first_job(command: Command, tmp_path: Path) -> None:
    line = refused(command("train", *SMALL, "reward=no_repeat,end_of_sentence,no_repeet,no_repeat,no_repeat,no_repeat"))
    assert "job 3 of 6" in line
    assert "did you mean 'no_repeat'" in line
    assert not (tmp_path / "sweep").exists()
    line = refused(command("train", *SMALL, "ppo.lr=1e-5,-1"))
    assert "job 2 of 2 (ppo.lr=-1): ppo.lr=-1" in line
    line = refused(command("train", *SMALL, "ppo.batch_size=8,6"))  # a combination
    assert "job 2 of 2" in line


def test_folders_that_can_not_be_used(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{", encoding="utf-8")
    assert "can't be read" in refused(command("train", "sweep.resume=sweep"))
    assert "holds a sweep already" in refused(command("train", *SMALL, "seed=1,2"))
    shutil.rmtree(tmp_path / "sweep")
    assert "is no sweep folder" in refused(command("train", "sweep.resume=sweep"))
    (tmp_path / "sweep").write_text("a file", encoding="utf-8")
    assert "can't be written to" in refused(command("train", *SMALL, "seed=1,2"))
    assert "can't be changed" in refused_resume(command, tmp_path)
    assert "is not understood" in refused(command("sweep", "look", "sweep"))


def refused_resume(command: Command, folder: Path) -> str:
    plan = {"words": ["-m", "seed=1,2"], "jobs": [], "llmrl": "0", "started_in": str(folder)}
    (folder / "other").mkdir()
    (folder / "other" / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    return refused(command("train", "sweep.resume=other", "ppo.lr=1e-3"))


def start(tmp_path: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "llmrl.train", *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_table(command: Command, tmp_path: Path) -> None:
    """Killed in the middle of its second job, then half of a finished job's folder deleted."""
    words = (*SMALL, "seed=1,2,3", "trainer.steps=4", "trainer.checkpoint_every=1")
    assert command("train", *words).returncode == 0
    whole = figures(tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep")
    process = start(tmp_path, *words)
    second = tmp_path / "sweep" / "001_seed-2"
    deadline = time.monotonic() + 120
    while not list(second.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert record(second)["status"] == "running"
    refused_now = command("train", *words)
    assert "holds a sweep already" in refused(refused_now)
    (tmp_path / "sweep" / "000_seed-1" / "evaluation.json").unlink()
    done = command("train", "sweep.resume=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert record(second)["resumed"] == 1
    assert figures(tmp_path / "sweep") == whole
    assert list((tmp_path / "sweep").glob("damaged-000_seed-1-0"))


def test_ctrl_c_ends_the_sweep_and_says_what_is_left(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "llmrl.train", *SMALL, "seed=1,2", "trainer.steps=400", "rollout.max_new_tokens=16"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, said
    text = "".join(said)
    assert "2 jobs: 1 interrupted, 1 missing" in text
    assert "sweep.resume=" in text
    assert record(tmp_path / "sweep" / "000_seed-1")["status"] == "interrupted"


@pytest.mark.slow
def test_a_job_is_the_same_alone_and_as_the_last_of_a_sweep(command: Command, tmp_path: Path) -> None:
    """After jobs with other threads and trainers in the same process."""
    last = ("seed=3", "rollout.temperature=0.9", "evaluation.enabled=false")
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Number {i} is", "answer": f" number {i}."}) + "\n" for i in range(200)),
        encoding="utf-8",
    )
    prompts = ("prompts=jsonl", "prompts.path=data.jsonl")
    alone = command("train", "experiment=debug", "hydra.run.dir=alone", *prompts, *last)
    assert alone.returncode == 0, alone.stderr
    mixed = ("trainer=grpo,sft,ppo", "trainer.threads=2,0")
    done = command("train", *SMALL, *prompts, *last, *mixed, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    twin = tmp_path / "sweep" / "005_trainer-ppo_trainer.threads-0"
    assert metrics(twin) == metrics(tmp_path / "alone")
    assert (twin / "final" / "model.safetensors").read_bytes() == (tmp_path / "alone/final/model.safetensors").read_bytes()


def test_a_recipe_and_its_launcher_in_parallel(command: Command, tmp_path: Path) -> None:
    """joblib: two jobs at a time, each with half of the processors, their words in files of their own."""
    done = command(
        "train", "experiment=debug", "sweep=seeds", "seed=1,2", "hydra.sweep.dir=sweep", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2", env={},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 1 of 2 finished" in done.stdout
    for name in ("000_seed-1", "001_seed-2"):
        assert "step 2/2" in (tmp_path / "sweep" / name / "log.txt").read_text(encoding="utf-8")
        assert record(tmp_path / "sweep" / name)["sweep"] == "sweep"
    assert "2 jobs: 2 finished" in done.stdout
