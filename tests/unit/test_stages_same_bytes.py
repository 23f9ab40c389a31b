"""What decides no result changes no byte of it: shards, the order of the file system, hash seeds, locale, threads."""

import os
import random

import pytest

import data_case
import tiny
import tiny_stages
from commbert import tables

SPLITS = tables.SPLITS
SHARDS = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def two_trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    one = data_case.write_tree(folder / "one")
    two = tiny.source_tree(folder / "two", n_directories=4, seed=1)
    (two / "part0" / "copy.py").write_bytes((one / "part3" / "module1.py").read_bytes())
    return one, two


@pytest.fixture(scope="module")
def run_two(tmp_path_factory, two_trees, base_folder):
    """Run the data stages on two sources, in some shards of each: once for each pair of numbers."""
    done = {}

    def run(*shards):
        if shards not in done:
            names = ("one", "two")
            sources = [
                data_case.path_source(tree, name=name, shards=n)
                for tree, name, n in zip(two_trees, names, shards, strict=True)
            ]
            at = tmp_path_factory.mktemp("runs")
            done[shards] = data_case.Chain(tiny_stages.run_data(at, data_case.settings_of(*sources), base_folder))
        return done[shards]

    return run


@pytest.mark.parametrize("shards", SHARDS[1:])
@pytest.mark.parametrize("name", data_case.GATHERED)
def test_the_number_of_shards_changes_no_byte_of_what_is_gathered(run_shards, shards, name):
    assert (run_shards(shards).at / name).read_bytes() == (run_shards(1).at / name).read_bytes()


@pytest.mark.parametrize("shards", SHARDS[1:])
def test_the_number_of_shards_changes_no_window(run_shards, shards):
    one, more = run_shards(1), run_shards(shards)
    for split in SPLITS:
        assert more.windows(split) == one.windows(split)
        lists = (chain.data.window_lists[split] for chain in (one, more))
        assert len({tables.content_digest(path) for path in lists}) == 1


def test_every_split_has_another_content_digest(run_shards):
    assert len({tables.content_digest(run_shards(1).data.window_lists[split]) for split in SPLITS}) == 3


def test_the_list_of_windows_has_one_part_for_each_shard_in_order(run_shards):
    made = run_shards(5)
    for split in SPLITS:
        parts = tables.read_parts(made.data.window_lists[split], tables.WINDOWS)
        assert [part.stem for part in parts] == list(made.data.shards)


@pytest.mark.parametrize("shards", [(2, 1), (1, 3), (5, 2)])
def test_the_shards_of_two_sources_change_no_byte_of_what_is_gathered(run_two, shards):
    one, more = run_two(1, 1), run_two(*shards)
    differing = data_case.differing(data_case.gathered(one.at), data_case.gathered(more.at))
    assert [name for name in differing if name != "pairs/heldout_lines.parquet"] == []
    for split in SPLITS:
        assert more.windows(split) == one.windows(split)
        digests = {tables.content_digest(chain.data.window_lists[split]) for chain in (one, more)}
        assert len(digests) == 1


def test_the_held_out_lines_of_two_sources_do_not_depend_on_their_shards(run_two):
    assert run_two(1, 1).rows("pairs/heldout_lines") == run_two(5, 2).rows("pairs/heldout_lines")


def test_the_same_twice_gives_the_same_bytes_of_every_file(tmp_path, tree, base_folder, run_shards):
    settings = data_case.settings_of(data_case.path_source(tree, shards=3))
    tiny_stages.run_data(tmp_path, settings, base_folder)
    one, two = (
        {p.relative_to(at).as_posix(): p.read_bytes() for p in at.rglob("*") if p.is_file()}
        for at in (tmp_path, run_shards(3).at)
    )
    assert data_case.differing(one, two) == []
    assert len(one) > 60


def test_running_again_over_the_same_folder_changes_no_byte(tmp_path, tree, base_folder):
    settings = data_case.settings_of(data_case.path_source(tree, shards=2))
    before, after = (
        {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        for _ in (0, 1)
        if tiny_stages.run_data(tmp_path, settings, base_folder)
    )
    assert data_case.differing(before, after) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_in_which_the_file_system_lists_names_changes_nothing(tmp_path, tree, run_shards, monkeypatch, seed):
    scandir, rng = os.scandir, random.Random(seed)

    def shuffled(path):
        entries = list(scandir(path))
        rng.shuffle(entries)
        return iter(entries)

    monkeypatch.setattr(os, "scandir", shuffled)
    settings = data_case.settings_of(data_case.path_source(tree, shards=3))
    made = data_case.read_corpus(tmp_path, settings.corpus)
    for name in ("corpus/files.parquet", "corpus/ingest.json", "corpus/shards.json"):
        assert (tmp_path / name).read_bytes() == (run_shards(3).at / name).read_bytes()
    assert made.all_lines() == run_shards(3).all_lines()


def test_where_a_tree_lies_changes_nothing_but_the_digests_of_settings(tmp_path, tree, run_shards):
    (tmp_path / "elsewhere").symlink_to(tree)
    settings = data_case.settings_of(data_case.path_source(tmp_path / "elsewhere", shards=3))
    made = data_case.read_corpus(tmp_path / "out", settings.corpus)
    assert made.rows("corpus/files") == run_shards(3).rows("corpus/files")
    assert made.all_lines() == run_shards(3).all_lines()


def test_dealing_files_instead_of_folders_changes_their_order_and_not_the_digest_of_the_corpus(
    tmp_path, tree, run_shards
):
    settings = data_case.settings_of(data_case.path_source(tree, shards=3, shard_by="file"))
    made = data_case.read_corpus(tmp_path, settings.corpus)
    digests = {chain.summary("corpus/ingest")["corpus_digest"] for chain in (made, run_shards(3))}
    assert len(digests) == 1
    order = [[row["path"] for row in chain.rows("corpus/files")] for chain in (made, run_shards(3))]
    assert order[0] != order[1]
    assert sorted(order[0]) == sorted(order[1])


def test_no_gathered_file_names_the_folder_it_was_made_in(run_shards):
    made = run_shards(3)
    assert [name for name, data in data_case.gathered(made.at).items() if str(made.at).encode() in data] == []


@pytest.mark.slow
def test_hash_seeds_locales_and_threads_change_no_byte_of_any_file(tmp_path, tree, base_folder):
    settings = data_case.settings_of(data_case.path_source(tree, shards=2))
    kinds = {
        "a": ({"PYTHONHASHSEED": "0", "LC_ALL": "C", "POLARS_MAX_THREADS": "1"}, 1),
        "b": ({"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "POLARS_MAX_THREADS": "4"}, 4),
    }
    found = {}
    for name, (environment, threads) in kinds.items():
        at = tmp_path / name
        made = [command for _, command in data_case.commands(at, settings, base_folder, threads=threads)]
        process = data_case.start(made, **environment)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        found[name] = {p.relative_to(at).as_posix(): p.read_bytes() for p in at.rglob("*") if p.is_file()}
    assert data_case.differing(found["a"], found["b"]) == []
