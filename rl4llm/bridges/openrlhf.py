"""OpenRLHF: `Experience` as a `RolloutBatch`, our objectives as its `PolicyLoss`, our estimators in its maker."""

from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl4llm.advantages.base import AdvantageEstimator
from rl4llm.advantages.whiten import Whiten
from rl4llm.batch import PolicyOutput, RolloutBatch, place_scores
from rl4llm.borders import checked_advantages, checked_whitened
from rl4llm.bridges.columns import batch_of, column, truth
from rl4llm.bridges.policy_loss import PolicyLoss, check_reads
from rl4llm.checks import UsageError, check_at_least
from rl4llm.kl import kl_k1
from rl4llm.masked import keep, masked_mean
from rl4llm.objectives.aggregate import TokenMean
from rl4llm.objectives.base import Aggregator, PolicyObjective

_NAMES = {
    "action_log_probs": "old_log_probs",
    "base_action_log_probs": "ref_log_probs",
    "rollout_log_probs": "rollout_log_probs",
    "values": "values",
    "returns": "returns",
    "advantages": "advantages",
    "rewards": "scores",
}


def rollout_batch(experience: Any, *, samples_per_prompt: int | None = None) -> RolloutBatch:
    """Return an `Experience` as a `RolloutBatch`.

    Columns of numbers and ids are views of OpenRLHF's memory; masks of integers become truth values. OpenRLHF's actions
    are all tokens after the first, so the response columns hold the prompt too, outside the mask. Its `rewards`, one
    per response, are our scores. Where `rollout_log_probs` are missing they are `action_log_probs`.

    Args:
        experience: An `Experience`, or any object with its attributes.
        samples_per_prompt: `rollout.n_samples_per_prompt`, by which `index` is divided to give the groups; None: every
            response is a group of its own.

    Returns:
        The batch.

    Raises:
        UsageError: If `sequences` or `action_mask` are missing, or a column has the wrong shape.

    Example:
        >>> from types import SimpleNamespace
        >>> ids, ones = torch.tensor([[7, 5, 6]]), torch.ones(1, 3, dtype=torch.long)
        >>> mask = torch.tensor([[0, 1]])
        >>> rollout_batch(SimpleNamespace(sequences=ids, attention_mask=ones, action_mask=mask)).response_ids
        tensor([[5, 6]])
    """
    by = "bridges.openrlhf.rollout_batch"
    columns = {name: value for name, value in vars(experience).items() if value is not None}
    mask = truth(column(by, columns, "action_mask"))
    sequences, width = column(by, columns, "sequences"), mask.shape[1]
    found: dict[str, Tensor | None] = {ours: columns.get(theirs) for theirs, ours in _NAMES.items()}
    if found["rollout_log_probs"] is None:
        found["rollout_log_probs"] = found["old_log_probs"]
    if "truncated" in columns:
        found["truncated"] = truth(columns["truncated"])
    if samples_per_prompt is not None:
        check_at_least(by, 1, samples_per_prompt=samples_per_prompt)
        index = torch.tensor(_numbers(by, columns), device=mask.device)
        found["group_ids"] = index // samples_per_prompt
    prompt = {
        "prompt_ids": sequences[:, :-width],
        "prompt_mask": truth(column(by, columns, "attention_mask")[:, :-width]),
    }
    return batch_of(by, mask, {**found, **prompt, "response_ids": sequences[:, -width:]})


def _numbers(by: str, columns: dict[str, Any]) -> list[int]:
    """The numbers of an experience's responses."""
    if not columns.get("index"):
        raise UsageError(
            f"{by}: the experience has no `index`, which numbers its responses until OpenRLHF has computed "
            "advantages; pass an experience of make_experience, or leave samples_per_prompt at None."
        )
    return list(columns["index"])


