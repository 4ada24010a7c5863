"""Generated problems: disjoint splits, the package's own scores, faults of the settings."""

import pickle

import pytest

from rl4llm.checks import UsageError
from rl4llm.data import GymAnswer, PromptBatch, PromptFormat, ReasoningGym, ReasoningGymScore
from rl4llm.data.checking import check_reward, checked_examples

gym = pytest.importorskip("reasoning_gym")
SIZES = {"train_size": 200, "held_out_size": 40}
SPLITS = ("train", "validation", "test")


def test_splits_have_their_sizes_and_share_no_question():
    task = ReasoningGym("chain_sum", **SIZES)
    parts = [{example.prompt for example in checked_examples(task, split)} for split in SPLITS]
    assert [len(part) for part in parts] == [200, 40, 40]
    assert len(set.union(*parts)) == 280


def test_a_held_out_question_is_in_no_training_split_whatever_sizes_and_seed():
    config = {"min_terms": 2, "max_terms": 2, "max_digits": 1, "min_digits": 1}  # 200 different questions
    held_out = ReasoningGym("chain_sum", config=config, seed=3, train_size=9, held_out_size=10).examples("test")
    train = ReasoningGym("chain_sum", config=config, train_size=100, held_out_size=2).examples("train")
    assert not {example.prompt for example in train} & {example.prompt for example in held_out}


def test_every_problem_has_a_seed_of_its_own_and_is_the_package_s():
    found = {
        example.prompt for split in SPLITS for example in ReasoningGym("chain_sum", seed=5, **SIZES).examples(split)
    }
    theirs = {entry["question"] for entry in gym.create_dataset("chain_sum", seed=5, size=1000)}
    assert found < theirs
    other = ReasoningGym("chain_sum", seed=100_000, **SIZES).examples("train")
    assert len({example.prompt for example in other} & found) < 20


@pytest.mark.parametrize("name", ["chain_sum", "countdown", "basic_arithmetic", "family_relationships"])
def test_the_package_s_own_answer_scores_one_and_nonsense_does_not(name):
    task = ReasoningGym(name, train_size=4, held_out_size=1)
    check_reward(task)
    examples = pickle.loads(pickle.dumps(task.examples("train")))  # as worker processes receive them
    for example in examples:
        oracle = example.answer.entry["answer"]
        assert task.reward(example.prompt, f"Thus <answer>{oracle}</answer>", example.answer) == 1.0
        assert task.reward(example.prompt, f" {oracle}\n", example.answer) == 1.0
        assert task.reward(example.prompt, "<answer>nonsense</answer>", example.answer) < 0.5


def test_the_configuration_reaches_generator_and_scorer():
    task = ReasoningGym("chain_sum", config={"max_terms": 2, "max_digits": 2}, **SIZES, prompt=PromptFormat(chat=True))
    for example in task.examples("validation"):
        assert example.answer.entry["metadata"]["num_terms"] == 2
        assert example.prompt == [{"role": "user", "content": example.answer.entry["question"]}]


def test_scores_of_a_batch_are_those_of_the_package():
    task = ReasoningGym("chain_sum", **SIZES)
    batch = PromptBatch(task.examples("test")[:2], task)
    assert batch.score([str(batch.examples[1].answer), "x"], [1, 0]).scores.tolist() == [1.0, 0.0]


def test_an_answer_is_the_text_of_the_answer():
    answer = GymAnswer("3", "chain_sum", "{}", {"answer": "3"})
    assert answer == "3"
    assert pickle.loads(pickle.dumps(answer)).entry == {"answer": "3"}
    with pytest.raises(UsageError, match="scores problems of ReasoningGym only"):
        ReasoningGymScore()("", "3", "3")


def test_few_shot_questions_are_left_out():
    first = ReasoningGym("chain_sum", **SIZES).examples("train")[0]
    shots = [{"question": first.prompt, "answer": str(first.answer)}]
    task = ReasoningGym("chain_sum", **SIZES, prompt=PromptFormat(few_shot=shots))
    examples = task.examples("train")
    assert len(examples) == 199
    assert all(example.prompt.startswith(f"{first.prompt} {first.answer}\n\n") for example in examples)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "chain_sm"}, r"there is no task named 'chain_sm'; did you mean chain_sum or"),
        ({"name": "xyzzy"}, r"there is no task named 'xyzzy'; see the list"),
        ({"config": {"max_term": 3}}, r"chain_sum refuses config=\{\"max_term\": 3\} \(TypeError: .*max_term.*; mend"),
        ({"config": {"max_terms": 1, "min_terms": 2}}, r"refuses config=.*AssertionError: max_terms must be >="),
        ({"config": {"seed": 1}}, "config sets 'seed'; set train_size, held_out_size or seed"),
        ({"config": {"size": 1}}, "config sets 'size'"),
        ({"train_size": 0}, "train_size must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"config": {"max_terms": 2, "max_digits": 1}}, r"too few different questions \(\d+ of 4000 for train"),
        ({"prompt": PromptFormat(template="{problem}")}, "has no column 'problem', which the template names"),
    ],
)
def test_a_fault_of_the_settings_is_one_line(fields, message):
    with pytest.raises(UsageError, match=message) as raised:
        ReasoningGym(**{"name": "chain_sum", **fields}).prepare(["train"])
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("ReasoningGym: ")


def test_without_the_package_the_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym.factory", None)
    with pytest.raises(UsageError, match=r"needs the package reasoning-gym; run pip install 'rl4llm\[reasoning-gym\]'"):
        ReasoningGym("chain_sum")
