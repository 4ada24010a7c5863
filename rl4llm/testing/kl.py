"""Exact expectations of estimates of the KL divergence: a small categorical policy, no sampling error."""

from dataclasses import fields, replace
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.regularizers import Regularizer
from rl4llm.testing.bias import all_tuples
from rl4llm.testing.laws import Law, close


def kl_divergence(
    logits: Float[Tensor, " arm"], ref_logits: Float[Tensor, " arm"], *, reverse: bool = False
) -> tuple[Float[Tensor, ""], Float[Tensor, " arm"]]:
    """KL(π‖π_ref), or KL(π_ref‖π), and its gradient with respect to the logits of π.

    Example:
        >>> kl_divergence(torch.tensor([1.0, 0.0]), torch.zeros(2))
        (tensor(0.1109), tensor([ 0.1966, -0.1966]))
    """
    leaf = logits.detach().clone().requires_grad_()
    new, ref = leaf.log_softmax(-1), ref_logits.log_softmax(-1)
    value = (ref.exp() * (ref - new)).sum() if reverse else (new.exp() * (new - ref)).sum()
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def expected_kl(
    part: Regularizer, logits: Float[Tensor, " arm"], ref_logits: Float[Tensor, " arm"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " arm"]]:
    """Mean of an estimate over the tokens of π, and the mean of its gradient, which is what a penalty in the loss does.

        Σₐ π(a) k(a)        Σₐ π(a) ∇k(a)

    Args:
        part: The estimate; its coefficient is taken for 1 and its gate for none.
        logits: Of π.
        ref_logits: Of π_ref.

    Returns:
        The expected value, and the expected gradient with respect to the logits.

    Example:
        >>> from rl4llm.regularizers import KLPenalty
        >>> expected_kl(KLPenalty(estimator="k2"), torch.tensor([1.0, 0.0]), torch.zeros(2))[1]
        tensor([ 0.1966, -0.1966])
    """
    changes = {"coef": 1.0, "where": None}
    names = [field.name for field in fields(part)]  # type: ignore[arg-type]
    part = replace(part, **{name: changes[name] for name in names if name in changes})  # type: ignore[type-var]
    batch, probabilities = all_tuples(logits, torch.zeros_like(logits), 1)
    batch = batch.replace(ref_log_probs=ref_logits.log_softmax(-1)[:, None])
    leaf = logits.detach().clone().requires_grad_()
    estimates = part(PolicyOutput(log_probs=leaf.log_softmax(-1)[:, None]), batch)[:, 0]
    (gradient,) = torch.autograd.grad((probabilities * estimates).sum(), leaf)
    return (probabilities * estimates).sum().detach(), gradient


def estimate_as_declared(part: Any, batch: RolloutBatch, random: Random) -> None:
    """The expected value and gradient of an estimate of the KL divergence are what it declares."""
    if part.kl_value is None and part.kl_gradient is None:
        return
    logits, ref_logits = (torch.tensor([random.uniform(-2, 2) for _ in range(4)]).double() for _ in range(2))
    (value, gradient), (true, slope) = expected_kl(part, logits, ref_logits), kl_divergence(logits, ref_logits)
    if part.kl_value == "exact":
        close(value, true, "the expected value")
    slopes = {
        "exact": slope,
        "reverse": kl_divergence(logits, ref_logits, reverse=True)[1],
        "none": torch.zeros_like(slope),
    }
    if part.kl_gradient in slopes:
        close(
            gradient, slopes[part.kl_gradient], f"the gradient is declared {part.kl_gradient!r}, and in expectation it"
        )


KL = (
    Law(
        "the KL estimate is as declared",
        estimate_as_declared,
        "k2 has the gradient of KL(π‖π_ref), k3 that of the other direction, k1 none; declare kl_value and kl_gradient",
    ),
)
