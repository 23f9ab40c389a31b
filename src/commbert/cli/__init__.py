"""The ``commbert`` command: one subcommand per stage. Stages are imported when called, so that each starts fast."""

import errno
import logging
import os
import sys
from pathlib import Path

from commbert.artifacts import free_gib
from commbert.cli import ask as _ask
from commbert.cli import choose as _choose
from commbert.cli import compare as _compare
from commbert.cli import data as _data
from commbert.cli import encode as _encode
from commbert.cli import explore as _explore
from commbert.cli import finetune as _finetune
from commbert.cli import inspect as _inspect
from commbert.cli import release as _release
from commbert.cli import runs as _runs
from commbert.cli import shell as _shell
from commbert.cli import texts as _texts
from commbert.cli import watch as _watch
from commbert.cli.options import app, set_up_logging
from commbert.errors import EXIT_PEER_LOST, EXIT_UNEXPECTED, EXIT_USER_ERROR, CommbertError, PeerLostError
from commbert.training.launch import LAUNCHED

__all__ = ["app", "main"]

_log = logging.getLogger("commbert")
_COMMANDS = (
    _data,
    _texts,
    _runs,
    _explore,
    _finetune,
    _release,
    _inspect,
    _watch,
    _ask,
    _choose,
    _compare,
    _encode,
    _shell,
)
"""Importing them registers their subcommands."""


def main() -> None:
    """Run the command line; a user's mistake ends in one message and exit code 1, without a traceback."""
    if not logging.getLogger("commbert").handlers:
        set_up_logging(None)
    try:
        app()
    except PeerLostError as error:
        # Started by our launcher, the process whose fault it is says so, and this one is silent.
        _log.log(logging.DEBUG if LAUNCHED in os.environ else logging.ERROR, "error: %s", error)
        sys.exit(EXIT_PEER_LOST)
    except CommbertError as error:
        _log.error("error: %s", error)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            # Files of ours name themselves (commbert.artifacts): it is where the output of this process goes.
            _log.error("error: standard output or log: %s. Make room and run again.", error.strerror)
            sys.exit(EXIT_USER_ERROR)
        if error.filename is None:
            _log.exception("unexpected error")
            sys.exit(EXIT_UNEXPECTED)
        where = Path(os.fsdecode(error.filename))
        _log.error("error: %s: %s (%.2f GiB free on that disk).", where, error.strerror, free_gib(where.absolute()))
        sys.exit(EXIT_USER_ERROR)
    except Exception:
        # A bug of ours: the traceback belongs in the log, next to the stage that hit it.
        _log.exception("unexpected error; please report it")
        sys.exit(EXIT_UNEXPECTED)
