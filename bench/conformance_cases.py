"""Public functions of verl, TRL, OpenRLHF and torchrl, and parts of ours, with what each promises."""

from typing import Any

from conformance_parts import Case

from rl4llm.advantages import GAE, GroupRelative, LeaveOneOut, MonteCarlo, OptimalBaseline, PassAtKTraining
from rl4llm.critics import ClippedValueLoss, SquaredValueLoss
from rl4llm.gates import HighEntropy
from rl4llm.objectives import CISPO, DPPO, GMPO, GSPO, SAPO, PPOClip, SequenceMean, TokenMean
from rl4llm.regularizers import KLPenalty
from rl4llm.testing import Domain

# What every trainer but ours gives its functions: responses with tokens and scores, ordinary numbers as padding.
USUAL = Domain(rows="non-empty", scores="scored", padding="finite")
PLAIN = Domain(rows="non-empty", scores="scored", padding="finite", masks="contiguous")
DETACHED = "its inputs carry no graph: the trainer computes them without gradient"
GROUP: dict[str, Any] = {"compares": "group", "invariances": ("shift",)}
PAIRED = Domain(rows="non-empty", scores="scored", padding="finite", groups="differing")
LOSS = {"the dtype of the inputs is kept": "losses are returned in float32"}
CLAMPED = {"the KL estimate is as declared": "k3 is clamped to at most 10 by an explicit line"}
SPREAD = {"a higher score never gives a lower advantage": "whitened: every advantage depends on the spread of all"}
GRAPH = {"no graph is returned": DETACHED}
CONSTANTS = {
    "gradient reaches the policy's own outputs only": "old log-probs and advantages carry no graph in its trainer"
}


def verl() -> list[Case]:
    """Return the functions of verl.trainer.ppo.core_algos."""
    base = "from verl.trainer.ppo import core_algos"
    names = (
        f"{base}\nimport numpy\n"
        "def named(index):  # its trainer names groups by text\n"
        '    return numpy.array([f"p{i}" for i in index], dtype=object)'
    )
    with_config = (
        f"{base}\nfrom verl.workers.config import ActorConfig\n"
        'config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)'
    )
    algorithm = f"{base}\nfrom verl.trainer.config import AlgoConfig\nconfig = AlgoConfig()"
    batch = {"compares": "batch"}
    unbiased = {**GROUP, "invariances": ("shift", "homogeneous"), "update_scale": lambda size: 1.0}
    centred = {**GROUP, "invariances": ("shift", "homogeneous"), "update_scale": lambda size: (size - 1) / size}

    def advantages(name: str, arguments: str, declared: Any, silent: Any = None, setup: str = names) -> Case:
        call = f"core_algos.{name}({arguments})[0]"
        paired = "index" in arguments and declared["compares"] == "group"
        silent = {**GRAPH, **(SPREAD if declared is batch else {}), **(silent or {})}
        return Case(
            "verl", name, "advantages", setup, call.replace("index", "named(index)"), declared,
            PAIRED if paired else USUAL, silent, least=2 if declared is batch else 0, clean="values" not in arguments,
        )  # fmt: skip

    def loss(name: str, declared: Any = None) -> Case:
        call = f"core_algos.{name}(old_log_probs, log_probs, advantages, mask, config=config)[0]"
        return Case("verl", name, "policy loss", with_config, call, declared or {}, USUAL, {**CONSTANTS, **LOSS})

    def kl(estimator: str, gradient: str) -> Case:
        call = f'core_algos.kl_penalty(log_probs, ref_log_probs, "{estimator}")'
        declared = {"gradient": gradient, "value": None if estimator == "k2" else "exact"}
        return Case(
            "verl",
            f'kl_penalty("{estimator}")',
            "KL estimate",
            base,
            call,
            declared,
            USUAL,
            CLAMPED if "k3" in estimator else {},
        )

    def mean(mode: str, count: str, argument: str) -> Case:
        call = f'core_algos.agg_loss(losses, mask, "{mode}", {argument}=count)'
        return Case("verl", f'agg_loss("{mode}")', "aggregation", base, call, {"count": count}, USUAL)

    value = "core_algos.compute_value_loss(values, returns, old_values, mask, cliprange_value=0.2)[0]"
    return [
        advantages("compute_gae_advantage_return", "rewards, values, mask, 1.0, 0.95", batch),
        advantages("compute_grpo_outcome_advantage", "rewards, mask, index", GROUP),
        advantages("compute_grpo_vectorized_outcome_advantage", "rewards, mask, index", GROUP),
        advantages("compute_rloo_outcome_advantage", "rewards, mask, index", unbiased),
        advantages("compute_rloo_vectorized_outcome_advantage", "rewards, mask, index", unbiased),
        advantages("compute_opo_outcome_advantage", "rewards, mask, index", centred),
        advantages(
            "compute_reinforce_plus_plus_outcome_advantage", "rewards, mask, config=config", batch, None, algorithm
        ),
        advantages("compute_reinforce_plus_plus_baseline_outcome_advantage", "rewards, mask, index", batch),
        advantages(
            "compute_remax_outcome_advantage", "rewards, (values * mask).sum(-1), mask", {"compares": "nothing"}
        ),
        advantages("compute_gpg_outcome_advantage", "rewards, mask, index", {"compares": "batch"}),
        advantages("compute_grpo_passk_outcome_advantage", "rewards, mask, index, config={}", GROUP),
        loss("compute_policy_loss_vanilla"),
        loss("compute_policy_loss_gspo"),
        loss("compute_policy_loss_cispo"),
        loss("compute_policy_loss_sapo"),
        loss("compute_policy_loss_geo_mean"),
        loss("compute_policy_loss_dppo_tv"),
        loss("compute_policy_loss_dppo_kl"),
        loss("compute_policy_loss_gpg"),
        mean("token-mean", "tokens", "batch_num_tokens"),
        mean("seq-mean-token-mean", "responses", "global_batch_size"),
        mean("seq-mean-token-sum", "responses", "global_batch_size"),
        kl("k1", "none"),
        kl("k2", "exact"),
        kl("k3", "reverse"),
        kl("k3+", "exact"),
        Case("verl", "compute_value_loss", "value loss", base, value, {}, USUAL, {**CONSTANTS, **LOSS}),
    ]


