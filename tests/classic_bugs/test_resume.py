"""A run that is saved and loaded goes on as if it had never stopped."""

import lightning
import torch
from torch.utils.data import DataLoader

from rl4llm.algorithms import PolicyGradient, Updates
from rl4llm.data import PromptBatch, PromptData
from tests.algorithms.helpers import TASK, critic_slots


class Saving(lightning.Callback):
    """Saves after the given number of rollout batches and keeps every step's prompts."""

    def __init__(self, path=None, at=None):
        self.path, self.at, self.prompts = path, at, []

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        self.prompts.append(batch.prompts)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


class OneStep(PromptData):
    """The same prompts at every step: an order that cannot be lost."""

    def train_dataloader(self):
        return DataLoader(
            self.task.examples("train")[0:3], batch_size=3, collate_fn=lambda x: PromptBatch(x, self.task)
        )


def fit(policy, critic, saving, data, steps=4, ckpt_path=None):
    module = PolicyGradient(policy, **critic_slots(critic, updates=Updates(minibatches=2, warmup_steps=2)))
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[saving],
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module, trainer


def state(module, trainer):
    tensors = {f"weight/{name}": tensor for name, tensor in module.state_dict().items()}
    for index, optimizer in enumerate(trainer.optimizers):
        for key, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer_{index}/{key}/{name}": torch.as_tensor(x) for name, x in moments.items()}
        tensors[f"rate_{index}"] = torch.tensor(optimizer.param_groups[0]["lr"])
    for name in ("generator", "shuffle"):
        tensors[name] = getattr(module, name).get_state()
    return tensors


def same(a, b):
    assert set(a) == set(b)
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def both(policy, critic, data, path):
    """A run of four steps, and the same run taken up again from what it saved after two."""
    straight, resumed = Saving(path, at=2), Saving()
    whole = state(*fit(policy, critic, straight, data()))
    half = state(*fit(policy, critic, resumed, data(), ckpt_path=path))
    return whole, half, straight.prompts, resumed.prompts


def test_two_and_two_steps_are_four_steps_to_the_last_bit(tiny_policy, tiny_critic, tmp_path):
    whole, half, _, prompts = both(tiny_policy, tiny_critic, lambda: OneStep(TASK), tmp_path / "half.ckpt")
    assert len(prompts) == 2
    same(whole, half)


def test_a_resumed_run_goes_on_with_the_prompts_that_come_next(tiny_policy, tiny_critic, tmp_path):
    def data():
        return PromptData(TASK, prompts_per_step=3)

    whole, half, expected, prompts = both(tiny_policy, tiny_critic, data, tmp_path / "half.ckpt")
    assert prompts == expected[2:]
    same(whole, half)
