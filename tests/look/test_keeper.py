"""Annotated rows are what the models learned from; they are kept in their turn, and no run depends on them."""

import csv
import re
from pathlib import Path

import lightning
import pyarrow.parquet
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from rl4llm.algorithms import Evaluation, Supervised
from rl4llm.algorithms.watching import BatchCallback
from rl4llm.checks import UsageError
from rl4llm.critics import critic_std
from rl4llm.data import PromptData
from rl4llm.look import keeper
from rl4llm.look.files import row_files
from rl4llm.look.keeper import RowKeeper
from rl4llm.look.rows import first_groups
from tests.algorithms.helpers import TASK, critic_slots, loop

TOKENS = {"values", "returns", "advantages", "rewards", "entropies", "rollout_log_probs"}


class Watcher(BatchCallback):
    """Keeps every batch, and the log-probs after the update."""

    def __init__(self):
        self.seen = []

    def on_rollout_batch(self, module, batch, prompts, log_probs):
        self.seen.append((batch, prompts, log_probs(batch), module.trainer.global_step))


def fit(module, folder, *callbacks, steps=2, logger=True, **options):
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, log_every_n_steps=1,
        callbacks=list(callbacks), logger=logger and CSVLogger(folder, name="x", version=0), default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, PromptData(TASK, prompts_per_step=3), **options)
    return trainer, folder / "x/version_0"


def asyppo(policy, critic, **changes):
    return loop(policy, **critic_slots(critic, **changes))


def table(file):
    return pyarrow.parquet.read_table(file).to_pydict()


@pytest.fixture(scope="module")
def kept(tiny_policy, tiny_critic, tmp_path_factory):
    """One run of AsyPPO with its rows, and the batches as the loop had them."""
    watcher, module = Watcher(), asyppo(tiny_policy, tiny_critic)
    _, run = fit(module, tmp_path_factory.mktemp("run"), watcher, RowKeeper())
    return {step: table(file) for step, file in row_files(run).items()}, watcher.seen, module


def test_rows_are_the_batch_that_the_models_learned_from(kept):
    tables, seen, _ = kept
    for batch, _, present, step in seen:
        rows, masks = tables[step], batch.response_mask
        assert len(rows["step"]) == len(batch) == 12
        assert rows["score"] == batch.scores.tolist()
        assert rows["correct"] == batch.solved.tolist()
        assert rows["length"] == batch.lengths.tolist()
        numbers = {name: getattr(batch, name) for name in TOKENS}
        numbers |= {"spread": critic_std(batch.critic_values), "ratio": (present - batch.old_log_probs).exp()}
        numbers |= {"log_probs": batch.old_log_probs, "critic_1": batch.critic_values[1]}
        numbers |= {"trained": masks, "gate": batch.gates[0], "filter_entropy": batch.gates[1]}
        for name, tensor in numbers.items():
            for row, (mask, width) in enumerate(zip(masks, batch.widths.tolist(), strict=True)):
                assert rows[name][row] == tensor[row, :width].tolist(), name
                assert mask[:width].all()  # so no number is null


def test_the_ratio_is_that_of_the_update(kept):
    tables, _, _ = kept
    ratios = torch.tensor([x for row in tables[1]["ratio"] for x in row])
    assert (ratios - 1).abs().max() > 1e-3
    gated = [not kept for row in tables[1]["gate"] for kept in row]
    assert 0 < sum(gated) < len(gated)


def test_tokens_join_to_the_response_and_special_ones_have_names(kept):
    tables, seen, module = kept
    rows = tables[1]
    tokenizer = module.policy.tokenizer
    for tokens, response, truncated in zip(rows["tokens"], rows["response"], rows["truncated"], strict=True):
        assert "".join(token for token in tokens if token not in tokenizer.all_special_tokens) == response
        assert tokens[-1] == tokenizer.eos_token or truncated
    prompts = seen[0][1]
    assert rows["prompt"] == [prompts.prompts[group] for group in rows["group"]]
    assert rows["answer"] == [prompts.examples[group].answer for group in rows["group"]]


def test_every_column_is_documented(kept):
    page = Path("docs/look.md").read_text(encoding="utf-8")
    for name in kept[0][1]:
        assert f"`{re.sub('_[0-9]+$', '_<i>', name).replace('filter_entropy', 'filter_<slot>')}`" in page, name


def test_a_hole_is_shown_without_numbers(kept):
    from rl4llm.look.rows import row_columns

    _, ((batch, prompts, present, _), *_), module = kept
    mask = batch.response_mask.clone()
    mask[:, 1] = False
    holed = batch.replace(response_mask=mask, gates=batch.gates & mask)
    columns = row_columns(holed, prompts, module.policy, present, step=1, filters=["entropy"])
    for trained, values in zip(columns["trained"].to_pylist(), columns["values"].to_pylist(), strict=True):
        assert [x is None for x in values] == [not there for there in trained]
    assert not any(row[1] for row in columns["trained"].to_pylist() if len(row) > 1)


