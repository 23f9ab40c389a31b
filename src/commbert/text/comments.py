"""Code apart from comments: the same lines, with comments (and Python's docstrings) blanked out.

A lexer, not a parser: it must also do for files that do not compile. Strings keep their text, so that
``"// no comment"`` stays whole. One pattern per family of languages (``grammars.py``) finds strings and comments; every
alternative begins with a fixed character, so that the engine runs over the code between them, and every repetition is
possessive, so that the time grows with the length of the file and not faster.

Not handled: here-documents (shell, Perl, Ruby, PHP), Perl's and Ruby's own quotes (``q{}``, ``%w[]``), JavaScript's
regular expressions after a word such as ``return``, trigraphs, a line break between the two characters of ``//``.
"""

import re
from collections.abc import Iterator

from commbert.text.grammars import GRAMMARS, Grammar

Span = tuple[int, int]

_PYTHON = GRAMMARS["python"]
_IN_FIELD = re.compile(r"""[{}]|\"{3}|'{3}|["']""")
_IN_TEXT = re.compile(r"""\\.|\{\{?|\"{3}|'{3}|["'\n]""", re.DOTALL)
_MAX_MARKS = 200  # of one f-string
_MAX_OPEN = 100  # f-strings without an end in a file; bounds, so that a file of them takes no quadratic time
_STRING_PREFIX = re.compile(r"[rRuUbBfFtT]{1,2}")
_FORMAT_PREFIX = re.compile(r"(?:^|\W)(?:[fFtT][rR]?|[rR][fFtT])\Z")


def without_comments(text: str, language: str) -> str:
    r"""Return the text with comments blanked out; line breaks stay, so that lines keep their numbers.

    Args:
        text: A whole file with ``\n`` line ends.
        language: A name that ``language_of`` gives; text of a language without a grammar is returned as it is.
    """
    parts: list[str] = []
    end = 0
    for start, stop in comment_spans(text, language):
        # One space stays, so that a/**/b remains two words.
        parts += (text[end:start], " ", "\n" * text.count("\n", start, stop))
        end = stop
    if not parts:
        return text
    parts.append(text[end:])
    return "".join(parts)


def comment_spans(text: str, language: str) -> Iterator[Span]:
    """Yield start and end of every comment, and of every docstring of Python, in order."""
    if language == "python":
        return _python_spans(text)
    grammar = GRAMMARS.get(language)
    return _spans(text, grammar) if grammar is not None else iter(())


def _spans(text: str, grammar: Grammar) -> Iterator[Span]:
    search, kinds, at = grammar.pattern.search, grammar.kinds, 0
    while m := search(text, at):
        start, at = m.span()
        kind = kinds[m.lastindex or 0]
        if kind == "comment":
            yield start, at
        elif kind == "nested":
            at = _end_of_nested(text, m)
            yield start, at
        elif kind == "template":
            at = _end_of_template(text, m)


def _end_of_nested(text: str, opened: re.Match[str]) -> int:
    """Return the end of a comment that may hold comments: that of its own mark, or of the text."""
    marks = _NESTED_MARKS[opened[0]]
    depth = 0
    for m in marks.finditer(text, opened.start()):
        depth += 1 if m[0] == opened[0] else -1
        if depth == 0:
            return m.end()
    return len(text)


def _end_of_template(text: str, opened: re.Match[str]) -> int:
    """Return the end of a JavaScript template: its backtick, not those of templates in its ``${}`` fields."""
    open_fields: list[int] = []  # braces open in each field that surrounds the place
    in_text = True
    for m in _TEMPLATE_MARKS.finditer(text, opened.end()):
        mark = m[0]
        if mark == "`":
            if in_text and not open_fields:
                return m.end()
            in_text = not in_text
        elif in_text and mark == "${":
            open_fields.append(0)
            in_text = False
        elif not in_text and mark in ("{", "${"):
            open_fields[-1] += 1
        elif not in_text and mark == "}":
            if open_fields[-1]:
                open_fields[-1] -= 1
            else:
                open_fields.pop()
                in_text = True
    return len(text)


