"""What a run leaves in Weights & Biases beside its numbers: its model and report, and what they came from."""

import hashlib
import json
from pathlib import Path
from typing import Any

from llmrl.config import KeepModel, TrackerConfig
from llmrl.tracking.run_folder import RunFolder


def log_artifacts(wandb: Any, run: Any, folder: RunFolder, settings: dict[str, Any], config: TrackerConfig) -> None:
    """Log prompts and index as what the run used, and the report and final model as what it made.

    The model is uploaded, or only told of by path and checksum, as `tracker.model` says. Offline there is no lineage to ask
    for: what was used is logged all the same, and named in the metadata of what was made.
    """
    used = [each for each in (_prompts(wandb, settings), _index(wandb, folder, settings)) if each is not None]
    facts, names = _facts(folder, settings, [artifact.name for artifact in used]), aliases(folder, settings)
    if folder.evaluation_file.is_file():
        report = wandb.Artifact(f"report-{run.id}", type="report", metadata=facts)
        for path in (folder.evaluation_file, folder.path / "report.html"):
            if path.is_file():
                report.add_file(str(path))
        run.log_artifact(report, aliases=names)
    if folder.final.is_dir() and config.model is not KeepModel.none:
        model = wandb.Artifact(f"model-{run.id}", type="model", metadata=facts)
        if config.model is KeepModel.upload:
            model.add_dir(str(folder.final))
        else:
            model.add_reference(f"file://{folder.final.absolute()}")
        run.log_artifact(model, aliases=names)
    for artifact in used:
        if run.offline:
            run.log_artifact(artifact)
        else:
            run.use_artifact(artifact)


def aliases(folder: RunFolder, settings: dict[str, Any]) -> list[str]:
    """`final`, and `best` where the final model is the one with the best held-out reward while training."""
    found = ["final"]
    looks = [row for row in folder.rows(folder.metrics_file, 2**62) if "eval/reward" in row]
    if looks:
        best = max(looks, key=lambda row: row["eval/reward"])["step"]
        if settings["trainer"]["final"] == "best" or best == looks[-1]["step"]:
            found.append("best")
    return found


def _facts(folder: RunFolder, settings: dict[str, Any], used: list[str]) -> dict[str, Any]:
    record = folder.record
    return {
        "base": settings["model"]["name_or_path"], "base_sha256": record.get("weights"), "index_sha256": record.get("index"),
        "reward": settings["reward"], "verdict": record.get("verdict"), "steps": record.get("steps"), "used": used,
        "folder": str(folder.path.absolute()),
    }  # fmt: skip


def _prompts(wandb: Any, settings: dict[str, Any]) -> Any:
    prompts = settings["prompts"]
    digest = hashlib.sha256(json.dumps(prompts, sort_keys=True).encode())
    if prompts["path"] and Path(prompts["path"]).is_file():
        digest.update(Path(prompts["path"]).read_bytes())
    artifact = wandb.Artifact(f"prompts-{prompts['source']}-{digest.hexdigest()[:8]}", type="prompts", metadata=prompts)
    with artifact.new_file("prompts.json") as file:
        json.dump({**prompts, "sha256": digest.hexdigest()}, file, indent=1)
    return artifact


def _index(wandb: Any, folder: RunFolder, settings: dict[str, Any]) -> Any:
    sha256 = folder.record.get("index")
    if sha256 is None:
        return None
    artifact = wandb.Artifact(f"index-{sha256[:8]}", type="index", metadata={"sha256": sha256, **settings["retriever"]})
    with artifact.new_file("index.json") as file:
        json.dump({"sha256": sha256, "index": settings["retriever"]["index"]}, file, indent=1)
    return artifact
