"""The training loop: steps, validation, checkpoints, a clean stop."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from commbert.artifacts import atomic_folder
from commbert.errors import TrainingError
from commbert.nn.collectives import summed
from commbert.nn.encoder import Bert
from commbert.training.batches import StepBatch, step_batch
from commbert.training.checkpoints import CheckpointStore
from commbert.training.context import Context
from commbert.training.optimization import rate_factor, set_rate
from commbert.training.prefetching import Prefetcher, prefetched
from commbert.training.progress import TrainingProgress
from commbert.training.record import Record, step_row
from commbert.training.step import add_gradient, weights_at
from commbert.training.stopping import Stop, listening
from commbert.training.strategies import Replicated
from commbert.training.trackers import Tracker
from commbert.training.validation import check_best_metric, validation_figures
from commbert.training.work import step_flop

_log = logging.getLogger(__name__)
_COLLAPSED_COSINE = 0.9
_COLLAPSED_LOSS = 0.98
"""Of ln B. Both marks together are collapse (measured); one alone is a start model or a hard batch."""


@dataclass
class _State:
    """What changes while training runs, beside tensors."""

    step: int = 0
    trained_s: float = 0.0
    best_value: float | None = None
    best_step: int | None = None
    figures_at_best: dict[str, float | None] = field(default_factory=dict)
    validations_since_best: int = 0
    plateau_factor: float = 1.0
    validations_on_plateau: int = 0
    collapsed_at_steps: list[int] = field(default_factory=list)
    metrics_bytes: int = 0
    resumed: list[int] = field(default_factory=list)
    stopped_early: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    is_finished: bool
    """False: it was asked to stop, and goes on from its checkpoint when started again."""
    summary: dict[str, Any]


@dataclass(frozen=True)
class Rhythm:
    """How often something happens beside the steps."""

    checkpoint_every_s: float = 60.0
    keep_checkpoints: int = 2
    log_every_steps: int = 1
    checksum_every_steps: int = 100


def train(
    strategy: Replicated,
    context: Context,
    store: CheckpointStore,
    rhythm: Rhythm,
    *,
    matmul_tflops: float | None = None,
    trackers: Sequence[Tracker] = (),
) -> Outcome:
    """Train to the end of the plan, from the newest checkpoint if there is one.

    On the first process ``store.metrics`` receives one JSON line per step and per validation, and ``store.best(step)``
    the weights with the best validation.

    Args:
        strategy: Model, optimizer, and what the processes share of them.
        context: What stays the same.
        store: Where checkpoints and the record lie.
        rhythm: How often something happens beside the steps.
        matmul_tflops: Measured speed of the devices of all processes together, for ``mfu_pct``; None: not measured.
        trackers: Get the rows of the record too, on the first process.

    Raises:
        TrainingError: If loss or gradient is not finite, or the processes' weights differ; the last checkpoint is kept.
    """
    check_best_metric(context)
    state = _resume(context, store, strategy)
    progress = TrainingProgress(context.plan.n_steps, state.step, is_shown=context.processes.is_first)
    is_first = context.processes.is_first
    trackers = trackers if is_first else ()
    record = Record(
        store.metrics if is_first else None,
        state.metrics_bytes,
        progress,
        device=context.device,
        matmul_tflops=matmul_tflops,
        trackers=trackers,
    )
    outcome: Outcome | None = None
    try:
        for tracker in trackers:
            tracker.begin(store.metrics, trained_s=state.trained_s)
        with listening() as stop, prefetched(context, is_even=strategy.is_even) as batches:
            outcome = _Loop(strategy, context, store, rhythm, state, record, stop).run(batches)
            return outcome
    finally:
        for tracker in trackers:
            tracker.close(is_finished=outcome is not None and outcome.is_finished)
        record.close()
        progress.close()


@dataclass
class _Loop:
    strategy: Replicated
    context: Context
    store: CheckpointStore
    rhythm: Rhythm
    state: _State
    record: Record
    stop: Stop

    def run(self, batches: Prefetcher) -> Outcome:
        state, n_steps = self.state, self.context.plan.n_steps
        started = time.monotonic() - state.trained_s
        saved_at = time.monotonic()
        # 1 from the first step on that was not finite: the optimizer leaves the weights alone without asking the host.
        is_bad = torch.zeros((), device=self.context.device)
        self.strategy.model.train()
        self.record.begin(state.trained_s)
        while state.step < n_steps and not state.stopped_early:
            self._step(batches.get(state.step), is_bad)
            state.step += 1
            validates = self.context.plan.validates_after(state.step, self.context.settings.validate_every_steps)
            if state.step % self.rhythm.checksum_every_steps == 0:
                self._check_alike()
            if not validates and state.step % self.rhythm.log_every_steps:
                continue
            # Only here does the host wait for the device, and the processes for each other's wishes.
            self._flush(time.monotonic() - started)
            if validates:
                self._validate()
                self.record.begin(time.monotonic() - started)
            state.trained_s = time.monotonic() - started
            is_stopping, is_saving = self._agreed(
                self.stop.requested, time.monotonic() - saved_at > self.rhythm.checkpoint_every_s
            )
            is_last = state.step == n_steps or state.stopped_early
            # The last step is saved too: whoever comes back to these settings has the model without training.
            if is_stopping or is_saving or is_last:
                self._save()
                saved_at = time.monotonic()
            if is_stopping and not is_last:
                _log.warning("stopped after step %d as asked; start again to go on", state.step)
                return Outcome(False, _summary(self.context, state))
        return Outcome(True, _summary(self.context, state))

    def _step(self, batch: StepBatch, is_bad: Tensor) -> None:
        """Take a step and leave its figures on the device."""
        strategy, settings, state = self.strategy, self.context.settings, self.state
        factor = state.plateau_factor * rate_factor(batch.step, self.context.plan.n_steps, settings.optimizer)
        set_rate(strategy.optimizer, factor)
        strategy.optimizer.zero_grad(set_to_none=True)
        temperature = strategy.temperature.value()
        losses = add_gradient(strategy.model, self.context, batch, temperature, strategy.projection)
        own_norm = strategy.sum_gradients()
        # One column per process, so that a bad one is known by its number.
        shares = losses.mlm.new_zeros(4, self.context.processes.world_size)
        shares[:, self.context.processes.rank] = torch.stack(
            [losses.mlm, losses.contrastive, losses.nsp, own_norm.to(losses.mlm)]
        )
        shares = summed(shares, self.context.processes)
        norm = strategy.clip(settings.optimizer.max_gradient_norm)
        is_bad.logical_or_(~torch.isfinite(norm + shares.sum()))
        strategy.step(is_bad)
        now = temperature.detach() if isinstance(temperature, Tensor) else shares.new_tensor(temperature)
        rate = settings.optimizer.learning_rate * factor
        row = step_row(batch, learning_rate=rate, model_flop=step_flop(strategy.model.config, settings, batch.work))
        self.record.step(row, torch.cat([shares.flatten(), torch.stack([norm, now]).to(shares)]))

    def _flush(self, elapsed_s: float) -> None:
        """Read the figures of the steps since the last time, check them, and write them."""
        for row, figures in self.record.read(elapsed_s):
            *shares, norm, temperature = figures
            if not all(math.isfinite(f) for f in (*shares, norm)):
                raise TrainingError(self._not_finite(row["step"], shares, norm))
            n = self.context.processes.world_size
            mlm_weight, pair_weight = weights_at(
                self.context.settings.objectives, row["step"] - 1, self.context.plan.n_steps
            )
            mlm = sum(shares[:n]) / row["hidden_tokens"] if row["hidden_tokens"] else None
            pairs = sum(shares[n : 2 * n]) / row["pair_terms"] if row["pair_terms"] else None
            nsp = sum(shares[2 * n : 3 * n]) / row["sentence_pairs"] if row["sentence_pairs"] else None
            nsp_weight = self.context.settings.objectives.nsp
            row |= {
                "loss": mlm_weight * (mlm or 0.0) + pair_weight * (pairs or 0.0) + nsp_weight * (nsp or 0.0),
                "mlm_loss": mlm,
                "contrastive_loss": pairs,
                "nsp_loss": nsp,
                "mlm_weight": mlm_weight,
                "nsp_weight": nsp_weight,
                "temperature": temperature,
                "gradient_norm": norm,
            }
            self.record.write(row)

    def _not_finite(self, step: int, shares: list[float], norm: float) -> str:
        n = self.context.processes.world_size
        ranks = [r for r in range(n) if not all(math.isfinite(share) for share in shares[r::n])]
        who = replace(self.context.processes, rank=ranks[0] if ranks else 0)
        rows = step_batch(replace(self.context, processes=who), step - 1).window_rows
        _, pairs = self.context.plan.pairs.batch(step - 1)
        return (
            f"step {step}: loss or gradient not finite in process {', '.join(map(str, ranks)) or 'unknown'} "
            f"(gradient norm {norm}); stopped before the weights changed. Its windows {rows[:8].tolist()}..., "
            f"the step's pairs {pairs[:8].tolist()}... (rows of the tables). Lower training.optimizer.learning_rate; "
            "the last checkpoint is kept."
        )

    def _check_alike(self) -> None:
        names = self.strategy.differing()
        if names:
            raise TrainingError(
                f"step {self.state.step}: expected the same weights in all processes, found differing "
                f"{', '.join(names[:3])} ({len(names)} in all). A device or the network corrupts data; "
                "the last checkpoint is kept."
            )

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Return for each wish whether any process has it, alike on all."""
        flags = torch.tensor([float(w) for w in wishes], device=self.context.device)
        return [f > 0 for f in summed(flags, self.context.processes).tolist()]

    def _save(self) -> None:
        self.state.metrics_bytes = self.record.synced()
        weights, moments = self.strategy.weights(), self.strategy.moments()
        if self.context.processes.is_first:
            self.store.save(weights, moments, vars(self.state), keep=self.rhythm.keep_checkpoints)

    def _validate(self) -> None:
        """Measure on validation rows, alike on every process, and keep the weights if they are the best so far."""
        state, settings = self.state, self.context.settings
        found = validation_figures(self.strategy.model, self.context)
        bad = [name for name, value in found.items() if value is not None and not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"step {state.step}: {', '.join(bad)} of the validation not finite: the weights have become too large. "
                "Lower training.optimizer.learning_rate; the last checkpoint is kept."
            )
        self.record.write({"event": "validation", "step": state.step, **found})
        value = found[settings.best_metric]
        if value is None:
            raise TrainingError(f"training.best_metric {settings.best_metric}: not measured.")
        # The first process's figure counts for all: were one to stop by its own rounding, the others would wait.
        mine = torch.tensor(value if self.context.processes.is_first else 0.0, device=self.context.device)
        value = summed(mine, self.context.processes).item()
        self._look_for_collapse(found)
        sign = -1 if settings.best_metric == "mlm_loss" else 1
        if state.best_value is None or sign * (value - state.best_value) > settings.min_gain:
            state.best_value, state.best_step, state.figures_at_best = value, state.step, found
            state.validations_since_best = state.validations_on_plateau = 0
            self._keep_best({"step": state.step, settings.best_metric: value})
            return
        state.validations_since_best += 1
        state.validations_on_plateau += 1
        state.stopped_early = state.validations_since_best >= (settings.patience or math.inf)
        is_plateau = state.validations_on_plateau >= settings.optimizer.plateau_patience
        if settings.optimizer.schedule == "plateau" and is_plateau:
            state.plateau_factor *= settings.optimizer.plateau_factor
            state.validations_on_plateau = 0
            _log.info("step %d: no gain, the learning rate is now %g of its peak", state.step, state.plateau_factor)

    def _keep_best(self, about: dict[str, Any]) -> None:
        weights = self.strategy.weights()
        if self.context.processes.is_first:
            with atomic_folder(self.store.best(self.state.step), about=about) as tmp:
                save_file(weights, str(tmp / "model.safetensors"))

    def _look_for_collapse(self, found: dict[str, float | None]) -> None:
        """Say so when all words have become one vector: then the pair loss is ln B and any cosine is near 1."""
        row, cosine = self.record.last, found.get("mean_negative_cosine")
        loss, negatives = row.get("contrastive_loss"), row.get("negatives_per_anchor")
        if cosine is None or loss is None or not negatives:
            return
        guessing = row["pair_weight"] * math.log1p(negatives)
        if cosine > _COLLAPSED_COSINE and loss > _COLLAPSED_LOSS * guessing:
            self.state.collapsed_at_steps.append(self.state.step)
            _log.warning(
                "step %d: the word vectors have collapsed: unrelated words have cosine %.3f, the pair loss %.3f is "
                "that of guessing. Lower training.optimizer.learning_rate or raise training.contrastive.temperature.",
                *(self.state.step, cosine, loss),
            )


