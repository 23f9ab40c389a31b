"""Names of files as data: where they may not point, and how bytes that are no text are shown."""

import re

UNSAFE = "unsafe name"
STANDS_TWICE = "name stands twice"
_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_NAME_CHARS = 4096
"""Linux' PATH_MAX: no file system gives out longer ones, so an archive that holds one was made by hand."""
_SHOWN_CHARS = 200


def shown(name: str) -> str:
    r"""Return a name with bytes that are no UTF-8 (surrogates, to Python) as ``\xNN``."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def inner_name(raw: str, *, with_backslash: bool = False) -> tuple[str, str]:
    """Return a name inside an archive or tree as it is shown, and the reason why it is refused, if it is.

    ``./`` at the start and doubled slashes are dropped, as every reader of archives does.

    Args:
        raw: The name as it stands there; bytes that are no UTF-8 as surrogates.
        with_backslash: Whether a backslash and a colon are letters like others, as in git and on Linux.
    """
    if len(raw) > _MAX_NAME_CHARS:
        return shown(raw[:_SHOWN_CHARS]) + "...", UNSAFE
    parts = raw.split("/")
    unsafe = not raw or raw.startswith("/") or raw.endswith("/") or ".." in parts or "\0" in raw
    if not with_backslash:
        unsafe = unsafe or "\\" in raw or bool(_DRIVE.match(raw))
    if unsafe:
        return shown(raw), UNSAFE
    name = "/".join(part for part in parts if part not in ("", "."))
    return (shown(name), "") if name else (shown(raw), UNSAFE)
