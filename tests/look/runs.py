"""A run folder with rows of any size and any text, made without training."""

import json
import random

from rl4llm.look.files import encode_rows

HOSTILE = '</script><script>window.broken = true</script> & <b>"quoted"</b> \u2028 \u202e'
NUMBERS = ("advantages", "values", "spread", "entropies", "ratio", "returns", "log_probs", "critic_0", "critic_1")


def write_run(folder, steps=(1, 20), prompts=3, responses=4, tokens=12, texts=None, seed=0, left_out=()):
    """Write config, metrics, summary and rows of a run of AsyPPO."""
    random.seed(seed)
    (folder / "rows").mkdir(parents=True)
    part = {"class_path": "rl4llm.gates.AgreementGate", "init_args": {"fraction": 0.2}}
    (folder / "config.yaml").write_text(json.dumps({"model": {"gate": part, "replay": None, "policy": HOSTILE}}))
    names = ("step", "train/accuracy", "val/sampled_accuracy", "time/rollout_seconds", "time/step_seconds")
    lines = [",".join(names), *(f"{step},{step / 30},{'' if step % 5 else 0.5},1,3" for step in range(20))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").write_text(json.dumps({"status": "finished", "steps": 20, "recipe": HOSTILE}))
    for step in steps:
        columns = rows_of(step, prompts, responses, tokens, texts or [" the", "\n", "é", "a", HOSTILE])
        columns = {name: column for name, column in columns.items() if name not in left_out}
        (folder / f"rows/step_{step:06d}.parquet").write_bytes(encode_rows(columns))
    return folder


def rows_of(step, prompts, responses, tokens, texts):
    """The columns of a batch; lengths and numbers differ from response to response."""
    places = [(prompt, index) for prompt in range(prompts) for index in range(responses)]
    lengths = [max(1, tokens - 2 * prompt + index) for prompt, index in places]
    lists = {name: [[numbers(name, step) for _ in range(length)] for length in lengths] for name in NUMBERS}
    words = [[texts[at % len(texts)] for at in range(length)] for length in lengths]
    return {
        "step": [step] * len(places),
        "group": [prompt for prompt, _ in places],
        "prompt_uid": [100 + prompt for prompt, _ in places],
        "prompt": [f"prompt {prompt} {HOSTILE}" for prompt, _ in places],
        "response": ["".join(row) for row in words],
        "answer": [None if prompt == 1 else HOSTILE for prompt, _ in places],
        "score": [None if index == 3 else float(index > prompt) for prompt, index in places],
        "correct": [index > prompt for prompt, index in places],
        "truncated": [index == 1 for _, index in places],
        "replayed": [False for _ in places],
        "length": lengths,
        "tokens": words,
        "trained": [[at != 2 for at in range(length)] for length in lengths],
        "gate": [[at % 4 != 1 for at in range(length)] for length in lengths],
        "filter_entropy": [[at % 3 != 0 for at in range(length)] for length in lengths],
        **{
            name: [[None if at == 2 else x for at, x in enumerate(row)] for row in rows] for name, rows in lists.items()
        },
    }


def numbers(name, step):
    """A number that such a column could hold."""
    drawn = random.gauss(0, 1)
    return {"spread": abs(drawn) / step, "entropies": abs(drawn), "ratio": 2**drawn}.get(name, drawn)
