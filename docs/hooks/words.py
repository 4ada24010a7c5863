"""Words in code style stay whole: a browser would break a flag such as `--model.gate` after a hyphen."""

import re

BLOCK = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
CODE = re.compile(r"<code>([^<]*)</code>")
WORD = re.compile(r"\S*[-{\[(\\]\S*")


def on_page_content(html: str, **page: object) -> str:
    """Mark the words with hyphens and brackets in the code of running text and tables."""
    kept = BLOCK.findall(html)
    pieces = [CODE.sub(marked, piece) for piece in BLOCK.split(html)]
    return "".join(part for pair in zip(pieces, [*kept, ""], strict=True) for part in pair)


def marked(found: re.Match[str]) -> str:
    """The same code; the style sheet keeps each marked word on one line."""
    return f"<code>{WORD.sub(lambda word: f'<span class=word>{word[0]}</span>', found[1])}</code>"
