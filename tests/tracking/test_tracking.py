"""What is written where, read back by the tools people would read it with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.config import TrackerConfig, WandbMode
from llmrl.errors import UserError
from llmrl.tracking import RunFolder, find_run
from llmrl.tracking.wandb_tracker import key_is_configured, wandb_mode
from tests.conftest import SMALL_RUN, Command


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_weights_and_biases_is_the_default_and_offline_without_a_key(command: Command, tmp_path: Path) -> None:
    done = command(
        "train", *SMALL_RUN, "tracker=wandb", env={"HOME": str(tmp_path), "WANDB_API_KEY": ""}, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("wandb: offline")], done.stderr
    folder = next((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert str(folder.relative_to(tmp_path)) in done.stderr  # the line on how to sync names the folder that is there
    inspect = subprocess.run(
        [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(next(folder.glob("*.wandb")))],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "train/global_step" in inspect.stdout
    assert "objective/kl" in inspect.stdout
    assert "rewards/no_repeat/mean" in inspect.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["wandb_id"] in folder.name


def test_tensorboard(command: Command, tmp_path: Path) -> None:
    done = command("train", *SMALL_RUN, "tracker=tensorboard")
    assert done.returncode == 0, done.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    written = lines(tmp_path / "run" / "metrics.jsonl")
    assert [event.value for event in events.Scalars("objective/scores")] == pytest.approx(
        [row["objective/scores"] for row in written]
    )


def test_a_key_is_found_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    assert not key_is_configured()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123456789\n", encoding="utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    assert key_is_configured()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert key_is_configured()


def test_a_run_is_found_and_lines_after_a_checkpoint_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no run under outputs"):
        find_run("latest")
    with pytest.raises(UserError, match="is no run folder"):
        find_run(str(tmp_path))
    run = RunFolder(tmp_path / "outputs" / "one")
    run.path.mkdir(parents=True)
    run.mark("running", seed=1)
    for step in (1, 2, 3):
        run.log({"x": step}, step)
    run.cut_after(2)
    assert [row["step"] for row in lines(run.metrics_file)] == [1, 2]
    assert find_run("latest").record["seed"] == 1


def test_lines_with_odd_separators_and_a_torn_end_are_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log_samples([{"response": "one\u2028two\u0085three"}], 1)
    run.log_samples([{"response": "four"}], 2)
    with run.samples_file.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "resp')
    run.cut_after(2)
    text = run.samples_file.read_text(encoding="utf-8")
    assert [json.loads(line)["response"] for line in text.split("\n")[:-1]] == ["one\u2028two\u0085three", "four"]


def test_where_wandb_logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Never online without a key, whoever asks for it; what the config says comes before the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(TrackerConfig()) == ("offline", "no key configured")
    assert wandb_mode(TrackerConfig(mode=WandbMode.online))[0] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_mode(TrackerConfig())[0] == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(TrackerConfig())[0] == "disabled"
    assert wandb_mode(TrackerConfig(mode=WandbMode.offline))[0] == "offline"
