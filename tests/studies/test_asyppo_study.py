"""The page on the AsyPPO study: verdicts of made-up numbers, what is said about missing runs, and the page itself."""

import re
from itertools import chain
from math import nan
from pathlib import Path

import pandas
import pytest
import yaml

from bench.asyppo_claims import CLAIMS, MARGIN, MEMORY, PRIMARY, SPREAD, Claim, difference_of, verdict_of
from bench.asyppo_figures import FIGURES, PLAIN, Figure, draw
from bench.asyppo_results import Results, differences
from bench.asyppo_study import DATA, PAGE, filled, main, sections
from bench.asyppo_tables import arms_table, claims_table, coverage, settings_table
from bench.same_numbers import differing
from bench.same_numbers import main as same_numbers
from rl4llm.checks import UsageError

ROOT = Path(__file__).parents[2]
STUDY = yaml.safe_load((ROOT / "recipes/configs/asyppo_study.yaml").read_text())
GAIN = Claim("the gate helps", ("asyppo",), ("no gate",))
LIKE = Claim("more add little", ("four critics",), ("asyppo",), "similar")
NOISE = [0.001, -0.002, 0.0015, -0.001, 0.002, 0.0005]


def decided(claim, *sides):
    """The verdict where each arm of the claim has these numbers, one per seed."""
    values = {arm: dict(enumerate(numbers)) for arm, numbers in zip(claim.arms, sides, strict=True)}
    return verdict_of(claim, difference_of(claim, values), min(map(len, sides)))


def moved(shift, seeds=6):
    return [0.7 + shift + noise for noise in NOISE[:seeds]]


@pytest.mark.parametrize(
    ("shift", "seeds", "verdict"),
    [
        (0.03, 6, "supported"),
        (-0.03, 6, "not supported"),  # the same numbers with the sign flipped
        (0.0, 6, "not distinguishable"),
        (0.03, 5, "too few seeds"),
        (0.0, 5, "too few seeds"),
        (nan, 6, "not comparable"),
    ],
)
def test_a_gain_is_decided_by_interval_and_sign_test_together(shift, seeds, verdict):
    assert decided(GAIN, moved(shift, seeds), [0.7] * seeds) == verdict


def test_five_of_six_seeds_are_not_enough_although_the_interval_leaves_out_zero():
    arm = [0.75, 0.76, 0.74, 0.75, 0.76, 0.699]
    found = difference_of(GAIN, {"asyppo": dict(enumerate(arm)), "no gate": dict.fromkeys(range(6), 0.7)})
    assert found.mean.low > 0
    assert verdict_of(GAIN, found, 6) == "not distinguishable"


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.003, "supported"),
        (-0.003, "supported"),
        (MARGIN + 0.03, "not supported"),
        (-MARGIN - 0.03, "not supported"),
        (MARGIN, "not distinguishable"),
    ],
)
def test_similar_means_that_the_whole_interval_is_within_the_margin(shift, verdict):
    assert decided(LIKE, moved(shift), [0.7] * 6) == verdict


def test_less_is_what_a_claim_about_costs_expects():
    less = Claim("less memory", ("asyppo",), ("ppo",), "lower", MEMORY)
    assert decided(less, [600.0 + n for n in NOISE], [700.0] * 6) == "supported"
    assert decided(less, [700.0] * 6, [600.0 + n for n in NOISE]) == "not supported"


def test_a_lead_that_grows_is_a_difference_of_differences():
    (claim,) = [one for one in CLAIMS["Sample reuse"] if "GRPO grows" in one.text]
    values = {"eight passes": 0.9, "grpo, eight passes": 0.6, "one pass": 0.8, "grpo, one pass": 0.7}
    found = difference_of(claim, {arm: dict.fromkeys(range(6), value) for arm, value in values.items()})
    assert found.mean.value == pytest.approx((0.9 - 0.6) - (0.8 - 0.7))


def test_only_seeds_that_all_arms_have_are_compared():
    found = difference_of(GAIN, {"asyppo": {0: 0.5, 1: 0.9, 2: 0.9}, "no gate": {1: 0.8, 2: 0.7, 5: 0.0}})
    assert (found.mean.value, found.above, found.below) == (pytest.approx(0.15), 2, 0)
    assert difference_of(GAIN, {"asyppo": {0: 0.5}}).verdict == "not comparable"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plus": ("a", "b"), "minus": ("c",)}, "as many arms on both sides"),
        ({"plus": ("a",), "minus": ("b",), "expected": "similar", "measure": SPREAD}, "the margin is one of"),
    ],
)
def test_a_claim_that_compares_nothing_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Claim("x", **options)


