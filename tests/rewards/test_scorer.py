"""Rewards in worker processes: whatever a reward does costs the response that met it, and nothing else."""

import ctypes
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.rewards import Scorer, Scoring, score_responses
from rl4llm.rewards.processes import children_of, descendants_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")

LIMIT_S = 1.0  # generous for a reward that does nothing, on a machine that is busy


@pytest.fixture
def scorer():
    """Two workers with a short time limit; all of their processes are gone afterwards."""
    before = set(children_of(os.getpid()))
    scorer = Scoring(workers=2, timeout_s=LIMIT_S).build()
    yield scorer
    family = [child for child in descendants_of(os.getpid()) if child not in before]
    scorer.close()
    assert set(children_of(os.getpid())) <= before
    assert not [process for process in family if is_running(process)]


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, patience_s=10.0):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def score(scorer, reward, responses):
    return scorer.score(reward, [""] * len(responses), responses, [None] * len(responses))


def hang():
    while True:
        time.sleep(100)


def spin():
    while True:
        pass


def call_itself():
    sys.setrecursionlimit(10**9)
    (f := lambda: f() + 1)()


def print_without_end():
    while True:
        print("word " * 1000)


def write_without_end():
    while True:
        os.write(2, b"word " * 1000)


def allocate_without_end():
    kept = []
    while True:
        kept.append(b"x" * 10**7)


def interrupt():
    raise KeyboardInterrupt


def set_alarm_and_sleep():
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(5)


def close_all_files():
    os.closerange(0, 1000)
    return 1.0


FAULTS = {
    "hangs": (hang, "took longer than 1 s"),
    "spins": (spin, "took longer than 1 s"),
    "prints": (print_without_end, "took longer than 1 s"),
    "writes": (write_without_end, "took longer than 1 s"),
    "exits": (lambda: sys.exit(0), "raised SystemExit, for example '0'"),
    "leaves": (lambda: os._exit(3), "ended its process with exit code 3"),
    "leaves well": (lambda: os._exit(0), "ended its process with exit code 0"),
    "crashes": (lambda: ctypes.string_at(0), "ended by signal 11 (Segmentation fault)"),
    "aborts": (lambda: os.abort(), "ended by signal 6 (Aborted)"),
    "stops": (lambda: os.kill(os.getpid(), signal.SIGSTOP), "took longer than 1 s"),
    "recurses": (call_itself, None),
    "raises": (lambda: {}[3], "raised KeyError, for example '3'"),
    "is interrupted": (interrupt, "raised KeyboardInterrupt"),
    "times itself out": (set_alarm_and_sleep, "ended by signal 14 (Alarm clock)"),
    "closes all files": (close_all_files, None),
    "asks": (input, "raised EOFError, for example 'EOF when reading a line'"),
    "kills its supervisor": (lambda: os.kill(os.getppid(), signal.SIGKILL), "ended the processes that supervise it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_one_response(scorer, fault, capfd):
    act, reason = FAULTS[fault]
    responses = ["fine"] * 5 + ["fault"] + ["fine"] * 6
    scores, problems = score(scorer, lambda p, r, a: act() if r == "fault" else 0.5, responses)
    assert scores.dtype == torch.float32
    assert scores.isnan().tolist() == [r == "fault" for r in responses]
    assert scores[0] == 0.5
    assert list(problems.values()) == [1]
    assert reason is None or list(problems) == [reason]
    assert capfd.readouterr() == ("", "")


RESULTS = {
    "returned None": lambda: None,
    "returned nan": lambda: math.nan,
    "returned inf": lambda: math.inf,
    "returned -inf": lambda: -math.inf,
    "returned a str, not a number, for example '1.0'": lambda: "1.0",
    "returned a list, not a number, for example [1]": lambda: [1],
    "returned a complex, not a number, for example 1j": lambda: 1j,
    "returned a lock, not a number": threading.Lock,
    "returned a Tensor, not a number, for example tensor([0, 1])": lambda: torch.arange(2),
    "returned a number beyond ±1e+09, for example 1e+38": lambda: 1e38,
    "returned a number beyond ±1e+09, for example -1e+38": lambda: -1e38,
    "returned a number beyond ±1e+09, for example 1000": lambda: 10**400,
    "returned a number beyond ±1e+09, for example a large int": lambda: 10**10000,
}


@pytest.mark.parametrize("reason", RESULTS)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_no_score_is_refused_with_its_value(reason, workers):
    scorer = Scoring(workers=workers).build()
    scores, problems = score(scorer, lambda p, r, a: RESULTS[reason]() if r else 1, ["", "fine"])
    scorer.close()
    assert scores.isnan().tolist() == [True, False]
    assert [(given.startswith(reason), count) for given, count in problems.items()] == [(True, 1)]


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_of_every_make_are_scores(workers):
    given = [True, False, 3, 0.1, np.float64(0.5), np.int64(2), np.bool_(True), torch.tensor(0.25), 1e9, -1e9]
    scorer = Scoring(workers=workers).build()
    scores, problems = scorer.score(lambda p, r, a: a, [""] * 10, ["x"] * 10, given)
    scorer.close()
    assert problems == {}
    assert scores.tolist() == torch.tensor([float(value) for value in given]).tolist()
