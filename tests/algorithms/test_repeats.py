"""The same run twice is the same run to the last bit: every weight and every number that is logged, on any threads."""

import pytest
import torch

from rl4llm.advantages import SingleStream
from rl4llm.algorithms import Updates, compose
from rl4llm.critics import BetaTracker, MonteCarloValues
from rl4llm.data import Prioritized, PromptData
from rl4llm.regularizers import KLPenalty
from rl4llm.replay import FIFOReplay
from rl4llm.rollouts import DynamicSampling
from rl4llm.segments import FixedTokens
from tests.algorithms.helpers import TASK, Watch, run, slots, weights

CLOCKS = ("time/", "train/tokens_per_second")


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def shown(policy, options, steps=2, prompts=3, **data):
    watch, module = Watch(), compose(policy, **options)
    run(module, steps=steps, seed=1, callbacks=[watch], data=PromptData(TASK, prompts_per_step=prompts, **data))
    logged = [{n: x for n, x in step.items() if not n.startswith(CLOCKS)} for step in watch.steps]
    return weights(module), logged


def test_a_large_batch_gives_the_same_numbers_again(tiny_policy, threads):
    """Large enough for torch to cut elementwise work into pieces, one per thread: 576 × 6 × 15 logits."""
    options = slots(responses_per_prompt=36, updates=Updates(minibatches=1, warmup_steps=0))
    (first, logged), (again, logged_again) = (shown(tiny_policy, options, steps=1, prompts=16) for _ in range(2))
    assert torch.equal(first, again)
    assert logged == logged_again
    assert "policy/entropy" in logged[0]


PARTS = {
    "replay": (lambda: slots(replay=FIFOReplay(capacity=64, share=0.5)), {}),
    "dynamic sampling": (lambda: slots(dynamic_sampling=DynamicSampling(max_draws=9)), {}),
    "reference": (lambda: slots(regularizers={"kl": KLPenalty(0.1)}), {}),
    "completions": (lambda: slots(critics=MonteCarloValues(2, FixedTokens(2)), advantage=SingleStream()), {}),
    "tracker": (
        lambda: slots(critics=BetaTracker(samples=0), advantage=SingleStream(), responses_per_prompt=1),
        {"sampler": Prioritized()},
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_draw_random_numbers_draw_the_same_again(tiny_policy, name):
    made, data = PARTS[name]
    (first, logged), (again, logged_again) = (shown(tiny_policy, made(), steps=3, **data) for _ in range(2))
    assert torch.equal(first, again)
    assert logged == logged_again


def test_the_global_generators_are_set_at_every_step(tiny_policy):
    """A part that draws from torch's global state repeats itself, whatever others have drawn before."""
    from rl4llm.advantages import GroupRelative

    class Noisy(GroupRelative):
        def __call__(self, batch):
            found = super().__call__(batch)
            noise = torch.rand(found.advantages.shape) * batch.response_mask
            return found._replace(advantages=found.advantages + noise)

    class Drawing(Watch):
        def on_train_batch_start(self, trainer, module, batch, batch_index):
            torch.rand(7)  # as a callback of the user's may

    def trained(callbacks):
        module = compose(tiny_policy, **slots(advantage=Noisy()))
        run(module, steps=2, callbacks=callbacks)
        return weights(module)

    assert torch.equal(trained([]), trained([Drawing()]))
    assert not torch.equal(trained([]), shown(tiny_policy, slots())[0])
