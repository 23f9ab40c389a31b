"""What holds for every test."""

import logging
import os

import pytest


@pytest.fixture(autouse=True)
def _messages_as_before():
    """A command sets up its messages for its process; the next test in this one begins without that."""
    logger = logging.getLogger("commbert")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(autouse=True)
def _environment_as_before():
    """A command tells libraries how many threads they may start; what the next test starts does not inherit that."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name != "PYTEST_CURRENT_TEST"})
