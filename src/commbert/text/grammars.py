r"""Strings and comments of each family of languages, as one compiled pattern a family.

Every alternative begins with a fixed character, outside of any group (the engine then skips what lies between), and
repeats possessively (it never tries again what it has read). The groups say what was found: ``comment``; ``nested``,
the opening of a comment that may hold others; ``template``, the opening of a JavaScript template; ``triple``, a string
of three quotes in Python. Everything else is text to step over.
"""

import re
from dataclasses import dataclass

_DOUBLE = r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?'
_SINGLE = r"'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'?"
_DOUBLE_LINES = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_DOUBLE_RAW = r'"[^"]*+"?'
_SINGLE_RAW = r"'[^']*+'?"
_BACKTICK_RAW = r"`[^`]*+`?"
# A quote written twice inside of a string makes two strings side by side: the same, as far as comments go.
_DOUBLE_PLAIN = r'"[^"\n]*+"?'
_SINGLE_PLAIN = r"'[^'\n]*+'?"
_THREE = r'"""[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+(?:""")?'
_THREE_SINGLE = _THREE.replace('"', "'")
_THREE_RAW = r'"""[^"]*+(?:"(?!"")[^"]*+)*+(?:""")?'

_BLOCK = r"/\*(?P<comment>)[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/)?"
_SLASHES = r"//(?P<comment>)[^\n]*+"
_SLASHES_OR_BLOCK = r"/(?:/[^\n]*+|\*[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/)?)(?P<comment>)"
_NESTED = r"/\*(?P<nested>)"
_DASHES = r"--(?P<comment>)[^\n]*+"
_PERCENT = r"%(?P<comment>)[^\n]*+"
# "#" opens a comment at the beginning of a word only: not in $#, ${x#y}, a#b.
_HASH = r"\#(?:(?<![^\s;&|()]\#)(?P<comment>)[^\n]*+)?"
_TICK = r"'(?:(?<!\w')[^\n]')?"  # a character of Ada and VHDL; after a word it is the mark of an attribute

_C = (
    # R"tag( )tag", perhaps with u8, u, U or L before it.
    r'"(?:(?<=\bR")|(?<=\b[uUL]R")|(?<=\bu8R"))'
    r'(?P<tag>[^()\\\s]{0,16}+)\([^)]*+(?:\)(?!(?P=tag)")[^)]*+)*+(?:\)(?P=tag)")?',
    _DOUBLE,
    # The mark in 1'000 and 0xFF'FF, unlike the quotes of u8'a' and case'a'.
    r"'(?<=[0-9A-Fa-f]')(?<!\bu8')(?<!\bcase')(?=[0-9A-Fa-f])",
    _SINGLE,
    # A backslash at the end of the line takes the comment to the next one.
    r"/(?:/[^\\\n]*+(?:\\\n?[^\\\n]*+)*+|\*[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/)?)(?P<comment>)",
    r"\#[ \t]*+(?:include_next|include|import)[ \t]*+<[^>\n]*+",
)
_RUST = (
    r'r(?P<hashes>\#*+)"[^"]*+(?:"(?!(?P=hashes))[^"]*+)*+(?:"(?P=hashes))?',
    _DOUBLE_LINES,
    r"'(?:\\.[^'\n]{0,10}+'|[^\\'\n]')?",  # 'a' is a character, 'a alone a lifetime
    _SLASHES,
    _NESTED,
)
# A slash after one of these opens a regular expression; elsewhere it divides.
_REGEX = (
    # Bounded: a line of a megabyte may hold as many beginnings that never end.
    r"/(?:(?<=[=(,:\[!&|?{};]/)|(?<=[=(,:\[!&|?{};][ ]/))(?![*/])"
    r"(?:[^/\\\[\n]|\\[^\n]|\[(?:[^\]\\\n]|\\[^\n]){0,99}+\]){1,199}+/"
)
_SCRIPT = (_DOUBLE, _SINGLE, r"`(?P<template>)", _REGEX, _SLASHES_OR_BLOCK)
_SHELL = (r"\\.", _DOUBLE_LINES, _SINGLE_RAW, _HASH)
_PERL = (r"\\.", _DOUBLE_LINES, _SINGLE, _HASH)
_LONG_BRACKET = r"\[(?P<level>=*+)\[[^\]]*+(?:\](?!(?P=level)\])[^\]]*+)*+(?:\](?P=level)\])?"
_LUA = (
    _DOUBLE,
    _SINGLE,
    r"--\[(?P<n>=*+)\[[^\]]*+(?:\](?!(?P=n)\])[^\]]*+)*+(?:\](?P=n)\])?(?P<comment>)",
    _DASHES,
    _LONG_BRACKET,
)
_CMAKE = (
    r"\\.",
    _DOUBLE_LINES,
    r"\#\[(?P<n>=*+)\[[^\]]*+(?:\](?!(?P=n)\])[^\]]*+)*+(?:\](?P=n)\])?(?P<comment>)",
    r"\#(?P<comment>)[^\n]*+",
    _LONG_BRACKET,
)
_YAML = (
    # Quotes inside of a plain word (don't) open nothing.
    r'"(?:(?<![^\s,\[{(:=]")[^"\\]*+(?:\\.[^"\\]*+)*+"?)?',
    r"'(?:(?<![^\s,\[{(:=]')[^']*+(?:''[^']*+)*+'?)?",
    r"\#(?:(?<![^\s]\#)(?P<comment>)[^\n]*+)?",
)
_MATLAB = (
    r"'(?:(?<![\w)\]}.']')[^'\n]*+(?:''[^'\n]*+)*+'?)?",  # after a value it transposes
    _DOUBLE_PLAIN,
    r"%\{(?<![^\n]%\{)[ \t]*+\n(?P<comment>)[^%]*+(?:%(?!\}[ \t]*+(?:\n|\Z))[^%]*+)*+(?:%\})?",
    _PERCENT,
)
_ASN1 = (_DOUBLE_RAW, r"--(?P<comment>)[^\n-]*+(?:-(?!-)[^\n-]*+)*+(?:--)?", _NESTED)