def test_every_arm_of_the_study_is_in_a_figure_and_in_a_claim_and_no_other_is():
    arms = set(STUDY["arms"])
    drawn = set(chain.from_iterable(panel for figure in FIGURES.values() for panel in figure.panels))
    claimed = {arm for claims in CLAIMS.values() for claim in claims for arm in claim.arms}
    assert drawn | {"asyppo"} == arms
    assert claimed <= arms
    assert arms - claimed == {"one critic with half the data"}  # shown beside its twin without gate and filter


# --- a study of three arms ------------------------------------------------------------------------------------------


def rows_of(arm, seed, end, *, finished=True, config=""):
    """What a run has logged: accuracy from 0.3 to its end, time and memory."""
    shared = {"arm": arm, "recipe": "asyppo", "seed": seed, "command": "python recipes/asyppo.py fit", "config": config}
    logged = {"val/sampled_accuracy": [(0, 0.3), (40, end)], "policy/entropy": [(0, 1.0)], "time/step": [(0, 1.0)]}
    logged["run/finished"] = [(40, float(finished))]
    if finished:
        minutes = 2.0 if arm == "ppo" else 1.0
        minutes = 40.0 if seed == 0 else minutes  # it shared the machine, which a median does not show
        logged |= {"run/minutes": [(40, minutes)], "run/peak_memory_mib": [(40, 700.0)]}
    return [shared | {"step": s, "metric": name, "value": v} for name, points in logged.items() for s, v in points]


CONFIG = """
seed_everything: {seed}
trainer: {{default_root_dir: somewhere/{seed}, max_steps: 40}}
model:
  critics: {{class_path: rl4llm.critics.{critics}, init_args: {{{own}: 1, seed: 0}}}}
  gate: {gate}
  critic_optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: {lr}}}}}
"""
GATE = "{class_path: rl4llm.gates.AgreementGate, init_args: {fraction: 0.2}}"


@pytest.fixture(scope="module")
def study():
    """All seeds of asyppo and no gate, three of ppo, whose others have logged but not finished; none of grpo."""
    rows = []
    for seed in range(6):
        like = {"seed": seed, "critics": "MiniCritics", "own": "size", "gate": GATE, "lr": 0.001}
        rows += rows_of("asyppo", seed, 0.9 + NOISE[seed], config=CONFIG.format(**like))
        rows += rows_of("no gate", seed, 0.8 - NOISE[seed], config=CONFIG.format(**like | {"gate": "null"}))
        ppo = like | {"critics": "SymmetricCritic", "own": "head_scale", "lr": 0.0005}
        rows += rows_of("ppo", seed, 0.7, finished=seed < 3, config=CONFIG.format(**ppo))
        rows += rows_of("grpo", seed, 0.0, finished=False)[-1:]
    return Results(pandas.DataFrame(rows).astype({"arm": "category", "metric": "category", "config": "category"}))


def cells(table, start):
    """The cells of the row that begins with a text."""
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_table_shows_difference_counts_verdict_and_cost(study):
    row = cells(claims_table(study), "The gate helps")
    assert row[1] == "*asyppo* − *no gate*"
    assert row[2].startswith("+0.050 [+0.0")  # half of 0.1, because the curves start together
    assert row[3:] == ["6, 0; p = 0.031", "× 1.00", "× 1.00", "supported"]


def test_the_table_names_missing_seeds_and_arms(study):
    table = claims_table(study)
    row = cells(table, "AsyPPO learns better than PPO with a critic as large as the policy")
    assert (row[6], row[4]) == ("too few seeds (3)", "× 0.50")
    assert cells(table, "AsyPPO learns better than GRPO")[6] == "too few seeds (0)"
    row = cells(table, "A gate of 20 % is better than one of 5 %")  # an arm that is not in the study at all
    assert (row[2], row[6]) == ("–", "too few seeds (0)")
    text = coverage(study)
    assert "15 of 24 runs have finished, and 2 of 4 arms have all of their seeds" in text
    assert "Missing: seeds 3, 4, 5 of *ppo*; seeds 0, 1, 2, 3, 4, 5 of *grpo*." in text
    assert "3 arms with seed 2, 2 arms with seed 3" in text


def test_the_table_of_arms_says_on_how_many_seeds_it_rests(study):
    table = arms_table(study)
    ppo = ["3 of 6", "0.500", "0.700", "0 of 3 reach it", "2.0", "700", "-0.100 [-0.101, -0.099], too few seeds"]
    assert cells(table, "ppo")[1:] == ppo
    assert cells(table, "asyppo")[4] == "33.3"
    assert cells(table, "grpo")[1:] == ["0 of 6", *["–"] * 6]


def test_settings_that_follow_from_a_class_are_left_out_and_others_are_not(study):
    table = settings_table(study, ["ppo", "no gate"])
    assert cells(table, "ppo")[1] == "`critics`: MiniCritics → SymmetricCritic; `critic_optimizer.lr`: 0.001 → 0.0005"
    assert cells(table, "no gate")[1] == "`gate`: AgreementGate → none"
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": (2, None), "c": (None, 3)}


