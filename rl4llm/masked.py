"""The only masked reductions of the library, and their dtypes. A value where the mask is False is never read."""

from functools import reduce

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from rl4llm.checks import check_device, check_interval, check_mask, check_ndim, check_response_tensors, check_same_shape


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 or wider; integers and booleans become float32."""
    return x if x.dtype == torch.float64 else x.float()


def keep(x: Num[Tensor, "*axes"], mask: Bool[Tensor, "*axes"], fill: float = 0.0) -> Num[Tensor, "*axes"]:
    """`x` where the mask is True, `fill` elsewhere; no gradient and no NaN passes where it is False.

    Example:
        >>> keep(torch.tensor([1.0, float("nan")]), torch.tensor([True, False]))
        tensor([1., 0.])
    """
    check_mask("keep", mask=mask)
    check_same_shape("keep", x=x, mask=mask, remedy="pass one truth value per entry")
    return torch.where(mask, x, torch.full((), fill, dtype=x.dtype, device=x.device))


def spread(per_response: Float[Tensor, " batch"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Repeat one number per response over its tokens; 0 where the mask is False.

    Example:
        >>> spread(torch.tensor([1.0, 2.0]), torch.tensor([[True, False], [True, True]]))
        tensor([[1., 0.],
                [2., 2.]])
    """
    check_mask("spread", mask=mask)
    check_ndim("spread", 2, axes="batch time", mask=mask)
    check_ndim("spread", 1, axes="batch", per_response=per_response)
    check_device("spread", mask=mask, per_response=per_response)
    check_response_tensors("spread", mask, per_response=per_response)
    return keep(per_response[:, None].expand(mask.shape), mask)


def result_dtype(*inputs: Tensor) -> torch.dtype:
    """Return the floating dtype of results for these inputs; float32 if none of them is floating.

    Example:
        >>> result_dtype(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.long))
        torch.bfloat16
    """
    dtype = reduce(torch.promote_types, [x.dtype for x in inputs])
    return dtype if dtype.is_floating_point else torch.float32


def _checked(by: str, x: Tensor, mask: Tensor) -> Tensor:
    check_mask(by, mask=mask)
    check_mask(by, mask=mask)
    check_same_shape(by, x=x, mask=mask, remedy="pass one truth value per entry")
    return keep(at_least_float32(x), mask)


def masked_sum(x: Num[Tensor, "*axes"], mask: Bool[Tensor, "*axes"], *, dim: int | None = None) -> Float[Tensor, "..."]:
    """Σ x over the entries where the mask is True, in float32 or wider; 0 over none.

    Args:
        x: Values, read only where `mask` is True.
        mask: Which entries count.
        dim: Axis to reduce; all of them when None.

    Returns:
        The sum, in float32 (float64 for float64 input). Gradient reaches counted entries only.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> masked_sum(torch.tensor([[1.0, 2.0], [4.0, float("nan")]]), torch.tensor([[True, True], [True, False]]))
        tensor(7.)
    """
    kept = _checked("masked_sum", x, mask)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(
    x: Num[Tensor, "*axes"], mask: Bool[Tensor, "*axes"], *, dim: int | None = None
) -> Float[Tensor, "..."]:
    """Mean over the entries where the mask is True; 0 where there are none.

        x̄ = Σ m x / Σ m

    Arguments, result and errors as in [masked_sum][].

    Example:
        >>> masked_mean(torch.tensor([[1.0, 2.0], [4.0, 9.0]]), torch.tensor([[True, True], [False, False]]), dim=1)
        tensor([1.5000, 0.0000])
    """
    kept = _checked("masked_mean", x, mask)
    total = kept.sum() if dim is None else kept.sum(dim)
    count = mask.sum() if dim is None else mask.sum(dim)
    return total / count.clamp(min=1)


def masked_var(
    x: Num[Tensor, "*axes"], mask: Bool[Tensor, "*axes"], *, dim: int | None = None, unbiased: bool = True
) -> Float[Tensor, "..."]:
    """Variance over the entries where the mask is True; 0 where fewer than two count, exactly 0 where all are equal.

        s² = Σ m (x − x̄)² / (Σ m − 1)        (Σ m in place of Σ m − 1 when `unbiased` is False)

    Arguments, result and errors as in [masked_sum][].

    Example:
        >>> masked_var(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False]))
        tensor(2.)
    """
    kept = _checked("masked_var", x, mask)
    axes = tuple(range(x.ndim)) if dim is None else (dim,)
    if kept.numel() == 0:
        return kept.sum(axes)
    count = mask.sum(axes, keepdim=True)
    mean = kept.sum(axes, keepdim=True) / count.clamp(min=1)
    squares = keep((kept - mean) ** 2, mask).sum(axes)
    constant = (kept == _any_counted(kept, mask, axes)) | ~mask
    varies = ~constant.all(dim=axes[0]) if dim is not None else ~constant.all()
    variance = squares / (count.sum(axes) - int(unbiased)).clamp(min=1)
    return torch.where(varies, variance, torch.zeros_like(variance))


def _any_counted(kept: Tensor, mask: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest counted entry along the axes, kept as broadcastable axes (0 where none counts)."""
    largest = keep(kept.detach(), mask, -torch.inf).amax(axes, keepdim=True)
    return torch.where(largest.isneginf(), torch.zeros_like(largest), largest)


def masked_quantile(x: Num[Tensor, "*axes"], mask: Bool[Tensor, "*axes"], q: float) -> Float[Tensor, ""]:
    """Quantile `q` of all entries where the mask is True, interpolated linearly; 0 over none.

    Args:
        x: Values, read only where `mask` is True.
        mask: Which entries count.
        q: In [0, 1].

    Returns:
        A scalar in float32 or wider.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or q is outside [0, 1].

    Example:
        >>> masked_quantile(torch.tensor([1.0, 2.0, 3.0, 99.0]), torch.tensor([True, True, True, False]), 0.5)
        tensor(2.)
    """
    check_interval("masked_quantile", 0.0, 1.0, q=q)
    values = _checked("masked_quantile", x, mask)[mask].sort().values
    if values.numel() == 0:
        return values.sum()
    position = q * (values.numel() - 1)
    low = int(position)
    high = min(low + 1, values.numel() - 1)
    return torch.lerp(values[low], values[high], position - low)
