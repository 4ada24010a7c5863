"""What must hold of the vLLM engines, tried with vLLM itself. One line per check; a failure ends the script.

.ci/vllm [--only NAME] [--steps 60]
"""

import argparse
import csv
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import torch

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.runtime import Runtime
from rl4llm.checks import UsageError
from rl4llm.models import LoRA, Policy, Pretrained
from rl4llm.rollouts import VLLM, Sampling, VLLMServer
from rl4llm.testing import check_engine
from tests.models.architectures import CONFIGS, architecture

MODEL = "rl4llm/digits"
with socket.create_server(("localhost", 0)) as free:
    PORT = free.getsockname()[1]
SPEC = VLLM(cache_gib=0.25)
FLAGS = ["--model.engine.cache_gib=0.25"]
TOLERANCE = 1e-4


def laws_colocated(args):
    """The laws of an engine hold for vLLM in this process, with likeliest tokens too."""
    for spec in (SPEC, VLLM(cache_gib=0.25, top_log_probs=3)):
        check_engine(spec, Policy.load(MODEL), tolerance=TOLERANCE)
    return "10 laws, with and without likeliest tokens"


def laws_bfloat16(args):
    """The same in bfloat16 of the engine alone, within its rounding, where responses may differ by portion."""
    engine_gap = gap_of(VLLM(cache_gib=0.25, dtype="bfloat16"), Policy.load(MODEL))
    assert 1e-4 < engine_gap < 0.5, engine_gap
    return f"largest gap {engine_gap:.2g} nats"


def gap_of(spec, policy):
    """The largest gap after a sync of other weights than those it started with."""
    from rl4llm.testing.engine_laws import EngineCase, _move

    with spec.build(policy) as engine:
        answering = Answering(policy, engine, None, Sampling())
        worst = 0.0
        for version in range(2):
            with answering.drawing(Runtime(), version):
                case = EngineCase(engine, policy, TOLERANCE)
                worst = max(worst, case.gap(case.prefixes(), case.draw(case.prefixes(), copies=4), 1.0))
            _move(policy)
        return worst


def architectures(args):
    """Tiny models of other shapes, tied and not: weights arrive under the names of their checkpoints."""
    gaps = {}
    for name in CONFIGS:
        gaps[name] = gap_of(SPEC, larger(name))
        assert gaps[name] < TOLERANCE, (name, gaps[name])
    return ", ".join(f"{name} {gap:.1g}" for name, gap in gaps.items())


def larger(name):
    """The architecture with heads of 32 numbers, the least that vLLM's CPU kernels take."""
    model, tokenizer = architecture(name)
    for field in ("hidden_size", "n_embd"):
        if hasattr(model.config, field):
            setattr(model.config, field, 128)
    if getattr(model.config, "head_dim", None):
        model.config.head_dim = 32
    return Policy(type(model)(model.config).eval(), tokenizer)


def adapter(args):
    """A policy with a LoRA adapter is sent merged."""
    policy = Policy.load(Pretrained(MODEL, adapter=LoRA(rank=4)))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    with SPEC.build(policy) as engine:
        from rl4llm.testing.engine_laws import EngineCase

        with Answering(policy, engine, None, Sampling()).drawing(Runtime(), 0):
            case = EngineCase(engine, policy, TOLERANCE)
            gap = case.gap(case.prefixes(), case.draw(case.prefixes(), copies=4), 1.0)
    assert gap < TOLERANCE, gap
    return f"largest gap {gap:.1g}"


def recipe(name, *flags, folder):
    """Run a recipe in a process; its metrics."""
    command = [sys.executable, f"recipes/{name}.py", "fit", f"--trainer.default_root_dir={folder}", *flags]
    started = time.time()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise AssertionError(f"{' '.join(command[1:])}: {(result.stderr or result.stdout).strip().splitlines()[-12:]}")
    found = sorted(Path(folder).rglob("metrics.csv"))
    rows = list(csv.DictReader(found[-1].open()))

    def column(key):
        return [float(row[key]) for row in rows if row.get(key)]

    return column, time.time() - started


def accuracy(args):
    """AsyPPO on the embedded task reaches the accuracy of the Hugging Face engine, and no batch shows a gap."""
    steps = [f"--trainer.max_steps={args.steps}", f"--trainer.val_check_interval={args.steps}"]
    found = {}
    for engine, flags in {"VLLM": FLAGS, "HuggingFaceRollout": []}.items():
        with tempfile.TemporaryDirectory() as folder:
            column, seconds = recipe("asyppo", f"--model.engine={engine}", *flags, *steps, folder=folder)
        found[engine] = column("val/sampled_accuracy")[-1], seconds
        if engine == "VLLM":
            gaps = column("rollout/log_prob_gap_max")
            assert len(gaps) == args.steps, len(gaps)
            assert max(gaps) < TOLERANCE, max(gaps)
    (ours, theirs) = (found[engine][0] for engine in ("VLLM", "HuggingFaceRollout"))
    assert abs(ours - theirs) < 0.08, found
    said = ", ".join(f"{name} {value:.3f} in {seconds:.0f} s" for name, (value, seconds) in found.items())
    return f"{said}; largest gap of {len(gaps)} batches {max(gaps):.1g}"


