"""Broken models: one line that names the cause, before any weight is read where that is possible."""

import json
import math
import sys
from dataclasses import is_dataclass

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig

from rl4llm.checks import UsageError
from rl4llm.models import Policy, Pretrained, TinyQwen3, check_model, load_backbone, names
from tests.models.folders import copied, saved, tiny, with_config, with_weights

UP = "model.layers.1.mlp.up_proj.weight"
SHORT = r"layers\.1\.mlp\.up_proj\.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good, tmp_path):
    return copied(good, tmp_path / "model")


def line_of(call, *arguments):
    with pytest.raises(UsageError) as raised:
        call(*arguments)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


@pytest.fixture
def no_weights(monkeypatch):
    """Fails if anything reads weights: what is found then is found early."""

    def refuse(*arguments, **options):
        raise AssertionError("weights were read")

    for loader in (AutoModel, AutoModelForCausalLM):
        monkeypatch.setattr(loader, "from_pretrained", refuse)


# --- before any weight is read --------------------------------------------------------------------------------------


def test_a_good_model_passes_without_reading_weights(good, no_weights):
    check_model(good)
    check_model(Pretrained(good, dtype="bfloat16", attention="sdpa", layers=1))


def a_text(folder, text):
    (folder / "config.json").write_text(text)


def no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def its_own_code(folder):
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    with_config(folder, model_type="ours", auto_map=auto)
    (folder / "code.py").write_text("raise SystemExit('code of the model was run')")


def cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def a_shard_is_missing(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {UP: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


PARTS_OF_MUSIC = {"text_encoder": "t5", "audio_encoder": "encodec", "decoder": "musicgen_decoder"}
MUSIC = {"model_type": "musicgen", **{part: {"model_type": kind} for part, kind in PARTS_OF_MUSIC.items()}}
TYPED = is_dataclass(PreTrainedConfig)  # transformers 5.0 does not check the types of a configuration's fields
ANOTHER_TYPE = r"num_hidden_layers.*int.*two" if TYPED else r"num_hidden_layers.*two"


EARLY = {
    "config is no JSON": (lambda f: a_text(f, "not json {"), r"cannot be loaded: .*not a valid JSON file"),
    "config is empty": (lambda f: a_text(f, "{}"), r"cannot be loaded: .*model_type"),
    "config is a list": (lambda f: a_text(f, "[]"), r"cannot be loaded"),
    "unknown type": (lambda f: with_config(f, model_type="nonesuch"), r"nonesuch"),
    "no causal LM": (lambda f: a_text(f, '{"model_type": "t5"}'), r"type 't5', which is no causal language model"),
    "encoder": (lambda f: a_text(f, '{"model_type": "bert"}'), r"type 'bert', which is no causal language model"),
    "encoder and decoder": (
        lambda f: a_text(f, '{"model_type": "bart"}'),
        r"'bart', which is no causal language model",
    ),
    "several texts": (lambda f: a_text(f, json.dumps(MUSIC)), r"type 'musicgen', which is no causal"),
    "a field of another type": (lambda f: with_config(f, num_hidden_layers="two"), ANOTHER_TYPE),
    "own code": (its_own_code, r"brings code of its own .* never run"),
    "no tokenizer": (no_tokenizer, r"comes without a tokenizer; save it"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), r"tokenizer of model .* cannot be loaded"),
    "vocabulary": (lambda f: with_config(f, vocab_size=10), r"knows 10 ids, but its own tokenizer gives 16"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"holds no weights"),
    "empty weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        r"model\.safetensors is damaged or cut off",
    ),
    "cut off": (cut_off, r"model\.safetensors is damaged or cut off"),
    "no safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 99), r"damaged or cut off"),
    "missing shard": (a_shard_is_missing, r"model-00001-of-00002\.safetensors is missing"),
}


@pytest.mark.parametrize("name", EARLY)
def test_a_broken_folder_is_one_line_before_weights_are_read(name, folder, no_weights, monkeypatch):
    def ask(*arguments):
        raise AssertionError("standard input was asked")

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(sys, "stdin", None)
    breaks, message = EARLY[name]
    breaks(folder)
    with pytest.raises(UsageError, match=message):
        check_model(str(folder))
    assert str(folder) in line_of(check_model, str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, r"name must be a hub name or a model folder, got ''"),
        ({"dtype": "float8"}, r"dtype must be one of 'float32', 'bfloat16', 'float16', got 'float8'"),
        ({"attention": "fast"}, r"attention must be one of 'eager', 'sdpa', .*got 'fast'"),
        ({"layers": 0}, r"layers must be a whole number of at least 1, got 0"),
    ],
)
def test_impossible_choices_list_the_possible_ones(options, message):
    with pytest.raises(UsageError, match=message):
        Pretrained(**({"name": "rl4llm/digits"} | options))


def test_an_attention_kernel_without_its_package_is_one_line(no_weights):
    with pytest.raises(UsageError, match=r"attention=flash_attention_2 needs the package flash_attn"):
        check_model(Pretrained("rl4llm/digits", attention="flash_attention_2"))


def test_more_layers_than_there_are_is_one_line(good, no_weights):
    with pytest.raises(UsageError, match=r"has 2 layers, so layers=3 cannot be taken"):
        check_model(Pretrained(good, layers=3))


