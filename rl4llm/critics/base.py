"""The family of value sources: where V(sₜ) comes from, and how it learns."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.parts import Part
from rl4llm.states import PolicyStates

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy

TokenFunction = Callable[[RolloutBatch], Tensor]
StateFunction = Callable[[PolicyStates, RolloutBatch], Tensor]


@runtime_checkable
class Complete(Protocol):
    """Function that draws completions of cut responses and scores them."""

    def __call__(
        self,
        batch: RolloutBatch,
        rows: Tensor,
        cuts: Tensor,
        *,
        samples: int,
        greedy: bool = False,
        unfinished: float | None = None,
    ) -> Tensor:
        """Return the scores, cut × sample.

        Args:
            batch: The rollout batch.
            rows: Which response is cut, one entry a cut.
            cuts: Before which column of the response; 0 starts from the prompt alone.
            samples: Completions of each cut response, each as long as the response may still become.
            greedy: Whether the likeliest tokens are taken instead of drawn ones.
            unfinished: Score of completions that the length limit cuts off; None: what the reward gives.
        """


@runtime_checkable
class Decode(Protocol):
    """Function that returns the text of every response token."""

    def __call__(self, batch: RolloutBatch) -> Sequence[Sequence[str]]:
        """One list of pieces of text a response, one piece a column up to its last token; joined, the response."""


class Surveyed(dict[int, list[float]]):
    """Scores of a survey, by the uid of the prompt.

    Args:
        scores: One score per response.
        correct: Which responses the task calls correct.
    """

    def __init__(self, scores: Mapping[int, list[float]], correct: Mapping[int, list[bool]]) -> None:
        super().__init__(scores)
        self.correct = dict(correct)


@runtime_checkable
class Survey(Protocol):
    """Function that scores responses of the untrained policy to every training prompt."""

    def __call__(self, *, samples: int, cache: str | None) -> Mapping[int, Sequence[float]]:
        """Return the scores of `samples` responses to each prompt by its uid, from the cache where it has them.

        A mapping that is `Surveyed` says which of them are correct; in any other, those with a positive score are.

        Raises:
            UsageError: If the cache belongs to another policy, data set or sampling, or prompts have no uid.
        """


def _log_nothing(name: str, numbers: Tensor) -> None:
    """Log nothing, because there is no step that the metrics could belong to."""


def _no_answers(asked: Sequence[Any]) -> Any:
    """Raise, because no answers are known."""
    raise UsageError("this value source asks for the answers of the prompts, and whoever called it knows none.")


def _no_states(function: StateFunction, batch: RolloutBatch, layer: float) -> Tensor:
    """Raise because the caller passes no policy."""
    raise UsageError("this value source reads the policy's hidden states, and the caller provides none.")


@dataclass(frozen=True)
class ValueContext:
    """Access to the loop for value sources, which do not depend on the loop itself.

    Args:
        map: `map(f, batch)` evaluates f without grad on microbatches of the batch and gives its result for the
            whole batch (the batch and time axes are f's last two).
        minimize: `minimize(name, batch, f)` steps the optimizer of the learner `name` on the mean of the losses that
            f gives, one per token or one per response, over the epochs, minibatches and microbatches of its schedule.
        log_probs: log π of the response tokens under the policy as it is now, without grad, in microbatches.
        own_values: V(sₜ) of the policy's own value head, likewise.
        complete: Draws completions of cut responses with the policy as it is now and scores them.
        decode: The text of every response token.
        log: `log(name, numbers)` adds numbers to the step's metrics, whose mean is logged under `critics/`.
        warming_up: Whether only the critics learn from this rollout batch.
        answers: What the reward compares with, as text, for the prompts that `group_ids` count.
        encode: Token ids of texts, as the policy's tokenizer gives them.
        states: `states(f, batch, layer)` evaluates f on the hidden states of the policy as it is now, without grad, in
            microbatches, and gives its result for the whole batch (the batch is f's first axis). The states themselves
            are never held for more than a microbatch. `layer` is as for
            [CrossRolloutProbe][rl4llm.critics.probe.CrossRolloutProbe].
    """

    map: Callable[[TokenFunction, RolloutBatch], Tensor]
    minimize: Callable[[str, RolloutBatch, TokenFunction], None]
    log_probs: Callable[[RolloutBatch], Tensor]
    own_values: Callable[[RolloutBatch], Tensor]
    complete: Complete
    decode: Decode
    log: Callable[[str, Tensor], None] = _log_nothing
    warming_up: bool = False
    answers: Callable[[Sequence[int]], Sequence[str]] = _no_answers
    encode: Callable[[Sequence[str]], list[list[int]]] = _no_answers
    states: Callable[[StateFunction, RolloutBatch, float], Tensor] = _no_states


class ValueSource(nn.Module, Part):
    """Base class of the sources of V(sₜ) for the estimator: learned critics, a tracker, continuations or a table.

    Attributes:
        reads_scores: Whether a response's values may be made of the other responses' scores in the same batch.
    """

    reads_scores: ClassVar[bool] = False

    @property
    def learners(self) -> Mapping[str, nn.Module]:
        """The modules trained by gradient, by name, with one optimizer each; none by default."""
        return {}

    @property
    def shares_prompts(self) -> bool:
        """Whether the forward passes of all learners run the prompt of several responses once."""
        return all(getattr(learner, "shares_prompts", False) for learner in self.learners.values())

    @abstractmethod
    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with `values` (and `critic_values` if there are several estimates)."""

    @abstractmethod
    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Learn from the batch, which holds `returns` if the estimator gives them."""

    def believes(self, batch: RolloutBatch, context: ValueContext) -> Bool[Tensor, " batch"]:
        """Return whether the value at the cut of each truncated response is to be used; all are by default.

        Called under `truncation="bootstrap"`; a response whose value is not used counts as ended at the cut.
        """
        return torch.ones_like(batch.truncated)

    def prepare(self, survey: Survey) -> None:
        """Prepare for training; called once before it and again when it is resumed. Does nothing by default."""

    def priorities(self, uids: Tensor) -> Tensor | None:
        """Return the weight of each of these prompts for sampling, at least 0; None if the source has no weights."""
        return None


class ValueSpec(Part):
    """Base class of the frozen choices of a value source, which is loaded only when it is built.

    Attributes:
        sees_scores: Whether learning from a batch shows its values the batch's own scores, so that it must not learn
            before they are read.
        shares_trunk: Whether it puts a value head on the policy itself, trained with the policy's loss.
        needs_prompts: Whether it asks for the prompts of the batch, to complete them or to read their answers, so that
            they must be at hand.
        spreads_returns: Whether it also says how returns are spread around its values (`return_spread`).
        values_states: Whether it has a value for any state, so that a response that was cut off can go on from it.
        judges_cuts: Whether all that it adds is to say which values at cuts are believed, so that these must be asked
            for.
    """

    sees_scores: ClassVar[bool] = False
    shares_trunk: ClassVar[bool] = False
    needs_prompts: ClassVar[bool] = False
    spreads_returns: ClassVar[bool] = False
    values_states: ClassVar[bool] = True
    judges_cuts: ClassVar[bool] = False

    @abstractmethod
    def build(self, source: "ModelSource", policy: "Policy") -> ValueSource:
        """Build the value source for the policy and the model it was loaded from; some sources share that model."""

    @abstractmethod
    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise, before anything is loaded, if it cannot work with this policy and this many responses per prompt."""

    def check_context(self, tokens: int) -> None:
        """Raise, before anything is loaded, if prompts with their responses may be too long for it; by default never.

        Args:
            tokens: Longest prompt and response together.
        """
