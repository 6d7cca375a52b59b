"""The errors that a person can mend. Everything else is a bug of ours and keeps its traceback."""

REFUSED, INTERRUPTED = 2, 130
"""Exit statuses: what the person who typed the command can mend; Ctrl-C."""


class UserError(Exception):
    """Shown as one line, exit status 2: what was wrong, the value, what is allowed, what to do next."""


class RunError(UserError):
    """A run that had begun could not go on (a reward raised, the disk is full); what was reached is kept in its folder."""


def one_line(text: object) -> str:
    """Any text on a single line, so that an error quoted inside another stays one line."""
    return " ".join(str(text).split())
