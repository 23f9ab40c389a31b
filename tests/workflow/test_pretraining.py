"""From nothing: a vocabulary, a pretraining, a joint run that starts from it; in one call, and one after the other."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM, BertForPreTraining

from commbert.artifacts import read_manifest
from commbert.nn.model import load_bert
from commbert.settings.base import merged
from workflow_case import REPO, snakemake, tiny_config, write_config, write_tree

Plan = Callable[..., set[tuple[str, str]]]
SIZES = {"layers": 2, "heads": 2, "hidden_size": 16, "feed_forward": 32, "positions": 64}
MLM = {"objectives": {"mlm": 1.0, "contrastive": 0.0}, "best_metric": "mlm_loss", "batch_texts": 0}


def config_of(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {
        "tokenizer": {"mode": "train", "vocabulary_size": 250},
        "texts": {"max_tokens": 60},
        "report": {"compare_with": ["untrained", "pretrain"]},
        "runs": {
            "pretrain": {"training": MLM},
            "final": {"model": {"start": "pretrain", "average_with_base": 0.2}},
        },
    }
    config = {k: v for k, v in tiny_config(folder).items() if k not in ("runs", "report", "tokenizer")}
    config["model"] = {"base": {"kind": "scratch", **SIZES}}
    return merged(merged(config, own), changes)


@pytest.fixture
def planned(tmp_path: Path, plan_jobs: Plan) -> Callable[..., dict[str, set[str]]]:
    """Return a function that plans targets in an empty folder: the wildcards of the jobs of each rule."""

    def jobs(*targets: str, **changes: Any) -> dict[str, set[str]]:
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / "a.py").write_text("harq = rlc\n")
        write_config(tmp_path, config_of(tmp_path, **changes))
        found: dict[str, set[str]] = {}
        for rule, wildcards in plan_jobs(tmp_path, targets=targets):
            found.setdefault(rule, set()).add(wildcards)
        return found

    return jobs


def test_without_a_base_none_is_fetched_and_everything_else_is_made(planned: Any) -> None:
    jobs = planned()
    assert "base" not in jobs
    assert jobs["model"] == jobs["train_run"] == jobs["average_run"] == {"pretrain", "final"}
    assert jobs["evaluate_base"] == {"evaluation"}
    assert jobs["report_run"] == jobs["explore_run"] == jobs["release_run"] == {"final"}


def test_the_start_of_a_chain_needs_nothing_of_what_follows(planned: Any) -> None:
    jobs = planned("results/runs/pretrain/training.json")
    assert jobs["train_run"] == jobs["model"] == {"pretrain"}


def test_another_seed_of_the_following_run_pretrains_nothing_anew(planned: Any) -> None:
    jobs = planned("results/runs/final@3/training.json")
    assert jobs["train_run"] == {"pretrain", "final@3"}
    assert jobs["model"] == {"pretrain", "final"}


def test_a_sweep_of_models_drawn_anew_is_measured_against_the_untrained_one(planned: Any) -> None:
    jobs = planned("sweep", sweep={"seeds": [17], "averages": []})
    assert jobs["evaluate_base"] == {"validation"}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "pretrain-smoke",
            ['"heads":4,"hidden_dropout":0.1,"hidden_size":256', '"lines_after":6,"lines_before":0', "--lower-case"],
        ),
        (
            "pretrain-base",
            [
                '"feed_forward":3072,"heads":12,"hidden_dropout":0.1,"hidden_size":768,"initializer_range":0.02',
                '"kind":"scratch","layers":12,"positions":512',
                '"vocabulary_size":30522',
                '"learning_rate":0.0001',
                '"warmup_fraction":0.01',
                '"weight_decay":0.01',
                '"batch_windows":256',
                '"max_steps":1000000',
            ],
        ),
    ],
)
def test_a_preset_plans_the_chain(tmp_path: Path, preset: str, expected: list[str]) -> None:
    (tmp_path / "config.yaml").write_bytes((REPO / "config.yaml").read_bytes())
    files = ("config.yaml", str(REPO / "resources" / "presets" / f"{preset}.yaml"))
    done = snakemake(tmp_path, "-n", "-p", "--configfile", *files)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for text in [*expected, '"contrastive":0.0', "--base results/runs/pretrain/final", "results/runs/final/final"]:
        assert text in said, text
    assert not re.search(r"results/base\b", said)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole chain has run, in one call."""
    folder = tmp_path_factory.mktemp("chain")
    write_tree(folder / "tree")
    write_config(folder, config_of(folder))
    done = snakemake(folder, "all", "reports/pretrain_training_report.md")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


