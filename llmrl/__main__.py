"""`python -m llmrl`: which commands there are."""

import sys

from llmrl.help import ABOUT

if __name__ == "__main__":
    print("llmrl is used by its commands; each has --help:\n")
    for name, (about, _) in ABOUT.items():
        print(f"  python -m llmrl.{name:<10} {about}")
    print(f"  python -m llmrl.{'sweep':<10} What a sweep came to: show FOLDER.")
    print(f"  python -m llmrl.{'report':<10} A page about a run or a sweep: run=FOLDER.")
    print(f"  python -m llmrl.{'list':<10} Every model, reward, trainer and other choice, with one line each.")
    sys.exit(0)
