"""Engines that answer one request per response: from prefixes to requests, and from answers to `Responses`."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl4llm.checks import UsageError
from rl4llm.models import Policy
from rl4llm.models.loading import context_length
from rl4llm.randomness import seed_of
from rl4llm.rollouts.base import Engine, check_request
from rl4llm.rollouts.responses import Responses
from rl4llm.rollouts.sampling import Sampling

_NAN = float("nan")


class Request(NamedTuple):
    """One response that is asked for.

    Attributes:
        prefix: Token ids of the prompt and what stands of the response.
        limit: Maximum number of tokens drawn after it.
        seed: Seed of the request.
    """

    prefix: list[int]
    limit: int
    seed: int


class Answer(NamedTuple):
    """One response that was drawn.

    Attributes:
        ids: Its tokens, the end of sequence included.
        log_probs: Their log-probs.
        likeliest: The likeliest tokens at each position with their log-probs, as many as were asked for.
    """

    ids: list[int]
    log_probs: list[float]
    likeliest: list[list[tuple[int, float]]]

    @classmethod
    def of(cls, ids: Sequence[int], candidates: Iterable[Sequence[tuple[int, float]]], top: int) -> "Answer":
        """Return an answer from the tokens that an engine lists at each position, the drawn one among them."""
        listed = [sorted(some, key=lambda pair: -pair[1]) for some in candidates]
        drawn = [dict(some)[token] for token, some in zip(ids, listed, strict=True)]
        return cls(list(ids), drawn, [some[:top] for some in listed])


def requests_of(ids: Tensor, mask: Tensor, limits: Tensor, seeds: Tensor, *, copies: int) -> list[Request]:
    """Return one request per response, those of one prefix together.

    Example:
        >>> ids, mask = torch.tensor([[0, 7]]), torch.tensor([[False, True]])
        >>> [request.prefix for request in requests_of(ids, mask, torch.tensor([3]), torch.tensor([5]), copies=2)]
        [[7], [7]]
    """
    prefixes = [row[kept].tolist() for row, kept in zip(ids.cpu(), mask.cpu(), strict=True)]
    asked = zip(prefixes, limits.tolist(), seeds.tolist(), strict=True)
    return [Request(prefix, limit, seed_of(seed, copy)) for prefix, limit, seed in asked for copy in range(copies)]


def sampling_parameters(request: Request, sampling: Sampling, *, end_ids: Sequence[int], top: int) -> dict[str, Any]:
    """Return the sampling parameters of a request, as vLLM names them."""
    return {
        "temperature": sampling.temperature,
        "top_k": 0 if sampling.greedy else sampling.top_k or 0,
        "top_p": 1.0 if sampling.greedy else sampling.top_p,
        "seed": request.seed,
        "max_tokens": request.limit,
        "stop_token_ids": list(end_ids),
        "ignore_eos": True,  # the policy's own ends stop a response, whatever the engine's copy of its files says
        "logprobs": top,  # those of the drawn token come in any case
        "detokenize": False,
    }


class RequestEngine(Engine):
    """An engine with weights and a sampler of its own, which is asked for one response at a time.

    Log-probs are those at the sampling temperature. Under `top_k` or `top_p` the engine knows only those of the
    filtered distribution, so they are NaN, which means not reported. Entropies are not reported.

    Args:
        policy: Whose responses are drawn.
        top_log_probs: How many of the likeliest tokens to report at each position.
        context: Most tokens of a prefix and its response; None: what the policy's model has.
    """

    def __init__(self, policy: Policy, *, top_log_probs: int = 0, context: int | None = None) -> None:
        self.policy, self.closed = policy, False
        self.vocabulary = policy.model.config.get_text_config().vocab_size
        self.top_log_probs = min(top_log_probs, self.vocabulary)
        self.context = context or context_length(policy.model)
        self.end_ids = [ident for ident in policy.end_ids if ident < self.vocabulary]

    @abstractmethod
    def push(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace the engine's weights."""

    @abstractmethod
    def answer(self, requests: list[Request], parameters: list[dict[str, Any]]) -> list[Answer]:
        """Draw one response per request, in their order."""

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the policy's weights and remember their version."""
        self._check_open()
        self.push(weights, version)
        self.version = version

    def generate(
        self, ids: Tensor, mask: Tensor, limits: Tensor, *, copies: int, sampling: Sampling, seeds: Tensor
    ) -> Responses:
        """Draw `copies` responses to every prefix; those of one prefix stand together."""
        self._check_open()
        check_request(ids, mask, limits, seeds, copies=copies)
        requests = requests_of(ids, mask, limits, seeds, copies=copies)
        if requests:
            self._check_ready(requests)
        chosen = {"end_ids": self.end_ids, "top": self.top_log_probs}
        parameters = [sampling_parameters(request, sampling, **chosen) for request in requests]
        answers = self.answer(requests, parameters) if requests else []
        hidden = sampling.filtered and not sampling.greedy
        return self._responses(answers, hidden=hidden).to(ids.device)

    def close(self) -> None:
        """Refuse further calls."""
        self.closed = True

    def _responses(self, answers: list[Answer], *, hidden: bool) -> Responses:
        """Lay answers out as right-padded rows."""
        self._check_answers(answers)
        lengths = torch.tensor([len(answer.ids) for answer in answers], dtype=torch.long)
        shape = len(answers), int(lengths.max()) if answers else 0
        mask = torch.arange(shape[1]) < lengths[:, None]
        flat = torch.tensor([ident for answer in answers for ident in answer.ids], dtype=torch.long)
        ids = torch.full(shape, self.policy.pad_id).masked_scatter(mask, flat)
        told = torch.tensor([x for answer in answers for x in answer.log_probs], dtype=torch.float32)
        told = told.fill_(_NAN) if hidden else told
        ended = torch.tensor([answer.ids[-1] in self.end_ids for answer in answers], dtype=torch.bool)
        version = torch.full_like(lengths, self.version)
        log_probs = torch.zeros(shape).masked_scatter(mask, told)
        return Responses(ids, mask, ended, log_probs, version, None, *self._likeliest(answers, mask, hidden=hidden))

    def _likeliest(self, answers: list[Answer], mask: Tensor, *, hidden: bool) -> tuple[Tensor | None, Tensor | None]:
        if not self.top_log_probs:
            return None, None
        shape = *mask.shape, self.top_log_probs
        pairs = torch.tensor([some for answer in answers for some in answer.likeliest], dtype=torch.float64)
        pairs = pairs.reshape(-1, self.top_log_probs, 2)
        ids, log_probs = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
        ids[mask], log_probs[mask] = pairs[..., 0].long(), pairs[..., 1].float()
        log_probs[mask] = _NAN if hidden else log_probs[mask]
        return ids, log_probs

    def _check_open(self) -> None:
        if self.closed:
            name = type(self).__name__
            raise UsageError(
                f"{name}: the engine is closed; build a new one with {name.removesuffix('Engine')}().build."
            )

    def _check_ready(self, requests: list[Request]) -> None:
        name, longest = type(self).__name__, max(len(request.prefix) + request.limit for request in requests)
        if self.version < 0:
            raise UsageError(f"{name}: the engine has no weights of the policy yet; call sync before generate.")
        if self.context is not None and longest > self.context:
            raise UsageError(
                f"{name}: a prompt with its response may take {longest} tokens, and the engine holds {self.context}; "
                "lower --model.sampling.max_response_tokens, or raise the engine's context."
            )

    def _check_answers(self, answers: list[Answer]) -> None:
        broken = sum(not torch.tensor(answer.log_probs).isfinite().all() or not answer.ids for answer in answers)
        if broken:
            raise UsageError(
                f"{type(self).__name__}: {broken} of {len(answers)} responses came back empty or with log-probs that "
                "are NaN or infinite, so the policy's weights or activations are; go on from an earlier checkpoint, "
                "lower the learning rate, or use bfloat16 or float32 in place of float16."
            )
