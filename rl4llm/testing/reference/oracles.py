"""Which slow reference belongs to which component. Register one for a class of your own, and it is tested too."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rl4llm.advantages import (
    GAE,
    ConstantBaseline,
    CorrectnessRelative,
    GroupRelative,
    LeaveOneOut,
    LengthAdaptiveGAE,
    MaxRL,
    MonteCarlo,
    OptimalBaseline,
    PassAtKTraining,
    QuantileRelative,
    SegmentMonteCarlo,
    SingleStream,
)
from rl4llm.batch import RolloutBatch
from rl4llm.objectives import (
    CISPO,
    DPPO,
    GMPO,
    GSPO,
    REBEL,
    SAPO,
    TOPR,
    EntropyRatioClip,
    GSPOToken,
    ImportanceWeighted,
    MaskedImportanceWeighted,
    MinPrefixRatio,
    OptimalAdvantageRegression,
    PPOClip,
    RatioVariance,
    Reinforce,
    SoLS,
    TrajectoryBellmanResidual,
)
from rl4llm.testing.reference import advantages
from rl4llm.testing.reference import coefficients as c

Given = tuple[Tensor, Tensor | None]

# (part, batch) -> advantages and returns (None: it gives none)
ORACLES: dict[type, Callable[[Any, RolloutBatch], Given]] = {
    GAE: advantages.gae,
    LengthAdaptiveGAE: advantages.length_adaptive_gae,
    MonteCarlo: advantages.monte_carlo,
    GroupRelative: advantages.of_group,
    LeaveOneOut: advantages.of_the_others,
    CorrectnessRelative: advantages.correctness_relative,
    OptimalBaseline: advantages.optimal_baseline,
    MaxRL: advantages.max_rl,
    QuantileRelative: advantages.quantile_relative,
    PassAtKTraining: advantages.pass_at_k,
    SingleStream: advantages.single_stream,
    ConstantBaseline: advantages.constant_baseline,
    SegmentMonteCarlo: advantages.by_segment,
}
COEFFICIENTS = c.COEFFICIENTS
COEFFICIENTS |= {
    Reinforce: c.of_tokens(c.reinforce),
    ImportanceWeighted: c.of_tokens(c.importance_weighted),
    MaskedImportanceWeighted: c.of_tokens(c.masked_importance_weighted),
    PPOClip: c.of_tokens(c.ppo_clip),
    CISPO: c.of_tokens(c.cispo),
    SAPO: c.of_tokens(c.sapo),
    SoLS: c.of_tokens(c.sols),
    RatioVariance: c.of_tokens(c.ratio_variance),
    DPPO: c.of_tokens(c.dppo),
    EntropyRatioClip: c.entropy_ratio,
    MinPrefixRatio: c.min_prefix_ratio,
    TOPR: c.topr,
    GSPO: c.gspo,
    GSPOToken: c.gspo_token,
    GMPO: c.gmpo,
    OptimalAdvantageRegression: c.optimal_advantage,
    TrajectoryBellmanResidual: c.bellman_residual,
    REBEL: c.rebel,
}
