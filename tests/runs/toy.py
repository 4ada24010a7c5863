"""A small run with two optimizers, a sampler that knows its place, parts with state, and a log of what happened."""

import lightning
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, Sampler

BATCHES, SIZE = 4, 2


class Order(Sampler):
    """Shuffled by (seed, epoch), beginning at a place in the epoch once."""

    def __init__(self):
        self.epoch, self.place = 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return BATCHES

    def __iter__(self):
        start, self.place = self.place, 0
        order = torch.randperm(BATCHES * SIZE, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        for index in range(start, BATCHES):
            yield order[index * SIZE : (index + 1) * SIZE]


class Data(lightning.LightningDataModule):
    """Numbers in the order of `Order`; two evaluation batches."""

    def __init__(self):
        super().__init__()
        self.order = Order()

    def train_dataloader(self):
        return DataLoader(torch.arange(BATCHES * SIZE), batch_sampler=self.order)

    def val_dataloader(self):
        return DataLoader(torch.arange(4), batch_size=2)

    def state_dict(self):
        done = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return {"place": done % BATCHES}

    def load_state_dict(self, state):
        self.order.place = state["place"]


class Tracker(nn.Module):
    """A part that is not sharded, with a buffer and extra state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.seen = {}

    def get_extra_state(self):
        return {"seen": self.seen, "rows": torch.tensor(sorted(self.seen))}

    def set_extra_state(self, state):
        self.seen = state["seen"]
        assert state["rows"].tolist() == sorted(self.seen)


class Critics(nn.ModuleList):
    @property
    def learners(self):
        return dict(enumerate(self))


class Module(lightning.LightningModule):
    """Policy and critics trained by hand; `trainer.global_step` counts the policy's steps."""

    def __init__(self, critics=1, width=5, shard=False, outlook=None):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization, self.shard = False, shard
        self.policy = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
        self.critics = Critics(nn.Linear(4, 1) for _ in range(critics))
        self.tracker = Tracker()
        self.prompts, self.evaluations, self.outlook = [], [], outlook

    def configure_model(self):
        if self.shard:
            from torch.distributed.fsdp import fully_shard

            mesh = self.device_mesh["data_parallel"]
            for part in [self.policy[0], self.policy, *self.critics]:
                fully_shard(part, mesh=mesh)

    def configure_optimizers(self):
        optimizers = [torch.optim.AdamW(part.parameters(), lr=0.05) for part in [self.policy, *self.critics]]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizers[0], 0.9)]

    def training_step(self, numbers, index):
        x = torch.sin(numbers.float()[:, None] * torch.arange(1.0, 5.0))
        self.prompts.append((self.trainer.current_epoch, index, numbers.tolist()))
        optimizers = self.optimizers() if self.critics else [self.optimizers()]
        for number, (part, optimizer) in enumerate(zip([self.policy, *self.critics], optimizers, strict=True)):
            silent = optimizer._on_before_step, optimizer._on_after_step
            if number:
                optimizer._on_before_step = optimizer._on_after_step = lambda: None
            loss = (part(x) - 1).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            optimizer._on_before_step, optimizer._on_after_step = silent
        self.lr_schedulers().step()
        self.tracker.mean += x.mean()
        self.tracker.seen[int(numbers[0])] = float(loss)
        self.log("train/loss", loss)

    def validation_step(self, numbers, index):
        if index == 0 and not self.trainer.sanity_checking:
            self.evaluations.append(self.trainer.global_step)
        step = self.trainer.global_step
        self.log("val/sampled_accuracy", float(self.outlook(step) if self.outlook else step))


class Log(Logger):
    """Keeps (step, names) of what is logged."""

    name, version = "log", 0

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, sorted(metrics), [round(float(v), 6) for _, v in sorted(metrics.items())]))

    def log_hyperparams(self, *args, **kwargs):
        pass


class Killed(BaseException):
    pass


class KillBefore(lightning.Callback):
    """Ends the process, as far as the Trainer is concerned, before the batch after so many."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_start(self, *args):
        if self.left == 0:
            raise Killed
        self.left -= 1


def trainer(callbacks, folder, **options):
    options = {"max_epochs": -1, "max_steps": 11, "check_val_every_n_epoch": None, "val_check_interval": 3} | options
    return lightning.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=-1,
        **options,
    )
