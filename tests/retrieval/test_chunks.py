"""Chunks by hand and by invariant."""

from hypothesis import given
from hypothesis import strategies as st

from llmrl.retrieval.chunks import Chunk, cut, word_spans
from llmrl.retrieval.embedder import Embedder
from llmrl.retrieval.headings import markdown_headings


def texts(text: str, chunks: list[Chunk]) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in chunks]


def test_sections_paragraphs_and_sentences_by_hand() -> None:
    text = "# A\n\nOne two. Three four.\n\nFive six.\n\n## B\n\nSeven eight nine ten eleven twelve.\n"
    headings, _ = markdown_headings(text)
    found = cut(text, headings, word_spans, most=8, overlap=0)
    # "# A" 2 tokens, "One two." 3, "Three four." 3: 8; then "Five six." 3 alone; "## B" and its sentence, 3 + 7, in two.
    assert texts(text, found) == [
        "# A\n\nOne two. Three four.", "Five six.", "## B", "Seven eight nine ten eleven twelve.",
    ]  # fmt: skip
    assert [chunk.headings for chunk in found] == [("A",), ("A",), ("A", "B"), ("A", "B")]


def test_neighbours_share_whole_sentences() -> None:
    text = "Aa bb cc. Dd ee. Ff gg. Hh ii jj kk."
    found = cut(text, [], word_spans, most=10, overlap=3)
    assert texts(text, found) == ["Aa bb cc. Dd ee. Ff gg.", "Ff gg. Hh ii jj kk."]


def test_a_paragraph_ends_a_chunk_that_is_half_full() -> None:
    text = "One two three four five.\n\nSix seven. Eight nine. Ten."
    assert texts(text, cut(text, [], word_spans, most=10, overlap=0)) == [
        "One two three four five.",
        "Six seven. Eight nine. Ten.",
    ]


def test_a_long_sentence_is_cut_between_words() -> None:
    text = " ".join(["word"] * 25)
    found = texts(text, cut(text, [], word_spans, most=10, overlap=0))
    assert [len(each.split()) for each in found] == [10, 10, 5]


def test_a_heading_with_nothing_below_goes_with_the_next() -> None:
    text = "# A\n\n## B\n\nText.\n\n## C\n"
    headings, _ = markdown_headings(text)
    found = cut(text, headings, word_spans, most=20, overlap=0)
    assert texts(text, found) == ["# A\n\n## B\n\nText.", "## C"]
    assert [chunk.headings for chunk in found] == [("A", "B"), ("A", "C")]


WORDS = st.text(alphabet="ab .!?\n#-é漢\t𝒳", max_size=400)


@given(WORDS, st.integers(8, 30), st.integers(0, 3))
def test_everything_stands_in_a_chunk_of_at_most_so_many_tokens(text: str, most: int, overlap: int) -> None:
    headings, _ = markdown_headings(text)
    found = cut(text, headings, word_spans, most, overlap)
    covered = set()
    for chunk in found:
        inside = text[chunk.start : chunk.end]
        assert inside == inside.strip()
        assert inside
        assert len(word_spans(inside)) <= most
        covered |= set(range(chunk.start, chunk.end))
    assert all(character.isspace() for at, character in enumerate(text) if at not in covered)
    assert [(chunk.start, chunk.end) for chunk in found] == sorted({(chunk.start, chunk.end) for chunk in found})


@given(st.text(alphabet="abcdefgh .,!?\n#é漢字ß𝒳0123\x07", max_size=600))
def test_no_chunk_is_longer_than_the_encoder_reads(embedder: Embedder, text: str) -> None:
    headings, _ = markdown_headings(text)
    for chunk in cut(text, headings, embedder.spans, most=24, overlap=5):
        encoded = embedder.model.tokenizer(text[chunk.start : chunk.end], add_special_tokens=False)["input_ids"]
        assert len(encoded) <= 24  # type: ignore[arg-type]


def test_lengths_are_counted_to_the_end_whatever_the_tokenizer_was_stored_with(embedder: Embedder) -> None:
    """MiniLM's cuts at 128 tokens and fills up to them."""
    assert len(embedder.spans("one two three")) == 3
    assert len(embedder.spans("word " * 1000)) == 1000
