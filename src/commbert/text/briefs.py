r"""What a function's comment says first: its first paragraph, without the signs and commands of documentation tools.

Known are Doxygen (``@brief``, ``\brief``, ``@param``), Sphinx (``:param x:``), NumPy's and Google's sections, the Linux
kernel's form (``name() - text``) and rules of dashes. Each line is looked at once: a comment may be hostile.
"""

import re

MAX_CHARS = 400
"""Longer briefs are cut at the last word that fits."""
_MAX_LINES = 200
_MAX_LINE_CHARS = 2000

_QUOTES = re.compile(r"[A-Za-z]{0,2}(\"{3}|'{3}|\"|')")
_BRIEF = re.compile(r"\s*[@\\](?:brief|short)\b[ \t:]*")
_COMMAND = re.compile(r"\s*[@\\][A-Za-z]+|\s*:[A-Za-z]+[^:]{0,200}:(?:\s|$)")
_ABOUT_THE_PLACE = re.compile(
    r"\s*[@\\](?:fn|function|name|ingroup|addtogroup|defgroup|file|author|date|internal|memberof|relates|class|def|var"
    r"|static|private|public|protected)\b"
)
_LONGER = re.compile(r"\s*[@\\](?:details|note|remark|remarks)\b[ \t:]*")
_SECTION = re.compile(
    r"\s*(?:args|arguments|parameters?|params?|inputs?|outputs?|returns?|return values?|yields?|raises?|throws|notes?"
    r"|examples?|attributes|keyword args|warnings?|warns|references|see also|input shape|output shape|@ ?params?)"
    r"\s*(?::.*)?$",
    re.IGNORECASE,
)
_RULE = re.compile(r"[\W_]*$")
_PROMPT = re.compile(r"\s*>>> ")
_LEAD = re.compile(r"(?:function(?:\s+name)?|name|routine|method)\s*[:=-]+\s*", re.IGNORECASE)
_PURPOSE = re.compile(r"(?:brief|description|purpose|summary)\s*[:=-]+\s*", re.IGNORECASE)
_SIGNS = re.compile(r"\s*(?:/\*+[!<]*|//[/!]*<?|\*+(?!/)|#+[!:]?)")
_ENDS = re.compile(r"\s*\**\*/\s*$|\s+\*+\s*$")


def brief_of_comment(comment: str, name: str) -> str:
    """Return the brief of a comment, or an empty text.

    Args:
        comment: One block comment, or lines that are comments each.
        name: The function's; where the comment begins with it and a dash, it is left out.
    """
    return _brief([_ENDS.sub("", _SIGNS.sub("", line, count=1), count=1) for line in _first(comment)], name)


def brief_of_docstring(literal: str, name: str) -> str:
    """Return the brief of a docstring as it stands in the source, with quotes, or an empty text."""
    opened = _QUOTES.match(literal)
    body = literal[opened.end() :].removesuffix(opened[1]) if opened else literal
    return _brief(_first(body), name)


def _first(text: str) -> list[str]:
    lines = text[: _MAX_LINES * _MAX_LINE_CHARS].split("\n", _MAX_LINES)[:_MAX_LINES]
    return [line[:_MAX_LINE_CHARS] for line in lines]


def _brief(lines: list[str], name: str) -> str:
    marked = next((i for i, line in enumerate(lines) if _BRIEF.match(line)), None)
    if marked is not None:
        lines = lines[marked:]
        lines[0] = _BRIEF.sub("", lines[0], count=1)
    words: list[str] = []
    for line in lines:
        text = line if words else _without_opening(line, name)
        if _RULE.match(text):
            if words and not text.strip():
                break
            continue
        if not words and _ABOUT_THE_PLACE.match(text):
            continue
        if _COMMAND.match(text) or _SECTION.match(text) or _PROMPT.match(text):
            break
        words += text.split()
    return _cut(" ".join(words))


def _without_opening(line: str, name: str) -> str:
    text = _LONGER.sub("", line, count=1).strip()
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    last = name.rpartition("::")[2]
    for known in {name, last} - {""}:
        rest = text.removeprefix(known)
        if rest != text and (m := re.match(r"\s*(?:\([^()]{0,200}\))?\s*(?:[-:=]+|$)\s*", rest)):
            text = rest[m.end() :]
            break
    return _PURPOSE.sub("", text, count=1) if _PURPOSE.match(text) else text


def _cut(text: str) -> str:
    if len(text) > MAX_CHARS:
        head, space, _ = text[: MAX_CHARS + 1].rpartition(" ")
        text = head if space else text[:MAX_CHARS]
    return text if any(c.isalpha() for c in text) else ""
