import io
import json
import logging
import os
import string
from pathlib import Path

import pytest
from bs4.exceptions import ParserRejectedMarkup
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from llmrl.config import ReadingConfig
from llmrl.errors import UserError
from llmrl.retrieval import pages
from llmrl.retrieval.documents import Document, Heading, Unreadable
from llmrl.retrieval.readers import document_name, find_files, read


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """For properties: one folder for all their examples."""
    return tmp_path_factory.mktemp("properties")


def rows(folder: Path, name: str, content: str | bytes, **options) -> list[Document]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(path, name, ReadingConfig(**options)))


def one(folder: Path, name: str, content: str | bytes, **options) -> Document:
    (document,) = rows(folder, name, content, **options)
    return document


def outline(document: Document) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in document.headings]


def reason(folder: Path, name: str, content: str | bytes, **options) -> str:
    with pytest.raises(Unreadable) as caught:
        rows(folder, name, content, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pdf(*pages: str, title: str = "", password: str | None = None, algorithm: str | None = None) -> bytes:
    """A pdf that shows each text on a page of its own, in a standard font; an empty text leaves the page blank."""
    writer = PdfWriter()
    font = {"/Type": NameObject("/Font"), "/Subtype": NameObject("/Type1"), "/BaseFont": NameObject("/Helvetica")}
    for text in pages:
        page = writer.add_blank_page(300, 300)
        fonts = DictionaryObject({NameObject("/F1"): DictionaryObject({NameObject(key): font[key] for key in font})})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, "owner's", algorithm=algorithm)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


# finding files


