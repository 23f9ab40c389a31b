"""train: windows, pairs and the start model to trained/best and trained/final, with metrics.jsonl."""

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from commbert.artifacts import (
    atomic_file,
    atomic_folder,
    read_json,
    read_manifest,
    remove_leftovers,
    sha256_file,
    write_json,
)
from commbert.counters import SCHEME
from commbert.errors import SettingsError
from commbert.monitoring import machine
from commbert.nn.collectives import Processes, join, leave, losses_of_peers_named, summed
from commbert.nn.devices import choose_device, choose_precision
from commbert.nn.encoder import Bert
from commbert.nn.model import load_bert, save_for_others
from commbert.nn.products import choose_products
from commbert.nn.throughput import matmul_speed
from commbert.provenance import code_digest, digest, environment
from commbert.reporting.card import render_card
from commbert.settings.runtime import RuntimeSettings
from commbert.settings.training import TrainingSettings
from commbert.tables import content_digest
from commbert.training.checkpoints import CheckpointStore
from commbert.training.context import Context, make_context
from commbert.training.data import DataPaths, read_training_data
from commbert.training.launch import joined
from commbert.training.loop import Rhythm, load_best, train
from commbert.training.strategies import choose_strategy, make_strategy
from commbert.training.trackers import Mlflow, TensorBoard, Tracker

_log = logging.getLogger(__name__)


def run(
    settings: TrainingSettings,
    runtime: RuntimeSettings,
    *,
    data: DataPaths,
    model: Path,
    corpus: Path,
    checkpoints: Path,
    best_out: Path,
    final_out: Path,
    metrics_out: Path,
    summary_out: Path,
) -> dict[str, Any] | None:
    """Train, on all processes alike; the first one writes.

    Args:
        settings: The run's ``training`` section.
        runtime: Device, processes, checkpoint rhythm.
        data: The tables.
        model: Folder that training starts from.
        corpus: The accounting of the corpus, for the model card.
        checkpoints: Folder of resumable state; outlives a failed or stopped run.
        best_out: Becomes the model folder with the best validation.
        final_out: Becomes the model folder after the last step.
        metrics_out: Becomes the record of all steps (JSONL).
        summary_out: Becomes the summary (JSON); its folder's name is the run's.

    Returns:
        The summary; None if training was asked to stop before its end.

    Raises:
        TrainingError: If training cannot go on.
        SettingsError: If there are more processes than micro-batches.
    """
    device = choose_device(runtime.device)
    processes = join(device.type)
    joined()
    if not processes.is_first:
        logging.getLogger("commbert").setLevel(logging.ERROR)  # what all of them know is said once
    # On CPU the gradient of an indexed row is else added up by several threads in the order in which they come.
    torch.use_deterministic_algorithms(device.type == "cpu")
    try:
        outputs = (best_out, final_out, metrics_out, summary_out)
        with losses_of_peers_named(processes):
            return _run(settings, runtime, data, model, corpus, checkpoints, outputs, device, processes)
    finally:
        torch.use_deterministic_algorithms(False)
        leave(processes)


def _run(
    settings: TrainingSettings,
    runtime: RuntimeSettings,
    paths: DataPaths,
    model_folder: Path,
    corpus: Path,
    checkpoints: Path,
    outputs: tuple[Path, Path, Path, Path],
    device: torch.device,
    processes: Processes,
) -> dict[str, Any] | None:
    if processes.world_size > settings.micro_batches and not settings.batch_per_process:
        raise SettingsError(
            f"training.micro_batches: expected at least {processes.world_size} (the processes), "
            f"found {settings.micro_batches}."
        )
    if settings.reads_texts and not (paths.texts and paths.text_pairs):
        raise SettingsError(
            f"training.batch_texts: {settings.batch_texts} pairs of texts a step need their tables, found none. "
            "Name --texts and --text-pairs, or set 0."
        )
    data = read_training_data(
        paths,
        validation_windows=settings.validation_windows,
        validation_pairs=settings.validation_pairs,
        validation_queries=settings.validation_queries,
        validation_candidates=settings.validation_candidates,
        reads_sentences=settings.objectives.nsp > 0,
        seed=settings.seed,
    )
    accounting = read_json(corpus)
    network = _network(settings, runtime, model_folder).to(device)
    precision, reason = choose_precision(settings.precision, device)
    n_parameters = sum(p.numel() for p in network.parameters())
    products, products_reason = choose_products(runtime.cpu_products)
    strategy_name, strategy_reason = choose_strategy(runtime.strategy, processes, device, n_parameters)
    context = make_context(settings, data, model_folder, network, precision, device, processes)
    store = CheckpointStore(checkpoints, _identity(settings, paths, model_folder, context, precision, products))
    trackers = _trackers(settings, runtime, store, outputs[-1]) if processes.is_first else []
    with store.lock() if processes.is_first else contextlib.nullcontext():
        if processes.is_first:
            for folder in {path.parent for path in outputs}:
                remove_leftovers(folder, {path.name for path in outputs})
            for line in store.prepare():
                _log.warning("%s", line)
            facts = (context.plan.n_steps, device, processes.world_size, strategy_name, strategy_reason)
            _log.info("%d steps on %s, %d process(es), %s (%s), %s (%s)", *facts, precision, reason)
        # Before the optimizer takes memory, and on all processes at once, as they will compute.
        speed = matmul_speed(device, precision)
        tflops = float(summed(torch.tensor(speed.tflops, device=device), processes))
        strategy = make_strategy(strategy_name, network, settings, processes)
        outcome = train(strategy, context, store, _rhythm(runtime, device), matmul_tflops=tflops, trackers=trackers)
        if not outcome.is_finished:
            return None
        whole = strategy.whole_model()
        if whole is None:
            return outcome.summary
        summary = {
            **outcome.summary,
            "precision": precision,
            "precision_reason": reason,
            "strategy": strategy_name,
            "strategy_reason": strategy_reason,
            "cpu_products": products,
            "cpu_products_reason": products_reason,
            "gradient_checkpointing": runtime.gradient_checkpointing,
            "compiled": runtime.compile,
            "matmul_tflops": round(tflops, 4),
            "matmul_measured": f"{speed.how}; the sum of {processes.world_size} process(es)",
            "machine": machine(),
            "identity": store.identity,
            "environment": environment(),
            "parameters_trained": sum(p.numel() for p in strategy.parameters.values()),
        }
        _write_outputs(whole, context, store, model_folder, accounting, outputs, summary)
        store.forget_others()
    return summary


