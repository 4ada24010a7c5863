"""Rewards in worker processes: whatever a reward does costs the response that met it, and nothing else."""

import ctypes
import faulthandler
import inspect
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.rewards import Scorer, Scoring, score_responses
from rl4llm.rewards.processes import children_of, descendants_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")

NAN = float("nan")
LIMIT_S = 1.0  # generous for a reward that does nothing, on a machine that is busy


@pytest.fixture
def scorer():
    """Two workers with a short time limit; all of their processes are gone afterwards."""
    before = set(descendants_of(os.getpid()))
    scorer = Scoring(workers=2, timeout_s=LIMIT_S).build()
    yield scorer
    family = [child for child in descendants_of(os.getpid()) if child not in before]
    scorer.close()
    assert set(children_of(os.getpid())) <= before
    assert not [process for process in family if is_running(process)]


def state_of(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def is_running(process):
    return state_of(process) not in "ZX"


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


@pytest.mark.long
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
    scores, problems = score(scorer, lambda p, r, a: 1 if r else RESULTS[reason](), ["", "fine"])
    scorer.close()
    assert scores.isnan().tolist() == [True, False]
    assert [(named.startswith(reason), count) for named, count in problems.items()] == [(True, 1)]


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_of_every_make_are_scores(workers):
    numbers = [True, False, 3, 0.1, np.float64(0.5), np.int64(2), np.bool_(True), torch.tensor(0.25), 1e9, -1e9]
    scorer = Scoring(workers=workers).build()
    scores, problems = scorer.score(lambda p, r, a: a, [""] * 10, ["x"] * 10, numbers)
    scorer.close()
    assert problems == {}
    assert scores.tolist() == torch.tensor([float(value) for value in numbers]).tolist()


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["raises", "exits", "leaves", "fine", "none", "nan"]), max_size=60))
def test_the_lost_responses_are_those_that_met_a_fault(responses):
    acts = {"none": lambda: None, "nan": lambda: NAN, "fine": lambda: 1.0}
    acts |= {fault: FAULTS[fault][0] for fault in ("raises", "exits", "leaves")}
    scores, problems = score(SHARED, lambda_of(acts), responses)
    assert scores.isnan().tolist() == [response != "fine" for response in responses]
    assert sum(problems.values()) == sum(response != "fine" for response in responses)
    assert len(problems) == len(set(responses) - {"fine"})


SHARED = Scoring(workers=2, timeout_s=30.0).build()
_acts = {}


def lambda_of(acts):
    _acts.update({name: _acts.get(name, act) for name, act in acts.items()})
    return act_by_name


def act_by_name(prompt, response, answer):
    return _acts[response]()


def test_scores_equal_those_of_this_process_in_any_number_of_workers():
    def reward(prompt, response, answer):
        return (len(prompt) + 10 * len(response)) / answer

    samples = [("p" * (i % 7), "r" * (i % 5), i % 3) for i in range(300)]
    expected = score_responses(reward, *zip(*samples, strict=True))
    for workers in (1, 3):
        scorer = Scoring(workers=workers).build()
        scores, problems = scorer.score(reward, *zip(*samples, strict=True))
        scorer.close()
        torch.testing.assert_close(scores, expected.scores, equal_nan=True, rtol=0, atol=0)
        assert problems == expected.problems == {"raised ZeroDivisionError, for example 'division by zero'": 100}


def test_calls_run_side_by_side(scorer):
    def reward(prompt, response, answer):
        time.sleep(0.3)
        return os.getpid()

    pids = score(scorer, reward, ["x"] * 4).scores
    assert len(pids.unique()) == 2
    assert os.getpid() not in pids.tolist()


