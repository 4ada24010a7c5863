"""Advantage estimators: functions of tensors, and frozen components that feed them from a batch."""

from rl4llm.advantages.base import AdvantageEstimator, Advantages, result_dtype, spread
from rl4llm.advantages.gae import GAE, LengthAdaptiveGAE, gae, length_adaptive_gae
from rl4llm.advantages.group import GroupRelative, group_relative
from rl4llm.advantages.leave_one_out import LeaveOneOut, leave_one_out
from rl4llm.advantages.returns import MonteCarlo, discounted_returns
from rl4llm.advantages.scan import reverse_linear_scan
from rl4llm.advantages.whiten import Whiten, whiten

__all__ = [
    # The family
    "AdvantageEstimator",
    "Advantages",
    # Along time
    "gae",
    "length_adaptive_gae",
    "discounted_returns",
    "GAE",
    "LengthAdaptiveGAE",
    "MonteCarlo",
    # Against the group
    "group_relative",
    "leave_one_out",
    "GroupRelative",
    "LeaveOneOut",
    # Transforms
    "whiten",
    "Whiten",
    # Building blocks
    "reverse_linear_scan",
    "spread",
    "result_dtype",
]
