"""Text of others (words, paths, settings) as text: nothing of it becomes markup."""

import re

_PLAIN = frozenset("-., ;:/=+%()")
# Marks that need no others: some renderers make a link of an address or a host (GitHub Flavored Markdown 0.29, section
# 6.9), and a text that begins with others becomes a list, a heading or code.
_ACTIVE = re.compile(r"(?<=[a-z]):(?=//)|(?<=www)\.|^[-+= ]|(?:(?<=^\d)|(?<=^\d\d)|(?<=^\d{3}))[.)](?=\s|$)", re.I)


def markdown_cell(value: object, *, max_chars: int = 120) -> str:
    r"""Return text that stands in one Markdown table cell and is shown as it is.

    Control and direction marks become ``\u{..}``; all but letters, digits and a few signs become character references,
    in one pass (a second pass would escape the first one's).
    """
    text = str(value)
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    active = {found.start() for found in _ACTIVE.finditer(text)}
    return "".join(f"&#{ord(c)};" if i in active else _markdown_char(c) for i, c in enumerate(text))


def _markdown_char(c: str) -> str:
    if c.isalnum() or c in _PLAIN:
        return c
    return f"&#{ord(c)};" if c.isprintable() else f"&#92;u&#123;{ord(c):x}&#125;"


def visible(value: object, *, max_chars: int = 120) -> str:
    """Return text with control and direction marks spelt out, for HTML (where the template escapes the rest)."""
    text = str(value)
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{{{ord(c):x}}}" for c in text)


def one_line(value: object, *, max_chars: int = 120) -> str:
    """Return text as ``visible`` does, with line ends spelt out too: for a cell of a table of text, a label."""
    return visible(value, max_chars=max_chars).replace("\n", "\\u{a}")


def code_block(text: str) -> str:
    """Return text as an indented Markdown code block, which nothing in a line can end."""
    return "\n".join("    " + visible(line, max_chars=500) for line in text.splitlines())
