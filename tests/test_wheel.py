"""The wheel, installed into another environment and used from another folder, with a config of the user's own."""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
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

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    own, installed = (sysconfig.get_path("purelib", vars={"base": base}) for base in (str(tmp_path / "venv"), sys.prefix))
    Path(own, "needed.pth").write_text(f"{installed}\n", encoding="utf-8")  # packages, but not the link to the source
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-compile", wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=600)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    where = [python, "-c", "import llmrl; print(llmrl.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "venv"))

    mine = tmp_path / "elsewhere" / "my_conf" / "experiment"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - debug\n  - override /reward: [end_of_sentence]\nppo:\n  lr: 3.0e-5\n",
        encoding="utf-8",
    )
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


def test_every_package_that_is_imported_is_asked_for() -> None:
    """By the core's dependencies or an extra's: what a dependency happens to bring along may go."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: words for name, words in project["optional-dependencies"].items() if name not in ("dev", "bench")}
    asked = {_plain(re.split(r"[<>=\[ ]", word)[0]) for word in itertools.chain(project["dependencies"], *extras.values())}
    brought = packages_distributions()
    for path in [*(ROOT / "llmrl").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {each.split(".")[0] for each in names} - set(sys.stdlib_module_names) - {"llmrl", "hydra_plugins"}:
                assert {_plain(each) for each in brought.get(name, [name])} & asked, f"{path} imports {name}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
