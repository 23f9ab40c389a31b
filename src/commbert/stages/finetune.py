"""finetune: a labelled table and an encoder to best/ and final/, with what they do on held-out rows (JSON)."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import BertForSequenceClassification

from commbert.artifacts import atomic_folder, read_manifest, remove_leftovers, sha256_file, write_json
from commbert.errors import ArtifactError, SettingsError
from commbert.evaluation.bootstrap import json_ready
from commbert.finetuning.baselines import bag_of_tokens, majority
from commbert.finetuning.checkpoints import TrainerCheckpoints
from commbert.finetuning.examples import Dataset, Examples, make_dataset
from commbert.finetuning.measures import (
    accuracy_gain,
    class_estimates,
    confusion,
    figures_of,
    per_class,
    score_estimates,
    score_figures,
)
from commbert.finetuning.network import check_encoder_folder, load_with_head, save_with_head, with_scale
from commbert.finetuning.table import read_table
from commbert.finetuning.training import Outcome, Setup, predict, train
from commbert.monitoring import machine
from commbert.nn.devices import choose_device, choose_precision
from commbert.nn.model import special_ids
from commbert.provenance import code_digest, environment
from commbert.reporting.finetuned import render_classifier_card
from commbert.settings.finetune import FinetuneSettings
from commbert.settings.runtime import RuntimeSettings
from commbert.tokenization.encoding import load_tokenizer

_log = logging.getLogger(__name__)
_MISTAKES = 20
_POINTS = 2000


@dataclass(frozen=True)
class FinetunePaths:
    """What is read and what is made."""

    table: Path
    model: Path
    """Folder of the encoder that training starts from."""
    checkpoints: Path
    """Folder of resumable state; outlives a failed or stopped run."""
    best_out: Path
    """Becomes the folder of the model that was best on the validation rows."""
    final_out: Path
    """Becomes the folder of the model after the last epoch."""
    evaluation_out: Path
    """Becomes the figures (JSON); its folder's name is the fine-tuning's."""


def run(settings: FinetuneSettings, runtime: RuntimeSettings, *, paths: FinetunePaths, threads: int) -> dict[str, Any]:
    """Fine-tune and measure.

    Args:
        settings: The fine-tuning's section.
        runtime: Device.
        paths: Files and folders.
        threads: Of torch, on a CPU.

    Returns:
        What is written as JSON.

    Raises:
        SourceError, DataError: If the table cannot be read without guessing, or cannot be learnt from.
        ModelError: If the encoder's folder cannot be used.
        TrainingError: If a loss is not finite, or another process trains in the same folder.
        SettingsError: If texts may be longer than the model's positions, or an output would replace something else.
    """
    began_s = time.monotonic()
    device = choose_device(runtime.device)
    torch.set_num_threads(threads)
    # On a CPU gradients of embeddings are else added up by several threads in the order in which they come.
    torch.use_deterministic_algorithms(device.type == "cpu")
    try:
        return _run(settings, paths, device, began_s)
    finally:
        torch.use_deterministic_algorithms(False)


def _run(settings: FinetuneSettings, paths: FinetunePaths, device: torch.device, began_s: float) -> dict[str, Any]:
    for out in (paths.best_out, paths.final_out):
        _check_out(out, paths.model)
    setup = _setup(settings, paths, device)
    dataset = setup.dataset
    model = load_with_head(paths.model, dataset.classes, score_name=settings.label, seed=settings.seed)
    torch.nn.Module.to(model, device)
    _tell(dataset, setup)
    checkpoints = TrainerCheckpoints(paths.checkpoints, _identity(setup, paths))
    with checkpoints.lock():
        outputs = (paths.best_out, paths.final_out, paths.evaluation_out)
        for folder in {path.parent for path in outputs}:
            remove_leftovers(folder, {path.name for path in outputs})
        for line in checkpoints.prepare():
            _log.warning("%s", line)
        newest, removed = checkpoints.newest()
        for line in removed:
            _log.warning("%s", line)
        if newest is not None:
            _log.info("going on from epoch %d", round(newest.state["epoch"]))
        outcome = train(model, setup, checkpoints, newest)
        found = {name: _tested(model, setup, checkpoints, step) for name, step in _steps(outcome).items()}
        result = _result(setup, paths, checkpoints, outcome, found)
        _write(model, setup, checkpoints, paths, outcome, result)
        result |= {"seconds": round(time.monotonic() - began_s, 1)}
        write_json(paths.evaluation_out, result)
        checkpoints.forget_others()
    return result


def _check_out(out: Path, model: Path) -> None:
    """Refuse to put a model where the encoder lies, or where there is anything but the model of a fine-tuning.

    Raises:
        SettingsError: Naming the folder.
    """
    if out.exists() and out.samefile(model):
        raise SettingsError(f"{out}: expected another folder than that of the encoder. Choose another output.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        about = read_manifest(out)["about"]
    except ArtifactError:
        about = {}
    if not isinstance(about, dict) or "classes" not in about:
        raise SettingsError(
            f"{out}: expected nothing or the model of a fine-tuning there, found something else, which would be "
            "replaced. Choose another output, or remove it."
        )


def _setup(settings: FinetuneSettings, paths: FinetunePaths, device: torch.device) -> Setup:
    positions = check_encoder_folder(paths.model)
    if settings.max_length > positions:
        raise SettingsError(
            f"finetune.max_length: expected at most {positions} tokens, the positions of {paths.model}, "
            f"found {settings.max_length}."
        )
    tokenizer = load_tokenizer(paths.model)
    dataset = make_dataset(read_table(paths.table, settings, tokenizer), settings, str(paths.table))
    precision, reason = choose_precision(settings.precision, device)
    _log.info("on %s, %s (%s)", device, precision, reason)
    setup = Setup(settings, dataset, tokenizer, special_ids(paths.model), device, precision)
    if dataset.classes:
        return setup
    scores = dataset.splits["train"].target
    return replace(setup, mean=float(scores.mean()), deviation=float(scores.std()) or 1.0)


def _tell(dataset: Dataset, setup: Setup) -> None:
    told = dataset.accounting
    for reason, skipped in told["skipped"].items():
        if skipped["n"]:
            lines = ", ".join(map(str, skipped["lines"]))
            _log.warning("%d rows skipped: %s (line %s)", skipped["n"], reason, lines)
    if told["cut"]:
        _log.warning("%d texts are longer than %d tokens and were cut", told["cut"], setup.settings.max_length)
    if told["test_texts_also_in_training"]:
        _log.warning("%d test rows have a text that training has too", told["test_texts_also_in_training"])
    if told["texts_with_several_labels"]:
        _log.warning("%d texts stand there with different labels", told["texts_with_several_labels"])
    rows = ", ".join(f"{n} {name}" for name, n in told["rows"].items())
    of = f", {len(dataset.classes)} classes" if dataset.classes else ""
    _log.info("%d rows read: %s%s (%s)", told["rows_read"], rows, of, told["split"])


def _identity(setup: Setup, paths: FinetunePaths) -> dict[str, Any]:
    settings = setup.settings.model_dump(mode="json", exclude={"sha256", "bootstrap"})
    return {
        "settings": settings,
        "data": setup.dataset.accounting["sha256"],
        "start_weights": sha256_file(paths.model / "model.safetensors")[:16],
        "tokenizer": sha256_file(paths.model / "tokenizer.json")[:16],
        "precision": setup.precision,
        "device": setup.device.type,
        "code": code_digest("commbert.finetuning.training"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _steps(outcome: Outcome) -> dict[str, int]:
    return {"best": outcome.best_step, "final": outcome.last_step}


def _tested(
    model: BertForSequenceClassification, setup: Setup, checkpoints: TrainerCheckpoints, step: int
) -> NDArray[np.float64]:
    model.load_state_dict(checkpoints.weights(step))
    return predict(model, setup, setup.dataset.splits["test"])


def _result(
    setup: Setup,
    paths: FinetunePaths,
    checkpoints: TrainerCheckpoints,
    outcome: Outcome,
    found: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    settings, dataset = setup.settings, setup.dataset
    common = {
        "name": paths.evaluation_out.absolute().parent.name,
        "task": settings.task,
        "classes": list(dataset.classes),
        "settings": settings.model_dump(mode="json"),
        "table": {"path": str(paths.table), **dataset.accounting},
        "model": {"path": str(paths.model), "sha256": sha256_file(paths.model / "model.safetensors")},
        "device": str(setup.device),
        "precision": setup.precision,
        "training": {**vars(outcome), "seconds": round(outcome.seconds, 1)},
        "identity": checkpoints.identity,
        "environment": environment(),
        "machine": machine(),
    }
    return common | (_class_result(setup, found) if dataset.classes else _score_result(setup, found))


def _class_result(setup: Setup, found: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    settings, classes, test = setup.settings, setup.dataset.classes, setup.dataset.splits["test"]
    draws = {"n_resamples": settings.bootstrap, "seed": settings.seed}
    beside = _beside(setup)
    called = {name: values.argmax(1) for name, values in found.items()}
    tables = {name: confusion(test.target, labels, len(classes)) for name, labels in (called | beside).items()}
    best = called["best"] == test.target
    return {
        "test": {
            name: {
                "figures": class_estimates(tables[name], **draws),
                "confusion": tables[name].tolist(),
                "per_class": per_class(tables[name], classes),
            }
            for name in found
        },
        "baselines": {name: figures_of(tables[name]) for name in beside},
        "accuracy_gain": {name: accuracy_gain(best, labels == test.target, **draws) for name, labels in beside.items()},
        "mistakes": _mistakes(found["best"], classes, test),
    }


def _score_result(setup: Setup, found: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    settings, test = setup.settings, setup.dataset.splits["test"]
    draws = {"n_resamples": settings.bootstrap, "seed": settings.seed}
    points = np.stack([test.target, found["best"]], axis=1)[:_POINTS]
    return {
        "test": {name: {"figures": score_estimates(test.target, said, **draws)} for name, said in found.items()},
        "baselines": {name: json_ready(score_figures(test.target, said)) for name, said in _beside(setup).items()},
        "points": points.round(6).tolist(),
    }


def _beside(setup: Setup) -> dict[str, NDArray[Any]]:
    splits, is_scoring = setup.dataset.splits, not setup.dataset.classes
    train_rows, test = splits["train"], splits["test"]
    n_tokens = setup.tokenizer.get_vocab_size()
    bag = bag_of_tokens(train_rows, test, n_tokens=n_tokens, is_scoring=is_scoring, seed=setup.settings.seed)
    return {"constant": majority(train_rows, test, is_scoring=is_scoring), "bag_of_tokens": bag}


def _mistakes(said: NDArray[np.float64], classes: tuple[str, ...], test: Examples) -> list[dict[str, Any]]:
    """Return the wrong answers that the model was most sure of, by their lines in the table."""
    wrong = np.flatnonzero(said.argmax(1) != test.target)
    surest = wrong[np.argsort(-said[wrong].max(1), kind="stable")][:_MISTAKES]
    return [
        {
            "line": int(test.line[i]),
            "expected": classes[test.target[i]],
            "found": classes[said[i].argmax()],
            "probability": round(float(said[i].max()), 4),
        }
        for i in surest
    ]


def _write(
    model: BertForSequenceClassification,
    setup: Setup,
    checkpoints: TrainerCheckpoints,
    paths: FinetunePaths,
    outcome: Outcome,
    result: dict[str, Any],
) -> None:
    model.cpu()
    for (name, step), out in zip(_steps(outcome).items(), (paths.best_out, paths.final_out), strict=True):
        model.load_state_dict(checkpoints.weights(step))
        if not setup.dataset.classes:
            with_scale(model, mean=setup.mean, deviation=setup.deviation)
        about = {"step": step, "kind": name, "identity": checkpoints.identity, "classes": result["classes"]}
        with atomic_folder(out, about=about) as tmp:
            save_with_head(model, paths.model, tmp, card=render_classifier_card(result, name, step))
