"""What the model says: which responses are shown, where, and that a run does not depend on it."""

import csv
import io
import json
import sys
import unicodedata
from math import nan

import lightning
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from rl4llm.algorithms import Evaluation
from rl4llm.algorithms.held_out import Sample
from rl4llm.algorithms.sample_tables import choose
from rl4llm.algorithms.sample_text import as_markdown, as_text, visible
from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, PromptData
from tests.algorithms.helpers import even_length, loop

TASK = AbsoluteDifference(digits=3, train_size=64, held_out_size=6, reward=even_length)


def sample(**changes):
    usual = {"uid": 1, "index": 0, "prompt": "1+1=", "response": "2", "score": 1.0, "correct": True, "answer": "2"}
    return Sample(**{**usual, **changes})


# --- the choice -----------------------------------------------------------------------------------------------------


def test_the_best_the_worst_and_a_random_one_are_chosen():
    chosen = choose([0.0, 2.0, nan, 2.0, 1.0], 5, step=0)
    assert list(chosen) == ["best", "worst", "random", "best 2", "worst 2"]
    assert (chosen["best"], chosen["worst"]) == (1, 2)
    assert sorted(chosen.values()) == [0, 1, 2, 3, 4]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, nan]), max_size=6), st.integers(0, 8), st.integers(0, 3))
def test_a_choice_is_of_different_rows_and_always_the_same(scores, count, step):
    chosen = choose(scores, count, step)
    assert len(set(chosen.values())) == len(chosen) == min(count, len(scores))
    assert choose(scores, count, step) == chosen


def test_the_random_one_changes_with_the_step():
    assert len({choose([0.0] * 50, 3, step)["random"] for step in range(9)}) > 4


# --- the text -------------------------------------------------------------------------------------------------------

ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


