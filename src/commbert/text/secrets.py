"""Secrets in source text: keys, tokens and passwords, replaced before anything learns them.

Forms that are known (a cloud provider's key, a private key block, a password in a URL) are found by their marks; other
secrets by the name that they are assigned to, or by looking like random text. A password that is an ordinary word is
found by its name only, and one that stands in no quotes not at all.

Each rule has marks, looked for first: a text without them costs one fast search a mark. All patterns begin with a fixed
text, are bounded or possessive, and take no start inside of a run they have read: their time grows with the text only.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

REDACTED = "********"

_SUSPICIOUS = (
    # The marks of the rules, with what makes a password of a URL.
    r"PRIVATE KEY|A[KS]IA|gh[pousr]_|github_pat_|glpat-|xox|AIza|k_live_|sk-|npm_|pypi-|eyJ|earer "
    r"|://[^\s/:@\x22'<>]{0,128}:[^\s/@\x22'<>]{3}",
    # A long literal; and one that a name of a secret stands before.
    r"[\x22'][^\s\x22'\\]{40}",
    r"(?i:pass|pwd|secret|token|key)[^\n]{0,60}[\x22'][^\s\x22'\\]{8}",
)
"""What every text with a secret matches, in the syntax of Rust's regex crate: a tenth of the time of ``redacted``."""


def suspects(texts: Sequence[str]) -> list[bool]:
    """Return which texts may hold a secret; ``redacted`` finds none in the others."""
    series = pl.Series(texts, dtype=pl.String)
    found = [series.str.contains(pattern) for pattern in _SUSPICIOUS]
    return (found[0] | found[1] | found[2]).to_list()


def redacted(text: str) -> tuple[str, dict[str, int]]:
    """Return the text with each secret replaced by eight asterisks, and how many were found of each kind.

    The number of lines stays. Of a private key block every line of the body is replaced.
    """
    counts: dict[str, int] = {}
    for rule in _RULES:
        if any(mark in text for mark in rule.marks):
            text = rule.apply(text, counts)
    return _LITERALS.apply(text, counts), counts


@dataclass(frozen=True)
class _Rule:
    """A form of secrets; the group ``secret`` of the pattern is what is replaced."""

    marks: tuple[str, ...]
    """A text that holds none of these has no such secret."""
    pattern: re.Pattern[str]
    kind_of: Callable[[re.Match[str]], str]
    """Name of the kind of secret, or nothing if it is none."""
    replacement: Callable[[str], str] = lambda _: REDACTED

    def apply(self, text: str, counts: dict[str, int]) -> str:
        """Return the text without the secrets of this rule, and count them."""
        parts: list[str] = []
        end = 0
        for m in self.pattern.finditer(text):
            if kind := self.kind_of(m):
                start, stop = m.span("secret")
                parts += (text[end:start], self.replacement(m["secret"]))
                end = stop
                counts[kind] = counts.get(kind, 0) + 1
        return "".join([*parts, text[end:]]) if parts else text


# -- Is it random, is it a placeholder ---------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(
    r"\A[*x.?_#-]+\Z|[<>(){}]|\A[$%/]|%[sd]|\*\*\*|://|xxxx|change[-_ ]?(?:me|it)|example|placeholder|\byour|"
    r"redacted|dummy|insert|replace",
    re.IGNORECASE,
)
_NOT_LETTER = re.compile(r"[\W\d_]+")
_NAMES = frozenset(
    ["password", "passwd", "passphrase", "pwd", "secret", "token", "key", "apikey", "accesskey", "privatekey"]
)
_ALPHABETS = re.compile(r"abcdefg|ABCDEFG|0123456|9876543|(.)\1{7}")


def _has_mixed_characters(secret: str) -> bool:
    """Return whether there are digits, lower-case and upper-case letters."""
    return any(c.isdigit() for c in secret) and secret.lower() != secret != secret.upper()


