"""`python -m llmrl.app`, or `streamlit run llmrl/app.py`: compare, ask, look at runs and play with rewards in a browser."""

import sys
from pathlib import Path

from streamlit import runtime

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import AppConfig
from llmrl.front_door import run


def work(config: AppConfig) -> int:
    from llmrl.web.serve import serve

    return serve(config, Path(__file__))


def main() -> int:
    """Serve the app; see `python -m llmrl.app --help`."""
    return run("app", AppConfig, work)


if runtime.exists():  # Streamlit runs this file for every visitor
    from llmrl.web.site import show

    show()
elif __name__ == "__main__":
    sys.exit(main())
