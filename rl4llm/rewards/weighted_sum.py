"""`WeightedSum`: one score from several rewards, each of which is logged."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rl4llm.checks import UsageError
from rl4llm.rewards.base import BatchVerifier, Reward, Verifier
from rl4llm.rewards.verdicts import LARGEST_SCORE, Problem, Score, call_reward


class Given(NamedTuple):
    """An answer, with what some components of a sum have already said about the response."""

    answer: Any
    said: Mapping[str, Any]


@dataclass(frozen=True)
class WeightedSum(Verifier):
    """Σ weight · component, with every component logged as `reward/<name>`.

    A response is correct when the component named by `correct` says so, whatever the others add. A response that one
    component cannot score is unscorable, and the reason names the component. A weight of 0 logs a component only.

    Args:
        components: Rewards by name.
        weights: Weights by name; 1 where none is given.
        correct: Name of the component that says whether a response is correct; None: the sum does.

    Raises:
        UsageError: If there is no component, or a weight or `correct` names none.

    Example:
        >>> from rl4llm.rewards import ExactMatch, ResponseLength
        >>> reward = WeightedSum({"correct": ExactMatch(), "short": ResponseLength(most=3)}, {"short": 0.1})
        >>> reward("", "yes", "no")
        Score(value=0.1, components={'correct': 0.0, 'short': 1.0}, correctness=0.0)
    """

    components: Mapping[str, Reward]
    weights: Mapping[str, float] = field(default_factory=dict)
    correct: str | None = "correct"

    def __post_init__(self) -> None:
        if not self.components:
            raise UsageError("WeightedSum: components is empty; name at least one reward.")
        names = {"correct": [] if self.correct is None else [self.correct], "weights": list(self.weights or {})}
        for setting, given in names.items():
            for name in given:
                if name not in self.components:
                    raise UsageError(f"WeightedSum: {setting} names '{name}'; {self._hint(name)}.")
        wrong = {name: weight for name, weight in (self.weights or {}).items() if not math.isfinite(weight)}
        for name, weight in wrong.items():
            raise UsageError(f"WeightedSum: the weight of '{name}' is {weight}; give a finite number.")

    def __hash__(self) -> int:
        return hash((tuple(self.components), tuple((self.weights or {}).items()), self.correct))

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, list(self.components), n=1)
        hint = f"did you mean '{near[0]}'" if near else f"the components are {', '.join(self.components)}"
        return hint if name != self.correct or near else f"{hint}; name one of them with correct, or set correct=null"

    def weight(self, name: str) -> float:
        """Return the weight of a component."""
        return float((self.weights or {}).get(name, 1.0))

    @property
    def at_once(self) -> dict[str, BatchVerifier]:
        """The components that score many responses at once."""
        return {name: reward for name, reward in self.components.items() if isinstance(reward, BatchVerifier)}

    def prepare(self) -> None:
        """Prepare every component that can be prepared."""
        for reward in self.components.values():
            if isinstance(reward, Verifier):
                reward.prepare()

    def __call__(self, prompt: Any, response: str, answer: Any) -> Score | Problem:
        """Return the sum with its components, or the problem of the first component that has one."""
        answer, known = answer if isinstance(answer, Given) else (answer, {})
        named: dict[str, float] = {}
        value, correctness = 0.0, None
        for name, reward in self.components.items():
            asked = (lambda *_, name=name: known[name]) if name in known else reward
            said = call_reward(asked, prompt, response, answer, LARGEST_SCORE)
            if isinstance(said, Problem):
                return Problem(f"component '{name}' {said.kind}", said.detail)
            number = said.value if isinstance(said, Score) else said
            inner = said.components if isinstance(said, Score) else {}
            named |= {name: number, **{f"{name}/{part}": one for part, one in inner.items()}}
            value += self.weight(name) * number
            if name == self.correct:
                correctness = said.correctness if isinstance(said, Score) and said.correctness is not None else number
        return Score(value, named, correctness)