class ObjectiveLoss(nn.Module):
    """An objective with the arguments and results of OpenRLHF's `PolicyLoss`, to take its place as `actor_loss_fn`.

    Args:
        objective: What the policy minimizes.
        aggregator: How the losses of tokens become one number; None: `TokenMean()`, OpenRLHF's default.

    Raises:
        UsageError: If the objective needs what OpenRLHF does not pass.

    Example:
        >>> from rl4llm.objectives import CISPO
        >>> loss, zeros = ObjectiveLoss(CISPO()), torch.zeros(1, 2)
        >>> loss(zeros - 1, zeros - 1, zeros + 1, torch.ones(1, 2, dtype=torch.bool))[0]
        tensor(1.)
    """

    def __init__(self, objective: PolicyObjective, aggregator: Aggregator | None = None) -> None:
        super().__init__()
        self.loss = PolicyLoss(objective, aggregator or TokenMean())
        self.loss.check("bridges.openrlhf.ObjectiveLoss", ("advantages", "old_log_probs"), ())

    def forward(
        self,
        log_probs: Float[Tensor, "batch time"],
        old_log_probs: Float[Tensor, "batch time"],
        advantages: Float[Tensor, "batch time"],
        action_mask: Tensor,
        rollout_log_probs: Float[Tensor, "batch time"] | None = None,
        dp_size: int = 1,
        batch_num_tokens: Any = None,
        global_batch_size: Any = None,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return the loss of a microbatch and what OpenRLHF logs beside it.

        Args:
            log_probs: log π_θ(yₜ), with gradient.
            old_log_probs: log π_old(yₜ).
            advantages: Aₜ.
            action_mask: 1 at trained tokens.
            rollout_log_probs: log μ(yₜ), for objectives that compare with the sampling engine.
            dp_size: Number of processes whose gradients are averaged.
            batch_num_tokens: Tokens of the whole optimizer step; None: of this microbatch.
            global_batch_size: Responses of the whole optimizer step; None: of this microbatch.

        Returns:
            The loss, the share of tokens whose gradient the objective drops, the mean of log π_old − log π_θ, and two
            numbers of OpenRLHF's correction, which are None.

        Raises:
            UsageError: If the objective needs `rollout_log_probs` and they are None, or a shape is wrong.
        """
        by, mask = "bridges.openrlhf.ObjectiveLoss", truth(action_mask)
        if rollout_log_probs is None and self.loss.reads_rollout_log_probs:
            raise UsageError(
                f"{by}: {type(self.loss.objective).__name__} reads rollout_log_probs, got None; choose another "
                "objective or let vLLM report them."
            )
        given = {"advantages": advantages, "old_log_probs": old_log_probs, "rollout_log_probs": rollout_log_probs}
        batch = batch_of(by, mask, given)
        of_tokens = isinstance(self.loss.aggregator, TokenMean) and self.loss.objective.level == "token"
        count = batch_num_tokens if of_tokens else global_batch_size
        loss = self.loss(PolicyOutput(log_probs), batch, None if count is None else [count]) * dp_size
        divergence = masked_mean(kl_k1(old_log_probs, log_probs.detach(), mask), mask)
        return loss, self._dropped(log_probs, batch), divergence, None, None

    def _dropped(self, log_probs: Tensor, batch: RolloutBatch) -> Tensor:
        """Share of the trained tokens with an advantage that get no gradient."""
        (advantages,) = batch.require("advantages", by="bridges.openrlhf.ObjectiveLoss")
        with torch.enable_grad():
            leaf = log_probs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.loss(PolicyOutput(leaf), batch), leaf)
        counted = batch.response_mask & (keep(advantages, batch.response_mask) != 0)
        return masked_mean((slope == 0).float(), counted)


Maker = TypeVar("Maker")


def with_advantage(
    maker: type[Maker], estimator: AdvantageEstimator, *, whitening: Whiten | None = None
) -> type[Maker]:
    """Return a subclass of OpenRLHF's experience maker whose advantages and returns are ours.

    OpenRLHF's own length penalties, reward clip and KL charge in the reward stay in force. Groups are compared over the
    whole rollout, not over its microbatches.

    Args:
        maker: `RemoteExperienceMaker`.
        estimator: Any estimator that needs rewards, masks, groups and values.
        whitening: Whether and how its advantages are whitened over the rollout.

    Returns:
        The subclass.

    Raises:
        UsageError: If the class is no experience maker, or the estimator reads what OpenRLHF does not hold.

    Example:
        >>> from rl4llm.advantages import GroupRelative
        >>> class RemoteExperienceMaker:  # from openrlhf.trainer.ppo_utils.experience_maker
        ...     def compute_advantages_and_returns(self, experiences): ...
        >>> with_advantage(RemoteExperienceMaker, GroupRelative()).__name__
        'RemoteExperienceMakerWithAdvantage'
    """
    by = "bridges.openrlhf.with_advantage"
    check_reads(by, estimator, ("values",))
    if not hasattr(maker, "compute_advantages_and_returns"):
        raise UsageError(
            f"{by}: {maker.__name__} has no method compute_advantages_and_returns; pass RemoteExperienceMaker."
        )
    return type(f"{maker.__name__}WithAdvantage", (_Maker, maker), {"estimator": estimator, "whitening": whitening})


class _Maker:
    """The method of the experience maker that an estimator takes over."""

    estimator: AdvantageEstimator
    whitening: Whiten | None

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Any]) -> list[Any]:
        """Let OpenRLHF shape the rewards and log, then put our advantages and returns in place of its own."""
        maker: Any = self
        size = maker.args.rollout.n_samples_per_prompt
        charges = [None if one.kl is None else maker.kl_ctl.value * one.kl for one in experiences]
        super().compute_advantages_and_returns(experiences)  # type: ignore[misc]
        pieces = [rollout_batch(one, samples_per_prompt=size) for one in experiences]
        bounds = maker.args.reward.clip_range
        pieces = [_shaped(piece, charge, bounds) for piece, charge in zip(pieces, charges, strict=True)]
        batch = RolloutBatch.cat([piece.replace(advantages=None, returns=None) for piece in pieces])
        advantages, returns = checked_advantages(self.estimator, batch)
        if self.whitening is not None:
            advantages = checked_whitened(self.whitening, advantages, batch)
        rows = [len(piece) for piece in pieces]
        targets = advantages if returns is None else returns
        for one, piece, own, target in zip(
            experiences, pieces, advantages.split(rows), targets.split(rows), strict=True
        ):
            width = piece.response_mask.shape[1]
            one.advantages, one.returns = own[:, :width], target[:, :width]
        return experiences


def _shaped(batch: RolloutBatch, charge: Tensor | None, bounds: tuple[float, float] | None) -> RolloutBatch:
    """The batch with scores clipped as OpenRLHF does, and its charge taken off the rewards of tokens."""
    scores = batch.scores.clamp(*bounds) if bounds else batch.scores
    rewards = place_scores(scores, batch.response_mask)
    if charge is not None:
        rewards = rewards - keep(charge, batch.response_mask)
    return batch.replace(scores=scores, rewards=rewards)
