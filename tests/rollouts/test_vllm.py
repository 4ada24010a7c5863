"""The vLLM engines as far as they go without vLLM: requests, answers, the order of calls, and every refusal."""

import re

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.models import Policy
from rl4llm.randomness import seed_of
from rl4llm.rollouts import VLLM, Sampling, VLLMServer, vllm_support
from rl4llm.rollouts.requests import Answer, Request, RequestEngine, requests_of, sampling_parameters
from rl4llm.rollouts.vllm_support import check_version, in_one_line, reason
from tests.algorithms.helpers import loop, run
from tests.rollouts.stub_server import TOLD, serving


@pytest.fixture
def policy(tiny_policy):
    return Policy.load(tiny_policy)


# --- requests and answers ---------------------------------------------------------------------------------------------


def test_there_is_one_request_per_response_with_a_seed_of_its_own():
    ids = torch.tensor([[0, 0, 7], [4, 5, 6]])
    mask = torch.tensor([[False, False, True], [True, True, True]])
    asked = requests_of(ids, mask, torch.tensor([3, 9]), torch.tensor([11, 12]), copies=2)
    assert [request.prefix for request in asked] == [[7], [7], [4, 5, 6], [4, 5, 6]]
    assert [request.limit for request in asked] == [3, 3, 9, 9]
    assert [request.seed for request in asked] == [seed_of(seed, copy) for seed in (11, 12) for copy in (0, 1)]


def test_parameters_say_what_the_contract_asks():
    said = sampling_parameters(Request([1], 5, 9), Sampling(0.7, top_k=3, top_p=0.9), end_ids=[2], top=4)
    expected = {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "seed": 9, "max_tokens": 5, "logprobs": 4}
    assert said.items() >= expected.items()
    assert said["stop_token_ids"] == [2]
    assert said["ignore_eos"]
    greedy = sampling_parameters(Request([1], 5, 9), Sampling(0.0, top_k=3), end_ids=[2], top=0)
    assert (greedy["temperature"], greedy["top_k"]) == (0.0, 0)


def test_an_answer_finds_the_drawn_token_and_the_likeliest_ones():
    listed = [[(5, -3.0), (1, -0.5), (2, -1.0)], [(1, -0.1), (4, -2.0)]]
    answer = Answer.of([5, 1], listed, 2)
    assert answer.log_probs == [-3.0, -0.1]
    assert answer.likeliest == [[(1, -0.5), (2, -1.0)], [(1, -0.1), (4, -2.0)]]


class Canned(RequestEngine):
    """Gives the same answers to everything."""

    answers: list

    def push(self, weights, version):
        self.pushed = list(weights)

    def answer(self, requests, parameters):
        self.asked = requests
        return self.answers[: len(requests)]


def canned(policy, *answers, **options):
    engine = Canned(policy, **options)
    engine.answers = list(answers)
    engine.sync([], 4)
    return engine


def ask(engine, rows=1, copies=1, limit=3, **sampling):
    ids = torch.full((rows, 2), 5)
    seeds, limits = torch.zeros(rows, dtype=torch.long), torch.full((rows,), limit)
    return engine.generate(ids, ids > 0, limits, copies=copies, sampling=Sampling(**sampling), seeds=seeds)


def test_answers_become_padded_rows(policy):
    end = policy.end_ids[0]
    engine = canned(policy, Answer([7, end], [-1.0, -2.0], []), Answer([7, 8, 9], [-3.0, -4.0, -5.0], []))
    drawn = ask(engine, copies=2)
    assert drawn.ids.tolist() == [[7, end, policy.pad_id], [7, 8, 9]]
    assert drawn.mask.tolist() == [[True, True, False], [True, True, True]]
    assert drawn.log_probs.tolist() == [[-1.0, -2.0, 0.0], [-3.0, -4.0, -5.0]]
    assert drawn.ended.tolist() == [True, False]
    assert drawn.policy_version.tolist() == [4, 4]
    assert drawn.entropies is None


