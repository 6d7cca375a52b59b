"""The wheel, installed in a clean environment in another folder, trains with a config of the user's own."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_wheel_trains_from_anywhere(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "outputs", "__pycache__", ".*_cache"))
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source], check=True,
                   capture_output=True)  # fmt: skip
    wheel = next(tmp_path.glob("llmrl-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "llmrl/conf/train.yaml", "llmrl/assets/tiny/model.safetensors", "llmrl/assets/openings.txt",
        "llmrl/pages/template.html", "llmrl/conf/hydra/sweeper/grid.yaml", "hydra_plugins/llmrl_sweepers/__init__.py",
        "llmrl/web/style.css", "llmrl/.streamlit/config.toml", "llmrl/conf/app.yaml",
        "llmrl/assets/example_run/final/model.safetensors",
    } <= set(names)  # fmt: skip
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "conf/"))]

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=600)

    mine = tmp_path / "elsewhere" / "my_conf" / "experiment"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - debug\n  - override /reward: [end_of_sentence]\nppo:\n  lr: 3.0e-5\n",
        encoding="utf-8",
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for command in ([tmp_path / "venv" / "bin" / "llmrl-train"], [python, "-m", "llmrl.train"]):
        done = subprocess.run(
            [*command, "--config-dir", "my_conf", "experiment=mine", "evaluation.enabled=false"],
            cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    runs = list((tmp_path / "elsewhere" / "outputs").glob("*/config.yaml"))
    assert len(runs) == 2
    swept = subprocess.run(
        [tmp_path / "venv" / "bin" / "llmrl-train", "-m", "experiment=debug", "seed=1,2", "hydra.sweep.dir=sweep"],
        cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert swept.returncode == 0, swept.stderr
    assert (tmp_path / "elsewhere" / "sweep" / "sweep.html").is_file()
    assert all("lr: 3.0e-05" in path.read_text(encoding="utf-8") for path in runs)
