"""What a command does is announced before it begins; in a terminal its seconds and parts are drawn below."""

import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rl4llm import progress as module
from rl4llm.cli_errors import one_warning
from rl4llm.progress import Progress, fitted, progress, wrapped


class Stream(io.StringIO):
    """A stream that is a terminal or not."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.time)
    return now


@pytest.fixture
def speaker(monkeypatch):
    """Returns a Progress without its thread, whose words go to a stream that is a terminal or not."""

    def make(terminal):
        made, stream = Progress(), Stream(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(made, "every_second", lambda beat: setattr(made, "beat", beat))
        made.speak("asyppo", {})
        return made, stream

    return make


def test_a_terminal_shows_the_seconds_and_parts_every_second_and_wipes_them(speaker, clock):
    made, stream = speaker(terminal=True)
    with made.phase("surveying", 64, "prompts"):
        assert stream.getvalue() == "asyppo: surveying\n"
        for _ in range(2):
            clock.time += 1
            made.advance(12)
            made.beat()
    assert stream.getvalue() == (
        "asyppo: surveying\n\r  12/64 prompts, 1 s\r\r  24/64 prompts, 2 s\r\r                    \r"
    )
    assert made.beat is None


def test_elsewhere_there_is_a_line_every_ten_seconds(speaker, clock):
    made, stream = speaker(terminal=False)
    made.announce("loading the policy")
    for _ in range(25):
        clock.time += 1.01
        made.beat()
    assert stream.getvalue().splitlines() == [
        "asyppo: loading the policy",
        "asyppo: loading the policy: 10 s",
        "asyppo: loading the policy: 20 s",
    ]


def test_what_takes_hours_may_have_a_line_more_seldom(speaker, clock):
    made, stream = speaker(terminal=False)
    made.announce("training", 4, "runs", seldom=60.0)
    for _ in range(125):
        clock.time += 1
        made.beat()
    assert stream.getvalue().splitlines() == [
        "asyppo: training",
        "asyppo: training: 0/4 runs, 60 s",
        "asyppo: training: 0/4 runs, 120 s",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_seldom_takes_long_is_announced_only_if_it_does(speaker, clock, terminal):
    made, stream = speaker(terminal)
    with made.phase("reading the flags", quick=True):
        clock.time += 0.4
        made.beat()
        assert not stream.getvalue()
        clock.time += 0.6
        made.beat()
        assert stream.getvalue() == "asyppo: reading the flags\n"


def test_a_phase_that_fails_leaves_no_line(speaker, clock):
    made, stream = speaker(terminal=True)

    def load():
        with made.phase("loading"):
            clock.time += 1
            made.beat()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        load()
    assert stream.getvalue().endswith("\r     \r")


def test_the_library_is_silent_in_other_programs_and_in_other_processes_of_a_run(speaker):
    made, stream = speaker(terminal=True)
    made.hush()
    made.announce("loading")
    made.speak("asyppo", {"LOCAL_RANK": "1"})
    made.announce("loading")
    assert made.beat is None
    assert not stream.getvalue()


def test_parts_are_counted_when_they_are_done(speaker):
    made, _ = speaker(terminal=False)
    made.announce("counting", 2)
    counted = [made.done for _ in made.over("ab")]
    assert (counted, made.done) == ([0, 1], 2)


def test_the_thread_calls_every_second_until_it_is_told_to_stop(monkeypatch):
    monkeypatch.setattr(module, "OFTEN_S", 0.01)
    made, beats = Progress(), []
    made.every_second(lambda: beats.append(1))
    until = time.monotonic() + 5
    while len(beats) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    made.stop()
    assert len(beats) >= 3
    assert made.beat is None


def test_a_closed_stream_ends_the_beat_and_not_the_run(monkeypatch):
    monkeypatch.setattr(module, "OFTEN_S", 0.01)
    made, stream = Progress(), Stream(terminal=True)
    stream.close()
    made.every_second(lambda: made.draw("line", stream))
    until = time.monotonic() + 5
    while made.beat is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert made.beat is None
    made.stop()


def test_a_forked_process_has_a_lock_of_its_own_and_says_nothing():
    progress.speak("asyppo", {})
    child = os.fork()
    if not child:
        taken = []
        other = threading.Thread(target=lambda: taken.append(progress.lock.acquire(timeout=5)))
        other.start()
        other.join()
        os._exit(int(progress.name is not None or taken != [True]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    named = progress.name
    progress.hush()
    assert (status, named) == (0, "asyppo")


def test_a_warning_begins_where_the_line_stood_and_fits_the_terminal(monkeypatch):
    stream = Stream(terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "40")
    progress.draw("step 1/3", stream)
    text = one_warning("the policy has collapsed; lower --model.optimizer.lr", UserWarning, module.__file__, 1)
    assert stream.getvalue() == "\rstep 1/3\r        \r"
    assert text == "warning: the policy has collapsed;\n  lower --model.optimizer.lr\n"


def test_a_long_line_is_broken_in_a_terminal_only():
    line = "error: " + "word " * 30 + "/a/path-that-is-never-broken"
    assert fitted(line, Stream(terminal=False)) == line
    lines = fitted(f"title\n{line}", Stream(terminal=True)).splitlines()
    assert lines[0] == "title"
    assert max(map(len, lines)) < 80
    assert lines[-1].endswith("/a/path-that-is-never-broken")
    assert [text.startswith("  ") for text in lines[1:]] == [False, True, True]
    assert wrapped("  gate  AgreementGate()", 20, indent=6) == "  gate\n        AgreementGate()"


# --- a run in a terminal ----------------------------------------------------------------------------------------------

RECORD = """
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if not pid:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    sys.stdout.buffer.write(data)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
SHORT = ["--trainer.max_steps=3", "--trainer.val_check_interval=2", "--data.task.held_out_size=8"]
FOREIGN = ("GPU available", "Seed set", "💡", "Epoch", "v_num", "it/s", "Trainable params", "Deprecat", "nan", "\x1b")


@pytest.mark.long
def test_a_run_in_a_terminal_says_what_it_does_in_80_columns_without_noise(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    command = [sys.executable, "-c", RECORD, str(root / "recipes/asyppo.py"), "fit", *SHORT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    shown = done.stdout.decode()
    assert done.returncode == 0, shown
    lines = [line for line in re.split(r"\r*\n|\r", shown) if line.strip()]
    assert max(map(len, lines)) <= 79
    assert not [word for word in FOREIGN if word in shown]
    order = ["loading torch", "reading the data", "loading the policy", "building the critics", "asyppo, seed 0"]
    order += [
        "evaluation before training",
        "step 0/3",
        "step 1/3",
        "evaluation after 2 steps",
        "step 3/3",
        "3 steps in",
    ]
    places = [next(index for index, line in enumerate(lines) if word in line) for word in order]
    assert places == sorted(places)
