"""Responses to held-out prompts and what is measured on them: the code behind `validate`, `test` and `evaluate`."""

from math import nan

import lightning
import pytest

from rl4llm.algorithms import Evaluation, answer_held_out, measures
from rl4llm.algorithms.held_out import Sample
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.evaluation import evaluate_policy
from rl4llm.models import Policy
from rl4llm.rewards import Scoring
from rl4llm.rollouts import Sampling
from tests.algorithms.helpers import even_length, loop, on_ranks

TASK = AbsoluteDifference(digits=3, train_size=64, held_out_size=10, reward=even_length)
PLACE = {"seed": 3, "first": 0}
SHORT = Sampling(max_response_tokens=6)


def sample(index, score, extracted=None, uid=0, **more):
    return Sample(uid, index, "1+1=", "2", score, score > 0, extracted=extracted, **more)


def means(samples, ks=()):
    return {name: measure.mean for name, measure in measures(samples, ks=ks).items()}


def test_measures_by_hand():
    first = [sample(0, 1.0, "6", length=4), sample(1, 0.0, "7", length=2), sample(2, 0.5, "6", length=6)]
    second = [sample(0, -1.0, "1", uid=1), sample(1, 0.0, "1", uid=1), sample(2, 2.0, "2", uid=1, truncated=True)]
    found = means(first + second, ks=(1, 2, 3))
    assert found["sampled_accuracy"] == 0.5
    assert found["reward"] == pytest.approx(2.5 / 6)
    assert found["response_length"] == 2.0
    assert found["truncated_share"] == pytest.approx(1 / 6)
    assert found["pass_at_1"] == 0.5
    assert found["pass_at_2"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["pass_at_3"] == 1.0
    assert found["maj_at_3"] == 0.5  # 6, right, and 1, wrong
    assert found["maj_at_2"] == 0.25  # one block each: 6 or 7, and 1
    assert "maj_at_1" not in found


def test_responses_that_could_not_be_scored_count_in_no_accuracy():
    samples = [sample(0, 1.0, "6"), sample(1, nan, "7"), sample(0, nan, uid=1), sample(1, nan, uid=1)]
    found = means(samples, ks=(1, 2))
    assert found["sampled_accuracy"] == found["pass_at_1"] == found["reward"] == 1.0
    assert found["unscorable_share"] == 0.75
    assert "pass_at_2" not in found


def test_without_answers_there_is_no_vote():
    assert "maj_at_2" not in means([sample(0, 1.0), sample(1, 0.0)], ks=(2,))
    assert means([sample(0, 1.0, "6"), sample(1, 0.0)], ks=(2,))["maj_at_2"] == 1.0


def test_traits_are_averaged_over_the_responses_that_have_them():
    samples = [sample(0, 1.0, traits={"thinks": 1.0}), sample(1, 0.0, traits={"thinks": 0.5}), sample(0, 1.0, uid=1)]
    assert means([*samples, sample(1, 0.0, uid=1)])["thinks"] == 0.75


def test_no_samples_measure_nothing():
    assert measures([], ks=(1,)) == {}


def test_an_accuracy_is_counted_in_prompts():
    measure = measures([sample(0, 1.0), sample(1, 1.0), sample(0, 0.0, uid=1), sample(1, 1.0, uid=1)], ks=())
    assert measure["sampled_accuracy"].totals.tolist() == [2.0, 1.0]
    assert measure["sampled_accuracy"].counts.tolist() == [2.0, 2.0]


# --- responses ------------------------------------------------------------------------------------------------------


def answered(module, prompts, n, runtime=None, **place):
    answering = module.answering()
    answering.sync(0)
    return answer_held_out(runtime or module.runtime(), answering, prompts, n, SHORT, **{**PLACE, **place})


def test_responses_are_the_same_however_prompts_are_cut_and_however_many_are_drawn(tiny_policy):
    module = loop(tiny_policy)
    (whole,) = PromptData(TASK, held_out_per_step=10).val_dataloader()
    expected = answered(module, whole, 3).samples
    cut = []
    for batch in PromptData(TASK, held_out_per_step=4).val_dataloader():
        cut += answered(module, batch, 3, first=len(cut) // 3).samples
    assert cut == expected
    assert answered(module, whole, 2).samples == [one for one in expected if one.index < 2]
    assert answered(module, whole, 3, seed=4).samples != expected


def test_ranks_answer_shares_and_all_have_every_sample(tiny_policy):
    modules = [loop(tiny_policy) for _ in range(4)]  # loaded one by one: transformers cannot load in threads
    (prompts,) = PromptData(TASK, held_out_per_step=10).val_dataloader()
    expected = answered(modules[3], prompts, 2).samples
    for samples in on_ranks(3, lambda runtime: answered(modules[runtime.rank], prompts, 2, runtime).samples):
        assert samples == expected


def test_a_sample_says_what_was_asked_and_answered(tiny_policy):
    module = loop(tiny_policy)
    (prompts,) = PromptData(TASK, held_out_per_step=10).val_dataloader()
    batch, samples = answered(module, prompts, 2)
    assert [one.uid for one in samples] == batch.prompt_uids.tolist()
    assert [one.prompt for one in samples[::2]] == prompts.prompts
    assert [one.answer for one in samples[1::2]] == [example.answer for example in prompts.examples]
    assert [one.score for one in samples] == batch.scores.tolist() == [even_length("", s.response, "") for s in samples]
    assert [one.correct for one in samples] == [one.score > 0 for one in samples]
    assert [one.length for one in samples] == batch.lengths.tolist()
    assert [one.truncated for one in samples] == batch.truncated.tolist()
    assert [one.extracted for one in samples] == [TASK.extract(one.response) for one in samples]


# --- one code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluate_measures_what_the_trainer_logs(tiny_policy, split):
    module = loop(tiny_policy, evaluation=Evaluation(samples=3, seed=5, samples_shown=0), sampling=SHORT)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    run = trainer.validate if split == "validation" else trainer.test
    (logged,) = run(module, datamodule=PromptData(TASK, held_out_per_step=4), verbose=False)
    options = {"split": split, "samples": 3, "seed": 5, "sampling": SHORT, "scoring": Scoring(workers=0)}
    options |= {"accelerator": "cpu", "enable_progress_bar": False}
    found = evaluate_policy(Policy.load(tiny_policy), {"it": TASK}, ks=[3], prompts_at_once=3, **options)["it"]
    stage = {"validation": "val", "test": "test"}[split]
    expected = {f"{stage}/{name}": measure.mean for name, measure in found.measures.items()}
    expected[f"{stage}/sampled_accuracy"] = expected.pop(f"{stage}/mean_at_3")
    assert logged == pytest.approx(expected)
    assert {f"{stage}/greedy_accuracy", f"{stage}/pass_at_3", f"{stage}/thinks"} <= set(logged)
    assert len(found.samples) == 30