def test_the_data_file_holds_no_folder_and_no_other_metric(study):
    kept = study.only(["val/sampled_accuracy"]).table
    assert set(kept["metric"]) == {"val/sampled_accuracy", "run/finished"}
    assert not kept["config"].astype(str).str.contains("somewhere").any()
    assert len(set(kept.loc[kept["arm"] == "asyppo", "config"])) == 1


def test_a_figure_names_arms_without_runs_and_takes_the_colours_of_the_page(study):
    drawing = draw(Figure("Trial", (("ppo", "grpo"),)), study)
    assert "grpo (0 seeds)" in drawing
    assert "ppo (3 seeds)" in drawing
    assert "currentColor" in drawing
    assert PLAIN not in drawing
    assert drawing.startswith('<svg class="drawing"')
    assert "#2f7de1" in drawing
    assert '<g id="' not in drawing


@pytest.mark.long
def test_one_command_writes_the_page_its_figures_and_its_data(study, tmp_path):
    study.table.to_parquet(tmp_path / "metrics.parquet")
    names = ("coverage", "claims", "afterwards", "arms", "settings")
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->old<!-- end of {name} -->\nkept\n" for name in names))
    main([str(tmp_path / "metrics.parquet"), f"--page={page}"])
    text = page.read_text()
    assert "old" not in text
    assert (text.count("kept"), text.count("| The gate helps |")) == (5, 1)
    assert cells(text, "*no gate* − *ppo*")[2] == "3, 0"  # higher in the three seeds that both have
    assert cells(text, "*no gate* − *grpo*")[1:] == ["–", "0, 0"]
    assert {path.stem for path in (tmp_path / "study").glob("*.svg")} == set(FIGURES)
    main([str(tmp_path / "study" / DATA.name), f"--page={page}"])  # from the data file alone
    assert page.read_text() == text


def test_a_page_without_markers_and_a_file_of_something_else_are_refused(tmp_path):
    with pytest.raises(UsageError, match="has no '<!-- claims -->'"):
        filled("<!-- arms --><!-- end of arms -->", {"claims": ""})
    with pytest.raises(UsageError, match=r"x\.parquet' does not exist"):
        Results.read(tmp_path / "x.parquet")
    pandas.DataFrame({"arm": ["a"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(UsageError, match=r"lacks the columns \['recipe'"):
        Results.read(tmp_path / "y.parquet")
    another = tmp_path / "another.parquet"
    pandas.DataFrame(rows_of("a", 0, 0.5)).to_parquet(another)
    pandas.DataFrame(rows_of("a", 0, 0.5)[:1]).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(UsageError, match="lacks the metric run/finished"):
        Results.read(tmp_path / "y.parquet")
    with pytest.raises(UsageError, match="there is no arm 'asyppo' among a"):
        settings_table(Results.read(another))
    (tmp_path / "z.parquet").write_text("no Parquet")
    with pytest.raises(UsageError, match=r"z\.parquet' cannot be read"):
        Results.read(tmp_path / "z.parquet")


def test_two_runs_are_compared_in_every_digit_apart_from_times(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("step,train/reward,time/step_seconds\n0,0.1,1.0\n1,,2.0\n")
    second.write_text("step,time/step_seconds,train/reward\n0,9.0,0.1\n1,9.0,\n")
    assert differing(first, second) == (3, [])
    second.write_text("step,time/step_seconds,train/reward\n0,9.0,0.10000000000000002\n1,9.0,0.5\n")
    assert differing(first, second)[1] == ["train/reward at step 0", "train/reward at step 1"]
    with pytest.raises(SystemExit, match="2 differ, the first of them train/reward at step 0"):
        same_numbers([str(first), str(second)])
    second.write_text("step,val/reward\n0,0.1\n")
    assert differing(first, second)[1] == ["metrics ['train/reward', 'val/reward']"]
    second.write_text("step,train/reward\n0,0.1\n")
    assert differing(first, second)[1] == ["2 against 1 rows"]


# --- the page itself ------------------------------------------------------------------------------------------------


def without_intervals(text):
    """Intervals are resampled, and other versions of scipy may resample otherwise."""
    return re.sub(r" \[[^]]*\]", "", text)


def test_the_page_holds_what_the_data_file_says():
    page = without_intervals(PAGE.read_text(encoding="utf-8"))
    for name, content in sections(Results.read(DATA)).items():
        assert without_intervals(content) in page, f"section '{name}' is out of date; run python -m bench.asyppo_study"


def test_the_page_shows_every_figure():
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"(study/{name}.svg)" in page for name in FIGURES)
    assert PRIMARY.metric in page