def test_a_hub_that_cannot_be_reached_is_never_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(names, "hub_reachable", lambda: asked.append(1))  # None: it cannot
    monkeypatch.setattr("rl4llm.models.configuration.hub_reachable", lambda: False)
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was used"))
    assert "neither a folder nor in the local cache" in line_of(check_model, "Qwen/Nonesuch-9B")
    assert asked


# --- when weights are read ------------------------------------------------------------------------------------------


def pop(name):
    return lambda tensors: tensors.pop(name)


def replace(name, tensor):
    return lambda tensors: tensors.__setitem__(name, tensor)


def fill(name, number):
    return lambda tensors: tensors[name].reshape(-1)[3:4].fill_(number)


BROKEN_WEIGHTS = [
    (pop(UP), rf"its weights lack .*{SHORT}, which would start at random"),
    (replace(UP, torch.zeros(3, 3)), rf"shape in its weights is not that of config.json for .*{SHORT}"),
    (fill("model.norm.weight", math.nan), r"norm\.weight holds NaN or infinite numbers as float32"),
    (fill(UP, math.inf), rf"{SHORT} holds NaN or infinite"),
    (fill(UP, -math.inf), rf"{SHORT} holds NaN or infinite"),
]


@pytest.mark.parametrize("load", [Policy.load, load_backbone], ids=["policy", "critic"])
@pytest.mark.parametrize(("change", "message"), BROKEN_WEIGHTS, ids=lambda x: x if isinstance(x, str) else "")
def test_weights_that_are_not_whole_are_one_line(load, change, message, folder, capfd):
    path = with_weights(folder, change)
    with pytest.raises(UsageError, match=message):
        load(path)
    assert path in line_of(load, path)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_several_missing_tensors_are_counted(folder):
    path = with_weights(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "mlp" in name])
    assert "model.layers.0.mlp.down_proj.weight and 5 more" in line_of(Policy.load, path)


def test_numbers_too_large_for_the_dtype_are_one_line(folder):
    path = with_weights(folder, fill(UP, 1e6))
    Policy.load(path)
    assert "as float16" in line_of(Policy.load, Pretrained(path, dtype="float16"))


class Code:
    """Runs where it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code of the model was run",)


def test_pickled_code_in_weights_is_never_run(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Code()}, folder / "pytorch_model.bin")
    assert "they hold pickled code, which is never run" in line_of(Policy.load, str(folder))


def test_a_model_of_a_known_architecture_needs_none_of_its_own_code(folder):
    path = with_config(folder, auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (folder / "code.py").write_text("raise SystemExit('code of the model was run')")
    check_model(path)
    Policy.load(path)


OWN_CODE = """
from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM

Path(RAN).write_text("yes")

class Config(Qwen3Config):
    model_type = "ours"

class Model(Qwen3ForCausalLM):
    config_class = Config
"""


def test_code_of_a_model_is_run_only_if_asked(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    ran = tmp_path / "ran"
    (folder / "code_of_ours.py").write_text(OWN_CODE.replace("RAN", repr(str(ran))))
    auto = {"AutoConfig": "code_of_ours.Config", "AutoModelForCausalLM": "code_of_ours.Model"}
    path = with_config(folder, model_type="ours", auto_map=auto)
    for load in (check_model, Policy.load, load_backbone):
        assert "set trust_remote_code=true" in line_of(load, path)
    assert not ran.exists()
    asked = Pretrained(path, trust_remote_code=True)
    check_model(asked)
    assert type(Policy.load(asked).model).__name__ == "Model"
    assert ran.exists()


@pytest.mark.parametrize("thing", [None, 3, TinyQwen3()], ids=str)
def test_what_is_no_model_is_one_line(thing, unchecked_shapes):
    for load in (check_model, Policy.load, load_backbone):
        assert f"got {type(thing).__name__}" in line_of(load, thing)


def test_objects_with_broken_weights_are_one_line():
    model, tokenizer = tiny()
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    for load in (Policy.load, load_backbone):
        assert "norm.weight holds NaN" in line_of(load, Policy(model, tokenizer))


def test_weights_without_a_place_are_said_once_and_left_out(folder):
    path = with_weights(folder, replace("score.weight", torch.zeros(3, 3)))
    with pytest.warns(UserWarning, match=r"its weights hold score\.weight, for which .* has no place; left out"):
        Policy.load(path)


@pytest.mark.filterwarnings("error")
def test_a_backbone_needs_no_head_and_a_tied_head_needs_no_weights(folder):
    assert "lm_head.weight" not in str(with_weights(folder, lambda tensors: tensors.pop("lm_head.weight", None)))
    Policy.load(str(folder))
    path = with_weights(folder, replace("lm_head.weight", torch.zeros(15, 16)))
    load_backbone(path)


def test_an_untied_head_that_is_missing_is_refused(folder):
    path = with_config(folder, tie_word_embeddings=False)
    assert "its weights lack lm_head.weight" in line_of(Policy.load, path)
    load_backbone(path)


@pytest.mark.parametrize("ident", [None, 99])
def test_a_model_that_cannot_end_a_response_is_said(folder, ident):
    with_config(folder, eos_token_id=ident)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ident}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    with pytest.warns(UserWarning, match="names no end token that it could write, so every response runs to the"):
        Policy.load(str(folder))
