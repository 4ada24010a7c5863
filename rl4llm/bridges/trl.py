"""TRL: the batches of `GRPOTrainer` as a `RolloutBatch`, and a subclass of it that trains with our parts."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator
from rl4llm.advantages.whiten import Whiten
from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.bridges.columns import batch_of, column, over_tokens, truth
from rl4llm.bridges.policy_loss import PolicyLoss
from rl4llm.bridges.trl_parts import WITH_PARTS, Parts
from rl4llm.checks import UsageError
from rl4llm.kl import kl_k1
from rl4llm.masked import masked_mean
from rl4llm.objectives.aggregate import SequenceMean
from rl4llm.objectives.base import Aggregator, PolicyObjective
from rl4llm.objectives.ppo_clip import PPOClip
from rl4llm.regularizers.base import Regularizer

_NAMES = {"ref_per_token_logps": "ref_log_probs", "scores": "scores", "group_ids": "group_ids"}
_FORWARD = (  # what TRL's forward pass takes of the inputs beside tokens
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles"),
    *("image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
)
_METHODS = (  # of TRL's trainer, taken over or called
    *("_calculate_rewards", "_generate_and_score_completions", "_compute_loss"),
    "_get_per_token_logps_and_entropies",
)


def rollout_batch(inputs: Mapping[str, Any], *, log_probs: Tensor | None = None) -> RolloutBatch:
    """Return a batch of `GRPOTrainer` as a `RolloutBatch`.

    Columns of numbers and ids are views of TRL's memory; masks of integers become truth values, and one advantage per
    response is repeated over its tokens by a view. `completion_mask` is joined with `tool_mask`. TRL keeps neither
    scores nor groups in its batches: a trainer made by [with_parts][rl4llm.bridges.trl.with_parts] adds them as
    `scores` and `group_ids`.

    Args:
        inputs: What `_generate_and_score_completions` returns, or a part of it as `_compute_loss` is given.
        log_probs: Log-probs of the present policy, which stand for `old_per_token_logps` where TRL leaves them out
            because they are equal; used without gradient.

    Returns:
        The batch. Where TRL holds no `sampling_per_token_logps`, or NaN for a token, `rollout_log_probs` are
        `old_log_probs`.

    Raises:
        UsageError: If a column is missing or has the wrong shape.

    Example:
        >>> ids, mask = torch.tensor([[5, 6]]), torch.tensor([[1, 1]])
        >>> inputs = {"prompt_ids": ids, "prompt_mask": mask, "completion_ids": ids, "completion_mask": mask,
        ...     "advantages": torch.tensor([1.0]), "old_per_token_logps": torch.tensor([[-1.0, -2.0]])}
        >>> rollout_batch(inputs).advantages
        tensor([[1., 1.]])
    """
    by = "bridges.trl.rollout_batch"
    mask = _response_mask(by, inputs)
    remedy = "TRL leaves it out where it equals the log-probs of the present policy: pass these as log_probs"
    present = {} if log_probs is None else {"old_per_token_logps": log_probs.detach()}
    old = column(by, {**present, **inputs}, "old_per_token_logps", remedy)
    sampled = inputs.get("sampling_per_token_logps")
    if sampled is not None and sampled.isnan().any():
        sampled = torch.where(sampled.isnan(), old, sampled)
    found: dict[str, Tensor | None] = {ours: inputs.get(theirs) for theirs, ours in _NAMES.items()}
    return batch_of(
        by,
        mask,
        {
            **found,
            "prompt_ids": column(by, inputs, "prompt_ids"),
            "prompt_mask": truth(column(by, inputs, "prompt_mask")),
            "response_ids": column(by, inputs, "completion_ids"),
            "advantages": over_tokens(column(by, inputs, "advantages"), mask),
            "old_log_probs": old,
            "rollout_log_probs": old if sampled is None else sampled,
        },
    )


def _response_mask(by: str, inputs: Mapping[str, Any]) -> Tensor:
    mask = truth(column(by, inputs, "completion_mask"))
    tools = inputs.get("tool_mask")
    return mask if tools is None else mask & truth(tools)


class PartsMixin:
    """The methods of `GRPOTrainer` that our parts take over; put in front of it by `with_parts`."""

    parts: Parts
    _scores: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for given in (*args, *kwargs.values()):  # before any model is loaded
            if hasattr(given, "steps_per_generation"):
                self.parts.check(given)
        super().__init__(*args, **kwargs)
        trainer: Any = self
        if getattr(trainer, "aux_loss_enabled", False):
            raise UsageError(
                f"{WITH_PARTS}: the parts leave out the auxiliary loss of a mixture of experts; set "
                "GRPOConfig(router_aux_loss_coef=0.0)."
            )

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the weighted sum of the rewards of all processes; NaN where no reward function gave one."""
        trainer: Any = self
        rewards = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        weighted = (rewards * trainer.reward_weights.to(rewards.device)).nansum(-1)
        self._scores = torch.where(rewards.isnan().all(-1), torch.nan, weighted)
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """Put our advantages in place of TRL's, and add scores and groups."""
        trainer: Any = self
        output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        mask = _response_mask(WITH_PARTS, output)
        rows, width = mask.shape
        start = trainer.accelerator.process_index * rows
        own = slice(start, start + rows)
        groups = torch.arange(len(self._scores), device=mask.device) // size
        output |= {"scores": self._scores[own], "group_ids": groups[own]}
        if self.parts.advantage is not None:
            whole = trainer.accelerator.gather(trainer.accelerator.pad_across_processes(mask.int(), dim=1))
            output["advantages"] = self.parts.advantages(self._scores, groups, truth(whole))[own, :width]
        return output

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Return the loss of a microbatch, divided by what the whole optimizer step counts."""
        trainer: Any = self
        policy = self._forward(model, inputs)
        batch = rollout_batch(inputs, log_probs=policy.log_probs)
        weights = inputs.get("importance_sampling_ratio")
        if weights is not None:  # of TRL's correction for vLLM
            (advantages,) = batch.require("advantages", by=WITH_PARTS)
            batch = batch.replace(advantages=advantages * weights)
        (entropies,) = policy.require("entropies", by=WITH_PARTS)
        self._log("entropy", entropies, batch)
        self._log("approximate_kl", kl_k1(batch.old_log_probs, policy.log_probs.detach(), batch.response_mask), batch)
        loss = self.parts.loss_with(trainer.beta)
        return loss(policy, batch, self._normalizers(loss, batch.response_mask))

    def _forward(self, model: Any, inputs: Mapping[str, Any]) -> PolicyOutput:
        trainer: Any = self
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attended = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        given = {name: inputs.get(name) for name in _FORWARD}
        width = inputs["completion_ids"].shape[1]
        log_probs, entropies, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, attended, width, compute_entropy=True, **given
        )
        return PolicyOutput(log_probs, entropies=entropies)

    def _normalizers(self, loss: PolicyLoss, mask: Tensor) -> Tensor:
        """Return what each term counts over the microbatches of this optimizer step and over all processes.

        The processes' gradients are averaged, so the count is that of one process on average.
        """
        trainer: Any = self
        if not trainer.model.training:
            return loss.counts(mask)
        steps, place = trainer.current_gradient_accumulation_steps, trainer._step % trainer.args.steps_per_generation
        first = place - place % steps
        window = trainer._buffered_inputs[first : first + steps]
        counts = torch.stack([loss.counts(_response_mask(WITH_PARTS, one)) for one in window]).sum(0)
        return trainer.accelerator.reduce(counts, reduction="mean")

    def _log(self, name: str, per_token: Tensor, batch: RolloutBatch) -> None:
        trainer: Any = self
        mean = trainer.accelerator.gather(masked_mean(per_token.detach(), batch.response_mask)).mean()
        trainer._metrics["train" if trainer.model.training else "eval"][name].append(mean.item())


Trainer = TypeVar("Trainer")


def with_parts(
    trainer: type[Trainer],
    *,
    objective: PolicyObjective | None = None,
    aggregator: Aggregator | None = None,
    advantage: AdvantageEstimator | None = None,
    whitening: Whiten | None = None,
    regularizers: tuple[Regularizer, ...] = (),
) -> type[Trainer]:
    """Return a subclass of TRL's `GRPOTrainer` whose advantages and loss are computed by our parts.

    Everything else stays TRL's: generation, rewards, logging, devices. `beta` of `GRPOConfig` stays in force as
    `KLPenalty(beta, estimator="k3")` unless a part reads the reference itself. Means are taken over the whole optimizer
    step, whatever its microbatches and processes. A setting of `GRPOConfig` that the parts replace and that is not at
    its default is an error.

    Args:
        trainer: `GRPOTrainer` or a subclass of it that keeps its loss.
        objective: What the policy minimizes; None: `PPOClip()`.
        aggregator: How the losses of tokens become one number; None: `SequenceMean()`.
        advantage: Estimator that needs scores, masks and groups alone; None: TRL's own advantages.
        whitening: Whether and how its advantages are whitened.
        regularizers: Penalties beside the objective.

    Returns:
        The subclass, to be built as `GRPOTrainer` is.

    Raises:
        UsageError: If the class is no `GRPOTrainer`, or a part needs what TRL does not pass.

    Example:
        >>> from rl4llm.advantages import LeaveOneOut
        >>> class GRPOTrainer:  # from trl import GRPOTrainer
        ...     def _compute_loss(self, model, inputs): ...
        ...     def _generate_and_score_completions(self, inputs): ...
        ...     def _calculate_rewards(self, *inputs): ...
        ...     def _get_per_token_logps_and_entropies(self, *inputs): ...
        >>> with_parts(GRPOTrainer, advantage=LeaveOneOut()).__name__
        'GRPOTrainerWithParts'
    """
    missing = [name for name in _METHODS if not hasattr(trainer, name)]
    if missing:
        raise UsageError(
            f"{WITH_PARTS}: {trainer.__name__} has no method {missing[0]}; pass TRL's GRPOTrainer or a subclass of it."
        )
    loss = PolicyLoss(objective or PPOClip(), aggregator or SequenceMean(), tuple(regularizers))
    parts = Parts(loss, advantage, whitening)
    return type(f"{trainer.__name__}WithParts", (PartsMixin, trainer), {"parts": parts})
