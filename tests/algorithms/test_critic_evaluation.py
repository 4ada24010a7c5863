"""Critics are compared with the mean score of completions, one state a held-out prompt."""

import pytest
import torch

from rl4llm.advantages import GAE
from rl4llm.algorithms import Evaluation
from rl4llm.algorithms.critic_evaluation import CriticEvaluator, compared
from rl4llm.algorithms.held_out import answer_held_out
from rl4llm.critics import MiniCritics
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.rollouts import Sampling
from tests.algorithms.helpers import critic_slots, even_length, loop, run

TASK = AbsoluteDifference(digits=3, train_size=64, held_out_size=10, reward=even_length)


def test_numbers_are_those_of_values_that_know_and_of_values_that_do_not():
    truth = torch.tensor([0.0, 1.0, 0.25, 0.5, 1.0, 0.0])
    place = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.7, 0.9])
    perfect = compared(truth, truth, place)
    assert perfect["error"] == perfect["calibration_error"] == 0
    assert {perfect[f"explained_variance{third}"].item() for third in ("", "_begin", "_middle", "_end")} == {1.0}
    assert "spread_error_rank_correlation" not in perfect
    spread = torch.tensor([0.4, 0.1, 0.3, 0.2, 0.05, 0.5])
    wrong = compared(truth + spread, truth, place, spread)
    assert wrong["spread_error_rank_correlation"] == 1
    assert wrong["spread_error_rank_correlation_low"] < 1
    only_begin = torch.cat([truth[:2], torch.full((4,), 0.5)])
    assert compared(only_begin, truth, place)["explained_variance_begin"] == 1
    assert compared(only_begin, truth, place)["explained_variance_end"] == 0


def test_the_interval_is_fishers():
    x = torch.rand(403, generator=torch.Generator().manual_seed(0))
    numbers = compared(torch.zeros(403), x.roll(1), torch.zeros(403), x)
    r = numbers["spread_error_rank_correlation"].item()
    for side, name in ((-1, "low"), (1, "high")):
        expected = torch.tensor(r).atanh() + side * 1.96 * 1.03 / 20
        assert numbers[f"spread_error_rank_correlation_{name}"].item() == pytest.approx(
            expected.tanh().item(), abs=1e-6
        )


def test_one_state_a_prompt_with_the_value_and_the_truth_of_that_state(tiny_policy, tiny_critic):
    module = loop(tiny_policy, **_with_completions(tiny_critic, 64))
    (evaluator,) = [one for one in module.callbacks if isinstance(one, CriticEvaluator)]
    trainer = run(module, steps=1, data=PromptData(TASK, prompts_per_step=3, held_out_per_step=6))
    module.setup("validate")
    data = PromptData(TASK, held_out_per_step=6)
    evaluator.on_validation_epoch_start(trainer, module)
    for prompts in data.val_dataloader():
        evaluator.on_validation_batch_end(trainer, module, None, prompts, 0)
    logged = {}
    module.log = lambda name, number: logged.update({name: float(number)})
    evaluator.on_validation_epoch_end(trainer, module)
    states = {name: torch.cat([state[name] for state in evaluator.states]) for name in evaluator.states[0]}
    assert {len(x) for x in states.values()} == {10}
    assert ((states["truth"] * 64) % 1 == 0).all()
    assert states["place"].unique().numel() > 3
    assert (states["place"] < 1).all()
    assert logged["val/critics/error"] == pytest.approx(float((states["value"] - states["truth"]).abs().mean()))
    assert {"val/critics/spread_error_rank_correlation_low", "val/critics/calibration_error"} < set(logged)


def test_value_and_truth_are_those_of_the_state_before_the_cut(tiny_policy, tiny_critic, monkeypatch):
    """Both are made to tell the row and the column that they are of."""

    def values(critics, batch, context):
        columns = torch.arange(batch.response_mask.shape[1]).float()
        told = 100 * torch.arange(len(batch)).float()[:, None] + columns
        return batch.replace(values=told, critic_values=torch.stack([told, told + columns]))

    def complete(runtime, answering, prompts, batch, rows, cuts, *, samples):
        return (100 * rows + cuts).float()[:, None].expand(-1, samples)

    module = loop(tiny_policy, **_with_completions(tiny_critic, 2))
    run(module, steps=1)
    module.setup("validate")
    monkeypatch.setattr("rl4llm.algorithms.critic_evaluation.complete", complete)
    monkeypatch.setattr(type(module.critics), "values", values)
    evaluator = next(one for one in module.callbacks if isinstance(one, CriticEvaluator))
    evaluator._judge(module, next(iter(PromptData(TASK).val_dataloader())))
    (state,) = evaluator.states
    assert (state["value"] % 100).unique().numel() > 2
    assert torch.equal(state["value"], state["truth"])
    torch.testing.assert_close(state["spread"], state["value"] % 100 / 2)


def test_the_truth_of_a_whole_response_but_its_last_token_is_found(tiny_policy, tiny_critic):
    """Greedy completions repeat the greedy response, so a truth is that response's own score."""
    module = loop(tiny_policy, **_with_completions(tiny_critic, 3))
    run(module, steps=1)
    module.setup("validate")
    evaluator = CriticEvaluator(Evaluation(completions=3), Sampling(temperature=0.0, max_response_tokens=6))
    prompts = next(iter(PromptData(TASK).val_dataloader()))
    evaluator._judge(module, prompts)
    drawn, _ = answer_held_out(module.runtime(), module.answering(), prompts, 1, evaluator.training, seed=0, first=0)
    assert evaluator.states[0]["truth"].tolist() == drawn.scores[drawn.response_mask.any(-1)].tolist()


def test_the_same_states_every_time_and_critics_do_not_learn(tiny_policy, tiny_critic):
    module = loop(tiny_policy, **_with_completions(tiny_critic, 4))
    run(module, steps=1)
    module.setup("validate")
    evaluator = next(one for one in module.callbacks if isinstance(one, CriticEvaluator))
    before = [p.clone() for p in module.parameters()]
    for _ in range(2):
        evaluator._judge(module, next(iter(PromptData(TASK).val_dataloader())))
        evaluator.answered = 0
    for name, x in evaluator.states[0].items():
        assert torch.equal(x, evaluator.states[1][name])
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_critics_are_not_compared_unless_asked_and_a_loop_without_critics_has_nothing_to_compare(
    tiny_policy, tiny_critic
):
    for module in (
        loop(tiny_policy, critics=MiniCritics(tiny_critic), advantage=GAE()),
        loop(tiny_policy, evaluation=Evaluation(samples=2, completions=4)),
    ):
        assert not any(isinstance(one, CriticEvaluator) for one in module.callbacks)


def _with_completions(tiny_critic, completions):
    return critic_slots(tiny_critic, evaluation=Evaluation(samples=2, completions=completions))


def test_the_calibration_is_told_by_bin_of_the_values():
    value = torch.tensor([0.1, 0.9, 0.3, 0.7, 0.5, 0.1, 0.9, 0.3, 0.7, 0.5])
    numbers = compared(value=value, truth=value.square(), place=torch.zeros(10))
    for index, known in enumerate((0.1, 0.3, 0.5, 0.7, 0.9)):
        assert numbers[f"calibration/value_{index}"] == pytest.approx(known)
        assert numbers[f"calibration/truth_{index}"] == pytest.approx(known**2)
    assert "calibration/value_5" not in numbers
    few = compared(value=torch.tensor([0.5]), truth=torch.tensor([1.0]), place=torch.zeros(1))
    assert [name for name in few if "calibration/" in name] == ["calibration/value_0", "calibration/truth_0"]