def _entropy_bits(secret: str) -> float:
    """Return the entropy of the characters, in bits per character (Shannon 1948, eq. 4)."""
    n = len(secret)
    return -sum(k / n * math.log2(k / n) for k in Counter(secret).values())


def _is_token(secret: str) -> bool:
    return _has_mixed_characters(secret) and not _PLACEHOLDER.search(secret)


def _has_digit(secret: str) -> bool:
    return any(c.isdigit() for c in secret) and not _PLACEHOLDER.search(secret)


def _is_password(secret: str) -> bool:
    return not re.search(r"[<>(){}$%*\[\]]|\Ax+\Z", secret)


# -- Literals ----------------------------------------------------------------------------------------------------------

_LITERAL = re.compile(r"[\"'](?P<secret>[^\s\"'\\]{8,}+)(?=[\"'])")
_BASE64 = re.compile(r"[\w+/-]{40,}+={0,2}", re.ASCII)
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{64,}+")
_WORD = re.compile(r"[a-z]{3,}")


def _kind_of_literal(m: re.Match[str]) -> str:
    """Return the kind of secret that a string without spaces is, by the name before it or by its look."""
    secret = m["secret"]
    if len(secret) >= 40:
        if _HEX.fullmatch(secret):
            return "random hex" if _is_random_hex(secret[:400]) else ""
        if _BASE64.fullmatch(secret) and _is_random_base64(secret[:400].rstrip("=")):
            return "random base64"
    return "named secret" if len(secret) <= 200 and _is_named_secret(m.string, m.start(), secret) else ""


def _is_random_base64(text: str) -> bool:
    # 40 random characters of base64 have 4.9 +- 0.1 bits each, names and paths about 4; and a sixth of them stands in
    # runs of three and more small letters, of names and paths more than half.
    in_words = sum(map(len, _WORD.findall(text)))
    bits = _entropy_bits(text)
    is_random = bits > 4.4 and (in_words < 0.4 * len(text) or bits > 4.75)
    return is_random and _has_mixed_characters(text) and not _ALPHABETS.search(text)


def _is_random_hex(text: str) -> bool:
    # 64 random digits have 3.8 bits each; counted and repeated ones are no keys.
    return _entropy_bits(text.lower()) > 3.2 and not _ALPHABETS.search(text)


_WORDS = "password|passwd|passphrase|pwd|secret|token|api_?key|access_?key|private_?key|secret_?key|auth_?key"
_NAME_AT_END = re.compile(
    rf"(?:{_WORDS})_?\d*\s*(?:[\"'\]]|\[\w*\])*\s*(?::\s*[\w.\[\] |*]+)?[=:]\Z|\#\s*define\s+\w*(?:{_WORDS})_?\d*\Z"
)
_COMPARISON = re.compile(r"[=!<>]=\Z")
_NAME_CHARS = 60
_PREFIXES = frozenset("rbuLf")


def _is_named_secret(text: str, quote_at: int, secret: str) -> bool:
    """Return whether a literal is assigned to a name of a secret, and may be one itself."""
    before = text[max(0, quote_at - _NAME_CHARS) : quote_at].rpartition("\n")[2]
    if before[-1:] in _PREFIXES:
        before = before[:-1]  # b"..."
    before = before.rstrip(" \t")
    if before[-1:] not in {"=", ":"} and "define" not in before:
        return False
    before = before.lower()
    return _NAME_AT_END.search(before) is not None and not _COMPARISON.search(before) and _may_be_secret(secret, before)


def _may_be_secret(secret: str, name: str) -> bool:
    if _PLACEHOLDER.search(secret) or _NOT_LETTER.sub("", secret.lower()) in _NAMES:
        return False
    if any(c.isdigit() for c in secret):
        return True
    # Without a digit most values are words: a kind of token, the name of a field. Those of a password may be weak ones.
    return "pass" in name and secret.isalpha() and secret.islower()


# -- Private keys ------------------------------------------------------------------------------------------------------

_KEY_TEXT = re.compile(r"(?P<escape>\\[nrt])|[A-Za-z0-9+/=][A-Za-z0-9+/=:,-]+")
_KEY_RUN = re.compile(r"[A-Za-z0-9+/=]{16,}")


