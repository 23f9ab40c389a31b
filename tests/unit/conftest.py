"""Small pipelines, each run once."""

import pytest

import data_case
import tiny
import tiny_stages


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    return data_case.write_tree(tmp_path_factory.mktemp("tree") / "tree")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def run_shards(tmp_path_factory, tree, base_folder):
    """Run the data stages on the tree in some number of shards: once for each number."""
    done = {}

    def run(shards):
        if shards not in done:
            settings = data_case.settings_of(data_case.path_source(tree, shards=shards))
            data = tiny_stages.run_data(tmp_path_factory.mktemp(f"shards{shards}"), settings, base_folder)
            done[shards] = data_case.Chain(data)
        return done[shards]

    return run


@pytest.fixture(scope="session")
def chain(run_shards):
    return run_shards(3)
