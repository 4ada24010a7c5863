"""What a rollout batch costs: processor time of each batch, and its table on the page."""

import json
import time

import pytest

from bench import asyppo_cost
from bench.asyppo_cost import ARMS, DATA, PAGE, ProcessorSeconds, cost_table, main
from rl4llm.checks import UsageError
from tests.algorithms.helpers import loop, run


def test_every_batch_is_timed_in_processor_time(tiny_policy, tmp_path):
    callback = ProcessorSeconds(str(tmp_path / "seconds.json"))
    began = time.process_time()
    run(loop(tiny_policy), steps=3, callbacks=[callback])
    seconds = json.loads((tmp_path / "seconds.json").read_text())
    assert len(seconds) == 3
    assert all(one > 0 for one in seconds)
    assert sum(seconds) < time.process_time() - began


def test_the_table_is_relative_to_the_first_arm():
    table = cost_table({"asyppo": [1.0, 2.0, 9.0], "grpo": [1.0, 1.0, 0.5]})
    assert "| asyppo | 2.00 | 1.00 to 9.00 | × 1.00 |" in table
    assert "| grpo | 1.00 | 0.50 to 1.00 | × 0.50 |" in table


def test_a_run_that_fails_and_a_file_that_is_missing_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(asyppo_cost.sys, "executable", "false")
    with pytest.raises(UsageError, match="arm 'grpo' failed"):
        asyppo_cost.measured(["grpo"])
    with pytest.raises(UsageError, match="does not exist; measure with"):
        main([f"--page={tmp_path}/page.md"])


def test_the_page_holds_what_was_measured():
    seconds = json.loads(DATA.read_text())
    assert tuple(seconds) == ARMS
    assert cost_table(seconds) in PAGE.read_text(encoding="utf-8")
