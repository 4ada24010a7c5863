"""Mutation testing: which single changes of the mathematics would no test notice?

mutmut makes the mutants, each behind a switch, of every function in TARGETS (`@torch.no_grad()` ones too). The tests
are collected once and run once, to learn which of them reach which function; then every mutant is tested in a forked
child, the tests of its own module first, and is killed by the first that fails. A mutant that outlives `--seconds` of
tests survives. A few children without a mutant must survive too.

    pip install mutmut
    OMP_NUM_THREADS=1 python .ci/mutants.py [--only 'rl4llm.gates*'] [--jobs 2] [--out mutants.json]

Results go to mutants.json, the changes that survived to mutants.txt.
"""

import argparse
import ast
import difflib
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

TARGETS = ("advantages", "gates", "objectives", "regularizers", "critics", "masked.py")
TESTS = ["contracts", "core", "advantages", "gates", "objectives", "regularizers", "critics", "corrections", "rewards"]
TESTS = [f"tests/{folder}" for folder in TESTS] + ["tests/classic_bugs/test_loss.py"]
MODELS = ("__init__", "base", "ensemble", "mini", "trunk", "value_model")  # no functions; tested through the loop
UNTOUCHED = {Path(f"rl4llm/critics/{name}.py") for name in MODELS}


def mutate(file: Path) -> dict[str, list[str]]:
    """Put mutants into a file; their names by function."""
    import libcst
    from mutmut.configuration import reset_config
    from mutmut.mutation import file_mutation

    reset_config()
    skip = file_mutation.MutationVisitor._skip_node_and_children
    if not getattr(skip, "patched", False):

        def allow(self, node):
            decorators = getattr(node, "decorators", ()) if isinstance(node, libcst.FunctionDef) else ()
            return [libcst.Module([]).code_for_node(d.decorator) for d in decorators] != ["torch.no_grad()"] and skip(
                self, node
            )

        allow.patched = True
        file_mutation.MutationVisitor._skip_node_and_children = allow
    mutated = file_mutation.mutate_file_contents(file, file.read_text())
    file.write_text(mutated.code)
    module = ".".join(file.with_suffix("").parts)
    names = defaultdict(list)
    for name in mutated.mutant_names:
        names[f"{module}.{name.rpartition('__mutmut_')[0]}"].append(f"{module}.{name}")
    return dict(names)


def change(name: str) -> str:
    """What a mutant changes, as the lines of a diff."""
    module, _, function = name.rpartition(".")
    text = Path(*module.split(".")).with_suffix(".py").read_text()
    wanted = function.rpartition("__mutmut_")[0] + "__mutmut_orig", function
    found = {n.name: ast.unparse(n) for n in ast.walk(ast.parse(text)) if getattr(n, "name", "") in wanted}
    before, after = (found[one].splitlines()[1:] for one in wanted)
    lines = [
        line
        for line in difflib.unified_diff(before, after, n=0, lineterm="")
        if not line.startswith(("---", "+++", "@"))
    ]
    return "\n".join([name, *lines])


