"""What each recipe composes by default is what its paper or its authors' code runs, as far as that is known."""

import inspect
import re
from pathlib import Path

import pytest

from rl4llm.advantages import GAE, ConstantBaseline, GroupRelative, LengthAdaptiveGAE, Whiten
from rl4llm.algorithms import Updates, compose
from rl4llm.critics import (
    BoundedHead,
    ClippedValueLoss,
    HistogramHead,
    MonteCarloValues,
    NoiseNormalizedValueLoss,
    SigmoidHead,
)
from rl4llm.gates import CorrectResponses, CovarianceGate
from rl4llm.objectives import (
    DPPO,
    Aggregator,
    ConstantNorm,
    ImportanceWeighted,
    PPOClip,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from rl4llm.regularizers import KLPenalty, KLReward, Likelihood
from rl4llm.rollouts import DynamicSampling
from tests.recipes.helpers import RECIPES, REINFORCEMENT, config

AGGREGATORS = {
    SequenceSum: {"opo", "topr", "dppo", "bpco"},
    ConstantNorm: {"dr_grpo"},
    TokenMean: {
        "cispo", "clip_cov", "dapo", "easyppo", "erc", "evpo", "hl_gauss", "kl_cov", "max_rl", "minpro", "pass_at_k",
        "ppo", "qae", "r2vpo", "raft", "sao", "spo", "sppo", "tether", "vapo", "vineppo",
    },
}  # fmt: skip


def slots(name):
    """The defaults of a recipe's own slots, and of those of `compose` that it does not name."""
    own = inspect.signature(RECIPES[name]).parameters
    defaults = {**inspect.signature(compose).parameters, **own}
    return {slot: one.default for slot, one in defaults.items()}


@pytest.mark.parametrize("name", REINFORCEMENT)
def test_every_recipe_states_its_aggregator(name):
    stated = inspect.signature(RECIPES[name]).parameters["aggregator"]
    assert stated.annotation is Aggregator
    assert isinstance(stated.default, Aggregator)


@pytest.mark.parametrize(("kind", "names"), AGGREGATORS.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_the_published_aggregator(kind, names):
    assert {name: type(slots(name)["aggregator"]) for name in names} == dict.fromkeys(names, kind)


@pytest.mark.parametrize("name", ["max_rl", "opo"])
def test_strictly_on_policy_methods_step_once_a_batch(name):
    assert slots(name)["updates"].steps == 1


def test_max_rl_clips_as_its_authors_do():
    assert slots("max_rl")["objective"] == PPOClip(clip_low=0.2, clip_high=0.2)


def test_vineppo_as_its_authors_code_runs_it():
    composed = slots("vineppo")
    assert composed["updates"].epochs == 2
    assert composed["kl"] == KLPenalty(coef=1e-4, estimator="k3", clip=10.0, aggregator=SequenceSum())
    assert isinstance(composed["critics"], MonteCarloValues)
    assert composed["critics"].unfinished == 0.0


def test_vapo_imitates_by_the_tokens_of_correct_responses():
    likelihood = slots("vapo")["likelihood"]
    assert likelihood == Likelihood(coef=0.1, where=CorrectResponses())
    assert not likelihood.where.in_divisor


def test_the_baseline_form_of_reinforce_plus_plus():
    composed = slots("reinforce_plus_plus_baseline")
    assert composed["kl_reward"] is None
    assert composed["kl"].estimator == "k2"
    assert composed["advantage"] == GroupRelative(normalize_std=False)
    assert composed["whitening"] == Whiten(level="token")
    assert composed["responses_per_prompt"] > 1


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_the_covariance_recipes_filter_groups_and_step_eight_times(name):
    composed = slots(name)
    assert composed["updates"] == Updates(minibatches=8)
    assert composed["dynamic_sampling"] == DynamicSampling(max_draws=10)


def test_clip_cov_passes_over_what_its_objective_has_clipped():
    composed = slots("clip_cov")
    assert composed["objective"] == PPOClip(clip_low=1.0, clip_high=1.0, dual_clip=10.0)
    assert composed["gate"] == CovarianceGate(fraction=0.0002, low=1.0, high=5.0, clip_low=1.0, clip_high=1.0)
    assert composed["gate"].each_step


def test_poise_as_its_paper_runs_it():
    composed = slots("poise")
    assert composed["responses_per_prompt"] == 2
    assert (composed["critics"].span, composed["critics"].ridge) == (10, 0.01)
    assert composed["objective"] == PPOClip(clip_low=0.2, clip_high=0.28)
    assert composed["aggregator"] == SequenceMean()


def test_kl_cov_has_no_clip():
    assert slots("kl_cov")["objective"] == ImportanceWeighted()
    assert slots("kl_cov")["held"].where.each_step


def test_spo_clips_twice_and_steps_eight_times():
    composed = slots("spo")
    assert composed["objective"] == PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=10.0)
    assert composed["updates"].steps == 8


def test_erc_filters_groups_and_clips_twice():
    composed = slots("erc")
    assert composed["objective"].base == PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=10.0)
    assert composed["dynamic_sampling"] == DynamicSampling(max_draws=10)


