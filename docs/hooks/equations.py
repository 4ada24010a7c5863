"""Equations are typeset while the site is built: TeX between dollar signs becomes MathML, so no script is needed."""

import re
from html import unescape
from pathlib import Path

import ziamath
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FONT = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the font of the equations, which comes with a package and under the Open Font License."""
    files.append(File.generated(config, "stylesheets/STIXTwoMath-Regular.ttf", abs_src_path=str(FONT)))
    return files


def on_page_content(html: str, **page: object) -> str:
    """Replace the equations that arithmatex has marked."""
    return TEX.sub(lambda found: mathml(unescape(found[2]), block=found[1] == "div"), html)


def mathml(tex: str, *, block: bool) -> str:
    """One equation; on a line of its own it scrolls where it is wider than the page."""
    markup = convert(tex.strip(), display="block" if block else "inline")
    return f'<div class="equation">{markup}</div>' if block else markup