def _kind_of_block(m: re.Match[str]) -> str:
    # Code may stand between two marks that it only compares with: a key is long runs of base64 for the most part.
    runs = _KEY_RUN.findall(m["secret"])
    is_key = any(len(run) >= 40 and _has_mixed_characters(run) for run in runs)
    return "private key" if is_key and 2 * sum(map(len, runs)) > len("".join(m["secret"].split())) else ""


def _without_key(body: str) -> str:
    """Replace the runs of letters in the body of a key; line breaks, quotes and escapes of a literal stay."""
    return _KEY_TEXT.sub(lambda m: m["escape"] or REDACTED, body)


# A block without an end is cut at the first line that is no base64.
_PRIVATE_KEY = re.compile(
    r"PRIVATE KEY(?: BLOCK)?-----(?:(?=[^-]*+(?:-(?!----)[^-]*+)*+-----END)(?P<closed>)|)"
    r"(?P<secret>(?(closed)[^-]*+(?:-(?!----)[^-]*+)*+|(?:\\[nr]|[\s\"',+;])*+(?:[A-Za-z0-9+/=]{20,}+(?:\\[nr]|[\s\"',+;])*+)*+"
    r"(?:[A-Za-z0-9+/=]++(?=(?:\\[nr]|[\t \"',+;])*+(?:\n|\Z)))?))"  # the last line may be short
)


# -- The rules ---------------------------------------------------------------------------------------------------------


def _token(start: str, rest: str) -> re.Pattern[str]:
    """Return the pattern of a token with a known beginning; none begins or ends inside of a longer word."""
    return re.compile(rf"(?P<secret>{start}(?<![\w-]{start}){rest})(?![\w-])", re.ASCII)


def _rule(kind: str, marks: str, pattern: re.Pattern[str], is_secret: Callable[[str], bool] = lambda _: True) -> _Rule:
    return _Rule(tuple(marks.split()), pattern, lambda m: kind if is_secret(m["secret"]) else "")


_RULES = (
    _Rule(("PRIVATE KEY",), _PRIVATE_KEY, _kind_of_block, _without_key),
    _rule("AWS key", "AKIA ASIA", _token("A[KS]IA", r"[A-Z0-9]{16}")),
    _rule("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", _token("gh[pousr]_", r"[A-Za-z0-9]{36,255}+")),
    _rule("GitHub token", "github_pat_", _token("github_pat_", r"\w{22,255}+")),
    _rule("GitLab token", "glpat-", _token("glpat-", r"[\w.-]{20,255}+")),
    _rule("Slack token", "xox", _token("xox[abprs]-", r"[A-Za-z0-9-]{10,255}+"), _has_digit),
    _rule("Google key", "AIza", _token("AIza", r"[\w-]{35}")),
    _rule("Stripe key", "k_live_", _token("[sr]k_live_", r"[A-Za-z0-9]{16,255}+")),
    _rule("model provider key", "sk-", _token("sk-", r"[\w-]{20,255}+"), _is_token),
    _rule("npm token", "npm_", _token("npm_", r"[A-Za-z0-9]{36}"), _is_token),
    _rule("PyPI token", "pypi-", _token("pypi-", r"[\w-]{50,1000}+"), _is_token),
    _rule("JSON web token", "eyJ", _token("eyJ", r"[\w-]{8,4000}+\.[\w-]{8,4000}+\.[\w-]{8,4000}+")),
    _rule(
        "password in a URL",
        "://",
        re.compile(r"://[^\s/:@\"'<>]{0,128}+:(?P<secret>[^\s/@\"'<>]{3,128}+)@"),
        _is_password,
    ),
    _rule("bearer token", "earer", re.compile(r"earer[ ]{1,4}+(?P<secret>[\w.~+/-]{16,4000}+=*+)"), _has_digit),
)
_LITERALS = _Rule((), _LITERAL, _kind_of_literal)
