"""A run that is saved and loaded goes on with the prompts that come next."""

import warnings
from types import SimpleNamespace

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


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_train_epoch_end"])
def test_a_checkpoint_of_another_moment_repeats_no_finished_step_and_skips_none(tmp_path, hook):
    saving = Saving(tmp_path, hook)
    whole = fit(None, [saving])
    assert saving.count == (4 if hook == "on_train_epoch_end" else 10)
    for count in range(1, saving.count):
        finished = 3 * count if hook == "on_train_epoch_end" else count - 1
        assert fit(None, ckpt_path=tmp_path / f"{count}.ckpt", seed=8) == whole[finished:], count


def test_a_checkpoint_of_a_validation_continues_with_the_next_prompts(tmp_path):
    options, saving = LENGTHS["validation"], Saving(tmp_path, "on_validation_end")
    whole = fit(Filtered(), [saving], **options)
    assert saving.count == 5
    for count in range(1, saving.count):
        resumed = fit(Filtered(), ckpt_path=tmp_path / f"{count}.ckpt", **options, seed=8)
        assert resumed == whole[2 * count :], count


def test_a_filtered_epoch_keeps_its_prompts_over_a_resume_although_their_worth_has_changed(tmp_path):
    saving = Saving(tmp_path, "on_train_batch_end")
    fit(Filtered(), [saving], max_steps=1)
    place = torch.load(tmp_path / "1.ckpt", weights_only=True)["PromptData"]
    uids = torch.tensor([example.uid for example in TASK.examples("train")])
    assert place["step"] == 1
    assert place["kept"].tolist() == (uids % 5 > 0).nonzero()[:, 0].tolist()


def test_the_run_s_seed_orders_the_prompts_and_an_explicit_seed_takes_its_place():
    assert fit(None, seed=1) == fit(None, seed=1) != fit(None, seed=2)

    def order(**options):
        return [batch.uids.tolist() for batch in PromptData(TASK, SIZE, **options).train_dataloader()]

    torch.manual_seed(1)
    assert order() == order(seed=1) == fit(None, seed=1)[:3]
    torch.manual_seed(2)
    assert order() != order(seed=1)


def test_all_processes_order_the_prompts_by_the_seed_of_the_first():
    data, first = PromptData(TASK, SIZE), PromptData(TASK, SIZE, seed=42)
    strategy = SimpleNamespace(broadcast=lambda seed: 42)
    data.trainer = SimpleNamespace(strategy=strategy, global_step=0, lightning_module=None)
    data.setup("fit")
    assert [batch.uids.tolist() for batch in data.train_dataloader()] == [
        batch.uids.tolist() for batch in first.train_dataloader()
    ]


def test_every_epoch_has_an_order_of_its_own_that_does_not_depend_on_the_steps_before():
    first = PromptData(TASK, SIZE, seed=0)
    loader = first.train_dataloader()
    epochs = [[batch.uids.tolist() for batch in loader] for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    place = {"seed": 0, "epoch": 2, "step": 1, "kept": None, "extent": (14, SIZE)}
    other = PromptData(TASK, SIZE)
    other.load_state_dict(place)
    again = [batch.uids.tolist() for batch in other.train_dataloader()]
    assert again[:2] == epochs[2][1:]
    assert again[2:] == [next(iter(loader)).uids.tolist()]


def test_an_iteration_that_is_left_early_is_taken_up_by_the_next_one():
    loader = PromptData(TASK, SIZE, seed=0).train_dataloader()
    whole = [batch.uids.tolist() for batch in PromptData(TASK, SIZE, seed=0).train_dataloader()]
    assert [next(iter(loader)).uids.tolist() for _ in range(3)] == whole
    assert len(loader) == 3


def test_a_place_among_other_prompts_begins_a_new_epoch_and_says_so():
    place = {"seed": 0, "epoch": 2, "step": 1, "kept": None, "extent": (14, SIZE)}
    for data in (PromptData(TASK, 3), PromptData(AbsoluteDifference(digits=3, train_size=8), SIZE)):
        data.load_state_dict(place)
        loader = data.train_dataloader()
        with pytest.warns(UserWarning, match=r"saved at step 1 of epoch 2 .* = \(14, 4\), .* a new epoch of prompts"):
            next(iter(loader))
        assert data.state_dict()["epoch"] == 3


def test_a_second_run_with_the_same_data_begins_anew_but_a_run_that_goes_on_does_not():
    data, module = PromptData(TASK, SIZE, seed=0), Learner()
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_steps=2, max_epochs=-1, limit_val_batches=0, **options)
    trainer.fit(module, data)
    trainer.fit_loop.epoch_loop.max_steps = 5
    trainer.fit(module, data)
    other = Learner()
    lightning.Trainer(max_steps=5, max_epochs=-1, limit_val_batches=0, **options).fit(other, data)
    assert len(module.prompts) == 5
    assert module.prompts == other.prompts


def test_overfitting_repeats_the_prompts_of_the_given_steps():
    seen = fit(None, overfit_batches=1, max_steps=4)
    expected = sorted(example.uid for example in TASK.examples("train")[:SIZE])
    assert [sorted(step) for step in seen] == [expected] * 4


def test_a_batch_is_left_as_it_is_by_every_precision_and_device():
    batch = next(iter(PromptData(TASK, SIZE).train_dataloader()))
    for precision in ("32-true", "bf16-true", "16-true", "64-true"):
        trainer = lightning.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
        trainer.strategy.connect(Learner())
        converted = trainer.precision_plugin.convert_input(batch)
        assert trainer.strategy.batch_to_device(converted, torch.device("cpu"), 0) is batch, precision


def test_parts_together_are_the_batch():
    batch = next(iter(PromptData(TASK, SIZE).train_dataloader()))
    parts = [batch.part(places) for places in (range(0, 1), range(1, SIZE), range(SIZE, SIZE))]
    assert [example for part in parts for example in part.examples] == batch.examples
    assert [len(part) for part in parts] == [1, SIZE - 1, 0]
    assert all(part.task is batch.task and len(part.uids) == len(part.prompts) == len(part) for part in parts)


def test_an_empty_share_scores_nothing():
    batch = next(iter(PromptData(TASK, SIZE).train_dataloader())).part(range(0))
    assert len(batch) == 0
    assert batch.uids.dtype == torch.long
    assert len(batch.score([], []).scores) == 0
