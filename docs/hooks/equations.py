"""Equations are typeset while the site is built: TeX between dollar signs becomes MathML, so no script is needed."""

import re
from html import unescape
from importlib.util import find_spec
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
WORD = re.compile(r"<mi>(log|exp)</mi>(?!<mo[^>]*>&#x00028;)")  # a function whose argument stands without parentheses
FONT = "fonts/STIXTwoMath-Regular.ttf"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the font of the equations, which comes with a package and under the Open Font License."""
    package = find_spec("ziamath")
    assert package is not None
    files.append(
        File.generated(
            config, "stylesheets/STIXTwoMath-Regular.ttf", abs_src_path=str(Path(package.origin or "").parent / FONT)
        )
    )
    return files


def on_page_content(html: str, **page: object) -> str:
    """Replace the equations that arithmatex has marked."""
    return TEX.sub(lambda found: mathml(unescape(found[2]), block=found[1] == "div"), html)


def mathml(tex: str, *, block: bool) -> str:
    """One equation; on a line of its own it scrolls where it is wider than the page."""
    markup = convert(tex.strip(), display="block" if block else "inline")
    markup = WORD.sub(r'<mspace width="0.17em"/><mi>\1</mi><mspace width="0.17em"/>', markup)
    return f'<div class="equation">{markup}</div>' if block else markup
