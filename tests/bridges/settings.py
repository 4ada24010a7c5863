"""Settings of TRL, verl and OpenRLHF, and ours that give the same update; the page From TRL or verl shows these rows.

Both columns are keyword arguments: of the other library's configuration, and of `PolicyLoss` or an estimator.
"""

from rl4llm.advantages import (
    GAE,
    GroupRelative,
    LeaveOneOut,
    MonteCarlo,
    OptimalBaseline,
    Whiten,
)
from rl4llm.bridges.policy_loss import PolicyLoss
from rl4llm.gates import HighEntropy
from rl4llm.objectives import (
    CISPO,
    DPPO,
    GMPO,
    GSPO,
    SAPO,
    ConstantNorm,
    GSPOToken,
    PPOClip,
    Reinforce,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from rl4llm.regularizers import EntropyBonus, KLPenalty, KLReward

PARTS = {
    part.__name__: part
    for part in (
        *(GAE, GroupRelative, LeaveOneOut, MonteCarlo, OptimalBaseline, Whiten, HighEntropy),
        *(CISPO, DPPO, GMPO, GSPO, SAPO, GSPOToken, PPOClip, Reinforce),
        *(ConstantNorm, SequenceMean, SequenceSum, TokenMean, EntropyBonus, KLPenalty, KLReward),
    )
}

TRL_LOSSES = (
    ('loss_type="grpo", epsilon=0.2, epsilon_high=0.28', "objective=PPOClip(0.2, 0.28), aggregator=SequenceMean()"),
    ('loss_type="bnpo", epsilon=0.2', "objective=PPOClip(0.2, 0.2), aggregator=TokenMean()"),
    ('loss_type="dapo", epsilon=0.2, epsilon_high=0.28', "objective=PPOClip(0.2, 0.28), aggregator=TokenMean()"),
    (
        'loss_type="dr_grpo", epsilon=0.2, max_completion_length=9',
        "objective=PPOClip(0.2, 0.2), aggregator=ConstantNorm(max_tokens=9)",
    ),
    (
        'loss_type="grpo", epsilon=0.2, delta=1.5',
        "objective=PPOClip(0.2, 0.2, dual_clip=1.5), aggregator=SequenceMean()",
    ),
    (
        'loss_type="grpo", importance_sampling_level="sequence", epsilon=3e-4, epsilon_high=4e-4',
        "objective=GSPO(3e-4, 4e-4), aggregator=SequenceMean()",
    ),
    (
        'loss_type="luspo", importance_sampling_level="sequence", epsilon=3e-4, epsilon_high=4e-4',
        "objective=GSPOToken(3e-4, 4e-4), aggregator=SequenceSum()",
    ),
    ('loss_type="cispo", epsilon_high=5.0', "objective=CISPO(clip_low=1.0, clip_high=4.0), aggregator=TokenMean()"),
    (
        'loss_type="sapo", sapo_temperature_pos=1.0, sapo_temperature_neg=1.25',
        "objective=SAPO(1.0, 1.25), aggregator=SequenceMean()",
    ),
    (
        'loss_type="dapo", beta=0.04, use_bias_correction_kl=False',
        'objective=PPOClip(), aggregator=TokenMean(), regularizers=(KLPenalty(0.04, estimator="k3"),)',
    ),
    (
        'loss_type="dapo", entropy_coef=0.01',
        "objective=PPOClip(), aggregator=TokenMean(), regularizers=(EntropyBonus(0.01),)",
    ),
)

# Equal as long as the policy has not moved: TRL multiplies its estimate by the ratio.
TRL_LOSSES_ON_POLICY = (
    (
        'loss_type="dapo", beta=0.04, use_bias_correction_kl=True',
        "objective=PPOClip(), aggregator=TokenMean(), "
        'regularizers=(KLPenalty(0.04, estimator="k3", unbiased_gradient=True),)',
    ),
)

VERL_LOSSES = (
    (
        'loss_mode="vanilla", clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=3.0, loss_agg_mode="token-mean"',
        "objective=PPOClip(0.2, 0.28, dual_clip=3.0), aggregator=TokenMean()",
    ),
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, loss_agg_mode="seq-mean-token-sum"',
        "objective=PPOClip(dual_clip=3.0), aggregator=SequenceSum()",
    ),
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, loss_agg_mode="seq-mean-token-sum-norm", loss_scale_factor=9',
        "objective=PPOClip(dual_clip=3.0), aggregator=ConstantNorm(max_tokens=9)",
    ),
    (
        'loss_mode="gspo", clip_ratio_low=3e-4, clip_ratio_high=4e-4, loss_agg_mode="token-mean"',
        "objective=GSPOToken(3e-4, 4e-4), aggregator=TokenMean()",
    ),
    ('loss_mode="gpg", loss_agg_mode="token-mean"', "objective=Reinforce(), aggregator=TokenMean()"),
    (
        'loss_mode="cispo", clip_ratio_low=1.0, clip_ratio_high=4.0, loss_agg_mode="token-mean"',
        "objective=CISPO(clip_low=1.0, clip_high=4.0), aggregator=TokenMean()",
    ),
    (
        'loss_mode="dppo_tv", clip_ratio_low=0.15, clip_ratio_high=0.15, clip_ratio_c=20.0',
        'objective=DPPO("tv", 0.15, 0.15, weight_cap=20.0), aggregator=TokenMean()',
    ),
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, use_kl_loss=True, kl_loss_coef=0.01, kl_loss_type="low_var_kl"',
        "objective=PPOClip(dual_clip=3.0), aggregator=TokenMean(), "
        'regularizers=(KLPenalty(0.01, estimator="k3", clip=10.0),)',
    ),
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, use_kl_loss=True, kl_loss_coef=0.01, kl_loss_type="k2"',
        'objective=PPOClip(dual_clip=3.0), aggregator=TokenMean(), regularizers=(KLPenalty(0.01, estimator="k2"),)',
    ),
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, use_kl_loss=True, kl_loss_coef=0.01, kl_loss_type="kl"',
        'objective=PPOClip(dual_clip=3.0), aggregator=TokenMean(), regularizers=(KLPenalty(0.01, estimator="k1"),)',
    ),
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, use_kl_loss=True, kl_loss_coef=0.01, kl_loss_type="k3+"',
        "objective=PPOClip(dual_clip=3.0), aggregator=TokenMean(), "
        'regularizers=(KLPenalty(0.01, estimator="k3", unbiased_gradient=True),)',
    ),
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, entropy_coeff=0.01',
        "objective=PPOClip(dual_clip=3.0), aggregator=TokenMean(), regularizers=(EntropyBonus(0.01),)",
    ),
)

