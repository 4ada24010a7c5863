"""Peak memory that `--dry_run` predicts, and that the same run then takes above what Python and libraries hold.

    OMP_NUM_THREADS=1 python bench/memory.py [--case asyppo] [--out memory.json]

Each case trains two rollout batches of a model with random weights, in a process of its own, after a run of one batch
of the embedded model that loads every library.
"""

import argparse
import contextlib
import importlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path

import torch
from processes import in_process, peak_bytes
from random_models import save
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config

from rl4llm.cli import RecipeCLI

sys.path.append(str(Path(__file__).parent.parent / "recipes"))
_CONTEXT = {"max_position_embeddings": 2048, "tie_word_embeddings": True, "head_dim": 64}


def qwen3(width: int, layers: int, vocabulary: int) -> PreTrainedConfig:
    """Return the shape of a Qwen3."""
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": max(1, width // 128)}
    sizes = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers}
    return Qwen3Config(intermediate_size=3 * width, **sizes, **heads, **_CONTEXT)


def smollm2() -> PreTrainedConfig:
    """Return the shape of SmolLM2-135M."""
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    sizes = {"vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536}
    return LlamaConfig(**sizes, **heads, **_CONTEXT)


def rollout(prompts: int, copies: int, tokens: int) -> list[str]:
    """Return the flags of a rollout batch."""
    return [
        f"--data.prompts_per_step={prompts}",
        f"--model.responses_per_prompt={copies}",
        f"--model.sampling.max_response_tokens={tokens}",
    ]


ASYPPO = [*rollout(4, 4, 128), "--model.critics.model={critic}", "--model.updates.minibatches=2"]
GRPO = [*rollout(2, 4, 384), "--model.kl=KLPenalty", "--model.kl.coef=0.01", "--model.updates.minibatches=1"]
SMOL = [*rollout(2, 4, 128), "--model.updates.minibatches=1", "--model.policy.gradient_checkpointing=true"]
CASES = {
    "asyppo": ("asyppo", qwen3(512, 8, 4096), qwen3(384, 4, 4096), ASYPPO),
    "grpo": ("grpo", qwen3(256, 4, 151936), None, GRPO),
    "smollm2": ("ppo", smollm2(), None, SMOL),
}


def write_prompts(path: Path) -> None:
    """Write prompts of 24 to 48 characters."""
    lines = [json.dumps({"prompt": "12345678"[: 4 + row % 5] * 6, "answer": "1"}) for row in range(64)]
    path.write_text("\n".join(lines) + "\n")


def flags(case: str, folder: Path, *, write: bool) -> tuple[str, list[str]]:
    """Return the recipe of a case and its command line."""
    recipe, policy, critic, more = CASES[case]
    places = {"policy": str(folder / "policy"), "critic": str(folder / "critic")}
    if write:
        save(policy, folder / "policy")
        write_prompts(folder / "train.jsonl")
        if critic is not None:
            save(critic, folder / "critic")
    given = [flag.format(**places) for flag in more]
    name = "--model.policy.name" if any("--model.policy." in flag for flag in more) else "--model.policy"
    return recipe, ["fit", f"{name}={places['policy']}", *task(folder), *quiet(folder), *given]


def task(folder: Path) -> list[str]:
    """Return the flags of the prompts and of a run of two rollout batches."""
    reward = "--data.task.reward=long_prompts.lottery"
    return ["--data.task=JsonLines", f"--data.task.train={folder / 'train.jsonl'}", reward, "--trainer.max_steps=2"]


def quiet(folder: Path) -> list[str]:
    """Return flags of a run without evaluation and checkpoints."""
    return [
        f"--trainer.default_root_dir={folder}",
        "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.enable_checkpointing=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
    ]


def run(recipe: str, args: list[str]) -> str:
    """Run a command and return what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        RecipeCLI(getattr(importlib.import_module(recipe), recipe), args=args)
    return said.getvalue()


def predicted(case: str, folder: Path) -> int:
    """Return the bytes that the plan of a case says."""
    recipe, args = flags(case, folder, write=False)
    found = re.search(r"peak: .*?, ([\d,.]+) MiB", said := run(recipe, [*args, "--dry_run"]))
    print(said)
    assert found is not None, said
    return int(float(found[1].replace(",", "")) * 2**20)


def measured(case: str, folder: Path) -> int:
    """Return the bytes that a case adds to what libraries take."""
    recipe, args = flags(case, folder, write=False)
    run("grpo", ["fit", *quiet(folder), "--trainer.max_steps=1", *rollout(1, 2, 4)])
    before = peak_bytes()
    run(recipe, args)
    return peak_bytes() - before


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--part")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", default="memory.json")
    options = parser.parse_args()
    if options.part:
        way = {"predicted": predicted, "measured": measured}[options.part]
        print(json.dumps(way(options.case[0], options.folder)))
        return
    print("| case | MiB, predicted | MiB, measured | predicted / measured |\n|---|---|---|---|")
    found = {}
    for case in options.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            flags(case, Path(folder), write=True)
            said = [
                in_process(__file__, f"--part={part}", f"--case={case}", f"--folder={folder}")
                for part in ("predicted", "measured")
            ]
        found[case] = dict(zip(("predicted", "measured"), said, strict=True))
        plan, peak = (number / 2**20 for number in said)
        print(f"| {case} | {plan:,.0f} | {peak:,.0f} | {plan / peak:.2f} |", flush=True)
    Path(options.out).write_text(json.dumps({"torch": torch.__version__, "cases": found}, indent=1))


if __name__ == "__main__":
    main()