def test_slow_scoring_is_said_once(scorer, monkeypatch):
    monkeypatch.setattr("rl4llm.rewards.scorer._SLOW_S", 0.0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            scorer.score(lambda prompt, response, answer: 1.0, ["", ""], ["a", "b"], [1, 2])
    (line,) = [str(one.message) for one in seen if "scoring 2 responses took" in str(one.message)]
    assert "raise --model.scoring.workers" in line


def test_workers_are_kept_for_the_next_batch_and_renewed_for_another_reward(scorer):
    def reward(prompt, response, answer):
        return os.getpid()

    first = set(score(scorer, reward, ["x"] * 50).scores.tolist())
    second = set(score(scorer, reward, ["x"] * 50).scores.tolist())
    assert len(first | second) <= 2
    other = set(score(scorer, lambda p, r, a: os.getpid(), ["x"] * 50).scores.tolist())
    assert not (first | second) & other


def test_a_method_is_one_reward():
    class Judge:
        def reward(self, prompt, response, answer):
            return os.getpid()

    judge, scorer = Judge(), Scoring(workers=1).build()
    assert score(scorer, judge.reward, ["x"]).scores == score(scorer, judge.reward, ["x"]).scores
    assert score(scorer, judge.reward, ["x"]).scores != score(scorer, Judge().reward, ["x"]).scores
    scorer.close()


def test_prompts_and_answers_that_cannot_be_pickled_reach_the_reward(scorer):
    answers = [lambda response, n=n: len(response) == n for n in range(3)]
    scores, problems = scorer.score(lambda p, r, check: check(r), [threading.Lock()] * 3, ["x"] * 3, answers)
    assert scores.tolist() == [0.0, 1.0, 0.0]
    assert problems == {}
    assert score(scorer, lambda p, r, a: 1, ["x"]).scores.tolist() == [1.0]


def test_a_new_message_each_time_is_one_reason_also_in_the_next_batch(scorer):
    def reward(prompt, response, answer):
        raise ValueError(f"bad {response}" + "!" * 1000)

    first = score(scorer, reward, [str(i) for i in range(300)]).problems
    assert list(first.values()) == [300]
    (reason,) = first
    assert reason.startswith("raised ValueError, for example 'bad 0!!!")
    assert len(reason) < 250
    assert score(scorer, reward, ["7", "8"]).problems == {reason: 2}


@pytest.mark.parametrize("workers", [0, 2])
def test_there_are_few_reasons_even_if_every_error_has_a_type_of_its_own(workers):
    def reward(prompt, response, answer):
        raise type(f"Error{response}", (Exception,), {})

    scorer = Scoring(workers=workers).build()
    for _ in range(3):
        problems = score(scorer, reward, [str(i) for i in range(150)]).problems
        assert len(problems) <= 11
        assert sum(problems.values()) == 150
        assert problems["other reasons"] == 140
    scorer.close()


def test_the_copy_of_a_reward_that_forks_does_not_come_back(scorer):
    def reward(prompt, response, answer):
        child = os.fork()
        if child == 0:
            return 2.0
        os.waitpid(child, 0)
        return 1.0

    scores, problems = score(scorer, reward, ["x"] * 6)
    assert scores.tolist() == [1.0] * 6
    assert problems == {}


def test_in_this_process_too_the_copy_does_not_come_back():
    def reward(prompt, response, answer):
        child = os.fork()
        return 2.0 if child == 0 else float(os.waitpid(child, 0)[1] == 0)

    assert score_responses(reward, [""], [""], [""]).scores.tolist() == [1.0]


def leave_a_child(path):
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    note(path, child.pid)


def leave_a_daemon(path):
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.setsid()
            note(path, os.getpid())
            hang()
        os._exit(0)
    os.waitpid(child, 0)
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))


def note(path, process):
    with open(path, "a") as file:
        file.write(f"{process}\n")


@pytest.mark.long
@pytest.mark.parametrize("leave", [leave_a_child, leave_a_daemon])
@pytest.mark.parametrize("end", [lambda: 1.0, lambda: os._exit(0), lambda: ctypes.string_at(0), hang])
def test_no_process_that_a_reward_starts_outlives_its_call(scorer, leave, end, tmp_path):
    def reward(prompt, response, answer):
        if response == "fault":
            leave(tmp_path / "pids")
            return end()
        wait_until(lambda: (tmp_path / "pids").exists() or response == "before")
        return 0.5

    scores = score(scorer, reward, ["before", "fault", "after"]).scores
    assert scores.nan_to_num(1.0).tolist() == [0.5, 1.0, 0.5]
    processes = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(processes) == 1
    assert not is_running(processes[0])


def test_a_reward_can_terminate_a_process_that_it_started(scorer):
    def reward(prompt, response, answer):
        child = subprocess.Popen(["sleep", "1000"])
        child.terminate()
        return child.wait()

    assert score(scorer, reward, ["x"] * 2).scores.tolist() == [-signal.SIGTERM] * 2


