"""One small pipeline, run once."""

import pytest
import torch

import tiny_stages


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stages(tmp_path_factory) -> tiny_stages.Stages:
    return tiny_stages.build(tmp_path_factory.mktemp("stages"))
