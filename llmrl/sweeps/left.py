"""Which jobs of a sweep have yet to be run; a folder that is damaged makes room for a new one."""

import shutil
from pathlib import Path

from llmrl.files import is_locked
from llmrl.sweeps.plan import Job
from llmrl.sweeps.results import read_result


def is_left(sweep: Path, job: Job) -> bool:
    """Whether a job has yet to be run, or gone on with. Where its files are damaged they are moved away: it begins anew."""
    folder = sweep / job.folder
    if job.same_as is not None or is_locked(folder):
        return False
    result = read_result(sweep, job)
    if result.status == "finished":
        return False
    if result.damaged:
        _set_aside(folder)
    return True


def _set_aside(folder: Path) -> None:
    number = len(list(folder.parent.glob(f"damaged-{folder.name}*")))
    shutil.move(folder, folder.with_name(f"damaged-{folder.name}-{number}"))
