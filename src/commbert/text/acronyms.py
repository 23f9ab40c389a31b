"""Acronyms and what they stand for, as the comments of source code tell it.

Three forms: ``hybrid automatic repeat request (HARQ)``, ``HARQ (hybrid automatic repeat request)`` and
``HARQ: hybrid automatic repeat request`` (or ``=``). In the first two, brackets tell where the expansion ends, and
Schwartz and Hearst's rule where it begins: from the right, every letter and digit of the acronym A is found in it, the
first one at the beginning of a word, and it has at most min(|A| + 5, 2 |A|) words. Asked beyond their rule, for it
takes what is shortest: words that begin with the letters of the acronym go first (RRC is no ``resource control``), the
first word says something (AMF is no ``and mobility management function``), and the last word takes part (``hybrid
automatic repeat request process (HARQ)`` is no definition). In the third form nothing tells where the expansion ends,
so that its words must begin with the letters of the acronym.

Reference: A. S. Schwartz and M. A. Hearst 2003, A simple algorithm for identifying abbreviation definitions in
biomedical text, Pacific Symposium on Biocomputing 8, 451-462.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import polars as pl

MIN_CHARS, MAX_CHARS = 2, 10
"""Length of an acronym, without a plural s (section 2.1 of the reference)."""
_MAX_TEXT = 4096
"""Characters of a text that are looked at."""
_MAX_FOUND = 32
"""Places of a text that are looked at, of each form: with the other limits, this bounds the work on a hostile text."""
_MAX_EXPANSION = 160
"""Characters of an expansion: the most words that it may have are 15."""

_ACRONYM = r"[A-Za-z0-9](?:[A-Za-z0-9]|[-/](?=[A-Za-z0-9])){1,10}"  # the last character may be a plural s
_WORDS = r"[A-Za-z0-9][A-Za-z0-9 '/&-]*+(?![\w(\[<>*=])"
_LISTED_WORDS = r"[A-Za-z0-9][A-Za-z0-9 ,'/&-]*+"
_MAY_HOLD = r"[A-Z][A-Za-z0-9/-]*\s*(?:\)|[(:=]\s*[A-Za-z0-9])"
"""All that the patterns below can find matches this one, which is of Rust: its time is linear."""
_IN_BRACKETS = re.compile(rf"\(([^()]{{{MIN_CHARS},{_MAX_EXPANSION}}})\)")
_WHOLE = re.compile(_ACRONYM)
_BEFORE_BRACKET = re.compile(rf"(?<![\w/-])({_ACRONYM}) ?\Z")
_BEFORE_MARK = re.compile(rf"(?<![\w/.:>-])({_ACRONYM}) ?[:=] ?(?=[A-Za-z0-9])")
_WORDS_AT_END = re.compile(rf"(?<![\w.])(?:{_LISTED_WORDS})\Z")
_WORDS_AT_START = re.compile(_WORDS)
_ONLY_WORDS = re.compile(_LISTED_WORDS)
_WORD = re.compile(r"[A-Za-z0-9]+")
_SMALL = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))
"""Words whose first letter an acronym may leave out."""
_SPACES = dict.fromkeys(map(ord, "\t\n\v\f\r\u00a0"), " ")


class Definition(NamedTuple):
    """An acronym and its expansion, in lower case, and the place in the text where the definition ends."""

    acronym: str
    expansion: str
    end: int


def may_hold_definitions(texts: pl.Series) -> pl.Series:
    """Return whether a text is worth ``definitions``, which finds nothing in any other one."""
    return texts.str.contains(_MAY_HOLD)


def definitions(text: str) -> list[Definition]:
    """Return the definitions in a text; the time is bounded, whatever the text.

    Args:
        text: Of a comment, best without its marks; line breaks count as space.
    """
    text = text[:_MAX_TEXT].translate(_SPACES)
    return [*_with_brackets(text), *_with_marks(text)]


def _with_brackets(text: str) -> Iterator[Definition]:
    for brackets in islice(_IN_BRACKETS.finditer(text), _MAX_FOUND):
        at, inner = brackets.start(), brackets[1].strip(" ")
        if found := _acronym_in(text, at, inner) or _expansion_in(text, at, inner):
            acronym, expansion = found
            yield Definition(acronym.lower(), _normal(expansion), brackets.end())


def _acronym_in(text: str, at: int, inner: str) -> tuple[str, str] | None:
    """Return acronym and expansion if the acronym stands in the bracket at ``at``."""
    acronym = _acronym(inner) if _WHOLE.fullmatch(inner) else ""
    if not acronym:
        return None
    before = text[max(0, at - _MAX_EXPANSION) : at]
    if at > _MAX_EXPANSION:
        before = before.partition(" ")[2]  # what was cut is no word
    words = _WORDS_AT_END.search(before.rstrip(" "))
    expansion = expansion_of(acronym, words[0]) if words else None
    return None if expansion is None else (acronym, expansion)


def _expansion_in(text: str, at: int, inner: str) -> tuple[str, str] | None:
    """Return acronym and expansion if the expansion stands in the bracket at ``at``."""
    before = _BEFORE_BRACKET.search(text, max(0, at - MAX_CHARS - 2), at)
    acronym = _acronym(before[1]) if before else ""
    if not acronym:
        return None
    # Up to the first mark, as in (medium access control, see 38.321); else all, as in (operation, administration and
    # maintenance).
    for words in (_WORDS_AT_START.match(inner), _ONLY_WORDS.fullmatch(inner)):
        if words and (expansion := expansion_of(acronym, words[0].rstrip(" "))):
            return acronym, expansion
    return None


def _with_marks(text: str) -> Iterator[Definition]:
    for marked in islice(_BEFORE_MARK.finditer(text), _MAX_FOUND):
        acronym = _acronym(marked[1])
        words = _WORDS_AT_START.match(text, marked.end(), marked.end() + _MAX_EXPANSION)
        if acronym and words and (expansion := _by_initials(acronym, words[0])):
            yield Definition(acronym.lower(), _normal(expansion), marked.end() + len(expansion))


def _acronym(token: str) -> str:
    """Return the token without its plural s; nothing if it is no acronym."""
    if len(token) > MIN_CHARS and token[-1] == "s" and (token[-2].isupper() or token[-2].isdigit()):
        token = token[:-1]
    return token if len(token) <= MAX_CHARS and any(map(str.isupper, token)) else ""


def expansion_of(acronym: str, text: str) -> str | None:
    """Return the end of a text that an acronym stands for, or None.

    Args:
        acronym: Without a plural s.
        text: ASCII words.
    """
    start = _start_by_initials(acronym, text)
    if start is None:
        start = _start_by_letters(acronym, text)
    if start is None:
        return None
    expansion = text[text.rfind(" ", 0, start) + 1 :]
    is_short = len(expansion.split()) <= min(len(acronym) + 5, 2 * len(acronym))
    return expansion if is_short and _says_more(expansion, acronym) else None


def _start_by_letters(acronym: str, text: str) -> int | None:
    """Return where the first letter stands, by Schwartz and Hearst's rule (figure 1 of the reference)."""
    lower, at = text.lower(), len(text)
    characters = _characters(acronym)
    last_word = max(map(lower.rfind, " -/&")) + 1
    for i in range(len(characters) - 1, -1, -1):
        at = lower.rfind(characters[i], 0, at)
        while i == 0 and at >= 0 and not _begins_word(lower, at):
            at = lower.rfind(characters[i], 0, at)
        if at < 0 or (i == len(characters) - 1 and at < last_word):
            return None
    return at


