"""A checkpoint of another recipe, another number of critics or another model is refused in one line."""

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.runs import Checkpoints, check_matches, checkpoint_header
from tests.runs.toy import Data, Module, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def saved(module, recipe):
    header = {**checkpoint_header(module, recipe), "file": "runs/last.ckpt"}
    return {"rl4llm": header, "state_dict": module.state_dict()}


def refusal(checkpoint, module, recipe):
    with pytest.raises(UsageError) as error:
        check_matches(checkpoint, recipe=recipe, expected=checkpoint_header(module, recipe))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_of_the_same_run_matches():
    check_matches(saved(Module(2), "asyppo"), recipe="asyppo", expected=checkpoint_header(Module(2), "asyppo"))


def test_another_recipe_is_named_with_what_to_do():
    assert refusal(saved(Module(0), "grpo"), Module(2), "asyppo") == (
        "checkpoint 'runs/last.ckpt' belongs to recipe grpo with 0 critics; this run is asyppo with 2 critics. "
        "Give --ckpt_path a checkpoint of asyppo, or run recipes/grpo.py."
    )


def test_another_recipe_with_as_many_critics_is_named():
    said = refusal(saved(Module(0), "grpo"), Module(0), "dapo")
    assert said.endswith("Give --ckpt_path a checkpoint of dapo, or run recipes/grpo.py.")


def test_another_number_of_critics_is_named():
    said = refusal(saved(Module(1), "asyppo"), Module(2), "asyppo")
    assert said.endswith(
        "belongs to recipe asyppo with 1 critic; this run is asyppo with 2 critics. "
        "Give --ckpt_path a checkpoint of asyppo, or change --model.critics."
    )


def test_another_size_is_named_with_one_of_its_tensors():
    said = refusal(saved(Module(width=7), "ppo"), Module(), "ppo")
    assert "3 tensors of another shape (policy.0.weight is 7×4 there and 5×4 here)" in said


def test_missing_and_unknown_tensors_are_counted():
    checkpoint = saved(Module(), "ppo")
    checkpoint["state_dict"]["policy.9.weight"] = checkpoint["state_dict"].pop("policy.0.weight")
    said = refusal(checkpoint, Module(), "ppo")
    assert "1 tensor missing there (policy.0.weight); 1 tensor unknown here (policy.9.weight)" in said


def test_a_later_format_is_refused():
    checkpoint = saved(Module(), "ppo")
    checkpoint["rl4llm"]["format"] = 99
    assert "install a newer rl4llm" in refusal(checkpoint, Module(), "ppo")


def test_the_header_holds_plain_values_and_every_tensor():
    header = checkpoint_header(Module(2), "asyppo", world_size=2)
    assert (header["recipe"], header["critics"], header["world_size"]) == ("asyppo", 2, 2)
    assert header["shapes"]["critics.1.bias"] == [1]
    assert "tracker.mean" in header["shapes"]


def test_the_trainer_refuses_before_anything_is_loaded(tmp_path):
    trainer([Checkpoints("grpo", folder=tmp_path)], tmp_path, logger=False, max_steps=1).fit(Module(0), Data())
    module = Module(2)
    before = torch.clone(module.policy[0].weight)
    with pytest.raises(
        UsageError, match=r"last\.ckpt' belongs to recipe grpo with 0 critics; this run is asyppo with 2"
    ):
        trainer([Checkpoints("asyppo", folder=tmp_path)], tmp_path, logger=False).fit(
            module, Data(), ckpt_path=tmp_path / "last.ckpt"
        )
    assert torch.equal(module.policy[0].weight, before)
