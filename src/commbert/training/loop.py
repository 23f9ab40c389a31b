"""The training loop: steps, validation, checkpoints, a clean stop."""

import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import BertForPreTraining

from commbert.artifacts import atomic_folder, disk_full_named
from commbert.errors import TrainingError
from commbert.nn.collectives import same_on_all
from commbert.training.checkpoints import CheckpointStore
from commbert.training.optimization import (
    make_optimizer,
    rate_factor,
    set_rate,
    trainable_parameters,
)
from commbert.training.progress import TrainingProgress
from commbert.training.step import Context, StepResult, gradient_of_step
from commbert.training.validation import check_best_metric, validation_figures

_log = logging.getLogger(__name__)


@dataclass
class _State:
    """What changes while training runs, beside tensors."""

    step: int = 0
    trained_s: float = 0.0
    best_value: float | None = None
    best_step: int | None = None
    validations_since_best: int = 0
    metrics_bytes: int = 0
    resumed: list[int] = field(default_factory=list)
    stopped_early: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    is_finished: bool
    """False: it was asked to stop, and goes on from its checkpoint when started again."""
    summary: dict[str, Any]


def train(
    model: BertForPreTraining,
    context: Context,
    store: CheckpointStore,
    *,
    checkpoint_every_s: float,
    keep_checkpoints: int,
    log_every_steps: int,
) -> Outcome:
    """Train to the end of the plan, from the newest checkpoint if there is one.

    On the first process ``store.metrics`` receives one JSON line per step and per validation, and ``store.best(step)``
    the weights with the best validation.

    Raises:
        TrainingError: If loss or gradient is not finite; the last checkpoint is kept.
    """
    check_best_metric(context)
    parameters = trainable_parameters(model, context.settings)
    optimizer = make_optimizer(parameters, context.settings.optimizer)
    state = _resume(context, store, parameters, optimizer)
    is_first = context.processes.is_first
    started = time.monotonic() - state.trained_s
    saved_at = time.monotonic()
    progress = TrainingProgress(context.plan.n_steps, state.step, is_shown=is_first)
    metrics = _Metrics(store.metrics, state.metrics_bytes) if is_first else None
    try:
        with _stop_signals() as stop:
            while state.step < context.plan.n_steps and not state.stopped_early:
                row = _one_step(model, context, parameters, optimizer, state.step, time.monotonic() - started)
                state.step += 1
                if metrics and (state.step % log_every_steps == 0 or state.step == context.plan.n_steps):
                    metrics.add(row)
                progress.update(state.step, _figures(row))
                if state.step % context.settings.validate_every_steps == 0 or state.step == context.plan.n_steps:
                    found = _validate(model, context, state, store, parameters)
                    if metrics:
                        metrics.add({"event": "validation", "step": state.step, **found})
                is_stopping = same_on_all(stop.requested, context.processes, context.device)
                is_last = state.step == context.plan.n_steps or state.stopped_early
                state.trained_s = time.monotonic() - started
                # The last step is saved too: whoever comes back to these settings has the model without training.
                if is_first and (is_stopping or is_last or time.monotonic() - saved_at > checkpoint_every_s):
                    assert metrics is not None
                    state.metrics_bytes = metrics.synced()
                    store.save(parameters, optimizer, vars(state), keep=keep_checkpoints)
                    saved_at = time.monotonic()
                if is_stopping and not is_last:
                    _log.warning("stopped after step %d as asked; start again to go on", state.step)
                    return Outcome(False, _summary(context, state))
    finally:
        progress.close()
        if metrics:
            metrics.close()
    return Outcome(True, _summary(context, state))


def load_best(store: CheckpointStore, model: BertForPreTraining, step: int) -> None:
    """Put the weights that were best, at ``step``, into the model."""
    with torch.no_grad():
        own = dict(model.named_parameters())
        for name, value in load_file(str(store.best(step) / "model.safetensors")).items():
            own[name].copy_(value)


