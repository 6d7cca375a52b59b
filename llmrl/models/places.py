"""Where models lie: the hub's cache, the hub, or what `scripts/fetch_models.py` brought. No pickle is fetched."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llmrl.config import PACKAGED, ModelConfig, packaged
from llmrl.errors import UserError, one_line
from llmrl.files import sha256_of

HUB_SECONDS = 4.0
T = TypeVar("T")
WAYS_OUT = (
    "check the connection, or name a local folder or .gguf file (model.name_or_path=FOLDER), or use model=tiny, which needs no "
    "download; scripts/fetch_models.py brings SmolLM2-135M without a hub"
)


def cache_folder() -> Path:
    """Where `scripts/fetch_models.py` puts models: $LLMRL_CACHE, or ~/.cache/llmrl."""
    return Path(os.environ.get("LLMRL_CACHE") or Path.home() / ".cache" / "llmrl") / "models"


WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt", "vocab.txt", "*.model", "tokenizer*"]


def locate(config: ModelConfig) -> Path:
    """The folder or GGUF file that holds the model, downloaded if it has to be."""
    name = config.name_or_path
    if name.startswith(PACKAGED):
        return packaged(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model.name_or_path={name}: there is no such file")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UserError(f"model.name_or_path={name} is no GGUF file: it does not begin with the letters GGUF")
        return path
    if path.is_dir():
        return _model_folder(path, name)
    if path.is_file():
        raise UserError(f"model.name_or_path={name} is a file, but neither a folder nor a .gguf file")
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"model.name_or_path={name}: there is no such folder")
    fetched = from_hub(name, WEIGHTS, "model", "model.name_or_path", WAYS_OUT, config.revision)
    return _model_folder(fetched, str(fetched)) if fetched.is_relative_to(cache_folder()) else fetched


def _model_folder(path: Path, name: str) -> Path:
    if (path / "run.json").is_file():
        if not (path / "final").is_dir():
            saved = list((path / "checkpoints").glob("step-*"))
            advice = f"go on with it: python -m llmrl.train resume={name}" if saved else "it saved nothing; train again"
            raise UserError(f"run folder {name} has no final/ model, as the run did not finish; {advice}")
        return path / "final"
    if not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        hint = f"; did you mean {ggufs[0]}?" if ggufs else ""
        raise UserError(f"model.name_or_path={name} is no model folder: it has no config.json{hint}")
    if not list(path.glob("*.safetensors")):
        raise UserError(f"model.name_or_path={name} has no .safetensors weights; pickled weights are not read")
    return path


def from_hub(name: str, wanted: Sequence[str], kind: str, option: str, ways_out: str, revision: str | None = None) -> Path:
    """A model's folder: the hub's cached snapshot, else a download of the files `wanted`, else what `fetch_models.py` brought.

    Raises UserError within 10 seconds if the hub does not answer and there is neither; it calls the model a `kind`, names the
    option, and ends with the `ways_out`.
    """
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted), local_files_only=True))
        if _is_whole(folder):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise UserError(f"{option}={name!r} is neither a folder nor a possible hub name") from None
    try:
        info = _within(HUB_SECONDS, lambda: HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS))
    except GatedRepoError:
        raise UserError(
            f"{kind} {name!r} asks for its terms to be accepted on its hub page; then log in: hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{kind} {name!r} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise UserError(f"{kind} {name!r} does not exist on the hub, and there is no folder of that name") from None
    except Exception as error:  # whatever the network does, it is one thing to the person who typed
        if (fetched := cache_folder() / name.replace("/", "--")).is_dir():
            return fetched
        raise UserError(
            f"{kind} {name!r} is not in the cache and the hub cannot be reached ({type(error).__name__}): {ways_out}"
        ) from error
    files = [item.rfilename for item in info.siblings or []]
    if not any(file.endswith(".safetensors") for file in files):
        raise UserError(f"{kind} {name!r} has no .safetensors weights on the hub; pickled weights are not read")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted)))
    except Exception as error:  # the network again
        raise UserError(
            f"{kind} {name!r} could not be downloaded: {one_line(error)[:200]}; the same command goes on"
        ) from error


def cached_folder(name: str) -> Path | None:
    """Where a hub name's files lie on this machine, without asking the hub; None if they do not."""
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        fetched = cache_folder() / name.replace("/", "--")
        return fetched if fetched.is_dir() else None


def weights_of(model: ModelConfig) -> int | None:
    """Parameters of a model by the size of its files, before it is loaded; None where it has yet to be downloaded."""
    path = packaged(model.name_or_path) if model.name_or_path.startswith(PACKAGED) else Path(model.name_or_path)
    if not path.exists():
        found = cached_folder(model.name_or_path)
        if found is None:
            return None
        path = found
    if (path / "final").is_dir():
        path = path / "final"
    if path.suffix == ".gguf":
        return int(path.stat().st_size / 0.6)  # at least four bits and a scale a weight
    files = list(path.glob("*.safetensors"))
    if files:
        return sum(file.stat().st_size for file in files) // 4
    return sum(int(file.stat().st_size / 0.6) for file in path.glob("*.gguf")) or None


def place_of(name: str, kind: str, option: str, ways_out: str) -> Path:
    """The folder that a name means: a path, or a hub name as `from_hub` takes it. Raises UserError."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{option}={name} is no model folder: it has no config.json")
        return path
    if path.exists() or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"{option}={name}: there is no such folder")
    return from_hub(name, WEIGHTS, kind, option, ways_out)


def weights_hash(folder: Path) -> str:
    """SHA-256 over all weights and the tokenizer of a model's folder, wherever that lies."""
    files = sorted([*folder.rglob("*.safetensors"), *folder.glob("tokenizer.json")])
    said = json.dumps({path.relative_to(folder).as_posix(): sha256_of(path) for path in files}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has its config and all of its weights: a download that broke off leaves a part of them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        needed = {"model.safetensors"}
    return (folder / "config.json").is_file() and all((folder / name).is_file() for name in needed)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """`call()`, or TimeoutError: name look-ups have no time-out of their own."""
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return result[0]
