"""One training step on a synthetic rollout batch: a policy and its critics, of which every size can be chosen."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rl4llm.advantages import gae
from rl4llm.algorithms.microbatches import accumulate_gradients, cut_by_tokens
from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.critics import ValueModel
from rl4llm.models import Policy
from rl4llm.models.tiny import TinyQwen3
from rl4llm.objectives import PPOClip, SequenceMean
from rl4llm.regularizers import EntropyBonus
from rl4llm.value_losses import value_loss


@dataclass(frozen=True)
class Sizes:
    """Sizes of a rollout batch and of the models.

    Args:
        response: Tokens of each response.
        prompt: Tokens of each prompt.
        vocabulary: Tokens that the models know.
        critics: Number of critics, each as large as the policy.
        copies: Responses per prompt.
        prompts: Number of prompts.
        budget: Most tokens of one forward pass.
    """

    response: int = 256
    prompt: int = 64
    vocabulary: int = 1024
    critics: int = 1
    copies: int = 4
    prompts: int = 2
    budget: int = 2048


def models(sizes: Sizes) -> tuple[Policy, list[ValueModel]]:
    """Return the policy and its critics: two layers of width 64 with random weights."""
    context = sizes.prompt + sizes.response
    model, tokenizer = TinyQwen3(hidden_size=64, layers=2, heads=2, key_value_heads=1, context=context).build()
    model.resize_token_embeddings(sizes.vocabulary, mean_resizing=False)
    policy = Policy(model, tokenizer)
    return policy, [ValueModel.load(policy, seed=seed) for seed in range(sizes.critics)]


def rollout(sizes: Sizes) -> RolloutBatch:
    """Return random responses of equal length to random prompts of equal length."""
    random, rows = torch.Generator().manual_seed(0), sizes.prompts * sizes.copies
    ids = torch.randint(2, sizes.vocabulary, (rows, sizes.prompt + sizes.response), generator=random)
    groups = torch.arange(rows) // sizes.copies
    prompts, responses = ids[groups * sizes.copies, : sizes.prompt], ids[:, sizes.prompt :]
    mask, scores = torch.ones_like(responses, dtype=torch.bool), torch.rand(rows, generator=random)
    log_probs = torch.full(mask.shape, -math.log(sizes.vocabulary))
    return RolloutBatch(
        prompt_ids=prompts,
        prompt_mask=torch.ones_like(prompts, dtype=torch.bool),
        response_ids=responses,
        response_mask=mask,
        group_ids=groups,
        prompt_uids=groups,
        scores=scores,
        truncated=torch.zeros(rows, dtype=torch.bool),
        rewards=place_scores(scores, mask),
        rollout_log_probs=log_probs,
        old_log_probs=log_probs,
    )


def step(policy: Policy, critics: list[ValueModel], batch: RolloutBatch, budget: int) -> None:
    """Compute values and advantages, then the gradients of all models; every critic learns from all rows."""
    critic_values = torch.zeros(len(critics), *batch.response_mask.shape)
    with torch.no_grad():
        for rows in cut_by_tokens(batch, budget, shared=True):
            critic_values[:, rows] = torch.stack([critic(batch.select(rows)) for critic in critics])
    advantages, returns = gae(batch.rewards, critic_values.mean(0), batch.response_mask)
    batch = batch.replace(advantages=advantages, returns=returns)
    for losses in (partial(policy_losses, policy), *(partial(critic_losses, critic) for critic in critics)):
        accumulate_gradients(batch, losses, SequenceMean(), max_tokens=budget, shared=True)
    for model in (policy, *critics):
        model.zero_grad()


def policy_losses(policy: Policy, rows: RolloutBatch) -> list[Tensor]:
    """Return the clipped objective and the entropy bonus."""
    output = policy(rows, asks=("entropies",))
    return [PPOClip()(output, rows), EntropyBonus(1e-3)(output, rows)]


def critic_losses(critic: ValueModel, rows: RolloutBatch) -> list[Tensor]:
    """Return the squared error to the returns."""
    return [value_loss(critic(rows), rows.returns, rows.response_mask)]
