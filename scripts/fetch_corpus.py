"""Bring a corpus for retrieval to a machine that reaches a Debian mirror: Python's documentation, from `python3.11-doc`.

    python scripts/fetch_corpus.py                        # into ~/.cache/llmrl/corpora (or $LLMRL_CACHE/corpora)
    python scripts/fetch_corpus.py --package FILE.deb     # a package that was fetched by other means

`python-docs/` holds the pages as HTML, indexes and tables of contents aside. `python-faq/` holds each answer of the FAQ as a
text of its own, its question taken out, and `questions.jsonl`, which says which answer is whose. `python-qa/` holds the same
answers and what the library reference says of each function, method and class, a text each, and questions to both with answers
that are taken from them: the first sentence. `python-glossary/` holds what each term of the glossary means. The licence is the
PSF's. Needs `apt-get` and `dpkg-deb`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from llmrl.models.places import cache_folder

PACKAGE = "python3.11-doc"
NO_TEXT = ("genindex", "search", "py-modindex", "contents")
LEAST_WORDS, MOST_WORDS = 6, 36
"""Of an answer."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z“\"(])")
KINDS = {"function": "function", "method": "method", "class": "class", "exception": "exception"}


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
    pages = sorted(page for page in (html / "faq").glob("*.html") if page.stem != "index")
    return _write_pairs([pair for page in pages for pair in answers(page)], target)


def write_glossary(html: Path, target: Path) -> int:
    """What each term means, without the term as a heading; the questions ask for it."""
    soup = BeautifulSoup((html / "glossary.html").read_text(encoding="utf-8"), "html.parser")
    for mark in soup.select("a.headerlink"):
        mark.decompose()
    pairs = []
    for term in soup.select("dl.glossary > dt"):
        said, name = term.find_next_sibling("dd"), " ".join(term.get_text().split())
        if isinstance(said, Tag) and term.get("id"):
            blocks = [" ".join(block.get_text().split()) for block in _blocks(said)]
            pairs.append((str(term["id"]), f"What is meant by {name}?", "\n\n".join(block for block in blocks if block)))
    return _write_pairs([pair for pair in pairs if pair[2]], target)


def _write_pairs(pairs: Sequence[tuple[str, str, str]], target: Path) -> int:
    """(name, question, text): a document each, and who asks for which."""
    docs = target / "docs"
    docs.mkdir(parents=True)
    for name, _, text in pairs:
        (docs / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    rows = [{"id": name, "question": question, "path": f"{name}.txt"} for name, question, _ in pairs]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (target / "questions.jsonl").write_text(lines, encoding="utf-8")
    return len(rows)


def first_sentences(text: str) -> str | None:
    """The beginning of a text, in whole sentences: as few as make an answer; None where they are too long."""
    said: list[str] = []
    for sentence in SENTENCE_END.split(" ".join(text.split())):
        said.append(sentence)
        if len(" ".join(said).split()) >= LEAST_WORDS:
            break
    answer = " ".join(said)
    fits = LEAST_WORDS <= len(answer.split()) <= MOST_WORDS
    return answer if fits and answer.endswith((".", "!")) else None


def entries(page: Path) -> Iterator[tuple[str, str, str]]:
    """(name, kind, text): what a page of the reference says of each function, method, class and exception."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    for mark in soup.select("a.headerlink"):
        mark.decompose()
    for entry in soup.select("dl.py"):
        kind = next((KINDS[name] for name in entry.get_attribute_list("class") if name in KINDS), None)
        head, body = entry.find("dt", recursive=False), entry.find("dd", recursive=False)
        if kind is None or not isinstance(head, Tag) or not isinstance(body, Tag) or not head.get("id"):
            continue
        signature = " ".join(head.get_text().split())
        said = [" ".join(block.get_text().split()) for block in body.find_all("p", recursive=False)]
        text = "\n\n".join(part for part in said if part)
        if text:
            yield str(head["id"]), kind, f"{signature}\n\n{text}"


def write_questions(html: Path, target: Path) -> int:
    """Texts and questions of both: a question's answer stands in its text, word for word."""
    docs, rows, seen = target / "docs", [], set()
    for page in sorted(page for page in (html / "faq").glob("*.html") if page.stem != "index"):
        for name, question, text in answers(page):
            rows.append((f"faq/{name}", question, text, text))
    for page in sorted((html / "library").glob("*.html")):
        for name, kind, text in entries(page):
            rows.append((f"reference/{name}", f"What does the {kind} {name} do?", text, text.split("\n\n", 1)[1]))
    written = []
    for name, question, text, said in rows:
        answer = first_sentences(said)
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        path = docs / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        if answer is not None:
            written.append({"id": name, "question": question, "path": f"{name}.txt", "answer": answer})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    (target / "questions.jsonl").write_text(lines, encoding="utf-8")
    return len(written)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="the .deb, if it is there already")
    args = parser.parse_args()
    target = corpora_folder()
    if (target / "python-glossary" / "questions.jsonl").is_file():
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
        both, terms = write_questions(html, made / "python-qa"), write_glossary(html, made / "python-glossary")
        for folder in made.iterdir():
            shutil.rmtree(target / folder.name, ignore_errors=True)
            folder.rename(target / folder.name)
    print(f"{pages} pages, {questions} questions of the FAQ, {both} with answers, {terms} terms, in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
