"""Every engine keeps one contract, and an engine that breaks a part of it is told which."""

from dataclasses import replace

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.models import Policy, TinyQwen3
from rl4llm.rollouts import EngineSpec, HuggingFaceRollout, VLLMServer
from rl4llm.testing import check_engine
from tests.rollouts.apart import Apart, ApartRollout
from tests.rollouts.stub_server import serving


@pytest.fixture
def policy(tiny_policy):
    return Policy.load(tiny_policy)


@pytest.mark.parametrize("spec", [HuggingFaceRollout(), HuggingFaceRollout(rows_at_once=3), ApartRollout()])
def test_an_engine_keeps_the_contract(policy, spec):
    check_engine(spec, policy)


@pytest.mark.parametrize("top", [0, 3])
def test_a_server_s_client_keeps_the_contract(policy, top):
    with serving(policy) as (url, _):
        check_engine(VLLMServer(url=url, top_log_probs=top, connections=2), policy)


def test_an_untied_model_keeps_the_contract():
    model, tokenizer = TinyQwen3(hidden_size=16, layers=1).build()
    check_engine(ApartRollout(), Policy(model, tokenizer))


def spoiled(**methods):
    """A spec of an engine apart with some methods replaced."""

    class Spoiled(Apart):
        pass

    for name, method in methods.items():
        setattr(Spoiled, name, method)

    class SpoiledRollout(EngineSpec):
        def build(self, policy):
            return Spoiled(policy)

    return SpoiledRollout()


def changed(change):
    """`generate` with its result changed."""

    def generate(self, ids, mask, limits, **options):
        return change(Apart.generate(self, ids, mask, limits, **options))

    return generate


def reseeded(self, ids, mask, limits, *, copies, sampling, seeds):
    seeds = seeds + 10_000 * len(ids)
    return Apart.generate(self, ids, mask, limits, copies=copies, sampling=sampling, seeds=seeds)


def seedless(self, ids, mask, limits, *, copies, sampling, seeds):
    return Apart.generate(self, ids, mask, limits, copies=copies, sampling=sampling, seeds=torch.zeros_like(seeds))


def unbounded(self, ids, mask, limits, *, copies, sampling, seeds):
    limits = torch.full_like(limits, 8)
    return Apart.generate(self, ids, mask, limits, copies=copies, sampling=sampling, seeds=seeds)


def untempered(self, ids, mask, limits, *, copies, sampling, seeds):
    drawn = Apart.generate(self, ids, mask, limits, copies=copies, sampling=sampling, seeds=seeds)
    raw = replace(sampling, temperature=1.0)
    return replace(
        drawn,
        log_probs=drawn.log_probs if sampling == raw else drawn.log_probs * 0.9,
    )


def unfiltered(self, ids, mask, limits, *, copies, sampling, seeds):
    sampling = replace(sampling, top_k=None)
    return Apart.generate(self, ids, mask, limits, copies=copies, sampling=sampling, seeds=seeds)


def without_head(self, weights, version):
    Apart.sync(self, [(name, tensor) for name, tensor in weights if "norm" not in name], version)


def borrowed(self, weights, version):
    for (_, mine), (_, lent) in zip(
        self.inner.policy.model.named_parameters(remove_duplicate=False), weights, strict=True
    ):
        mine.data = lent
    self.inner.version = version


@pytest.mark.parametrize(
    ("methods", "law"),
    [
        ({"generate": reseeded}, "any portion draws the same"),
        ({"generate": seedless}, "the same seeds draw the same responses"),
        ({"generate": unbounded}, "a lower limit cuts short"),
        ({"generate": untempered}, "log-probs are those of the policy at the temperature"),
        ({"generate": unfiltered}, "filters keep the likeliest tokens"),
        ({"generate": changed(lambda drawn: replace(drawn, ended=~drawn.ended))}, "ends and masks"),
        ({"generate": changed(lambda drawn: replace(drawn, log_probs=drawn.log_probs - 1.0))}, "ends and masks"),
        ({"sync": without_head}, "sync brings the weights: after sync log-probs differ"),
        ({"sync": lambda self, weights, version: None}, "sync brings the weights"),
        ({"sync": borrowed}, "what was sent is copied"),
        ({"close": lambda self: None}, "a closed engine refuses"),
    ],
)
def test_an_engine_that_breaks_a_law_is_told_which(policy, methods, law):
    with pytest.raises(AssertionError, match=law):
        check_engine(spoiled(**methods), policy)


def test_the_policy_is_left_as_it_was(policy):
    before = [parameter.clone() for parameter in policy.parameters()]
    check_engine(ApartRollout(), policy)
    assert all(map(torch.equal, before, policy.parameters()))


def test_whatever_else_an_engine_raises_is_not_hidden(policy):
    def failing(self, *args, **options):
        raise UsageError("the engine has died")

    with pytest.raises(UsageError, match="has died"):
        check_engine(spoiled(generate=failing), policy)
