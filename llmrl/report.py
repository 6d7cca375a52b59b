"""`python -m llmrl.report`: a page about a run, or a sweep."""

import sys
from pathlib import Path

from llmrl.errors import REFUSED, UserError, one_line

USAGE = """One page with plots and samples, which opens from the disk without a network: report.html of a run, sweep.html of a
sweep.

Usage: python -m llmrl.report run=outputs/FOLDER      (latest: the newest run)"""


def main() -> int:
    """Write the page of the run or sweep that is named. Returns 0, or 2 for what the person can mend."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    try:
        if len(words) != 1 or not words[0].startswith("run="):
            raise UserError("name one run or sweep folder: python -m llmrl.report run=FOLDER, or run=latest")
        print(report(words[0].removeprefix("run=")))
    except (UserError, OSError) as error:  # a full disk, or somebody else's folder
        print(f"llmrl report: {one_line(error)}", file=sys.stderr)
        return REFUSED
    return 0


def report(name: str) -> Path:
    """The page of a run, or of a sweep, written anew. Raises UserError."""
    from llmrl.sweeps.plan import PLAN_FILE  # here, as --help needs none of it

    if (Path(name).expanduser() / PLAN_FILE).is_file():
        from llmrl.sweeps.conclude import write_all

        return write_all(Path(name).expanduser())
    from llmrl.pages.run import write_report
    from llmrl.tracking.run_folder import find_run

    run = find_run(name)
    write_report(run)
    return run.path / "report.html"


if __name__ == "__main__":
    sys.exit(main())