def test_log_probs_of_a_filtered_distribution_are_not_reported(policy):
    engine = canned(policy, Answer([7], [-1.0], [[(7, -1.0)]]), top_log_probs=1)
    assert ask(engine, top_k=2).log_probs.isnan().all()
    assert ask(engine, top_p=0.5).top_log_probs.isnan().all()
    assert ask(engine, temperature=0.0).log_probs.tolist() == [[-1.0]]


@pytest.mark.parametrize(
    "answer", [Answer([7], [float("nan")], []), Answer([7], [float("-inf")], []), Answer([], [], [])]
)
def test_broken_answers_end_the_run_in_one_line(policy, answer):
    with pytest.raises(UsageError, match=r"1 of 1 responses came back empty or with log-probs that are NaN"):
        ask(canned(policy, answer))


def test_what_a_request_engine_refuses(policy):
    unsynced = Canned(policy)
    with pytest.raises(UsageError, match="has no weights of the policy yet; call sync before generate"):
        ask(unsynced)
    with pytest.raises(UsageError, match="may take 5 tokens, and the engine holds 4"):
        ask(canned(policy, context=4))
    closed = canned(policy)
    closed.close()
    closed.close()
    for call in (lambda: ask(closed), lambda: closed.sync([], 1)):
        with pytest.raises(UsageError, match="the engine is closed"):
            call()


# --- vLLM in the trainer's process ------------------------------------------------------------------------------------


