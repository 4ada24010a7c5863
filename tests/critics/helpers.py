"""A context without a loop, and small batches of named prompts."""

import torch

from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.critics import ValueContext, ValueSource

NAN = float("nan")


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def batch_of(uids, scores, ids=None, mask=None, **fields):
    """One response a uid; prompts hold their uid, so that different prompts have different tokens."""
    ids = torch.arange(len(uids))[:, None].repeat(1, 3) if ids is None else torch.tensor(ids)
    mask = torch.ones(ids.shape, dtype=torch.bool) if mask is None else torch.tensor(mask, dtype=torch.bool)
    scores, zeros = doubles(*scores), torch.zeros(ids.shape, dtype=torch.float64)
    return RolloutBatch(
        prompt_ids=torch.tensor([[0, uid] for uid in uids]),
        prompt_mask=torch.tensor([[False, True]] * len(uids)),
        response_ids=ids,
        response_mask=mask,
        group_ids=torch.arange(len(uids)),
        prompt_uids=torch.tensor(uids),
        scores=scores,
        truncated=torch.zeros(len(uids), dtype=torch.bool),
        rewards=place_scores(scores, mask),
        rollout_log_probs=zeros,
        old_log_probs=zeros,
        **fields,
    )


class World:
    """What a loop would lend: a policy that is a function of token ids, and completions that score by their prefix.

    Args:
        log_probs: From the batch to log-probs; may be exchanged later, as a policy changes.
        score: From (prompt tokens, response tokens before the cut, number of the sample) to a score.
        pieces: Text of every token.
    """

    def __init__(self, log_probs=None, score=None, pieces=None):
        self.log_probs = log_probs or (lambda batch: -batch.response_ids.double())
        self.score = score or (lambda prompt, prefix, sample: 0.0)
        self.pieces = pieces
        self.asked, self.read = [], []
        self.context = ValueContext(
            map=lambda function, batch: function(batch),
            minimize=self.nothing,
            log_probs=self._log_probs,
            own_values=self.nothing,
            complete=self._complete,
            decode=self._decode,
        )

    def nothing(self, *arguments):
        raise AssertionError("this value source has nothing to do with gradients")

    def _log_probs(self, batch):
        self.read.append(batch)
        return self.log_probs(batch)

    def _decode(self, batch):
        if self.pieces is not None:
            return self.pieces
        return [
            [chr(97 + i % 26) for i in row[:width]] for row, width in zip(batch.response_ids, batch.widths, strict=True)
        ]

    def _complete(self, batch, rows, cuts, *, samples, greedy=False, unfinished=None):
        states = [
            (
                tuple(batch.prompt_ids[row][batch.prompt_mask[row]].tolist()),
                tuple(batch.response_ids[row, :cut].tolist()),
            )
            for row, cut in zip(rows.tolist(), cuts.tolist(), strict=True)
        ]
        self.asked.append((states, samples, greedy))
        return torch.tensor([[self.score(*state, k) for k in range(samples)] for state in states]).float()


class Survey:
    """A survey with known scores that remembers how it was asked."""

    def __init__(self, found):
        self.found, self.calls = found, []

    def __call__(self, *, samples, cache):
        self.calls.append((samples, cache))
        return self.found


def unsurveyed(*, samples, cache):
    raise AssertionError("the survey must not be asked")


class Said(ValueSource):
    """Says the values of a batch, moved by what it has learned, and keeps what it learns from.

    Args:
        batch: Whose values it says; None: those of the batch that it is asked about.
        step: By how much its values rise whenever it learns.
    """

    def __init__(self, batch=None, step=0.0):
        super().__init__()
        self.batch, self.step, self.moved, self.learned = batch, step, 0.0, []

    def values(self, batch, context):
        known = self.batch or batch
        critics = None if known.critic_values is None else known.critic_values + self.moved
        return batch.replace(values=known.values + self.moved, critic_values=critics)

    def learn(self, batch, context):
        self.learned.append(batch)
        self.moved += self.step
