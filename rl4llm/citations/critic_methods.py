"""Methods of the critics of 2026: what was read, and what ours does differently and why."""

from rl4llm.citations.readings import ABSTRACT, CODE, FORK, MEMORY, NOTES, PAPER, Method

_PAGE = "recipes/critics2026.md"

CRITIC_METHODS = (
    Method(
        numbers=("2608.23566",),
        name="BPCO: bounded critic",
        parts="`BoundedHead`, `LengthAdaptiveGAE`, `DPPO`",
        recipe=f"[bpco]({_PAGE}#bpco)",
        read=(PAPER, CODE),
        differs="The policy's λ is kept in [0, 1] for responses shorter than 1/α tokens, where the code lets it become "
        "negative.",
    ),
    Method(
        numbers=("2609.36802",),
        name="EasyPPO",
        parts="`NoiseNormalizedValueLoss`, `truncation=actor_only`",
        recipe=f"[easyppo]({_PAGE}#easyppo)",
        read=(PAPER, CODE),
        differs="The noise has a floor that follows from the range of the scores and the size of the group, as in its "
        "text; in the code it is a number.",
    ),
    Method(
        numbers=("2604.19485",),
        name="EVPO",
        parts="`ExplainedVarianceSwitch`",
        recipe=f"[evpo]({_PAGE}#evpo)",
        read=(ABSTRACT,),
        differs="The mean is that of the prompt's other responses, the variances are over trained tokens: the abstract "
        "says neither. `lag=1` keeps a response from choosing its own baseline.",
    ),
    Method(
        numbers=("2608.16739",),
        name="TETHER",
        parts="`Tether`, `Privileged`",
        recipe=f"[tether]({_PAGE}#tether)",
        read=(PAPER, CODE),
        differs="Fits of the blend are kept in [0, 1], where the paper's optimum lies and its code does not clip. The "
        "penalty on the log-ratio to the engine is left out.",
    ),
    Method(
        numbers=("2607.07508",),
        name="SAO",
        parts="`MaskedImportanceWeighted`, `LengthAdaptiveGAE`",
        recipe=f"[sao]({_PAGE}#sao)",
        read=(NOTES,),
        differs="Rollouts are synchronous; λ counts trained tokens only.",
    ),
    Method(
        numbers=("2604.08865",),
        name="Sequence-level PPO",
        parts='`SigmoidHead`, `inputs="prompt"`',
        recipe=f"[sppo]({_PAGE}#sppo)",
        read=(CODE, NOTES),
        differs="No difference is known.",
    ),
    Method(
        numbers=("2608.02181",),
        name="Categorical critics",
        parts='`HistogramHead(target="density")`',
        recipe=f"[hl_gauss]({_PAGE}#hl_gauss)",
        read=(CODE, NOTES),
        differs="No dropout in the critic's head; groups are filtered while they are drawn, so that a batch is full.",
    ),
    Method(
        numbers=("2609.39247",),
        name="AC2: readiness",
        parts="`Readiness`, `prompt_errors`, `proved_prompts`",
        recipe="–",
        read=(FORK, NOTES),
        differs="Only the gate is built. Two valid responses measure a prompt, not 8 of 16, and those that were cut do "
        "not count. Neither a solution of the prompt nor a prediction above 0 is asked for. Left out are chunks from "
        "stored prefixes, audits, and the critic that writes its value in words.",
    ),
    Method(
        numbers=("2605.07579",),
        name="POISE",
        parts="`CrossRolloutProbe`",
        recipe=f"[poise]({_PAGE}#poise)",
        read=(PAPER, CODE),
        differs="Entropies are summarized by mean, standard deviation and maximum, where the code takes means over the "
        "response, its reasoning and its answer. States are not reduced by PCA first, there is one probe rather than "
        "one for each domain, and one batch rather than sixteen is judged by the sibling's score before the first fit.",
    ),
    Method(
        numbers=("1710.10044",),
        name="Quantile regression",
        parts="`QuantileHead`",
        recipe="–",
        read=(MEMORY,),
        differs="The width κ of the loss is 0.01: from the range of the scores on, the quantiles become expectiles and "
        "their mean is drawn to the middle.",
    ),
)
"""In the order of the page of papers."""
