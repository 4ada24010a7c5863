"""The family of rollout engines: token ids in, responses with their log-probs out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least
from rl4llm.data.task import PromptBatch
from rl4llm.models import ModelSource, Policy
from rl4llm.rollouts.prompts import encode_prompts
from rl4llm.rollouts.responses import Responses
from rl4llm.rollouts.sampling import Sampling


class EngineSpec(ABC):
    """The choice of a rollout engine. Subclasses are frozen dataclasses, and `build` starts the engine.

    Attributes:
        top_log_probs: How many of the likeliest tokens the engine reports at each position.
    """

    top_log_probs: int = 0

    def check(self, source: ModelSource) -> None:  # noqa: B027 — most engines need nothing
        """Raise if the engine cannot start or cannot run this model. The loop calls it before any weight is read."""

    @abstractmethod
    def build(self, policy: Policy) -> "Engine":
        """Start an engine that draws responses of this policy."""


class Engine(ABC):
    """A running rollout engine. Token ids go in and come out as ids: nothing is decoded and encoded again.

    The loop builds one engine per process. Whenever it draws responses, it calls `sync`, then `generate` any number of
    times, then `rest`; it calls `close` once at the end. An engine is a context manager that closes itself.

    An engine never communicates between ranks: every rank calls `generate` for its own prefixes, and the numbers of
    calls and of steps may differ from rank to rank.

    Attributes:
        version: Version of the weights that `generate` draws from; −1 before the first `sync`.
        own_weights: Whether it draws from weights of its own, which `sync` brings, and not from the policy's module.
            The loop compares the log-probs of such an engine with the trainer's on every rollout batch.
        exact: Whether its log-probs equal those of the policy up to rounding in float32.
    """

    version: int = -1
    own_weights: bool = True
    exact: bool = False

    @abstractmethod
    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the policy's weights and remember their version.

        An engine with weights of its own (another process, another format) must load every tensor before it returns,
        and must copy what it keeps, since the tensors change with the next optimizer step. The names are those of the
        policy's Hugging Face model, tied weights included; the tensors are whole, never shards. `weights` may be a
        generator that gathers one tensor at a time: iterate over it at most once. An engine that shares the policy's
        own module need not iterate over it at all.

        Args:
            weights: Names and tensors.
            version: Version of these weights, with which `generate` marks every response.
        """

    @abstractmethod
    def generate(
        self,
        ids: Int[Tensor, "prefix column"],
        mask: Bool[Tensor, "prefix column"],
        limits: Int[Tensor, " prefix"],
        *,
        copies: int,
        sampling: Sampling,
        seeds: Int[Tensor, " prefix"],
    ) -> Responses:
        """Draw `copies` responses to every prefix; those of one prefix stand together, in the order of the prefixes.

        The random numbers of a response follow from the seed of its prefix and from which copy it is, and from nothing
        else: not from the other prefixes, the number of copies, the limit, or how many responses are drawn at once. An
        engine with a sampler of its own passes `seed_of(seed, copy)` on as the seed of the request.

        Args:
            ids: Left-padded prefixes: prompts, or prompts with the beginning of a response. There may be none.
            mask: True at the tokens of the prefixes.
            limits: Maximum number of tokens drawn after each prefix, at least 1.
            copies: Responses per prefix.
            sampling: How tokens are drawn. The limits count, not its `max_response_tokens`.
            seeds: One seed per prefix, on the CPU.

        Returns:
            `len(ids) · copies` responses on the device of `ids`.
        """

    def rest(self) -> None:  # noqa: B027 — most engines hold nothing that others need
        """Free what is needed only while responses are drawn. The next `sync` brings it back."""

    @abstractmethod
    def close(self) -> None:
        """End the engine and free what it holds. A second call does nothing; `generate` raises from then on."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_request(ids: Tensor, mask: Tensor, limits: Tensor, seeds: Tensor, *, copies: int) -> None:
    """Raise unless the arguments of [generate][rl4llm.rollouts.base.Engine.generate] fit together.

    Raises:
        UsageError: If a prefix has no limit or no seed of its own, is not left-padded, or may hold no new token.
    """
    check_at_least("Engine.generate", 1, copies=copies)
    for name, tensor in {"limits": limits, "seeds": seeds}.items():
        if tensor.shape != ids.shape[:1]:
            raise UsageError(
                f"Engine.generate: {name} has shape {tuple(tensor.shape)}, there are {len(ids)} prefixes; pass one "
                "entry per prefix."
            )
    if len(ids) and int(limits.min()) < 1:
        raise UsageError(f"Engine.generate: a limit is {int(limits.min())}; every response needs room for one token.")
    if len(ids) and not bool(mask[:, -1:].all() and mask.shape[1]):
        raise UsageError(
            "Engine.generate: the last column of a prefix is masked; pass left-padded prefixes with tokens."
        )


def draw_rollouts(
    engine: Engine,
    policy: Policy,
    prompts: PromptBatch,
    *,
    responses_per_prompt: int,
    sampling: Sampling,
    seeds: Int[Tensor, " prompt"],
) -> RolloutBatch:
    """Draw responses to every prompt and lay them out as a batch; those of one prompt stand together.

    Nothing is scored yet: `scores` are NaN and `rewards` 0. Without prompts the batch has no rows.

    Args:
        engine: Draws the responses.
        policy: Its tokenizer encodes the prompts; the batch is on its device.
        prompts: What is asked.
        responses_per_prompt: Responses per prompt.
        sampling: How tokens are drawn.
        seeds: One seed per prompt, on the CPU. Seeds made from the run's seed, the step and the place in the global
            batch make the responses independent of the number of devices.

    Returns:
        `len(prompts) · responses_per_prompt` rows; `group_ids` number the prompts of this call from 0.

    Raises:
        UsageError: If a prompt has no tokens or leaves no room for a response.
    """
    device = next(policy.parameters()).device
    ids, mask = encode_prompts(policy, prompts.prompts, sampling.max_response_tokens)
    ids, mask = ids.to(device), mask.to(device)
    limits = torch.full((len(prompts),), sampling.max_response_tokens, device=device)
    drawn = engine.generate(ids, mask, limits, copies=responses_per_prompt, sampling=sampling, seeds=seeds).to(device)
    group_ids = torch.arange(len(prompts), device=device).repeat_interleave(responses_per_prompt)
    return RolloutBatch(
        prompt_ids=ids[group_ids],
        prompt_mask=mask[group_ids],
        response_ids=drawn.ids,
        response_mask=drawn.mask,
        group_ids=group_ids,
        prompt_uids=prompts.uids.to(device)[group_ids],
        scores=torch.full((len(group_ids),), torch.nan, device=device),
        truncated=~drawn.ended,
        rewards=torch.zeros(drawn.ids.shape, device=device),
        rollout_log_probs=drawn.log_probs,
        old_log_probs=drawn.log_probs,
        entropies=drawn.entropies,
        top_ids=drawn.top_ids,
        top_log_probs=drawn.top_log_probs,
        policy_version=drawn.policy_version,
    )
