"""The first rollout batch says what it took and what the rest will take."""

import re

import pytest

from rl4llm.runs.first_batch import first_line
from tests.runs.commands import run

LINE = r"first rollout batch: [\d.]+ s, peak memory [\d.]+ GiB; (.*) will take about"


def test_the_rest_is_batches_and_evaluations():
    line = first_line(2.0, 2**30, batches=10, evaluations=3, evaluation=100.0)
    assert line.endswith("10 more with 3 evaluations will take about 5.3 minutes")


def test_a_run_says_it_once_with_its_evaluations(tmp_path, capsys):
    run(tmp_path)  # ten batches, an evaluation every four and one at the end
    assert re.findall(LINE, capsys.readouterr().out) == ["9 more with 3 evaluations"]


def test_a_resumed_run_says_the_rest(tmp_path, capsys):
    run(tmp_path, "--trainer.max_steps=4")
    capsys.readouterr()
    run(tmp_path, "--ckpt_path=last", "--trainer.max_steps=10")
    said = re.findall("first rollout batch.*", capsys.readouterr().out)
    assert len(said) == 1
    assert "5 more" in said[0]
    assert "2 evaluations" in said[0]


@pytest.mark.parametrize("flag", ["--trainer.fast_dev_run=1"])
def test_a_rehearsal_says_nothing(tmp_path, capsys, flag):
    run(tmp_path, flag)
    assert not re.findall("first rollout batch", capsys.readouterr().out)
