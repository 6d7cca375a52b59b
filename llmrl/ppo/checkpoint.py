"""Checkpoints: everything a run needs to go on, in safetensors and JSON, written so that half of one is never found.

A checkpoint is a folder `step-N` with the trained weights, the optimiser's state, the random streams, and `state.json` with the
rest; `manifest.json` holds the SHA-256 of each, so that damage is noticed and not trained on.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmrl.config import first_difference
from llmrl.errors import RunError, UserError
from llmrl.files import flush, sha256_of
from llmrl.models.policy import Policy
from llmrl.ppo.kl_control import KLController
from llmrl.ppo.running import RunningStatistics
from llmrl.ppo.streams import restore_shared_streams, shared_streams
from llmrl.ppo.update import SkippedUpdates

FORMAT = 3


class DamagedError(UserError):
    """A checkpoint that can't be read; the one before it may do."""


@dataclass
class Best:
    """The step whose held-out reward was the highest, and how many looks there were since."""

    step: int
    reward: float
    looks_since: int = 0


@dataclass
class Progress:
    """Where a run stands after `step` steps: everything that is neither weights nor the optimiser's."""

    generators: dict[str, torch.Generator]  # every random stream of the run, by name
    kl_control: KLController
    step: int = 0
    episodes: int = 0
    score_statistics: RunningStatistics = field(default_factory=RunningStatistics)
    skipped: SkippedUpdates = field(default_factory=SkippedUpdates)
    best: Best | None = None
    stopped: str = ""  # why the run ends before its last step
    unlogged: dict[str, float] | None = None  # figures of a step whose held-out evaluation broke off: it is owed


PLAIN = ("step", "episodes", "stopped", "unlogged")


def save_checkpoint(
    folder: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `folder`/step-N under a temporary name, flush, rename; drop all but the newest `keep` and the best.

    `settings` is the run's config as plain containers, held against the config of whoever loads it. Raises RunError if the disk
    does not take it; checkpoints written before stay as they are.
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
        save_file(_trained(policy), temporary / "policy.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        streams = {name: generator.get_state() for name, generator in progress.generators.items()}
        save_file(streams | shared_streams(), temporary / "random.safetensors")
        _write_json(temporary / "state.json", _record(progress, state["param_groups"], settings))
        _write_json(temporary / "manifest.json", {path.name: sha256_of(path) for path in sorted(temporary.iterdir())})
        readable = (temporary / "state.json").stat().st_mode  # safetensors makes its files readable to their owner alone
        for path in temporary.iterdir():
            path.chmod(readable)
            flush(path)
        flush(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"the checkpoint {target} could not be written: {error}; free space, then resume the run") from error
    _drop_old(folder, keep, progress.best)
    return target


def load_checkpoint(
    path: Path, policy: Policy, optimizer: torch.optim.Optimizer, progress: Progress, settings: Mapping[str, Any]
) -> None:
    """Restore policy, value head, optimiser and `progress` in place; nothing is touched if anything is wrong.

    Raises DamagedError if a file can't be read or has changed, UserError if it is of another model, config or a newer version.
    """
    record, (weights, moments, streams) = _read(path)
    if record["format"] != FORMAT:
        age = "a newer" if record["format"] > FORMAT else "an older"
        raise UserError(f"checkpoint {path} was made by {age} llmrl (format {record['format']}, this one reads {FORMAT})")
    if found := first_difference(record["settings"], settings):
        key, then, now = found
        raise UserError(f"checkpoint {path} was made with {key}={then}, the config says {now}: the run can't go on from it")
    _refuse_other_weights(path, weights, _trained(policy), policy.language_model.name)
    policy.load_state_dict(weights, strict=False)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})
    for name, generator in progress.generators.items():
        generator.set_state(streams[name])
    restore_shared_streams(streams)
    for name in PLAIN:
        setattr(progress, name, record[name])
    progress.kl_control.coef = record["kl_coef"]
    progress.score_statistics = RunningStatistics(**record["score_statistics"])
    progress.skipped.row = record["skipped_in_a_row"]
    progress.best = Best(**record["best"]) if record["best"] else None


def load_policy(path: Path, policy: Policy) -> None:
    """The trained weights of a checkpoint alone. Raises DamagedError."""
    _, (weights, _, _) = _read(path)
    policy.load_state_dict(weights, strict=False)


def checkpoints(folder: Path) -> list[Path]:
    """Every whole checkpoint in a folder, the newest first; one that was being written has another name."""
    return sorted(folder.glob("step-*"), reverse=True)


def _trained(policy: Policy) -> dict[str, Tensor]:
    """What is trained of policy and value head, tied weights once. What is frozen comes from the model itself."""
    seen: set[int] = set()
    found = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            found[name] = parameter.detach().cpu().contiguous()
    return found


def _record(progress: Progress, param_groups: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **{name: getattr(progress, name) for name in PLAIN},
        "kl_coef": progress.kl_control.coef,
        "score_statistics": asdict(progress.score_statistics),
        "skipped_in_a_row": progress.skipped.row,
        "best": asdict(progress.best) if progress.best else None,
        "param_groups": param_groups,
        "settings": settings,
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _drop_old(folder: Path, keep: int, best: Best | None) -> None:
    for old in checkpoints(folder)[keep:]:
        if best is None or old.name != f"step-{best.step:06d}":
            shutil.rmtree(old, ignore_errors=True)


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """(state.json, tensors of policy, optimizer, random), each held against the manifest."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name, digest in manifest.items():
            if sha256_of(path / name) != digest:
                raise DamagedError(f"checkpoint {path} is damaged: {name} is not what was written")
        record = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return record, [load_file(path / f"{name}.safetensors") for name in ("policy", "optimizer", "random")]
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise DamagedError(f"checkpoint {path} is damaged: {error}") from error


def _refuse_other_weights(path: Path, saved: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> None:
    for tensor in sorted(saved.keys() | own.keys()):
        shapes = [tuple(each[tensor].shape) if tensor in each else "none" for each in (saved, own)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"checkpoint {path} is of another model than {name!r}: {tensor} is {shapes[0]} there, {shapes[1]} here"
            )
