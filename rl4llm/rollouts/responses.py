"""`Responses`: what a rollout engine returns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.axes import dtype_of
from rl4llm.checks import UsageError, check_device, check_given, check_mask, check_tensors
from rl4llm.roles import check_kinds, check_roles

_AXES = {"ended": 1, "policy_version": 1, "top_ids": 3, "top_log_probs": 3}  # every other field is batch × time


@dataclass(frozen=True, eq=False)
class Responses:
    """Right-padded responses with an explicit mask.

    The mask has holes where something other than the policy wrote tokens, for example the output of a tool.

    Args:
        ids: Tokens; the first end of sequence is part of a response.
        mask: True where the policy sampled the token.
        ended: Whether an end of sequence came before the limit.
        log_probs: log μ(token) at the sampling temperature; NaN from an engine that does not report them.
        policy_version: Which weights drew the response.
        entropies: H(μ(·|sₜ)); None from an engine that does not report them.
        top_ids: The likeliest tokens at each position; None where they were not asked for.
        top_log_probs: Their log-probs.

    Raises:
        UsageError: If the mask is not boolean, the shape of another field does not fit it, ids are not integers, or
            a log-prob of a sampled token is above 0.
    """

    ids: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    ended: Bool[Tensor, " batch"]
    log_probs: Float[Tensor, "batch time"]
    policy_version: Int[Tensor, " batch"]
    entropies: Float[Tensor, "batch time"] | None = None
    top_ids: Int[Tensor, "batch time top"] | None = None
    top_log_probs: Float[Tensor, "batch time top"] | None = None

    def __post_init__(self) -> None:
        check_given("Responses", **{field.name: getattr(self, field.name) for field in fields(self) if field.default})
        check_tensors("Responses", **self.tensors())
        check_mask("Responses", mask=self.mask)
        shape = tuple(self.mask.shape)
        for name, tensor in self.tensors().items():
            axes = _AXES.get(name, 2)
            if tensor.ndim != axes or tuple(tensor.shape[:2]) != shape[:axes]:
                expected = (*shape[:axes], "*") if axes > 2 else shape[:axes]
                raise UsageError(
                    f"Responses: {name} has shape {tuple(tensor.shape)}, mask {shape}; expected {expected}."
                )
        check_device("Responses", **{"mask": self.mask} | self.tensors())
        check_kinds("Responses", self.tensors(), _KINDS)
        check_roles("Responses", self.mask, **self.tensors())

    def __len__(self) -> int:
        return self.mask.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are there, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def widths(self) -> Int[Tensor, " batch"]:
        """Columns up to the last sampled token of each response, holes included; 0 for a response without any.

        Tokens that a tool wrote after the last sampled one are not counted: no decision of the policy followed them.
        """
        if not self.mask.shape[1]:
            return self.mask.sum(-1)
        columns = torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
        return (self.mask * columns).amax(-1)

    def to(self, device: torch.device | str) -> "Responses":
        """Return the same responses on another device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    @classmethod
    def cat(cls, pieces: Sequence["Responses"]) -> "Responses":
        """Join the rows of all pieces, padded to a common width. A field that some piece lacks is left out.

        Raises:
            UsageError: If there is no piece.
        """
        if not pieces:
            raise UsageError("Responses.cat: needs at least one piece, got none.")
        width = max(piece.ids.shape[1] for piece in pieces)
        shared = set.intersection(*(set(piece.tensors()) for piece in pieces))
        joined = {name: torch.cat([_widened(getattr(piece, name), width) for piece in pieces]) for name in shared}
        return cls(**joined)


_KINDS = {field.name: dtype_of(field.type) for field in fields(Responses)}


def _widened(tensor: Tensor, width: int) -> Tensor:
    if tensor.ndim == 1:
        return tensor
    after = (0, 0) * (tensor.ndim - 2) + (0, width - tensor.shape[1])
    return torch.nn.functional.pad(tensor, after)
