"""`ReasoningGym`: generated problems of the reasoning-gym package, scored by the package itself."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from rl4llm.checks import UsageError, check_at_least
from rl4llm.data.checking import described
from rl4llm.data.columns import Keys
from rl4llm.data.extras import needed
from rl4llm.data.json_records import Record
from rl4llm.data.prompt_format import PromptFormat
from rl4llm.data.prompts import fingerprint
from rl4llm.data.record_examples import Layout, read_shots, record_example
from rl4llm.data.splitting import split_of
from rl4llm.data.task import Example, Split, Task
from rl4llm.rewards import Reward
from rl4llm.rewards.base import Verifier

_SHARE = 1 / 8  # of all problems, for validation and for test each


class GymAnswer(str):
    """The answer of a generated problem, with what its scorer needs.

    Args:
        text: The answer, or an empty text where several are right.
        name: Name of the reasoning-gym task.
        config: Its configuration, as JSON.
        entry: The problem as it was generated.
    """

    name: str
    config: str
    entry: dict[str, Any]

    def __new__(cls, text: str, name: str, config: str, entry: dict[str, Any]) -> "GymAnswer":
        """Return the text with its problem."""
        answer = super().__new__(cls, text)
        answer.name, answer.config, answer.entry = name, config, entry
        return answer

    def __reduce__(self) -> tuple[Any, ...]:
        return GymAnswer, (str(self), self.name, self.config, self.entry)


@dataclass(frozen=True)
class ReasoningGymScore(Verifier):
    """The scorer of the problem's own task: 1 if a response is right, and for some tasks a part of it if it is nearly.

    What stands between the last `<answer>` and `</answer>` is scored, or the whole response where there are no tags.
    """

    def prepare(self) -> None:
        """Import reasoning-gym."""
        needed("reasoning_gym", "ReasoningGymScore", "reasoning-gym")

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return the score of the package.

        Raises:
            UsageError: If the answer is none of a `ReasoningGym` problem.
        """
        if not isinstance(answer, GymAnswer):
            raise UsageError("ReasoningGymScore scores problems of ReasoningGym only; set --data.task=ReasoningGym.")
        tagged = needed("reasoning_gym.utils", "ReasoningGymScore", "reasoning-gym").extract_answer(response)
        given = response.strip() if tagged is None else tagged
        return float(_generator(answer.name, answer.config, 0, 1).score_answer(given, answer.entry))


@dataclass(frozen=True)
class ReasoningGym(Task):
    """Generated problems of one task of the reasoning-gym package, such as chain_sum.

    Every problem has a seed of its own, and a hash of its question decides to which split it belongs: an eighth of all
    problems for validation and for test each. No question comes twice.

    Args:
        name: Name of the task in the package.
        config: Settings of the task, such as {max_terms: 3}.
        train_size: Number of training problems.
        held_out_size: Number of problems of the validation and of the test split.
        seed: Seed of the first problem.
        prompt: How a question becomes a prompt. The columns are `question` and `answer`.
        reward: The verifier; by default the package's own.
        correct_above: What a score must exceed for its response to count as correct. The package gives partial credit,
            so only its full score of 1 counts by default.
    """

    name: str
    config: dict[str, Any] | None = None
    train_size: int = 4000
    held_out_size: int = 256
    seed: int = 0
    prompt: PromptFormat = PromptFormat()  # noqa: RUF009
    reward: Reward = ReasoningGymScore()
    correct_above: float = 0.99

    def __post_init__(self) -> None:
        check_at_least("ReasoningGym", 1, train_size=self.train_size, held_out_size=self.held_out_size)
        check_at_least("ReasoningGym", 0, seed=self.seed)
        factory = needed("reasoning_gym.factory", "ReasoningGym", "reasoning-gym")
        if self.name not in factory.DATASETS:
            near = difflib.get_close_matches(self.name, factory.DATASETS, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see the list of the package reasoning-gym."
            raise UsageError(f"ReasoningGym: there is no task named '{self.name}'; {hint}")
        taken = sorted({"seed", "size"} & set(self.config or {}))
        if taken:
            raise UsageError(f"ReasoningGym: config sets '{taken[0]}'; set train_size, held_out_size or seed instead.")
        _generator(self.name, self._settings, self.seed, 1)

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split. The uid is a hash of the question and the answer."""
        layout = Layout(
            "ReasoningGym", self.prompt, Keys(tuple(self.prompt.columns) or ("question",), "answer", "response")
        )
        problems = _problems(self.name, self._settings, self.seed, self.train_size, self.held_out_size)[split]
        shots = read_shots(layout)
        examples = []
        for number, entry in enumerate(problems):
            record = Record(number, f"ReasoningGym: {self.name} problem {number + 1}", entry)
            if fingerprint(entry["question"]) not in shots.fingerprints:
                example, _ = record_example(layout, record, shots)
                answer = GymAnswer(str(entry["answer"] or ""), self.name, self._settings, entry)
                examples.append(replace(example, answer=answer, uid=_uid(entry["question"], answer)))
        return examples

    def prepare(self, splits: Sequence[Split]) -> None:
        """Generate the problems, so that their faults are found before any model is loaded."""
        self.examples("train")

    def traits(self, response: str) -> Mapping[str, float]:
        """None."""
        return {}

    @property
    def _settings(self) -> str:
        return json.dumps(self.config or {}, sort_keys=True)


@lru_cache(maxsize=8)
def _generator(name: str, config: str, seed: int, size: int) -> Any:
    """The package's generator of a task."""
    create = needed("reasoning_gym", "ReasoningGym", "reasoning-gym").create_dataset
    try:
        return create(name, seed=seed, size=size, **json.loads(config))
    except Exception as error:  # the package checks its settings with assertions, type errors and value errors
        raise UsageError(
            f"ReasoningGym: {name} refuses config={config} ({described(error)}); mend the config."
        ) from None


@lru_cache(maxsize=4)
def _problems(
    name: str, config: str, seed: int, train_size: int, held_out_size: int
) -> dict[Split, list[dict[str, Any]]]:
    """The problems of each split, in the order of their seeds, no question twice."""
    wanted: dict[Split, int] = {"train": train_size, "validation": held_out_size, "test": held_out_size}
    found: dict[Split, list[dict[str, Any]]] = {split: [] for split in wanted}
    attempts = 3 * max(round(train_size / (1 - 2 * _SHARE)), round(held_out_size / _SHARE)) + 300
    generator, known = _generator(name, config, seed, attempts), set()
    for number in range(attempts):
        entry = _problem(generator, name, number)
        split = split_of(fingerprint(entry["question"]), _SHARE, _SHARE)
        if entry["question"] not in known and len(found[split]) < wanted[split]:
            known.add(entry["question"])
            found[split].append(entry)
        if all(len(found[split]) == wanted[split] for split in wanted):
            return found
    counts = ", ".join(f"{len(found[split])} of {wanted[split]} for {split}" for split in wanted)
    raise UsageError(
        f"ReasoningGym: {attempts:,} problems of {name} have too few different questions ({counts}); lower train_size "
        "or held_out_size, or set a config with more variety."
    )


def _problem(generator: Any, name: str, number: int) -> dict[str, Any]:
    try:
        return generator[number]
    except Exception as error:
        raise UsageError(f"ReasoningGym: {name} cannot generate problem {number} ({described(error)}).") from error


def _uid(question: str, answer: str) -> int:
    digest = blake2b(json.dumps([question, answer]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
