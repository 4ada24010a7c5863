"""Learning: the value source learns from the judged batch, each critic from its own shard over all ranks."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.completions import complete
from rl4llm.algorithms.deal import deal, map_dealt
from rl4llm.algorithms.health import Health
from rl4llm.algorithms.improve import Learner, improve
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch
from rl4llm.critics import ValueContext, ValueSource
from rl4llm.data.task import PromptBatch
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
    max_tokens: int,
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
        max_tokens: Token budget of a forward pass.
        counted: Name of the learner whose last step the Trainer counts; None if it counts the policy's.
    """

    def minimize(name: str, rows: RolloutBatch, loss: Callable[[RolloutBatch], Tensor]) -> None:
        def losses(piece: RolloutBatch) -> list[Tensor]:
            term = loss(piece)
            meter.add(
                f"{name}/value_loss", term, piece.response_mask if term.ndim == 2 else piece.response_mask.any(-1)
            )
            return [term]

        one, world = learner(name), runtime.world_size
        dealt = deal(rows, one.updates, one.averaging, generator=runtime.generator("deal", name), world_size=world)
        improve(runtime, one, dealt, losses, meter, health, counted=name == counted)

    return ValueContext(
        map=lambda f, rows: map_dealt(runtime, f, rows, max_tokens),
        minimize=minimize,
        log_probs=lambda rows: policy_pass(rows, "log_probs"),
        own_values=lambda rows: policy_pass(rows, "values"),
        complete=partial(complete, runtime, answering, prompts),
        decode=partial(decode_pieces, answering.policy),
        log=lambda name, numbers: meter.add(f"critics/{name}", numbers.reshape(-1)),
        warming_up=counted is not None,
    )
