"""`recipes/evaluate.py`: what it prints, what it writes, and what it refuses."""

import json
from math import nan

import pytest
import torch

from recipes.evaluate import evaluate
from rl4llm.algorithms.held_out import Sample
from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference
from rl4llm.evaluation import Number, as_json, as_markdown, chosen_ks, numbers, run_tool, write_generations
from rl4llm.evaluation.report import AVERAGE
from rl4llm.metrics import Measure

TASKS = [f"--tasks.{name}=AbsoluteDifference" for name in ("easy", "hard")]
TASKS += [f"--tasks.{name}.held_out_size=4" for name in ("easy", "hard")] + ["--tasks.hard.shortest=10"]
FEW = ["--model=rl4llm/digits", *TASKS, "--samples=4", "--scoring.workers=0"]


def command(*flags):
    run_tool(evaluate, list(flags))


def test_an_evaluation_prints_and_writes_its_numbers_and_responses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command(*FEW, "--k=[1,4]", "--seed=3")
    printed = capsys.readouterr().out
    folder = tmp_path / "runs/evaluate/version_0"
    told = json.loads((folder / "evaluation.json").read_text())
    assert (told["model"], told["split"], told["samples"], told["seed"]) == ("rl4llm/digits", "test", 4, 3)
    assert list(told["tasks"]) == ["easy", "hard"]
    for name in ("greedy_accuracy", "mean_at_4", "pass_at_1", "pass_at_4", "maj_at_4", "thinks", "response_length"):
        for own in (*told["tasks"].values(), told["average"]):
            assert own[name]["low"] <= own[name]["mean"] <= own[name]["high"]
        both = [own[name]["mean"] for own in told["tasks"].values()]
        assert told["average"][name]["mean"] == pytest.approx(sum(both) / 2)
    assert told["tasks"]["easy"]["mean_at_4"]["counted"] == 16
    assert told["tasks"]["easy"]["pass_at_4"]["counted"] == 4
    table = (folder / "evaluation.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table if line.startswith("|")] == [
        "task", "---", "easy", "hard", AVERAGE
    ]  # fmt: skip
    assert f"{told['tasks']['easy']['mean_at_4']['mean']:.3f} [" in "".join(table)
    for word in ("samples of easy", "samples of hard", "best ", "mean@4", "maj@4", "pass@1", AVERAGE):
        assert word in printed
    assert max(map(len, printed.splitlines())) <= 80 or str(folder) in printed


