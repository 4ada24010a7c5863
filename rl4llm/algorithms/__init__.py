"""The loop, and what it is made of."""

from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.evaluation import Evaluation
from rl4llm.algorithms.microbatches import accumulate_gradients, cut_by_tokens, map_microbatches
from rl4llm.algorithms.policy_gradient import PolicyGradient
from rl4llm.algorithms.supervised import Supervised
from rl4llm.algorithms.updates import Updates

__all__ = [
    # loops
    "PolicyGradient",
    "Supervised",
    # choices
    "Composition",
    "Evaluation",
    "Updates",
    # cutting
    "accumulate_gradients",
    "cut_by_tokens",
    "map_microbatches",
]
