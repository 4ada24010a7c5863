"""`PolicyStates`: hidden states of the policy, as value sources read them."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class PolicyStates(NamedTuple):
    """Hidden states of one layer of the policy on prompts and responses, and the entropies of its predictions.

    Attributes:
        prompt: Hidden state at every prompt token, left-padded.
        response: Hidden state at every response token, after that token was read.
        entropies: H(π(·|sₜ)) at the sampling temperature, from which response token t was drawn; nats.
    """

    prompt: Float[Tensor, "batch prompt width"]
    response: Float[Tensor, "batch time width"]
    entropies: Float[Tensor, "batch time"]
