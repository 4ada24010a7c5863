"""All methods that the library implements, and the critics of 2026 that it cites without implementing them."""

from rl4llm.citations.critic_methods import CRITIC_METHODS
from rl4llm.citations.estimator_methods import ESTIMATOR_METHODS
from rl4llm.citations.objective_methods import OBJECTIVE_METHODS
from rl4llm.citations.readings import ABSTRACT, CODE, KINDS, NOTES, Plan

__all__ = ["KINDS", "METHODS", "PLANS"]

METHODS = (*OBJECTIVE_METHODS, *ESTIMATOR_METHODS, *CRITIC_METHODS)
"""In the order of the page of papers."""

PLANS = (
    Plan("2512.03847", "DVPO", (ABSTRACT, NOTES)),
    Plan("2602.17616", "VCPO", (CODE,)),
    Plan("2512.06547", "A-3PO", (NOTES,)),
    Plan("2603.10848", "V0.5", (NOTES,)),
    Plan("2602.03584", "V0", (NOTES,)),
    Plan("2512.17008", "Turn-PPO", (ABSTRACT, NOTES)),
    Plan("2605.13217", "GAGPO", (NOTES,)),
)
"""Critics and learned baselines of 2026, and what they are compared with."""
