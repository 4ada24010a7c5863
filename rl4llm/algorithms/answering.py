"""`Answering`: a policy with the engine that draws its responses and the scorer that scores them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from torch import Tensor
from torch.distributed.tensor import DTensor

from rl4llm.algorithms.runtime import Runtime
from rl4llm.models import Policy
from rl4llm.models.adapters import has_adapter
from rl4llm.rewards import Scorer
from rl4llm.rollouts import Engine, EngineSpec, Sampling


@dataclass(frozen=True)
class Answering:
    """A policy, its engine, its scorer and how responses are sampled.

    Args:
        policy: The policy.
        engine: Draws its responses, with its present weights.
        scorer: Runs the reward; None runs it in this process.
        sampling: How tokens are drawn.
    """

    policy: Policy
    engine: Engine
    scorer: Scorer | None
    sampling: Sampling

    @contextmanager
    def of(self, policy: Policy, spec: EngineSpec) -> Iterator["Answering"]:
        """Answer with another policy in the body: on this engine if it is sent its weights, else on one of its own.

        Args:
            policy: What answers.
            spec: Builds an engine for it.
        """
        if policy is self.policy or self.engine.own_weights:
            yield replace(self, policy=policy)
            return
        with spec.build(policy) as engine:
            yield replace(self, policy=policy, engine=engine)

    @contextmanager
    def drawing(self, runtime: Runtime, version: int) -> Iterator[None]:
        """Draw responses in the body, with the policy's present weights.

        An engine that shares the policy's module finds its weights whole on this rank. One with weights of its own gets
        them on every rank before any rank draws, and rests afterwards; an adapter is merged into what it gets, for
        which the weights are whole while they are sent.

        Args:
            runtime: Ranks.
            version: Version of the policy's weights.
        """
        if not self.engine.own_weights:
            with runtime.whole_weights(self.policy):
                self.sync(version)
                yield
            return
        with runtime.whole_weights(self.policy) if has_adapter(self.policy.model) else nullcontext():
            runtime.together(lambda: self.sync(version))
        try:
            yield
        finally:
            self.engine.rest()

    def sync(self, version: int) -> None:
        """Give the engine the policy's weights, adapters merged, each gathered when its turn comes.

        Gathering a sharded tensor takes all ranks, so all of them go through all tensors, whatever their engine does.
        """
        weights = gathered(self.policy.weights())
        try:
            self.engine.sync(weights, version)
        finally:
            if self.engine.own_weights:
                for _ in weights:
                    pass


def gathered(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and whole tensors without gradient; a sharded one is gathered when its turn comes."""
    for name, tensor in named:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        yield name, whole.detach()