def test_raft_holds_the_policy_near_its_reference_and_averages_over_what_it_keeps():
    composed = slots("raft")
    assert composed["kl"] == KLPenalty(coef=1e-3, estimator="k3")
    assert composed["gate"] == CorrectResponses(in_divisor=False)


def test_topr_has_a_constant_baseline():
    assert slots("topr")["advantage"] == ConstantBaseline(baseline=0.5)


def test_easyppo_as_its_authors_configuration_runs_it():
    composed = slots("easyppo")
    assert composed["truncation"] == "actor_only"
    assert composed["critic_updates"].steps == 4 * composed["updates"].steps
    assert composed["objective"] == PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    assert composed["critics"].loss == NoiseNormalizedValueLoss(loss=ClippedValueLoss(clip=0.2))


def test_hl_gauss_as_its_authors_script_runs_it():
    composed = slots("hl_gauss")
    assert composed["critics"].head == HistogramHead(-0.1, 1.1, bins=101, sigma=0.024, target="density")
    assert composed["critics"].loss is None
    assert composed["advantage"] == GAE(gamma=1.0, lam=1.0)
    assert composed["objective"] == PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=10.0)
    assert composed["dynamic_sampling"] is not None


def test_sao_learns_critics_first_and_twice():
    composed = slots("sao")
    assert composed["learn_critics_first"]
    assert composed["critic_updates"].epochs == 2
    assert composed["updates"].steps == composed["responses_per_prompt"] == 1
    assert composed["advantage"] == LengthAdaptiveGAE(alpha=1.5, lam_returns=1.0)


def test_bpco_is_bounded_and_not_whitened():
    composed = slots("bpco")
    assert composed["whitening"] is None
    assert composed["critics"].head == BoundedHead(low=0.0, high=1.0)
    assert composed["objective"] == DPPO(divergence="tv", delta_low=0.2, delta_high=0.2)


def test_sppo_reads_the_prompt_alone():
    critics = slots("sppo")["critics"]
    assert (critics.inputs, critics.head) == ("prompt", SigmoidHead())


def test_asyppo_averages_each_response_first():
    assert slots("asyppo")["aggregator"] == SequenceMean()


# --- the page -------------------------------------------------------------------------------------------------------


def shown_clip(objective):
    """The widths of an objective, as the page shows them."""
    objective = getattr(objective, "base", objective)
    if hasattr(objective, "clip_low"):
        dual = getattr(objective, "dual_clip", None)
        return f"{objective.clip_low:g} / {objective.clip_high:g}" + (f", dual {dual:g}" if dual else "")
    if hasattr(objective, "delta_low"):
        return f"divergence {objective.delta_low:g} / {objective.delta_high:g}"
    return f"±{objective.clip:g}" if hasattr(objective, "clip") else "–"


def shown_divergence(composed):
    """What is charged for leaving the reference."""
    where = {KLPenalty: "loss", KLReward: "reward"}
    found = [part for part in composed.values() if type(part) in where]
    return "; ".join(f"{part.estimator} {part.coef:g} in the {where[type(part)]}" for part in found) or "–"


def test_the_page_of_settings_says_what_the_recipes_compose():
    page = Path("docs/recipes/settings.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+)(?:\(\d+\))? \| ([^|]+) \| (\d+) × (\d+) \| ([^|]+) \| ([^|]+) \|$", page, re.M
    )
    assert [name for name, *_ in rows] == REINFORCEMENT
    for name, aggregator, clip, epochs, minibatches, divergence, source in rows:
        composed = slots(name)
        assert type(composed["aggregator"]).__name__ == aggregator
        assert shown_clip(composed["objective"]) == clip
        assert (composed["updates"].epochs, composed["updates"].minibatches) == (int(epochs), int(minibatches))
        assert shown_divergence(composed) == divergence
        assert source.strip()


# --- flags that the pages of critics write down ---------------------------------------------------------------------


def flags_of(text):
    """Every run of flags in the text, in backquotes."""
    return re.findall(r"`(--model\.[^`]+)`", text)


SECTIONS = dict(
    re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", Path("docs/recipes/critics2026.md").read_text(), re.M | re.S)
)
WRITTEN = [("asyppo", flags) for flags in flags_of(Path("docs/which-critic.md").read_text())]
WRITTEN += [(name, flags) for name, text in SECTIONS.items() for flags in flags_of(text)]


@pytest.mark.parametrize(("name", "flags"), WRITTEN)
def test_flags_on_the_pages_of_critics_parse(name, flags):
    assert config(name, *flags.split())["model"]


def test_both_pages_have_flags():
    assert {name for name, _ in WRITTEN} >= {"asyppo", "bpco", "evpo", "tether", "sppo", "poise"}
