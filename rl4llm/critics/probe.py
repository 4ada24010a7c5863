"""`CrossRolloutProbe`: baselines predicted from the policy's hidden states on sibling responses (POISE)."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_device, check_interval, check_mask, check_range
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.ridge import RidgeFit, ridge_fit, ridge_predict
from rl4llm.critics.siblings import check_siblings, leave_one_out_mean
from rl4llm.groups import group_count
from rl4llm.masked import at_least_float32, keep, masked_mean, masked_var, spread
from rl4llm.models.sources import config_of
from rl4llm.models.states import layer_index
from rl4llm.states import PolicyStates

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy

NAN = float("nan")


def last_mean(
    states: Float[Tensor, "batch time width"], mask: Bool[Tensor, "batch time"], span: int
) -> Float[Tensor, "batch width"]:
    """Average the last `span` states where the mask is True; fewer if there are fewer, 0 if there are none.

    Example:
        >>> states = torch.tensor([[[1.0], [2.0], [torch.nan], [4.0]]])
        >>> last_mean(states, torch.tensor([[True, True, False, True]]), 2)
        tensor([[3.]])
    """
    later = mask.flip(-1).cumsum(-1).flip(-1)  # how many True from here on
    chosen = mask & (later <= span)
    kept = keep(at_least_float32(states), chosen[..., None].expand(states.shape))
    return kept.sum(1) / chosen.sum(-1, keepdim=True).clamp(min=1)


@torch.no_grad()
def probe_features(
    states: PolicyStates,
    prompt_mask: Bool[Tensor, "batch prompt"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    span: int = 10,
) -> Float[Tensor, "batch feature"]:
    """Compute the features of each response for a probe: 2d + 3 numbers for a policy of width d.

        φ = [mean of the last `span` prompt states; mean of the last `span` states at trained tokens;
             mean, standard deviation and maximum of the entropies of the trained tokens]

    Tokens that are not trained (tool output) are passed over; a response without trained tokens has zeros behind its
    prompt. The standard deviation is that of the population. Our reading: the paper says three statistics of the
    entropies. In its authors' code they are means over the response, its reasoning and its answer, but a response is
    not divided here.

    Args:
        states: Hidden states of one layer, and entropies in nats; read only where the masks are True.
        prompt_mask: True at prompt tokens.
        response_mask: True at trained tokens.
        span: How many tokens, at least 1.

    Returns:
        φ in float32 or wider, without graph.

    Raises:
        UsageError: If the states and a mask differ in rows or tokens, a mask is not boolean, or `span` is below 1.

    Example:
        >>> two, mask = torch.tensor([[[1.0], [3.0]]]), torch.ones(1, 2, dtype=torch.bool)
        >>> probe_features(PolicyStates(two, 2 * two, torch.tensor([[0.0, 1.0]])), mask, mask, span=1)
        tensor([[3.0000, 6.0000, 0.5000, 0.5000, 1.0000]])

    References:
        Choi et al., 2026 (POISE). arXiv:2605.07579; states at the tokens themselves as in the authors' code.
    """
    check_at_least("probe_features", 1, span=span)
    _check_mask(states.prompt, prompt_mask=prompt_mask)
    _check_mask(states.response, response_mask=response_mask)
    entropies = keep(at_least_float32(states.entropies), response_mask)
    largest = entropies.amax(-1) if response_mask.shape[1] else entropies.sum(-1)
    deviation = masked_var(entropies, response_mask, dim=-1, unbiased=False).sqrt()
    statistics = torch.stack([masked_mean(entropies, response_mask, dim=-1), deviation, largest], -1)
    ends = [last_mean(states.prompt, prompt_mask, span), last_mean(states.response, response_mask, span)]
    return torch.cat([*ends, statistics.to(ends[0].dtype)], -1)


def _check_mask(states: Tensor, **masks: Tensor) -> None:
    check_mask("probe_features", **masks)
    for name, mask in masks.items():
        check_device("probe_features", states=states, **{name: mask})
        if mask.shape != states.shape[:2]:
            raise UsageError(
                f"probe_features: {name} has shape {tuple(mask.shape)}, the states {tuple(states.shape)}; pass one "
                "truth value per state."
            )


@dataclass(frozen=True)
class CrossRolloutProbe(ValueSpec):
    """Linear probe of the policy's hidden states on the siblings of a response (POISE, arXiv:2605.07579).

        bᵢ = mean over j ≠ i of clip(g(φⱼ), low, high)          target of φⱼ: mean over k ≠ j of Rₖ

    i, j and k are responses to one prompt, φ is [probe_features][], g is [ridge_fit][] on the recent batches: with two
    responses, bᵢ = g(φⱼ) and the target of φⱼ is Rᵢ. Response i has no say in bᵢ, which is one number for all of its
    tokens, so take `GAE(lam=1.0)`: the advantage is R − bᵢ. A batch is judged by the g of earlier ones and fitted
    afterwards; before the first fit bᵢ is the mean score of the siblings (RLOO). A critic costs a model, a probe one
    forward pass without gradient.

    Args:
        layer: Whose states are read: a share of the policy's layers (0.5: the middle one), or a whole number that
            counts them from 1; 0 are the embeddings, −1 is the last. The paper reads layer 19.
        span: How many tokens at the end of the prompt, and of the response, the states are averaged over.
        ridge: Penalty of the regression, above 0.
        window: How many batches g is fitted on, the newest ones; 8 are as many rows as the authors' code keeps.
        bootstrap: How many batches are judged by the mean score of the siblings before g is; 16 in the authors' code.
        low: Least score.
        high: Greatest score.
    """

    layer: int | float = 0.5
    span: int = 10
    ridge: float = 0.01
    window: int = 8
    bootstrap: int = 1
    low: float = 0.0
    high: float = 1.0
    sees_scores: ClassVar[bool] = True
    values_states: ClassVar[bool] = False
    paper: ClassVar[str] = "2605.07579"

    def __post_init__(self) -> None:
        check_interval("CrossRolloutProbe", layer=self.layer)
        check_at_least("CrossRolloutProbe", 1, span=self.span, window=self.window, bootstrap=self.bootstrap)
        check_interval("CrossRolloutProbe", 0.0, ends="()", ridge=self.ridge)
        check_range("CrossRolloutProbe", low=self.low, high=self.high)

    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise if a response has no siblings, or the policy has no such layer."""
        check_siblings("CrossRolloutProbe", responses_per_prompt)
        layers = getattr(config_of(source).get_text_config(), "num_hidden_layers", None)
        if layers is not None:
            layer_index("CrossRolloutProbe", self.layer, layers)

    def build(self, source: "ModelSource", policy: "Policy | None" = None) -> "CrossRolloutProbeSource":
        """Return an unfitted probe."""
        return CrossRolloutProbeSource(self)


