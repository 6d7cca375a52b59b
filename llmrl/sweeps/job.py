"""One job of a sweep: it may fail in any way without an end to the others, and leaves word of how it ended in its folder."""

import contextlib
import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from llmrl.config import TrainConfig
from llmrl.errors import INTERRUPTED, REFUSED, UserError
from llmrl.files import is_locked
from llmrl.sweeps.memory import wait_for_memory
from llmrl.sweeps.plan import Job, find_job, label
from llmrl.tracking.run_folder import RunFolder

FAILED = 1


def in_sweep() -> bool:
    """Whether this process composes or runs a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def run_job(
    compose: Callable[[], TrainConfig], work: Callable[[TrainConfig], int], explain: Callable[[BaseException], str | None]
) -> int:
    """`work` on what `compose` gives, its failure said in one line and kept in the job's error.txt. Returns the exit status.

    `explain` gives the line for an error that a person can mend, None for any other. Raises KeyboardInterrupt alone.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    job, count = find_job(folder)
    ours = not is_locked(folder)  # else another process is at this job, and what it leaves is its own
    if ours:
        with contextlib.suppress(OSError):
            (folder / "error.txt").unlink(missing_ok=True)  # of an earlier try
    with _output_of(folder):
        print(f"\njob {job.number + 1} of {count}: {label(job.overrides)}", flush=True)
        try:
            config = compose()
            if _in_parallel():
                wait_for_memory(config, lambda: any_running(folder.parent, folder))
            status = work(config)
        except Exception as error:
            status = REFUSED if isinstance(error, UserError) else FAILED
            said = explain(error) or f"{type(error).__name__}: {error}"
            if ours:
                note_failure(folder, error, said)
            print(f"llmrl train: job {job.number + 1} failed: {said}", file=sys.stderr, flush=True)
    _clear_up()
    _say_end(folder, job, count, status)
    if status == INTERRUPTED:
        raise KeyboardInterrupt("said")  # the person wants the sweep to stop, not this job alone
    return status


def _clear_up() -> None:
    """Find the garbage of a job that ended, and give its memory back.

    What is left of the first, libraries for the most part, is not looked at again.
    """
    from llmrl.engine.memory import give_back_memory  # here, as it loads torch, which a job has done

    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
    give_back_memory()


def any_running(sweep: Path, but: Path) -> bool:
    """Whether another job of the sweep is at work."""
    return any(is_locked(lock.parent) for lock in sweep.glob("*/.lock") if lock.parent != but)


def note_failure(folder: Path, error: BaseException, said: str) -> None:
    """Of a job that did not come as far as to say it itself: error.txt, the traceback and what was said as its last line, and
    run.json where an earlier try has left one."""
    path, run = folder / "error.txt", RunFolder(folder)
    if path.is_file():
        return  # the run itself knew more
    with contextlib.suppress(OSError, UserError):  # a full disk: what is on the terminal must do
        path.write_text("".join(traceback.format_exception(error)) + f"\n{said}\n", encoding="utf-8")
        if run.exists:
            run.mark("failed", error=said)


def _in_parallel() -> bool:
    return "joblib" in str(HydraConfig.get().launcher.get("_target_", ""))


@contextlib.contextmanager
def _output_of(folder: Path) -> Iterator[None]:
    """Jobs side by side on one terminal would write into each other's lines: each has a log.txt of its own."""
    if not _in_parallel():
        yield
        return
    with (
        (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log), contextlib.redirect_stderr(log),
    ):  # fmt: skip
        yield


def _say_end(folder: Path, job: Job, count: int, status: int) -> None:
    if _in_parallel():
        end = {0: "finished", INTERRUPTED: "interrupted"}.get(status, "failed")
        print(f"job {job.number + 1} of {count} {end}: {label(job.overrides)} (its words: {folder / 'log.txt'})", flush=True)
