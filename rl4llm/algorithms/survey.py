"""The survey: scored responses of the untrained policy to every training prompt, kept in a file and resumable."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Trainer

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.runtime import Runtime
from rl4llm.checks import UsageError
from rl4llm.critics.base import Surveyed
from rl4llm.data.task import Example, PromptBatch
from rl4llm.models import Policy
from rl4llm.models.fingerprint import fingerprint
from rl4llm.progress import progress
from rl4llm.randomness import seed_of
from rl4llm.rollouts import decode_responses, draw_rollouts

_CHUNK = 256


class _Found(NamedTuple):
    """Scores of the responses to a prompt, and what says which of them are correct."""

    scores: list[float]
    correctness: list[float]


@torch.no_grad()
def survey(
    runtime: Runtime,
    answering: Answering,
    prompts: PromptBatch,
    *,
    samples: int,
    cache: str | None,
    folder: Path,
) -> Surveyed:
    """Return the scores of `samples` responses of the policy to each prompt, by uid.

    What the cache holds is read; what it lacks is drawn, written at once by the first rank, and so survives an
    interruption. Each rank draws a share. The random numbers of a prompt's responses follow from its uid, so the result
    depends neither on the number of ranks nor on interruptions.

    Args:
        runtime: Ranks.
        answering: The policy, its engine, the sampling and what scores.
        prompts: All training prompts.
        samples: Responses per prompt.
        cache: File of JSON lines: a header that says what was surveyed, then one prompt per line; None for one in
            `folder` that is named after the header.
        folder: Where caches without a name go.

    Returns:
        The scores of each prompt, NaN where one could not be scored, and which of the responses are correct.

    Raises:
        UsageError: If the cache is of another policy, data set or sampling, or prompts lack distinct uids.
    """
    examples = _distinct(prompts.examples)
    with runtime.whole_weights(answering.policy):
        fingerprint = policy_fingerprint(answering.policy)
    header = {
        "policy": fingerprint,
        "prompts": prompts_fingerprint(examples),
        "sampling": repr(answering.sampling),
        "samples": samples,
    }
    with answering.drawing(runtime, version=0):
        path = folder / f"{_digest(json.dumps(header))}.jsonl" if cache is None else Path(cache)
        known = runtime.together(lambda: _read(path, header) if runtime.rank == 0 else {})[0]
        missing = [example for example in examples if example.uid not in known]
        what = f"surveying the training prompts, {samples} responses each"
        with progress.phase(what, len(missing), "prompts") if missing else nullcontext():
            for start in range(0, len(missing), _CHUNK):
                asked = PromptBatch(missing[start : start + _CHUNK], prompts.task)
                found = _draw(runtime, answering, asked, samples)
                if runtime.rank == 0:
                    _append(path, found)
                known |= found
                progress.advance(len(found))
    found, above = {example.uid: known[example.uid] for example in examples}, prompts.task.correct_above
    return Surveyed(
        {uid: one.scores for uid, one in found.items()},
        {uid: [said > above for said in one.correctness] for uid, one in found.items()},
    )


def _draw(runtime: Runtime, answering: Answering, prompts: PromptBatch, samples: int) -> dict[int, _Found]:
    """Scores of responses to these prompts, each rank's share gathered."""
    places = runtime.share(len(prompts))
    mine = prompts.part(places)

    def draw() -> dict[int, _Found]:
        seeds = torch.tensor([seed_of("survey", example.uid) for example in mine.examples], dtype=torch.long)
        batch = draw_rollouts(
            answering.engine,
            answering.policy,
            mine,
            responses_per_prompt=samples,
            sampling=answering.sampling,
            seeds=seeds,
        )
        texts = decode_responses(answering.policy, batch)
        found = mine.score(texts, batch.group_ids.tolist(), answering.scorer)
        correctness = found.scores if found.correctness is None else found.correctness
        columns = [numbers.reshape(len(mine), samples).tolist() for numbers in (found.scores, correctness)]
        return {example.uid: _Found(*own) for example, *own in zip(mine.examples, *columns, strict=True)}

    return {uid: found for own in runtime.together(draw) for uid, found in own.items()}


def survey_once(
    trainer: Trainer, runtime: Runtime, answering: Answering, *, samples: int, cache: str | None
) -> Surveyed:
    """Survey the Trainer's training prompts; files without a name go beside the runs."""
    folder = Path(trainer.loggers[0].save_dir or "." if trainer.loggers else trainer.default_root_dir) / "surveys"
    loader: Any = trainer.train_dataloader
    prompts = loader.collate_fn([loader.dataset[index] for index in range(len(loader.dataset))])
    return survey(runtime, answering, prompts, samples=samples, cache=cache, folder=folder)


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """Each prompt once, in order of appearance."""
    known: dict[int, Example] = {}
    for example in examples:
        first = known.setdefault(example.uid, example)
        if example.uid < 0 or (first.prompt, first.answer) != (example.prompt, example.answer):
            raise UsageError(
                f"the survey keeps scores by prompt, but uid {example.uid} is "
                + ("not a valid identity" if example.uid < 0 else "that of two prompts")
                + "; give every Example of the task a uid of its own, at least 0."
            )
    return list(known.values())


def policy_fingerprint(policy: Policy) -> str:
    """Return a digest of the weights: names, shapes and some entries of every tensor."""
    again = {name for name, _ in policy.model.named_parameters(remove_duplicate=False)}
    again -= {name for name, _ in policy.model.named_parameters()}  # further names of tied weights
    found = chain(policy.weights(), policy.model.named_buffers())
    return fingerprint((name, tensor) for name, tensor in found if name not in again)


def prompts_fingerprint(examples: Sequence[Example]) -> str:
    """Return a digest of the prompts, their answers and uids, in any order."""
    return _digest("\n".join(sorted(repr((example.uid, example.prompt, example.answer)) for example in examples)))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(cache: Path, header: dict[str, Any]) -> dict[int, _Found]:
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(header) + "\n")
        return {}
    text = cache.read_text()
    if not text.endswith("\n"):  # cut off by an interruption; that line is drawn again
        cache.write_text(text + "\n")
    found, *records = [_object(line) for line in (text or "{}").splitlines()]
    for name, value in header.items():
        if found.get(name) != value:
            raise UsageError(
                f"the cache '{cache}' belongs to another {name} ({found.get(name)}, now {value}); "
                "delete it, or give another file as cache."
            )
    return {record["uid"]: _found(record["scores"], record.get("correctness")) for record in records if record}


def _object(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}


def _found(scores: Sequence[float | None], correctness: Sequence[float | None] | None) -> _Found:
    """Numbers as they stand in the cache, where a correctness that is the score is left out."""
    columns = (scores, scores if correctness is None else correctness)
    return _Found(*([float("nan") if number is None else number for number in column] for column in columns))


def _append(cache: Path, found: dict[int, _Found]) -> None:
    with cache.open("a") as file:
        for uid, columns in found.items():
            scores, correctness = ([None if one != one else one for one in column] for column in columns)
            record = {"uid": uid, "scores": scores}
            file.write(json.dumps(record if scores == correctness else {**record, "correctness": correctness}) + "\n")
