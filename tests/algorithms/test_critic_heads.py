"""Critics with other heads and inputs, in the loop."""

import pytest
import torch

from rl4llm.advantages import GAE
from rl4llm.algorithms import Updates
from rl4llm.critics import BoundedHead, HistogramHead, MiniCritics, QuantileHead, SigmoidHead
from tests.algorithms.helpers import Seen, Watch, loop, run

ONE_STEP = Updates(minibatches=1, warmup_steps=0, schedule="constant")
MONTE_CARLO = GAE(gamma=1.0, lam=1.0, lam_returns=1.0)


@pytest.mark.parametrize("inputs", ["prefix", "prompt"])
@pytest.mark.parametrize("head", [BoundedHead(), SigmoidHead(), HistogramHead(), QuantileHead(count=5)])
def test_critics_learn_with_every_head(tiny_policy, tiny_critic, head, inputs):
    critics = MiniCritics(tiny_critic, head=head, inputs=inputs)
    module, watch = loop(tiny_policy, critics=critics, advantage=MONTE_CARLO, updates=ONE_STEP), Watch()
    before = {name: tensor.clone() for name, tensor in module.critics.named_parameters()}
    run(module, steps=2, callbacks=[watch])
    assert all(watch.steps[-1][f"critic_{index}/value_loss"] > 0 for index in range(2))
    assert all(not torch.equal(before[name], weight) for name, weight in module.critics.named_parameters())


def test_a_prompt_critic_gives_every_token_of_a_response_one_advantage_of_the_sign_of_its_success(
    tiny_policy, tiny_critic
):
    seen = Seen()
    critics = MiniCritics(tiny_critic, head=SigmoidHead(), inputs="prompt")
    run(loop(tiny_policy, objective=seen, critics=critics, advantage=MONTE_CARLO, updates=ONE_STEP), steps=2)
    for batch in seen.batches:
        mask = batch.response_mask
        expected = torch.where(mask, batch.scores[:, None] - batch.values, 0.0)
        torch.testing.assert_close(batch.advantages, expected)
        first = batch.advantages[:, :1].expand(mask.shape)
        torch.testing.assert_close(batch.advantages[mask], first[mask])
        assert torch.equal(batch.advantages[mask].sign(), (2 * batch.scores - 1)[:, None].expand(mask.shape)[mask])


def test_the_logged_loss_of_a_prompt_critic_is_a_mean_over_responses(tiny_policy, tiny_critic):
    seen, watch = Seen(), Watch()
    critics = MiniCritics(tiny_critic, 1, "shared", head=BoundedHead(-1.0, 1.4), inputs="prompt", head_scale=0.0)
    slots = {"advantage": MONTE_CARLO, "updates": ONE_STEP, "critic_updates": ONE_STEP}
    run(loop(tiny_policy, objective=seen, critics=critics, **slots), steps=1, callbacks=[watch])
    errors, lengths = (0.2 - seen.batches[0].scores).square(), seen.batches[0].lengths
    of_responses, of_tokens = errors.mean().item(), ((errors * lengths).sum() / lengths.sum()).item()
    assert abs(of_responses - of_tokens) > 1e-3
    assert watch.steps[0]["critic_0/value_loss"] == pytest.approx(of_responses)
