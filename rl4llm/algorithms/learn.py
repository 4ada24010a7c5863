"""Learning: the value source learns from the judged batch, each critic from its own shard over all ranks."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.completions import complete
from rl4llm.algorithms.deal import deal, map_dealt, map_rows
from rl4llm.algorithms.health import Health
from rl4llm.algorithms.improve import Learner, improve
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.critics import ValueContext, ValueSource
from rl4llm.critics.base import StateFunction
from rl4llm.data.task import PromptBatch
from rl4llm.models.states import policy_states
from rl4llm.rollouts import decode_pieces


def learn(critics: ValueSource, batch: RolloutBatch, context: ValueContext) -> None:
    """Let the value source learn from the judged batch, which holds `returns` where the estimator gives them."""
    critics.learn(batch, context)


def value_context(
    runtime: Runtime,
    answering: Answering,
    prompts: PromptBatch,
    learner: Callable[[str], Learner],
    policy_pass: Callable[[RolloutBatch, str], Tensor],
    meter: Meter,
    health: Health,
    *,
    budget: Callable[[RolloutBatch], int],
    shared: bool,
    counted: str | None,
) -> ValueContext:
    """Return the forward passes, steps and completions that the loop offers a value source for one rollout batch.

    Args:
        runtime: Ranks, random numbers and steps.
        answering: What completes cut responses.
        prompts: The prompts that `group_ids` count.
        learner: From the name of a learner of the value source to how it steps.
        policy_pass: `policy_pass(rows, field)` gives a field of the policy's output for all rows, without gradient.
        meter: Receives the losses of the critics.
        health: Counts skipped steps.
        budget: Token budget of a forward pass over rows of a batch.
        shared: Whether all learners of the value source run the prompt of several responses once.
        counted: Name of the learner whose last step the Trainer counts; None if it counts the policy's.
    """

    def minimize(name: str, rows: RolloutBatch, loss: Callable[[RolloutBatch], Tensor]) -> None:
        def losses(piece: RolloutBatch) -> list[Tensor]:
            term = loss(piece)
            meter.add(
                f"{name}/value_loss", term, piece.response_mask if term.ndim == 2 else piece.response_mask.any(-1)
            )
            return [term]

        one, random, world = learner(name), runtime.generator("deal", name), runtime.world_size
        dealt = deal(rows, one.updates, one.averaging, generator=random, world_size=world, shared=shared)
        improve(runtime, one, dealt, losses, meter, health, counted=name == counted)

    def states(function: StateFunction, rows: RolloutBatch, layer: float) -> Tensor:
        def read(piece: RolloutBatch) -> Tensor:
            temperature = answering.sampling.temperature
            return function(policy_states(answering.policy, piece, layer=layer, temperature=temperature), piece)

        return map_rows(runtime, read, rows, budget(rows))

    return ValueContext(
        map=lambda f, rows: map_dealt(runtime, f, rows, budget(rows), shared=shared),
        minimize=minimize,
        log_probs=lambda rows: policy_pass(rows, "log_probs"),
        own_values=lambda rows: policy_pass(rows, "values"),
        complete=partial(complete, runtime, answering, prompts),
        decode=partial(decode_pieces, answering.policy),
        log=lambda name, numbers: meter.add(f"critics/{name}", numbers.reshape(-1)),
        warming_up=counted is not None,
        answers=partial(answers_of, prompts),
        encode=lambda texts: [
            answering.policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts
        ],
        states=states,
    )


def answers_of(prompts: PromptBatch, asked: Sequence[int]) -> list[str]:
    """What the reward compares with, as text, for the prompts in these places.

    Raises:
        UsageError: If a prompt is no longer available (its response is replayed) or has no answer.
    """
    if asked and max(asked) >= len(prompts):
        raise UsageError(
            "the answers of replayed responses are not known, because their prompts are no longer available; set "
            "--model.replay=null, or --model.critics to critics that do not read answers."
        )
    answers = [prompts.examples[place].answer for place in asked]
    if any(answer is None for answer in answers):
        raise UsageError(
            "the critics read the answers, but a prompt of the data set has none; give every prompt an answer, or set "
            "other --model.critics."
        )
    return [str(answer) for answer in answers]