@pytest.mark.slow
def test_the_joint_run_starts_where_the_pretraining_ended(chain: Path) -> None:
    runs = chain / "results" / "runs"
    one, two = (load_bert(folder).state_dict() for folder in (runs / "pretrain/final", runs / "final/start"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    trained = load_bert(runs / "final/trained/final").state_dict()
    averaged = load_bert(runs / "final/final").state_dict()
    name = "position_embeddings.weight"
    assert not torch.equal(trained[name], one[name])
    assert torch.allclose(averaged[name], 0.8 * trained[name] + 0.2 * one[name], atol=1e-6)


@pytest.mark.slow
def test_the_reports_name_what_training_started_from(chain: Path) -> None:
    report = json.loads((chain / "reports/final_training_report.json").read_text())
    assert report["columns"] == ["final", "untrained", "pretrain"]
    text = (chain / "reports/final_training_report.md").read_text()
    assert "The vocabulary was learnt from the training split" in text
    assert "base model" not in (chain / "reports/final_neighbours.html").read_text()
    assert "run pretrain" in (chain / "reports/final_neighbours.html").read_text()
    assert (
        "Base model: run pretrain of the same configuration"
        in (chain / "results/runs/final/final/README.md").read_text()
    )
    assert (
        "Base model: none, all weights were drawn anew" in (chain / "results/runs/pretrain/final/README.md").read_text()
    )
    assert "Base model: run pretrain" in (chain / "results/runs/final/release/README.md").read_text()
    evaluation = json.loads((chain / "results/baselines/untrained/evaluation.json").read_text())
    assert evaluation["mlm_reason"] == "the model has no trained MLM head"


@pytest.mark.slow
def test_a_pretrained_folder_loads_whole_everywhere(chain: Path) -> None:
    folder = str(chain / "results/runs/pretrain/final")
    for kind in (BertForPreTraining, BertForMaskedLM, AutoModel):
        _, info = kind.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 64


@pytest.mark.slow
def test_a_finished_chain_repeats_nothing_and_a_longer_joint_run_pretrains_nothing(
    chain: Path, tmp_path: Path, plan_jobs: Plan
) -> None:
    folder = shutil.copytree(chain, tmp_path / "copy", symlinks=True)
    assert plan_jobs(folder) == set()
    config = config_of(chain)
    config["runs"]["final"]["training"] = {"max_steps": 5}
    write_config(folder, config)
    assert {wildcards for rule, wildcards in plan_jobs(folder) if rule == "train_run"} == {"final"}
    config = config_of(chain)
    config["runs"]["pretrain"]["training"] = {**MLM, "max_steps": 5}
    write_config(folder, config)
    assert {wildcards for rule, wildcards in plan_jobs(folder) if rule == "train_run"} == {"final", "pretrain"}
    config = config_of(chain, tokenizer={"vocabulary_size": 260})
    write_config(folder, config)
    rules = {rule for rule, _ in plan_jobs(folder)}
    assert "lex" not in rules
    assert {"tokenizer", "windows", "model", "train_run"} <= rules


@pytest.mark.slow
def test_a_pretrained_folder_is_the_base_of_another_configuration_whose_vocabulary_grows(
    chain: Path, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path)
    shutil.copytree(chain / "tree", tmp_path / "tree")
    for part in sorted((tmp_path / "tree").iterdir()):  # words that the pretraining never saw
        (part / "fresh.py").write_text("".join(f"numerology_{part.name} = cryptid({i})\n" for i in range(9)))
    config["model"]["base"]["path"] = str(chain / "results/runs/pretrain/final")
    config |= {"tokenizer": {"min_count": 2, "min_files": 1, "max_new_words": 20}, "texts": {"max_tokens": 60}}
    config |= {"runs": {"final": {}}, "report": {"compare_with": ["base"]}}
    write_config(tmp_path, config)
    done = snakemake(tmp_path, "results/runs/final/evaluation.json")
    assert done.returncode == 0, done.stderr[-4000:]
    summary = read_manifest(tmp_path / "results/runs/final/start")["about"]["summary"]
    assert summary["new_rows"] == len(json.loads((tmp_path / "results/tokenizer/tokenizer/new_words.json").read_text()))
    assert summary["new_rows"] > 0
    assert summary["parts_drawn_anew"] == []
