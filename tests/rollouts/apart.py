"""An engine with weights of its own, as one of another process has them, that can be made to miss updates."""

import copy
from dataclasses import dataclass, field

import torch

from rl4llm.rollouts import Engine, EngineSpec, HuggingFaceEngine


class Apart(Engine):
    """Draws from a copy of the policy; while `withheld` is set, `sync` takes the version over and not the weights."""

    def __init__(self, policy):
        self.inner, self.withheld, self.received = HuggingFaceEngine(copy.deepcopy(policy)), False, []
        self.rests = 0

    @property
    def version(self):
        return self.inner.version

    def sync(self, weights, version):
        self.received = [(name, tensor.clone()) for name, tensor in weights]
        if not self.withheld:
            self.inner.policy.model.load_state_dict(dict(self.received), strict=False)
        self.inner.version = version

    def generate(self, ids, mask, limits, *, copies, sampling, seeds):
        return self.inner.generate(ids, mask, limits, copies=copies, sampling=sampling, seeds=seeds)

    def rest(self):
        self.rests += 1

    def close(self):
        self.inner.close()


@dataclass(frozen=True)
class ApartRollout(EngineSpec):
    """Builds one, and keeps what it has built."""

    withheld: bool = False
    built: list = field(default_factory=list)

    def build(self, policy):
        engine = Apart(policy)
        engine.withheld = self.withheld
        self.built.append(engine)
        return engine


def moved(policy, by=0.02):
    """The same policy with other weights."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    return policy
