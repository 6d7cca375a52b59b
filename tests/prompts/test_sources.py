import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.config import PromptsConfig, PromptSource
from llmrl.errors import UserError
from llmrl.prompts import Prompt, load_prompts
from llmrl.prompts.sources import fraction, split


def load(path, source: str, **options):
    return load_prompts(PromptsConfig(source=PromptSource[source], path=str(path), **options))


def test_the_packaged_openings() -> None:
    found = load_prompts(PromptsConfig())
    everything = found.train + found.held_out
    assert len(everything) >= 300
    assert {prompt.kind for prompt in everything} == {"facts", "questions", "stories", "daily life", "reflections", "lists"}
    assert len({prompt.id for prompt in everything}) == len(everything)
    assert not {prompt.text for prompt in found.train} & {prompt.text for prompt in found.held_out}
    assert 64 <= len(found.held_out) < len(found.train)
    assert {prompt.kind for prompt in found.held_out} == {prompt.kind for prompt in everything}


@given(st.lists(st.text(min_size=1), min_size=2, max_size=40, unique=True), st.floats(0.01, 0.99))
def test_both_sides_hold_something_and_nothing_is_lost(texts: list[str], share: float) -> None:
    prompts = [Prompt(text, id=str(i)) for i, text in enumerate(texts)]
    found = split(prompts, share, "here")
    assert found.train
    assert found.held_out
    assert sorted(p.text for p in found.train + found.held_out) == sorted(texts)


def test_a_prompt_keeps_its_side_when_others_come() -> None:
    few = [Prompt(f"prompt {i}", id=str(i)) for i in range(50)]
    many = few + [Prompt(f"more {i}", id=f"m{i}") for i in range(200)]
    before = {p.text for p in split(few, 0.3, "").held_out}
    after = {p.text for p in split(many, 0.3, "").held_out}
    assert before == after & {p.text for p in few}


def test_lines_of_text(tmp_path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("One day\n\n  \nTwo days  \nOne day\nThree days\n", encoding="utf-8")
    found = load(path, "text")
    assert sorted(p.text for p in found.train + found.held_out) == ["One day", "Three days", "Two days"]


def test_json_lines(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "Why?", "id": 7, "answer": "So."}\n{"question": "How?"}\n', encoding="utf-8")
    found = load(path, "jsonl", field="question")
    prompts = {p.text: p for p in found.train + found.held_out}
    assert (prompts["Why?"].id, prompts["Why?"].answer) == ("7", "So.")
    assert prompts["How?"].answer is None


def test_sentences_of_a_text(tmp_path) -> None:
    path = tmp_path / "book.txt"
    path.write_text('It was a dark night. "Who is there?" said the\nold man. Rain. He went to the door!', encoding="utf-8")
    found = load(path, "sentences", words=3)
    assert {p.text for p in found.train + found.held_out} == {"It was a", "said the old", "He went to"}


@pytest.mark.parametrize(
    ("name", "content", "source", "said"),
    [
        ("empty.txt", "", "text", "holds no prompts"), ("blank.txt", "\n \n", "text", "holds no prompts"),
        ("one.txt", "alone\n", "text", "only one prompt"),
        ("broken.jsonl", '{"prompt": "a"}\n{oops\n', "jsonl", "line 2: not JSON"),
        ("key.jsonl", '{"text": "a"}\n', "jsonl", r"no key 'prompt' \(found: text\)"),
        ("blank.jsonl", '{"prompt": "  "}\n', "jsonl", "must be text that is not blank"),
        ("list.jsonl", "[1]\n", "jsonl", "no key 'prompt'"), ("empty.jsonl", "", "jsonl", "holds no prompts"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path, name: str, content: str, source: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        load(path, source)


def test_what_is_no_text_file_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "missing", "text")
    with pytest.raises(UserError, match="is a folder"):
        load(tmp_path, "text")
    (tmp_path / "latin1").write_bytes(b"caf\xe9\nb\n")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 3\)"):
        load(tmp_path / "latin1", "text")


def test_the_first_held_out_prompts_are_of_every_kind() -> None:
    """A comparison takes the first so many: in the order of the file they would be facts and questions alone."""
    first = load_prompts(PromptsConfig()).held_out[:32]
    assert len({prompt.kind for prompt in first}) == 6


def test_only_a_newline_ends_a_line_of_json(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "one\u2028two"}\n{"prompt": "three\u0085four"}\n', encoding="utf-8")
    found = load(path, "jsonl")
    assert {p.text for p in found.train + found.held_out} == {"one\u2028two", "three\u0085four"}


def asked(text: str, gold: tuple[str, ...]) -> Prompt:
    return Prompt(text, id=text, gold=gold)


def test_questions_that_share_a_document_are_on_one_side() -> None:
    """Bound together by any of their documents, through others as well; the sides are those of before where none shares."""
    pairs = [(f"{number}a", f"{number}b") for number in range(40)]
    prompts = [asked(f"both {a}", (a, b)) for a, b in pairs] + [asked(f"second {b}", (b,)) for _, b in pairs]
    prompts += [asked(f"chain {number}", (f"{number}b", f"{number}c")) for number in range(0, 40, 4)]
    prompts += [asked(f"end {number}", (f"{number}c",)) for number in range(0, 40, 4)]
    found = split(prompts, 0.3, "here")
    sides = [{path for prompt in side for path in prompt.gold} for side in (found.train, found.held_out)]
    assert not sides[0] & sides[1]
    assert min(len(side) for side in sides) > 10
    alone = [asked(f"q{number}", (f"{number}.txt",)) for number in range(40)]
    held_out = {prompt.gold[0] for prompt in split(alone, 0.3, "here").held_out}
    assert held_out == {prompt.gold[0] for prompt in alone if fraction(prompt.gold[0]) < 0.3}
