"""Every row of the page's table of faults: one line each, before a model is loaded, and nothing is executed."""

import pickle
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl4llm.checks import UsageError
from rl4llm.data import GSM8K, HuggingFaceDataset, JsonLines, Parquet, PromptFormat, ReasoningGym
from tests.data.helpers import one, questions, write_lines, write_parquet

pytest.importorskip("datasets")
pytest.importorskip("reasoning_gym")
pytestmark = pytest.mark.usefixtures("offline")
TABLE = re.compile(r"^\| fault \| what the line says \|\n\|[-|]*\|\n((?:\|.*\n)*)", re.MULTILINE)
TOUCHED = "touched.txt"


class Malicious:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, (TOUCHED, "w")


def parquet(rows, **fields):
    return Parquet(train=write_parquet(Path("a.parquet"), rows), reward=one, **fields)


def raw(kind, content, name="a", **fields):
    Path(name).write_bytes(content)
    return kind(train=name, reward=one, **fields)


def cut_parquet(end):
    write_parquet(Path("b.parquet"), questions(500, "prompt"))
    content = bytearray(Path("b.parquet").read_bytes())
    if end:
        return bytes(content[: len(content) // 2])
    content[20:220] = bytes(200)
    return bytes(content)


def with_template(template, rows=None):
    return parquet(rows or questions(2), prompt=PromptFormat(template=template))


ROWS = questions(2, "prompt")
PICKLED = pickle.dumps([Malicious()])
FAULTS = {
    "a file that is not there": lambda: JsonLines(train="none.jsonl", reward=one),
    "a folder instead of a file": lambda: Parquet(train=".", reward=one),
    "no file at all": lambda: GSM8K(),
    "a file without lines": lambda: raw(JsonLines, b"\n\n"),
    "a Parquet file without rows": lambda: raw(Parquet, empty_parquet()),
    "a line that is not JSON": lambda: raw(JsonLines, b'{"prompt": '),
    "a line that is no object": lambda: raw(JsonLines, b"[1]"),
    "text that is not UTF-8": lambda: raw(JsonLines, '{"prompt": "é"}'.encode("latin-1")),
    "a pickle instead of JSON lines": lambda: raw(JsonLines, PICKLED),
    "a pickle instead of Parquet": lambda: raw(Parquet, PICKLED),
    "a Parquet file that was cut": lambda: raw(Parquet, cut_parquet(end=True)),
    "a Parquet file with damaged pages": lambda: raw(Parquet, cut_parquet(end=False)),
    "a column that is not there": lambda: parquet(ROWS, prompt_key="question"),
    "an answer column that is not there": lambda: parquet(ROWS, answer_key="solution"),
    "a nested column that is not there": lambda: parquet([{"info": {"a": "b"}, "answer": "1"}], prompt_key="info.q"),
    "lines without any answer": lambda: JsonLines(train=write_lines(Path("a"), [{"prompt": "a"}]), reward=one),
    "a prompt that is null": lambda: parquet([*ROWS, {"prompt": None, "answer": "1"}]),
    "a prompt that is a number": lambda: parquet([{"prompt": 3, "answer": "1"}]),
    "an empty prompt": lambda: parquet([*ROWS, {"prompt": " ", "answer": "1"}]),
    "a message without content": lambda: parquet([{"prompt": [{"role": "user", "content": None}], "answer": "1"}]),
    "a response that is no text": lambda: parquet([{"prompt": "a", "answer": "1", "response": 3}]),
    "an answer in another form": lambda: parquet(ROWS, answer_form="boxed"),
    "a template that names no column": lambda: with_template("What is it?"),
    "a template with a column that is not there": lambda: with_template("{problem}"),
    "a template with a column that is no text": lambda: with_template("{q}", [{"q": ["a"], "answer": "1"}]),
    "a template whose columns are empty": lambda: with_template("Q: {q}", [{"q": "", "answer": "1"}]),
    "a system prompt for raw texts": lambda: parquet(ROWS, prompt=PromptFormat(system="S")),
    "a few-shot example without a response": lambda: parquet(ROWS, prompt=PromptFormat(few_shot=[{"prompt": "a"}])),
    "a few-shot file that is not there": lambda: parquet(ROWS, prompt=PromptFormat(few_shot="none.jsonl")),
    "a share that leaves a split empty": lambda: parquet(ROWS, validation_share=1e-9),
    "a share beside a file": lambda: parquet(ROWS, validation_share=0.1, validation="a.parquet"),
    "a split that is not there": lambda: HuggingFaceDataset(path=data_set(), reward=one, train="dev"),
    "a folder of a data set that is not there": lambda: HuggingFaceDataset(path="./none", reward=one),
    "a data set with a script": lambda: HuggingFaceDataset(path=data_set("set.py"), reward=one),
    "a data set of other kinds of files": lambda: HuggingFaceDataset(path=archive(), reward=one),
    "a task that reasoning-gym has not": lambda: ReasoningGym("chain_sm"),
    "a setting that its task has not": lambda: ReasoningGym("chain_sum", config={"terms": 3}),
}


def empty_parquet():
    pq.write_table(pa.table({"prompt": pa.array([], pa.string()), "answer": pa.array([], pa.string())}), "b.parquet")
    return Path("b.parquet").read_bytes()


def data_set(script=None):
    write_parquet(Path("set/train.parquet"), ROWS)
    if script:
        Path("set", script).write_text(f"open('{TOUCHED}', 'w')\n")
    return "set"


def archive():
    import tarfile

    Path("tars").mkdir()
    Path("x.txt").write_text("a")
    with tarfile.open("tars/train.tar", "w") as tar:
        tar.add("x.txt")
    return "tars"


def rows_of_the_page():
    (table,) = TABLE.findall(Path(__file__).parents[2].joinpath("docs/components/data.md").read_text(encoding="utf-8"))
    rows = [re.split(r"(?<!\\) \| ", row.strip("| ")) for row in table.splitlines()]
    return {fault: said.strip("`").replace("\\|", "|") for fault, said in rows}


PAGE = rows_of_the_page()


def test_the_table_has_every_fault_that_is_tested():
    assert list(PAGE) == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_line_is_the_one_on_the_page_and_nothing_was_executed(fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        FAULTS[fault]().prepare(["train", "validation"])
    assert "\n" not in str(raised.value)
    parts = [re.escape(part) for part in PAGE[fault].split("…")]
    assert re.fullmatch(".*".join(parts), str(raised.value)), str(raised.value)
    assert not Path(TOUCHED).exists()


def test_a_pickle_that_describes_a_type_of_a_parquet_file_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marks = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Malicious())}
    schema = pa.schema([pa.field("prompt", pa.string(), metadata=marks), ("answer", pa.string())])
    pq.write_table(pa.table([["a"], ["b"]], schema=schema), "a.parquet")
    assert [example.prompt for example in Parquet(train="a.parquet", reward=one).examples("train")] == ["a"]
    assert not Path(TOUCHED).exists()


def test_malicious_files_are_malicious(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(PICKLED)
    assert Path(TOUCHED).exists()
