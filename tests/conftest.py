"""Shared by all tests: the tiny model, and commands run as a person would run them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # several workers share the processors: two threads each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from llmrl.config import Device, ModelConfig, Precision
from llmrl.models.load import LanguageModel, load
from llmrl.models.places import cache_folder
from tests.forks import Forks

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def loaded_tiny() -> LanguageModel:
    return load(ModelConfig(name_or_path="packaged:tiny", precision=Precision.fp32, device=Device.cpu))


@pytest.fixture
def tiny(loaded_tiny: LanguageModel) -> LanguageModel:
    """The tiny model in fp32, weights of the test's own."""
    copy = loaded_tiny.frozen_copy()
    copy.model.requires_grad_(True)
    return copy


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The real SmolLM2, fetched by `make test`."""
    folder = cache_folder() / "HuggingFaceTB--SmolLM2-135M-Instruct"
    assert folder.is_dir(), "SmolLM2 is missing; bring it with: python scripts/fetch_models.py smollm2"
    return folder


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    made = Forks(ROOT)
    yield made
    made.end()


@pytest.fixture
def command(tmp_path: Path, forks: Forks) -> Command:
    """`command("train", "key=value", ...)` runs `python -m llmrl.train key=value ...` in a folder of the test's own.

    In a fork of a process that has imported what it needs; with an environment or limits of its own, in a process of its own.
    """

    def run(name: str, *words: str, timeout: float = 240, **options: object) -> subprocess.CompletedProcess[str]:
        cwd = Path(str(options.pop("cwd", tmp_path)))
        if not options:
            return forks.run(name, words, cwd, timeout)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}  # type: ignore[dict-item]
        return subprocess.run(
            [sys.executable, "-m", f"llmrl.{name}", *words],
            cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip

    return run


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


SMALL_RUN = ("experiment=debug", "hydra.run.dir=run")
"""Two steps of the tiny model, tracker=none, into run/."""


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that was refused; fails unless it was refused as it should be."""
    assert done.returncode == 2, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("llmrl ")
    return lines[0]
