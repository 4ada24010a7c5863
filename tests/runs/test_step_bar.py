"""The line about a run's steps: in a terminal it is redrawn within 80 columns, elsewhere it is a line now and then."""

import io
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

from rl4llm.runs import step_bar
from rl4llm.runs.step_bar import StepBar, has_bar, step_line

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


class Stream(io.TextIOWrapper):
    """A stream that is a terminal or not."""

    def __init__(self, terminal, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding, newline="")
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def getvalue(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def trainer(total=80, metrics=None):
    metrics = metrics or {"train/reward": 0.5, "train/accuracy": 0.4, "v_num": 3, "val/sampled_accuracy": 0.25}
    return SimpleNamespace(
        global_step=0,
        estimated_stepping_batches=total,
        progress_bar_metrics=metrics,
        is_global_zero=True,
        sanity_checking=True,
        num_sanity_val_batches=[4],
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(step_bar.time, "perf_counter", lambda: now.time)
    return now


def run(bar, clock, seconds, steps, total=80, metrics=None):
    run = trainer(total, metrics)
    bar.setup(run, None, "fit")
    bar.on_train_start(run, None)
    for step in range(1, steps + 1):
        clock.time += seconds
        run.global_step = step
        bar.on_train_batch_end(run, None, None, None, 0)
    return run


def test_a_terminal_gets_one_line_of_at_most_79_columns(clock):
    stream = Stream(terminal=True)
    run(StepBar(stream), clock, 1.5, 20)
    *_, last = stream.getvalue().split("\r")
    assert last.rstrip() == "step 20/80 ━━─────────  1.5 s per step, reward 0.500, held out 0.250, 1:30 left"
    assert "\n" not in stream.getvalue()
    assert max(map(len, stream.getvalue().split("\r"))) <= 79


def test_a_line_that_is_too_long_is_cut(clock):
    stream = Stream(terminal=True)
    run(StepBar(stream), clock, 1e5, 2, total=10**9, metrics={"train/reward": -1e12, "val/sampled_accuracy": 1e12})
    assert max(map(len, stream.getvalue().split("\r"))) == 79


def test_elsewhere_there_is_a_line_after_the_first_step_the_last_and_every_ten_seconds(clock):
    stream = Stream(terminal=False)
    run(StepBar(stream), clock, 4.0, 10, total=10)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "4/10", "7/10", "10/10"]
    assert lines[1].endswith("4 s per step, reward 0.500, held out 0.250, 0:24 left")
    assert lines[-1].endswith("held out 0.250")
    assert "\r" not in stream.getvalue()


def test_other_modules_show_their_first_two_metrics(clock):
    stream = Stream(terminal=False)
    run(StepBar(stream), clock, 1.0, 1, total=float("inf"), metrics={"train/loss": 2.0, "train/odd": 1.0, "more": 3.0})
    assert stream.getvalue() == "step 1  1 s per step, loss 2.000, odd 1.000\n"


def test_words_of_the_run_stand_on_lines_of_their_own(clock):
    stream = Stream(terminal=True)
    bar = StepBar(stream)
    bar.on_validation_batch_end(run(bar, clock, 1.0, 1), None, None, None, 1)
    bar.print("samples")
    assert stream.getvalue().endswith("\rsamples\n")
    assert "evaluation 2/4" in stream.getvalue()


def test_a_test_is_shown_and_its_line_is_cleared(clock):
    stream = Stream(terminal=True)
    bar, run = StepBar(stream), trainer()
    run.num_test_batches = [3]
    bar.setup(run, None, "test")
    bar.on_test_batch_end(run, None, None, None, 2)
    assert stream.getvalue() == "\revaluation 3/3"
    bar.on_test_end(run, None)
    assert stream.getvalue().endswith("\r" + " " * 14 + "\r")


def test_a_terminal_without_unicode_gets_a_plain_bar(clock):
    stream = Stream(terminal=True, encoding="ascii")
    run(StepBar(stream), clock, 1.0, 40)
    assert "step 40/80 ======-------  1 s" in stream.getvalue()


def test_nothing_is_written_when_disabled_or_by_another_process(clock):
    stream = Stream(terminal=False)
    bar = StepBar(stream)
    bar.disable()
    run(bar, clock, 1.0, 3)
    other = trainer()
    other.is_global_zero = False
    bar.enable()
    bar.setup(other, None, "fit")
    bar.on_train_batch_end(other, None)
    assert not stream.getvalue()


@pytest.mark.parametrize(("done", "total"), [(1, 10**9), (5, 7), (0, 0), (3, float("inf"))])
def test_a_line_fits(done, total):
    parts = ["1.23e+03 s per step", "reward -12345.678", "held out 0.123", "1000:00:00 left"]
    assert len(step_line(done, total, parts[:2])) <= 79
    assert step_line(done, total, parts).startswith(f"step {done}")


def test_a_bar_of_the_users_own_takes_its_place():
    assert has_bar([StepBar()])
    assert has_bar(TQDMProgressBar())
    assert not has_bar([None])
    assert not has_bar(None)
