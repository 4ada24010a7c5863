"""A run that is saved and loaded goes on with the prompts that come next."""

import warnings

import lightning
import pytest
import torch
from lightning import LightningModule

from rl4llm.data import AbsoluteDifference, Filtered, Prioritized, PromptBatch, PromptData

TASK = AbsoluteDifference(digits=3, train_size=14, held_out_size=4)
SIZE = 4  # 3 steps per epoch; the rest is dropped


class Learner(LightningModule):
    """Learns nothing but the prompts' worth, which depends on every prompt that it has seen."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1000, dtype=torch.long))
        self.prompts = []

    def configure_optimizers(self):
        self.trainer.estimated_stepping_batches  # noqa: B018  (the loader is asked for before the checkpoint is read)
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_index):
        assert isinstance(batch, PromptBatch)
        assert len(batch) == SIZE
        self.seen.index_add_(0, batch.uids, torch.ones(len(batch), dtype=torch.long))
        self.prompts.append(batch.uids.tolist())
        torch.manual_seed(len(self.prompts))  # as the loop does at every step
        self.optimizers().step()

    def validation_step(self, batch, batch_index):
        pass

    def prompt_priorities(self, uids):
        seen, steps = self.seen[uids], int(self.seen.sum()) // SIZE
        return (1.0 + seen + steps % 3) * ((uids + steps) % 5 > 0)


class Saving(lightning.Callback):
    """Saves one checkpoint per call of a hook."""

    def __init__(self, folder, hook):
        self.folder, self.count = folder, 0
        setattr(self, hook, self.save)

    def save(self, trainer, *args):
        if not trainer.sanity_checking:
            self.count += 1
            trainer.save_checkpoint(self.folder / f"{self.count}.ckpt")


def fit(sampler, callbacks=(), ckpt_path=None, seed=3, **options):
    torch.manual_seed(seed)
    options = {"max_steps": 10, "max_epochs": -1, "limit_val_batches": 0, **options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    module = Learner()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, PromptData(TASK, prompts_per_step=SIZE, sampler=sampler), ckpt_path=ckpt_path)
    return module.prompts


LENGTHS = {
    "steps": {},
    "epochs": {"max_steps": -1, "max_epochs": 3},
    "validation": {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None},
    "short_epochs": {"limit_train_batches": 2},
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sampler", [None, Filtered(), Prioritized()])
def test_a_resumed_run_continues_with_the_next_prompts_wherever_it_was_saved(tmp_path, sampler, length):
    options = LENGTHS[length]
    saving = Saving(tmp_path, "on_train_batch_end")
    whole = fit(sampler, [saving], **options)
    assert len(whole) == saving.count == (9 if length == "epochs" else 10)
    for count in range(1, len(whole)):
        assert fit(sampler, ckpt_path=tmp_path / f"{count}.ckpt", **options, seed=8) == whole[count:], count


@pytest.mark.parametrize(
    ("hook", "done"),
    [("on_train_batch_start", 0), ("on_train_epoch_end", 3), ("on_validation_end", 2), ("on_before_zero_grad", 1)],
)
def test_a_checkpoint_of_another_moment_repeats_no_finished_step_and_skips_none(tmp_path, hook, done):
    options = LENGTHS["validation"]
    saving = Saving(tmp_path, hook)
    whole = fit(Filtered(), [saving], **options)
    assert saving.count >= 3
    for count in range(1, saving.count + 1):
        resumed = fit(Filtered(), ckpt_path=tmp_path / f"{count}.ckpt", **options, seed=8)
        finished = {"on_train_batch_start": count - 1, "on_train_epoch_end": 3 * count}.get(hook, done * count)
        assert resumed == whole[finished:], count