def test_processes_may_be_kept_until_the_scorer_is_closed(tmp_path):
    started = []

    def reward(prompt, response, answer):
        if not started:
            started.append(subprocess.Popen(["sleep", "1000"], start_new_session=True))
        return started[0].pid if started[0].poll() is None else None

    scorer = Scoring(workers=1, keep_children=True).build()
    first, second = score(scorer, reward, ["x", "x"]).scores.tolist()
    assert first == second
    assert is_running(int(first))
    scorer.close()
    assert not is_running(int(first))


def test_threads_that_never_end_hinder_nobody(scorer):
    def reward(prompt, response, answer):
        threading.Thread(target=hang).start()
        return threading.active_count()

    scores, problems = score(scorer, reward, ["x"] * 60)
    assert problems == {}
    assert scores.max() <= 9


def test_threads_that_a_call_leaves_stand_still_between_batches(scorer):
    def reward(prompt, response, answer):
        threading.Thread(target=spin).start()
        return os.getpid()

    workers = {int(pid) for pid in score(scorer, reward, ["x"] * 3).scores}
    wait_until(lambda: all(state_of(worker) == "T" for worker in workers))
    assert not score(scorer, reward, ["x"] * 3).problems


def test_nothing_comes_from_standard_input(scorer):
    def reward(prompt, response, answer):
        return len(sys.stdin.read()) + len(os.read(0, 10))

    assert score(scorer, reward, ["x"] * 2).scores.tolist() == [0.0, 0.0]


def test_a_worker_is_its_own_world(scorer, tmp_path):
    def reward(prompt, response, answer):
        os.chdir(tmp_path)
        os.environ["RL4LLM_REWARD"] = "1"
        signal.signal(signal.SIGINT, lambda *_: None)
        return 1.0

    folder, handler = os.getcwd(), signal.getsignal(signal.SIGINT)
    assert score(scorer, reward, ["x"] * 4).scores.tolist() == [1.0] * 4
    assert os.getcwd() == folder
    assert "RL4LLM_REWARD" not in os.environ
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_alarm_that_a_call_forgot_does_not_hit_the_next():
    def reward(prompt, response, answer):
        time.sleep(0.2)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return 1.0

    scorer = Scoring(workers=1).build()
    assert score(scorer, reward, ["x"] * 3).problems == {}
    scorer.close()


def test_what_a_worker_printed_last_explains_its_end(scorer):
    def reward(prompt, response, answer):
        os.write(2, b"terminate called\nno such rule\n")
        os.abort()

    assert score(scorer, reward, ["x"]).problems == {"ended by signal 6 (Aborted), having printed 'no such rule'": 1}


def test_a_crash_is_not_reported_by_the_fault_handler_of_the_run(tmp_path):
    run = os.fork()
    if run == 0:
        try:
            with open(tmp_path / "report", "w") as file:
                faulthandler.enable(file)
                scorer = Scoring(workers=1).build()
                score(scorer, lambda p, r, a: ctypes.string_at(0), ["x"])
                scorer.close()
        finally:
            os._exit(0)
    os.waitpid(run, 0)
    assert (tmp_path / "report").read_text() == ""


def test_memory_is_bounded():
    scorer = Scoring(workers=1, timeout_s=60.0, memory_gib=0.25).build()
    scores, problems = score(scorer, lambda p, r, a: allocate_without_end() if r else 1, ["x", "", ""])
    scorer.close()
    assert scores.isnan().tolist() == [True, False, False]
    assert problems == {"took more than 0.25 GiB of memory": 1}


def test_rewards_may_use_torch_in_workers_although_this_process_has_threads(scorer):
    def reward(prompt, response, answer):
        return float((torch.ones(300, 300) @ torch.ones(300, 300)).mean())

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    (torch.ones(500, 500) @ torch.ones(500, 500)).sum()
    try:
        assert score(scorer, reward, ["x"] * 3).scores.tolist() == [300.0] * 3
    finally:
        torch.set_num_threads(threads)


