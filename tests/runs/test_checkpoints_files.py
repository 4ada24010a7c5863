"""A checkpoint is good or is refused in one line with its name; a killed or failing writer loses nothing."""

import hashlib
import multiprocessing
import os
import pickle
import random
import resource
import signal
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.runs import CheckpointFiles, atomic, checkpoint_files, find_last, write_atomically
from rl4llm.runs.checkpoint_files import digest_file, known_digests, verify

FILES = CheckpointFiles()


def content(step, numbers=2000):
    """A checkpoint of which every tensor says its step."""
    return {
        "state_dict": {f"weight_{i}": torch.full((numbers,), float(step)) for i in range(5)},
        "pytorch-lightning_version": "2.6.6",
        "global_step": step,
    }


def save(path, step=1, **options):
    FILES.save_checkpoint(content(step, **options), path)
    return path


def step_of(path):
    """The step of a checkpoint that is whole."""
    checkpoint = FILES.load_checkpoint(path)
    assert all((tensor == checkpoint["global_step"]).all() for tensor in checkpoint["state_dict"].values())
    return checkpoint["global_step"]


def refusal(path):
    with pytest.raises(UsageError) as error:
        FILES.load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


def inverted(data, start=None, number=100):
    start = len(data) // 2 if start is None else start
    data[start : start + number] = bytes(255 - byte for byte in data[start : start + number])
    return data


# --- what is read -------------------------------------------------------------------------------------------------


def test_what_is_saved_is_read(tmp_path):
    path = save(tmp_path / "deep" / "er" / "last.ckpt", 7)
    assert step_of(path) == 7
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]
    assert FILES.load_checkpoint(path)["rl4llm"]["file"] == str(path)


def test_the_digest_is_the_one_that_sha256sum_verifies(tmp_path):
    path = save(tmp_path / "last.ckpt")
    assert digest_file(path).read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  last.ckpt\n"


@pytest.mark.parametrize("place", [10, 4000, 20_000, 41_000])
def test_inverted_bytes_are_found_wherever_they_are(place, tmp_path):
    path = save(tmp_path / "last.ckpt")
    change(path, lambda data: inverted(data, place))
    assert "damaged: its digest is not the one in 'last.ckpt.sha256'" in refusal(path)


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_truncated_file_is_named(with_digest, tmp_path):
    path = save(tmp_path / "last.ckpt")
    change(path, lambda data: data[: len(data) // 2])
    if not with_digest:
        digest_file(path).unlink()
    assert ("truncated" if with_digest else "only the beginning of one") in refusal(path)


def test_an_empty_file_a_missing_one_and_a_folder_are_named(tmp_path):
    (tmp_path / "empty.ckpt").touch()
    assert "is empty" in refusal(tmp_path / "empty.ckpt")
    assert "does not exist" in refusal(tmp_path / "none.ckpt")
    save(tmp_path / "folder" / "last.ckpt")
    assert "is a folder, not a file; name a file in it, such as" in refusal(tmp_path / "folder")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".metadata").touch()
    assert "distributed checkpoint" in refusal(tmp_path / "parts")


def test_files_of_other_kinds_are_named(tmp_path):
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    assert "is not a checkpoint" in refusal(tmp_path / "notes.ckpt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.ckpt")
    with pytest.warns(UserWarning, match="no digest"):
        assert "not the checkpoint of a run" in refusal(tmp_path / "weights.ckpt")
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as archive:
        archive.writestr("a", "b")
    with pytest.warns(UserWarning, match="no digest"):
        assert "is not a torch checkpoint" in refusal(tmp_path / "zip.ckpt")


def test_without_a_digest_the_checksums_of_the_tensors_decide(tmp_path):
    path = save(tmp_path / "last.ckpt", 4)
    digest_file(path).unlink()
    with pytest.warns(UserWarning, match=r"last\.ckpt' has no digest beside it"):
        assert step_of(path) == 4
    change(path, inverted)
    assert "is damaged: the checksum of" in refusal(path)


class Code:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


@pytest.mark.parametrize("asked", [None, False, True])
def test_loading_never_runs_code(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**content(1), "state": Code()}, "last.ckpt")
    with (
        pytest.warns(UserWarning, match="no digest"),
        pytest.raises(UsageError, match="more than tensors and plain values"),
    ):
        FILES.load_checkpoint("last.ckpt", weights_only=asked)
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Code()))
    refusal(tmp_path / "pickle.ckpt")
    assert not Path("code-ran").exists()


def test_the_check_sees_what_was_read_before_anything_else(tmp_path):
    seen = []
    CheckpointFiles(check=seen.append).load_checkpoint(save(tmp_path / "last.ckpt", 3))
    assert seen[0]["global_step"] == 3


def test_removing_removes_the_digest_too(tmp_path):
    path = save(tmp_path / "last.ckpt")
    FILES.remove_checkpoint(path)
    FILES.remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_addresses_are_refused():
    with pytest.raises(UsageError, match="only local folders"):
        FILES.save_checkpoint(content(1), "s3://bucket/last.ckpt")


# --- what can go wrong while writing --------------------------------------------------------------------------------


