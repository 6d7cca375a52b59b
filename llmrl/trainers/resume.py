"""Which folder a run goes into, and whether it goes on from what is there."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from packaging.version import InvalidVersion, Version

from llmrl.config import TrainConfig, first_difference, read_train_config
from llmrl.errors import UserError
from llmrl.registry import TRAINERS
from llmrl.tracking import RunFolder, find_run


@dataclass
class Place:
    """A run's folder, locked; its config; and whether there is something to go on from, or nothing left to do."""

    run: RunFolder
    config: TrainConfig
    resumes: bool = False
    finished: bool = False


def find_place(config: TrainConfig) -> Place:
    """By `resume`: a new folder, the one named, or for `auto` this command's own unfinished run, else a new folder.

    Raises UserError if the folder is taken, still running, finished, of another config or made by a newer version.
    """
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    if config.resume is None and HydraConfig.get().mode is RunMode.MULTIRUN and folder.exists:
        return _again(folder, config)
    if config.resume is None:
        folder.refuse_if_taken()
        return Place(folder, config)
    wanted, config.resume = config.resume, None
    if wanted != "auto":
        return _named(wanted)
    place = _same(folder, config) if folder.exists else _unfinished(folder.path.parent, config)
    return place or Place(folder, config)


def _named(name: str) -> Place:
    others = [word for word in HydraConfig.get().overrides.task if not word.startswith("resume=")]
    if others:
        raise UserError(f"resume= goes on with the config of the run; {others[0]} can't be changed")
    run = find_run(name)
    _refuse_newer(run)
    run.lock()
    if run.record.get("status") == "finished":
        raise UserError(f"{name} is finished; start a new run from its model with model.name_or_path={name}")
    config = read_train_config(run.path / "config.yaml")
    if not can_resume(config):
        raise UserError(f"{name} is a run of trainer={config.trainer.name}, which keeps no checkpoints: start it again")
    return Place(run, config, resumes=True)


def _again(folder: RunFolder, config: TrainConfig) -> Place:
    """A job of a sweep whose folder holds its run already, as it was killed, stopped, failed or queued again."""
    if can_resume(config) or folder.record.get("status") == "finished":
        return _same(folder, config)
    folder.lock()
    folder.set_aside()
    return Place(folder, config)


def can_resume(config: TrainConfig) -> bool:
    """Whether the trainer of a run keeps what is needed to go on with it."""
    return getattr(TRAINERS.get(config.trainer.name), "can_resume", False)


def _same(run: RunFolder, config: TrainConfig) -> Place:
    """The folder that the command names holds a run already: a job that was queued again."""
    _refuse_newer(run)
    run.lock()
    if found := first_difference(read_train_config(run.path / "config.yaml"), config):
        key, then, now = found
        raise UserError(f"{run.path} holds a run with {key}={then}, not {now}; choose another hydra.run.dir")
    return Place(run, config, resumes=True, finished=run.record.get("status") == "finished")


def _unfinished(parent: Path, config: TrainConfig) -> Place | None:
    """The newest run beside the folder that would be new that is not finished, not running, and has this very config."""
    if any(word.startswith("hydra.run.dir=") for word in HydraConfig.get().overrides.hydra):
        return None
    for path in sorted(parent.glob("*/run.json"), key=lambda each: each.stat().st_mtime, reverse=True):
        run = RunFolder(path.parent)
        try:
            if run.record.get("status") == "finished":
                continue
            if first_difference(read_train_config(run.path / "config.yaml"), config) is None:
                _refuse_newer(run)
                run.lock()
                return Place(run, config, resumes=True)
        except UserError:  # unreadable, running or not ours: not the one that is looked for
            continue
    return None


def _refuse_newer(run: RunFolder) -> None:
    made_by, own = str(run.record.get("versions", {}).get("llmrl", "0")), metadata.version("llmrl")
    try:
        newer = Version(made_by) > Version(own)
    except InvalidVersion:
        newer = True
    if newer:
        raise UserError(f"{run.path} was made by llmrl {made_by}, this is {own}: update llmrl to go on with it")
