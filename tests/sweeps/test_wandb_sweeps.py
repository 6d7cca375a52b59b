"""Sweeps of Weights & Biases: real agents, as they run on several machines, told what to run by a server."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from tests.conftest import ROOT
from tests.test_config import composed
from tests.tracking.wandb_server import Server

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_words_of_an_agent_are_a_config(path: Path) -> None:
    """The least and the most of every parameter, as W&B's own code writes them."""
    sweep = read(path)
    assert sweep["command"] == ["${env}", "python", "-m", "llmrl.train", "${args_no_hyphens}"]
    for end in (0, -1):
        args = {}
        for name, given in sweep["parameters"].items():
            known = given.get("values") or ([given["value"]] if "value" in given else [given["min"], given["max"]])
            args[name] = {"value": known[end]}
        words = create_sweep_command_args({"args": args})["args_no_hyphens"]
        config = composed("train", *words)
        assert config.seed == args["seed"]["value"]
        if early := sweep.get("early_terminate"):  # hyperband counts how often the metric was logged
            looks = 1 + config.trainer.steps // config.trainer.eval_every
            assert (sweep["metric"]["name"], early["min_iter"] * early["eta"] <= looks) == ("eval/reward", True)


def test_none_of_an_agent_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmrl.compose import as_meant

    words = create_sweep_command_args({"args": {"trainer.patience": {"value": None}}})["args_no_hyphens"]
    assert words == ["trainer.patience=None"]
    monkeypatch.setenv("WANDB_SWEEP_ID", "sw")
    assert as_meant(words[0]) == "trainer.patience=null"
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert as_meant(words[0]) == "trainer.patience=None"


@pytest.mark.slow
def test_two_agents_share_a_sweep(tmp_path: Path) -> None:
    sweep = read(ROOT / "sweeps" / "tiny_grid.yaml")
    orders = [
        {
            "type": "run", "id": str(seed), "run_id": f"run0000{seed}", "program": sweep["program"],
            "args": {"experiment": {"value": "debug"}, "tracker": {"value": "wandb"}, "seed": {"value": seed}},
        }
        for seed in (1, 2, 3)
    ]  # fmt: skip
    server = Server(0, tmp_path / "server", sweep=yaml.safe_dump(sweep), orders=orders)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path), "WANDB_SILENT": "false",
    }  # fmt: skip
    agents = []
    for number in (1, 2):
        folder = tmp_path / f"machine{number}"
        folder.mkdir()
        agents.append(
            subprocess.Popen(
                [f"{binaries}/wandb", "agent", "somebody/llmrl/sw"],
                cwd=folder,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    said = [agent.communicate(timeout=60)[0] for agent in agents]
    server.shutdown()
    records = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("machine*/outputs/*/run.json")]
    assert {record["wandb_id"]: record["seed"] for record in records} == {f"run0000{seed}": seed for seed in (1, 2, 3)}, said
    assert {record["status"] for record in records} == {"finished"}
    assert len(list(tmp_path.glob("machine*/outputs"))) == 2  # both had some of it
    calls = [json.loads(line) for line in (tmp_path / "server" / "calls.jsonl").read_text(encoding="utf-8").splitlines()]
    begun = [call["variables"] for call in calls if call["call"] == "UpsertBucket" and call["variables"].get("tags")]
    assert {each["name"]: each["sweep"] for each in begun} == {f"run0000{seed}": "sw" for seed in (1, 2, 3)}
