"""The methods that change a baseline, a value, a gate or a measure, and what was read of each."""

from rl4llm.citations.readings import ABSTRACT, CODE, FRAMEWORK, MEMORY, NOTES, PAPER, Method

ESTIMATOR_METHODS = (
    Method(
        numbers=("2511.04439",),
        name="CoRPO",
        parts="`CorrectnessRelative`",
        recipe="[corpo](recipes/catalogue.md#corpo)",
        read=(ABSTRACT, NOTES),
        differs=(
            "The equation is that of several independent implementations. The floor is 0.5, because the task's scores "
            "are 0 and 1."
        ),
    ),
    Method(
        numbers=("2505.23585",),
        name="OPO",
        parts="`OptimalBaseline`",
        recipe="[opo](recipes/baselines.md)",
        read=(FRAMEWORK, NOTES),
        differs="A group of one gets 0, where framework code gives it the raw score.",
    ),
    Method(
        numbers=("2509.22611",),
        name="QAE",
        parts="`QuantileRelative`",
        recipe="[qae](recipes/baselines.md)",
        read=(PAPER,),
        differs="Nothing is added to the spread; a group with equal scores gets exactly 0 instead.",
    ),
    Method(
        numbers=("2508.10751",),
        name="Pass@k training",
        parts="`PassAtKTraining`",
        recipe="[pass_at_k](recipes/baselines.md)",
        read=(CODE,),
        differs="Nothing is added to the spread; a group without signal gets exactly 0 instead.",
    ),
    Method(
        numbers=("2602.02710",),
        name="Maximum likelihood RL: MaxRL",
        parts="`MaxRL`",
        recipe="[max_rl](recipes/baselines.md)",
        read=(ABSTRACT, CODE),
        differs="Nothing is added to the mean; a group without a success gets 0 instead.",
    ),
    Method(
        numbers=("2402.14740",),
        name="Back to Basics: RLOO",
        parts="`LeaveOneOut`, `Reinforce`, `MonteCarlo`, `SequenceSum`",
        recipe="[rloo](recipes/rloo.md)",
        read=(FRAMEWORK,),
        differs="A group of one gets 0, because it has no other response to compare with.",
    ),
    Method(
        numbers=("2501.03262",),
        name="REINFORCE++",
        parts='`Whiten(level="token")`',
        recipe="[reinforce_plus_plus](recipes/baselines.md), [reinforce_plus_plus_baseline](recipes/baselines.md)",
        read=(FRAMEWORK, NOTES),
        differs="The recipe draws 256 prompts with one response each. Aggregator and steps are ours.",
    ),
    Method(
        numbers=("2509.13232",),
        name="Single-stream policy optimization",
        parts='`BetaTracker`, `SingleStream`, `Whiten(level="response")`, `Prioritized`',
        recipe="[spo](recipes/catalogue.md#spo)",
        read=(PAPER, CODE),
        differs=(
            "The effective count is α + β, because the two forms of the update in the paper differ by its + 1. The "
            "tracker counts after the policy's update, as in the code."
        ),
    ),
    Method(
        numbers=("2410.01679",),
        name="VinePPO",
        parts="`MonteCarloValues`, `SegmentMonteCarlo`, `Newline`, `FixedTokens`",
        recipe="[vineppo](recipes/catalogue.md#vineppo)",
        read=(ABSTRACT, CODE),
        differs=(
            "Steps are two tokens on the embedded task. The authors' splitter for mathematics is a long heuristic and "
            "is not rebuilt."
        ),
    ),
    Method(
        numbers=("2310.10505",),
        name="ReMax",
        parts="`GreedyValue`",
        recipe="[remax](recipes/baselines.md)",
        read=(CODE,),
        differs="The return has no KL term, because the recipe loads no reference model.",
    ),
    Method(
        numbers=("2403.03950",),
        name="Stop regressing: HL-Gauss",
        parts="`hl_gauss_loss`, `hl_gauss_value`",
        recipe="",
        read=(FRAMEWORK,),
        differs="No difference is known.",
    ),
    Method(
        numbers=("2506.01939",),
        name="High-entropy minority tokens",
        parts="`HighEntropy`",
        recipe="",
        read=(FRAMEWORK,),
        differs="Dropped tokens stay in the divisor of the mean; frameworks differ here.",
    ),
    Method(
        numbers=("1912.09729",),
        name="Dual-clip PPO",
        parts="`PPOClip(dual_clip=3.0)`",
        recipe="",
        read=(FRAMEWORK,),
        differs="The bound is off by default.",
    ),
    Method(
        numbers=("2510.18855",),
        name="Ring-1T: IcePop",
        parts="`IcePop`",
        recipe="a flag of [several recipes](recipes/baselines.md)",
        read=(FRAMEWORK,),
        differs="A dropped token stays in the divisor of the mean.",
    ),
    Method(
        numbers=("2005.12729",),
        name="Implementation matters in deep policy gradients",
        parts="`ClippedValueLoss`",
        recipe="",
        read=(FRAMEWORK,),
        differs="No difference is known.",
    ),
    Method(
        numbers=("1802.09477",),
        name="TD3",
        parts="`critic_min`",
        recipe="",
        read=(MEMORY,),
        differs=(
            "The minimum is over values of states and not of pairs of state and action, because the critics have no "
            "actions."
        ),
    ),
    Method(
        numbers=("1602.01783",),
        name="Asynchronous methods (A3C)",
        parts="`EntropyBonus`",
        recipe="[ppo](recipes/ppo.md), [asyppo](recipes/asyppo.md)",
        read=(MEMORY,),
        differs="The entropy is that of the whole vocabulary at the temperature of sampling.",
    ),
    Method(
        numbers=("1909.08593",),
        name="Fine-tuning language models from human preferences",
        parts="`KLReward`",
        recipe="[rloo](recipes/rloo.md) by a flag",
        read=(FRAMEWORK,),
        differs="The estimate of the divergence is a choice: k1, k2 or k3.",
    ),
    Method(
        numbers=("2107.03374",),
        name="Codex: pass@k",
        parts="`PassAtK`",
        recipe="all, in the evaluation",
        read=(MEMORY,),
        differs="No difference is known.",
    ),
    Method(
        numbers=(),
        name="Schulman 2020, Approximating KL divergence",
        parts="`kl_k1`, `kl_k2`, `kl_k3`, `approximate_kl`",
        recipe="",
        read=(MEMORY,),
        differs="No difference is known.",
    ),
)
