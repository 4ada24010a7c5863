"""Accuracies and the parts that learn from correct responses follow one definition, whatever else a reward adds."""

import lightning
import pytest
import torch

from rl4llm.advantages import PassAtKTraining
from rl4llm.algorithms import Evaluation, Runtime, compose
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.survey import survey
from rl4llm.checks import UsageError
from rl4llm.critics import OptimalValue
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.gates import CorrectResponses
from rl4llm.replay import SuccessReplay
from rl4llm.rewards import Format, WeightedSum
from tests.algorithms.helpers import Watch, collected, loop, run, slots, some_prompts


def never(prompt, response, answer):
    return 0.0


def half(prompt, response, answer):
    return float(len(response) % 2 == 0)


def task(reward, **settings):
    return AbsoluteDifference(digits=3, train_size=64, held_out_size=4, reward=reward, **settings)


def bonus(correct):
    return WeightedSum({"correct": correct, "format": Format(".*")}, {"format": 0.1})


def batch_of(policy, reward, **settings):
    meter = Meter()
    found = collected(loop(policy), some_prompts(8, task=task(reward, **settings)), meter)
    return found.batch, {name: float(value) for name, value in meter.means(lambda own: [own]).items()}


def test_a_format_bonus_gives_reward_but_no_accuracy(tiny_policy):
    batch, means = batch_of(tiny_policy, bonus(never))
    torch.testing.assert_close(batch.scores, torch.full_like(batch.scores, 0.1))
    assert means["train/accuracy"] == 0.0
    assert means["train/reward"] == pytest.approx(0.1)
    assert (means["train/reward/correct"], means["train/reward/format"]) == (0.0, 1.0)
    assert not batch.solved.any()


@pytest.mark.parametrize(("above", "accuracy"), [(0.0, 1.0), (0.1, 0.0), (-1.0, 1.0)])
def test_a_plain_reward_is_correct_above_a_threshold_of_the_task(tiny_policy, above, accuracy):
    batch, means = batch_of(tiny_policy, lambda p, r, a: 0.1, correct_above=above)
    assert means["train/accuracy"] == accuracy
    assert batch.solved.float().mean() == accuracy


def test_gates_replay_and_pass_at_k_follow_the_task(tiny_policy):
    batch, _ = batch_of(tiny_policy, bonus(half))
    plain, _ = batch_of(tiny_policy, half)
    assert batch.solved.tolist() == plain.solved.tolist() == (plain.scores == 1).tolist()
    assert len(set(batch.solved.tolist())) == 2
    kept = CorrectResponses()(batch)
    assert kept.any(-1).tolist() == batch.solved.tolist()
    assert CorrectResponses(threshold=0.0)(batch).tolist() == batch.response_mask.tolist()
    assert [int(unit) for unit in SuccessReplay().cut(batch)] == batch.solved.nonzero()[:, 0].tolist()
    torch.testing.assert_close(PassAtKTraining(2)(batch).advantages, PassAtKTraining(2)(plain).advantages)


def test_pass_at_k_still_refuses_shaped_rewards(tiny_policy):
    batch, _ = batch_of(tiny_policy, half)
    shaped = batch.replace(rewards=batch.rewards + 0.25 * batch.response_mask)
    with pytest.raises(UsageError, match="scores must be 0 or 1"):
        PassAtKTraining(2)(shaped)


def test_a_response_that_could_not_be_scored_is_not_correct(tiny_policy):
    batch, _ = batch_of(tiny_policy, lambda p, r, a: None if len(r) % 2 else {"correct": 1.0, "x": 0.5})
    assert (batch.solved == ~batch.scores.isnan()).all()
    assert (batch.replace(correct=torch.ones_like(batch.solved)).solved == ~batch.scores.isnan()).all()
    assert (batch.replace(correct=None).solved == (batch.scores > 0)).all()


def test_held_out_accuracy_follows_the_task_and_components_are_logged(tiny_policy, tmp_path):
    watch = Watch()
    data = PromptData(task(bonus(never)), prompts_per_step=3)
    run(loop(tiny_policy), steps=1, data=data, callbacks=[watch])
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (found,) = trainer.validate(compose(tiny_policy, **slots(evaluation=Evaluation(samples=2))), data, verbose=False)
    assert found["val/sampled_accuracy"] == found["val/greedy_accuracy"] == found["val/pass_at_2"] == 0.0
    assert found["val/reward"] == pytest.approx(0.1)
    assert (found["val/reward/correct"], found["val/reward/format"]) == (0.0, 1.0)
    assert watch.steps[0]["train/reward/format"] == 1.0


def test_a_lost_response_is_shown_in_training_and_in_evaluation(tiny_policy, tmp_path):
    def fails(prompt, response, answer):
        raise ValueError("mend me")

    data = PromptData(task(fails), prompts_per_step=3)
    with pytest.warns(UserWarning, match=r"'fails' could not score 12 of 12 .*One of them: '"):
        run(loop(tiny_policy), steps=1, data=data)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match=r"'fails' could not score .*counted in val/unscorable_share.*One of them: '"):
        trainer.validate(loop(tiny_policy), data, verbose=False)


@pytest.mark.parametrize("above", [0.0, 0.5])
def test_a_survey_says_what_is_correct_also_when_it_is_read_again(tiny_policy, tmp_path, above):
    def reward(prompt, response, answer):
        return {"score": 1.0, "correct": 0.4 * (len(response) % 2)}

    def surveyed():
        prompts = some_prompts(6, task=task(reward, correct_above=above))
        return survey(Runtime(), loop(tiny_policy).answering(), prompts, samples=4, cache=None, folder=tmp_path)

    found, again = surveyed(), surveyed()
    assert (dict(found), found.correct) == (dict(again), again.correct)
    assert {score for scores in found.values() for score in scores} == {1.0}
    assert {one for some in found.correct.values() for one in some} == ({True, False} if above == 0.0 else {False})
    source = OptimalValue(samples=4, keep="solved").build(None)
    if above:
        with pytest.raises(UsageError, match="keep='solved' drops all"):
            source.prepare(lambda **asked: found)
    else:
        source.prepare(lambda **asked: found)
        kept = source.priorities(torch.tensor(sorted(found)))
        assert kept.tolist() == [float(any(found.correct[uid])) for uid in sorted(found)]
