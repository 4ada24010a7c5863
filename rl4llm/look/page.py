"""`write_page`: one HTML file of a run that needs no server and no network."""

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from rl4llm.errors import UsageError
from rl4llm.look.data import read_run

_STYLES = ("look.css",)
_SCRIPTS = ("charts.js", "batch.js", "responses.js", "tokens.js", "look.js")


def write_page(run: Path, out: Path | None = None, *, megabytes: float = 10.0) -> Path:
    """Write the page of a run.

    Args:
        run: The run folder; the run may still be going on.
        out: The file, or a folder for `look.html`; the run folder when None.
        megabytes: Most of the rows in the page.

    Returns:
        The file.

    Raises:
        UsageError: If the folder is not that of a run, a file in it is damaged, or `out` cannot be written.
    """
    text = page(read_run(run, megabytes=megabytes))
    out = run if out is None else out
    out = out / "look.html" if out.is_dir() else out
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"rl4llm look: '{out}' cannot be written ({error.strerror}); give another --out.") from None
    return out


def page(run: dict[str, Any]) -> str:
    """Return the HTML of what [read_run][rl4llm.look.data.read_run] has read.

    No text of the run can end its place in the page: of its characters, `<` is written as an escape.
    """
    folder = files("rl4llm.look")
    parts = {name: (folder / name).read_text(encoding="utf-8") for name in ("look.html", *_STYLES, *_SCRIPTS)}
    data = json.dumps(run, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    before, _, after = parts["look.html"].partition("/*script*/")
    head, _, body = before.partition("/*style*/")
    body, _, middle = body.partition("/*data*/")
    style, script = ("\n".join(parts[name] for name in names) for names in (_STYLES, _SCRIPTS))
    return "".join([head, style, body, data, middle, script, after])
