"""Addresses of git repositories: what may be asked, before git sees it."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

_LETTERS = re.compile(r"[A-Za-z0-9._~:/@!$&'()*+,;=%\[\]-]+")
"""Those of RFC 3986 without ``?`` and ``#``: parsers differ in where these end the host."""
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def check_address(url: str, protocols: Collection[str], hosts: Collection[str]) -> str:
    """Return the protocol of an address that the rules allow.

    Raises:
        ValueError: If they do not, or it carries a password, which is not shown.
    """

    def refused(why: str) -> ValueError:
        return ValueError(f"url {_without_secrets(url)!a}: {why}")

    protocol, mark, _ = url.partition("://")
    if not mark or not protocol.isalpha():
        raise refused(
            "expected PROTOCOL://HOST/PATH, as https://github.com/org/name, ssh://git@host/name, file:///name."
        )
    if protocol not in protocols:
        raise refused(f"expected a protocol of {', '.join(protocols)}, found {protocol!a}. See corpus.git.protocols.")
    try:
        parts = urlsplit(url)
        host, user, password, _ = parts.hostname, parts.username, parts.password, parts.port
    except ValueError:
        raise refused("it cannot be read as an address.") from None
    if password is not None or (user is not None and protocol != "ssh"):
        raise refused("expected no user and password in it; use a credential-free address, or ssh with a key.")
    # No blanks, no control characters, no second meaning of the host.
    if not _LETTERS.fullmatch(url) or (user is not None and not _USER.fullmatch(user)):
        raise refused("it holds characters that an address of a repository does not have.")
    if protocol == "file":
        if parts.netloc:
            raise refused("expected file:///PATH without a host.")
    elif host not in hosts:
        raise refused(f"expected a host of {', '.join(hosts)}, found {host!a}. See corpus.git.hosts.")
    return protocol


def _without_secrets(url: str) -> str:
    """Return an address without what stands before its last ``@``, and without its query, where tokens stand."""
    head, mark, rest = url.partition("://")
    text = rest if mark else url
    if "@" in text:
        text = "***@" + text.rpartition("@")[2]
    text = re.sub(r"[?#].*", "?***", text, flags=re.DOTALL)
    return (head + mark if mark else "") + text[:200]