class CrossRolloutProbeSource(ValueSource):
    """The fitted probe g, with the features and targets of recent batches on the CPU.

    Args:
        choice: Its hyperparameters.
    """

    reads_scores: ClassVar[bool] = True

    def __init__(self, choice: CrossRolloutProbe) -> None:
        super().__init__()
        self.choice = choice
        self.fit: RidgeFit | None = None
        self.batches = 0  # learned from
        self.window: deque[tuple[Tensor, Tensor]] = deque(maxlen=choice.window)  # features, targets
        self._read: tuple[Tensor, Tensor] | None = None  # ids by which a batch is known again, and its features

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with bᵢ as `values` at every token of response i, from the probe of earlier batches."""
        features = self._features(batch, context)
        self._read = (batch.response_ids, features)
        outcomes, groups = batch.outcomes, batch.group_ids
        means = leave_one_out_mean(outcomes, groups)
        baselines = means if self.fit is None else self._predictions(self.fit, features, batch)
        for name, b in (("probe_error", baselines), ("siblings_error", means)):
            context.log(name, masked_mean((outcomes - b).square(), ~outcomes.isnan()))
        return batch.replace(values=spread(baselines.to(batch.rewards.dtype), batch.response_mask))

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Add the batch to the window and fit the probe to it.

        The features are those that `values` read, of the policy before it stepped. Responses without a scored sibling
        have no target; those without trained tokens, and replayed ones, do not count.
        """
        known = self._read is not None and self._read[0] is batch.response_ids
        features = self._read[1] if self._read is not None and known else self._features(batch, context)
        self._read = None
        counted = batch.lengths > 0 if batch.replayed is None else (batch.lengths > 0) & ~batch.replayed
        scores = torch.where(counted, batch.outcomes.double(), NAN)
        targets = torch.where(counted, _mean_of_siblings(scores, batch.group_ids, NAN), NAN).cpu()
        rows = ~targets.isnan()
        self.window.append((features.cpu()[rows], targets[rows]))
        self.batches += 1
        if self.batches >= self.choice.bootstrap and any(len(y) for _, y in self.window):
            phi, y = (torch.cat(list(x)) for x in zip(*self.window, strict=True))
            self.fit = ridge_fit(phi, y, ridge=self.choice.ridge)

    def _features(self, batch: RolloutBatch, context: ValueContext) -> Float[Tensor, "batch feature"]:
        def read(states: PolicyStates, rows: RolloutBatch) -> Tensor:
            return probe_features(states, rows.prompt_mask, rows.response_mask, span=self.choice.span)

        return context.states(read, batch, self.choice.layer)

    def _predictions(self, fit: RidgeFit, features: Tensor, batch: RolloutBatch) -> Float[Tensor, " batch"]:
        """Average the siblings' predictions; the mean target for a response without siblings."""
        low, high = self.choice.low, self.choice.high
        said = ridge_predict(fit, features.cpu()).clamp(low, high).to(batch.rewards.device)
        said = torch.where(batch.lengths > 0, said, NAN)
        return _mean_of_siblings(said, batch.group_ids, fit.intercept.clamp(low, high).item())

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores: the window, the probe, and the number of batches."""
        pieces = list(zip(*self.window, strict=True)) or [(), ()]
        features, targets = (torch.cat(list(x)) if x else torch.zeros(0) for x in pieces)
        sizes = torch.tensor([len(y) for _, y in self.window], dtype=torch.long)
        window = {"features": features, "targets": targets, "sizes": sizes, "batches": torch.tensor(self.batches)}
        return window | ({} if self.fit is None else self.fit._asdict())

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the window and the probe of a checkpoint."""
        sizes = state["sizes"].tolist()
        pieces = (state[name].cpu().clone().split(sizes) if sizes else () for name in ("features", "targets"))
        self.window = deque(zip(*pieces, strict=True), maxlen=self.choice.window)
        self.batches, self._read = int(state["batches"]), None
        known = "weights" in state
        self.fit = RidgeFit(*(state[name].cpu().clone() for name in RidgeFit._fields)) if known else None


def _mean_of_siblings(
    x: Float[Tensor, " batch"], group_ids: Int[Tensor, " batch"], default: float
) -> Float[Tensor, " batch"]:
    """Average x over the other rows of each group, NaN left out; the default if no row is left."""
    known = ~x.isnan()
    others = group_count(group_ids, known) - known.float() > 0
    return torch.where(others, leave_one_out_mean(x, group_ids), default)