_NESTED_MARKS = {"/*": re.compile(r"/\*|\*/"), "{-": re.compile(r"\{-|-\}")}
_TEMPLATE_MARKS = re.compile(r"\\.|\$\{|[`{}]", re.DOTALL)


def _python_spans(text: str) -> Iterator[Span]:
    search, kinds, at = _PYTHON.pattern.search, _PYTHON.kinds, 0
    depth = 0  # of brackets, as far as the last triple string at the beginning of a line
    pieces: list[str] = []  # code since then
    n_open = 0
    while m := search(text, at):
        start, end = m.span()
        before, kind = text[at:start], kinds[m.lastindex or 0]
        pieces.append(before)
        at = end
        if kind == "comment":
            yield start, end
        elif kind == "triple" and (begin := _begin_of_statement(before, start)) is not None:
            code = "".join(pieces)
            pieces.clear()
            opened = sum(map(code.count, "([{")) - sum(map(code.count, ")]}"))
            depth = max(0, depth + opened)
            if depth == 0 and _ends_line(text, end):
                yield begin, end
        elif "{" in m[0] and n_open < _MAX_OPEN and _is_format_string(text, start):
            found = _end_of_format_string(text, m)
            at, n_open = found or end, n_open + (not found)


def _begin_of_statement(before: str, start: int) -> int | None:
    """Return where the string with its prefix begins if nothing but space stands before it on its line, else None."""
    line_at = before.rfind("\n") + 1
    if line_at == 0 and start != len(before):
        return None  # a comment or a string ended on this line
    prefix = before[line_at:].lstrip()
    if prefix and not _STRING_PREFIX.fullmatch(prefix):
        return None
    if before[line_at - 2 : line_at] == "\\\n" and line_at > 1:
        return None
    return start - len(prefix)


def _ends_line(text: str, at: int) -> bool:
    """Return whether nothing but space or a comment follows on the line: the string is a statement of its own."""
    line_end = text.find("\n", at)
    rest = text[at : line_end if line_end >= 0 else len(text)].strip()
    return not rest or rest.startswith("#")


def _is_format_string(text: str, quote_at: int) -> bool:
    return _FORMAT_PREFIX.search(text[max(0, quote_at - 3) : quote_at]) is not None


def _end_of_format_string(text: str, plain: re.Match[str]) -> int:
    """Return the end of an f-string whose fields may hold its own quotes (Python 3.12).

    ``plain`` is the string as it was before 3.12. Where its braces are balanced it is right, and where the new reading
    finds no end within a few hundred marks (0 is returned) it is the better guess.
    """
    body = plain[0]
    if body.count("{") == body.count("}"):
        return plain.end()
    quote = body[:3] if plain.lastindex else body[0]
    return _end_of_fields(text, plain.start() + len(quote), quote)


def _end_of_fields(text: str, at: int, quote: str) -> int:
    opened = [quote]  # quotes of open f-strings and "{" of their open fields
    for _ in range(_MAX_MARKS):
        if not opened:
            return at
        top = opened[-1]
        m = (_IN_FIELD if top == "{" else _IN_TEXT).search(text, at)
        if m is None or (m[0] == "\n" and len(top) == 1):
            break
        at = _pass_in_field(text, m, opened) if top == "{" else _pass_in_text(m, opened)
    return 0


def _pass_in_field(text: str, mark: re.Match[str], opened: list[str]) -> int:
    if mark[0] == "}":
        opened.pop()
    elif mark[0] == "{" or _is_format_string(text, mark.start()):
        opened.append(mark[0])
    elif string := _PYTHON.pattern.match(text, mark.start()):
        return string.end()
    return mark.end()


def _pass_in_text(mark: re.Match[str], opened: list[str]) -> int:
    if mark[0] == "{":
        opened.append("{")
    elif mark[0].startswith(quote := opened[-1]):
        opened.pop()
        return mark.start() + len(quote)
    return mark.end()
