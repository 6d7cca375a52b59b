"""What arrives at a server of Weights & Biases, from real online runs; and what happens where it is away, slow or broken."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmrl.tracking.wandb_tracker import logged_offline, silent_about_wandb, thinned
from tests.conftest import Command
from tests.tracking.wandb_server import Server

KEY = "0" * 40
WORDS = ("experiment=debug", "tracker=wandb", "trainer.checkpoint_every=0", "evaluation.examples=0")
Starter = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Starter]:
    """serve(hang_after=3): a server in a thread of this process; it ends with the test."""
    servers: list[Server] = []

    def start(**how: Any) -> Server:
        server = Server(0, tmp_path / "server", **how)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()


def environment(server: Server | str, folder: Path) -> dict[str, str]:
    url = server if isinstance(server, str) else server.url
    return {
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": KEY,
        "HOME": str(folder),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }


def arrived(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "server" / name).read_text(encoding="utf-8").splitlines()]


def history(folder: Path, run: str) -> list[dict[str, Any]]:
    """Rows of a run's history as the server has them."""
    rows: list[dict[str, Any]] = []
    for part in arrived(folder, "streams.jsonl"):
        if part["run"] == run:
            lines = part.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            rows += [json.loads(line) for line in lines]
    return rows


@pytest.mark.slow
def test_three_jobs_are_three_runs_with_the_right_values(command: Command, tmp_path: Path, serve: Starter) -> None:
    server = serve()
    (tmp_path / "mine.py").write_text(
        "def f(sample, boost=0.0):\n    if boost > 1:\n        raise ValueError('too much')\n    return boost\n",
        encoding="utf-8",
    )
    done = command(
        "train", "-m", *WORDS, "hydra.sweep.dir=outputs/mysweep", "reward=[python,no_repeat]",
        "reward.python.function=mine.py:f", "reward.python.parameters.boost=0.5,0.25,3", "trainer.eval_every=1",
        "tracker.tags=[mine]", env=environment(server, tmp_path),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    sweep = tmp_path / "outputs" / "mysweep"
    jobs = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in sorted(sweep.glob("0*"))]
    calls = arrived(tmp_path, "calls.jsonl")
    begun = [call["variables"] for call in calls if call["call"] == "UpsertBucket" and call["variables"]["groupName"]]
    assert [each["name"] for each in begun] == [job["wandb_id"] for job in jobs]
    assert {each["groupName"] for each in begun} == {"mysweep"}
    assert {each["jobType"] for each in begun} == {"sweep"}
    assert all(set(each["tags"]) == {"ppo", "python", "no_repeat", "mine"} for each in begun)
    configs = [json.loads(each["config"]) for each in begun]
    assert [each["reward"]["value"]["python"]["parameters"]["boost"] for each in configs] == [0.5, 0.25, 3]  # nested, not flat

    endings = {part["run"]: part["exitcode"] for part in arrived(tmp_path, "streams.jsonl") if "exitcode" in part}
    assert [endings[job["wandb_id"]] for job in jobs] == [0, 0, 1]
    for folder, job in zip(sorted(sweep.glob("0*"))[:2], jobs, strict=False):
        own = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        rows = history(tmp_path, job["wandb_id"])
        seen = {row["train/global_step"]: row["objective/scores"] for row in rows if "objective/scores" in row}
        assert seen == pytest.approx({row["step"]: row["objective/scores"] for row in own if "objective/scores" in row})
        logged = {key for row in rows for key in row}
        assert {"histograms/reward", "histograms/policy/ratio", "histograms/response/length"} <= logged
        path = tmp_path / "server" / "files" / f"_put_{job['wandb_id']}_wandb_summary_json"
        summary = json.loads(path.read_text(encoding="utf-8"))
        looks = [row["eval/reward"] for row in own if "eval/reward" in row]
        assert summary["eval/best/reward"] == pytest.approx(max(looks))
        assert summary["eval/last/reward_low"] <= summary["eval/last/reward"] == looks[-1] <= summary["eval/last/reward_high"]
        assert summary["eval/final/verdict"] in ("improved", "worse", "no evidence")
    alerts = [call["variables"] for call in calls if call["call"] == "NotifyScriptableRunAlert"]
    assert ["too much" in each["text"] for each in alerts if each["runName"] == jobs[2]["wandb_id"]] == [True]
    made = {call["variables"]["artifactTypeName"] for call in calls if call["call"] == "CreateArtifact"}
    assert {"model", "report", "prompts"} <= made
    assert [(folder / "report.html").is_file() for folder in sorted(sweep.glob("0*"))] == [True, True, False]
    assert [call for call in calls if call["call"] == "UseArtifact"]
    names = {
        each["alias"] for call in calls if call["call"] == "CreateArtifact" and call["variables"]["artifactTypeName"] == "model"
        for each in call["variables"]["aliases"]
    }  # fmt: skip
    assert {"final", "best"} & names >= {"final"}


@pytest.mark.parametrize(
    "how", [{"hang_after": 0}, {"hang_after": 3}, {"fail": True}, None], ids=["silent", "hangs", "errors", "away"]
)
def test_training_goes_on_whatever_the_server_does(
    command: Command, tmp_path: Path, serve: Starter, how: dict[str, Any] | None
) -> None:
    """The run ends as it would, soon, and what the server did not take is on the disk, to be uploaded later."""
    server = "http://127.0.0.1:9" if how is None else serve(**how)
    begun = time.monotonic()
    done = command(
        "train", *WORDS, "hydra.run.dir=run", "tracker.init_timeout=3", "tracker.finish_timeout=3",
        env=environment(server, tmp_path), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Verdict" in done.stdout
    assert "Traceback" not in done.stderr
    assert "wandb sync" in done.stderr
    assert time.monotonic() - begun < 100
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    logs = list((tmp_path / "run" / "wandb").glob(f"*-{record['wandb_id']}/run-{record['wandb_id']}.wandb"))
    assert logs
    assert max(path.stat().st_size for path in logs) > 1000
    assert record["wandb_mode"] == "offline"
    steps = {step for path in logs for kind, step in logged_offline(path) if kind == "metrics"}
    assert steps == {1, 2}


def test_a_long_table_keeps_whole_steps_from_the_first_to_the_last() -> None:
    table = [[step, "prompt", "response", 0.5] for step in range(1000) for _ in range(8)]
    kept = thinned(table, 2000)
    steps = sorted({row[0] for row in kept})
    assert len(kept) == 2000
    assert (len(steps), steps[0], steps[-1]) == (250, 0, 999)
    assert max(after - before for before, after in pairwise(steps)) <= 5
    assert thinned(table[:16], 2000) == table[:16]
    assert thinned([], 2000) == []


def test_threads_of_a_run_that_was_given_up_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wandb.sdk.lib.asyncio_manager import AlreadyJoinedError

    def end_with(error: Exception) -> str:
        def fail() -> None:
            raise error

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        return capsys.readouterr().err

    monkeypatch.setattr(threading, "excepthook", silent_about_wandb)
    assert end_with(AlreadyJoinedError("the helper is gone")) == ""
    assert "ValueError: ours" in end_with(ValueError("ours"))


def test_a_wrong_key_is_said_and_the_run_is_kept_offline(command: Command, tmp_path: Path) -> None:
    done = command(
        "train", *WORDS, "hydra.run.dir=run", "tracker.init_timeout=3",
        env={"WANDB_API_KEY": "too-short", "HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wandb: offline" in done.stderr
    assert "Traceback" not in done.stderr
