"""Advantage estimators: functions of tensors, and frozen components that feed them from a batch."""

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.advantages.bootstrap import bootstrap_truncated
from rl4llm.advantages.constant_baseline import ConstantBaseline, constant_baseline
from rl4llm.advantages.correctness import CorrectnessRelative, correctness_relative
from rl4llm.advantages.gae import GAE, LengthAdaptiveGAE, gae, length_adaptive_gae
from rl4llm.advantages.group import GroupRelative, group_relative
from rl4llm.advantages.leave_one_out import LeaveOneOut, leave_one_out
from rl4llm.advantages.max_rl import MaxRL, max_rl
from rl4llm.advantages.optimal_baseline import OptimalBaseline, optimal_baseline
from rl4llm.advantages.pass_at_k import PassAtKTraining, pass_at_k
from rl4llm.advantages.quantile import QuantileRelative, quantile_relative
from rl4llm.advantages.returns import MonteCarlo, discounted_returns
from rl4llm.advantages.scan import reverse_linear_scan
from rl4llm.advantages.segment import SegmentMonteCarlo, segment_advantages
from rl4llm.advantages.single_stream import SingleStream, tracker_advantages
from rl4llm.advantages.whiten import Whiten, whiten
from rl4llm.masked import result_dtype, spread

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
    "correctness_relative",
    "optimal_baseline",
    "max_rl",
    "quantile_relative",
    "pass_at_k",
    "GroupRelative",
    "LeaveOneOut",
    "CorrectnessRelative",
    "OptimalBaseline",
    "MaxRL",
    "QuantileRelative",
    "PassAtKTraining",
    # Against a value from elsewhere
    "tracker_advantages",
    "segment_advantages",
    "constant_baseline",
    "ConstantBaseline",
    "SingleStream",
    "SegmentMonteCarlo",
    # Transforms
    "bootstrap_truncated",
    "whiten",
    "Whiten",
    # Building blocks
    "reverse_linear_scan",
    "spread",
    "result_dtype",
]
