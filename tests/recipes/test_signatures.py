"""All recipes have one shape: one order of slots, every slot handed on, and every other slot a flag with a text."""

import importlib
import inspect

import pytest
import torch

from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from tests.recipes.helpers import NAMES, RECIPES, REINFORCEMENT, SHORT, Built, OnlyParser, at, cli, config, parser_of

SLOTS = list(inspect.signature(compose).parameters)


def own_slots(name):
    """The slots that a recipe names, without `**options`."""
    parameters = inspect.signature(RECIPES[name]).parameters.values()
    return [one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]


def place(slot):
    """Where a slot stands in the data flow; a regularizer has a name of its own."""
    return SLOTS.index(slot if slot in SLOTS else "regularizers")


@pytest.mark.parametrize("name", REINFORCEMENT)
def test_slots_stand_in_the_order_of_the_data_flow(name):
    slots = own_slots(name)
    assert slots == sorted(slots, key=place)
    assert slots[0] == "policy"


@pytest.mark.parametrize("name", REINFORCEMENT)
def test_a_recipe_hands_on_every_slot_that_it_names_under_its_name(name, monkeypatch):
    handed = {}
    module = importlib.import_module(f"recipes.{name}")
    monkeypatch.setattr(module, "compose", lambda policy, **slots: handed.update(slots, policy=policy))
    given = {slot: object() for slot in own_slots(name)}
    RECIPES[name](**given, guards="another")
    regularizers = handed.pop("regularizers", {})
    assert handed | regularizers == {**given, "guards": "another"}
    assert set(regularizers) == set(given) - set(SLOTS)


@pytest.mark.parametrize("name", REINFORCEMENT)
def test_a_recipe_has_a_flag_for_every_slot(name):
    flags = set(config(name)["model"])
    own = set(own_slots(name))
    assert flags == own | set(SLOTS) - ({"regularizers"} if own - set(SLOTS) else set())


@pytest.mark.parametrize("name", REINFORCEMENT)
def test_a_recipe_returns_the_one_loop_and_takes_a_name_or_a_model_as_policy(name):
    signature = inspect.signature(RECIPES[name])
    assert signature.return_annotation is PolicyGradient
    assert signature.parameters["policy"].annotation == str | Pretrained


def test_only_the_command_that_is_called_has_flags_and_all_have_if_none_is():
    def with_model_flags(*given):
        with pytest.raises(Built) as built:
            OnlyParser(RECIPES["grpo"], PromptData, args=list(given))
        (commands,) = (action for action in built.value.args[0]._actions if action.dest == "subcommand")
        return [name for name, parser in commands.choices.items() if "--model.policy" in parser._option_string_actions]

    assert with_model_flags("validate") == ["validate"]
    assert with_model_flags("--config=run.yaml", "fit") == with_model_flags() == ["fit", "validate", "test"]


UNNAMED = [
    ("--model.engine.rows_at_once=64", "engine.init_args.rows_at_once", 64),
    ("--model.sampling.temperature=0.8", "sampling.temperature", 0.8),
    ("--model.responses_per_prompt=4", "responses_per_prompt", 4),
    ("--model.scoring.workers=0", "scoring.workers", 0),
    ("--model.scoring.timeout_s=2.5", "scoring.timeout_s", 2.5),
    ("--model.dynamic_sampling.max_draws=3", "dynamic_sampling.init_args.max_draws", 3),
    ("--model.replay=FIFOReplay", "replay.class_path", "rl4llm.replay.FIFOReplay"),
    ("--model.trust_rollout_log_probs=true", "trust_rollout_log_probs", True),
    ("--model.length_penalty=OverlongPenalty", "length_penalty.class_path", "rl4llm.rewards.OverlongPenalty"),
    ("--model.kl_reward.coef=0.05", "kl_reward.init_args.coef", 0.05),
    ("--model.truncation=actor_only", "truncation", "actor_only"),
    ("--model.critics=SymmetricCritic", "critics.class_path", "rl4llm.critics.SymmetricCritic"),
    ("--model.whitening=Whiten", "whitening.class_path", "rl4llm.advantages.Whiten"),
    ("--model.correction=IcePop", "correction.class_path", "rl4llm.corrections.IcePop"),
    ("--model.gate=HighEntropy", "gate.class_path", "rl4llm.gates.HighEntropy"),
    ("--model.updates.minibatches=2", "updates.minibatches", 2),
    ("--model.optimizer=SGD", "optimizer.class_path", "torch.optim.SGD"),
    ("--model.critic_updates.epochs=2", "critic_updates.epochs", 2),
    ("--model.critic_optimizer.lr=1e-5", "critic_optimizer.init_args.lr", 1e-5),
    ("--model.critic_warmup=3", "critic_warmup", 3),
    ("--model.critic_warmup_until=0.3", "critic_warmup_until", 0.3),
    ("--model.learn_critics_first=true", "learn_critics_first", True),
    ("--model.reference_interval=10", "reference_interval", 10),
    ("--model.evaluation.samples=8", "evaluation.samples", 8),
    ("--model.guards.skipped=3", "guards.skipped", 3),
    ("--model.policy.name=Qwen/Qwen3-4B-Base", "policy.name", "Qwen/Qwen3-4B-Base"),
    ("--model.policy.dtype=bfloat16", "policy", {"name": "rl4llm/digits", "dtype": "bfloat16"}),
]


