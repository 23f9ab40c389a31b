"""The stage and the command: outputs, and kills from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from commbert import tables
from commbert.artifacts import atomic_folder, read_manifest, sha256_file, verify_folder
from commbert.errors import ModelError, SettingsError
from commbert.nn.collectives import Processes
from commbert.nn.model import load_bert, save_for_others
from commbert.settings.runtime import RuntimeSettings
from commbert.settings.training import TrainingSettings
from commbert.stages import train

SETTINGS = TrainingSettings.model_validate(
    {
        "epochs": 3,
        "batch_windows": 8,
        "batch_pairs": 8,
        "micro_batches": 2,
        "validate_every_steps": 20,
        "validation_windows": 8,
        "validation_pairs": 40,
        "optimizer": {"learning_rate": 1.0e-3},
    }
)
N_STEPS = 3 * 42  # 336 windows by 8


def _paths(stages, folder: Path) -> dict[str, Path]:
    return {
        "corpus": stages.corpus,
        "checkpoints": folder / "checkpoint",
        "best_out": folder / "best",
        "final_out": folder / "final",
        "metrics_out": folder / "metrics.jsonl",
        "summary_out": folder / "training.json",
    }


@pytest.fixture(scope="module")
def run(stages, tmp_path_factory) -> Path:
    """Train once, without interruption."""
    folder = tmp_path_factory.mktemp("straight")
    train.run(SETTINGS, RuntimeSettings(device="cpu"), data=stages.data, model=stages.start, **_paths(stages, folder))
    return folder


@pytest.mark.parametrize("name", ["best", "final"])
def test_a_model_folder_is_complete_and_holds_safe_weights_only(run, name):
    verify_folder(run / name)
    kinds = {p.suffix for p in (run / name).rglob("*") if p.is_file()}
    assert kinds <= {".json", ".txt", ".md", ".safetensors"}


def test_final_is_the_last_step_and_best_the_best_one(run):
    summary = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert read_manifest(run / "final")["about"]["step"] == N_STEPS
    assert read_manifest(run / "best")["about"]["step"] == summary["best_step"]


def test_the_speed_of_the_device_is_measured_and_every_step_has_its_share_of_it(run):
    summary = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert summary["matmul_tflops"] > 0
    assert summary["matmul_measured"].startswith("fastest of ")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shares = [row["mfu_pct"] for row in rows if row["event"] == "step"]
    assert all(0 < share < 100 for share in shares)
    assert all(row["effective_rank"] >= 1 for row in rows if row["event"] == "validation")


def test_event_files_lie_in_the_folder_of_the_run(stages, tmp_path):
    pytest.importorskip("tensorboardX")
    chosen, runtime = SETTINGS.model_copy(update={"max_steps": 2}), RuntimeSettings(device="cpu", tensorboard=True)
    train.run(chosen, runtime, data=stages.data, model=stages.start, **_paths(stages, tmp_path))
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in file.read_bytes()


def test_best_step_has_the_highest_figure_of_all_validations(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = {r["step"]: r["hard"] for r in rows if r["event"] == "validation"}
    assert [*figures] == [*range(20, N_STEPS, 20), N_STEPS]
    summary = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert figures[summary["best_step"]] == max(figures.values())


def test_training_lowers_both_losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [r for r in rows if r["event"] == "step"]
    for name in ("mlm_loss", "contrastive_loss"):
        first, last = (sum(r[name] for r in part) / 20 for part in (steps[:20], steps[-20:]))
        assert last < 0.9 * first


def test_what_no_objective_reads_is_handed_on_unchanged(run, stages):
    before, after = (load_file(folder / "model.safetensors") for folder in (stages.start, run / "final"))
    # A key's bias adds the same to all scores of a query, which no loss sees.
    unread = [n for n in before if n.startswith(("bert.pooler.", "cls.seq_relationship.")) or "key.bias" in n]
    assert unread
    assert all(torch.equal(before[n], after[n]) for n in unread)
    assert sum(torch.equal(before[n], after[n]) for n in before) == len(unread)


def test_levers_of_the_pair_loss_leave_the_form_of_what_is_exported(run, stages, tmp_path):
    lever = {"hardest": 5, "hardness": 0.3, "pair_weights": "pmi", "projection": "mlp", "projection_size": 9}
    changed = {**SETTINGS.model_dump(), "max_steps": 30, "contrastive": lever}
    paths = _paths(stages, tmp_path)
    train.run(
        TrainingSettings.model_validate(changed),
        RuntimeSettings(device="cpu"),
        data=stages.data,
        model=stages.start,
        **paths,
    )
    expected = load_file(run / "final" / "model.safetensors")
    for name in ("best", "final"):
        found = load_file(tmp_path / name / "model.safetensors")
        assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}
    steps = [json.loads(line) for line in paths["metrics_out"].read_text(encoding="utf-8").splitlines()]
    steps = [r for r in steps if r["event"] == "step"]
    assert sum(r["contrastive_loss"] for r in steps[-5:]) < sum(r["contrastive_loss"] for r in steps[:5])
    assert all(0 < r["negatives_per_anchor"] <= 5 for r in steps)
    assert {r["pair_weight"] for r in steps} != {1.0}


def test_the_summary_says_how_often_each_stream_was_read(run, stages):
    summary = json.loads((run / "training.json").read_text(encoding="utf-8"))
    n_pairs = int((tables.read(stages.data.pairs, tables.PAIRS)["label"].to_numpy() == 1).sum())
    assert summary["windows_epochs"] == pytest.approx(3.0)
    assert summary["pairs_epochs"] == pytest.approx(N_STEPS * 8 / n_pairs)


def test_a_model_of_another_tokenizer_is_refused(stages, tmp_path):
    # The base knows 125 entries, the tables 139.
    outputs = _paths(stages, tmp_path)
    with pytest.raises(ModelError, match=r"expected a vocabulary of more than 1[23][0-9] entries"):
        train.run(SETTINGS, RuntimeSettings(device="cpu"), data=stages.data, model=stages.base, **outputs)


def test_windows_longer_than_the_models_positions_are_refused_with_words(stages, tmp_path):
    short = tiny.write_base_model(tmp_path / "short", max_position_embeddings=16, vocab_size=139)
    with atomic_folder(tmp_path / "start", about={"settings": {"pooling": "mean"}}) as tmp:
        save_for_others(load_bert(short), stages.tokenizer, tmp, pooling="mean")
    with pytest.raises(ModelError, match="positions"):
        train.run(
            SETTINGS,
            RuntimeSettings(device="cpu"),
            data=stages.data,
            model=tmp_path / "start",
            **_paths(stages, tmp_path / "run"),
        )


def test_more_processes_than_micro_batches_are_refused(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "join", lambda _: Processes(0, 3, 0))
    monkeypatch.setattr(train, "leave", lambda _: None)
    with pytest.raises(SettingsError, match="expected at least 3"):
        train.run(
            SETTINGS, RuntimeSettings(device="cpu"), data=stages.data, model=stages.start, **_paths(stages, tmp_path)
        )


def test_checkpoints_of_older_settings_are_kept_until_the_new_run_is_done(stages, tmp_path, monkeypatch):
    few = SETTINGS.model_copy(update={"max_steps": 2})
    options = {"data": stages.data, "model": stages.start, **_paths(stages, tmp_path)}
    train.run(few, RuntimeSettings(device="cpu"), **options)
    old = {p.parent.name for p in (tmp_path / "checkpoint").glob("*/identity.json")}

    def broken(*_):
        raise RuntimeError("stop here")

    original = train._write_outputs
    monkeypatch.setattr(train, "_write_outputs", broken)
    with pytest.raises(RuntimeError, match="stop here"):
        train.run(few.model_copy(update={"seed": 18}), RuntimeSettings(device="cpu"), **options)
    monkeypatch.setattr(train, "_write_outputs", original)
    assert old < {p.parent.name for p in (tmp_path / "checkpoint").glob("*/identity.json")}
    train.run(few.model_copy(update={"seed": 18}), RuntimeSettings(device="cpu"), **options)
    left = {p.parent.name for p in (tmp_path / "checkpoint").glob("*/identity.json")}
    assert len(left) == 1
    assert left.isdisjoint(old)


def _command(stages, folder: Path, threads: int = 1) -> subprocess.Popen[str]:
    d = stages.data
    arguments = {
        "settings": SETTINGS.as_json(),
        "runtime": json.dumps({"device": "cpu", "checkpoint_every_s": 0.05}),
        "model": stages.start,
        "windows": d.windows,
        "validation-windows": d.validation_windows,
        "pairs": d.pairs,
        "validation-pairs": d.validation_pairs,
        "known": d.known,
        "words": d.words,
        "threads": threads,
        **{k.replace("_", "-"): v for k, v in _paths(stages, folder).items()},
    }
    command = [
        sys.executable,
        "-m",
        "commbert",
        "train",
        *(x for k, v in arguments.items() for x in (f"--{k}", str(v))),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def _wait_for_steps(folder: Path, process: subprocess.Popen[str], n_steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(p.name[5:]) >= n_steps for p in folder.glob("checkpoint/*/step-*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of step {n_steps}: {process.communicate()[1]}")


@pytest.mark.slow
def test_a_command_stopped_by_sigterm_exits_75_and_the_next_one_ends_with_the_same_file(stages, run, tmp_path):
    first = _command(stages, tmp_path)
    _wait_for_steps(tmp_path, first, 10)
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 75, said
    assert "start again to go on" in said
    assert not (tmp_path / "final").exists()
    second = _command(stages, tmp_path)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 0, said
    assert "going on from step" in said
    for name in ("final", "best"):
        assert sha256_file(tmp_path / name / "model.safetensors") == sha256_file(run / name / "model.safetensors")


@pytest.mark.slow
def test_a_killed_command_goes_on_from_its_checkpoint_and_ends_with_the_same_file(stages, run, tmp_path):
    first = _command(stages, tmp_path)
    _wait_for_steps(tmp_path, first, 10)
    first.kill()
    first.communicate(timeout=120)
    assert first.returncode == -signal.SIGKILL
    second = _command(stages, tmp_path)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 0, said
    assert "going on from step" in said
    for name in ("final", "best"):
        assert sha256_file(tmp_path / name / "model.safetensors") == sha256_file(run / name / "model.safetensors")


def test_tables_of_another_run_are_another_identity(stages, tmp_path, run):
    few = SETTINGS.model_copy(update={"max_steps": 1})
    options = {"model": stages.start, **_paths(stages, tmp_path)}
    swapped = replace(stages.data, validation_windows=stages.evaluation.windows)
    runtime = RuntimeSettings(device="cpu")
    first = train.run(few, runtime, data=stages.data, **options)
    second = train.run(few, runtime, data=swapped, **options)
    assert first["identity"]["data"] != second["identity"]["data"]
    assert second["resumed_at_steps"] == []


def test_training_on_cpu_adds_gradients_in_a_fixed_order(stages, tmp_path, monkeypatch):
    # With several threads the gradient of an indexed row is else a sum in the order in which they come: seen to give
    # other bytes in every run of a real size, which nothing tiny shows.
    seen = []
    original = train.train

    def watched(*arguments, **options):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return original(*arguments, **options)

    monkeypatch.setattr(train, "train", watched)
    paths = _paths(stages, tmp_path / "run")
    train.run(SETTINGS, RuntimeSettings(device="cpu"), data=stages.data, model=stages.start, **paths)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
