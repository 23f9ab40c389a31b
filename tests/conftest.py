"""How the tests are shared out: a file stays with one process, and all tests of the whole run with one."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Session fixtures (a whole run, two processes, a fresh interpreter) are made once, not once per worker.
        group = "workflow" if "workflow" in item.path.parts else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