def test_files_are_found_in_order_without_hidden_ones(tmp_path) -> None:
    for name in ("b.md", "a/z.TXT", "a.txt", "a/pic.png", "Makefile", ".env.txt", ".git/x.txt", "a/.cache/y.md", "a/b/c.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == ["a.txt", "a/b/c.pdf", "a/z.TXT", "b.md"]
    assert found.skipped == [
        ("Makefile", "not a kind of file that is read"),
        ("a/pic.png", "not a kind of file that is read"),
    ]


def test_every_known_suffix_is_found(tmp_path) -> None:
    names = sorted(f"a.{suffix}" for suffix in "txt text md markdown rst html htm pdf jsonl csv tsv".split())
    for name in names:
        (tmp_path / name).write_text("x")
    assert [path.name for path in find_files(tmp_path).files] == names


def test_links_are_not_followed(tmp_path) -> None:
    docs, outside = tmp_path / "docs", tmp_path / "docs-outside"
    (docs / "sub").mkdir(parents=True)
    outside.mkdir()
    (docs / "real.txt").write_text("x")
    (outside / "secret.txt").write_text("x")
    links = {
        "file-out.txt": outside / "secret.txt",
        "folder-out": outside,
        "up": Path(".."),
        "gone-out.txt": outside / "gone.txt",
        "file-in.txt": Path("real.txt"),
        "here": Path(),
        "sub/above": Path(".."),
        "gone.txt": Path("nowhere.txt"),
        "itself.txt": Path("itself.txt"),
    }
    for name, target in links.items():
        (docs / name).symlink_to(target)
    found = find_files(docs)
    assert [path.name for path in found.files] == ["real.txt"]
    assert dict(found.skipped) == {
        **dict.fromkeys(("file-out.txt", "folder-out", "up", "gone-out.txt"), "a link that leaves the folder"),
        **dict.fromkeys(("file-in.txt", "here", "sub/above"), "a link to another file here"),
        **dict.fromkeys(("gone.txt", "itself.txt"), "a broken link"),
    }


def test_a_folder_may_be_given_by_a_link(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("x")
    (tmp_path / "real" / "b.txt").symlink_to("a.txt")
    (tmp_path / "docs").symlink_to("real")
    found = find_files(tmp_path / "docs")
    assert [path.name for path in found.files] == ["a.txt"]
    assert found.skipped == [("b.txt", "a link to another file here")]


def test_odd_names(tmp_path) -> None:
    raw = os.fsencode(tmp_path)
    for name in (b"two\nlines.txt", b"latin-\xe9.txt", "é.txt".encode()):
        Path(os.fsdecode(raw + b"/" + name)).write_text("words")
    found = find_files(tmp_path)
    names = [document_name(path, tmp_path) for path in found.files]
    assert sorted(names) == ["latin-\\xe9.txt", "two\nlines.txt", "é.txt"]
    for path, name in zip(found.files, names, strict=True):
        (document,) = read(path, name, ReadingConfig())
        assert (document.name, document.text) == (name, "words")
        document.name.encode()


def test_a_folder_that_cannot_be_listed_is_told_of(tmp_path, monkeypatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("x")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list any folder, so its mode would not do
    found = find_files(tmp_path)
    assert [path.name for path in found.files] == ["a.txt"]
    assert found.skipped == [("closed", "can't be listed: Permission denied")]


def test_a_pipe_is_not_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert find_files(tmp_path).skipped == [("pipe.txt", "not a file")]


def test_no_folder(tmp_path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        find_files(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="is not a folder"):
        find_files(tmp_path / "a.txt")


# any file


def test_what_cannot_be_read_at_all(tmp_path) -> None:
    with pytest.raises(Unreadable, match="can't be read: No such file"):
        read(tmp_path / "gone.txt", "gone.txt", ReadingConfig())
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(Unreadable, match="can't be read: Is a directory"):
        read(tmp_path / "folder.md", "folder.md", ReadingConfig())
    assert reason(tmp_path, "a.docx", "x") == "not a kind of file that is read"


def test_large_files(tmp_path) -> None:
    assert one(tmp_path, "a.txt", "x" * 3000, max_file_mb=0.003).text == "x" * 3000
    assert reason(tmp_path, "a.txt", "x" * 3001, max_file_mb=0.003) == "0.003001 MB, more than reading.max_file_mb=0.003"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.html", "a.jsonl"])
@pytest.mark.parametrize("content", ["", " \n\t\n", b"\xef\xbb\xbf"])
def test_files_without_text(tmp_path, name: str, content: str | bytes) -> None:
    assert reason(tmp_path, name, content) == "no text in it"


FRENCH = "Les élèves étaient très fatigués après la fête, à Noël, où l’été s’achève.\n"
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. Это простая проверка.\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("é\n".encode(), "é\n"),
        (b"\xef\xbb\xbfa", "a"),
        (b"\xff\xfea\x00\xe9\x00", "aé"),
        (b"\xfe\xff\x00a\x00\xe9", "aé"),
        (b"\xff\xfe\x00\x00a\x00\x00\x00", "a"),
        (b"\x00\x00\xfe\xff\x00\x00\x00a", "a"),
        (b"\xff\xfea\x00\x00\x00b\x00", "a\ufffdb"),  # a NUL character, not a NUL byte of a binary file
        (RUSSIAN.encode("cp1251"), RUSSIAN),
        (FRENCH.encode("cp1252"), FRENCH),
        ("Müller".encode("cp1252"), "Müller"),  # short enough to be taken for UTF-16
        (b"a\r\nb\rc\n\r\n\rd", "a\nb\nc\n\n\nd"),
        ("a\u2028b\x0bc\x0cd\x85".encode(), "a\u2028b\x0bc\x0cd\x85"),  # not what ends a line of a file
    ],
)
def test_encodings_and_line_ends(tmp_path, content: bytes, text: str) -> None:
    assert one(tmp_path, "a.txt", content) == Document("a.txt", text)


@pytest.mark.parametrize("content", [b"a\x00b", b"\xff\xfea\x00b", b"\xff\xfe\x00\xd8", "ab".encode("utf-16-le")])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.html", "a.jsonl", "a.csv"])
def test_binary_files(tmp_path, name: str, content: bytes) -> None:
    assert reason(tmp_path, name, content) == "binary, not text"


def test_bytes_that_fit_no_encoding(tmp_path) -> None:
    noise = bytes((i * i * 7 + i // 3 * 31) % 255 + 1 for i in range(2000))
    assert reason(tmp_path, "a.txt", noise) == "binary, not text"


# Markdown


def test_markdown_headings(tmp_path) -> None:
    text = (
        "# One #\n"
        "text\n"
        "## Two `code` and **bold** ##\n"
        "   ### Three\t###  \n"
        "#no heading\n"
        "    # code\n"
        "####### seven\n"
        "#\n"
        "## ##\n"
        "###### Six#\n"
        "\n"
        "Seven\n"
        "===\n"
        "\n"
        "  Eight  \n"
        "--\n"
    )
    document = one(tmp_path, "a.md", text)
    assert document.text == text
    assert document.title == "One"
    assert [(text[h.start : h.end], h.level, h.title) for h in document.headings] == [
        ("# One #", 1, "One"),
        ("## Two `code` and **bold** ##", 2, "Two `code` and **bold**"),
        ("   ### Three\t###  ", 3, "Three"),
        ("###### Six#", 6, "Six#"),
        ("Seven\n===", 1, "Seven"),
        ("  Eight  \n--", 2, "Eight"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "text\n\n---\n\ntext",
        "two\nlines\n---",
        "\n- item\n---",
        "\n1. item\n---",
        "\n> quote\n---",
        "\n    code\n---",
        "\n***\n---",
        "\n* * *\n---",
        "\n</details>\n---",
        "a\n- - -",
        "a\n=-=",
        "| a |\n|---|",
        "---\n---\n",
    ],
)
def test_rules_and_lists_are_no_markdown_headings(tmp_path, text: str) -> None:
    assert one(tmp_path, "a.md", text).headings == []


@pytest.mark.parametrize(
    "code",
    [
        "```\n# no\n```",
        "~~~ sh\n# no\n```\n# no\n~~~~",
        "````\n# no\n```\n# no\n````",
        "```\n\nno\n===\n```",
        "- ```sh\n  # no\n  ```",
        "1. a\n\n   ```\n   # no\n   ```",
        "```\n# no\n``` no\n# no\n```",
    ],
)
def test_fenced_code_holds_no_headings(tmp_path, code: str) -> None:
    assert outline(one(tmp_path, "a.md", f"{code}\n# Yes\n")) == [(1, "Yes")]
    assert outline(one(tmp_path, "a.md", f"```not a fence```\n# Yes\n{code.rpartition(chr(10))[0]}\n")) == [(1, "Yes")]


def test_front_matter(tmp_path) -> None:
    matter = (
        "---\ntitle: 'A: guide'\nauthor: Ann # not Bob\ndate: 2024-01-02\ntags: [a, b]\nlist:\n  - a\n  key: deep\n"
        'quoted: "x"\nempty:\nurl: http://x.org/#top\n# a comment\nlong: |\n  text\n\nlast: 1\n---\n'
    )
    document = one(tmp_path, "a.md", matter + "Top\n---\n\n## Sub\n")
    assert document.metadata == {
        "title": "A: guide",
        "author": "Ann",
        "date": "2024-01-02",
        "quoted": "x",
        "url": "http://x.org/#top",
        "last": "1",
    }
    assert document.headings == [
        Heading(len(matter), len(matter) + 7, 2, "Top"),
        Heading(len(matter) + 9, len(matter) + 15, 2, "Sub"),
    ]
    assert document.title == "A: guide"
    assert document.text.startswith("---\ntitle")
    assert one(tmp_path, "a.md", matter + "# Top").title == "Top"


@pytest.mark.parametrize("text", ["---\n\n# Top\n\n---\n", "---\nkey: value\n\n# Top\n", "----\nkey: value\n---\n# Top\n"])
def test_a_rule_at_the_start_is_no_front_matter(tmp_path, text: str) -> None:
    document = one(tmp_path, "a.md", text)
    assert (document.title, document.metadata) == ("Top", {})


# reStructuredText


def test_rst_headings(tmp_path) -> None:
    text = "=====\n Top\n=====\nPart\n====\ntext\n\nPiece\n~~~~~~~\n\nPart 2\n======\n\n++++++\nDeeper\n++++++\n"
    document = one(tmp_path, "a.rst", text)
    assert document.text == text
    assert document.title == "Top"
    assert [(text[h.start : h.end], h.level, h.title) for h in document.headings] == [
        ("=====\n Top\n=====", 1, "Top"),
        ("Part\n====", 2, "Part"),
        ("Piece\n~~~~~~~", 3, "Piece"),
        ("Part 2\n======", 2, "Part 2"),
        ("++++++\nDeeper\n++++++", 4, "Deeper"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "text\n\n----\n\ntext",
        "Long title\n====",
        "two\nlines\n=====",
        "===== =====\nA     B\n===== =====\n1     2\n===== =====\n",
        "+---+\n| a |\n+===+\n| b |\n+---+\n",
        "    code\n--------",
        "- item\n------",
        ".. note::\n---------",
        "====\n----",
        "======\nTitle\n-----",
        "text\n=-=-=",
        "=====\n\n=====",
    ],
)
def test_tables_and_transitions_are_no_rst_headings(tmp_path, text: str) -> None:
    assert one(tmp_path, "a.rst", text).headings == []


# HTML


def test_a_page(tmp_path) -> None:
    page = """<!DOCTYPE html><html><head><meta charset="utf-8"><title> The
      page </title><style>p {}</style><script>var x = "<p>no</p>"</script></head>
    <body><nav>menu</nav><h1>Top <em>news</em><a class="headerlink x" href="#top">¶</a></h1>
    <!-- no --><p>One <b>two</b>,
       three.<br>Next</p><div>A<div>B</div>C</div>
    <ul><li>first</li><li><p>second</p><ul><li>inner</li></ul></li></ul>
    <pre>
def f():
    <span>return</span>  1

</pre>
    <h2> </h2><h3>Low<br>er</h3>
    <table><tr><th>a<th>b</tr><tr><td><p>1</p></td><td></td><td>3</td></tr><tr><td></td><td> </td></tr></table>
    <form>no</form><button>no</button><svg><title>no</title><text>no</text></svg><template>no</template>
    <noscript>no</noscript><p hidden>no</p><p aria-hidden="True">no</p><p aria-hidden="false">x &lt; y&nbsp;z</p>
    <p>end <a href="/">link</a>.</p></body></html>"""
    text = (
        "Top news\n\nOne two, three.\nNext\n\nA\n\nB\n\nC\n\n- first\n- second\n- inner\n\n"
        "def f():\n    return  1\n\nLow er\n\na | b\n1 |  | 3\n\nx < y z\n\nend link."
    )
    document = one(tmp_path, "a.html", page)
    assert document.text == text
    lower = text.index("Low er")
    assert document.headings == [Heading(0, 8, 1, "Top news"), Heading(lower, lower + 6, 3, "Low er")]
    assert document.title == "Top news"


@pytest.mark.parametrize(("opening", "closing"), [("<main>", "</main>"), ('<div role="main">', "</div>")])
def test_only_the_main_part_is_read(tmp_path, opening: str, closing: str) -> None:
    page = f"<title>Site</title><main hidden>old</main><div>menu</div>{opening}<h2>A</h2>b{closing}<div>foot</div>"
    document = one(tmp_path, "a.htm", page)
    assert (document.text, document.title) == ("A\n\nb", "Site")


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<head><title>T</title><body><p>body in an open head", "body in an open head"),
        ("<p>a<p>b<ul><li>c<li>d</ul>e", "a\n\nb\n\n- c\n- d\n\ne"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>e", "a | b\nc | d\n\ne"),
        ("<table><tr><td></td><td>b</td></tr></table>", "| b"),
        ("<table><tr><td><p>a</p><p>b</p></td><td><p>c</p></td></tr></table>", "a\n\nb | c"),
        ("<ul><li></li><li>b</li></ul>c", "- b\n\nc"),
        ("<ul><li>a</li>b</ul>", "- a\nb"),
        ("<ul><li></li></ul>c", "c"),
        ("a<br><br><br>b", "a\n\nb"),
        ("a<span>b</span> <i> c</i>", "ab c"),
        ("<pre>\n\n  a<br>b<script>no</script>\n\n\n  c\n\n</pre>d", "  a\nb\n\n\n  c\n\nd"),
        ("<pre><div>a</div><div>  b</div></pre>", "a\n  b"),
        ("<ruby>漢<rt>kan</rt></ruby>", "漢kan"),
        ("<p>a&#0;b&#xd800;c\x0cd", "a\ufffdb\ufffdc d"),
    ],
)
def test_parts_of_pages(tmp_path, page: str, text: str) -> None:
    assert one(tmp_path, "a.html", page).text == text


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<svg><title>icon</title></svg><p>a", ""),
        ("<svg><title>icon</title></svg><title>Page</title><h2>b</h2>", "Page"),
        ("<title>Page</title><h2>b</h2><h1>First</h1><h1>Second</h1>", "First"),
    ],
)
def test_titles_of_pages(tmp_path, page: str, title: str) -> None:
    assert one(tmp_path, "a.html", page + "text").title == title


@pytest.mark.parametrize(
    ("page", "text", "found"),
    [
        ("<h1>A<h2>B</h2>c", "A\n\nB\n\nc", [(1, "A"), (2, "B")]),
        ("<h1>A<p>b</p>c", "A\n\nb\n\nc", [(1, "A")]),
        ("<h2><div>A</div></h2>b", "A\n\nb", [(2, "A")]),
        ("<ul><li><h3>A</h3>b<li>c</ul>", "A\n\nb\n- c", [(3, "A")]),
        ("<table><tr><td>a<td><h4>B</h4><td>c</table>", "a\n\nB\n\n| c", [(4, "B")]),
        ("<h5><pre>a\nb</pre></h5>c", "a b\n\nc", [(5, "a b")]),
        ("a<h6></h6>b", "a\n\nb", []),
    ],
)
def test_a_heading_has_a_line_to_itself(tmp_path, page: str, text: str, found: list[tuple[int, str]]) -> None:
    document = one(tmp_path, "a.html", page)
    assert (document.text, outline(document)) == (text, found)


@pytest.mark.parametrize("inner", ["<h1>deep</h1>", "deep"])
@pytest.mark.parametrize(("opening", "closing"), [("<div>", "</div>"), ("<ul><li>", ""), ("<b>", "</i>"), ("<h2>", "")])
def test_deeply_nested_pages(tmp_path, inner: str, opening: str, closing: str) -> None:
    document = one(tmp_path, "a.html", opening * 10_000 + inner + closing * 10_000)
    assert document.text in ("deep", "- deep")


@pytest.mark.parametrize(
    ("declared", "encoding", "word"),
    [
        ("shift_jis", "shift_jis", "日本"),
        ("windows-1251", "cp1251", "Да"),
        ("iso-8859-1", "cp1252", "“é”"),
        ("utf-16", "cp1252", "café"),  # a page whose declaration can be read is not UTF-16
        ("no-such-thing", "cp1252", "café"),
        ("windows-1251", "utf-8", "é"),
    ],
)
def test_declared_encodings(tmp_path, declared: str, encoding: str, word: str) -> None:
    page = f'<meta charset="{declared}"><p>{word}'.encode(encoding)
    assert one(tmp_path, "a.html", page).text == word


def test_a_broken_page(tmp_path, monkeypatch) -> None:
    def reject(*_):
        raise ParserRejectedMarkup("odd\nmarkup")  # for what it does so depends on the version of Python

    monkeypatch.setattr(pages, "BeautifulSoup", reject)
    assert reason(tmp_path, "a.html", "<p>a") == "broken html: odd markup"


# PDF


def test_pages_of_a_pdf(tmp_path) -> None:
    document = one(tmp_path, "a.pdf", pdf("First page.", "", "Third", title="A  paper"))
    assert document.text == "First page.\n\n\n\nThird"
    assert document.headings == [Heading(0, 0, 1, "page 1"), Heading(13, 13, 1, "page 2"), Heading(15, 15, 1, "page 3")]
    assert document.title == "A paper"
    assert one(tmp_path, "a.pdf", pdf("x")).title == ""


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_encrypted_pdfs(tmp_path, algorithm: str) -> None:
    assert one(tmp_path, "a.pdf", pdf("Open", password="", algorithm=algorithm)).text == "Open"
    closed = pdf("Closed", password="secret", algorithm=algorithm)
    assert reason(tmp_path, "a.pdf", closed) == "encrypted, needs a password"


def test_a_scanned_pdf(tmp_path) -> None:
    assert reason(tmp_path, "a.pdf", pdf("", "")) == "no text in it: scanned pages?"


@pytest.mark.parametrize("content", [b"", b"no pdf", b"%PDF-1.7\n\x00\xff", pdf("x" * 50)[:300]])
def test_broken_pdfs(tmp_path, content: bytes) -> None:
    assert reason(tmp_path, "a.pdf", content).startswith("broken pdf: ")


def test_odd_pdfs_are_read_without_a_word(tmp_path, caplog) -> None:
    logging.getLogger("pypdf").setLevel(logging.NOTSET)
    odd = pdf("Words").replace(b"startxref\n", b"startxref\n9")
    assert one(tmp_path, "a.pdf", odd).text == "Words"
    assert caplog.records == []


# rows


def test_json_lines(tmp_path) -> None:
    content = (
        '{"text": "A\\r\\nb", "title": "T", "n": 1, "x": 1.5, "yes": true, "none": null, "list": [1], "map": {}, "s": "é"}\n'
        "\n"
        '{"text": ""}\n{"text": null}\n'
        '{"text": "B\\u0000\\ud800", "title": 7}\r\n'
    )
    assert rows(tmp_path, "a.jsonl", content) == [
        Document("a.jsonl#1", "A\nb", title="T", metadata={"n": "1", "x": "1.5", "yes": "true", "s": "é"}),
        Document("a.jsonl#5", "B\ufffd\ufffd", title="7"),
    ]
    assert rows(tmp_path, "a.jsonl", '{"body": "A", "text": "b"}', text_field="body", title_field="x") == [
        Document("a.jsonl#1", "A", metadata={"text": "b"})
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": ', "line 3: not JSON (Expecting value: line 1 column 10 (char 9))"),
        ("[1]", "line 3: not an object but list"),
        ("[" * 100_000, "line 3: not JSON ("),
        ('{"a": 1, "b\\n": 2}', "line 3: no key 'text' (found: a, b); set reading.text_field=..."),
        ('{"text": 5}', "line 3: 'text' must be text, not int"),
    ],
)
def test_bad_json_lines(tmp_path, line: str, what: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n\n{line}\n')
    with pytest.raises(Unreadable) as caught:
        read(path, "a.jsonl", ReadingConfig())  # before the first row is taken
    assert str(caught.value).startswith(what)


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_tables(tmp_path, name: str, delimiter: str) -> None:
    others = ",;\t|".replace(delimiter, "")
    content = f'id, text ,title\n1,"A\r\n""b"" , ; \t |{others}",T\n\n2,,empty\n3\n4,C\n5,"D",E,,\n'
    if delimiter != ",":
        head, quoted, rest = content.partition(f'"A\r\n""b"" , ; \t |{others}"')
        content = head.replace(",", delimiter) + quoted + rest.replace(",", delimiter)
    assert rows(tmp_path, name, content) == [
        Document(f"{name}#1", f'A\n"b" , ; \t |{others}', title="T", metadata={"id": "1"}),
        Document(f"{name}#4", "C", metadata={"id": "4"}),
        Document(f"{name}#5", "D", title="E", metadata={"id": "5"}),
    ]


def test_a_large_field(tmp_path) -> None:
    assert one(tmp_path, "a.csv", f"text\n{'x' * 200_000}\n").text == "x" * 200_000


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("a;b,c;d\n1;2;3\n", "no column 'text' (found: a, b,c, d); set reading.text_field=..."),
        ("", "no column 'text' (found: ); set reading.text_field=..."),
        ("text,id\na,1\nb, c,2\n", "line 3: 3 fields, but 2 columns"),
        ('text,id\n"a,1\nb,2\n', "line 3: unexpected end of data"),
        ("text,id\n,1\n,2\n", "no text in it"),
    ],
)
def test_bad_tables(tmp_path, content: str, what: str) -> None:
    assert reason(tmp_path, "a.csv", content) == what