@given(ANYTHING, ANYTHING, st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_a_table_fits_eighty_columns_and_moves_nothing(prompt, response, encoding):
    shown = {"best": sample(prompt=prompt, response=response, answer=response), "worst 2": sample(score=nan)}
    text = as_text("title", shown, encoding=encoding)
    text.encode(encoding)
    assert len(text.split("\n")) <= 3 + 4 * 3 + 3
    for line in text.split("\n"):
        assert all(x.isprintable() or unicodedata.category(x) == "Zs" for x in line), repr(line)
        assert sum(width(x) for x in line) <= 80, repr(line)


def width(character):
    """Columns on a terminal, with pictures (U+FE0F) as wide as terminals make them."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return character == chr(0xFE0F)
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def test_control_characters_are_escaped():
    assert visible("a\tb\x1b[2J\r\n\u202ec\u2028d e\x7f") == r"a\tb\x1b[2J\r\n\u202ec\u2028d e\x7f"
    assert visible("é漢", encoding="ascii") == r"\xe9\u6f22"
    assert visible("a\nb", keep="\n") == "a\nb"


def test_of_a_long_text_the_beginning_and_the_end_are_shown():
    text = as_text("title", {"best": sample(response="a" * 100 + "b" * 9_900 + "z")})
    rows = [line.strip() for line in text.split("\n")]
    assert f"response  {'a' * 66}" in rows
    assert "[... 9,803 characters ...]" in rows
    assert f"{'b' * 65}z" in rows


def test_wide_characters_are_cut_between_columns():
    rows = as_text("title", {"best": sample(response="漢" * 34)}).split("\n")
    assert "    response  " + "漢" * 33 in rows
    assert " " * 14 + "漢" in rows


def test_chats_and_answers_that_are_no_texts_are_shown():
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"}]
    text = as_text("title", {"best": sample(prompt=chat, answer={"is": [2]})})
    assert r"system: Add.\nuser: 1+1" in text
    assert '{"is": [2]}' in text
    assert "expected" not in as_text("title", {"best": sample(answer=None)})


def test_markdown_shows_every_text_as_it_is():
    shown = as_markdown({"best": sample(response="# no title\n```\n<b>|\r\u2028*")})
    assert "\n    # no title\n    ```\n    <b>|\\r\\u2028*" in shown


# --- where they go --------------------------------------------------------------------------------------------------


class Tables(WandbLogger):
    """Weights & Biases as far as tables are concerned, without the package."""

    name, version, save_dir, experiment = "fake", "0", None, None

    def __init__(self):
        self.tables, self._experiment = [], None

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables.append((key, columns, data, step))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *args, **kwargs):
        pass

    def save(self):
        pass

    def finalize(self, status):
        pass

    def after_save_checkpoint(self, callback):
        pass


def fit(policy, folder, steps=2, loggers=True, ckpt_path=None, **evaluation):
    """Two batches with an evaluation before and after them."""
    lightning.seed_everything(0, verbose=False)
    fake = Tables()
    place = {"save_dir": folder, "name": "x", "version": 0}
    module = loop(policy, evaluation=Evaluation(**{"samples": 2, **evaluation}))
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=-1, val_check_interval=2, check_val_every_n_epoch=None,
        log_every_n_steps=1, logger=[CSVLogger(**place), TensorBoardLogger(**place), fake] if loggers else False,
    )  # fmt: skip
    trainer.fit(module, PromptData(TASK, prompts_per_step=3), ckpt_path=ckpt_path)
    return trainer, fake


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_samples_are_on_the_console_in_the_loggers_and_in_the_run_folder(tiny_policy, tmp_path, capsys):
    _, fake = fit(tiny_policy, tmp_path, training_samples_every=2)
    printed = capsys.readouterr().out
    for title in (
        "validation samples before training",
        "training samples of step 2",
        "validation samples after 2 steps",
    ):
        assert printed.count(title) == 1
    assert "training samples of step 1" not in printed
    folder = tmp_path / "x/version_0/samples"
    names = ["step_000000_val", "step_000002_train", "step_000002_val"]
    assert sorted(file.stem for file in folder.iterdir()) == names
    for stem, (key, columns, data, _) in zip(names, fake.tables, strict=True):
        assert key == f"{stem.rpartition('_')[2]}/samples"
        assert [dict(zip(columns, row, strict=True)) for row in data] == rows(folder / f"{stem}.jsonl")
    best, worst, random = rows(folder / "step_000002_train.jsonl")
    assert (best["kind"], worst["kind"], random["kind"]) == ("best", "worst", "random")
    assert best["score"] == even_length("", best["response"], "") >= worst["score"]
    assert best["prompt"] in printed
    assert {row["sample"] for row in (best, worst, random)} <= set(range(4))  # four responses per prompt

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(tmp_path / "x/version_0"))
    seen.Reload()
    (tensor,) = seen.Tensors("train/samples/text_summary")
    assert best["response"].encode() in tensor.tensor_proto.string_val[0]
    assert [event.step for event in seen.Tensors("val/samples/text_summary")] == [0, 1]


def test_a_run_does_not_depend_on_what_is_shown(tiny_policy, tmp_path, capsys):
    for name, options in {"some": {"training_samples_every": 1}, "none": {"samples_shown": 0}}.items():
        fit(tiny_policy, tmp_path / name, **options)
        printed = capsys.readouterr().out
        assert ("samples" in printed) == (name == "some")
    files = [tmp_path / name / "x/version_0" for name in ("some", "none")]
    some, none = (list(csv.DictReader((folder / "metrics.csv").open())) for folder in files)
    timed = {name for name in some[0] if name.startswith("time/") or name.endswith("tokens_per_second")}
    assert [{n: x for n, x in row.items() if n not in timed} for row in some] == [
        {n: x for n, x in row.items() if n not in timed} for row in none
    ]
    assert not (files[1] / "samples").exists()


def test_a_run_that_goes_on_writes_later_samples_again(tiny_policy, tmp_path):
    trainer, _ = fit(tiny_policy, tmp_path, steps=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    folder = tmp_path / "x/version_0/samples"
    kept = (folder / "step_000002_val.jsonl").read_bytes()
    (folder / "step_000003_val.jsonl").write_text("of a run with other flags")
    (folder / "step_000004_val.jsonl").write_text("stale")
    (folder / "mine.jsonl").write_text("somebody's own")
    fit(tiny_policy, tmp_path, steps=4, ckpt_path=tmp_path / "two.ckpt")
    assert not (folder / "step_000003_val.jsonl").exists()
    assert (folder / "step_000002_val.jsonl").read_bytes() == kept
    assert len(rows(folder / "step_000004_val.jsonl")) == 3
    assert (folder / "mine.jsonl").exists()


def test_without_loggers_nothing_is_written(tiny_policy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(tiny_policy, tmp_path, loggers=False)
    assert "validation samples after 2 steps" in capsys.readouterr().out
    assert not list(tmp_path.rglob("samples"))


def test_other_ranks_are_silent(tiny_policy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", property(lambda self: False))
    fit(tiny_policy, tmp_path, training_samples_every=1)
    assert "samples" not in capsys.readouterr().out
    assert not list(tmp_path.rglob("samples"))


def test_a_console_that_lacks_characters_is_no_fault(tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr("rl4llm.algorithms.held_out.decode_responses", lambda policy, batch: ["漢"] * len(batch))
    fit(tiny_policy, tmp_path, loggers=False)
    sys.stdout.flush()
    assert rb"response  \u6f22" in sys.stdout.buffer.getvalue()


@pytest.mark.parametrize("given", [{"samples_shown": -1}, {"training_samples_every": 0}])
def test_settings_that_cannot_be_meant_are_refused(given):
    with pytest.raises(UsageError, match=rf"Evaluation: {next(iter(given))} must be a whole number of at least"):
        Evaluation(**given)