_FAMILIES: dict[str, tuple[str, ...]] = {
    "c cpp objective-c": _C,
    "python": (
        r"\#(?P<comment>)[^\n]*+",
        _THREE.replace('[^"', '(?P<triple>)[^"', 1),
        _THREE_SINGLE.replace("[^'", "(?P<triple>)[^'", 1),
        _DOUBLE,
        _SINGLE,
    ),
    "rust": _RUST,
    "go": (_DOUBLE, _SINGLE, _BACKTICK_RAW, _SLASHES_OR_BLOCK),
    "java protobuf": (_THREE, _DOUBLE, _SINGLE, _SLASHES_OR_BLOCK),
    "kotlin scala": (_THREE_RAW, _DOUBLE, r"'(?:\\.[^'\n]{0,5}+'|[^\\'\n]')?", _SLASHES, _NESTED),
    "swift": (r'\#"[^"\n]*+(?:"(?!\#)[^"\n]*+)*+(?:"\#)?', _THREE, _DOUBLE, _SLASHES, _NESTED),
    "csharp": (
        r'@"[^"]*+(?:""[^"]*+)*+"?', r'\$@"[^"]*+(?:""[^"]*+)*+"?', _THREE_RAW, _DOUBLE, _SINGLE, _SLASHES_OR_BLOCK
    ),
    "javascript typescript": _SCRIPT,
    "verilog": (_DOUBLE, _SLASHES_OR_BLOCK),  # a lone quote is the base of a number there: 8'hFF
    "ttcn3": (_DOUBLE_PLAIN, _SLASHES_OR_BLOCK),
    "shell make": _SHELL,
    "perl ruby r": _PERL,
    "cmake": _CMAKE,
    "yaml": _YAML,
    "toml": (_THREE, r"'''[^']*+(?:'(?!'')[^']*+)*+(?:''')?", _DOUBLE, _SINGLE_PLAIN, r"\#(?P<comment>)[^\n]*+"),
    "ada": (_DOUBLE_PLAIN, _TICK, _DASHES),
    "vhdl": (_DOUBLE_PLAIN, _TICK, _DASHES, _BLOCK),
    "lua": _LUA,
    "sql": (_DOUBLE_RAW, _SINGLE_RAW, _DASHES, _BLOCK),
    "haskell": (
        _DOUBLE,
        r"'(?:(?<!\w')(?:\\.[^'\n]{0,10}+'|[^\\'\n]'))?",
        r"--(?:(?<![!#$%&*+./<=>?@\\^|~:]--)-*+(?![!#$%&*+./<=>?@\\^|~:])(?P<comment>)[^\n]*+)?",
        r"\{-(?P<nested>)",
    ),
    "asn1": _ASN1,
    "matlab": _MATLAB,
    "erlang": (r"\$\\?.", _DOUBLE_LINES, _SINGLE, _PERCENT),
    "tex": (r"\\.", _PERCENT),
}  # fmt: skip


@dataclass(frozen=True)
class Grammar:
    """Strings and comments of a language."""

    pattern: re.Pattern[str]
    kinds: tuple[str, ...]
    """What was found, by the number of the last group of a match; empty for text to step over."""


def _grammar(alternatives: tuple[str, ...]) -> Grammar:
    # A pattern may hold each name once: they are numbered, and taken apart again.
    numbered = [re.sub(r"\(\?P(<|=)(\w+)", rf"(?P\1\2_{i}", alternative) for i, alternative in enumerate(alternatives)]
    pattern = re.compile("|".join(numbered), re.DOTALL)
    kinds = [""] * (pattern.groups + 1)
    for name, number in pattern.groupindex.items():
        kinds[number] = name.rstrip("0123456789").rstrip("_")
    return Grammar(pattern, tuple(kinds))


GRAMMARS = {
    language: grammar for names, a in _FAMILIES.items() for grammar in [_grammar(a)] for language in names.split()
}
"""Strings and comments by language."""
