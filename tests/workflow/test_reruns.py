"""What runs again when what changes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from workflow_case import snakemake, tiny_config, write_config

pytestmark = pytest.mark.slow  # they share one run of the whole workflow, a minute and a half

REPORT = {"report_run", "release_run"}
AFTER_EVALUATION = {"evaluate_run", *REPORT}
AFTER_AVERAGE = {"explore_run", *AFTER_EVALUATION}
AFTER_TRAINING = {"average_run", "compare_run", *AFTER_AVERAGE}
AFTER_MODEL = {"train_run", *AFTER_TRAINING}
BESIDE = {"evaluate_base", "evaluate_vectors", "evaluate_frequency"}
AFTER_WINDOWS = {*AFTER_MODEL, *BESIDE}
WINDOWS = {"windows", "list_windows", *AFTER_WINDOWS}
AFTER_TOKENIZER = {*WINDOWS, "pairs", "texts", "model", "baseline"}
AFTER_WORDS = {"tokenizer", "draw", *AFTER_TOKENIZER}
TEXTS = {"acronyms", "functions"}
AFTER_CORPUS = {"words", *TEXTS, *AFTER_WORDS}
AFTER_INGEST = {"corpus", "lex", *AFTER_CORPUS}
DATA = {"ingest", "lex", "corpus", "words", "tokenizer", "windows", "list_windows", "draw", "pairs"}


def deep_set(config: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        config = config.setdefault(key, {})
    config[last] = value


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    write_config(folder, config)


MATRIX = [
    ("corpus.max_line_chars", 500, {"ingest", *AFTER_INGEST}),
    ("corpus.redact_secrets", False, {"ingest", *AFTER_INGEST}),
    ("corpus.split.seed", 3, {"corpus", *AFTER_CORPUS}),
    ("corpus.near_duplicates", 0.8, {"corpus", *AFTER_CORPUS}),
    ("corpus.git.hosts", ["example.org"], REPORT),
    ("words.min_chars", 3, {"lex", "words", *AFTER_WORDS}),
    ("words.english_words", 9000, {"words", *AFTER_WORDS}),
    ("tokenizer.max_new_words", 5, {"tokenizer", *AFTER_TOKENIZER}),
    ("windows.stride", 2, WINDOWS),
    ("texts.max_tokens", 50, {"texts", *AFTER_MODEL}),
    ("pairs.english_negatives", 2, {"draw", "pairs", "baseline", *AFTER_WINDOWS}),
    ("model.embedding_init", "normal", {"model", *AFTER_MODEL}),
    ("model.average_with_base", 0.3, AFTER_TRAINING),
    ("training.max_steps", 5, AFTER_MODEL),
    ("training.validate_every_steps", "epoch", AFTER_MODEL),
    ("evaluation.windows", 21, {*BESIDE, *AFTER_EVALUATION}),
    ("evaluation.bootstrap", 101, {*BESIDE, "compare_run", *AFTER_EVALUATION}),
    ("evaluation.questions", None, REPORT),
    ("evaluation.telling_words", ["harq"], {*BESIDE, *AFTER_AVERAGE}),
    ("explore.neighbours", 9, {"explore_run", *REPORT}),
    ("sweep.seeds", [1], set()),
    # The run that was a column of another one now has a report of its own.
    ("report.compare_with", ["base"], {"explore_run", "compare_run", *REPORT}),
    ("runtime.processes", 2, set()),
    ("runtime.checkpoint_every_s", 5.0, set()),
]


@pytest.mark.parametrize(("setting", "value", "expected"), MATRIX, ids=[row[0] for row in MATRIX])
def test_a_changed_setting_reruns_its_stage_and_what_follows(
    run_copy: Path, plan: Callable[..., set[str]], setting: str, value: Any, expected: set[str]
) -> None:
    change_config(run_copy, lambda config: deep_set(config, setting, value))
    assert plan(run_copy) == expected


def test_an_unchanged_repeat_does_nothing(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    assert plan(run_copy) == set()


def test_touched_sources_rerun_nothing(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    for path in Path(config["corpus"]["sources"][0]["path"]).rglob("*.py"):
        path.touch()
    assert plan(run_copy) == set()


def test_a_changed_run_leaves_the_other_runs_alone(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    path = run_copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["runs"]["third"] = {"training": {"max_steps": 2}}
    path.write_text(yaml.safe_dump(config))
    before = plan(run_copy, targets=("results/runs/final/evaluation.json", "results/runs/other/evaluation.json"))
    assert before == set()
    assert plan(run_copy) == {"model", *AFTER_MODEL}


def test_a_run_with_its_own_tokenizer_leaves_the_shared_tables_alone(
    run_copy: Path, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    change_config(run_copy, lambda config: config["runs"].update({"keep": {"tokenizer": {"mode": "keep"}}}))
    jobs = plan_jobs(run_copy)
    assert {rule for rule, _ in jobs} == {
        "tokenizer",
        "windows",
        "list_windows",
        "draw",
        "pairs",
        "texts",
        "model",
        *AFTER_MODEL,
    }
    assert all(wildcards.startswith(("/variants/tokenizer-", "keep")) for _, wildcards in jobs)


def test_an_edited_source_reruns_the_ingestion(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    path = run_copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["corpus"]["sources"][0]["path"] = "tree"
    path.write_text(yaml.safe_dump(config))
    assert snakemake(run_copy, "data").returncode == 0
    assert "ingest" not in plan(run_copy, targets=("data",))
    with (run_copy / "tree" / "part0" / "module0.py").open("a") as file:
        file.write("harq_extra = rlc_extra\n")
    assert plan(run_copy, targets=("data",)) == DATA


@pytest.mark.parametrize(("setting", "value"), [("shards", 2), ("shard_by", "file"), ("exclude", ["*.txt"])])
def test_another_way_to_deal_a_source_reads_it_anew(
    run_copy: Path, plan: Callable[..., set[str]], setting: str, value: Any
) -> None:
    change_config(run_copy, lambda config: config["corpus"]["sources"][0].update({setting: value}))
    assert plan(run_copy, targets=("data",)) == DATA


def test_a_new_source_is_read_and_the_shards_of_the_others_are_not(
    run_copy: Path, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    tiny.source_tree(run_copy / "more", n_directories=2, seed=5)
    source = {"kind": "path", "name": "more", "path": str(run_copy / "more"), "shards": 2}
    change_config(run_copy, lambda config: config["corpus"]["sources"].append(source))
    jobs = plan_jobs(run_copy)
    new = {"more-00000-of-00002", "more-00001-of-00002"}
    of_rule = {rule: {wildcards for name, wildcards in jobs if name == rule} for rule, _ in jobs}
    assert of_rule["ingest"] == of_rule["lex"] == new
    # Of the shared tables: their variant, which has no name, stands before the shard.
    assert of_rule["windows"] == of_rule["draw"] == {f" {shard}" for shard in ("tree-00000-of-00001", *new)}
    assert set(of_rule) == {"ingest", *AFTER_INGEST}


def test_a_source_that_is_taken_away_is_gathered_without_and_nothing_is_read(
    run_copy: Path, plan: Callable[..., set[str]]
) -> None:
    tiny.source_tree(run_copy / "more", n_directories=2, seed=5)
    shard = "results/shards/more-00000-of-00001"
    source = {"kind": "path", "name": "more", "path": str(run_copy / "more")}
    before = (run_copy / "config.yaml").read_text()
    change_config(run_copy, lambda config: config["corpus"]["sources"].append(source))
    assert snakemake(run_copy, f"{shard}/files.parquet", "results/corpus/files.parquet").returncode == 0
    (run_copy / "config.yaml").write_text(before)
    assert plan(run_copy) == {"corpus", *AFTER_CORPUS}


FOUR = [f"tree-0000{i}-of-00004" for i in range(4)]


@pytest.fixture(scope="module")
def four_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a source of four shards has been read, and nothing more."""
    folder = tmp_path_factory.mktemp("four")
    tiny.source_tree(folder / "tree", n_directories=12)
    tiny.write_base_model(folder / "base_model")
    config = tiny_config(folder)
    config["corpus"]["sources"][0] |= {"path": "tree", "shards": 4}
    write_config(folder, config)
    done = snakemake(folder, *(f"results/shards/{shard}/files.parquet" for shard in FOUR))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def shards_read(folder: Path, plan_jobs: Callable[..., set[tuple[str, str]]]) -> set[str]:
    jobs = plan_jobs(folder, targets=tuple(f"results/shards/{shard}/files.parquet" for shard in FOUR))
    assert {rule for rule, _ in jobs} <= {"ingest"}
    return {shard for _, shard in jobs}


