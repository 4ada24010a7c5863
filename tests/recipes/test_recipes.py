"""Recipes run as they stand, every documented override parses, and bad input is one line."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.recipes.helpers import NAMES, RECIPES, SHORT, at, cli, config, run_main

SNAPSHOT = Path(__file__).parent / "defaults"
DRAWN = ("asyppo", "sft")  # their curves have all panels; drawing is a fifth of a short run
asyppo, grpo, sft = RECIPES["asyppo"], RECIPES["grpo"], RECIPES["sft"]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_fits_and_leaves_everything_in_its_run_folder(name, tmp_path, capsys, monkeypatch):
    small = [f"--trainer.default_root_dir={tmp_path}", "--data.task.train_size=16", *SHORT]
    monkeypatch.setattr(sys, "argv", [f"recipes/{name}.py", "fit", *small])
    if name not in DRAWN:
        monkeypatch.setattr("rl4llm.runs.summary.draw_curves", lambda history, path, title: path.touch())
    run_main(name)
    folder = tmp_path / name / "version_0"
    written = ("config.yaml", "metrics.csv", "summary.json", "curves.png")
    for file in (*written, "policy/config.json", "policy/model.safetensors"):
        assert (folder / file).is_file(), file
    assert list(folder.glob("events.out.tfevents.*"))
    assert list(folder.glob("checkpoints/*.ckpt"))
    assert len(list(folder.glob("rows/*.parquet"))) == (0 if name == "sft" else 2)
    shown = capsys.readouterr().out
    assert re.search(r"2 steps in \d+ seconds? of training", shown)
    assert re.search(r"sampled accuracy +\d\.\d{3} +\d\.\d{3}", shown)
    assert str(folder) in shown


def test_held_out_prompts_are_judged_before_and_after(tmp_path):
    run = cli(grpo, "fit", f"--trainer.default_root_dir={tmp_path}", *SHORT)
    assert [step for step, _ in run.history.validation] == [0, 2]


def test_validate_and_test_work_from_the_saved_configuration_and_checkpoint(tmp_path, capsys):
    cli(grpo, "fit", f"--trainer.default_root_dir={tmp_path}", *SHORT)
    folder = tmp_path / "grpo" / "version_0"
    checkpoint = folder / "checkpoints/last.ckpt"
    for command, stage in (("validate", "val"), ("test", "test")):
        run = cli(grpo, command, f"--config={folder / 'config.yaml'}", f"--ckpt_path={checkpoint}")
        assert {f"{stage}/greedy_accuracy", f"{stage}/sampled_accuracy", f"{stage}/pass_at_2"} <= set(
            run.trainer.callback_metrics
        )


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    cli(grpo, "fit", f"--trainer.default_root_dir={tmp_path}", *SHORT)
    checkpoint = tmp_path / "grpo/version_0/checkpoints/last.ckpt"
    longer = [flag for flag in SHORT if "max_steps" not in flag] + ["--trainer.max_steps=3"]
    run = cli(grpo, "fit", f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={checkpoint}", *longer)
    assert run.trainer.global_step == 3


def test_a_run_without_held_out_prompts_still_leaves_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("".join(f'{{"prompt": "{n}=", "answer": "1"}}\n' for n in range(4)))
    Path("my_verifier.py").write_text("def odd(prompt, response, answer):\n    return len(response) % 2\n")
    task = ["--data.task=JsonLines", "--data.task.train=train.jsonl", "--data.task.reward=my_verifier.odd"]
    cli(grpo, "fit", *task, "--data.prompts_per_step=2", "--trainer.max_steps=1", "--trainer.enable_progress_bar=false")
    assert Path("runs/grpo/version_0/checkpoints/last.ckpt").is_file()


def test_the_saved_policy_is_a_model_for_the_next_run(tmp_path):
    cli(sft, "fit", f"--trainer.default_root_dir={tmp_path}", *SHORT)
    policy = tmp_path / "sft" / "version_0" / "policy"
    run = cli(grpo, "fit", f"--model.policy={policy}", f"--trainer.default_root_dir={tmp_path}", *SHORT)
    assert run.trainer.global_step == 2


OVERRIDES = [
    ("--model.critics.size=4", "critics.init_args.size", 4),
    ("--model.critics.model=Qwen/Qwen3-0.6B-Base", "critics.init_args.model", "Qwen/Qwen3-0.6B-Base"),
    ("--model.critics.shards=prompt", "critics.init_args.shards", "prompt"),
    ("--model.critics.shards=shared", "critics.init_args.shards", "shared"),
    ("--model.critics.aggregate=min", "critics.init_args.aggregate", "min"),
    ("--model.critics=SymmetricCritic", "critics.class_path", "rl4llm.critics.SymmetricCritic"),
    ("--model.critics.head=BoundedHead", "critics.init_args.head.class_path", "rl4llm.critics.BoundedHead"),
    ("--model.critics.head=HistogramHead", "critics.init_args.head.init_args.bins", 51),
    ("--model.critics.loss=ClippedValueLoss", "critics.init_args.loss.init_args.clip", 0.2),
    ("--model.critics.inputs=prompt", "critics.init_args.inputs", "prompt"),
    ("--model.gate.fraction=0.05", "gate.init_args.fraction", 0.05),
    ("--model.gate=null", "gate", None),
    ("--model.gate=RandomGate", "gate.class_path", "rl4llm.gates.RandomGate"),
    ("--model.gate=DivergenceFilter", "gate.class_path", "rl4llm.gates.DivergenceFilter"),
    ("--model.gate=AdvantageMagnitude", "gate.class_path", "rl4llm.gates.AdvantageMagnitude"),
    ("--model.entropy.where.fraction=0.4", "entropy.init_args.where.init_args.fraction", 0.4),
    ("--model.entropy.where=null", "entropy.init_args.where", None),
    ("--model.entropy=null", "entropy", None),
    ("--model.entropy.coef=0.01", "entropy.init_args.coef", 0.01),
    ("--model.advantage.gamma=0.99", "advantage.init_args.gamma", 0.99),
    ("--model.advantage.lam=1.0", "advantage.init_args.lam", 1.0),
    ("--model.responses_per_prompt=32", "responses_per_prompt", 32),
    ("--model.updates.epochs=4", "updates.epochs", 4),
    ("--model.updates.minibatches=8", "updates.minibatches", 8),
    ("--model.learn_critics_first=true", "learn_critics_first", True),
    ("--model.critic_warmup=10", "critic_warmup", 10),
    ("--model.whitening=null", "whitening", None),
    ("--model.policy=Qwen/Qwen3-4B-Base", "policy", "Qwen/Qwen3-4B-Base"),
    ("--model.optimizer.lr=1e-6", "optimizer.init_args.lr", 1e-6),
    ("--model.critic_optimizer.lr=1e-5", "critic_optimizer.init_args.lr", 1e-5),
]


def test_a_head_and_its_setting_are_two_flags():
    head = config("asyppo", "--model.critics.head=BoundedHead", "--model.critics.head.low=-1")
    assert at(head["model"], "critics.init_args.head.init_args") == {"low": -1.0, "high": 1.0}


@pytest.mark.parametrize(("flag", "place", "value"), OVERRIDES, ids=lambda x: str(x))
def test_every_ablation_of_the_paper_is_one_flag(flag, place, value):
    assert at(config("asyppo", flag)["model"], place) == value


def test_difficulty_is_one_flag():
    assert config("asyppo", "--data.task.shortest=10")["data"]["task"]["init_args"]["shortest"] == 10


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_as_recorded(name):
    """A changed default is a visible change: write the new file on purpose, and label the change in the CHANGELOG."""
    model = config(name)["model"]
    recorded = SNAPSHOT / f"{name}.yaml"
    if not recorded.exists():
        recorded.parent.mkdir(exist_ok=True)
        recorded.write_text(yaml.safe_dump(model, sort_keys=False))
    assert model == yaml.safe_load(recorded.read_text())


BAD = [
    (["--model.gat=null"], r"unknown flag --model\.gat"),
    (["--modle.gate=null"], r"unknown flag --modle\.gate; did you mean --model\.gate\?"),
    (["--model.gate.fractoin=0.1"], r"fractoin"),
    (["--model.gate=Nope"], r"--model\.gate: there is no Gate named 'Nope'\. --model\.gate\.help lists"),
    (["--model.gate=no.such.Gate"], r"--model\.gate: .*no\.such"),
    (["--model.gate.fraction=1.0"], r"AgreementGate: fraction must be in \[0, 1\), got 1\.0"),
    (["--model.gate.fraction=-0.1"], r"AgreementGate: fraction must be in \[0, 1\), got -0\.1"),
    (["--model.gate.fraction=much"], r"fraction: expected a number, got much"),
    (["--model.critics=null"], r"needs .*critic_values|needs values"),
    (["--model.critics.size=9"], r"more critics \(size=9\) than responses per prompt \(8\)"),
    (["--model.critics.size=0"], r"MiniCritics: size must be a whole number of at least 1, got 0"),
    (["--model.critics.shards=halves"], r"shards"),
    (["--model.critics.head=BoundedHead", "--model.critics.head.low=1"], r"BoundedHead: low must be below high"),
    (
        ["--model.critics.head=HistogramHead", "--model.critics.head.bins=1"],
        r"HistogramHead: bins must be .* at least 2",
    ),
    (["--model.critics.head=QuantileHead", "--model.critics.head.count=0"], r"QuantileHead: count must be .* 1, got 0"),
    (["--model.critics.head.low=0"], r"--model\.critics\.head=LinearHead has no setting 'low'"),
    (["--model.critics.inputs=answer"], r"inputs"),
    (["--model.policy=/no/such/folder"], r"model folder '/no/such/folder' does not exist"),
    (["--model.sampling.top_p=0.9"], r"top_p=0\.9 draws from a filtered distribution"),
    (
        ["--model.sampling.max_response_tokens=500"],
        r"has a context of 128 tokens, but prompt and response may take 501; lower max_response_tokens",
    ),
    (
        ["--data.task=JsonLines", "--data.task.train=/no.jsonl", "--data.task.reward=builtins.len"],
        r"/no\.jsonl' does not",
    ),
    (["--trainer.devices=2x"], r"--trainer: `devices` selected with `CPUAccelerator` should be an int > 0"),
    (["--trainer.max_steps=many"], r"--trainer\.max_steps: expected a whole number, got many"),
    (["--config=/no/such.yaml"], r"/no/such\.yaml"),
    (["--model.responses_per_prompt=0"], r"responses_per_prompt must be a whole number of at least 1, got 0"),
]


BAD_ELSEWHERE = [
    (
        "dppo",
        ["--model.objective.divergence=topk_kl", "--model.engine.top_log_probs=0"],
        r"does not report them; set --model\.eng",
    ),
    ("dppo", ["--model.objective.delta_low=-1"], r"DPPO: delta_low must be in \[0, inf\], got -1"),
    ("dppo", ["--model.objective.anchor=old", "--model.objective.divergence=topk_tv"], r"anchor"),
    ("r2vpo", ["--model.variance.maximum=0"], r"Constrained: maximum must be in \(0, inf\), got 0"),
    ("r2vpo", ["--model.replay.share=1.0"], r"share must be in \[0, 1\), got 1\.0"),
    ("spo", ["--model.critics.rho_min=1.5"], r"BetaTracker: rho_min must be in \[0, 1\), got 1\.5"),
    ("spo", ["--model.critics=null"], r"advantage=SingleStream needs values, but there are no critics"),
    (
        "spo",
        [
            "--data.task=JsonLines",
            "--data.task.train={two}",
            "--data.task.reward=rl4llm.data.absolute_difference.answer_after_thinking",
        ],
        r"prompts_per_step",
    ),
    ("a_star_po", ["--model.critics.beta=0"], r"OptimalValue: beta must be in \(0, inf\], got 0"),
    (
        "a_star_po",
        ["--model.critics.cache={cache}"],
        r"the cache '.*' belongs to another policy \(other, now .*\); delete it",
    ),
    (
        "corpo",
        ["--data.sampler=Prioritized"],
        r"sampler=Prioritized draws prompts by what they are worth, and no value",
    ),
    ("sols", ["--model.critics=null"], r"needs values, but there are no critics|TrunkCritic"),
    ("sols", ["--model.critics=SymmetricCritic"], r"value=ValueRegression trains a value head.*TrunkCritic"),
    ("tbrm", ["--model.objective.beta=0"], r"TrajectoryBellmanResidual: beta must be in \(0, inf"),
    (
        "vineppo",
        ["--model.critics.samples=0"],
        r"MonteCarloValues: samples must be a whole number of at least 1, got 0",
    ),
    (
        "vineppo",
        ["--model.replay=SuccessReplay"],
        r"MonteCarloValues needs the prompts of a batch, but those of replay",
    ),
    ("dapo", ["--model.length_penalty.cache_tokens=99"], r"cache_tokens"),
    (
        "grpo",
        ["--model.correction=IcePop", "--model.trust_rollout_log_probs=true"],
        r"computes none; set one of the two",
    ),
]


@pytest.mark.parametrize(("name", "args", "message"), BAD_ELSEWHERE, ids=lambda x: str(x)[:60])
def test_bad_options_of_the_catalogue_are_one_clear_line(name, args, message, capsys, tmp_path, monkeypatch):
    (tmp_path / "two.jsonl").write_text('{"prompt": "1=", "answer": "1"}\n{"prompt": "2=", "answer": "2"}\n')
    (tmp_path / "cache.jsonl").write_text('{"policy": "other"}\n')
    places = {"two": tmp_path / "two.jsonl", "cache": tmp_path / "cache.jsonl"}
    given = [arg.format(**places) for arg in args]
    small = [
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.enable_progress_bar=false",
        "--data.prompts_per_step=4",
    ]
    if "JsonLines" not in str(args):
        small.append("--data.task.train_size=16")
    monkeypatch.setattr(sys, "argv", [f"recipes/{name}.py", "fit", *small, *given])
    with pytest.raises(SystemExit) as left:
        run_main(name)
    assert left.value.code == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, shown[-1]), shown
    assert shown[-1].startswith("error: ")
    assert "Traceback" not in "".join(shown)


@pytest.mark.parametrize(("args", "message"), BAD, ids=lambda x: str(x)[:60])
def test_bad_input_is_one_clear_line(args, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        cli(asyppo, "fit", f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", *args)
    assert left.value.code == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, shown[-1]), shown
    assert shown[-1].startswith("error: ")
    assert "Traceback" not in "".join(shown)


def test_the_mistakes_on_the_page_of_the_command_line_are_answered_as_it_says(capsys, tmp_path):
    page = Path("docs/command-line.md").read_text(encoding="utf-8")
    mistakes = re.findall(r"^\$ rl4llm asyppo (.*)\n(error: .*)$", page, re.MULTILINE)
    assert len(mistakes) >= 8
    for words, line in mistakes:
        with pytest.raises(SystemExit) as left:
            cli(asyppo, *words.split())
        assert left.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1] == line


def test_the_readme_shows_the_recipe_as_it_is():
    recipe = Path("recipes/asyppo.py").read_text()
    body = recipe[recipe.index("def asyppo(") : recipe.index("if __name__")].rstrip()
    assert body in Path("README.md").read_text()


def test_weights_and_biases_is_a_flag(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rl4llm.cli.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        cli(grpo, "fit", "--wandb=project", f"--trainer.default_root_dir={tmp_path}", *SHORT)
    assert "--wandb=project needs the wandb package; pip install 'rl4llm[wandb]'" in capsys.readouterr().err


def test_a_rehearsal_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli(grpo, "fit", "--trainer.fast_dev_run=true", *SHORT)
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_short_and_stand_alone(name):
    text = Path(f"recipes/{name}.py").read_text()
    assert text.count("\n") <= 60
    assert "from recipes" not in text
    assert text.startswith('"""')


# --- flags that the pages quote -------------------------------------------------------------------------------------


def quoted_flags():
    """Every span of flags on the page of the catalogue, with the recipe of its section; those of tables of recipes."""
    catalogue, baselines = (Path(f"docs/recipes/{page}.md").read_text() for page in ("catalogue", "baselines"))
    for section in catalogue.split("\n## ")[1:]:
        named = re.search(r"recipes/(\w+)\.py", section)
        if named:
            yield from ((named[1], flags) for flags in re.findall(r"`(--model[^`]*)`", section))
    for row in re.findall(r"^\|.*\|$", baselines, re.MULTILINE):
        named = re.search(r"recipes/(\w+)\.py", row)
        if named:
            yield from ((named[1], flags) for flags in re.findall(r"`(--model[^`]*)`", row))


@pytest.mark.parametrize(("name", "flags"), list(quoted_flags()))
def test_flags_that_a_page_quotes_are_flags(name, flags):
    assert config(name, *flags.split())
