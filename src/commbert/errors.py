"""What can go wrong by a user's doing; each is shown in one or two lines, without a traceback.

A message says where, what was expected, what was found, and what to do.
"""

EXIT_USER_ERROR = 1
"""Exit code for every error below."""

EXIT_UNEXPECTED = 70
"""Exit code for what nobody foresaw: a bug, a driver's error; its traceback is in the log (EX_SOFTWARE)."""

EXIT_STOPPED = 75
"""Exit code of a training that was asked to stop, saved its state, and can be resumed (EX_TEMPFAIL)."""

EXIT_PEER_LOST = 76
"""Exit code of a training process that ends because another one did; the other one says why."""


def printable(text: str) -> str:
    """Return text with control characters shown, not sent to the terminal; lines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


class CommbertError(Exception):
    """Root of all errors that are shown to a user as a message."""


class SettingsError(CommbertError):
    """A setting is unknown, mistyped, out of range or contradicts another one."""


class BusyError(CommbertError):
    """Another process works where this one would."""


class SourceError(CommbertError):
    """A source of text or a base model is missing, changed, or holds nothing usable."""


class DataError(CommbertError):
    """A table or a corpus cannot serve its purpose (empty, damaged, of another schema)."""


class ModelError(CommbertError):
    """A model or tokenizer folder is incomplete, unsafe, or does not fit its companion."""


class TrainingError(CommbertError):
    """Training cannot start or must not go on."""


class PeerLostError(TrainingError):
    """Another training process has ended; the connection to it broke."""


class ArtifactError(CommbertError):
    """A file or folder cannot be written whole, or is not what its manifest says."""
