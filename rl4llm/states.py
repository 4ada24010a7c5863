"""`PolicyStates`: what models lend and critics read of the inside of the policy."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class PolicyStates(NamedTuple):
    """What the policy holds in one of its layers while it reads prompts and responses.

    Attributes:
        prompt: Hidden state at every prompt token, left-padded.
        response: Hidden state at every response token, after that token was read.
        entropies: H(π(·|sₜ)) at the sampling temperature, from which response token t was drawn; nats.
    """

    prompt: Float[Tensor, "batch prompt width"]
    response: Float[Tensor, "batch time width"]
    entropies: Float[Tensor, "batch time"]