class Mutants:
    """A pytest plugin whose test loop is: all tests once, then every mutant in a child."""

    def __init__(
        self, names: dict[str, list[str]], earlier: dict[str, str], jobs: int, seconds: float, out: Path
    ) -> None:
        self.names, self.jobs, self.most, self.out = names, jobs, seconds, out
        self.reached: dict[str, list[int]] = defaultdict(list)
        self.seconds: list[float] = []
        self.names_of: dict[int, dict] = {}
        self.results: dict[str, str] = dict(earlier)
        self.failed = ""

    def pytest_collection_modifyitems(self, items) -> None:
        items[:] = [item for item in items if "__mutmut" not in item.nodeid and "subprocess" not in item.nodeid]

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed = report.nodeid

    def pytest_runtestloop(self, session) -> bool:
        from mutmut.mutation.trampoline import set_mutant_under_test

        set_mutant_under_test("stats")
        self.learn(session.items)
        set_mutant_under_test("")
        started, running = time.time(), {}
        controls = [f"{function}__mutmut_none" for function in list(self.names)[::15]]
        for count, name in enumerate([*controls, *(name for names in self.names.values() for name in names)]):
            running[self.fork(session.items, name)] = name
            if len(running) >= self.jobs:
                self.reap(running)
            if count % 200 == 0:
                self.save(count, time.time() - started)
        while running:
            self.reap(running)
        self.save(len(self.results), time.time() - started)
        return True

    def learn(self, items) -> None:
        from mutmut.state import state

        for index, item in enumerate(items):
            state()._stats.clear()
            if hasattr(item, "dtest"):  # a doctest forgets its names once it has run
                self.names_of[index] = dict(item.dtest.globs)
            began = time.time()
            following = items[index + 1] if index + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.seconds.append(time.time() - began)
            if self.failed:  # it reads the source, which is not what it was
                print(f"left out: {self.failed}", file=sys.__stderr__, flush=True)
                self.failed = ""
                continue
            for function in state()._stats:
                self.reached[function].append(index)

    def order(self, function: str) -> list[int]:
        """The tests that reach a function: those of its own module, then the quickest, up to the time that is given."""
        stem = function.split(".")[-2]
        family = function.split(".")[1]

        def rank(index: int) -> tuple[bool, bool, float]:
            node = self.items[index].nodeid
            return stem not in node, f"/{family}/" not in node, self.seconds[index]

        chosen, spent = [], 0.0
        for index in sorted(self.reached[function], key=rank):
            if spent > self.most:
                break
            chosen.append(index)
            spent += self.seconds[index]
        return chosen

    def fork(self, items, name: str) -> int:
        self.items = items
        chosen = self.order(name.rpartition("__mutmut_")[0])
        if pid := os.fork():
            return pid
        from mutmut.mutation.trampoline import set_mutant_under_test

        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        set_mutant_under_test(name)
        for place, index in enumerate(chosen):
            following = items[chosen[place + 1]] if place + 1 < len(chosen) else None
            signal.alarm(10 + int(10 * self.seconds[index]))  # a mutant may never end
            if index in self.names_of:
                items[index].dtest.globs = self.names_of[index]
            try:
                items[index].config.hook.pytest_runtest_protocol(item=items[index], nextitem=following)
            except BaseException:
                os._exit(1)
            if self.failed:
                os._exit(1)
        os._exit(0 if chosen else 5)

    def reap(self, running: dict[int, str]) -> None:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        self.results[running.pop(pid)] = {0: "survived", 5: "no tests"}.get(code, "timeout" if code < 0 else "killed")

    def save(self, count: int, seconds: float) -> None:
        self.out.write_text(json.dumps(self.results, indent=0))
        control = {name: result for name, result in self.results.items() if name.endswith("_none")}
        alive = [n for n, result in self.results.items() if n not in control and result in ("survived", "no tests")]
        self.out.with_suffix(".txt").write_text("\n\n".join(map(change, alive)))
        wrong = [name for name, result in control.items() if result != "survived"]
        print(f"{count} mutants, {len(alive)} survive, {seconds:.0f} s {wrong or ''}", file=sys.__stderr__, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of mutants' names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="of tests that a mutant must outlive")
    parser.add_argument("--again", type=Path, help="results of an earlier run: what was killed then is not tried again")
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    options = parser.parse_args()
    options.again = options.again and options.again.resolve()
    out = options.out.resolve()
    folder = Path(tempfile.mkdtemp()) / "repository"
    for file in subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.split():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ["RL4LLM_PROFILE"] = "mutants"
    names: dict[str, list[str]] = {}
    for target in TARGETS:
        place = Path("rl4llm") / target
        for file in sorted(set(place.rglob("*.py")) - UNTOUCHED) if place.is_dir() else [place]:
            names |= mutate(file)
    known = json.loads(options.again.read_text()) if options.again else {}
    earlier = {name: result for name, result in known.items() if result in ("killed", "timeout")}
    names = {function: [name for name in own if name not in earlier] for function, own in names.items()}
    names = {k: [n for n in v if any(fnmatch.fnmatch(n, one) for one in options.only)] for k, v in names.items()}
    print(f"{sum(map(len, names.values()))} mutants of {len(names)} functions", file=sys.stderr)
    import pytest

    plugin = Mutants(names, earlier, options.jobs, options.seconds, out)
    sources = [f"rl4llm/{target}" for target in TARGETS]
    pytest.main(
        ["-q", "-p", "no:cacheprovider", "--tb=no", "--ignore=tests/core/test_citations.py", *TESTS, *sources],
        plugins=[plugin],
    )


if __name__ == "__main__":
    main()
