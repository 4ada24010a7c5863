"""`RewardModel`: a sequence classifier scores whole batches of responses, on the policy's device."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from rl4llm.checks import UsageError, check_at_least, check_choice
from rl4llm.rewards.base import BatchVerifier
from rl4llm.rewards.verdicts import Problem

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class RewardModel(BatchVerifier):
    """What a sequence classifier says about prompt and response; the answer is not read.

    It runs in the process of the run, not in worker processes, and is loaded with the first batch. Prompt and response
    are written with the tokenizer's chat template, or one after the other where it has none.

    Args:
        path: Folder of a sequence classifier with its tokenizer, with weights in safetensors.
        dtype: Its number format.
        device: Where it runs, such as "cuda:1"; None: on the policy's device.
        batch_size: Most responses of one forward pass.
        label: Which output is the score; None: the only one.
        max_tokens: Longest prompt with response, beyond which a response is unscorable; None: the model's context.

    Raises:
        UsageError: If the folder does not hold such a model.
    """

    path: str
    dtype: DType = "float32"
    device: str | None = None
    batch_size: int = 16
    label: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        check_choice("RewardModel", get_args(DType), dtype=self.dtype)
        check_at_least("RewardModel", 1, batch_size=self.batch_size, max_tokens=self.max_tokens)
        check_at_least("RewardModel", 0, label=self.label)
        outputs = _outputs(self.path)
        if self.label is None and outputs != 1:
            raise UsageError(f"RewardModel: '{self.path}' has {outputs} outputs; name the one to use with label.")
        if self.label is not None and self.label >= outputs:
            raise UsageError(f"RewardModel: label is {self.label}, and '{self.path}' has {outputs} outputs, from 0 on.")

    @torch.no_grad()
    def score_batch(
        self, prompts: Sequence[Any], responses: Sequence[str], answers: Sequence[Any], device: str
    ) -> list[float | Problem]:
        """Score every response; one that is too long for the model is a problem.

        Args:
            prompts: One prompt per response.
            responses: The responses.
            answers: Not read.
            device: The policy's device.
        """
        model, tokenizer = _loaded(self.path, self.dtype, self.device or device)
        most = self.max_tokens or getattr(model.config, "max_position_embeddings", None) or 1 << 30
        ids = [_ids(tokenizer, *pair) for pair in zip(prompts, responses, strict=True)]
        verdicts: list[float | Problem] = [
            Problem("is too long for the reward model", f"for example {len(one)} tokens of at most {most}")
            for one in ids
        ]
        fitting = [index for index, one in enumerate(ids) if len(one) <= most]
        for start in range(0, len(fitting), self.batch_size):
            rows = fitting[start : start + self.batch_size]
            padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, padding_side="right", return_tensors="pt")
            with torch.autocast(model.device.type, enabled=False):
                logits = model(**padded.to(model.device)).logits
            for row, score in zip(rows, logits[:, self.label or 0].float().tolist(), strict=True):
                verdicts[row] = score
        return verdicts


def _outputs(path: str) -> int:
    """Number of outputs of the classifier in a folder, read from its configuration alone."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise UsageError(f"RewardModel: '{path}' holds no config.json; pass the folder of a sequence classifier.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kinds, names = config.get("architectures") or [], config.get("id2label")
    except (ValueError, AttributeError, OSError) as error:
        raise UsageError(f"RewardModel: '{file}' cannot be read ({error}); repair the folder.") from None
    if not any("SequenceClassification" in str(kind) for kind in kinds):
        raise UsageError(
            f"RewardModel: '{path}' holds {', '.join(map(str, kinds)) or 'no known model'}; pass the folder of a "
            "sequence classifier (...ForSequenceClassification)."
        )
    return int(config.get("num_labels") or (len(names) if names else 2))


@lru_cache(maxsize=4)
def _loaded(path: str, dtype: str, device: str) -> tuple[Any, Any]:
    """The classifier and its tokenizer, loaded once; nothing in the folder is executed."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kept = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **kept)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **kept
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"RewardModel: '{path}' cannot be loaded ({str(error).splitlines()[0][:200]}).") from None
    if report["missing_keys"]:
        raise UsageError(f"RewardModel: '{path}' lacks weights, {sorted(report['missing_keys'])[0]} among them.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device).eval().requires_grad_(False), tokenizer


def _ids(tokenizer: Any, prompt: Any, response: str) -> list[int]:
    if not tokenizer.chat_template:
        text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
        return tokenizer(text + response)["input_ids"]
    chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    text = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": response}], tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]