def withheld(args):
    """An engine that keeps its first weights ends the run in one line."""
    script = (
        "import sys\n"
        "from rl4llm.rollouts.vllm import VLLMEngine\n"
        "push, pushed = VLLMEngine.push, []\n"
        "def once(self, weights, version):\n"
        "    if not pushed:\n"
        "        push(self, weights, version)\n"
        "    pushed.append(version)\n"
        "VLLMEngine.push = once\n"
        "import runpy\n"
        "sys.argv = ['recipes/grpo.py', *sys.argv[1:]]\n"
        "runpy.run_path('recipes/grpo.py', run_name='__main__')\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--model.engine=VLLM", *FLAGS, f"--trainer.max_steps={args.steps}", "--trainer.limit_val_batches=0"]
        command = [sys.executable, "-c", script, "fit", f"--trainer.default_root_dir={folder}", *flags]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in result.stderr.splitlines() if "engine" in line and "trainer's" in line]
    assert result.returncode, "the run went on"
    assert any("may have missed the weights" in line for line in said), said
    assert "it has missed the weights of an update" in said[-1], said
    return said[-1][:110] + "..."


@contextmanager
def server(*flags, dev="1"):
    """A vLLM server of the embedded model."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        Policy.load(MODEL).save(folder)
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--port", str(PORT)]
        command += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**28)]
        command += ["--max-model-len", "64", *flags]
        settings = {"VLLM_SERVER_DEV_MODE": dev, "VLLM_NO_USAGE_STATS": "1"}
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=nowhere, stderr=nowhere)
        try:
            wait_for(process)
            yield VLLMServer(url=f"http://localhost:{PORT}"), process
        finally:
            process.terminate()
            process.wait()


def wait_for(process):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(120):
        assert process.poll() is None, "the server has ended"
        try:
            return opener.open(f"http://localhost:{PORT}/health", timeout=5)
        except OSError:
            time.sleep(1)
    raise AssertionError("the server does not start")


PAGE = (Path(__file__).parents[1] / "docs" / "engines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
(STARTED,) = (words[words.index("serve") + 2 :] for words in COMMANDS if "serve" in words)  # flags of the page's server


def with_server(args):
    """The laws hold for a server, GRPO learns through it, and it is named when it dies."""
    with server(*STARTED) as (spec, process):
        spec.check(MODEL)
        check_engine(spec, Policy.load(MODEL), tolerance=TOLERANCE)
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--model.engine=VLLMServer", f"--model.engine.url={spec.url}", "--trainer.limit_val_batches=0"]
            column, seconds = recipe("grpo", *flags, f"--trainer.max_steps={args.steps}", folder=folder)
        gaps, accuracies = column("rollout/log_prob_gap_max"), column("train/accuracy")
        assert max(gaps) < TOLERANCE, max(gaps)
        assert accuracies[-1] > accuracies[0] + 0.1, accuracies
        policy = Policy.load(MODEL)
        with spec.build(policy) as engine:
            process.terminate()
            process.wait()
            refused(lambda: Answering(policy, engine, None, Sampling()).sync(0), "does not answer")
    learned = f"{accuracies[0]:.2f} to {accuracies[-1]:.2f} in {len(gaps)} steps and {seconds:.0f} s"
    return f"10 laws; GRPO {learned}; largest gap {max(gaps):.1g}"


def page(args):
    """The recipes' commands on the page *Engines* run, the last one with the page's server."""
    fits = [words[1:] for words in COMMANDS if words[0] == "python"]
    assert len(fits) == 3, fits
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    with server(*STARTED) as (spec, _):
        for script, _, *flags in fits:
            flags = [re.sub(r"http://localhost:\d+", spec.url, flag) for flag in flags]
            with tempfile.TemporaryDirectory() as folder:
                column, _ = recipe(Path(script).stem, *flags, *short, folder=folder)
            assert len(column("train/accuracy")) == 2, flags
    return f"{len(fits)} commands, two batches each"


def wrong_servers(args):
    """A server started without what is needed is refused before anything is loaded."""
    refused(lambda: VLLMServer(url=f"http://localhost:{PORT}").check(MODEL), "does not answer")
    with server(*STARTED, dev="0") as (spec, _):
        refused(lambda: spec.check(MODEL), "takes over no weights")
    raw = STARTED.index("--logprobs-mode")
    with server(*STARTED[:raw], *STARTED[raw + 2 :]) as (spec, _):
        refused(lambda: spec.check(MODEL), "log-probs are raw_logprobs")
    return "3 refused in one line"


def refused(action, message):
    said = "nothing"
    try:
        action()
    except UsageError as error:
        said = str(error)
    assert message in said, said
    assert "\n" not in said, said


def wrong_models(args):
    """An architecture that vLLM does not know, and settings that it refuses, are one line."""
    policy = Policy.load(MODEL)
    odd = type("OddForCausalLM", (type(policy.model),), {})
    refused(lambda: SPEC.check(Policy(odd(policy.model.config), policy.tokenizer)), "OddForCausalLM")
    with VLLM(cache_gib=0.25, context=4).build(policy) as engine:
        from rl4llm.testing.engine_laws import EngineCase

        Answering(policy, engine, None, Sampling()).sync(0)
        case = EngineCase(engine, policy, TOLERANCE)
        refused(lambda: case.draw(case.prefixes()), "the engine holds 4")
    with VLLM(cache_gib=1e6).build(policy) as engine:
        refused(lambda: Answering(policy, engine, None, Sampling()).sync(0), "could not be loaded")
    return "3 refused in one line"


CHECKS = [
    laws_colocated,
    laws_bfloat16,
    architectures,
    adapter,
    wrong_models,
    accuracy,
    withheld,
    with_server,
    page,
    wrong_servers,
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=[check.__name__ for check in CHECKS])
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    for check in CHECKS:
        if args.only in (None, check.__name__):
            started = time.time()
            said = check(args)
            print(f"{check.__name__:16} ok  {time.time() - started:4.0f} s  {said}", flush=True)


if __name__ == "__main__":
    main()
