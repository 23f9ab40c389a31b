"""Code apart from comments: the same lines, with comments (and Python's docstrings) blanked out.

A lexer of a few regular expressions, not a parser: it must also do for files that do not compile. Strings keep their
text, so that ``"// no comment"`` stays whole.
"""

import re

_C_TOKEN = re.compile(
    r"""
      (?P<raw>(?:\b(?:u8|[uUL])?R"(?P<tag>[^()\\\s]{0,16})\((?:.|\n)*?(?:\)(?P=tag)"|\Z)))
    | (?P<string>"(?:[^"\\\n]|\\(?:.|\n))*(?:"|\\\Z|$)|'(?:[^'\\\n]|\\(?:.|\n))*(?:'|\\\Z|$))
    | (?P<comment>//(?:[^\\\n]|\\\n|\\)*|/\*(?:.|\n)*?(?:\*/|\Z))
    | (?P<number>\b[0-9](?:'?[0-9A-Za-z.])*)
    """,
    re.VERBOSE | re.MULTILINE,
)
_PYTHON_TOKEN = re.compile(
    r"""
      (?P<triple>(?:\b[rRuUbBfF]{1,2})?(?P<quote>\"\"\"|''')(?:[^\\]|\\.|\\\n)*?(?:(?P=quote)|\Z))
    | (?P<string>"(?:[^"\\\n]|\\(?:.|\n))*(?:"|\\\Z|$)|'(?:[^'\\\n]|\\(?:.|\n))*(?:'|\\\Z|$))
    | (?P<comment>\#[^\n]*)
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<continued>\\\n)
    | (?P<newline>\n)
    | (?P<other>[^\s"'#()\[\]{}\\]+|\\)
    """,
    re.VERBOSE | re.MULTILINE,
)
_NOT_NEWLINE = re.compile(r"[^\n]+")


def without_comments(text: str, language: str) -> str:
    r"""Return the text with comments blanked out; line breaks stay, so that lines keep their numbers.

    Args:
        text: A whole file with ``\n`` line ends.
        language: ``c``, ``cpp``, ``python``; other text is returned as it is.
    """
    if language in ("c", "cpp"):
        return _C_TOKEN.sub(lambda m: _blank(m[0]) if m["comment"] is not None else m[0], text)
    if language == "python":
        return _python_code(text)
    return text


def _blank(comment: str) -> str:
    # One space stays, so that a/**/b remains two words.
    return " " + _NOT_NEWLINE.sub("", comment)


def _python_code(text: str) -> str:
    parts: list[str] = []
    end, depth, at_start = 0, 0, True
    for m in _PYTHON_TOKEN.finditer(text):
        kind = m.lastgroup if m.lastgroup != "quote" else "triple"
        is_documentation = kind == "triple" and at_start and depth == 0 and _ends_line(text, m.end())
        if kind == "comment" or is_documentation:
            parts += [text[end : m.start()], _blank(m[0])]
            end = m.end()
        elif kind == "newline":
            at_start = depth == 0
        elif kind != "continued":
            depth = max(0, depth + (kind == "open") - (kind == "close"))
            at_start = False
    parts.append(text[end:])
    return "".join(parts)


def _ends_line(text: str, at: int) -> bool:
    """Return whether nothing but space or a comment follows on the line: the string is a statement of its own."""
    line_end = text.find("\n", at)
    rest = text[at : line_end if line_end >= 0 else len(text)].strip()
    return not rest or rest.startswith("#")
