"""A step of TRL's trainer with our parts is the same on one process and on two, in one microbatch and in two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed; .ci/peers installs it")
ROOT = Path(__file__).parent.parent.parent


def weights(policy, out, microbatches, *launcher):
    out.mkdir()
    command = [sys.executable, *launcher, "-m", "tests.bridges.fixed_step", policy, str(out), str(microbatches)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(out / "weights.pt")


@pytest.mark.devices
@pytest.mark.parametrize(("processes", "microbatches"), [(1, 2), (2, 1), (2, 2)])
def test_processes_and_microbatches_do_not_change_a_step(processes, microbatches, tiny_policy, tmp_path):
    whole = weights(tiny_policy, tmp_path / "whole", 1)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    pieces = weights(tiny_policy, tmp_path / "pieces", microbatches, *launcher)
    begin = weights_of(tiny_policy)
    moved = (whole - begin).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-4 * float(moved))


def weights_of(folder):
    from transformers import AutoModelForCausalLM

    return torch.cat([weight.flatten() for weight in AutoModelForCausalLM.from_pretrained(folder).parameters()])
