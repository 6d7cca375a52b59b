"""`python -m llmrl.list`: models, rewards, trainers, retrievers and every other choice, with one line each."""

import sys

from rich.console import Console
from rich.text import Text

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.errors import UserError
from llmrl.help import groups, options
from llmrl.registry import did_you_mean


def main() -> int:
    """List every choice of every group, or of the groups named."""
    known = groups()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{__doc__}\n\nUsage: python -m llmrl.list [{' | '.join(known)}] ...")
        return 0
    wanted = sys.argv[1:] or known
    try:
        if unknown := [name for name in wanted if name not in known]:
            raise UserError(f"there is no group {unknown[0]!r}{did_you_mean(unknown[0], known)}")
        console = Console(highlight=False, soft_wrap=True)
        rows = [(f"{group}={choice}", meaning) for group in wanted for choice, meaning in options(group).items()]
        width = max(len(choice) for choice, _ in rows)
        for choice, meaning in rows:
            console.print(Text(choice.ljust(width + 2), style="cyan") + Text(meaning))
    except UserError as error:
        print(f"llmrl list: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
