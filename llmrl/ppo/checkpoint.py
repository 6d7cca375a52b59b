"""Checkpoints: everything a run needs to go on, in safetensors and JSON, written so that half of one is never found."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmrl.errors import RunError, UserError
from llmrl.models.policy import Policy


@dataclass
class Progress:
    """Where a run stands after `step` steps."""

    step: int
    episodes: int
    generators: dict[str, torch.Generator]  # every random stream of the run, by name


def _weights(policy: Policy) -> dict[str, Tensor]:
    """Policy and value head, tied weights once."""
    seen: set[int] = set()
    found = {}
    for name, parameter in policy.named_parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            found[name] = parameter.detach().cpu().contiguous()
    return found


def save_checkpoint(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, progress: Progress, keep: int) -> Path:
    """Write `folder`/step-N under a temporary name, flush, rename, and drop all but the newest `keep`.

    Raises RunError if the disk does not take it; checkpoints written before stay as they are.
    """
    target = folder / f"step-{progress.step:06d}"
    temporary = folder / f".{target.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        state = optimizer.state_dict()
        moments = {
            f"{index}.{key}": value.cpu().contiguous()
            for index, entry in state["state"].items()
            for key, value in entry.items()
        }
        streams = {name: generator.get_state() for name, generator in progress.generators.items()}
        save_file(_weights(policy), temporary / "policy.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        save_file(streams, temporary / "random.safetensors")
        record = {"step": progress.step, "episodes": progress.episodes, "param_groups": state["param_groups"]}
        (temporary / "state.json").write_text(json.dumps(record), encoding="utf-8")
        readable = (temporary / "state.json").stat().st_mode  # safetensors makes its files readable to their owner alone
        for path in temporary.iterdir():
            path.chmod(readable)
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"the checkpoint {target} could not be written: {error}; free space, then resume the run") from error
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(
    path: Path, policy: Policy, optimizer: torch.optim.Optimizer, generators: dict[str, torch.Generator]
) -> Progress:
    """Restore policy, value head, optimiser and random streams in place. Raises UserError if it is damaged or not ours."""
    try:
        weights = load_file(path / "policy.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        streams = load_file(path / "random.safetensors")
        record: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"checkpoint {path} can't be read: {error}") from error
    own = _weights(policy)
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
        raise UserError(f"checkpoint {path} is of another model than {policy.language_model.name!r}")
    policy.load_state_dict(weights, strict=False)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})
    for name, generator in generators.items():
        generator.set_state(streams[name])
    return Progress(step=record["step"], episodes=record["episodes"], generators=generators)
