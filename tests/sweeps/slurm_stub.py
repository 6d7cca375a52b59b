#!/usr/bin/env python3
"""What submitit needs of a SLURM cluster, on this machine. State is in $SLURM_STUB.

Named sbatch it really runs the script it is given, a process for each task of an array, again after a requeue; named srun,
sacct and scontrol it does their part.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

STATE, JOB = Path(os.environ["SLURM_STUB"]), "77"


def sbatch(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    (STATE / "script.sh").write_text(text, encoding="utf-8")
    array = re.search(r"--array=(\d+)-(\d+)", text)
    tasks = range(int(array[1]), int(array[2]) + 1) if array else [None]
    for task in tasks:
        if os.fork() == 0:
            os.setsid()
            for name in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), name)
            run(script, task)
            os._exit(0)
    print(f"Submitted batch job {JOB}")


def run(script: Path, task: "int | None") -> None:
    name = JOB if task is None else f"{JOB}_{task}"
    more = {} if task is None else {"SLURM_ARRAY_JOB_ID": JOB, "SLURM_ARRAY_TASK_ID": str(task)}
    for restarts in range(5):
        environment = {
            **os.environ, **more, "SLURM_JOB_ID": str(1000 + (task or 0)), "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost",
            "SLURM_RESTART_COUNT": str(restarts), "STUB_NAME": name,
        }  # fmt: skip
        (STATE / f"state-{name}").write_text("RUNNING", encoding="utf-8")
        subprocess.run(["bash", str(script)], env=environment, check=False)
        again = STATE / f"requeue-{name}"
        if not again.is_file():
            break
        again.rename(STATE / f"requeued-{name}-{restarts}")
    (STATE / f"state-{name}").write_text("COMPLETED", encoding="utf-8")


def srun(words: list[str]) -> int:
    """The command without srun's own options, its output where they say."""
    values = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--") and "=" in word)
    while words[0].startswith("-"):
        option = words.pop(0)
        if "=" not in option and option in ("--output", "--error"):
            values[option.lstrip("-")] = words.pop(0)

    def opened(name: str) -> int:
        path = values.get(name, os.devnull)
        for mark, value in (("%A", JOB), ("%a", os.environ.get("SLURM_ARRAY_TASK_ID", "")), ("%j", JOB), ("%t", "0")):
            path = path.replace(mark, value)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    return subprocess.run(words, stdout=opened("output"), stderr=opened("error"), check=False).returncode


def sacct() -> None:
    print("JobID|State|NodeList")
    for path in sorted(STATE.glob("state-*")):
        print(f"{path.name.removeprefix('state-')}|{path.read_text(encoding='utf-8')}|localhost")


def main() -> int:
    called, words = Path(sys.argv[0]).name, sys.argv[1:]
    if called == "sbatch":
        sbatch(Path(words[-1]))
    elif called == "srun":
        return srun(words)
    elif called == "sacct":
        sacct()
    elif called == "scontrol" and words[0] == "requeue":
        (STATE / f"requeue-{os.environ['STUB_NAME']}").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