def _begins_word(lower: str, at: int) -> bool:
    word = _WORD.match(lower, at)
    return word is not None and word[0] not in _SMALL and (at == 0 or not lower[at - 1].isalnum())


def _start_by_initials(acronym: str, text: str) -> int | None:
    """Return where the last words begin that begin with the letters of the acronym; see ``_by_initials``."""
    characters = _characters(acronym)
    left = len(characters)
    for number, found in enumerate(reversed(list(_WORD.finditer(text)))):
        word, character = found[0].lower(), characters[left - 1]
        is_inside = number == 0 and len(characters) > MIN_CHARS and character in word
        if word[0] == character or is_inside:
            left -= 1
        elif word not in _SMALL:
            return None
        if left == 0:
            return None if word in _SMALL else found.start()
    return None


def _characters(acronym: str) -> str:
    return "".join(c for c in acronym.lower() if c.isalnum())


def _by_initials(acronym: str, text: str) -> str | None:
    """Return the shortest beginning of a text whose words begin with the letters of the acronym, or None.

    Small words may be passed over. The last character of an acronym of three or more may stand inside the last word,
    whose first letter is then left out (the q of HARQ).
    """
    characters = _characters(acronym)
    may_end_inside = len(characters) > MIN_CHARS
    n = 0
    for found in _WORD.finditer(text):
        word = found[0].lower()
        is_initial = word[0] == characters[n]
        if n == len(characters) - 1 and (is_initial or (may_end_inside and characters[n] in word)):
            expansion = text[: found.end()]
            return expansion if _says_more(expansion, acronym) else None
        if is_initial:
            n += 1
        elif word not in _SMALL:
            return None
    return None


def _says_more(expansion: str, acronym: str) -> bool:
    """Return whether the expansion is longer than the acronym and does not hold it."""
    words = expansion.lower().replace(",", " ").split()
    return len(expansion) > len(acronym) + 1 and acronym.lower() not in words


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).strip(" ,'/&-")


def spelling_key(expansion: str) -> str:
    """Return what the spellings of one expansion have in common: hyphens, spaces and plurals make no difference."""
    return "".join(_singular(word) for word in re.split(r"[ ,'/&-]+", expansion))


def _singular(word: str) -> str:
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith("sses") else word[:-1]


def chosen_spellings(counts: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], str]:
    """Return for each (acronym, expansion) the spelling of the expansion that it is merged under.

    Args:
        counts: How often each was found: the most frequent spelling wins, then the shorter one, then the alphabet.
    """
    best: dict[tuple[str, str], tuple[int, int, str]] = {}
    for (acronym, expansion), n in counts.items():
        key = (acronym, spelling_key(expansion))
        found = (-n, len(expansion), expansion)
        best[key] = min(best.get(key, found), found)
    return {(a, e): best[a, spelling_key(e)][2] for a, e in counts}