def test_responses_that_could_not_be_scored_are_shown(kept):
    from rl4llm.look.rows import row_columns

    _, ((batch, prompts, present, _), *_), module = kept
    scores = torch.full_like(batch.scores, float("nan"))
    nothing = torch.zeros_like(batch.response_mask)
    lost = batch.replace(scores=scores, response_mask=nothing, gates=batch.gates & nothing)
    columns = row_columns(lost, prompts, module.policy, present, step=1, filters=["entropy"])
    full = row_columns(batch, prompts, module.policy, present, step=1, filters=["entropy"])
    assert columns["score"] == [None] * 12
    assert columns["response"] == full["response"]
    assert not any(flag for row in columns["trained"].to_pylist() for flag in row)


@pytest.mark.parametrize(("options", "steps"), [
    ({}, [1, 3]),
    ({"every_n_batches": 2}, [1, 2, 3]),
    ({"every_n_batches": 2, "first_and_last": False}, [2]),
    ({"first_and_last": False}, []),
])  # fmt: skip
def test_rows_are_kept_when_it_is_their_turn(options, steps, tiny_policy, tmp_path):
    _, run = fit(loop(tiny_policy), tmp_path, RowKeeper(most_responses=4, **options), steps=3)
    assert list(row_files(run)) == steps
    for step, file in row_files(run).items():
        assert table(file)["step"] == [step] * 4
        assert "values" not in table(file)  # there are no critics


def test_whole_groups_are_kept():
    groups = torch.tensor([2, 2, 0, 0, 0, 2, 1])
    assert first_groups(groups, 1).tolist() == [0, 1, 5]
    assert first_groups(groups, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert first_groups(groups, 7).tolist() == list(range(7))
    assert first_groups(torch.zeros(0, dtype=torch.long), 3).tolist() == []


def test_a_run_does_not_depend_on_what_is_kept(tiny_policy, tiny_critic, tmp_path):
    runs = [
        fit(asyppo(tiny_policy, tiny_critic), tmp_path / name, *callbacks)[1]
        for name, callbacks in {"some": [RowKeeper(every_n_batches=1)], "none": []}.items()
    ]
    some, none = (list(csv.DictReader((run / "metrics.csv").open())) for run in runs)
    clocks = ("time/", "train/tokens_per_second")
    strip = lambda rows: [{n: x for n, x in row.items() if not n.startswith(clocks)} for row in rows]  # noqa: E731
    assert strip(some) == strip(none)
    assert not row_files(runs[1])


def test_a_run_that_goes_on_removes_later_rows(tiny_policy, tmp_path):
    trainer, run = fit(loop(tiny_policy), tmp_path, RowKeeper(every_n_batches=1))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    (run / "rows/step_000007.parquet").write_text("of a run that went further")
    fit(loop(tiny_policy), tmp_path, RowKeeper(), steps=3, ckpt_path=tmp_path / "two.ckpt")
    assert list(row_files(run)) == [1, 2, 3]


def test_without_loggers_or_on_other_ranks_nothing_is_written(tiny_policy, tmp_path, monkeypatch):
    fit(loop(tiny_policy), tmp_path, RowKeeper(), logger=False, steps=1)
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", property(lambda self: False))
    fit(loop(tiny_policy), tmp_path, RowKeeper(), steps=1)
    assert not list(tmp_path.rglob("rows"))


def test_without_pyarrow_only_what_is_asked_for_is_an_error(monkeypatch):
    def missing(name, *more):
        raise ImportError(name)

    monkeypatch.setattr(keeper, "find_spec", lambda name: None)
    monkeypatch.setattr("rl4llm.data.extras.import_module", missing)
    assert not RowKeeper().due(1, last=1)
    with pytest.raises(UsageError, match=r"rows.every_n_batches=5 needs .* pyarrow; run pip install 'rl4llm\[data\]'"):
        RowKeeper(every_n_batches=5)


@pytest.mark.parametrize("given", [{"every_n_batches": 0}, {"most_responses": 0}, {"every_n_batches": 1.5}])
def test_settings_that_cannot_be_meant_are_refused(given, unchecked_shapes):
    with pytest.raises(UsageError, match=f"RowKeeper: {next(iter(given))}"):
        RowKeeper(**given)


def test_rows_of_a_module_without_rollouts_are_refused(tiny_policy, tmp_path):
    from torch.optim import SGD

    from rl4llm.algorithms import Updates
    from rl4llm.rollouts import Sampling

    module = Supervised(
        tiny_policy, optimizer=SGD, updates=Updates(), evaluation=Evaluation(), sampling=Sampling(max_response_tokens=6)
    )
    with pytest.raises(UsageError, match=r"rows.every_n_batches=5: Supervised learns from no rollout batches"):
        fit(module, tmp_path, RowKeeper(every_n_batches=5))


def test_the_command_line_refuses_rows_of_a_recipe_without_rollouts(tmp_path, capsys):
    from tests.runs.commands import run

    with pytest.raises(SystemExit) as left:
        run(tmp_path, "--rows.every_n_batches=5")
    assert left.value.code == 2
    assert "rows.every_n_batches=5: Toy learns from no rollout batches" in capsys.readouterr().err