def test_an_interrupted_batch_leaves_no_process_and_the_next_one_is_right(scorer):
    def interrupted(*_):
        raise KeyboardInterrupt("from outside")

    before, handler = children_of(os.getpid()), signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt, match="from outside"):
            score(scorer, lambda p, r, a: hang(), ["x"] * 4)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert children_of(os.getpid()) == before
    assert score(scorer, lambda p, r, a: len(r), ["x", "xx"]).scores.tolist() == [1.0, 2.0]


def start_processes():
    def reward(prompt, response, answer):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("from the reward")
        time.sleep(0.2)
        return 1.0

    scorer = Scoring(workers=2, keep_children=True).build()
    score(scorer, reward, ["x"] * 4)
    return scorer, descendants_of(os.getpid())


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_all_processes_end_with_the_run_that_is_killed(signal_number, tmp_path):
    run = os.fork()
    if run == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            kept = start_processes()
            (tmp_path / "pids").write_text(" ".join(map(str, kept[1])))
            os.kill(os.getpid(), signal_number)
        finally:
            os._exit(1)
    assert os.waitpid(run, 0)[1] == signal_number
    processes = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(processes) >= 5
    wait_until(lambda: not any(is_running(process) for process in processes))


def test_all_processes_end_when_the_run_exits_without_closing_the_scorer():
    functions = "".join(map(inspect.getsource, (score, start_processes)))
    imports = "import os, subprocess, time\nfrom rl4llm.rewards.processes import descendants_of"
    code = f"{imports}\nfrom rl4llm.rewards import Scoring\n{functions}\nkept = start_processes()\nprint(*kept[1])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    processes = [int(word) for word in run.stdout.split()]
    assert len(processes) >= 5
    assert not any(is_running(process) for process in processes)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_scorer_in_a_forked_process_has_workers_of_its_own(scorer):
    def reward(prompt, response, answer):
        return 1.0

    score(scorer, reward, ["x"])
    child = os.fork()
    if child == 0:
        try:
            fine = score(scorer, reward, ["x"] * 3).scores.tolist() == [1.0] * 3
            scorer.close()
            os._exit(0 if fine and not children_of(os.getpid()) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert score(scorer, reward, ["x"] * 2).scores.tolist() == [1.0, 1.0]


def test_where_no_process_can_be_started_the_reward_runs_here_and_that_is_said_once(monkeypatch):
    def refuse():
        raise BlockingIOError("no more processes")

    scorer = Scoring(workers=2).build()
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.warns(UserWarning, match="no worker processes can be started") as warned:
        pids = [score(scorer, lambda p, r, a: os.getpid(), ["x"]).scores for _ in range(2)]
    assert len(warned) == 1
    assert pids == [os.getpid()] * 2


def test_no_workers_means_this_process():
    scorer = Scoring(workers=0).build()
    seen = []
    assert score(scorer, lambda p, r, a: seen.append(r) or 1, ["x", "y"]).scores.tolist() == [1.0, 1.0]
    assert seen == ["x", "y"]


def test_a_scorer_is_closed_twice_used_again_and_pickled_as_its_choice(scorer):
    assert score(scorer, lambda p, r, a: 1, []).scores.tolist() == []
    scorer.close()
    assert score(scorer, lambda p, r, a: 1, ["x"]).scores.tolist() == [1.0]
    scorer.close()
    scorer.close()
    assert pickle.loads(pickle.dumps(scorer)).scoring == scorer.scoring
    assert Scorer().scoring == Scoring()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": -1}, "Scoring: workers must be a whole number of at least 0, got -1"),
        ({"timeout_s": 0.0}, r"Scoring: timeout_s must be in \(0, inf\), got 0.0"),
        ({"largest": 1e38}, r"Scoring: largest must be in \(0, 1e\+18\], got 1e\+38"),
        ({"memory_gib": NAN}, r"Scoring: memory_gib must be in \(0, inf\), got nan"),
    ],
)
def test_values_are_checked_at_construction(values, message):
    with pytest.raises(UsageError, match=message):
        Scoring(**values)


def test_ranks_share_the_cores_of_their_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(24)))
    for variable in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    assert Scoring().rules().workers == 24
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Scoring().rules().workers == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Scoring().rules().workers == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "24")
    assert Scoring().rules().workers == 2
    assert Scoring(workers=5).rules().workers == 5
