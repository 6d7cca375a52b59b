"""Jobs in processes of their own: submitit on this machine, and the scripts it writes for SLURM, really run."""

import json
import os
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmrl.errors import UserError
from llmrl.sweeps.launch import every_job_awaited
from llmrl.sweeps.plan import Job
from tests.conftest import Command, refused
from tests.sweeps.conftest import StubLaunch, leave_run

SMALL = ("-m", "experiment=debug", "hydra.sweep.dir=sweep", "evaluation.examples=0")


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_submitit_on_this_machine(command: Command, tmp_path: Path) -> None:
    done = command("train", *SMALL, "seed=1,2", "hydra/launcher=submitit_local", env={})
    assert done.returncode == 0, done.stdout + done.stderr
    processes = {record(folder)["process"] for folder in (tmp_path / "sweep").glob("0*")}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert "2 jobs: 2 finished" in done.stdout


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a cluster of one machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "state").mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        text = (Path(__file__).parent / "slurm_stub.py").read_text(encoding="utf-8")
        path = folder / name
        path.write_text(text.replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1), encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_STUB": str(tmp_path / "state")}


@pytest.mark.slow
def test_a_job_of_slurm_is_queued_again_and_goes_on(command: Command, tmp_path: Path, slurm: dict[str, str]) -> None:
    """Two jobs as an array; the first is told that its time is up after its second checkpoint."""
    (tmp_path / "mine.py").write_text(
        "import time\n\ndef f(sample):\n    time.sleep(0.05)\n    return len(sample.response)\n", encoding="utf-8"
    )
    first = tmp_path / "sweep" / "000_seed-1"

    def time_is_up() -> None:
        deadline = time.monotonic() + 200
        while not (first / "checkpoints" / "step-000002").is_dir() and time.monotonic() < deadline:
            time.sleep(0.05)
        psutil.Process(record(first)["process"]).send_signal(signal.SIGUSR2)

    threading.Thread(target=time_is_up, daemon=True).start()
    done = command(
        "train", *SMALL, "seed=1,2", "reward=python", "reward.python.function=mine.py:f", "trainer.steps=8",
        "trainer.checkpoint_every=1", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=short", env=slurm, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    script = (tmp_path / "state" / "script.sh").read_text(encoding="utf-8")
    assert "#SBATCH --partition=short" in script
    assert "#SBATCH --array=0-1%" in script
    assert list((tmp_path / "state").glob("requeued-77_0-0"))
    assert record(first)["resumed"] == 1
    assert record(first)["status"] == record(tmp_path / "sweep" / "001_seed-2")["status"] == "finished"
    rows = [json.loads(line) for line in (first / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))  # none twice, none missing


def test_no_cluster_and_bad_numbers(command: Command, tmp_path: Path) -> None:
    assert "n_jobs=0: it must be at least 1" in refused(
        command("train", *SMALL, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    )
    assert not (tmp_path / "sweep").exists()
    assert shutil.which("sbatch") is None
    done = command("train", *SMALL, "seed=1,2", "hydra/launcher=submitit_slurm", env={})
    assert done.returncode == 1
    assert "the launcher gave up" in done.stderr
    assert "2 missing" in done.stdout


def test_more_jobs_than_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    from llmrl.sweeps import memory
    from tests.test_config import composed

    config = composed("train", "experiment=debug")
    needed = memory.job_bytes(config)
    assert needed is not None
    assert 900_000_000 < needed < 2_000_000_000  # the tiny model
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2.5 * needed))
    assert memory.jobs_at_once(8, config) == 2
    assert "8 jobs at once would want" in capsys.readouterr().err
    assert memory.jobs_at_once(2, config) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=1))
    assert memory.jobs_at_once(8, config) == 1
    rounds = iter([True, True, False])
    memory.wait_for_memory(config, lambda: next(rounds))  # until no other job is left
    assert "waiting until" in capsys.readouterr().out


def test_as_many_jobs_at_once_as_were_asked_for_in_every_batch(monkeypatch: pytest.MonkeyPatch, launch: StubLaunch) -> None:
    """One job, then four, then four with memory for one, then four."""
    from llmrl.sweeps import launch as room
    from tests.test_config import composed

    launch.master.hydra.launcher.n_jobs = 4
    fits = iter([4, 4, 1, 4])
    monkeypatch.setattr(room, "jobs_at_once", lambda wanted, config: min(wanted, next(fits)))
    monkeypatch.setattr(room.os, "environ", {})
    asked = []
    for jobs in (1, 4, 4, 4):
        launch._share_out(jobs, composed("train"))
        asked.append(launch.master.hydra.launcher.n_jobs)
    assert asked == [1, 4, 1, 4]
    assert launch.at_once == 4


def test_what_a_killed_worker_took_along_is_started_once_more(monkeypatch: pytest.MonkeyPatch, launch: StubLaunch) -> None:
    from llmrl.sweeps.launch import Launch

    jobs = [(Job(number, (), f"00{number}", str(number)), [f"seed={number}"]) for number in range(3)]
    launch.master.hydra.launcher.n_jobs = 2
    launched: list[list[int]] = []

    def gives_up(self: Launch, jobs: Sequence[tuple[Job, Sequence[str]]], configs: object) -> bool:
        launched.append([job.number for job, _ in jobs])
        leave_run(launch.folder / "000", launch.compose([]), 0.5)
        leave_run(launch.folder / "001", launch.compose([]), 0.5, status="running")  # killed
        return False

    monkeypatch.setattr(Launch, "_launched", gives_up)
    Launch.run(launch, jobs, lambda job: launch.compose([]))
    assert launched == [[0, 1, 2], [1, 2]]


def test_the_end_of_every_job_of_submitit_is_awaited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first was killed, which its results say; what Hydra does with them."""
    submitit = pytest.importorskip("submitit")

    def results(job: Any) -> list[str]:
        if job.job_id == "0":
            raise submitit.core.utils.UncompletedJobError("out of memory")
        return ["done"]

    monkeypatch.setattr(submitit.Job, "results", results)
    jobs = [submitit.LocalJob(tmp_path, str(number)) for number in range(3)]
    with every_job_awaited("hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"):
        assert [job.results()[0] for job in jobs] == [None, "done", "done"]
    assert "job 0 crashed: out of memory" in capsys.readouterr().err
    with pytest.raises(submitit.core.utils.UncompletedJobError):
        jobs[0].results()


def test_a_launcher_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hydra.types import HydraContext
    from omegaconf import OmegaConf

    from llmrl.sweeps.launch import Launch

    master = OmegaConf.create(
        {"hydra": {"launcher": {"_target_": "hydra_plugins.hydra_joblib_launcher_of_old.x.Y"},
                   "runtime": {"choices": {"hydra/launcher": "joblib"}}}}
    )  # fmt: skip
    with pytest.raises(UserError, match=r"hydra/launcher=joblib is not installed: pip install 'llmrl\[joblib\]'"):
        Launch(HydraContext.__new__(HydraContext), master, lambda config: None).check()
