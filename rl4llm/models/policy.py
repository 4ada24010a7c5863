"""`Policy`: a causal language model that gives log-probs at the response positions, never the logits of a prompt."""

from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.log_probs import token_log_probs
from rl4llm.masked import keep
from rl4llm.models.loading import accepts, end_of_sequence_ids, load_causal_lm, load_tokenizer


def positions(attention_mask: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Position of every token in its own sequence, whatever stands left of it as padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def prefix_inputs(batch: RolloutBatch) -> dict[str, Tensor]:
    """Prompt and all response tokens but the last: its last T positions are the prefixes sₜ of the T response tokens.

    Right padding needs no masking, since no earlier token sees it; tool output inside a response is seen.
    """
    response = batch.response_ids[:, :-1]
    attention = torch.cat([batch.prompt_mask, torch.ones_like(response, dtype=torch.bool)], dim=-1)
    ids = torch.cat([batch.prompt_ids, response], dim=-1)
    return {"input_ids": ids, "attention_mask": attention.long(), "position_ids": positions(attention)}


def for_model(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs without position ids where the model takes none."""
    known = accepts(model, "position_ids")
    return {name: tensor for name, tensor in inputs.items() if known or name != "position_ids"}


class Policy(nn.Module):
    """A causal language model and its tokenizer.

    Args:
        model: Any Hugging Face causal language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.end_ids = end_of_sequence_ids(model, tokenizer)
        pad = tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else (self.end_ids or [0])[0]

    @classmethod
    def load(cls, name: str) -> "Policy":
        """From a hub name, a local folder or an embedded model (`rl4llm/...`)."""
        return cls(load_causal_lm(name), load_tokenizer(name))

    def save(self, folder: str | Path) -> None:
        """Write an ordinary Hugging Face folder, which [load][rl4llm.models.Policy.load] and others read."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def forward(
        self, batch: RolloutBatch, *, temperature: float = 1.0, entropies: bool = False, logsumexp: bool = False
    ) -> PolicyOutput:
        """Log-probs of the response tokens (and entropies, logsumexp when asked), 0 where the mask is False.

        Args:
            batch: Prompts and responses.
            temperature: The temperature at which the responses were sampled.
            entropies: Whether to give H(π(·|sₜ)) too.
            logsumexp: Whether to give log Σ exp(logits / temperature) too.
        """
        time = batch.response_ids.shape[1]
        if time == 0:
            nothing = torch.zeros(batch.response_ids.shape, device=batch.response_ids.device)
            return PolicyOutput(nothing, nothing if entropies else None, nothing if logsumexp else None)
        inputs = for_model(self.model, prefix_inputs(batch))
        options = {"logits_to_keep": time} if accepts(self.model, "logits_to_keep") else {}
        logits = self.model(**inputs, **options, use_cache=False).logits[:, -time:]
        output = token_log_probs(
            logits, batch.response_ids, temperature=temperature, entropy=entropies, logsumexp=logsumexp
        )
        log_probs, *extras = output if isinstance(output, tuple) else (output, None, None)
        kept = [None if x is None else keep(x, batch.response_mask) for x in extras]
        return PolicyOutput(keep(log_probs, batch.response_mask), *kept)