def trl() -> list[Case]:
    """Return the losses of GRPOTrainer and RLOOTrainer, whose advantages are not functions."""
    setup = "from trl_losses import grpo_loss, high_entropy_mask, rloo_loss  # in bench/"
    settings = {
        "grpo": 'loss_type="grpo"',
        "dapo": 'loss_type="dapo"',
        "bnpo": 'loss_type="bnpo"',
        "cispo": 'loss_type="cispo", epsilon_high=5.0',
        "sapo": 'loss_type="sapo"',
        "GSPO": 'loss_type="grpo", importance_sampling_level="sequence"',
        "vespo": 'loss_type="vespo"',
    }
    losses = [
        Case(
            "trl",
            f"GRPOTrainer._compute_loss({given})",
            "policy loss",
            setup,
            f"grpo_loss(old_log_probs, log_probs, advantages, mask, {given})",
            {},
            USUAL,
            {**CONSTANTS, **LOSS},
        )
        for given in settings.values()
    ]
    rloo = "rloo_loss(old_log_probs, log_probs, advantages, mask) / mask.sum()"
    high = "high_entropy_mask(entropies, mask, 0.8)"
    return [
        *losses,
        Case("trl", "RLOOTrainer._compute_loss", "policy loss", setup, rloo, {}, USUAL, {**CONSTANTS, **LOSS}),
        Case("trl", "GRPOTrainer.get_high_entropy_mask", "gate", setup, high, {}, USUAL),
    ]