def load_best(store: CheckpointStore, model: Bert, step: int) -> None:
    """Put the weights that were best, at ``step``, into the model."""
    stored = load_file(str(store.best(step) / "model.safetensors"))
    with torch.no_grad():
        for name, own in model.named_parameters():
            if name in stored:
                own.copy_(stored[name])


def _resume(context: Context, store: CheckpointStore, strategy: Replicated) -> _State:
    is_first = context.processes.is_first
    checkpoint, skipped = store.newest() if is_first else (None, [])
    for reason in skipped:
        _log.warning("a damaged checkpoint is passed over: %s", reason)
    # The first process says which one: the others may look while it still writes, or through a slower file system.
    mine = torch.tensor(checkpoint.state["step"] if checkpoint else 0, device=context.device)
    step = int(summed(mine, context.processes).item())
    if not step:
        return _State()
    checkpoint = checkpoint or store.checkpoint(step)
    weights, moments = store.tensors(checkpoint, {n: p.shape for n, p in strategy.parameters.items()})
    strategy.restore(weights, moments)
    state = _State(**checkpoint.state)
    state.resumed = [*state.resumed, state.step]
    _log.info("going on from step %d of %d", state.step, context.plan.n_steps)
    return state


def _summary(context: Context, state: _State) -> dict[str, Any]:
    return {
        "steps": state.step,
        "planned_steps": context.plan.n_steps,
        "best_step": state.best_step,
        "best_metric": context.settings.best_metric,
        "best_value": state.figures_at_best.get(context.settings.best_metric),
        "figures_at_best": state.figures_at_best,
        "stopped_early": state.stopped_early,
        "collapsed_at_steps": state.collapsed_at_steps,
        "resumed_at_steps": state.resumed,
        "trained_s": state.trained_s,
        "world_size": context.processes.world_size,
        "device": str(context.device),
        **context.plan.coverage(),
    }
