"""The methods that change the objective or the whole algorithm, and what was read of each."""

from rl4llm.citations.readings import ABSTRACT, CODE, FRAMEWORK, NOTES, PAPER, RESTATED, Method

OBJECTIVE_METHODS = (
    Method(
        numbers=("2510.01656",),
        name="Asymmetric PPO",
        parts="`MiniCritics`, `group_shards`, `critic_mean`, `AgreementGate`, `DivergenceFilter`",
        recipe="[asyppo](recipes/asyppo.md)",
        read=(ABSTRACT, NOTES),
        differs=(
            "Values are read before the critics learn, so that their spread does not show which critic has just seen a "
            "response. γ, λ, whitening and the critics' passes are not stated; ours are on the recipe's page."
        ),
    ),
    Method(
        numbers=("1707.06347",),
        name="Proximal Policy Optimization",
        parts="`PPOClip`, `ImportanceWeighted`, `SquaredValueLoss`",
        recipe="[ppo](recipes/ppo.md), [asyppo](recipes/asyppo.md), [grpo](recipes/grpo.md)",
        read=(FRAMEWORK,),
        differs="A log-ratio is never clamped, so a token that is far off keeps its gradient.",
    ),
    Method(
        numbers=("1506.02438",),
        name="Generalized advantage estimation",
        parts="`GAE`",
        recipe="[ppo](recipes/ppo.md), [asyppo](recipes/asyppo.md)",
        read=(FRAMEWORK,),
        differs="Tool output is stepped over and costs no factor γλ, because it is no action of the policy.",
    ),
    Method(
        numbers=("2503.01491",),
        name="VC-PPO: decoupled λ",
        parts="`GAE(lam_returns=1.0)`",
        recipe="[ppo](recipes/ppo.md), [asyppo](recipes/asyppo.md)",
        read=(RESTATED,),
        differs="The λ of the value targets is a field of `GAE`, so AsyPPO's recipe uses it too.",
    ),
    Method(
        numbers=("2504.05118",),
        name="VAPO: length-adaptive λ, positive likelihood",
        parts="`LengthAdaptiveGAE`, `Likelihood`, `CorrectResponses`",
        recipe="[vapo](recipes/baselines.md)",
        read=(PAPER,),
        differs=(
            "α is 0.4 and not 0.05: responses to the embedded task have about ten tokens, and 0.05 gives λ = 0 up to "
            "twenty."
        ),
    ),
    Method(
        numbers=("2504.11343",),
        name="RAFT++",
        parts="`MonteCarlo`, `CorrectResponses`",
        recipe="[raft](recipes/baselines.md)",
        read=(CODE,),
        differs="A gate drops failures whatever their scores; with scores of 0 and 1 they weigh nothing anyway.",
    ),
    Method(
        numbers=("2402.03300",),
        name="DeepSeekMath: GRPO",
        parts="`GroupRelative`, `SequenceMean`, `KLPenalty`",
        recipe="[grpo](recipes/grpo.md)",
        read=(PAPER, FRAMEWORK),
        differs=(
            "The KL penalty is off (0.04 in the paper), so that no reference model is loaded. Groups with equal scores "
            "get exactly 0."
        ),
    ),
    Method(
        numbers=("2503.20783",),
        name="Dr. GRPO",
        parts="`GroupRelative(normalize_std=False)`, `ConstantNorm`",
        recipe="[dr_grpo](recipes/baselines.md)",
        read=(CODE,),
        differs="No difference is known.",
    ),
    Method(
        numbers=("2503.14476",),
        name="DAPO",
        parts="`TokenMean`, `PPOClip(clip_high=0.28)`, `FinishedResponses`, `OverlongPenalty`",
        recipe="[dapo](recipes/baselines.md)",
        read=(CODE,),
        differs=(
            "Dynamic sampling stops after `max_draws` loader batches, because most groups are solved late in training."
        ),
    ),
    Method(
        numbers=("2602.04879",),
        name="DPPO: divergence proximal policy optimization",
        parts="`DPPO`",
        recipe="[dppo](recipes/catalogue.md#dppo)",
        read=(PAPER, CODE),
        differs=(
            "The aggregation of the published runs is open. The recipe takes the sum over a response, as in the "
            "objective."
        ),
    ),
    Method(
        numbers=("2601.22718",),
        name="MinPRO: minimum prefix ratio",
        parts="`MinPrefixRatio`",
        recipe="[minpro](recipes/catalogue.md#minpro)",
        read=(ABSTRACT, NOTES),
        differs=(
            "The clip widths are ours: no floor and CISPO's ceiling, because a floor near 1 would undo the weighting."
        ),
    ),
    Method(
        numbers=("2601.03320", "2605.26784"),
        name="R²VPO: ratio-variance regularization",
        parts="`RatioVariance`, `RatioPenalty`, `Constrained`, `DualVariable`",
        recipe="[r2vpo](recipes/catalogue.md#r2vpo)",
        read=(ABSTRACT,),
        differs=(
            "Constraint, Lagrangian and dual step are what the abstracts imply up to constants. Limit, step and start "
            "are ours."
        ),
    ),
    Method(
        numbers=("2506.13585",),
        name="MiniMax-M1: CISPO",
        parts="`CISPO`",
        recipe="[cispo](recipes/baselines.md)",
        read=(FRAMEWORK,),
        differs="The bounds are 1 − clip_low and 1 + clip_high, because frameworks disagree on what the ceiling means.",
    ),
    Method(
        numbers=("2511.20347",),
        name="SAPO",
        parts="`SAPO`",
        recipe="[sapo](recipes/baselines.md)",
        read=(FRAMEWORK,),
        differs="No difference is known.",
    ),
    Method(
        numbers=("2509.01720",),
        name="Succeed or learn slowly",
        parts="`SoLS`, `ValueRegression`, `SuccessReplay`",
        recipe="[sols](recipes/catalogue.md#sols)",
        read=(PAPER, NOTES),
        differs=(
            "The ratio is per token and whole responses are replayed, because the paper's actions are short strings. "
            "The copy of the paper that was read lacks its formulas; they are those of a note."
        ),
    ),
    Method(
        numbers=("2503.14286",),
        name="TOPR",
        parts="`TOPR`",
        recipe="[topr](recipes/baselines.md)",
        read=(FRAMEWORK, NOTES),
        differs="Scores of 0 and 1 less ½ stand for ±1 without a baseline, which they are but for their size.",
    ),
    Method(
        numbers=("2505.22617",),
        name="The entropy mechanism: Clip-Cov, KL-Cov",
        parts="`CovarianceGate`, `HighCovariance`, `LogRatioPenalty`",
        recipe="[clip_cov, kl_cov](recipes/baselines.md)",
        read=(CODE,),
        differs=(
            "Covariances are taken over the rows of the optimizer step and not over a microbatch, so that they do not "
            "depend on how it is cut. Clip-Cov has the dual clip of the authors' script, which its loss does not read."
        ),
    ),
    Method(
        numbers=("2507.18071",),
        name="GSPO: group sequence policy optimization",
        parts="`GSPO`, `GSPOToken`",
        recipe="[gspo](recipes/baselines.md)",
        read=(FRAMEWORK,),
        differs="No difference is known.",
    ),
    Method(
        numbers=("2507.20673",),
        name="GMPO: geometric-mean policy optimization",
        parts="`GMPO`",
        recipe="[gmpo](recipes/baselines.md)",
        read=(CODE,),
        differs="No difference is known. The one-sided bound is derived from the code.",
    ),
    Method(
        numbers=("2512.05591",),
        name="Entropy ratio clipping",
        parts="`EntropyRatioClip`",
        recipe="[erc](recipes/baselines.md)",
        read=(CODE,),
        differs=(
            "The old entropies are those that the sampling engine reports, because no pass before the update computes "
            "them."
        ),
    ),
    Method(
        numbers=("2505.20686",),
        name="A*-PO: optimal advantage regression",
        parts="`OptimalValue`, `OptimalAdvantageRegression`",
        recipe="[a_star_po](recipes/catalogue.md#a_star_po)",
        read=(CODE, RESTATED),
        differs=(
            "There is no entropy bonus (0.001 in the code), and both stages use one reward, so that V* and the scores "
            "agree."
        ),
    ),
    Method(
        numbers=("2505.15311",),
        name="TBRM: trajectory Bellman residual minimization",
        parts="`TrajectoryBellmanResidual`",
        recipe="[tbrm](recipes/catalogue.md#tbrm)",
        read=(PAPER, RESTATED),
        differs=(
            "β is 0.02 and not 0.002, because short responses need a larger one. The copy of the paper that was read "
            "lacks its formulas; the loss is that of ReVal's restatement."
        ),
    ),
    Method(
        numbers=("2404.16767",),
        name="REBEL",
        parts="`REBEL`",
        recipe="[rebel](recipes/baselines.md)",
        read=(CODE, NOTES),
        differs="All pairs of a group are compared instead of one pair, because the loop draws groups.",
    ),
)
