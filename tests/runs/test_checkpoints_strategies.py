"""A checkpoint opens under another strategy and on another number of processes, and nobody waits for ever."""

import multiprocessing
import os
import socket
import traceback

import pytest
import torch

import rl4llm.strategies  # noqa: F401  makes the name fsdp2 known
from rl4llm.checks import UsageError
from rl4llm.runs import CheckpointFiles, Checkpoints
from tests.runs.toy import Data, Module, trainer

pytestmark = [pytest.mark.devices, pytest.mark.filterwarnings("ignore")]
KINDS = {"one": ("auto", 1), "ddp": ("ddp_find_unused_parameters_true", 2), "fsdp2": ("fsdp2", 2)}
SECONDS = 120


def fit(kind, folder, steps, ckpt_path=None, breaking=None):
    """Run in this process, one of those of its kind."""
    strategy, devices = KINDS[kind]
    module = Module(critics=2, shard=kind == "fsdp2")
    run = trainer(
        [Checkpoints("toy", every_n_batches=2, folder=folder)],
        folder,
        logger=False,
        strategy=strategy,
        devices=devices,
        max_steps=steps,
        use_distributed_sampler=False,
    )
    if breaking and run.is_global_zero:
        breaking()
    run.fit(module, Data(), ckpt_path=ckpt_path)
    state = run.strategy.lightning_module_state_dict()
    moments = [run.strategy.optimizer_state(optimizer)["state"] for optimizer in run.optimizers]
    return state, moments, module.prompts, module.evaluations


def member(rank, size, port, queue, arguments):
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    names |= {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        state, *rest = fit(*arguments)
        queue.put((rank, None, ({n: plain(v) for n, v in state.items()}, *map(plain, rest))))
    except UsageError as error:
        queue.put((rank, str(error), None))
    except BaseException:
        queue.put((rank, traceback.format_exc(), None))


def plain(tree):
    """Lists in place of tensors: they need no shared memory to travel."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.tolist(), tree)


def on_all(kind, *arguments):
    """What each process of a kind returns, or the message with which it ended."""
    size = KINDS[kind][1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    members = [context.Process(target=member, args=(r, size, port, queue, (kind, *arguments))) for r in range(size)]
    for process in members:
        process.start()
    try:
        found = sorted(queue.get(timeout=SECONDS) for _ in members)
    finally:
        for process in members:
            process.join(5)
            process.kill()
    return [(message, result) for _, message, result in found]


def of_first(results):
    message, result = results[0]
    assert message is None, message
    return result


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """For each kind, the folder of a run of six of ten batches, and how it ended."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: (folder, of_first(on_all(kind, folder, 6))) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return of_first(on_all("one", tmp_path_factory.mktemp("whole"), 10))


def assert_close(a, b):
    assert set(a[0]) == set(b[0])
    torch.testing.assert_close(*[[torch.as_tensor(x[0][n]) for n in sorted(x[0]) if "extra" not in n] for x in (a, b)])
    for one, other in zip(a[1], b[1], strict=True):
        assert set(one) == set(other)
        for place in one:
            for name in one[place]:
                torch.testing.assert_close(torch.as_tensor(one[place][name]), torch.as_tensor(other[place][name]))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_the_file_is_the_one_that_one_process_writes(kind, halves):
    ours, theirs = (CheckpointFiles().load_checkpoint(halves[k][0] / "last.ckpt") for k in (kind, "one"))
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    shapes = [
        {name: (value.shape, value.dtype) for name, value in saved["state_dict"].items() if "extra" not in name}
        for saved in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert ours["state_dict"]["tracker._extra_state"].keys() == theirs["state_dict"]["tracker._extra_state"].keys()
    for one, other in zip(ours["optimizer_states"], theirs["optimizer_states"], strict=True):
        assert one["param_groups"] == other["param_groups"]
        assert {p: set(s) for p, s in one["state"].items()} == {p: set(s) for p, s in other["state"].items()}
    assert ours["loops"]["fit_loop"] == theirs["loops"]["fit_loop"]
    assert (ours["rl4llm"]["world_size"], theirs["rl4llm"]["world_size"]) == (2, 1)


PAIRS = [(first, then) for first in KINDS for then in KINDS]
BY_DAY = {("one", "ddp"), ("ddp", "one"), ("one", "fsdp2"), ("fsdp2", "one"), ("ddp", "fsdp2")}  # the rest at night


@pytest.mark.parametrize(
    ("first", "then"), [pytest.param(*pair, marks=[] if pair in BY_DAY else pytest.mark.slow) for pair in PAIRS]
)
def test_saved_under_one_and_taken_up_under_another_it_ends_the_same(first, then, halves, whole, tmp_path):
    folder, half = halves[first]
    rest = of_first(on_all(then, tmp_path, 10, folder / "last.ckpt"))
    assert half[2] + rest[2] == whole[2]
    assert half[3] + rest[3] == whole[3]
    assert_close(rest, whole)
    assert rest[0]["tracker._extra_state"]["rows"] == whole[0]["tracker._extra_state"]["rows"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_damaged_checkpoint_ends_every_process_with_the_same_line(kind, halves, tmp_path):
    path = tmp_path / "last.ckpt"
    for suffix in ("", ".sha256"):
        data = bytearray((halves["one"][0] / f"last.ckpt{suffix}").read_bytes())
        if not suffix:
            data[3000:3100] = bytes(255 - byte for byte in data[3000:3100])
        (tmp_path / f"last.ckpt{suffix}").write_bytes(data)
    messages = [message for message, _ in on_all(kind, tmp_path, 10, path)]
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"checkpoint '{path}' is damaged")


def small_files():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_full_disk_on_the_first_ends_every_process_with_the_same_line(kind, tmp_path):
    messages = [message for message, _ in on_all(kind, tmp_path, 10, None, small_files)]
    assert messages[0] == messages[1]
    assert "could not be written: File too large" in messages[0]
