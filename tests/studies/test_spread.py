"""Whether the spread is uncertainty: states and their truth as runs measure them, and what the tables say of them."""

import re
from itertools import product

import pandas
import pytest
import torch

from bench.spread_numbers import FIFTHS, States, numbers
from bench.spread_page import DATA, PAGE, main, read, section
from bench.spread_states import SpreadStates, measured
from rl4llm.checks import UsageError
from rl4llm.critics import MiniCritics
from rl4llm.metrics import KINDS
from tests.algorithms.helpers import critic_slots, loop, run, some_prompts

NUMBERS = torch.full((4,), KINDS.index("number"))


# --- what a run measures --------------------------------------------------------------------------------------------


@pytest.fixture
def module(tiny_policy, tiny_critic):
    return loop(tiny_policy, **critic_slots(tiny_critic))


def test_value_and_truth_of_every_token_are_those_of_the_state_before_it(module, monkeypatch):
    """Both are made to tell the row and the column that they are of."""

    def values(critics, batch, context):
        columns = torch.arange(batch.response_mask.shape[1]).float()
        told = 100 * torch.arange(len(batch)).float()[:, None] + columns
        return batch.replace(values=told, critic_values=torch.stack([told, told + 1]))

    def complete(runtime, answering, prompts, batch, rows, cuts, *, samples):
        halves = torch.cat([torch.zeros(samples // 2), torch.full((samples // 2,), 0.5)])
        return (100 * rows + cuts).float()[:, None] + halves

    monkeypatch.setattr("bench.spread_states.complete", complete)
    monkeypatch.setattr(type(module.critics), "values", values)
    states = measured(module, some_prompts(3), 4)
    mask = states["mask"]
    assert mask.sum() > 3
    assert torch.equal(states["truths"][..., 0][mask], states["critic_values"][0][mask])
    assert torch.equal(states["truths"][..., 1][mask], states["critic_values"][0][mask] + 0.5)
    assert states["truths"].isnan().all(-1).equal(~mask)


def test_truths_are_scores_of_completions_and_the_same_every_time(module):
    first, second = measured(module, some_prompts(3), 8), measured(module, some_prompts(3), 8)
    mask = first["mask"]
    assert torch.equal(first["truths"][mask], second["truths"][mask])
    assert ((first["truths"][mask] * 4) % 1 == 0).all()
    assert first["truths"][mask].unique().numel() > 1
    assert (first["entropies"][mask] > 0).all()


def test_the_callback_writes_the_steps_that_it_is_asked_for(module, tmp_path):
    class Logger:
        log_dir = str(tmp_path)

    class Trainer:
        loggers, global_step = [Logger()], 5

    callback, prompts = SpreadStates(prompts=2, completions=4, steps=[5, 20]), some_prompts(3)
    for Trainer.global_step in (5, 7, 20):
        callback.on_validation_epoch_start(Trainer, module)
        for _ in range(2):  # batches of one evaluation
            callback.on_validation_batch_end(Trainer, module, None, prompts)
    written = sorted((tmp_path / "states").iterdir())
    assert [path.name for path in written] == ["step_000005.parquet", "step_000020.parquet"]
    table = pandas.read_parquet(written[1])
    assert set(table["response"]) == {0, 1}
    assert set(table["step"]) == {20}
    assert {"critic_0", "critic_1", "truth_a", "truth_b", "entropy", "token_id", "score"} <= set(table)
    (tmp_path / "config.yaml").write_text("seed_everything: 7\n")
    found = read([tmp_path])
    assert (set(found["critics"]), set(found["seed"]), set(found["step"])) == ({2}, {7}, {5, 20})


def test_what_cannot_be_measured_is_one_line(tiny_policy, tiny_critic, tmp_path):
    with pytest.raises(UsageError, match="completions=5; give an even number"):
        SpreadStates(completions=5)
    with pytest.raises(UsageError, match="prompts"):
        SpreadStates(prompts=0)
    one = critic_slots(tiny_critic) | {"critics": MiniCritics(tiny_critic, size=1)}
    for slots in (one, {}):
        with pytest.raises(UsageError, match="fewer than two critics"):
            run(loop(tiny_policy, **slots), callbacks=[SpreadStates()])
    with pytest.raises(UsageError, match="no folder to write to"):
        run(loop(tiny_policy, **critic_slots(tiny_critic)), callbacks=[SpreadStates()])
    with pytest.raises(UsageError, match="has no states"):
        read([tmp_path])
    with pytest.raises(UsageError, match="does not exist; give the run folders"):
        main([f"--page={tmp_path}/page.md"])


# --- what the tables say --------------------------------------------------------------------------------------------


def states(values, halves, spread=None, entropies=None):
    """One response per row whose critics differ from the value by the spread, up and down."""
    values = torch.as_tensor(values, dtype=torch.float64)
    spread = torch.zeros_like(values) if spread is None else torch.as_tensor(spread, dtype=torch.float64)
    entropies = torch.ones_like(values) if entropies is None else torch.as_tensor(entropies, dtype=torch.float64)
    halves = torch.as_tensor(halves, dtype=torch.float64)
    mask = torch.ones(values.shape, dtype=torch.bool)
    return States(torch.stack([values - spread, values + spread]), halves, entropies, mask.long(), mask)


def test_error_and_outcome_variance_are_free_of_the_noise_of_the_truth():
    """All outcomes of two halves of one completion each, weighed by how often they happen at p = 1/4: 9, 3, 3 and 1."""
    halves = [pair for pair in product([0.0, 1.0], repeat=2) for _ in range(3 ** (2 - int(sum(pair))))]
    found = states([[0.75] * 16], [halves])
    assert found.error(found.mask) == pytest.approx(0.5)  # |0.75 − 0.25|
    assert float(found.variance.mean()) == pytest.approx(0.25 * 0.75)


RAMP = torch.arange(1.0, 11.0, dtype=torch.float64)[None] / 20


@pytest.mark.parametrize("sign", [1, -1])
def test_a_spread_that_points_at_error_has_rank_correlation_one_and_a_reversed_one_minus_one(sign):
    spread = RAMP if sign > 0 else RAMP.flip(-1)
    truth = torch.zeros(1, 10, 2)
    found = numbers(states(RAMP, truth, spread), NUMBERS)
    assert found["ρ(σ, error)"] == pytest.approx(sign)
    assert (found["error gate"] < found["error filter"]) == (sign > 0)
    assert (found["squared error 0"] < found[f"squared error {FIFTHS - 1}"]) == (sign > 0)
    assert found["σ 0"] < found[f"σ {FIFTHS - 1}"]
    assert (found["lowest by σ"] < found["highest by σ"]) == (sign > 0)
    assert found["lowest by V(1 − V)"] < found["highest by V(1 − V)"]  # values up to one half that are all too high
    assert found["gate number"] == found["filter number"] == pytest.approx(0.2)
    assert found["error"] == pytest.approx(float(RAMP.square().mean().sqrt()))


def test_the_gate_is_compared_with_the_policys_entropy():
    like = numbers(states(RAMP, torch.zeros(1, 10, 2), RAMP, RAMP), NUMBERS)
    assert (like["gate in low entropy"], like["filter in low entropy"]) == (1, 0)
    assert like["ρ(σ, entropy)"] == pytest.approx(1)
    unlike = numbers(states(RAMP, torch.zeros(1, 10, 2), RAMP, RAMP.flip(-1)), NUMBERS)
    assert (unlike["gate in low entropy"], unlike["filter in low entropy"]) == (0, 1)


def test_calibration_and_places_are_those_of_the_metrics():
    found = numbers(states([[0.5] * 5 + [0.9] * 5], [[(0.5, 0.5)] * 5 + [(0.8, 0.8)] * 5]), NUMBERS)
    assert found["calibration error"] == pytest.approx(0.05)
    assert (found["value 4"], found["truth 4"]) == (pytest.approx(0.9), pytest.approx(0.8))
    assert (found["error begin"], found["error end"]) == (pytest.approx(0), pytest.approx(0.1))


def rows(critics, seed, step, error):
    """Two responses of five tokens, the second one token shorter."""
    at = [(response, column) for response in range(2) for column in range(5 - response)]
    table = pandas.DataFrame(at, columns=["response", "column"])
    ramp = (table["column"] + 1) / 10
    own = {f"critic_{index}": 0.5 + ramp * (-1) ** index for index in range(critics)}
    truths = {"truth_a": 0.5 - error * ramp, "truth_b": 0.5 - error * ramp}
    return table.assign(**own, **truths, critics=critics, seed=seed, step=step, token_id=3, entropy=1.0, score=1.0)


def test_the_section_shows_means_over_seeds_and_each_seed(tmp_path):
    parts = [rows(2, 0, 5, 1.0), rows(2, 1, 5, 0.5), rows(4, 0, 5, 0.0)]
    table = pandas.concat(parts, ignore_index=True)  # critics 2 and 3 are NaN where there are two
    text = section(table)
    assert "| 2 | 5 | +1.00 (+1.00, +1.00) |" in text
    assert "| 4 | 5 | +0.00 (+0.00) |" in text
    (row,) = re.findall(r"^\| 2 \| 5 \| (0\.\d+) \|", text, re.MULTILINE)[:1]
    root = float((parts[0]["column"].add(1).div(10) ** 2).mean() ** 0.5)
    assert float(row) == pytest.approx((root + root / 2) / 2, abs=5e-4)
    assert "after 5 batches" in text
    (tmp_path / "study").mkdir()
    table.to_parquet(tmp_path / "study" / DATA.name)
    page = tmp_path / "page.md"
    page.write_text("<!-- spread -->old<!-- end of spread -->")
    main([f"--page={page}"])
    assert text in page.read_text()


def test_the_page_holds_what_the_data_file_says():
    text = section(pandas.read_parquet(DATA))
    assert text in PAGE.read_text(encoding="utf-8"), "the section is out of date; run python -m bench.spread_page"
