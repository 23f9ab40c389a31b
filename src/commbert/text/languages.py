"""Languages by file suffix, their keywords, and the signs of a generated file."""

import keyword
import re

_SUFFIXES = {
    "c": "c h",
    "cpp": "cc cpp cxx c++ hh hpp hxx h++ ipp tpp inl cu cuh",
    "python": "py pyi pyx",
}
LANGUAGES = {f".{suffix}": language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}

_C = """alignas alignof auto bool break case char const constexpr continue default do double else enum extern false
float for goto if inline int long nullptr register restrict return short signed sizeof static static_assert struct
switch thread_local true typedef typeof union unsigned void volatile while define include ifdef ifndef endif elif
undef pragma error null"""
_CPP = """and and_eq asm bitand bitor catch char8_t char16_t char32_t class co_await co_return co_yield compl concept
const_cast consteval constinit decltype delete dynamic_cast explicit export final friend mutable namespace new noexcept
not not_eq operator or or_eq override private protected public reinterpret_cast requires static_cast template this
throw try typeid typename using virtual wchar_t xor xor_eq"""
KEYWORDS = frozenset(
    [w.lower() for w in (*keyword.kwlist, *keyword.softkwlist, "self", "cls", *_C.split(), *_CPP.split()) if w != "_"]
)
"""Keywords of C, C++ and Python in lower case, with ``self`` and ``cls``."""

_GENERATED = re.compile(
    r"@generated\b|\bdo not (?:edit|modify)\b|\b(?:auto-?|automatically |machine )generated\b|"
    r"\bgenerated (?:automatically|by) (?!a |the |an |hand)",
    re.IGNORECASE,
)
_GENERATED_LINES = 15


def language_of(path: str) -> str:
    """Return ``c``, ``cpp``, ``python`` or ``text``, by the suffix of the path."""
    dot = path.rfind(".")
    return LANGUAGES.get(path[dot:].lower(), "text") if dot >= 0 else "text"


def says_generated(lines: list[str]) -> bool:
    """Return whether the first 15 lines say that a program wrote the file."""
    return any(_GENERATED.search(line) for line in lines[:_GENERATED_LINES])