def _resume(
    context: Context,
    store: CheckpointStore,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> _State:
    checkpoint, skipped = store.newest()
    for reason in skipped:
        _log.warning("a damaged checkpoint is passed over: %s", reason)
    if checkpoint is None:
        return _State()
    store.restore(checkpoint, parameters, optimizer)
    state = _State(**checkpoint.state)
    state.resumed = [*state.resumed, state.step]
    if context.processes.is_first:
        _log.info("going on from step %d of %d", state.step, context.plan.n_steps)
    return state


def _one_step(
    model: BertForPreTraining,
    context: Context,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
    elapsed_s: float,
) -> dict[str, Any]:
    settings = context.settings.optimizer
    began = time.monotonic()
    model.train()
    factor = rate_factor(step, context.plan.n_steps, settings.warmup_fraction)
    set_rate(optimizer, factor)
    optimizer.zero_grad(set_to_none=True)
    result = gradient_of_step(model, context, step)
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.max_gradient_norm).item()
    _check_finite(result, norm, context, step)
    optimizer.step()
    step_s = time.monotonic() - began
    return {
        "event": "step",
        "step": step + 1,
        "elapsed_s": round(elapsed_s + step_s, 3),
        "step_s": round(step_s, 4),
        "loss": result.loss,
        "mlm_loss": result.mlm_loss,
        "contrastive_loss": result.contrastive_loss,
        "learning_rate": settings.learning_rate * factor,
        "gradient_norm": norm,
        "tokens": result.n_tokens,
        "tokens_per_s": round(result.n_tokens / step_s, 1),
        "padding_pct": round(100 * (1 - result.n_tokens / max(result.n_padded_tokens, 1)), 2),
        "hidden_tokens": result.n_hidden_tokens,
        "words": result.n_words,
        "negatives_per_anchor": result.negatives_per_anchor,
        "masked_out_pct": result.masked_out_pct,
    }


def _check_finite(result: StepResult, norm: float, context: Context, step: int) -> None:
    if math.isfinite(result.loss) and math.isfinite(norm):
        return
    _, windows = context.plan.windows.batch(step)
    _, pairs = context.plan.pairs.batch(step)
    raise TrainingError(
        f"step {step + 1}: loss {result.loss}, gradient norm {norm}: not finite, stopped before the weights changed. "
        f"Windows {windows[:8].tolist()}..., pairs {pairs[:8].tolist()}.... Lower training.optimizer.learning_rate; "
        "the last checkpoint is kept."
    )


def _validate(
    model: BertForPreTraining,
    context: Context,
    state: _State,
    store: CheckpointStore,
    parameters: dict[str, torch.nn.Parameter],
) -> dict[str, Any]:
    """Measure on validation rows, alike on every process, and keep the weights if they are the best so far."""
    found = validation_figures(model, context)
    metric = context.settings.best_metric
    value = found[metric]
    if value is None:
        raise TrainingError(f"training.best_metric {metric}: not measured.")
    better = -value if metric == "mlm_loss" else value
    if state.best_value is None or better > state.best_value:
        state.best_value, state.best_step, state.validations_since_best = better, state.step, 0
        if context.processes.is_first:
            with atomic_folder(store.best(state.step), about={"step": state.step, metric: value}) as tmp:
                save_file({n: p.detach().contiguous() for n, p in parameters.items()}, str(tmp / "model.safetensors"))
    else:
        state.validations_since_best += 1
        state.stopped_early = state.validations_since_best >= (context.settings.patience or math.inf)
    return found


def _summary(context: Context, state: _State) -> dict[str, Any]:
    return {
        "steps": state.step,
        "planned_steps": context.plan.n_steps,
        "best_step": state.best_step,
        "stopped_early": state.stopped_early,
        "resumed_at_steps": state.resumed,
        "trained_s": state.trained_s,
        "world_size": context.processes.world_size,
        "device": str(context.device),
        **context.plan.coverage(),
    }


def _figures(row: dict[str, Any]) -> str:
    parts = [f"loss {row['loss']:.3f}"]
    parts += [
        f"{name} {row[key]:.3f}" for name, key in (("mlm", "mlm_loss"), ("pairs", "contrastive_loss")) if row[key]
    ]
    return ", ".join([*parts, f"{row['tokens_per_s']:,.0f} tokens/s"])


class _Metrics:
    """A JSONL file; rows after the checkpoint that training resumes from are cut off."""

    def __init__(self, path: Path, n_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._path = path
        # Unbuffered: each row is there for a reader at once, and nothing is left over to fail at the end.
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(n_bytes)
        self._file.seek(n_bytes)

    def add(self, row: dict[str, Any]) -> None:
        with disk_full_named(self._path):
            self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def synced(self) -> int:
        """Write through to the disk and return the length."""
        with disk_full_named(self._path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class _Stop:
    requested = False


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Turn SIGTERM, SIGINT and SIGUSR1 into a request to stop after the step; a second SIGINT stops at once."""
    stop = _Stop()
    old = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}

    def request(number: int, _frame: object) -> None:
        stop.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for s in old:
        signal.signal(s, request)
    try:
        yield stop
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
