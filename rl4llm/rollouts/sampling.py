"""`Sampling`: the one object that says how tokens are drawn, for the engine and for the trainer's log-probs alike."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_interval


@dataclass(frozen=True)
class Sampling:
    """How response tokens are drawn.

    Args:
        temperature: Divides the logits, in the engine and in the trainer's log-probs; 0 takes the likeliest token.
        top_k: Keep only the k likeliest tokens; None keeps all. For evaluation only.
        top_p: Keep the smallest set of likeliest tokens with this mass; 1 keeps all. For evaluation only.
        max_response_tokens: Length limit of a response.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    max_response_tokens: int = 16

    def __post_init__(self) -> None:
        check_interval("Sampling", 0.0, float("inf"), "[)", temperature=self.temperature)
        check_interval("Sampling", 0.0, 1.0, "(]", top_p=self.top_p)
        check_at_least("Sampling", 1, top_k=self.top_k, max_response_tokens=self.max_response_tokens)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    @property
    def filtered(self) -> bool:
        """Whether some tokens can never be drawn although the policy gives them mass."""
        return self.greedy or self.top_k is not None or self.top_p < 1.0

    def check_trainable(self) -> None:
        """Raise if responses drawn so cannot be trained on.

        The trainer's log-probs are those of the whole vocabulary at this temperature. A filter draws from another
        distribution, in which the dropped tokens have no mass, so no importance weight can correct it.
        """
        if self.filtered:
            given = "temperature=0" if self.greedy else f"top_k={self.top_k}, top_p={self.top_p}"
            raise UsageError(
                f"Sampling: {given} draws from a filtered distribution whose log-probs the trainer does not have; "
                "train with temperature > 0, top_k=null, top_p=1, and filter in the evaluation only."
            )

    def tempered(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """Log-probs from which tokens are drawn before any filter: those of the trainer."""
        return torch.log_softmax(logits.float() / (1.0 if self.greedy else self.temperature), dim=-1)

    def filter(self, log_probs: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """−inf at the tokens that top-k and top-p drop. The likeliest token always stays."""
        if self.top_k is not None and self.top_k < log_probs.shape[-1]:
            border = log_probs.topk(self.top_k, dim=-1).values[:, -1:]
            log_probs = log_probs.masked_fill(log_probs < border, -torch.inf)
        if self.top_p < 1.0:
            ordered, order = log_probs.softmax(-1).sort(dim=-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            log_probs = log_probs.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
        return log_probs
