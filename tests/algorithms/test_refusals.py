"""What does not fit together is refused in one line before anything is loaded, with the remedy."""

import pytest
from torch.optim import AdamW

from rl4llm.advantages import GAE, LeaveOneOut, SegmentMonteCarlo, SingleStream
from rl4llm.algorithms import compose
from rl4llm.checks import UsageError
from rl4llm.corrections import TruncatedImportance
from rl4llm.critics import BetaTracker, MiniCritics
from rl4llm.gates import AgreementGate, DivergenceFilter, HighEntropy
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import DPPO, OptimalAdvantageRegression
from rl4llm.regularizers import EntropyBonus, ValueRegression
from rl4llm.rollouts import Sampling
from tests.algorithms.helpers import critic_slots, loop, run

WRONG = [
    ({"gate": AgreementGate()}, "gate=AgreementGate needs critic_values.*--model.gate=null"),
    ({"advantage": GAE()}, "advantage=GAE needs values, but there are no critics"),
    ({"regularizers": {"entropy": EntropyBonus(where=DivergenceFilter())}}, "entropy.where=DivergenceFilter needs"),
    ({"gate": HighEntropy() & AgreementGate()}, "gate=Both needs critic_values"),
    ({"responses_per_prompt": 1}, "advantage=GroupRelative compares responses.*responses_per_prompt=2 or more"),
    ({"responses_per_prompt": 1, "advantage": LeaveOneOut()}, "LeaveOneOut compares"),
    ({"responses_per_prompt": 0}, "responses_per_prompt must be a whole number of at least 1, got 0"),
    ({"sampling": Sampling(top_p=0.9)}, "top_p=0.9 draws from a filtered distribution"),
    ({"sampling": Sampling(top_k=5)}, "top_k=5"),
    ({"sampling": Sampling(temperature=0.0)}, "temperature=0"),
    ({"critic_warmup": 3}, "critic_warmup=3, but there are no critics"),
    ({"objective": DPPO(divergence="topk_tv")}, r"engine HuggingFaceRollout does not report them.*top_log_probs=20"),
    ({"regularizers": {"value": ValueRegression(0.5)}}, r"value=ValueRegression trains a value head.*TrunkCritic"),
    ({"advantage": None}, r"objective=PPOClip needs advantages.*set --model\.advantage"),
    ({"advantage": SegmentMonteCarlo()}, r"advantage=SegmentMonteCarlo needs (segment_ids|values), but there are no"),
    ({"advantage": None, "objective": OptimalAdvantageRegression()}, r"OptimalAdvantageRegression needs values"),
    (
        {"critics": BetaTracker(samples=0), "advantage": SingleStream(), "critic_warmup": 3},
        r"critic_warmup=3, but there are no critics that learn by gradient",
    ),
    (
        {"critics": BetaTracker(samples=0), "advantage": SingleStream(), "learn_critics_first": True},
        r"learn_critics_first=true would show critics=BetaTracker the scores",
    ),
    ({"reference_interval": 0}, r"reference_interval must be a whole number of at least 1, got 0"),
    (
        {"correction": TruncatedImportance(), "trust_rollout_log_probs": True},
        r"correction=TruncatedImportance.*trust_rollout_log_probs=true computes none",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda x: str(x)[:50])
def test_parts_that_do_not_fit_are_refused_with_one_line(tiny_policy, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        loop(tiny_policy, **changes)
    assert "\n" not in str(caught.value)


def test_more_critics_than_responses_is_refused(tiny_policy, tiny_critic):
    with pytest.raises(UsageError, match=r"more critics \(size=5\) than responses per prompt \(4\)"):
        compose(tiny_policy, **(critic_slots(tiny_critic) | {"critics": MiniCritics(tiny_critic, size=5)}))
    compose(tiny_policy, **(critic_slots(tiny_critic) | {"critics": MiniCritics(tiny_critic, 5, "shared")}))


def test_missing_models_are_refused_with_one_line(tiny_policy):
    with pytest.raises(UsageError, match="model folder '/nowhere/at/all' does not exist"):
        loop("/nowhere/at/all")
    with pytest.raises(UsageError, match=r"'rl4llm/nothing' is not embedded.*rl4llm/digits"):
        loop("rl4llm/nothing")
    with pytest.raises(UsageError, match="does not exist"):
        compose(tiny_policy, **(critic_slots("./none") | {"critics": MiniCritics("./none")}))


def short_critic(tmp_path, tiny_policy, positions):
    model, tokenizer = TinyQwen3(hidden_size=16, layers=1, heads=2, key_value_heads=1, head_size=8).build()
    model.config.max_position_embeddings = positions
    Policy(model, tokenizer).save(tmp_path)
    return compose(tiny_policy, **critic_slots(str(tmp_path)))


def test_a_critic_whose_context_holds_no_response_is_refused_before_anything_is_loaded(tiny_policy, tmp_path):
    with pytest.raises(UsageError, match="has a context of 6 tokens, but prompt and response may take 7"):
        short_critic(tmp_path, tiny_policy, 6)


def test_a_critic_whose_context_is_shorter_than_the_prompts_need_is_refused_before_training(tiny_policy, tmp_path):
    module = short_critic(tmp_path, tiny_policy, 9)  # "123=" and 6 tokens of response are 10
    with pytest.raises(UsageError, match="has a context of 9 tokens, but prompt and response may take 10"):
        run(module)
    assert module.drawn == 0


def test_settings_that_an_optimizer_refuses_are_one_line(tiny_policy):
    module = loop(tiny_policy, optimizer=lambda parameters: AdamW(parameters, lr=-1.0))
    with pytest.raises(UsageError, match=r"optimizer of policy .*learning rate: -1.0\); change --model\.optimizer"):
        run(module)
