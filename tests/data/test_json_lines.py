"""Prompts from files: what is read, and what each fault says."""

import json
import os
import warnings

import pytest

from rl4llm.checks import UsageError
from rl4llm.data import JsonLines, PromptBatch


def one(prompt, response, answer):
    return 1.0


def task(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return JsonLines(train=str(path), reward=one, **options)


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_json_lines_hold_texts_or_chats(tmp_path):
    chat = [{"role": "user", "content": "1+1"}]
    content = lines({"prompt": "1+1=", "answer": 2, "response": "2"}, {"prompt": chat, "answer": [2]})
    source = task(tmp_path / "a.jsonl", content)
    first, second = source.examples("train")
    assert (first.prompt, first.answer, first.uid, first.demonstration) == ("1+1=", 2, 0, "2")
    assert (second.prompt, second.answer, second.uid, second.demonstration) == (chat, [2], 1, None)
    assert source.examples("validation") == source.examples("test") == []
    assert PromptBatch([first, second], source).prompts == ["1+1=", chat]


def test_the_test_split_is_the_validation_split_unless_a_file_is_given(tmp_path):
    for name in ("b", "c"):
        (tmp_path / name).write_text(lines({"prompt": name, "answer": 1}))
    source = task(tmp_path / "a", lines({"prompt": "a", "answer": 1}), validation=str(tmp_path / "b"))
    assert source.examples("test") == source.examples("validation")
    source = task(
        tmp_path / "a",
        lines({"prompt": "a", "answer": 1}),
        validation=str(tmp_path / "b"),
        test=str(tmp_path / "c"),
    )
    assert [source.examples(split)[0].prompt for split in ("train", "validation", "test")] == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", "\ufeffa", "é漢字🙂", "x" * 2_000_000])
def test_only_a_newline_ends_a_line_and_every_character_survives(tmp_path, text):
    content = lines({"prompt": text, "answer": 1}, {"prompt": "b", "answer": 2})
    for written in (content, content.rstrip("\n"), content.replace("\n", "\r\n"), "\ufeff" + content, "\n" + content):
        assert [e.prompt for e in task(tmp_path / f"{len(written)}.jsonl", written).examples("train")] == [text, "b"]


PROMPT = '{"prompt": %s, "answer": 1}\n'
GOOD = PROMPT % '"good"'
FAULTS = {
    "cut": (GOOD + '{"prompt"', r"line 2 is not JSON \(.*\); write one object per line"),
    "deep": (GOOD + "[" * 200_000, r"line 2 is not JSON \(.*\); write one object per line"),
    "digits": (GOOD + '{"prompt": ' + "1" * 5000 + "}", r"line 2 is not JSON \(.*\)"),
    "list": (GOOD + "[1]", r"line 2 is a list; write one object per line"),
    "pretty": ('{\n"prompt": "a"\n}', r"line 1 is not JSON"),
    "no prompt": (lines({"question": "a"}), r"line 1 has no field 'prompt'; name the prompt's field with prompt_key"),
    "null": (GOOD + PROMPT % "null", r"line 2: 'prompt' is null; write a text or a list of chat messages"),
    "number": (GOOD + PROMPT % "3.5", r"line 2: 'prompt' is a number"),
    "truth": (GOOD + PROMPT % "true", r"line 2: 'prompt' is a truth value"),
    "object": (GOOD + PROMPT % "{}", r"line 2: 'prompt' is an object"),
    "empty": (GOOD + PROMPT % '""', r"line 2: 'prompt' is an empty text; write a prompt or leave the example out"),
    "blank": (GOOD + PROMPT % '" \\n"', r"line 2: 'prompt' is an empty text"),
    "surrogate": (GOOD + PROMPT % '"\\ud800"', r"line 2: 'prompt' holds half of a surrogate pair"),
    "empty chat": (GOOD + PROMPT % "[]", r"line 2: 'prompt' is an empty chat; write at least one message"),
    "text chat": (GOOD + PROMPT % '["hi"]', r"line 2: 'prompt', message 1 is a text; write \{\"role\": ..., \"content"),
    "no content": (GOOD + PROMPT % '[{"role": "user"}]', r"line 2: 'prompt', message 1 has null as its 'content'"),
    "no role": (GOOD + PROMPT % '[{"content": "a"}]', r"message 1 has null as its 'role'; write a text"),
    "empty role": (GOOD + PROMPT % '[{"role": "", "content": "a"}]', r"message 1 has an empty 'role'"),
    "response": (GOOD + '{"prompt": "b", "answer": 1, "response": 3}', r"line 2: 'response' is a number; write a text"),
    "binary": (GOOD.encode() + b"\x89PNG\r\n\x1a\n\x00", r"line 2 is not UTF-8 text \(byte 0x89\)"),
    "UTF-16": (GOOD.encode("utf-16"), r"line 1 is not UTF-8 text \(byte 0xff\)"),
    "zip": (b"\x1f\x8b\x08\x00", r"line 1 is not UTF-8 text \(byte 0x8b\); .* encoded in UTF-8 and not compressed"),
    "nothing": ("", r"a.jsonl has no lines; write one JSON object with a prompt per line"),
    "blank lines": ("\n \n\n", r"a.jsonl has no lines"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line_that_says_where_it_is(tmp_path, fault):
    content, message = FAULTS[fault]
    with pytest.raises(UsageError, match=message) as raised:
        task(tmp_path / "a.jsonl", content).examples("train")
    assert "\n" not in str(raised.value)
    assert "a.jsonl" in str(raised.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"train file '.*none.jsonl' does not exist; pass the path"):
        JsonLines(train=str(tmp_path / "none.jsonl"), reward=one)
    with pytest.raises(UsageError, match=r"train file '.*' is a folder; pass the path"):
        JsonLines(train=str(tmp_path), reward=one)
    source = task(tmp_path / "a", GOOD)
    (tmp_path / "a").unlink()
    with pytest.raises(UsageError, match=r"a cannot be read \(No such file or directory\); pass a readable file"):
        source.examples("train")


def test_fields_have_the_names_that_are_given(tmp_path):
    content = lines({"q": "a", "a": 1, "r": "b"})
    source = task(tmp_path / "a", content, prompt_key="q", answer_key="a", demonstration_key="r")
    (example,) = source.examples("train")
    assert (example.prompt, example.answer, example.demonstration) == ("a", 1, "b")


def test_repeated_prompts_and_missing_answers_are_counted_and_said_once(tmp_path):
    chat = [{"role": "user", "content": "a"}]
    swapped = [{"content": "a", "role": "user"}]
    records = [
        {"prompt": p, "answer": a} for p, a in [("a", 1), (chat, 1), ("a", 1), (swapped, 1), ("a", 2), ("b", None)]
    ]
    source = task(tmp_path / "a.jsonl", lines(*records, {"prompt": "c"}))
    with pytest.warns(UserWarning, match="JsonLines") as said:
        examples = source.examples("train")
    path = tmp_path / "a.jsonl"
    assert [str(warning.message) for warning in said] == [
        f"JsonLines: 3 of 7 prompts of {path} repeat an earlier line.",
        f"JsonLines: 2 of 7 lines of {path} have no field 'answer'; their reward receives None as the answer.",
    ]
    assert [example.uid for example in examples] == [0, 1, 0, 1, 4, 5, 6]  # another answer is another prompt
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source.examples("train") == examples


def test_held_out_prompts_that_are_training_prompts_are_counted_and_said_once(tmp_path):
    (tmp_path / "b").write_text(lines(*({"prompt": text, "answer": 1} for text in "bcd")))
    content = lines(*({"prompt": text, "answer": 2} for text in "abc"))
    source = task(tmp_path / "a", content, validation=str(tmp_path / "b"))
    with pytest.warns(UserWarning, match=rf"2 of 3 prompts of {tmp_path}/b are training prompts too \({tmp_path}/a\)"):
        source.examples("validation")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.examples("test")
        source.examples("train")


def test_a_file_is_parsed_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    loads, parsed = json.loads, []
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(text) or loads(text))
    source = task(tmp_path / "a", GOOD)
    first = source.examples("train")
    first.clear()
    assert len(source.examples("train")) == len(parsed) == 1
    task(tmp_path / "a", PROMPT % '"new!"')
    os.utime(tmp_path / "a", ns=(1, 1))
    assert source.examples("train")[0].prompt == "new!"