def test_the_same_seed_gives_the_same_responses_however_they_are_cut(tmp_path):
    for name, flags in {"a": [], "b": ["--prompts_at_once=3"], "c": ["--seed=1"]}.items():
        command(*FEW, "--generations=jsonl", "--shown=0", f"--out={tmp_path / name}", *flags)
    files = {name: (tmp_path / name / "generations.jsonl").read_text() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    rows = [json.loads(line) for line in files["a"].splitlines()]
    assert len(rows) == 32
    assert set(rows[0]) == {
        "task", "uid", "sample", "prompt", "response", "score", "correct", "answer", "extracted", "length", "truncated"
    }  # fmt: skip
    assert [row["sample"] for row in rows] == [0, 1, 2, 3] * 8
    for row in rows:
        assert row["score"] == AbsoluteDifference().reward(row["prompt"], row["response"], row["answer"])


GENERATIONS = {
    "a": [Sample(2**62, 0, "1+1=", "zwei 漢", 1.0, True, "2", "2", 3)],
    "b": [
        Sample(1, 0, [{"role": "user", "content": "?"}], "", nan, False, {"is": 2}, truncated=True),
        Sample(1, 1, "?", "half \ud800", 0.0, False),
    ],
}


def test_parquet_and_json_lines_hold_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert write_generations(tmp_path, GENERATIONS, "auto").name == "generations.parquet"
    written = write_generations(tmp_path, GENERATIONS, "jsonl")
    rows = parquet.read_table(tmp_path / "generations.parquet").to_pylist()
    assert rows == [json.loads(line) for line in written.read_text().splitlines()]
    assert [row["score"] for row in rows] == [1.0, None, 0.0]
    assert rows[0]["uid"] == 2**62
    assert rows[1]["prompt"] == '[{"role": "user", "content": "?"}]'
    assert rows[2]["response"] == r"half \ud800"
    empty = write_generations(tmp_path, {"a": []}, "parquet")
    assert parquet.read_table(empty).column_names == list(rows[0])


def test_without_pyarrow_json_lines_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("rl4llm.evaluation.generations.find_spec", lambda name: None)
    assert write_generations(tmp_path, GENERATIONS, "auto").name == "generations.jsonl"
    with pytest.raises(UsageError, match=r"needs the package pyarrow; pip install 'rl4llm\[data\]'"):
        write_generations(tmp_path, GENERATIONS, "parquet")


# --- numbers --------------------------------------------------------------------------------------------------------


def ones(count, share):
    values = (torch.arange(count) < share * count).double()
    return Measure(values, torch.ones(count, dtype=torch.float64))


def test_every_task_weighs_the_same_in_the_mean_over_tasks():
    found = numbers({"large": {"x": ones(300, 0.2)}, "small": {"x": ones(30, 0.6), "y": ones(30, 0.5)}})
    average = found[AVERAGE]["x"]
    assert average.mean == pytest.approx(0.4)
    assert list(found[AVERAGE]) == ["x"]
    # variance of the mean over tasks: (0.2 · 0.8 / 300 + 0.6 · 0.4 / 30) / 4, and 1.96 standard deviations each side
    wide = 1.96 * ((0.16 / 300 + 0.24 / 30) / 4) ** 0.5
    assert average.high - average.low == pytest.approx(2 * wide, rel=0.1)
    assert AVERAGE not in numbers({"alone": {"x": ones(30, 0.2)}})


def test_a_number_that_is_none_is_null_and_blank():
    found = {"a|b": {"x": Number(nan, nan, nan, 0), "y": Number(0.5, 0.25, 0.75, 8)}, "c": {}}
    told = json.loads(as_json(found, {"model": "m"}))
    assert told["tasks"]["a|b"]["x"] == {"mean": None, "low": None, "high": None, "counted": 0}
    table = as_markdown(found, ["# m"]).splitlines()
    assert table[2:6] == [
        "| task | x | y |",
        "| --- | --- | --- |",
        r"| a\|b |  | 0.500 [0.250, 0.750] |",
        "| c |  |  |",
    ]


@pytest.mark.parametrize(("samples", "expected"), [(1, [1]), (2, [2]), (8, [2, 4, 8]), (6, [2, 4, 6])])
def test_ks_are_powers_of_two_and_all_samples(samples, expected):
    assert chosen_ks(samples, None) == expected


# --- refusals -------------------------------------------------------------------------------------------------------


UNTRUE = "--task.reward=tests.evaluation.test_command.untrue"
REWARD = "--task.reward=tests.algorithms.helpers.even_length"


def untrue(prompt, response):
    return 1.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "model"),
        (["--modl=x"], "unknown flag --modl; did you mean --model?"),
        (["--model=x.ckpt"], "checkpoint 'x.ckpt' does not exist; give --model another file"),
        (["--model=no/such/folder"], "model folder 'no/such/folder' does not exist"),
        ([*FEW, "--k=[8]"], "evaluate: k=8 needs 8 responses per prompt; raise --samples, which is 4."),
        ([*FEW, "--k=[0]"], "evaluate: k must be a whole number of at least 1, got 0."),
        ([*FEW, "--samples=0"], "evaluate: samples must be a whole number of at least 1, got 0."),
        ([*FEW, "--samples=x"], "--samples: expected a whole number, got x."),
        ([*FEW, "--temperature=-1"], "Sampling: temperature must be in [0, inf), got -1.0."),
        ([*FEW, "--prompts_at_once=0"], "evaluate: prompts_at_once must be a whole number of at least 1"),
        ([*FEW, "--split=train"], "split"),
        (["--model=rl4llm/digits", "--tasks.a=Nope"], "there is no Task named 'Nope'"),
        (["--model=rl4llm/digits", "--tasks={}"], "evaluate: tasks is empty"),
        (
            [
                "--model=rl4llm/digits",
                "--task=AbsoluteDifference",
                "--task.reward=tests.evaluation.test_command.untrue",
            ],
            "does not take 3 arguments",
        ),
        (
            ["--model=rl4llm/digits", "--task=JsonLines", "--task.train=no.jsonl", REWARD],
            "JsonLines: train file 'no.jsonl' does not exist",
        ),
        ([*FEW, "--task=AbsoluteDifference"], "evaluate: both --task and --tasks are given"),
        ([*FEW, "--out=/proc/nothing"], "'/proc/nothing' cannot be written to"),
    ],
    ids=lambda x: " ".join(x)[-50:] if isinstance(x, list) else x[:30],
)
def test_what_cannot_be_meant_is_one_line_before_a_model_is_loaded(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl4llm.models.policy.load_causal_lm", lambda model: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit) as left:
        command(*flags)
    assert left.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "runs").exists()
