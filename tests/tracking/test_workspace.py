"""The dashboard as code: what would be sent names metrics that a run logs, and settings that there are."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from llmrl.config import TrainConfig, option_keys
from tests.conftest import ROOT
from tests.docs.test_metrics import documented
from tests.tracking.wandb_server import Server


def test_the_dashboard_names_what_there_is(tmp_path: Path) -> None:
    server = Server(0, tmp_path / "server")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "wandb_workspace.py"), "--entity", "team", "--sweep", "mysweep", "--show"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        env={**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path)},
    )  # fmt: skip
    server.shutdown()
    assert done.returncode == 0, done.stderr
    view, report = json.loads(done.stdout)
    assert "mysweep" in json.dumps(report)
    sections = view["spec"]["section"]["panel_bank_config"]["sections"]
    named = [section["name"] for section in sections]
    assert [name for name in named if name in ("Reward", "KL and text", "Update", "Samples and histograms", "Speed")] == [
        "Reward", "KL and text", "Update", "Samples and histograms", "Speed",
    ]  # fmt: skip
    histograms = {f"histograms/{name}" for name in ("reward", "response/length", "policy/ratio")}
    known = documented() | histograms | {"train/global_step"}
    text = done.stdout
    metrics = set(re.findall(r'"((?:objective|policy|val|eval|response|time|rewards|train)/[\w/]+)"', text))
    patterns = [re.compile(re.escape(name).replace("<name>", r"\w+") + "$") for name in known]
    assert metrics
    assert [name for name in metrics if not any(pattern.match(name) for pattern in patterns)] == []
    keys = set(option_keys(TrainConfig))
    settings = {re.sub(r"\.value(?=\.|$)", "", name) for name in re.findall(r'"config:([\w.]+)"', text)}  # as W&B writes paths
    assert settings
    assert settings <= keys
    assert "mysweep" in json.dumps(report)