@pytest.mark.parametrize(("flag", "where", "value"), UNNAMED, ids=lambda x: str(x))
def test_a_slot_that_the_recipe_does_not_name_is_one_flag(flag, where, value):
    assert set(own_slots("grpo")) == {"policy", "advantage", "objective", "kl", "aggregator"}
    found = at(config("grpo", flag)["model"], where)
    if isinstance(value, dict):
        found = {key: found[key] for key in value}
    assert found == value


def test_a_recipe_without_a_regularizer_takes_any_by_name():
    flags = ["--model.regularizers.bonus=EntropyBonus", "--model.regularizers.bonus.coef=0.1"]
    assert at(config("cispo", *flags)["model"], "regularizers.bonus.init_args.coef") == 0.1


def test_every_slot_of_compose_is_among_those_flags():
    tried = {flag.removeprefix("--model.").partition("=")[0].partition(".")[0] for flag, *_ in UNNAMED}
    assert tried == set(SLOTS) - {"advantage", "objective", "regularizers", "aggregator"}


def test_flags_of_unnamed_slots_reach_the_run(tmp_path):
    flags = ["--model.policy.dtype=bfloat16", "--model.sampling.temperature=0.8", "--model.scoring.workers=0"]
    flags += ["--model.guards.skipped=3", "--model.critic_updates.epochs=2"]
    run = cli(RECIPES["ppo"], "fit", f"--trainer.default_root_dir={tmp_path}", *flags, *SHORT).model
    assert {weight.dtype for weight in run.policy.parameters()} == {torch.bfloat16}
    assert run.composition.rollout.sampling.temperature == 0.8
    assert run.composition.rollout.scoring.workers == 0
    assert run.health.guards.skipped == 3
    assert run.critic_learning.updates.epochs == 2


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_slot_has_a_text(name):
    parser = fit_parser(name)
    slots = {action.dest: action.help for action in parser._actions if action.dest.count(".") == 1}
    assert [slot for slot, text in slots.items() if slot.startswith("model.") and not text] == []


def test_the_text_of_a_standard_slot_is_that_of_compose_unless_the_recipe_has_one(capsys):
    with pytest.raises(SystemExit):
        cli(RECIPES["asyppo"], "fit", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "How many, how large, what each learns from, and how their values are joined." in shown  # the recipe's
    assert "Normalizes the advantages of the whole rollout batch, before the gate." in shown  # compose's
    assert "From losses of tokens to a scalar." in shown  # of a slot that the recipe does not name
    assert "When a run that goes wrong stops: --model.guards" in shown  # of a group of settings


def fit_parser(name):
    (commands,) = (action for action in parser_of(name)._actions if action.dest == "subcommand")
    return commands.choices["fit"]


def test_help_begins_with_the_recipe_and_ends_with_the_trainer():
    parser = fit_parser("asyppo")
    before = list(parser._action_groups), parser.usage
    lines = parser.format_help().splitlines()
    flags = ("model.policy", "data.task", "trainer.max_steps")
    first = {flag: next(i for i, line in enumerate(lines) if line.startswith(f"  --{flag}")) for flag in flags}
    assert first["model.policy"] < 50
    assert first["model.policy"] < first["data.task"] < first["trainer.max_steps"]
    assert lines[0].startswith("usage: ")
    assert lines[0].endswith("[flags]")
    assert (parser._action_groups, parser.usage) == before
