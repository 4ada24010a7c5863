"""The page *Real models*: its commands run on tiny models, and each fault in its table gets the line beside it."""

import json
import re
import shlex
import string
from pathlib import Path

import pytest
import torch

from recipes.evaluate import evaluate
from rl4llm.evaluation import run_tool
from rl4llm.models import Policy
from tests.models.folders import copied, saved, tiny, with_config, with_permuted_tokenizer
from tests.recipes.helpers import RECIPES, cli

PAGE = (Path(__file__).parents[2] / "docs" / "real-models.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(--.*?)` \| `(.*)` \|$", PAGE, re.MULTILINE)


REWARDS = """
def two(response, answer):
    return 1.0


def broken(prompt, response, answer):
    raise KeyError("key")
"""


class Payload:
    """Acts when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small model, broken ones, prompts and rewards, as the page names them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    saved("small")
    saved("letters", characters="0123456789=().\nabcdefghij")
    for name in ("pickled", "own_code", "other_ids"):
        copied("small", name)
    Path("pickled/model.safetensors").unlink()
    torch.save({"weight": Payload()}, "pickled/pytorch_model.bin")
    with_config(Path("own_code"), model_type="mine", auto_map={"AutoConfig": "mine.Mine"})
    Path("own_code/mine.py").write_text("from pathlib import Path\n\nPath('executed').touch()\n")
    with_permuted_tokenizer(Path("other_ids"))
    lines = "".join(json.dumps({"prompt": f"{n:010}=", "answer": str(n % 10)}) + "\n" for n in range(4))
    Path("train.jsonl").write_text(lines)
    Path("page_rewards.py").write_text(REWARDS)
    return tmp_path


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("flags", "line"), ROWS, ids=[flags[:60] for flags, _ in ROWS])
def test_a_fault_of_the_page_is_the_line_of_the_page(flags, line, place, capsys):
    short = ["--data.prompts_per_step=4", "--model.responses_per_prompt=2", "--trainer.enable_progress_bar=false"]
    with pytest.raises(SystemExit) as left:
        cli(RECIPES["asyppo"], "fit", *short, *shlex.split(flags))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert left.value.code in (1, 2)
    pattern = ".*".join(map(re.escape, f"error: {line}".split("…")))
    assert re.fullmatch(pattern, said), said
    assert not Path("executed").exists()


def test_the_payloads_would_act_if_anything_ran_them(place):
    torch.load("pickled/pytorch_model.bin", weights_only=False)
    assert Path("executed").exists()


# --- the commands ----------------------------------------------------------------------------------------------------

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES = "".join(BLOCKS).replace("\\\n", " ").splitlines()
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES if line.startswith("python recipes/")]
SMALL = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.prompts_per_step=2"]
SMALL += ["--trainer.enable_progress_bar=false", "--model.evaluation.samples=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the page's configuration, in which a tiny model bears the name of the real one."""
    root = tmp_path_factory.mktemp("home")
    model, tokenizer = tiny(characters=string.printable, layers=7, context=512)
    tokenizer.chat_template = CHAT
    Policy(model, tokenizer).save(root / "model")
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (root / "smollm2.yaml").write_text(yaml.replace(NAME, str(root / "model")))
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        exec(code, {})
    lines = [{"prompt": f"{n} plus {n}", "answer": str(2 * n)} for n in range(4)]
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "my_rewards.py").write_text("def exact_answer(prompt, response, answer):\n    return response == answer\n")
    return root


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_the_commands_of_the_page_run(home, monkeypatch):
    """In the order of the page, since the later ones go on with what the earlier ones leave."""
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    assert len(COMMANDS) == 12
    for script, *words in COMMANDS:
        words = [word.replace(NAME, str(home / "model")) for word in words]
        if "asyppo_qwen3_4b" in " ".join(words):  # tests/planning
            continue
        if script == "recipes/evaluate.py":
            run_tool(evaluate, [*words, "--split=validation"])
            continue
        goes_on = any(word.startswith("--ckpt_path") for word in words)
        size = (
            ["--data.task.train_size=40", "--data.task.held_out_size=4"] if "--data.task=ReasoningGym" in words else []
        )
        words = [word.replace("max_steps=36", "max_steps=3") for word in words]
        try:
            cli(RECIPES[Path(script).stem], *words, *([] if goes_on else SMALL), *size)
        except SystemExit as left:  # a dry run ends so
            if left.code or "--dry_run" not in words:
                raise
    assert (home / "runs/asyppo/version_1/policy/adapter/adapter_config.json").is_file()
    assert "AdapterCritics" in (home / "runs/asyppo/version_2/config.yaml").read_text()
