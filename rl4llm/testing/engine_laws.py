"""The laws of a rollout engine, for one of your own: what it draws, what it reports of it, and whose weights it has."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.models import Policy
from rl4llm.models.adapters import engine_weights
from rl4llm.randomness import seed_of
from rl4llm.rollouts import Engine, EngineSpec, Responses, Sampling

_TEXTS = 3  # prefixes, of different lengths
_TOKENS = 8


@dataclass(frozen=True)
class EngineCase:
    """An engine, the policy whose weights it was given, and how far its log-probs may be from the policy's.

    Args:
        engine: The engine, after `sync`.
        policy: Its policy.
        tolerance: Largest distance of a log-prob in nats.
    """

    engine: Engine
    policy: Policy
    tolerance: float

    def prefixes(self) -> list[list[int]]:
        """Return prefixes of ordinary tokens, of lengths 1, 3, 5 and so on."""
        size = self.policy.model.config.get_text_config().vocab_size
        special = {*self.policy.end_ids, self.policy.pad_id}
        ordinary = [ident for ident in range(size) if ident not in special]
        random = torch.Generator().manual_seed(0)
        picks = torch.randint(len(ordinary), (_TEXTS, 2 * _TEXTS - 1), generator=random).tolist()
        return [[ordinary[pick] for pick in row[: 2 * index + 1]] for index, row in enumerate(picks)]

    def draw(
        self,
        rows: list[list[int]],
        *,
        limit: int = _TOKENS,
        copies: int = 2,
        first: int = 0,
        sampling: Sampling = Sampling(),
    ) -> Responses:
        """Return responses to some prefixes, whose seeds are counted from `first`."""
        width = max((len(row) for row in rows), default=0)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        ids = [[self.policy.pad_id] * (width - len(row)) + row for row in rows]
        seeds = torch.tensor([seed_of("law", first + index) for index in range(len(rows))], dtype=torch.long)
        drawn = self.engine.generate(
            torch.tensor(ids, dtype=torch.long).reshape(len(rows), width),
            torch.arange(width) >= width - lengths[:, None],
            torch.full((len(rows),), limit),
            copies=copies,
            sampling=sampling,
            seeds=seeds,
        )
        return drawn.to("cpu")

    def gap(self, rows: list[list[int]], drawn: Responses, temperature: float) -> float:
        """Return the largest distance between the log-probs of the engine and those of the policy."""
        copies = len(drawn) // len(rows)
        device = next(self.policy.parameters()).device
        batch = _batch([row for row in rows for _ in range(copies)], drawn, self.policy.pad_id).to(device)
        with torch.no_grad():
            log_probs = self.policy(batch, temperature=temperature).log_probs
        return float((log_probs.cpu() - drawn.log_probs)[drawn.mask].abs().max())


def said(drawn: Responses) -> list[list[int]]:
    """Return the sampled tokens of each response."""
    return [row[kept].tolist() for row, kept in zip(drawn.ids, drawn.mask, strict=True)]


def same_seeds_same_responses(case: EngineCase) -> None:
    """Two calls with the same seeds draw the same; other seeds draw something else."""
    rows = case.prefixes()
    first, second, other = (said(case.draw(rows, copies=4, first=start)) for start in (0, 0, 100))
    assert first == second, "a second call with the same seeds draws something else"
    assert first != other, "other seeds draw the same"
    assert len({tuple(row) for row in first[:4]}) > 1, "all copies of a prefix are the same"


def any_portion_draws_the_same(case: EngineCase) -> None:
    """A response depends neither on the prefixes beside it nor on how many copies are drawn."""
    rows = case.prefixes()
    together = said(case.draw(rows, copies=3))
    for index, row in enumerate(rows):
        alone = said(case.draw([row], copies=2, first=index))
        assert alone == together[3 * index : 3 * index + 2], f"prefix {index} alone with fewer copies draws {alone}"


def limits_cut_short(case: EngineCase) -> None:
    """A lower limit cuts a response short and changes nothing before it."""
    rows = case.prefixes()
    long, short = said(case.draw(rows)), said(case.draw(rows, limit=2))
    assert short == [row[:2] for row in long], f"with a limit of 2 it draws {short}, with {_TOKENS} {long}"


def ends_and_masks(case: EngineCase) -> None:
    """The first end of sequence is part of a response and the last of it; beside responses nothing is reported."""
    drawn = case.draw(case.prefixes(), copies=8)
    ends = set(case.policy.end_ids)
    for row, ended in zip(said(drawn), drawn.ended.tolist(), strict=True):
        assert row, "a response has no token"
        assert (row[-1] in ends) == ended, f"the response {row} is said to have ended: {ended}"
        assert not ends & set(row[:-1]), f"the response {row} goes on after its end"
        assert ended or len(row) == _TOKENS, f"the response {row} stops before limit and end"
    assert not drawn.log_probs[~drawn.mask].any(), "padding has log-probs"


def log_probs_are_the_policy_s(case: EngineCase) -> None:
    """Log-probs are those of the policy at the temperature, over the whole vocabulary."""
    rows = case.prefixes()
    for temperature in (1.0, 0.6, 1.5):
        gap = case.gap(rows, case.draw(rows, sampling=Sampling(temperature=temperature)), temperature)
        assert gap <= case.tolerance, f"at temperature {temperature} they differ by {gap:.2g} nats"


def greedy_takes_the_likeliest(case: EngineCase) -> None:
    """Temperature 0 draws the same response whatever the seed."""
    rows, greedy = case.prefixes(), Sampling(temperature=0.0)
    first, other = (said(case.draw(rows, first=start, sampling=greedy)) for start in (0, 100))
    assert first == other, "at temperature 0 responses depend on the seed"


def filters_keep_the_likeliest(case: EngineCase) -> None:
    """With top_k of 1 a response is the greedy one."""
    rows = case.prefixes()
    likeliest = said(case.draw(rows, copies=1, sampling=Sampling(temperature=0.0)))
    assert said(case.draw(rows, copies=1, sampling=Sampling(top_k=1))) == likeliest, "top_k=1 is not greedy"


def nothing_gives_nothing(case: EngineCase) -> None:
    """Without prefixes there are no responses."""
    assert len(case.draw([])) == 0, "without prefixes there are responses"


def sync_brings_the_weights(case: EngineCase) -> None:
    """After `sync` the engine draws from the new weights, marks responses with their version, and rests in between."""
    rows, before = case.prefixes(), [p.detach().clone() for p in case.policy.model.parameters()]
    try:
        _move(case.policy)
        case.engine.rest()
        case.engine.sync(_weights(case.policy), 7)
        drawn = case.draw(rows)
        gap = case.gap(rows, drawn, 1.0)
        assert gap <= case.tolerance, f"after sync log-probs differ by {gap:.2g} nats: some weight was not taken over"
        assert set(drawn.policy_version.tolist()) == {7}, f"responses are marked {drawn.policy_version.tolist()}, not 7"
    finally:
        with torch.no_grad():
            for parameter, old in zip(case.policy.model.parameters(), before, strict=True):
                parameter.copy_(old)
        case.engine.sync(_weights(case.policy), 8)


def what_was_sent_is_copied(case: EngineCase) -> None:
    """Weights that change after `sync` do not reach an engine that has its own."""
    if not case.engine.own_weights:
        return
    rows, before = case.prefixes(), [p.detach().clone() for p in case.policy.model.parameters()]
    first = said(case.draw(rows, copies=4))
    _move(case.policy)
    second = said(case.draw(rows, copies=4))
    with torch.no_grad():
        for parameter, old in zip(case.policy.model.parameters(), before, strict=True):
            parameter.copy_(old)
    assert first == second, "the engine draws from tensors that it was lent"


LAWS: dict[str, Callable[[EngineCase], None]] = {
    "the same seeds draw the same responses": same_seeds_same_responses,
    "any portion draws the same": any_portion_draws_the_same,
    "a lower limit cuts short": limits_cut_short,
    "ends and masks": ends_and_masks,
    "log-probs are those of the policy at the temperature": log_probs_are_the_policy_s,
    "temperature 0 takes the likeliest token": greedy_takes_the_likeliest,
    "filters keep the likeliest tokens": filters_keep_the_likeliest,
    "no prefixes give no responses": nothing_gives_nothing,
    "sync brings the weights": sync_brings_the_weights,
    "what was sent is copied": what_was_sent_is_copied,
}


def check_engine(spec: EngineSpec, policy: Policy, *, tolerance: float = 1e-4) -> None:
    """Check that an engine keeps the contract of [Engine][rl4llm.rollouts.base.Engine] and refuses calls once closed.

    Args:
        spec: Builds the engine.
        policy: Any policy; its weights are moved and put back.
        tolerance: Largest distance in nats between a log-prob of the engine and the policy's.

    Raises:
        AssertionError: Naming every law that is broken, and how.

    Example:
        >>> from rl4llm.models import TinyQwen3
        >>> from rl4llm.rollouts import HuggingFaceRollout
        >>> check_engine(HuggingFaceRollout(), Policy(*TinyQwen3().build()))
    """
    broken = []
    with spec.build(policy) as engine:
        engine.sync(_weights(policy), 0)
        case = EngineCase(engine, policy, tolerance)
        for name, law in LAWS.items():
            try:
                law(case)
            except AssertionError as error:
                broken.append(f"{name}: {error}")
    try:
        case.draw(case.prefixes())
    except UsageError:
        pass
    else:
        broken.append("a closed engine refuses: it still draws")
    if broken:
        raise AssertionError("\n".join([f"{type(spec).__name__} breaks {len(broken)} laws:", *broken]))


def _weights(policy: Policy) -> list[tuple[str, Tensor]]:
    return [(name, tensor.detach()) for name, tensor in engine_weights(policy.model)]


@torch.no_grad()
def _move(policy: Policy) -> None:
    random = torch.Generator().manual_seed(1)
    for parameter in policy.model.parameters():
        size = 0.1 * (float(parameter.float().std(correction=0)) + 0.05)
        parameter.add_((torch.randn(parameter.shape, generator=random) * size).to(parameter))


def _batch(rows: list[list[int]], drawn: Responses, pad_id: int) -> RolloutBatch:
    width, count = max(len(row) for row in rows), len(rows)
    lengths = torch.tensor([len(row) for row in rows])
    zeros = torch.zeros(drawn.mask.shape)
    return RolloutBatch(
        prompt_ids=torch.tensor([[pad_id] * (width - len(row)) + row for row in rows]),
        prompt_mask=torch.arange(width) >= width - lengths[:, None],
        response_ids=drawn.ids,
        response_mask=drawn.mask,
        group_ids=torch.arange(count),
        prompt_uids=torch.arange(count),
        scores=torch.zeros(count),
        truncated=~drawn.ended,
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
    )