def test_what_could_not_be_loaded_is_not_written(tmp_path):
    path = save(tmp_path / "last.ckpt", 1)
    with pytest.raises(UsageError, match=r"not written, because it could not be loaded again: it holds \w+\.mkdir;"):
        FILES.save_checkpoint({**content(2), "callbacks": Code()}, path)
    assert step_of(path) == 1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("limit", [0, 20, 1000, 30_000, 41_000])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(limit, tmp_path):
    path = save(tmp_path / "last.ckpt", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UsageError, match=r"last\.ckpt' could not be written: File too large; earlier"):
            save(path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert step_of(path) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(UsageError, match=r"could not be written: .*default_root_dir"):
        save(tmp_path / "runs" / "last.ckpt")


def interrupted_at(monkeypatch, number):
    """Let the process 'die' before the n-th change of a name in the folder."""
    left = iter(range(number))

    def replace(source, target):
        if next(left, None) is None:
            raise SystemExit
        os.rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", replace)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("times", [1, 3])
def test_stopped_between_any_two_moves_a_good_checkpoint_stands(number, times, tmp_path, monkeypatch):
    path, good = save(tmp_path / "last.ckpt", 1), {1}
    for step in range(2, 2 + times):
        with monkeypatch.context() as patch:
            interrupted_at(patch, number)
            try:
                save(path, step)
            except SystemExit:
                assert number < 3
        good = {step} if number >= 2 else good
        assert step_of(path) in good
    save(path, 9)
    assert step_of(path) == 9
    assert len(known_digests(path)) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_no_file_is_written_outside_the_folder(tmp_path, monkeypatch):
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    moves, plain = [], os.replace
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: (moves.append((Path(a), Path(b))), plain(a, b)))
    save(tmp_path / "run" / "last.ckpt")
    assert {folder for move in moves for folder in (move[0].parent, move[1].parent)} == {tmp_path / "run"}
    assert list(elsewhere.iterdir()) == []


def keep_saving(folder):
    os.chdir(folder)
    for step in range(1, 100_000):
        save(Path("last.ckpt"), step, numbers=50_000)


def kill_while_saving(root, kills):
    """Kill a process that saves all the time; after each kill the checkpoint that is found is whole."""
    folder = root / "toy" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    rng, newest, dirty = random.Random(0), 0, 0
    for _ in range(kills):
        writer = multiprocessing.get_context("fork").Process(target=keep_saving, args=(folder,))
        writer.start()
        while find_last(root, "toy") is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        dirty += len(list(folder.iterdir())) > 2 or len(known_digests(folder / "last.ckpt")) > 1
        found = find_last(root, "toy")
        assert found == folder / "last.ckpt"
        newest = step_of(found)
        assert newest > 0
        assert len(list(folder.iterdir())) <= 4
    return dirty


def test_killed_at_twenty_random_moments_a_whole_checkpoint_is_found(tmp_path):
    dirty = kill_while_saving(tmp_path, 20)
    assert dirty >= 3, "the kills came between saves only"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a memory file system")
def test_killed_on_another_file_system_a_whole_checkpoint_is_found(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if os.stat(folder).st_dev == os.stat(tempfile.gettempdir()).st_dev:
            pytest.skip("the temporary folder is on the same file system")
        kill_while_saving(Path(folder), 10)


def test_a_small_file_is_replaced_as_a_whole(tmp_path):
    write_atomically(tmp_path / "summary.json", b"old")
    write_atomically(tmp_path / "summary.json", b"new")
    assert (tmp_path / "summary.json").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


# --- the newest good one --------------------------------------------------------------------------------------------


def run(root, recipe, version, name, step, age):
    path = save(root / recipe / f"version_{version}" / "checkpoints" / name, step)
    os.utime(path, (1000 - age, 1000 - age))
    return path


def test_the_newest_good_checkpoint_of_the_recipe_is_found(tmp_path):
    run(tmp_path, "asyppo", 2, "last.ckpt", 3, age=5)
    newest = run(tmp_path, "asyppo", 10, "last.ckpt", 1, age=1)
    run(tmp_path, "asyppo", 9, "best.ckpt", 2, age=1)
    run(tmp_path, "grpo", 0, "last.ckpt", 7, age=0)
    assert find_last(tmp_path, "asyppo") == newest
    assert find_last(tmp_path, "spo") is None
    assert find_last(tmp_path / "nowhere", "spo") is None


def test_damaged_checkpoints_are_named_and_passed_over(tmp_path):
    good = run(tmp_path, "asyppo", 0, "best.ckpt", 1, age=9)
    for age, name in enumerate(["last.ckpt", "other.ckpt"]):
        path = run(tmp_path, "asyppo", 0, name, 2, age)
        change(path, inverted)
        os.utime(path, (1000 - age, 1000 - age))
    with pytest.warns(UserWarning, match="passed over") as said:
        assert find_last(tmp_path, "asyppo") == good
    assert ["last.ckpt'" in str(w.message) for w in said] == [True, False]
    assert ["other.ckpt'" in str(w.message) for w in said] == [False, True]


def test_verifying_reads_no_tensor(tmp_path, monkeypatch):
    path = save(tmp_path / "last.ckpt")
    monkeypatch.setattr(checkpoint_files.torch, "load", None)
    verify(path)
