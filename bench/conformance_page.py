"""The page of what was found: a table per library, what is not promised and why, and the examples."""

from collections import defaultdict
from typing import Any

NAMES = {"verl": "verl", "trl": "TRL", "openrlhf": "OpenRLHF", "torchrl": "torchrl", "rl4llm": "rl4llm"}

INTRODUCTION = """# Conformance

The [laws of the kit](testing.md), run on public functions of other libraries and, by the same rules, on parts of this
one. The tables say what each function keeps **on the batches that it is made for**; they do not rank libraries.

- **kept**: the law held on {examples} drawn batches of the function's domain.
- **broken**: the law is broken on a batch of its domain; an example that runs by itself is below the table.
- **not promised**: the law is about batches or inputs that the function is not made for. This is no fault of the
  function; the reason is given below the table, with an example of what it does there.

The other libraries do not state the domains of their functions in one place. They were taken from docstrings and
comments, and from what their trainers pass: responses have a token and a score, masked positions hold ordinary numbers,
and recorded log-probs carry no graph. Where a function cannot be told of a hole in a response, or refuses groups of
one, that is its domain too. A law about what a domain excludes, such as holes, is asked on the domain with these and
nothing else added. Functions that give one loss for a batch are asked for one response at a time. For other
libraries, differences within the rounding of float32 count as equal, advantages at masked positions are not compared
(their losses mask again), and the law of dtypes is asked with float32 and float64. Our parts are asked for every valid
batch, which is what they promise.

These domains and allowances were settled while the functions were tried: where a law failed on a first attempt, its
cause was looked up, and if it lies outside of what the function is made for, the law moved to *not promised*, with the
numbers of the failure beside the reason. Read the table as what holds within the stated domains, and the reasons as
what to mind before you use a function outside of them; k3's clamp and the whitened GAE are cases of judgement.

"""

LAWS = """## The laws

Of the functions that a law is asked of, how many keep it. A law is asked where it says anything about the kind of
function: a loss of one response, for example, cannot be cut into microbatches.
"""

METHOD = """## How it was run

```bash
VENV=.venv-peers .ci/peers && . .venv-peers/bin/activate
OMP_NUM_THREADS=1 python bench/conformance.py run verl --out verl.json
python bench/conformance.py page rl4llm.json verl.json trl.json openrlhf.json torchrl.json --out docs/conformance.md
ruff format docs/conformance.md
```

`.ci/peers` installs the newest releases that PyPI had beside each other, on a CPU, and runs the examples of this page.

- **verl** and **OpenRLHF** are installed without their dependencies, most of which need a GPU, and then with the few
  that the functions import. flash-attn, vLLM and DeepSpeed, which modules of OpenRLHF import, are replaced by empty
  modules (`bench/absent.py`); the functions do not call them.
- **TRL** has no functions of losses: the methods of its trainers are called with a stand-in for the trainer
  (`bench/trl_losses.py`).

The examples are the smallest batches that were found, and print what stands in their comments. Those of TRL and
OpenRLHF are run in the folder `bench/`.

Not in the tables: the advantages of TRL, which are computed inside the method that generates; those of OpenRLHF that
compare a group, which tell groups by their place in the batch; and torchrl's losses, which take a whole actor network.
"""


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page as Markdown.

    Args:
        runs: What `conformance.py run` wrote, one per library.
    """
    parts = [INTRODUCTION.format(examples=runs[0]["examples"]), _versions(runs), _laws(runs)]
    parts += [_library(run) for run in runs]
    return "\n".join([*parts, METHOD])


def _versions(runs: list[dict[str, Any]]) -> str:
    lines = [
        "| library | version | torch | functions | laws kept | broken | not promised |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        states = [law["status"] for case in run["cases"] for law in case["laws"].values()]
        counts = " | ".join(str(states.count(state)) for state in ("kept", "broken", "not promised"))
        versions = f"{run['versions'][run['library']]} | {run['versions']['torch'].split('+')[0]}"
        lines.append(f"| {NAMES[run['library']]} | {versions} | {len(run['cases'])} | {counts} |")
    return "\n".join(lines) + "\n"


def _laws(runs: list[dict[str, Any]]) -> str:
    """Return a table of every law: of the functions that it is asked of, how many keep it."""
    asked: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for case in run["cases"]:
            for name, law in case["laws"].items():
                asked[name][run["library"]].append(law["status"])
    libraries = [run["library"] for run in runs]
    lines = [f"| law | {' | '.join(NAMES[library] for library in libraries)} |", "|---" * (len(runs) + 1) + "|"]
    for name, by_library in asked.items():
        cells = [_share(by_library[library]) for library in libraries]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([LAWS, *lines, ""])


def _share(states: list[str]) -> str:
    return f"{states.count('kept')} of {len(states)}" if states else "–"


def _library(run: dict[str, Any]) -> str:
    lines = [f"## {NAMES[run['library']]} {run['versions'][run['library']]}\n"]
    lines += ["| function | kind | kept | broken | not promised |", "|---|---|---|---|---|"]
    for case in run["cases"]:
        by_state = {state: _named(case, state) for state in ("kept", "broken", "not promised")}
        notes = " | ".join("; ".join(by_state[state]) or "–" for state in ("broken", "not promised"))
        lines.append(f"| `{case['function']}` | {case['kind']} | {len(by_state['kept'])} | {notes} |")
    return "\n".join([*lines, "", *_reasons(run), *_examples(run)])


def _named(case: dict[str, Any], state: str) -> list[str]:
    return [name for name, law in case["laws"].items() if law["status"] == state]


def _reasons(run: dict[str, Any]) -> list[str]:
    """Return why laws are not promised, each reason once, with the shortest example."""
    found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for case in run["cases"]:
        for name, law in case["laws"].items():
            if law["status"] == "not promised":
                found[name, law["why"]].append((case["function"], law))
    lines = ["Not promised, and why:", ""] if found else []
    for (name, why), cases in found.items():
        function, law = min(cases, key=lambda case: len(case[1].get("example") or "x" * 10_000))
        count = f"{len(cases)} function{'s' if len(cases) > 1 else ''}"
        lines += [f"*{name}*: {why} ({count}; for example `{function}`: {_one_line(law['seen'])}).", ""]
        if law.get("example"):
            lines += ["<details markdown>", f"<summary>Example: {function}</summary>", "", *_fenced(law["example"])]
            lines += ["</details>", ""]
    return lines


def _fenced(code: str) -> list[str]:
    return ["```python", code, "```", ""]


def _examples(run: dict[str, Any]) -> list[str]:
    lines = []
    for case in run["cases"]:
        for name, law in case["laws"].items():
            if law["status"] == "broken":
                lines += [f"### `{case['function']}`: {name}", "", f"{_one_line(law['seen'])}.", ""]
                if law.get("example"):
                    lines += _fenced(law["example"])
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".").replace('float("nan")', "nan")
