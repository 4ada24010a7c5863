"""The survey: scored responses of the untrained policy to every training prompt, kept in a file and resumable."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from rl4llm.algorithms.acting import Actor
from rl4llm.algorithms.meter import Meter
from rl4llm.checks import UsageError
from rl4llm.data.task import Example
from rl4llm.models import Policy

if TYPE_CHECKING:
    from rl4llm.algorithms.policy_gradient import PolicyGradient

_CHUNK = 256


@torch.no_grad()
def survey(
    policy: Policy,
    actor: Actor,
    loader: DataLoader[Example],
    *,
    samples: int,
    cache: str | None,
    folder: Path,
    seed: int = 0,
) -> Mapping[int, Sequence[float]]:
    """Scores of `samples` responses of the policy to each prompt of the loader's data set, by uid.

    What the cache holds is read; what it lacks is drawn, written at once, and so survives an interruption: the result
    is the same as without one.

    Args:
        policy: Whose responses.
        actor: Engine, sampling and reward.
        loader: The training prompts.
        samples: Responses a prompt.
        cache: File of JSON lines: a header that says what was surveyed, then a prompt a line; None for one in `folder`
            that is named after the header.
        folder: Where caches without a name go.
        seed: Of the responses.

    Returns:
        The scores of each prompt, NaN where one could not be scored.

    Raises:
        UsageError: If the cache is of another policy, data set or sampling, or prompts lack distinct uids.
    """
    dataset: Any = loader.dataset
    examples = _distinct([dataset[index] for index in range(len(dataset))])
    header = {
        "policy": policy_fingerprint(policy),
        "prompts": prompts_fingerprint(examples),
        "sampling": repr(actor.sampling),
        "samples": samples,
    }
    path = folder / f"{_digest(json.dumps(header))}.jsonl" if cache is None else Path(cache)
    known = _read(path, header)
    many = Actor(actor.engine, actor.sampling, samples, actor.warned)
    generator = torch.Generator(next(policy.parameters()).device)
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        if all(example.uid in known for example in chunk):
            continue
        batch = many.act(policy, loader.collate_fn(chunk), generator.manual_seed(seed + start), Meter())
        scores = batch.scores.reshape(len(chunk), samples).tolist()
        known |= _append(path, {example.uid: own for example, own in zip(chunk, scores, strict=True)})
    return {example.uid: known[example.uid] for example in examples}


def survey_once(loop: "PolicyGradient", *, samples: int, cache: str | None) -> Mapping[int, Sequence[float]]:
    """The survey of a loop's reference (or, without one, its policy): the first process draws, the others read it."""
    trainer, policy = loop.trainer, loop.reference or loop.policy
    folder = Path(trainer.loggers[0].save_dir or "." if trainer.loggers else trainer.default_root_dir) / "surveys"
    found: Mapping[int, Sequence[float]] = {}
    for turn in (trainer.is_global_zero, not trainer.is_global_zero):
        if turn:
            loader: Any = trainer.train_dataloader
            found = survey(policy, loop.actor, loader, samples=samples, cache=cache, folder=folder)
        trainer.strategy.barrier()
    return found


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """Each prompt once, in order of appearance."""
    known: dict[int, Example] = {}
    for example in examples:
        first = known.setdefault(example.uid, example)
        if example.uid < 0 or (first.prompt, first.answer) != (example.prompt, example.answer):
            raise UsageError(
                f"the survey keeps scores by prompt, but uid {example.uid} is "
                + ("no identity" if example.uid < 0 else "that of two prompts")
                + "; give every Example of the task a uid of its own, at least 0."
            )
    return list(known.values())


def policy_fingerprint(policy: Policy) -> str:
    """A digest of the weights: names, shapes and some entries of every tensor."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(policy.model.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // 4096)].float().cpu().numpy().tobytes()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + some)
    return digest.hexdigest()


def prompts_fingerprint(examples: Sequence[Example]) -> str:
    """A digest of the prompts, their answers and uids, in any order."""
    return _digest("\n".join(sorted(repr((example.uid, example.prompt, example.answer)) for example in examples)))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(cache: Path, header: dict[str, Any]) -> dict[int, list[float]]:
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
                "delete it, or name another with cache."
            )
    return {record["uid"]: _scores(record["scores"]) for record in records if record}


def _object(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}


def _scores(plain: Sequence[float | None]) -> list[float]:
    return [float("nan") if score is None else score for score in plain]


def _append(cache: Path, found: dict[int, list[float]]) -> dict[int, list[float]]:
    with cache.open("a") as file:
        for uid, scores in found.items():
            plain = [None if score != score else score for score in scores]
            file.write(json.dumps({"uid": uid, "scores": plain}) + "\n")
    return found
