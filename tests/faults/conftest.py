"""One small pipeline, run once."""

import pytest

import tiny_stages


@pytest.fixture(scope="session")
def stages(tmp_path_factory) -> tiny_stages.Stages:
    return tiny_stages.build(tmp_path_factory.mktemp("stages"))
