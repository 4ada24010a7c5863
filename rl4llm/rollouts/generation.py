"""One run of a causal language model over a batch of prefixes: prompts once, then token by token."""

import torch
from torch import Tensor

from rl4llm.checks import UsageError
from rl4llm.models import Policy
from rl4llm.models.loading import accepts, cache_argument
from rl4llm.models.prefixes import positions
from rl4llm.rollouts.cache import ResponseCache, closed_up
from rl4llm.rollouts.drawing import Drawn, draw
from rl4llm.rollouts.responses import Responses
from rl4llm.rollouts.sampling import Sampling


class Generation:
    """What has been drawn so far, and the cache of what is still to be continued.

    Rows are responses. As long as some of them have drawn the same tokens after the same prompt, they have one prefix
    in common, which the model computes once and whose cache is copied when they part.

    The host reads which rows have ended every `look_every` tokens. Only then does it wait for the device, and only then
    do rows leave the batch; what a row draws between its end and that look is dropped. Where it does not look at every
    token, every row has a prefix of its own from the start.

    Args:
        policy: Whose module draws.
        sampling: How tokens are drawn.
        uniforms: The uniform numbers of all tokens, float64 or, where the device has none, float32.
        top: How many of the likeliest tokens to report at each position.
        look_every: Tokens from one look to the next.
    """

    def __init__(self, policy: Policy, sampling: Sampling, uniforms: Tensor, *, top: int, look_every: int) -> None:
        self.policy, self.sampling, self.uniforms = policy, sampling, uniforms
        self.top, self.look_every = top, look_every
        self.options = {"logits_to_keep": 1} if accepts(policy.model, "logits_to_keep") else {}
        self.knows_positions = accepts(policy.model, "position_ids")
        self.cache_argument = cache_argument(policy.model)
        self.drawn: list[tuple[Tensor, Drawn]] = []  # at each step: which rows, and what they drew

    def run(self, ids: Tensor, mask: Tensor, limits: Tensor, copies: int, version: int) -> Responses:
        """Draw until every row has ended or is full."""
        logits = self._read_prefixes(ids, mask, limits.to(ids.device), copies)
        steps = self.uniforms.shape[1]
        for step in range(steps):
            logits = logits if self.alone else logits[self.prefixes]
            drawn = draw(logits, self.sampling, self.uniforms[self.rows, step], top=self.top)
            self.drawn.append((self.rows, drawn))
            tokens = self._to_continue(drawn.tokens, step)
            if step + 1 == steps or not len(tokens):
                break
            logits = self._next(tokens, step)
        return self._responses(version)

    def _read_prefixes(self, ids: Tensor, mask: Tensor, limits: Tensor, copies: int) -> Tensor:
        """Fill the cache with each prompt once; return the logits of the first token."""
        start = int(mask.long().argmax(-1).min())  # columns that are padding in every row
        ids, mask = ids[:, start:], mask[:, start:]
        room = {"columns": mask.shape[1] + self.uniforms.shape[1], "rows": len(ids) * copies}
        self.cache = ResponseCache(self.policy.model.config, **room)
        logits = self._forward(ids, mask.long(), positions(mask))
        self.cache.padded = not mask.all()
        self.width, self.limits = mask.shape[1], limits.repeat_interleave(copies)
        self.mask = torch.nn.functional.pad(mask.long(), (0, self.uniforms.shape[1]), value=1)
        self.first = mask.sum(-1)
        self.last = self.first + limits - 1  # of what is drawn beyond a limit, no position is beyond the context
        self.rows = torch.arange(len(self.limits), device=ids.device)
        self.prefixes = self.rows // copies
        self.going = torch.ones_like(self.rows, dtype=torch.bool)
        self.ends = torch.isin(torch.arange(logits.shape[-1]), torch.tensor(self.policy.end_ids)).to(ids.device)
        if self.look_every == 1 or self.alone:
            return logits
        self._part({(row // copies, row): [row] for row in range(len(self.rows))})
        return logits[self.rows // copies]

    @property
    def alone(self) -> bool:
        """Whether every row has a prefix of its own, which then stands at the same place."""
        return len(self.rows) == len(self.first)

    def _forward(self, ids: Tensor, mask: Tensor | None, position_ids: Tensor) -> Tensor:
        placed = {"position_ids": position_ids} if self.knows_positions else {}
        given = {"input_ids": ids, "attention_mask": mask, **placed, **self.options}
        output = self.policy.model(**given, **{self.cache_argument: self.cache}, use_cache=True)
        return output.logits[:, -1]

    def _next(self, tokens: Tensor, step: int) -> Tensor:
        """Return the logits of the token after the one of this step."""
        needed = self.cache.padded or not self.knows_positions  # without a mask, a model sees all and counts all
        mask = self.mask[:, : self.width + step + 1] if needed else None
        return self._forward(tokens[:, None], mask, torch.minimum(self.first + step, self.last)[:, None])

    def _to_continue(self, tokens: Tensor, step: int) -> Tensor:
        """Remove the rows that have ended and part prefixes that differ; return the last token of each prefix left."""
        self.going = self.going & ~self.ends[tokens] & (self.first + step < self.last)[self.prefixes]
        if (step + 1) % self.look_every:
            return tokens
        going = self.going.tolist()
        if self.alone and all(going):
            return tokens
        rows: dict[tuple[int, int], list[int]] = {}
        for row, longer in enumerate(zip(self.prefixes.tolist(), tokens.tolist(), strict=True)):
            if going[row]:
                rows.setdefault(longer, []).append(row)
        return tokens[self._part(rows)]

    def _part(self, rows: dict[tuple[int, int], list[int]]) -> Tensor:
        """Make one place in the cache for each longer prefix; return the first row of each, in the order of the places.

        Args:
            rows: The rows that go on, listed under the place of their present prefix and the token that follows it.
        """
        longer, device = list(rows), self.rows.device
        placed = [longer[new] for new in closed_up([place for place, _ in longer])]
        sources = [place for place, _ in placed]
        if sources != list(range(len(self.first))):
            self.cache.take_rows(sources, device)
            for name in ("mask", "first", "last"):
                setattr(self, name, getattr(self, name)[torch.tensor(sources, dtype=torch.long, device=device)])
        kept = torch.tensor([row for each in placed for row in rows[each]], dtype=torch.long, device=device)
        self.rows, self.going = self.rows[kept], self.going[kept]
        sizes = torch.tensor([len(rows[each]) for each in placed], dtype=torch.long, device=device)
        self.prefixes = torch.arange(len(placed), device=device).repeat_interleave(sizes)
        return torch.tensor([rows[each][0] for each in placed], dtype=torch.long, device=device)

    def _responses(self, version: int) -> Responses:
        """Lay out what was drawn by row and column, up to the end of each row."""
        rows = torch.cat([rows for rows, _ in self.drawn])
        steps = torch.cat([torch.full_like(rows, step) for step, (rows, _) in enumerate(self.drawn)])
        fields = Drawn(*(torch.cat(column) for column in zip(*(drawn for _, drawn in self.drawn), strict=True)))
        shape = len(self.limits), len(self.drawn)
        lengths, ended = self._lengths(_laid_out(fields.tokens, rows, steps, shape))
        inside = steps < lengths[rows]
        rows, steps, shape = rows[inside], steps[inside], (len(lengths), int(lengths.max()))
        _check_finite(fields.log_probs[inside], rows, len(lengths))
        mask = torch.arange(shape[1], device=lengths.device) < lengths[:, None]
        ids, log_probs, entropies, *top = (_laid_out(field[inside], rows, steps, shape) for field in fields)
        return Responses(
            ids.masked_fill(~mask, self.policy.pad_id),
            mask,  # from lengths, not ids: the first end counts even where padding is the same token
            ended,
            log_probs,
            torch.full_like(lengths, version),
            entropies,
            *(top if self.top else ()),
        )

    def _lengths(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return how long each row is, and whether an end came before its limit was passed."""
        before = torch.arange(ids.shape[1], device=ids.device) < self.limits[:, None]
        ends = self.ends[ids] & before
        ended = ends.any(-1)
        return torch.where(ended, ends.long().argmax(-1) + 1, self.limits), ended


def _laid_out(values: Tensor, rows: Tensor, steps: Tensor, shape: tuple[int, int]) -> Tensor:
    whole = values.new_zeros(*shape, *values.shape[1:])
    whole[rows, steps] = values
    return whole


def _check_finite(log_probs: Tensor, rows: Tensor, count: int) -> None:
    broken = len(rows[~log_probs.isfinite()].unique())
    if broken:
        raise UsageError(
            f"HuggingFaceEngine: the policy's logits are NaN or infinite in {broken} of {count} "
            "responses, so its weights or activations are; go on from an earlier checkpoint, lower the learning "
            "rate, or use bfloat16 or float32 in place of float16."
        )
