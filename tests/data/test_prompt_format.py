"""How columns become prompts: templates, chats, system prompts and solved examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.data import Chat, JsonLines, PromptFormat
from rl4llm.data.prompt_format import Shot
from rl4llm.rollouts.prompts import encode_prompt
from tests.data.helpers import one, questions, reading_policy, write_lines, write_parquet

USER = {"role": "user", "content": "1+1"}
SHOTS = (Shot("Q: 2+2 A:", "4"),)
SOLVED = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]


@given(st.text(), st.text())
def test_braces_in_the_data_are_left_as_they_are(first, second):
    filled = PromptFormat(template="<{a}|{b}>").filled({"a": first, "b": second}, "")
    assert filled == f"<{first}|{second}>"


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{a}", "x"),
        ("{a}{a}", "xx"),
        (r"{a} into \boxed{}.", r"x into \boxed{}."),
        (r"\boxed{{{a}}} {{a}}", r"\boxed{x} {a}"),
        ("{ a } {a", None),
        ("{n.deep} {n.list|a}", "7 x"),
        ("{zero} {half}", "0 0.5"),
    ],
)
def test_names_in_braces_are_columns_and_other_braces_stand(template, filled):
    record = {"a": "x", "n": {"deep": 7}, "zero": 0, "half": 0.5}
    if filled is None:
        with pytest.raises(UsageError, match="names no column; write the name of one in braces"):
            PromptFormat(template=template)
    else:
        assert PromptFormat(template=template).filled(record, "") == filled


def test_a_text_stays_raw_unless_a_chat_is_asked_for():
    assert PromptFormat().prompt("1+1", (), "") == "1+1"
    assert PromptFormat().prompt([USER], (), "") == [USER]
    assert PromptFormat(chat=True).prompt("1+1", (), "") == [USER]
    chat = [{"role": "system", "content": "Be brief."}, USER]
    assert PromptFormat(chat=False).prompt(chat, (), "") == "Be brief.\n\n1+1"


def test_a_system_prompt_is_first_and_replaces_another():
    system = {"role": "system", "content": "New"}
    form = PromptFormat(system="New", chat=True)
    assert form.prompt("1+1", (), "") == [system, USER]
    assert form.prompt([{"role": "system", "content": "Old"}, USER], (), "") == [system, USER]


def test_solved_examples_stand_between_the_system_prompt_and_the_question():
    assert PromptFormat().prompt("Q: 1+1 A:", SHOTS, "") == "Q: 2+2 A: 4\n\nQ: 1+1 A:"
    assert PromptFormat().prompt("Q", (Shot("Q: 2\n", "4"),), "") == "Q: 2\n4\n\nQ"
    system = {"role": "system", "content": "S"}
    shots = (Shot("2+2", "4"),)
    assert PromptFormat().prompt([system, USER], shots, "") == [system, *SOLVED, USER]
    assert PromptFormat(chat=False).prompt([USER], shots, "") == "2+2 4\n\n1+1"


def test_the_messages_of_the_data_are_not_changed():
    chat = [USER]
    PromptFormat(system="S").prompt(chat, SHOTS, "")
    assert chat == [USER]


@pytest.mark.parametrize("option", [{"system": "S"}, {"chat_options": {"enable_thinking": False}}])
def test_what_is_for_chats_is_refused_for_raw_texts(option):
    name = next(iter(option))
    with pytest.raises(UsageError, match=rf"^line 3 is a text and {name} is for chats; set prompt.chat=true"):
        PromptFormat(**option).prompt("1+1", (), "line 3")
    with pytest.raises(UsageError, match=rf"{name} is given and chat=False"):
        PromptFormat(chat=False, **option)


@pytest.mark.parametrize("place", ["inline", "shots.jsonl", "shots.parquet"])
def test_few_shot_examples_are_in_no_split(tmp_path, place):
    shots = [{"question": "3+1=", "answer": "4"}, {"question": " 5+1= ", "answer": "6"}]
    write = write_parquet if place.endswith("parquet") else write_lines
    given = shots if place == "inline" else write(tmp_path / place, shots)
    task = JsonLines(
        train=write_lines(tmp_path / "a", questions(9)), validation=write_lines(tmp_path / "b", questions(6)),
        reward=one, prompt_key="question", prompt=PromptFormat(few_shot=given),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="JsonLines: 2 prompts of .*/. are few-shot examples and left out"):
        train, held_out = task.examples("train"), task.examples("validation")
    front = "3+1= 4\n\n 5+1= 6\n\n"
    assert [e.prompt for e in held_out] == [f"{front}{i}+1=" for i in (0, 1, 2, 4)]
    assert len(train) == 7


def test_a_demonstration_is_the_response_of_a_few_shot_example(tmp_path):
    shots = [{"question": "3+1=", "answer": "4", "response": "Three and one. 4"}]
    form = PromptFormat(few_shot=shots, chat=True)
    (example, *_) = JsonLines(
        train=write_lines(tmp_path / "a", questions(2)), reward=one, prompt_key="question", prompt=form
    ).examples("train")
    assert [m["content"] for m in example.prompt] == ["3+1=", "Three and one. 4", "0+1="]


def test_options_reach_the_chat_template():
    policy = reading_policy()
    plain, quiet = (encode_prompt(policy, Chat([USER], {"enable_thinking": on})) for on in (True, False))
    assert policy.tokenizer.decode(plain) == "<user>1+1<assistant>"
    assert policy.tokenizer.decode(quiet) == "<user>1+1<assistant><think></think>"
    assert encode_prompt(policy, [USER]) == plain
    with pytest.raises(
        UsageError, match="chat_options sets 'enable_thinkng', which the policy's chat template does not"
    ):
        encode_prompt(policy, Chat([USER], {"enable_thinkng": False}))


def test_a_chat_without_a_chat_template_names_the_remedy():
    policy = reading_policy()
    policy.tokenizer.chat_template = None
    with pytest.raises(UsageError, match=r"no chat template; .*--data.task.prompt.chat=false"):
        encode_prompt(policy, [USER])


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt"])
def test_options_of_the_library_are_refused(name):
    with pytest.raises(UsageError, match=f"chat_options sets '{name}', which the library sets"):
        PromptFormat(chat_options={name: False})
