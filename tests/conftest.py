"""What holds for every test."""

import logging

import pytest


@pytest.fixture(autouse=True)
def _messages_as_before():
    """A command sets up its messages for its process; the next test in this one begins without that."""
    logger = logging.getLogger("commbert")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
