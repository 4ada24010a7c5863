"""The line about a run's steps: in a terminal it is redrawn within 80 columns, elsewhere it is a line now and then."""

import io
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

from rl4llm.progress import progress
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


def trainer(total=80, metrics=None, sanity=True, step=0):
    metrics = metrics or {"train/reward": 0.5, "train/accuracy": 0.4, "v_num": 3, "val/sampled_accuracy": 0.25}
    return SimpleNamespace(
        global_step=step,
        estimated_stepping_batches=total,
        progress_bar_metrics=metrics,
        callback_metrics=metrics,
        is_global_zero=True,
        sanity_checking=sanity,
        num_sanity_val_batches=[4],
        num_val_batches=[4],
        num_test_batches=[3],
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves; nothing is redrawn but by the test."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(step_bar.time, "perf_counter", lambda: now.time)
    monkeypatch.setattr(progress, "every_second", lambda beat: setattr(progress, "beat", beat))
    yield now
    progress.beat, progress.drawn = None, 0


def run(bar, clock, seconds, steps, total=80, metrics=None):
    run = trainer(total, metrics)
    bar.setup(run, None, "fit")
    bar.on_train_start(run, None)
    for step in range(1, steps + 1):
        clock.time += seconds
        run.global_step = step
        bar.on_train_batch_end(run, None, None, None, 0)
    return run


def last(stream):
    return stream.getvalue().split("\r")[-1].rstrip()


def test_a_terminal_gets_one_line_of_at_most_79_columns(clock):
    stream = Stream(terminal=True)
    run(StepBar(stream), clock, 1.5, 20)
    assert last(stream) == "step 20/80 ━━─────────  1.5 s per step, reward 0.500, held out 0.250, 1:30 left"
    assert "\n" not in stream.getvalue()
    assert max(map(len, stream.getvalue().split("\r"))) <= 79


def test_the_first_step_is_announced_before_it_begins_and_counts_its_seconds(clock):
    stream = Stream(terminal=True)
    run(StepBar(stream), clock, 1.0, 0)
    assert last(stream) == "step 0/80 ────────────────────  first step"
    clock.time += 3
    progress.beat()
    assert last(stream) == "step 0/80 ────────────────────  first step, 3 s"


def test_within_a_long_step_the_time_that_is_left_goes_down_every_second(clock):
    stream = Stream(terminal=True)
    run(StepBar(stream), clock, 60.0, 2, total=3)
    for seconds, left in ((1, "0:59"), (2, "0:57"), (90, "0:00")):
        clock.time += seconds
        progress.beat()
        assert last(stream).endswith(f"60 s per step, reward 0.500, held out 0.250, {left} left")


def test_evaluations_are_in_what_is_left_and_not_in_the_time_per_step(clock):
    stream = Stream(terminal=True)
    bar = StepBar(stream)
    one = run(bar, clock, 2.0, 1)
    one.sanity_checking = False
    bar.on_validation_start(one, None)
    assert last(stream) == "evaluation after 1 step, batch 1/4"
    clock.time += 10
    bar.on_validation_end(one, None)
    progress.beat()
    assert "  2 s per step" in last(stream)
    clock.time += 2
    one.global_step = 2
    bar.on_train_batch_end(one, None)
    assert "  2 s per step" in last(stream)
    assert last(stream).endswith(" 9:06 left")  # 78 steps at 7 s, a mean that includes the evaluation


def test_a_line_that_is_too_long_is_cut(clock):
    stream = Stream(terminal=True)
    run(StepBar(stream), clock, 1e5, 2, total=10**9, metrics={"train/reward": -1e12, "val/sampled_accuracy": 1e12})
    assert max(map(len, stream.getvalue().split("\r"))) == 79


def test_elsewhere_there_is_a_line_before_and_after_the_first_step_the_last_and_every_ten_seconds(clock):
    stream = Stream(terminal=False)
    run(StepBar(stream), clock, 4.0, 10, total=10)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["0/10", "1/10", "4/10", "7/10", "10/10"]
    assert lines[2].endswith("4 s per step, reward 0.500, held out 0.250, 0:24 left")
    assert lines[-1].endswith("held out 0.250")
    assert "\r" not in stream.getvalue()


def test_other_modules_show_their_first_two_metrics_and_a_run_without_end_the_time_so_far(clock):
    stream = Stream(terminal=False)
    run(StepBar(stream), clock, 1.0, 1, total=float("inf"), metrics={"train/loss": 2.0, "train/odd": 1.0, "more": 3.0})
    assert stream.getvalue() == "step 0  first step\nstep 1  1 s per step, loss 2.000, odd 1.000, 0:01 so far\n"


def test_a_loss_takes_the_place_of_a_reward_that_is_not_logged(clock):
    stream = Stream(terminal=False)
    run(StepBar(stream), clock, 1.0, 1, total=1, metrics={"train/loss": 2.0, "val/sampled_accuracy": 0.5})
    assert stream.getvalue().splitlines()[-1].endswith("1 s per step, held out 0.500, loss 2.000")


def test_words_of_the_run_stand_on_lines_of_their_own(clock):
    stream = Stream(terminal=True)
    bar = StepBar(stream)
    run(bar, clock, 1.0, 1)
    bar.print("samples")
    assert stream.getvalue().endswith(" \rsamples\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_an_evaluation_is_announced_and_says_how_far_it_is(terminal, clock):
    stream = Stream(terminal)
    bar, one = StepBar(stream), trainer()
    bar.setup(one, None, "fit")
    bar.on_validation_start(one, None)
    assert stream.getvalue().strip() == "evaluation before training, batch 1/4"
    for batch in range(4):
        clock.time += 12
        bar.on_validation_batch_end(one, None, None, None, batch)
    shown = [line.strip() for line in stream.getvalue().replace("\r", "\n").splitlines() if line.strip()]
    assert shown[1:] == [f"evaluation before training, batch {k + 1}/4, {12 * k} s" for k in (1, 2, 3)]
    bar.on_validation_end(one, None)
    assert stream.getvalue().endswith("\r" if terminal else "\n")
    assert progress.beat is None


def test_a_test_is_shown_and_its_line_is_cleared(clock):
    stream = Stream(terminal=True)
    bar, one = StepBar(stream), trainer()
    bar.setup(one, None, "test")
    bar.on_test_start(one, None)
    bar.on_test_batch_end(one, None, None, None, 2)
    assert stream.getvalue() == "\revaluation on test prompts, batch 1/3"
    bar.on_test_end(one, None)
    assert stream.getvalue().endswith("\r" + " " * 37 + "\r")


def test_an_evaluation_without_a_run_says_nothing_of_steps(clock):
    stream = Stream(terminal=False)
    bar, one = StepBar(stream), trainer(sanity=False)
    bar.setup(one, None, "validate")
    bar.on_validation_start(one, None)
    assert stream.getvalue() == "evaluation, batch 1/4\n"


def test_the_metric_of_the_evaluation_before_training_is_there_from_the_first_step_on(clock):
    stream = Stream(terminal=True)
    bar, one = StepBar(stream), trainer(metrics={"val/sampled_accuracy": 0.25, "val/reward": 0.7})
    bar.setup(one, None, "fit")
    bar.on_validation_start(one, None)
    bar.on_validation_end(one, None)
    one.progress_bar_metrics = {"train/reward": 0.5}
    bar.on_train_start(one, None)
    one.global_step = 1
    bar.on_train_batch_end(one, None)
    assert "reward 0.500, held out 0.250, " in last(stream)


def test_a_terminal_without_unicode_gets_a_plain_bar(clock):
    stream = Stream(terminal=True, encoding="ascii")
    run(StepBar(stream), clock, 1.0, 40)
    assert "step 40/80 ======-------  1 s" in stream.getvalue()


def test_the_line_stays_when_training_ends_or_fails(clock):
    stream = Stream(terminal=True)
    bar = StepBar(stream)
    bar.on_exception(run(bar, clock, 1.0, 1), None, KeyboardInterrupt())
    assert stream.getvalue().endswith("left\n")
    assert progress.beat is None


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
