"""`python -m llmrl.list`: models, rewards, trainers, retrievers and every other choice, with one line each."""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.errors import UserError
from llmrl.help import groups, options
from llmrl.registry import did_you_mean


def main() -> int:
    """List every choice of every group, or of the groups named."""
    known = groups()
    wanted = sys.argv[1:] or known
    try:
        if unknown := [name for name in wanted if name not in known]:
            raise UserError(f"there is no group {unknown[0]!r}{did_you_mean(unknown[0], known)}")
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for group in wanted:
            for choice, meaning in options(group).items():
                table.add_row(Text(f"{group}={choice}", style="cyan"), Text(meaning))
        Console(highlight=False, soft_wrap=True).print(table)
    except UserError as error:
        print(f"llmrl list: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
