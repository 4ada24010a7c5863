"""Prompts that the policy's context cannot hold are found before training."""

import warnings
from dataclasses import dataclass

import lightning
import pytest
import torch
from lightning import LightningModule

from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Example, PromptData, Task


@dataclass(frozen=True)
class Lengths(Task):
    """Prompts of the given lengths."""

    lengths: tuple[int, ...]
    reward = staticmethod(lambda prompt, response, answer: 0.0)

    def examples(self, split):
        return [Example("x" * length, None, uid) for uid, length in enumerate(self.lengths)]

    def traits(self, response):
        return {}


class Measuring(LightningModule):
    def __init__(self, limit=10):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.prompt_limit, self.measured, self.seen = limit, 0, []

    def prompt_length(self, prompt):
        self.measured += 1
        return len(prompt)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_index):
        self.seen += batch.uids.tolist()

    def validation_step(self, batch, batch_index):
        self.seen += [-uid for uid in batch.uids.tolist()]

    def test_step(self, batch, batch_index):
        self.seen += batch.uids.tolist()


def attached(lengths, limit=10, **options):
    """A data module as the loaders see it within a run."""
    data = PromptData(Lengths(tuple(lengths)), prompts_per_step=1, **options)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    module = Measuring(limit)
    trainer.strategy.connect(module)
    data.trainer = trainer
    return data, module


def test_over_long_prompts_are_dropped_from_every_split_and_counted():
    data, _ = attached([3, 11, 10, 5000, 1])
    for split, loader in (
        ("train", data.train_dataloader),
        ("validation", data.val_dataloader),
        ("test", data.test_dataloader),
    ):
        message = rf"2 of 5 {split} prompts are dropped as too long: the policy's context leaves 10 tokens .*5,000\)"
        with pytest.warns(UserWarning, match=message):
            first = loader()
        assert [example.uid for example in first.dataset] == [0, 2, 4]


def test_prompts_are_measured_once_and_dropping_is_said_once():
    data, module = attached([3, 11])
    with pytest.warns(UserWarning, match="1 of 2 validation prompts are dropped"):
        data.val_dataloader()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [example.uid for example in data.val_dataloader().dataset] == [0]
    assert module.measured == 2


def test_over_long_prompts_are_refused_where_the_setting_says_so():
    data, _ = attached([3, 11, 12], overlong="refuse")
    message = (
        r"2 of 3 train prompts are too long: .* leaves 10 tokens .* \(the longest has 12\); .*--data.overlong=drop"
    )
    with pytest.raises(UsageError, match=message):
        data.train_dataloader()
    assert len(attached([3, 10], overlong="refuse")[0].train_dataloader()) == 2


def test_prompts_of_which_none_fits_are_refused():
    with pytest.raises(UsageError, match=r"all 2 train prompts are too long: .*; shorten them, or lower"):
        attached([11, 12])[0].train_dataloader()


def test_a_prompt_without_tokens_is_refused():
    data, module = attached([3, 4])
    module.prompt_length = lambda prompt: len(prompt) % 4
    with pytest.raises(UsageError, match="train prompt with uid 1 has no tokens"):
        data.train_dataloader()


def test_the_module_hears_of_the_longest_prompt_that_fits():
    data, module = attached([3, 9, 11], overlong="drop")
    told = []
    module.check_context = told.append
    with pytest.warns(UserWarning, match="1 of 3"):
        data.train_dataloader()
    assert told == [9]
    module.prompt_limit = None
    data.train_dataloader()
    assert told == [9, 11]


def test_of_a_prompt_of_megabytes_only_the_beginning_is_measured():
    data, module = attached([3, 3_000_000])
    longest = []
    module.prompt_length = lambda prompt: longest.append(len(prompt)) or len(prompt)
    with pytest.warns(UserWarning, match=r"1 of 2 .* \(the longest has 100,000 or more\)"):
        data.train_dataloader()
    assert max(longest) == 100_000


def test_faults_of_the_data_are_found_when_the_run_is_set_up():
    data, _ = attached([11, 12, 13])
    with pytest.raises(UsageError, match="all 3 train prompts are too long"):
        data.setup("fit")


def test_one_prompt_is_measured_where_they_are_generated_on_the_fly():
    data, module = attached([])
    data.task = AbsoluteDifference(digits=9)
    data.train_dataloader()
    assert module.measured == 1
    data.task = AbsoluteDifference(digits=10)
    with pytest.raises(UsageError, match=r"the first train prompt is too long: .* leaves 10 tokens"):
        data.train_dataloader()


def test_nothing_is_measured_without_a_limit_or_outside_a_run():
    data, module = attached([3, 5000], limit=None)
    assert len(data.train_dataloader()) == 2
    assert module.measured == 0
    assert len(PromptData(Lengths((3, 5000)), 1).train_dataloader()) == 2


def test_a_run_trains_and_evaluates_on_the_prompts_that_fit():
    module, data = Measuring(), PromptData(Lengths((3, 11, 10, 4)), prompts_per_step=1)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, num_sanity_val_steps=0, **options)
    with pytest.warns(UserWarning, match="1 of 4 train prompts are dropped") as said:
        trainer.fit(module, data)
    assert sum("validation prompts are dropped" in str(warning.message) for warning in said) == 1
    assert sorted(module.seen[:3]) == [0, 2, 3]
    assert module.seen[3:] == [0, -2, -3]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (iter([]), r"Own.examples\('train'\) returned a list_iterator; return a list or another sequence of Example"),
        (["a"], r"Own.examples\('train'\)\[0\] is a str; make every entry an Example"),
    ],
)
def test_what_a_task_of_one_s_own_returns_is_checked(returned, message):
    class Own(Lengths):
        def examples(self, split):
            return returned

    with pytest.raises(UsageError, match=message):
        PromptData(Own(()), 1).train_dataloader()


def test_responses_that_leave_no_room_for_prompts_are_refused_with_what_to_lower():
    message = r"leaves no room for a prompt .*; lower --model\.sampling\.max_response_tokens by 15\.$"
    with pytest.raises(UsageError, match=message):
        attached([2, 11], limit=-4)[0].train_dataloader()
