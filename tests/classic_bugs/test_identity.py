"""Groups are draws of a prompt: neither its identity in the data set nor its place in the batch."""

import pytest
import torch
from hypothesis import given, settings

from rl4llm.advantages import GroupRelative, LeaveOneOut
from rl4llm.testing.strategies import rollouts
from tests.algorithms.helpers import loop, run


@pytest.mark.parametrize("estimator", [GroupRelative(), LeaveOneOut()], ids=lambda e: type(e).__name__)
@given(batch=rollouts())
@settings(max_examples=30)
def test_advantages_do_not_depend_on_which_prompts_of_the_data_set_were_drawn(estimator, batch):
    for uids in (torch.zeros(len(batch), dtype=torch.long), torch.arange(len(batch)), batch.group_ids.flip(0)):
        again = estimator(batch.replace(prompt_uids=uids)).advantages
        assert torch.equal(again, estimator(batch).advantages)


def test_the_learning_rate_falls_once_a_rollout_batch(tiny_policy):
    import lightning

    rates = []

    class Rates(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_index):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    run(loop(tiny_policy), steps=4, callbacks=[Rates()])
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
