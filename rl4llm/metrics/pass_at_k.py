"""The chance that at least one of k responses is correct."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from rl4llm.checks import UsageError, check_at_least, check_integers, check_same_shape


def pass_at_k_rate(
    correct: Int[Tensor, " group"], responses: Int[Tensor, " group"], *, k: int
) -> Float[Tensor, " group"]:
    """Unbiased estimate, for each prompt, of the chance that one of k fresh responses is correct.

        pass@k = 1 − C(n − c, k) / C(n, k) = 1 − Π over i < k of (n − c − i) / (n − i)

    Args:
        correct: c, correct responses of each prompt.
        responses: n ≥ k, responses of each prompt.
        k: How many responses one may try.

    Returns:
        A rate in [0, 1] for each prompt, float64.

    Raises:
        UsageError: If k < 1 or some prompt has fewer than k responses.

    Example:
        >>> pass_at_k_rate(torch.tensor([1, 0, 4]), torch.tensor([4, 4, 4]), k=2)
        tensor([0.5000, 0.0000, 1.0000], dtype=torch.float64)

    References:
        Chen et al., 2021. arXiv:2107.03374, eq. 1.
    """
    check_at_least("pass_at_k_rate", 1, k=k)
    check_same_shape("pass_at_k_rate", correct=correct, responses=responses, remedy="pass one count a prompt")
    check_integers("pass_at_k_rate", correct=correct, responses=responses)
    if responses.numel() and int(responses.min()) < k:
        raise UsageError(f"pass_at_k_rate: k={k} needs {k} responses a prompt, one has {int(responses.min())}.")
    i = torch.arange(k, device=correct.device, dtype=torch.float64)[:, None]
    wrong = (responses - correct).double()
    return 1.0 - ((wrong - i).clamp(min=0) / (responses - i)).prod(0)


class PassAtK(Metric):
    """Mean pass@k over prompts, on any number of ranks. See [pass_at_k_rate][].

    Args:
        k: How many responses one may try.
        options: Options of every torchmetrics `Metric`.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    prompts: Tensor

    def __init__(self, k: int, **options: Any) -> None:
        super().__init__(**options)
        check_at_least("PassAtK", 1, k=k)
        self.k = k
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("prompts", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, correct: Tensor, responses: Tensor) -> None:
        """Add prompts by their counts of correct and of all scored responses; those with fewer than k are left out."""
        counted = responses >= self.k
        self.total += pass_at_k_rate(correct[counted], responses[counted], k=self.k).sum()
        self.prompts += counted.sum()

    def compute(self) -> Tensor:
        """The mean; 0 before any prompt."""
        return (self.total / self.prompts.clamp(min=1)).float()
