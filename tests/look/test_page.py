"""From a run folder to a page: what is read, what is left out, and what is refused."""

import base64
import builtins
import json
import re
import subprocess
import sys
from array import array

import pyarrow.parquet
import pytest

from rl4llm.command import main
from rl4llm.errors import UsageError
from rl4llm.look import write_page
from rl4llm.look.data import curves, read_metrics, read_run
from rl4llm.look.files import encode_rows
from tests.look.runs import HOSTILE, NUMBERS, rows_of, write_run


def embedded(file):
    """The data of a page, as a browser finds them."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    return json.loads(found)


def unpacked(text, kind):
    return array(kind, base64.b64decode(text)).tolist()


def test_the_page_holds_the_rows_to_the_last_bit(tmp_path):
    run = write_run(tmp_path / "run")
    data = embedded(write_page(run))
    assert [batch["step"] for batch in data["batches"]] == [1, 20]
    for batch in data["batches"]:
        table = pyarrow.parquet.read_table(run / f"rows/step_{batch['step']:06d}.parquet").to_pydict()
        for name in ("prompt", "answer", "score", "correct", "truncated", "length", "group"):
            assert batch["rows"][name] == table[name]
        texts = [data["vocabulary"][token] for token in unpacked(batch["tokens"], "I")]
        assert texts == [text for row in table["tokens"] for text in row]
        assert batch["lengths"] == [len(row) for row in table["tokens"]]
        for name in NUMBERS:
            given = array("f", [float("nan") if x is None else x for row in table[name] for x in row])
            assert base64.b64decode(batch["numbers"][name]) == given.tobytes()
        for name in ("trained", "gate", "filter_entropy"):
            assert unpacked(batch["flags"][name], "B") == [int(x) for row in table[name] for x in row]


def test_no_text_of_a_run_leaves_its_place(tmp_path):
    text = write_page(write_run(tmp_path / "run")).read_text()
    assert text.count("</script>") == 2
    assert "<b>" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert HOSTILE in embedded(tmp_path / "run/look.html")["vocabulary"]


def test_a_run_that_is_going_on_or_was_killed_is_shown(tmp_path):
    run = write_run(tmp_path / "run", steps=(1,))
    (run / "summary.json").unlink()
    with (run / "metrics.csv").open("a") as file:
        file.write("20,0.66")
    data = embedded(write_page(run))
    assert data["summary"] == {}
    assert data["curves"]["train/accuracy"][0] == list(range(20))
    (run / "metrics.csv").unlink()
    (run / "rows/step_000001.parquet").unlink()
    data = embedded(write_page(run))
    assert (data["curves"], data["costs"], data["batches"]) == ({}, [], [])


def test_metrics_that_are_empty_or_not_finite_are_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a,b\n0,1,\n1,nan,inf\n2,3,4\n3,5,61")
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 0, "a": 1}, {"step": 1}, {"step": 2, "a": 3, "b": 4}]


def test_long_curves_are_means_of_neighbours():
    steps, numbers = curves([{"step": step, "a": float(step % 2)} for step in range(1600)])["a"]
    assert len(steps) == len(numbers) == 400
    assert set(numbers) == {0.5}


def test_a_page_stays_within_its_size_and_keeps_whole_groups(tmp_path):
    run = write_run(tmp_path / "run", prompts=8, tokens=100)
    small, whole = (read_run(run, megabytes=size)["batches"] for size in (0.1, 100))
    for some, every in zip(small, whole, strict=True):
        assert every["responses"] == some["responses"] == len(every["lengths"]) == 32
        assert 4 <= len(some["lengths"]) < 32
        assert len(some["lengths"]) % 4 == 0
        assert some["rows"]["group"] == every["rows"]["group"][: len(some["lengths"])]
    assert len(json.dumps(small)) < 0.105e6
    assert all(len(batch["lengths"]) == 4 for batch in read_run(run, megabytes=1e-6)["batches"])


def test_the_command_says_where_the_page_is(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    for arguments, file in (([], run / "look.html"), (["--out", str(tmp_path)], tmp_path / "look.html")):
        with pytest.raises(SystemExit) as left:
            main(["look", str(run), *arguments])
        assert left.value.code == 0
        assert re.fullmatch(rf"{re.escape(str(file))}: 0\.\d MB; open it in a browser\.\n", capsys.readouterr().out)
        assert embedded(file)["name"].endswith("/run")
    assert not list(tmp_path.rglob("*.partial"))


def test_the_command_imports_neither_torch_nor_lightning():
    code = "import sys; from rl4llm.look import write_page; print({'torch', 'lightning', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "the following arguments are required: RUN_FOLDER"),
    (["nowhere"], "there is no folder 'nowhere'; give a run folder"),
    (["."], r"'.' is no run folder, as it holds no config.yaml; give one, such as run."),
    (["run", "--out", "no/look.html"], "'no/look.html' cannot be written .No such file.*; give another --out"),
    (["run", "--megabytes", "0"], "'0' is not a number above 0"),
    (["run", "--megabytes", "much"], "'much' is not a number above 0"),
])  # fmt: skip
def test_what_cannot_be_meant_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    with pytest.raises(SystemExit) as left:
        main(["look", *arguments])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert re.match("error: rl4llm look: .*" + message, said), said
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("rows/step_000020.parquet", b"PAR1 and no more", r"step_000020.parquet: these rows cannot be read .*; delete"),
    ("rows/step_000020.parquet", encode_rows({"step": [1]}), "step_000020.parquet: the columns answer, .* are missing"),
    ("summary.json", b"{", "summary.json: this is not JSON"),
    ("config.yaml", b"a: [", "config.yaml: this is not YAML"),
])  # fmt: skip
def test_a_damaged_file_is_named(name, content, message, tmp_path):
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        write_page(run)


def test_lists_of_unequal_length_are_refused(tmp_path):
    run = write_run(tmp_path / "run", steps=())
    columns = rows_of(1, 1, 2, 5, ["a"])
    columns["values"] = [row[:-1] for row in columns["values"]]
    (run / "rows/step_000001.parquet").write_bytes(encode_rows(columns))
    with pytest.raises(UsageError, match="rows of step 1: values and tokens differ in length"):
        write_page(run)


def test_rows_without_pyarrow_name_the_extra(tmp_path, monkeypatch):
    run, real = write_run(tmp_path / "run"), builtins.__import__

    def without(name, *more):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"needs? the package pyarrow; run pip install 'rl4llm\[data\]'"):
        write_page(run)