def shard_of(folder: Path, name: str) -> str:
    from commbert import tables

    held = {
        shard: tables.read(folder / f"results/shards/{shard}/files.parquet", tables.SHARD_FILES, ["path"])["path"]
        for shard in FOUR
    }
    [shard] = [shard for shard, paths in held.items() if name in paths.to_pylist()]
    return shard


def test_a_changed_file_rereads_its_shard_alone(
    four_shards: Path, tmp_path: Path, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    folder = shutil.copytree(four_shards, tmp_path / "copy")
    assert shards_read(folder, plan_jobs) == set()
    for name in ("part0/module0.py", "part5/module1.py"):
        text = (folder / "tree" / name).read_text()
        (folder / "tree" / name).write_text(text + "harq_extra = rlc_extra\n")
        assert shards_read(folder, plan_jobs) == {shard_of(folder, name)}
        (folder / "tree" / name).write_text(text)
        assert shards_read(folder, plan_jobs) == set()


@pytest.mark.parametrize("name", ["part3/new.py", "part7/module0.py"], ids=["new", "gone"])
def test_a_file_that_comes_or_goes_rereads_the_shard_of_its_folder_alone(
    four_shards: Path, tmp_path: Path, plan_jobs: Callable[..., set[tuple[str, str]]], name: str
) -> None:
    folder = shutil.copytree(four_shards, tmp_path / "copy")
    beside = shard_of(folder, f"{Path(name).parent}/module1.py")
    path = folder / "tree" / name
    if path.exists():
        path.unlink()
    else:
        path.write_text("harq_new = rlc_new\n")
    assert shards_read(folder, plan_jobs) == {beside}


def test_a_file_that_no_pattern_selects_rereads_nothing(
    four_shards: Path, tmp_path: Path, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    folder = shutil.copytree(four_shards, tmp_path / "copy")
    change_config(folder, lambda config: config["corpus"]["sources"][0].update({"include": ["*.py"]}))
    assert shards_read(folder, plan_jobs) == set(FOUR)
    assert snakemake(folder, *(f"results/shards/{shard}/files.parquet" for shard in FOUR)).returncode == 0
    (folder / "tree" / "part0" / "notes.md").write_text("new")
    assert shards_read(folder, plan_jobs) == set()


def test_forcing_a_stage_reruns_what_follows(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    assert plan(run_copy, forced=("pairs",)) == {"pairs", *AFTER_WINDOWS}


def test_only_runs_that_read_texts_wait_for_them(
    run_copy: Path, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    jobs = plan_jobs(run_copy, forced=("texts",))
    assert {wildcards for rule, wildcards in jobs if rule == "train_run"} == {"final"}
    assert (run_copy / "results/texts/pairs.parquet").exists()


def test_a_deleted_intermediate_file_reruns_nothing(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    (run_copy / "results/windows/validation/tree-00000-of-00001.parquet").unlink()
    assert plan(run_copy) == set()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("data", {"base", *DATA}),
        ("train", {"base", *DATA, *TEXTS, "texts", "model", "train_run", "average_run"}),
        (
            "reports/final_training_report.md",
            {"base", *DATA, "texts", "model", "baseline", *TEXTS, *AFTER_WINDOWS} - {"release_run", "compare_run"},
        ),
    ],
)
def test_a_target_plans_its_stages_from_nothing(
    run_copy: Path, tmp_path: Path, plan: Callable[..., set[str]], target: str, expected: set[str]
) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "config.yaml").write_text((run_copy / "config.yaml").read_text())
    assert plan(fresh, targets=(target,)) == expected