def _network(settings: TrainingSettings, runtime: RuntimeSettings, folder: Path) -> Bert:
    network = load_bert(folder, seed=settings.seed)
    network.set_dropout(hidden=settings.hidden_dropout, attention=settings.attention_dropout)
    network.checkpoints_layers = runtime.gradient_checkpointing
    if runtime.compile:
        for layer in network.layers:
            layer.compile(dynamic=True)
    return network


def _trackers(
    settings: TrainingSettings, runtime: RuntimeSettings, store: CheckpointStore, summary_out: Path
) -> list[Tracker]:
    folder = summary_out.absolute().parent
    trackers: list[Tracker] = []
    if runtime.tensorboard:
        trackers.append(TensorBoard(folder / "tensorboard"))
    if runtime.mlflow_uri is not None:
        parameters = settings.model_dump(mode="json")
        trackers.append(Mlflow(runtime.mlflow_uri, run=folder.name, identity=store.name, parameters=parameters))
    return trackers


def _rhythm(runtime: RuntimeSettings, device: torch.device) -> Rhythm:
    log_every_steps = runtime.log_every_steps
    return Rhythm(
        checkpoint_every_s=runtime.checkpoint_every_s,
        keep_checkpoints=runtime.keep_checkpoints,
        log_every_steps=(1 if device.type == "cpu" else 20) if log_every_steps == "auto" else log_every_steps,
        checksum_every_steps=runtime.checksum_every_steps,
    )


def _identity(
    settings: TrainingSettings, paths: DataPaths, model_folder: Path, context: Context, precision: str, products: str
) -> dict[str, Any]:
    return {
        "settings": settings.model_dump(mode="json"),
        "data": digest(*(content_digest(path) for path in paths.given)),
        "start_weights": sha256_file(model_folder / "model.safetensors")[:16],
        "tokenizer": sha256_file(model_folder / "tokenizer.json")[:16],
        "steps": context.plan.n_steps,
        "batch": [s.batch_size for s in (context.plan.windows, context.plan.pairs, context.plan.texts)],
        "pooling": context.pooling,
        "precision": precision,
        "device": context.device.type,
        "cpu_products": products if context.device.type == "cpu" else None,
        "random_scheme": SCHEME,
        "code": code_digest("commbert.training.loop"),
        "torch": torch.__version__,
    }


def _write_outputs(
    network: Bert,
    context: Context,
    store: CheckpointStore,
    model_folder: Path,
    corpus: dict[str, Any],
    outputs: tuple[Path, Path, Path, Path],
    summary: dict[str, Any],
) -> None:
    best_out, final_out, metrics_out, summary_out = outputs
    about = read_manifest(model_folder)["about"]
    for out, step in ((final_out, summary["steps"]), (best_out, summary["best_step"])):
        if out is best_out:
            load_best(store, network, summary["best_step"])
        card = render_card(
            {
                **about["summary"],
                **summary,
                "run": summary_out.parent.name,
                "base": _base_name(about["settings"]),
                "pooling": context.pooling,
                "corpus": corpus,
                "settings": context.settings.model_dump(mode="json"),
                "step": step,
            }
        )
        kept = {"settings": about["settings"], "step": step, "identity": store.identity, "summary": about["summary"]}
        with atomic_folder(out, about=kept) as tmp:
            save_for_others(network.cpu(), model_folder, tmp, pooling=context.pooling, card=card)
    with atomic_file(metrics_out) as tmp_file:
        shutil.copyfile(store.metrics, tmp_file)
    write_json(summary_out, summary)


def _base_name(model: dict[str, Any]) -> str:
    """Return what the start model was made from: a run, an architecture, or the place of a base model."""
    if model.get("start"):
        return f"run {model['start']} of the same configuration"
    source = model["base"]
    if source["kind"] == "scratch":
        return "none, all weights were drawn anew"
    return " ".join(str(v) for k, v in source.items() if k not in ("kind", "sha256"))
