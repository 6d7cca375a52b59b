"""Where numbers and samples go, and the run folder they are kept in."""

from llmrl.tracking.run_folder import RunFolder, find_run
from llmrl.tracking.trackers import Tracker, check_tracker, histogram, make_tracker

__all__ = ["RunFolder", "Tracker", "check_tracker", "find_run", "histogram", "make_tracker"]
