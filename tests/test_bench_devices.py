"""Benchmarks on a GPU: one clear line where there is none, and all but the kernels run on a CPU with small models."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config

BENCH = Path(__file__).parents[1] / "bench"
WEIGHTS = 2 * (4 * 32 * 32 + 3 * 32 * 64) + 4000 * 32  # of the projections and the head of the small model
COMMANDS = ["rollouts", "log_probs", "prompts", "ensembles", "step"]


@pytest.fixture
def bench(monkeypatch):
    """A function that imports a benchmark as its command does."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == BENCH:
            del sys.modules[name]


@pytest.fixture
def as_on_a_gpu(bench, monkeypatch):
    """Take every branch of a GPU on a CPU, with a model of two layers."""
    devices, models = bench("devices"), bench("random_models")
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(devices.Device, "is_gpu", property(lambda self: True))
    monkeypatch.setattr(devices.Device, "operations_per_second", lambda self: 1e9)
    monkeypatch.setattr(models, "qwen3_half_billion", small)
    return devices.Device("cpu", torch.bfloat16)


def small(layers=2):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 4000}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    return Qwen3Config(**sizes, **heads, max_position_embeddings=2048, tie_word_embeddings=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_gpu_the_command_says_so_in_one_line_and_fails(bench, monkeypatch, command):
    if command == "step":
        pytest.importorskip("trl")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [f"{command}.py", "--device=cuda"])
    with pytest.raises(SystemExit, match=r"^no CUDA device was found: .* Run the same command on") as end:
        bench(command).main()
    assert "\n" not in str(end.value)


def test_the_device_and_its_dtype_are_said(bench):
    devices = bench("devices")
    assert str(devices.Device()).endswith("threads, float32")
    assert devices.Device("cpu", torch.bfloat16).flags() == ["--device=cpu", "--dtype=bfloat16"]
    assert devices.Device().operations_per_second(repeats=1) > 1e8


def test_a_random_model_is_a_folder_in_which_every_token_is_text(bench, tmp_path):
    models = bench("random_models")
    from rl4llm.models import Policy

    policy = Policy.load(models.save(small(), tmp_path))
    assert policy.model.config.vocab_size == len(policy.tokenizer) == 4000
    assert len(policy.tokenizer.decode([7, 3999, 2500])) == 3
    assert models.product_weights(policy.model) == WEIGHTS


def test_rollouts_of_a_gpu(as_on_a_gpu, bench):
    rollouts = bench("rollouts")
    case = rollouts.random_weights(as_on_a_gpu, small(), prompts=2, prompt_tokens=9, limit=6, end=64)
    assert case.policy.model.dtype == torch.bfloat16
    speeds = rollouts.measure(case, 1, as_on_a_gpu)
    assert set(speeds) == {"generate", "engine", "forwards"}
    assert min(speeds.values()) > 0


def test_prompts_of_a_gpu(as_on_a_gpu, bench, monkeypatch, capsys):
    prompts = bench("prompts")
    monkeypatch.setattr(prompts, "HALF_BILLION", {"short": (2, 2, 5, 4)})
    monkeypatch.setitem(prompts.LENGTHS, "cpu", ((3, 4),))
    models = prompts.trunks(as_on_a_gpu)
    assert {trunk.dtype for trunk in models.values()} == {torch.bfloat16}
    (row,) = prompts.compare(models, 1, as_on_a_gpu)
    assert row["tokens"] == (4 * 8, 2 * 5 + 4 * 3)
    expected = 6 * models["Qwen3 0.5B"].num_parameters(exclude_embeddings=True) * 32 / row["seconds"][0] / 1e9
    assert row["shares"][0] == pytest.approx(expected, rel=0.05)  # norms have no products
    assert len(prompts.passes(models["Qwen3 0.5B"], 1, as_on_a_gpu)) == 1
    assert "| Qwen3 0.5B | short | 32 | 22 |" in capsys.readouterr().out


def test_log_probs_of_a_gpu(as_on_a_gpu, bench):
    log_probs = bench("log_probs")
    for name in ("products", "naive", "by_logits", "by_states"):
        found = log_probs.measure(log_probs.WAYS[name], as_on_a_gpu, tokens=8, width=4, vocab=9)
        assert found["seconds"] > 0


def test_ensembles_of_a_gpu(as_on_a_gpu, bench, monkeypatch):
    ensembles = bench("ensembles")
    monkeypatch.setattr(ensembles, "mini_critic", small)
    monkeypatch.setitem(ensembles.TOKENS, "cpu", (5, 4, 6))
    assert ensembles._gpu_weights() == {"policy": WEIGHTS, "critic": WEIGHTS - 4000 * 32}
    times = ensembles.batching(as_on_a_gpu, 2, 2, 1)
    assert len(times) == 3
    assert (
        ensembles.memory(as_on_a_gpu, "mini", 4)["weights"]
        == 2 * ensembles.memory(as_on_a_gpu, "symmetric", 4)["weights"]
    )


@pytest.mark.long
def test_recipes_of_a_gpu_train_the_models_that_were_written(as_on_a_gpu, bench, tmp_path):
    steps = bench("recipe_steps")
    options = steps.gpu_options(tmp_path, small(), small())
    assert "--trainer.precision=bf16-mixed" in options["grpo"]
    line = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert len(line["prompt"]) == 128
    cut = {
        "--trainer.accelerator=gpu": "--trainer.accelerator=cpu",
        "--data.prompts_per_step=16": "--data.prompts_per_step=2",
    }
    cut |= {"--model.sampling.max_response_tokens=256": "--model.sampling.max_response_tokens=2"}
    for recipe, flags in options.items():
        seconds = steps._run(as_on_a_gpu, recipe, "--trainer.max_steps=1", *(cut.get(flag, flag) for flag in flags))
        assert seconds > 0


def test_a_step_of_a_gpu(as_on_a_gpu, bench, tmp_path):
    pytest.importorskip("trl")
    step = bench("step")
    cases = list(step.gpu_cases(str(tmp_path)))
    assert [(tokens, work.updates) for _, tokens, work in cases] == [(128, 1), (512, 1), (512, 4)]
    work = cases[0][2]
    assert step.operations(work, 128, 256.0) == 8 * WEIGHTS * (8 * 128 + 64 * 256)