def openrlhf() -> list[Case]:
    """Return the losses and estimates of openrlhf.models and the advantages of its experience maker."""
    absent = "import absent  # in bench/: empty modules in the place of flash-attn and vLLM, which need a GPU"
    maker = f"{absent}\nfrom openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker as Maker"
    losses = f"{absent}\nfrom openrlhf.models.loss import PolicyLoss, ValueLoss, aggregate_loss"
    kl = f"{absent}\nfrom openrlhf.models.utils import compute_approx_kl"
    gae = "Maker.get_advantages_and_returns(None, values, rewards, mask, 1.0, 0.95)[0]"
    returns = "Maker.get_cumulative_returns(None, rewards, mask, 1.0)"

    def loss(options: str) -> Case:
        call = f"PolicyLoss({options})(log_probs, old_log_probs, advantages, mask)[0]"
        return Case("openrlhf", f"PolicyLoss({options})", "policy loss", losses, call, {}, USUAL, {**CONSTANTS, **LOSS})

    def estimate(estimator: str, gradient: str, more: str = "") -> Case:
        call = f'compute_approx_kl(log_probs, ref_log_probs, kl_estimator="{estimator}"{more})'
        declared = {"gradient": gradient, "value": None if estimator == "k2" else "exact"}
        name = f'compute_approx_kl("{estimator}"{more})'
        return Case(
            "openrlhf",
            name,
            "KL estimate",
            kl,
            call,
            declared,
            USUAL,
            {**FLOAT32, **(CLAMPED if estimator == "k3" else {})},
        )

    tokens = "aggregate_loss(losses, mask, batch_num_tokens=count)"
    rows = "aggregate_loss(losses, mask, token_level_loss=False, global_batch_size=count)"
    value = "ValueLoss(clip_eps=0.2)(values, old_values, returns, mask)"
    return [
        Case(
            "openrlhf", "RemoteExperienceMaker.get_advantages_and_returns", "advantages", maker, gae, {}, PLAIN, GRAPH
        ),
        Case(
            "openrlhf", "RemoteExperienceMaker.get_cumulative_returns", "advantages", maker, returns, {}, USUAL, GRAPH
        ),
        loss(""),
        loss("dual_clip=3.0"),
        loss('policy_loss_type="gspo"'),
        Case("openrlhf", "aggregate_loss (tokens)", "aggregation", losses, tokens, {"count": "tokens"}, USUAL),
        Case("openrlhf", "aggregate_loss (responses)", "aggregation", losses, rows, {"count": "responses"}, USUAL),
        estimate("k1", "none"),
        estimate("k2", "exact"),
        estimate("k3", "reverse"),
        estimate("k3", "exact", ", unbiased_gradient=True"),
        Case("openrlhf", "ValueLoss(clip_eps=0.2)", "value loss", losses, value, {}, USUAL, {**CONSTANTS, **LOSS}),
    ]


FLOAT32 = {"the dtype of the inputs is kept": "it computes and returns float32, by explicit casts"}


def torchrl() -> list[Case]:
    """Return the value functions of torchrl, which take ends of trajectories in the place of a mask."""
    setup = (
        "from torchrl.objectives.value import functional\n"
        "def ends(mask):  # the flag of the last token, and the value after every token\n"
        "    return ((torch.arange(mask.shape[1]) == mask.sum(-1, keepdim=True) - 1)[..., None])\n"
        "def later(values):\n"
        "    return torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)[..., None]"
    )
    tensors = "values[..., None], later(values), rewards[..., None], ends(mask)"
    cases = []
    for name in ("generalized_advantage_estimate", "vec_generalized_advantage_estimate"):
        call = f"functional.{name}(1.0, 0.95, {tensors})[0][..., 0]"
        cases.append(Case("torchrl", name, "advantages", setup, call, {}, PLAIN, GRAPH))
    for name in ("td_lambda_advantage_estimate", "vec_td_lambda_advantage_estimate"):
        call = f"functional.{name}(1.0, 0.95, {tensors})[..., 0]"
        cases.append(Case("torchrl", name, "advantages", setup, call, {}, PLAIN, GRAPH))
    returns = "functional.reward2go(rewards[..., None], ends(mask), 1.0)[..., 0]"
    return [*cases, Case("torchrl", "reward2go", "advantages", setup, returns, {}, PLAIN, GRAPH)]


def rl4llm() -> list[Case]:
    """Return parts of ours for the same purposes; they promise every valid batch."""
    kinds = {
        "advantages": (
            GAE(), GroupRelative(), GroupRelative(normalize_std=False), LeaveOneOut(), OptimalBaseline(), MonteCarlo(),
            PassAtKTraining(),
        ),
        "policy loss": (PPOClip(), GSPO(), CISPO(), SAPO(), GMPO(), DPPO()),
        "aggregation": (TokenMean(), SequenceMean()),
        "KL estimate": (KLPenalty(estimator="k1"), KLPenalty(estimator="k2"), KLPenalty(estimator="k3")),
        "value loss": (SquaredValueLoss(), ClippedValueLoss()),
        "gate": (HighEntropy(),),
    }  # fmt: skip
    return [Case("rl4llm", repr(part), kind, part=part) for kind, parts in kinds.items() for part in parts]


LIBRARIES = {"verl": verl, "trl": trl, "openrlhf": openrlhf, "torchrl": torchrl, "rl4llm": rl4llm}
