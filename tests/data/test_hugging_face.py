"""Prompts from Hugging Face data sets in folders; nothing in them is executed."""

import pickle

import pytest

from rl4llm.checks import UsageError
from rl4llm.data import HuggingFaceDataset
from tests.data.helpers import one, questions, write_lines, write_parquet

datasets = pytest.importorskip("datasets")
OPTIONS = {"reward": one, "prompt_key": "question"}


pytestmark = pytest.mark.usefixtures("offline")


def prompts(path, split="train", **options):
    task = HuggingFaceDataset(path=str(path), **OPTIONS, **options)
    return [example.prompt for example in task.examples(split)]


def test_a_saved_data_set_is_read_by_its_splits(tmp_path):
    parts = {name: datasets.Dataset.from_list(questions(count)) for name, count in (("train", 3), ("test", 2))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert prompts(tmp_path / "saved") == ["0+1=", "1+1=", "2+1="]
    with pytest.warns(UserWarning, match="2 of 2 prompts of .*test are training prompts too"):
        assert prompts(tmp_path / "saved", "validation", validation="validation|test") == ["0+1=", "1+1="]
    with pytest.raises(UsageError, match=r"saved \(dev\) has no split 'dev'; it has 'train', 'test'"):
        prompts(tmp_path / "saved", "validation", validation="dev")


def test_a_single_saved_table_is_read(tmp_path):
    datasets.Dataset.from_list(questions(2)).save_to_disk(tmp_path / "saved")
    assert prompts(tmp_path / "saved") == ["0+1=", "1+1="]


@pytest.mark.parametrize("write", [write_parquet, write_lines])
def test_a_folder_of_files_is_read_by_the_names_of_its_files(tmp_path, write):
    ending = "parquet" if write is write_parquet else "jsonl"
    write(tmp_path / "set" / "main" / f"train-00000-of-00001.{ending}", questions(2))
    write(tmp_path / "set" / "main" / f"test-00000-of-00001.{ending}", questions(4)[3:])
    assert prompts(tmp_path / "set", subset="main") == ["0+1=", "1+1="]
    assert prompts(tmp_path / "set" / "main", "test", test="test") == ["3+1="]


def test_shares_divide_a_split(tmp_path):
    write_parquet(tmp_path / "set" / "train.parquet", questions(50))
    shares = {"validation_share": 0.3}
    parts = [prompts(tmp_path / "set", split, **shares) for split in ("train", "validation")]
    assert sorted([*parts[0], *parts[1]]) == sorted(row["question"] for row in questions(50))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_folder_is_executed(tmp_path):
    touched, folder = tmp_path / "touched", tmp_path / "set"
    folder.mkdir()
    (folder / "data.pkl").write_bytes(pickle.dumps(Malicious(touched)))
    (folder / "set.py").write_text(f"open({str(touched)!r}, 'w')\n")
    with pytest.raises(UsageError, match=r"set \(train\) cannot be read \(.*no longer supported, but found set.py\)"):
        prompts(folder)
    (folder / "set.py").rename(folder / "other.py")
    write_parquet(folder / "train.parquet", questions(2))
    assert prompts(folder) == ["0+1=", "1+1="]
    assert not touched.exists()


def test_data_that_are_no_plain_values_are_refused(tmp_path):
    import tarfile

    (tmp_path / "set").mkdir()
    (tmp_path / "x.txt").write_text("a")
    with tarfile.open(tmp_path / "set" / "train.tar", "w") as archive:
        archive.add(tmp_path / "x.txt", "x.txt")
    with pytest.raises(UsageError, match="holds data of the kind 'webdataset'; pass Parquet, JSON, CSV, Arrow or text"):
        prompts(tmp_path / "set")


def test_places_that_cannot_be_data_sets_are_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"folder './none' does not exist; pass the folder of a data set"):
        HuggingFaceDataset(path="./none", **OPTIONS)
    file = write_parquet(tmp_path / "a.parquet", questions(1))
    with pytest.raises(UsageError, match=r"is a file; use --data.task=Parquet or JsonLines"):
        HuggingFaceDataset(path=file, **OPTIONS)


def test_a_name_without_a_network_is_one_line():
    with pytest.raises(
        UsageError, match=r"someone/nothing .* cannot be read .*; pass the folder of a data set, or its na"
    ):
        prompts("someone/nothing")
