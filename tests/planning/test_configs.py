"""The configurations of long runs parse, and their memory is planned, without weights, network and accelerator."""

import json
from pathlib import Path

import pytest
from transformers import Qwen3Config

from rl4llm.cli import RecipeCLI
from rl4llm.models import TinyQwen3
from tests.recipes.helpers import RECIPES

CONFIG = Path(__file__).parents[2] / "recipes" / "configs" / "asyppo_qwen3_4b.yaml"
SIZES = {"policy": (2560, 36, 32, 9728), "critic": (1024, 28, 16, 3072)}


def shape(folder, width, layers, heads, feed_forward):
    """A folder that holds a configuration and a tokenizer, and no weights."""
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": feed_forward, "head_dim": 128}
    heads = {"num_attention_heads": heads, "num_key_value_heads": 8}
    context = {"max_position_embeddings": 32768, "tie_word_embeddings": True, "eos_token_id": 1}
    Qwen3Config(vocab_size=151936, **sizes, **heads, **context).save_pretrained(folder)
    TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1).build()[1].save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_the_asymmetric_setting_is_planned(tmp_path, capsys):
    prompts = tmp_path / "problems.jsonl"
    lines = [{"question": f"{n:064}", "final_answer": "1"} for n in range(160)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = {name: shape(tmp_path / name, *sizes) for name, sizes in SIZES.items()}
    args = ["fit", f"--config={CONFIG}", "--dry_run", "--dry_run_memory=80GiB", f"--data.task.train={prompts}"]
    args += [f"--model.policy.name={names['policy']}", f"--model.critics.init_args.model.name={names['critic']}"]
    with pytest.raises(SystemExit) as left:
        RecipeCLI(RECIPES["asyppo"], args=args)
    said, errors = capsys.readouterr()
    assert not left.value.code, errors
    assert "each of 8 devices (fsdp2, bf16-mixed)" in said
    assert "4,022,468,096" in said
    assert said.count("596,") >= 2  # two critics of 0.6 billion parameters
    assert "of 81,920 MiB: it fits" in said
