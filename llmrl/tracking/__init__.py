"""Where numbers and samples go, and the run folder they are kept in."""

from llmrl.tracking.run_folder import RunFolder, find_run
from llmrl.tracking.trackers import Tracker, make_tracker

__all__ = ["RunFolder", "Tracker", "find_run", "make_tracker"]
