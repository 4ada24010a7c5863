"""`CollapseWatch`: each sign of collapse is said once, with what to try; a healthy run is left alone."""

import math
import warnings
from types import SimpleNamespace

import pytest
from lightning import LightningModule, Trainer

from rl4llm.runs.collapse import CollapseWatch

VOCABULARY = 15
HEALTHY = {
    "train/reward": lambda t: 0.3 + 0.01 * t + 0.05 * (t % 3),
    "train/accuracy": lambda t: 0.3 + 0.01 * t + 0.05 * (t % 3),
    "train/truncated_share": lambda t: 0.1 * (t % 2),
    "policy/entropy": lambda t: 0.4 / (1 + t),
    "policy/gated_share": lambda t: 0.2 - 0.01 * (t % 2),
    "grad_norm/policy": lambda t: 1.0 + t % 5,
    "critics/explained_variance": lambda t: -0.5 + 0.1 * (t % 7),
    "critic_0/value_loss": lambda t: 0.3 + 0.1 * (t % 4),
}


class Shown(Trainer):
    """A trainer that shows metrics and nothing else."""

    callback_metrics = global_step = None

    def __init__(self, metrics, step):
        self.callback_metrics, self.global_step = metrics, step


class Module(LightningModule):
    """Holds what names the vocabulary."""

    policy = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(vocab_size=VOCABULARY)))


def stream(**changes):
    """The metrics of a healthy run, some of them replaced; underscores stand for slashes."""
    curves = HEALTHY | {name.replace("__", "/"): curve for name, curve in changes.items()}
    return lambda t: {name: curve(t) for name, curve in curves.items()}


def after(batches, collapsed, healthy):
    return lambda t: healthy(t) if t < batches else collapsed


def warned(metrics, steps, watch=None, *, start=0, ends=True, calls=1):
    """The warnings of a run with these metrics."""
    watch = watch or CollapseWatch()
    module, trainer = Module(), Shown({}, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(start, start + steps):
            trainer = Shown(metrics(step), step + 1)
            for _ in range(calls):
                watch.on_train_batch_end(trainer, module, None, None, step)
        if ends:
            watch.on_train_end(trainer, module)
    return [str(warning.message) for warning in caught]


COLLAPSES = {
    "reward": ({"train__reward": after(3, 0.0, HEALTHY["train/reward"])}, "--model.optimizer.lr"),
    "solved": ({"train__reward": lambda t: 1.0, "train__accuracy": lambda t: 1.0}, "the task is solved"),
    "deterministic": ({"policy__entropy": after(3, 1e-5, HEALTHY["policy/entropy"])}, "always says the same"),
    "uniform": (
        {"policy__entropy": after(3, math.log(VOCABULARY), HEALTHY["policy/entropy"])},
        "draws every token with the same probability",
    ),
    "length": ({"train__truncated_share": after(3, 1.0, HEALTHY["train/truncated_share"])}, "max_response_tokens"),
    "gate_closed": ({"policy__gated_share": lambda t: 0.99}, "--model.gate=null"),
    "gate_open": (
        {"policy__gated_share": after(10, 0.0, HEALTHY["policy/gated_share"])},
        "no longer drops what it did",
    ),
    "gate_drifted": ({"policy__gated_share": after(10, 0.7, HEALTHY["policy/gated_share"])}, "critics/spread"),
    "gradient": ({"grad_norm__policy": after(3, 0.0, HEALTHY["grad_norm/policy"])}, "does not learn"),
    "critics": ({"critics__explained_variance": lambda t: -4e6}, "--model.critic_optimizer.lr"),
    "value_loss": ({"critic_0__value_loss": after(1, 4e4, HEALTHY["critic_0/value_loss"])}, "from 0.3 to 4e+04"),
}


@pytest.mark.parametrize("sign", COLLAPSES)
def test_every_sign_of_collapse_is_said_once_with_what_to_try(sign):
    changes, remedy = COLLAPSES[sign]
    (line,) = warned(stream(**changes), 60)
    assert remedy in line
    assert "\n" not in line


def test_a_healthy_run_is_left_alone():
    assert warned(stream(), 200) == []


@pytest.mark.parametrize("sign", ["reward", "uniform", "length", "gradient"])
def test_a_collapse_in_a_run_of_twelve_batches_is_said_by_its_end(sign):
    changes, remedy = COLLAPSES[sign]
    collapse = warned(stream(**changes), 12, ends=False)
    assert collapse == []  # 9 batches have shown it, a window has 10
    (line,) = warned(stream(**changes), 12)
    assert remedy in line
    assert "over the last 5 rollout batches, step 12" in line


def test_fewer_batches_than_half_a_window_say_nothing():
    assert warned(stream(train__reward=lambda t: 0.0), 4) == []


def test_calls_without_a_step_count_once():
    """Dynamic sampling calls the loop several times per step, and the metrics stay those of the step before."""
    flat = stream(train__reward=lambda t: 0.2 if t < 3 else 0.25 + 0.01 * t)
    assert warned(flat, 12, calls=7) == []


def test_critics_are_not_blamed_where_all_returns_are_equal():
    metrics = stream(critics__explained_variance=lambda t: -4e6, train__reward=lambda t: 0.0)
    (line,) = warned(metrics, 60)
    assert line.startswith("train/reward has been 0 throughout")


def test_a_sign_that_passes_is_no_collapse():
    assert warned(stream(train__truncated_share=lambda t: float(t % 8 != 0)), 60, ends=False) == []


def test_a_resumed_run_does_not_repeat_what_was_said():
    changes, _ = COLLAPSES["gradient"]
    first, second = CollapseWatch(), CollapseWatch()
    assert len(warned(stream(**changes), 20, first, ends=False)) == 1
    second.load_state_dict(first.state_dict())
    assert warned(stream(**changes), 20, second, start=20) == []
