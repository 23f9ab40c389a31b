"""How a test runs the command, and what a refusal looks like."""

import contextlib
import io
import logging
import subprocess
import sys

import pytest

from commbert import cli


def commbert(*args, prefix=(), **options):
    """Run the command; in a process of its own where the test asks for one by its options, else in this one."""
    command = ["-m", "commbert", *map(str, args)]
    if prefix or options:
        command = [*prefix, sys.executable, *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
    logger, stderr, argv = logging.getLogger("commbert"), io.StringIO(), sys.argv
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers = []
    try:
        sys.argv = command[1:]
        with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = argv
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.level, logger.propagate = before
    return subprocess.CompletedProcess(command, ended.value.code, "", stderr.getvalue())


def assert_refused(done, out, *expected):
    """Exit code 1, a message that names what is wrong, no traceback, and no output."""
    assert done.returncode == 1, done.stderr
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected error" not in done.stderr
    assert not out.exists() or [p for p in out.rglob("*") if p.is_file()] == []
