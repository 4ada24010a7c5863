"""From a rollout batch to columns: one row per response, with lists of what each token was given."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.critics import critic_std
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.rollouts.decoding import decode_pieces, decode_responses

_FIELDS = ("rollout_log_probs", "ref_log_probs", "entropies", "rewards", "values", "returns", "advantages")


def first_groups(group_ids: Tensor, most: int) -> Tensor:
    """Return the rows of the first groups that together hold at most so many responses; at least one group.

    Example:
        >>> first_groups(torch.tensor([3, 3, 0, 0, 3]), 4)
        tensor([0, 1, 4])
    """
    groups = group_ids.tolist()
    chosen: set[int] = set()
    for group in dict.fromkeys(groups):
        if chosen and sum(one in chosen or one == group for one in groups) > most:
            break
        chosen.add(group)
    return torch.tensor([row for row, group in enumerate(groups) if group in chosen], dtype=torch.long)


def row_columns(
    batch: RolloutBatch,
    prompts: PromptBatch,
    policy: Policy,
    present_log_probs: Tensor,
    *,
    step: int,
    filters: Sequence[str],
) -> dict[str, Any]:
    """Return the columns of a file, as lists and Arrow arrays.

    Args:
        batch: A judged batch on the CPU.
        prompts: The prompts whose places `group_ids` are; groups beyond them are replayed.
        policy: Its tokenizer decodes.
        present_log_probs: Log-probs of the rows under the policy after the update.
        step: Of the rollout batch.
        filters: Names of the slots whose gates follow the objective's in `batch.gates`; empty names are left out.
    """
    shown = _shown(batch, policy.tokenizer.pad_token_id)
    visible = batch.replace(response_mask=shown)
    columns = _responses(batch, prompts, policy, step)
    widths = shown.sum(-1)
    tokens = [_named(policy, *row) for row in zip(decode_pieces(policy, visible), _ids(batch, widths), strict=True)]
    columns["response"] = [_clean(text) for text in decode_responses(policy, visible)]
    columns["token_ids"], columns["tokens"] = _ids(batch, widths), tokens
    columns |= {name: _listed(x, shown) for name, x in _flags(batch, filters).items()}
    numbers = _numbers(batch, present_log_probs)
    return columns | {name: _listed(x.float(), shown, batch.response_mask) for name, x in numbers.items()}


def _responses(batch: RolloutBatch, prompts: PromptBatch, policy: Policy, step: int) -> dict[str, Any]:
    """The columns of one entry per response."""
    scores, groups = batch.scores.tolist(), batch.group_ids.tolist()
    ids = [row[mask].tolist() for row, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    replayed = [False] * len(batch) if batch.replayed is None else batch.replayed.tolist()
    known = {} if any(replayed) else dict(enumerate(prompts.examples))
    return {
        "step": [step] * len(batch),
        "group": groups,
        "prompt_uid": batch.prompt_uids.tolist(),
        "prompt": [_clean(text) for text in policy.tokenizer.batch_decode(ids)],
        "answer": [_answer(known[group].answer) if group in known else None for group in groups],
        "score": [score if score == score else None for score in scores],
        "correct": batch.solved.tolist(),
        "truncated": batch.truncated.tolist(),
        "replayed": replayed,
        "length": batch.lengths.tolist(),
    }


def _flags(batch: RolloutBatch, filters: Sequence[str]) -> dict[str, Tensor]:
    """What is true or false of each token."""
    (gates,) = batch.require("gates", by="row_columns")
    slots = {f"filter_{slot}": kept for slot, kept in zip(filters, gates[1:], strict=True) if slot}
    return {"trained": batch.response_mask, "gate": gates[0], **slots}


def _numbers(batch: RolloutBatch, present_log_probs: Tensor) -> dict[str, Tensor]:
    """The numbers of each token."""
    found = {name: tensor for name in _FIELDS if (tensor := getattr(batch, name)) is not None}
    found |= {"log_probs": batch.old_log_probs, "ratio": (present_log_probs - batch.old_log_probs).exp()}
    if batch.return_spread is not None:
        found["return_spread"] = batch.return_spread
    if batch.critic_values is not None:
        found["spread"] = critic_std(batch.critic_values)
        found |= {f"critic_{index}": values for index, values in enumerate(batch.critic_values)}
    return found


def _shown(batch: RolloutBatch, padding: int | None) -> Tensor:
    """True up to the end of each response; of one without trained tokens, up to the padding."""
    columns = torch.arange(1, batch.response_mask.shape[1] + 1)
    written = torch.zeros_like(batch.response_mask) if padding is None else batch.response_ids != padding
    unscored = (written * columns).amax(-1) if len(columns) else batch.widths
    return columns <= torch.where(batch.response_mask.any(-1), batch.widths, unscored)[:, None]


def _ids(batch: RolloutBatch, widths: Tensor) -> list[list[int]]:
    return [row[:width] for row, width in zip(batch.response_ids.tolist(), widths.tolist(), strict=True)]


def _named(policy: Policy, pieces: list[str], ids: list[int]) -> list[str]:
    """The texts of a row's tokens, special tokens by their names."""
    special = dict(zip(policy.tokenizer.all_special_ids, policy.tokenizer.all_special_tokens, strict=True))
    return [_clean(piece or special.get(ident, "")) for piece, ident in zip(pieces, ids, strict=True)]


def _listed(tensor: Tensor, shown: Tensor, known: Tensor | None = None) -> Any:
    """An Arrow array of one list per row, with nulls where a number is not known."""
    import pyarrow

    ends = torch.cat([torch.zeros(1, dtype=torch.long), shown.sum(-1).cumsum(0)])
    absent = None if known is None else ~known[shown].numpy()
    flat = pyarrow.array(tensor[shown].numpy(), mask=absent)
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends.int().numpy()), flat)


def _answer(answer: Any) -> str | None:
    return answer if answer is None else _clean(answer if isinstance(answer, str) else json.dumps(answer, default=str))


def _clean(text: str) -> str:
    """Half of a surrogate pair, which no file can hold, becomes its escape."""
    return text.encode(errors="backslashreplace").decode()
