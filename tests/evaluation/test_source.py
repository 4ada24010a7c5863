"""What `evaluate` is given: which model, which weights, which run."""

import shutil

import pytest
import torch
import yaml

from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Task
from rl4llm.evaluation import chosen_sampling, chosen_tasks, find_source
from rl4llm.models import Policy, Pretrained
from rl4llm.rollouts import Sampling
from tests.algorithms.helpers import even_length
from tests.recipes.helpers import RECIPES, SHORT, cli

TASK = AbsoluteDifference(shortest=9, held_out_size=4, reward=even_length)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_policy):
    """The folder of a short run of a tiny policy."""
    root = tmp_path_factory.mktemp("runs")
    flags = [f"--trainer.default_root_dir={root}", f"--model.policy={tiny_policy}", "--model.optimizer.lr=0.01"]
    flags += ["--data.task.shortest=9", "--model.sampling.max_response_tokens=5", "--model.evaluation.temperature=0.5"]
    flags += ["--data.task.reward=tests.algorithms.helpers.even_length"]
    cli(RECIPES["grpo"], "fit", *SHORT, *flags)
    return root / "grpo/version_0"


@pytest.fixture
def copied(run, tmp_path):
    """The same folder, to be damaged."""
    return shutil.copytree(run, tmp_path / "grpo/version_0")


def weights(policy):
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


def test_all_names_of_a_run_give_its_policy_task_and_sampling(run, tiny_policy):
    trained = weights(Policy.load(str(run / "policy")))
    assert not torch.equal(trained, weights(Policy.load(tiny_policy)))
    for given in (run, run / "checkpoints/last.ckpt", run / "policy"):
        source = find_source(str(given))
        assert torch.equal(weights(source.load()), trained)
        assert chosen_tasks(source, None, None) == {"AbsoluteDifference": TASK}
        assert source.sampling() == Sampling(temperature=0.5, max_response_tokens=5)
        assert chosen_sampling(source, temperature=None, top_p=0.9).max_response_tokens == 5
    assert find_source(str(run)).name == str(run / "checkpoints/last.ckpt")


def test_a_run_without_checkpoints_gives_the_policy_it_saved(copied):
    shutil.rmtree(copied / "checkpoints")
    source = find_source(str(copied))
    assert (source.name, source.checkpoint) == (str(copied / "policy"), None)
    assert source.choice(Task, "data", "task").shortest == 9


def test_a_model_without_a_run_is_loaded_by_its_name(tiny_policy):
    source = find_source(tiny_policy)
    assert (source.name, source.config, source.embedded) == (tiny_policy, {}, False)
    assert find_source(Pretrained("rl4llm/digits", dtype="bfloat16")).load().model.dtype == torch.bfloat16


def test_the_embedded_model_comes_with_task_and_length():
    source = find_source("rl4llm/digits")
    assert chosen_tasks(source, None, None) == {"AbsoluteDifference": AbsoluteDifference()}
    assert chosen_sampling(source, temperature=0.5) == Sampling(temperature=0.5)


def test_only_weights_that_are_never_trained_may_be_absent(copied, monkeypatch):
    name = "model.layers.0.self_attn.q_proj.weight"
    content = torch.load(copied / "checkpoints/last.ckpt", weights_only=True)
    del content["state_dict"][f"policy.model.{name}"]
    torch.save(content, copied / "checkpoints/last.ckpt")
    (copied / "checkpoints/last.ckpt.sha256").unlink()
    (copied / "checkpoints/best.ckpt").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="no digest"):
        source = find_source(str(copied))
    with pytest.warns(UserWarning, match="no digest"), pytest.raises(UsageError, match=f"does not fit .*{name}"):
        source.load()
    loaded = Policy.load

    def frozen(model):
        policy = loaded(model)
        policy.model.get_parameter(name).requires_grad_(False)
        return policy

    monkeypatch.setattr(Policy, "load", frozen)
    with pytest.warns(UserWarning, match="no digest"):
        source.load()


# --- what cannot be meant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("x.ckpt", "checkpoint 'x.ckpt' does not exist; give --model another file"),
        ("runs/grpo/version_7", "model folder 'runs/grpo/version_7' does not exist"),
        ("rl4llm/nothing", "model 'rl4llm/nothing' is not embedded"),
    ],
)
def test_a_place_where_nothing_is_is_named(given, message):
    with pytest.raises(UsageError, match=message):
        find_source(given)


def test_a_checkpoint_without_its_configuration_is_one_line(copied, tmp_path):
    shutil.copy(copied / "checkpoints/last.ckpt", tmp_path / "copy.ckpt")
    with pytest.raises(UsageError, match=r"copy.ckpt' has no config.yaml in .* which names its model"):
        find_source(str(tmp_path / "copy.ckpt"))
    (copied / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"last.ckpt' has no config.yaml in"):
        find_source(str(copied))


def test_damaged_files_of_a_run_are_one_line(copied):
    config = copied / "config.yaml"
    content = yaml.safe_load(config.read_text())
    for text, message in {
        "a: [": "cannot be read",
        "- 1": "is no configuration of a run",
        "a: 1": "names no model.policy",
        yaml.safe_dump({**content, "model": {"policy": {"class_path": "os.system"}}}): "config.yaml of the run: model",
        yaml.safe_dump({**content, "data": {"task": "os.system"}}): "config.yaml of the run: data.task",
    }.items():
        config.write_text(text)
        with pytest.raises(UsageError, match=message) as refused:
            chosen_tasks(find_source(str(copied)), None, None)
        assert "\n" not in str(refused.value)


def test_a_checkpoint_of_another_model_is_one_line(copied, tiny_critic):
    config = copied / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["model"]["policy"] = tiny_critic
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(
        UsageError, match=r"last.ckpt' does not fit the model of its config.yaml \(size mismatch"
    ) as one:
        find_source(str(copied)).load()
    assert "\n" not in str(one.value)


def test_a_model_without_a_task_or_a_length_says_what_to_give(tiny_policy):
    source = find_source(tiny_policy)
    with pytest.raises(UsageError, match=r"comes with no task; give one, for example --task=JsonLines"):
        chosen_tasks(source, None, None)
    with pytest.raises(UsageError, match="nothing says how long a response may be; give --max_response_tokens"):
        chosen_sampling(source, temperature=1.0)
    with pytest.raises(UsageError, match="a task is named 'mean over tasks'"):
        chosen_tasks(source, None, {"mean over tasks": AbsoluteDifference()})