class Recorder:
    """Stands for `vllm.LLM` and keeps the order of the calls."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, *args, *kwargs.values()))

        return call


@pytest.fixture
def engine(policy, monkeypatch):
    monkeypatch.setattr(vllm_support, "installed_version", lambda: "0.32.0")
    engine = VLLM().build(policy)
    engine.llm = Recorder()
    return engine


def test_weights_go_one_by_one_between_start_and_finish_and_the_prefix_cache_is_reset(engine):
    tensors = [("a", torch.zeros(1)), ("lm_head.weight", torch.ones(1))]
    engine.sync(iter(tensors), 3)
    assert engine.version == 3
    update = [("update_weights", {"update_info": {"tensors": [pair]}}) for pair in tensors]
    expected = [("start_weight_update",), *update, ("finish_weight_update", "3"), ("reset_prefix_cache",)]
    assert engine.llm.calls == expected


def test_an_engine_on_a_cpu_does_not_sleep(engine):
    engine.rest()
    assert engine.llm.calls == []


def test_weights_are_awake_before_they_are_loaded_and_the_cache_after(engine, monkeypatch):
    monkeypatch.setattr(type(engine), "_sleeps", True)
    engine.sync([], 0)
    engine.rest()
    engine.rest()
    with pytest.raises(UsageError, match="the engine rests and holds no weights; call sync"):
        ask(engine)
    engine.llm.calls.clear()
    engine.sync([], 1)
    names = [call[:2] for call in engine.llm.calls]
    assert names == [
        ("wake_up", ["weights"]),
        ("start_weight_update",),
        ("finish_weight_update", "1"),
        ("wake_up", ["kv_cache"]),
        ("reset_prefix_cache",),
    ]
    assert not engine.asleep


def test_a_failure_of_vllm_is_one_line(engine):
    def dead(*args):
        raise RuntimeError("EngineCore died.\nTraceback ...")

    engine.llm.start_weight_update = dead
    with pytest.raises(UsageError) as error:
        engine.sync([], 1)
    assert str(error.value) == "VLLM: the policy's weights could not be loaded (RuntimeError: EngineCore died)."
    assert engine.version == -1


def test_vllm_that_is_missing_or_old_is_named_before_anything_is_loaded(tiny_policy, monkeypatch):
    for found, message in [
        (None, r"vllm is not installed; pip install 'rl4llm\[vllm\]'"),
        ("0.9.2", "0.9.2 is too old"),
    ]:
        monkeypatch.setattr(vllm_support, "installed_version", lambda found=found: found)
        with pytest.raises(UsageError, match=message):
            loop(str(tiny_policy), engine=VLLM())
    check_version("VLLM", "0.32.1+cpu")


def test_the_reason_of_a_validation_error_is_its_message():
    text = (
        "1 validation error for ModelConfig\n  Value error, Model architectures ['Odd'] are not supported. Supported: a"
    )
    assert reason(ValueError(text)) == "Model architectures ['Odd'] are not supported"
    assert reason(ValueError()) == "no reason given"
    with pytest.raises(UsageError, match="mine"), in_one_line("it failed"):
        raise UsageError("mine")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (VLLM, {"memory": 1.0}, "memory must be in"),
        (VLLM, {"cache_gib": 0.0}, "cache_gib must be in"),
        (VLLM, {"context": 1}, "context must be a whole number of at least 2"),
        (VLLM, {"dtype": "int8"}, "dtype"),
        (VLLM, {"top_log_probs": -1}, "top_log_probs"),
        (VLLMServer, {"url": "localhost:8000"}, "is no address; give one such as http://localhost:8000"),
        (VLLMServer, {"folder": "nowhere/at/all"}, "is not there"),
        (VLLMServer, {"chunk_gib": 0.0}, "chunk_gib"),
        (VLLMServer, {"connections": 0}, "connections"),
    ],
)
def test_settings_out_of_range_are_refused(spec, options, message):
    with pytest.raises(UsageError, match=message):
        spec(**options)


# --- a server ---------------------------------------------------------------------------------------------------------


def test_a_run_through_a_server_sends_every_weight(policy):
    with serving(policy) as (url, stub):
        run(loop(policy, engine=VLLMServer(url=url, chunk_gib=1e-6)), steps=2)
    calls = [path for path in stub.asked if path != "inference/v1/generate"]
    assert calls[:3] == ["version", "server_info", "init_weight_transfer_engine"]
    assert calls.count("init_weight_transfer_engine") == 1
    first = calls.index("start_weight_update")
    assert set(calls[first + 1 : calls.index("finish_weight_update")]) == {"update_weights"}
    assert calls.count("update_weights") > 10  # small chunks
    assert calls.count("start_weight_update") == calls.count("finish_weight_update") == 2
    assert calls.count("reset_prefix_cache") == 2
    sent = dict(policy.model.named_parameters(remove_duplicate=False))
    assert "lm_head.weight" in sent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "0.11.0"}, "vllm 0.11.0 is too old"),
        ({"told": None}, "takes over no weights; start it"),
        (
            {"told": {**TOLD, "weight_transfer_config": {"backend": "nccl"}}},
            "weight transfer is nccl, not rl4llm; start it",
        ),
        ({"told": {**TOLD, "weight_transfer_config": None}}, "weight transfer is None, not rl4llm"),
        ({"told": {**TOLD, "model_config": {"logprobs_mode": "raw_logprobs"}}}, "log-probs are raw_logprobs, not"),
    ],
)
def test_a_server_that_cannot_serve_is_refused_before_anything_is_loaded(policy, tiny_policy, options, message):
    with serving(policy, **options) as (url, _), pytest.raises(UsageError, match=re.escape(message)) as error:
        loop(str(tiny_policy), engine=VLLMServer(url=url))
    assert "\n" not in str(error.value)


def test_a_server_that_is_not_there_is_one_line(tiny_policy):
    with pytest.raises(UsageError, match=r"http://127.0.0.1:9 does not answer to version \(.*\); see whether"):
        loop(str(tiny_policy), engine=VLLMServer(url="http://127.0.0.1:9"))


def test_a_server_that_fails_in_the_middle_is_one_line(policy):
    with serving(policy) as (url, stub):
        module = loop(policy, engine=VLLMServer(url=url))
        stub.failing["inference/v1/generate"] = 500, {"error": {"message": "EngineCore died.\nTraceback"}}
        with pytest.raises(UsageError, match=r"refuses inference/v1/generate with status 500 \(EngineCore died\)"):
            run(module, steps=1)
        stub.failing = {"start_weight_update": (200, b"<html>")}
        with pytest.raises(UsageError, match="does not answer to start_weight_update"):
            run(loop(policy, engine=VLLMServer(url=url)), steps=1)