# properties

MARKUP = "# a,## b ##, ### c,===,---,~~~,```,a,ab c,, ,- x,    y,***,====,> q,k: v".split(",")
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
LINES = st.lists(st.sampled_from(MARKUP) | st.text(CHARACTERS, max_size=6))


@settings(max_examples=100, deadline=None)
@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["a.txt", "a.md", "a.rst"]))
def test_plain_text_is_kept_and_headings_are_lines_of_it(folder: Path, lines: list[str], line_end: str, name: str) -> None:
    written = "- start\n\n" + line_end.join(lines)
    document = one(folder, name, written)
    text = document.text
    assert text == written.replace("\r\n", "\n").replace("\r", "\n")
    last = 0
    for heading in document.headings:
        assert last <= heading.start < heading.end
        assert heading.title in text[heading.start : heading.end]
        assert heading.title.strip() == heading.title != ""
        assert text[heading.start - 1] == "\n"
        assert text[heading.end : heading.end + 1] in ("", "\n")
        last = heading.end


TAGS = "h1 h2 p div b li ul ol table tr td pre blockquote span".split()
PIECES = st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS] + ["<br>", " ", "\n", "<!-- c -->"])
PAGES = st.lists(PIECES | st.text("XYZ ", min_size=1, max_size=3), max_size=40)


@settings(max_examples=100, deadline=None)
@given(PAGES)
def test_no_word_of_a_page_is_lost_and_headings_are_lines_of_it(folder: Path, pieces: list[str]) -> None:
    document = one(folder, "a.html", "W" + "".join(pieces))
    text = document.text
    words = "W" + "".join(piece for piece in pieces if piece[0] != "<")
    assert [c for c in text if c in string.ascii_uppercase] == [c for c in words if c in string.ascii_uppercase]
    last = 0
    for heading in document.headings:
        assert last <= heading.start < heading.end
        assert text[heading.start : heading.end] == heading.title == " ".join(heading.title.split())
        assert text[heading.start - 1] == "\n"
        assert text[heading.end : heading.end + 1] in ("", "\n")
        last = heading.end


VALUES = st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.booleans() | st.text(max_size=5), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_rows_can_always_be_stored(folder: Path, values: list[dict]) -> None:
    written = [{**value, "text": f"row {number}"} for number, value in enumerate(values)]
    found = rows(folder, "a.jsonl", "\n".join(json.dumps(row) for row in written))
    assert [document.text for document in found] == [row["text"] for row in written]
    for document in found:
        json.dumps([document.title, document.metadata], ensure_ascii=False).encode()
