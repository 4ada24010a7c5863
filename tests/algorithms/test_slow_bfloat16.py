"""The notice that bfloat16 is slower than float32: decided by a measurement, said once and only where it matters."""

import warnings

import pytest
import torch

from rl4llm.algorithms import policy_module
from rl4llm.algorithms.slow_bfloat16 import bfloat16_ratio, warn_of_slow_bfloat16
from rl4llm.models import Policy, TinyQwen3
from tests.algorithms.helpers import loop, run

SMALL = {"hidden_size": 8, "layers": 1, "heads": 1, "key_value_heads": 1, "head_size": 8}


def lines(precision="32-true", dtype=torch.float32, ratio=7.26, device="cpu"):
    """What is said, and how often the processor was measured."""
    policy, measured = Policy(*TinyQwen3(**SMALL).build()).to(device, dtype), []

    def measure():
        measured.append(ratio)
        return ratio

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_slow_bfloat16(policy, precision, measure)
    return [str(warning.message) for warning in said], len(measured)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_precision_that_is_slower_here_is_said_in_one_line_with_the_ratio_and_the_faster_setting(precision):
    said, measured = lines(precision)
    assert measured == 1
    assert len(said) == 1
    assert "\n" not in said[0]
    assert "takes 7.3 times as long in bfloat16 as in float32" in said[0]
    assert "--trainer.precision=32-true" in said[0]


def test_weights_in_bfloat16_are_named_by_their_own_setting():
    said, _ = lines(dtype=torch.bfloat16)
    assert len(said) == 1
    assert "--model.policy.dtype=float32" in said[0]
    assert "--trainer.precision" not in said[0]


@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.05])
def test_nothing_is_said_where_bfloat16_is_measured_to_be_as_fast(ratio):
    assert lines("bf16-mixed", ratio=ratio) == ([], 1)


@pytest.mark.parametrize(
    "asked",
    [
        {"precision": "32-true"},
        {"precision": "64-true", "dtype": torch.float64},
        {"precision": "bf16-mixed", "device": "meta"},  # any device but the CPU
    ],
)
def test_nothing_is_measured_where_bfloat16_was_not_asked_for_or_does_not_run_on_the_cpu(asked):
    assert lines(**asked) == ([], 0)


def test_the_ratio_is_a_positive_number():
    assert 0 < bfloat16_ratio() < float("inf")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_asks_once_when_it_starts(tiny_policy, monkeypatch, precision):
    asked = []
    monkeypatch.setattr(policy_module, "warn_of_slow_bfloat16", lambda *given: asked.append(given))
    module = loop(tiny_policy)
    run(module, steps=1, precision=precision)
    assert asked == [(module.policy, precision)]
