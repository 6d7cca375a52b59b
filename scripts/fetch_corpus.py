"""Bring a corpus for retrieval to a machine that reaches a Debian mirror: Python's documentation, from `python3.11-doc`.

    python scripts/fetch_corpus.py                        # into ~/.cache/llmrl/corpora (or $LLMRL_CACHE/corpora)
    python scripts/fetch_corpus.py --package FILE.deb     # a package that was fetched by other means

`python-docs/` holds the pages as HTML, indexes and tables of contents aside. `python-faq/` holds each answer of the FAQ as a
text of its own, its question taken out, and `questions.jsonl`, which says which answer is whose. The licence is the PSF's.
Needs `apt-get` and `dpkg-deb`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from llmrl.models.places import cache_folder

PACKAGE = "python3.11-doc"
NO_TEXT = ("genindex", "search", "py-modindex", "contents")


def corpora_folder() -> Path:
    return cache_folder().parent / "corpora"


def unpack(package: Path | None, work: Path) -> Path:
    """The folder of the HTML pages."""
    if package is None:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=work, check=True, capture_output=True)
        package = next(work.glob(f"{PACKAGE}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(package), str(work / "unpacked")], check=True)
    return work / "unpacked" / "usr" / "share" / "doc" / "python3.11" / "html"


def copy_pages(html: Path, target: Path) -> int:
    count = 0
    for page in sorted(html.rglob("*.html")):
        if not page.name.startswith(NO_TEXT) and "_static" not in page.parts:
            place = target / page.relative_to(html)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, place)
            count += 1
    return count


def answers(page: Path) -> Iterator[tuple[str, str, str]]:
    """(name, question, answer): the sections of a FAQ page that hold no other section."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    for section in soup.find_all("section"):
        heading = section.find(["h1", "h2", "h3", "h4"], recursive=False)
        if section.find("section") or not isinstance(heading, Tag):
            continue
        for mark in section.select("a.headerlink"):
            mark.decompose()
        question = " ".join(heading.get_text().split())
        heading.decompose()
        blocks = [" ".join(block.get_text().split()) if block.name != "pre" else block.get_text() for block in _blocks(section)]
        text = "\n\n".join(block for block in blocks if block.strip())
        if text and section.get("id"):
            yield f"{page.stem}-{section['id']}", question, text


def _blocks(section: Tag) -> Iterator[Tag]:
    for child in section.find_all(recursive=False):
        if child.name in ("ul", "ol", "dl", "div") and not child.find("pre"):
            yield from child.find_all(["li", "dt", "dd", "p"]) if child.find(["li", "dt", "dd"]) else [child]
        elif child.name == "div" and child.find("pre"):
            yield from child.find_all("pre")
        else:
            yield child


def write_faq(html: Path, target: Path) -> int:
    docs = target / "docs"
    docs.mkdir(parents=True)
    rows = []
    for page in sorted(page for page in (html / "faq").glob("*.html") if page.stem != "index"):
        for name, question, text in answers(page):
            (docs / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
            rows.append({"id": name, "question": question, "path": f"{name}.txt"})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (target / "questions.jsonl").write_text(lines, encoding="utf-8")
    return len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="the .deb, if it is there already")
    args = parser.parse_args()
    target = corpora_folder()
    if (target / "python-faq" / "questions.jsonl").is_file():
        print(f"already in {target}")
        return 0
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as work:
        try:
            html = unpack(args.package, Path(work))
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            print(f"fetch_corpus: {PACKAGE} could not be fetched: {error}", file=sys.stderr)
            return 2
        made = Path(work) / "made"
        pages, questions = copy_pages(html, made / "python-docs"), write_faq(html, made / "python-faq")
        for folder in made.iterdir():
            shutil.rmtree(target / folder.name, ignore_errors=True)
            folder.rename(target / folder.name)
    print(f"{pages} pages and {questions} questions with their answers, in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