# verl divides by a length plus 1e-8 in these.
VERL_LOSSES_NEARLY = (
    (
        'loss_mode="vanilla", clip_ratio_c=3.0, loss_agg_mode="seq-mean-token-mean"',
        "objective=PPOClip(dual_clip=3.0), aggregator=SequenceMean()",
    ),
    (
        'loss_mode="sapo", tau_pos=1.0, tau_neg=1.05',
        "objective=SAPO(1.0, 1.05), aggregator=SequenceMean()",
    ),
)

VERL_ADVANTAGES = (
    ('adv_estimator="grpo", norm_adv_by_std_in_grpo=False', "advantage=GroupRelative(normalize_std=False)"),
    ('adv_estimator="rloo"', "advantage=LeaveOneOut()"),
    ('adv_estimator="opo"', "advantage=OptimalBaseline()"),
)

# verl adds 1e-6 to the standard deviation of a group, and 1e-8 to the variance that it whitens with.
VERL_ADVANTAGES_NEARLY = (
    ('adv_estimator="grpo", norm_adv_by_std_in_grpo=True', "advantage=GroupRelative()"),
    ('adv_estimator="gae", gamma=0.99, lam=0.95', "advantage=GAE(gamma=0.99, lam=0.95), whitening=Whiten()"),
    ('adv_estimator="reinforce_plus_plus", gamma=0.99', "advantage=MonteCarlo(gamma=0.99), whitening=Whiten()"),
    (
        'adv_estimator="reinforce_plus_plus_baseline"',
        "advantage=GroupRelative(normalize_std=False), whitening=Whiten()",
    ),
)

OPENRLHF_LOSSES = (
    (
        'policy_loss_type="ppo", clip_eps_low=0.2, clip_eps_high=0.28, token_level_loss=True',
        "objective=PPOClip(0.2, 0.28), aggregator=TokenMean()",
    ),
    (
        'policy_loss_type="ppo", dual_clip=3.0, token_level_loss=True',
        "objective=PPOClip(dual_clip=3.0), aggregator=TokenMean()",
    ),
    (
        'policy_loss_type="gspo", clip_eps_low=3e-4, clip_eps_high=4e-4',
        "objective=GSPO(3e-4, 4e-4), aggregator=SequenceMean()",
    ),
    ('policy_loss_type="ppo", token_level_loss=False', "objective=PPOClip(), aggregator=SequenceMean()"),
)

OPENRLHF_ADVANTAGES = (
    ('estimator="rloo"', "advantage=LeaveOneOut()"),
    ('estimator="dr_grpo"', "advantage=GroupRelative(normalize_std=False)"),
    ('estimator="group_norm"', "advantage=GroupRelative()"),
    (
        'estimator="gae", gamma=0.99, lambd=0.95',
        "advantage=GAE(gamma=0.99, lam=0.95), whitening=Whiten(unbiased=False)",
    ),
    ('estimator="reinforce", gamma=0.99', "advantage=MonteCarlo(gamma=0.99), whitening=Whiten(unbiased=False)"),
    (
        'estimator="reinforce_baseline"',
        "advantage=GroupRelative(normalize_std=False), whitening=Whiten(unbiased=False)",
    ),
)

TABLES = (
    *(TRL_LOSSES, TRL_LOSSES_ON_POLICY, VERL_LOSSES, VERL_LOSSES_NEARLY, VERL_ADVANTAGES, VERL_ADVANTAGES_NEARLY),
    *(OPENRLHF_LOSSES, OPENRLHF_ADVANTAGES),
)


def keywords(text):
    """The keyword arguments that a column of a row writes."""
    return eval(f"dict({text})", dict(PARTS))


def policy_loss(text):
    """The loss that our column of a row writes."""
    return PolicyLoss(**keywords(text))
