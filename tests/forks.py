"""Commands without the seconds that importing takes: a process that has imported everything forks once for each.

What runs in the fork is the command's own module as `__main__`, with its words, folder and standard streams; nothing was
computed before the fork, so that no thread is lost by it. Run as a program it is that process: JSON lines of requests in, exit
statuses out.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


class Forks:
    """Starts the process when it is first needed."""

    def __init__(self, root: Path) -> None:
        self.root, self.process = root, None

    def run(self, name: str, words: tuple[str, ...], cwd: Path, timeout: float) -> "subprocess.CompletedProcess[str]":
        """As `python -m llmrl.<name> <words>` in `cwd`. Raises TimeoutExpired."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.forks"], cwd=self.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(self.root)},
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as streams:
            request = {"name": name, "words": words, "cwd": str(cwd), "streams": streams, "timeout": timeout}
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            status = json.loads(self.process.stdout.readline())
            out, err = ((Path(streams) / each).read_text(encoding="utf-8", errors="replace") for each in ("out", "err"))
        if status is None:
            raise subprocess.TimeoutExpired([name, *words], timeout, out, err)
        return subprocess.CompletedProcess([name, *words], status, out, err)

    def end(self) -> None:
        if self.process is not None:
            self.process.communicate()


def _child(request: dict[str, Any]) -> None:
    """The command, to its end."""
    os.chdir(request["cwd"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(request["streams"]) / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, encoding="utf-8") for number, mode in enumerate("rww"))
    sys.argv = [f"llmrl.{request['name']}", *request["words"]]
    sys.path[0] = request["cwd"]
    status: Any = 0
    try:
        runpy.run_module(f"llmrl.{request['name']}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _serve() -> None:
    import llmrl.evaluation.run
    import llmrl.ppo.trainer
    import llmrl.retrieval.run
    import llmrl.rollout.ask
    import llmrl.rollout.contexts
    import llmrl.rollout.generate
    import llmrl.trainers.run  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(request["timeout"]))
            _child(request)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps(None if code == -signal.SIGALRM else code), flush=True)


if __name__ == "__main__":
    _serve()
