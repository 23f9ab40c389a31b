"""Fine-tuning by transformers' Trainer: validation, checkpoint and best model at the end of each epoch."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from commbert.errors import TrainingError
from commbert.finetuning.checkpoints import Sealed, TrainerCheckpoints
from commbert.finetuning.examples import Dataset, Examples
from commbert.finetuning.measures import confusion, figures_of, score_figures
from commbert.nn.packing import SpecialIds
from commbert.settings.finetune import FinetuneSettings
from commbert.training.memory import memory_figures
from commbert.training.progress import TrainingProgress

_LOGS = 200
"""Points of the loss curve, about: more would make a GPU wait."""
_HIGHER_IS_BETTER = frozenset({"accuracy", "macro_f1", "weighted_f1", "spearman"})
_GPU_REASON = "no CUDA device: peak_memory_gib is the process's own"


@dataclass(frozen=True)
class Setup:
    """What stays the same through a fine-tuning."""

    settings: FinetuneSettings
    dataset: Dataset
    tokenizer: Tokenizer
    specials: SpecialIds
    device: torch.device
    precision: str
    mean: float = 0.0
    """Of the training scores; 0 for classes."""
    deviation: float = 1.0
    """Of the training scores; 1 for classes."""


@dataclass(frozen=True)
class Outcome:
    """A finished training."""

    best_step: int
    last_step: int
    epochs: list[dict[str, Any]]
    """One entry per epoch: its validation figures, seconds, memory."""
    losses: list[dict[str, float]]
    """Training loss (mean since the entry before) and learning rate, by step."""
    is_stopped_early: bool
    resumed_from_step: int
    seconds: float
    """Of this attempt."""


class _Rows(TorchDataset):
    """Rows of a split as Trainer wants them."""

    def __init__(self, examples: Examples, setup: Setup) -> None:
        self._examples, self._specials = examples, setup.specials
        target = examples.target
        is_scoring = not setup.dataset.classes
        self._target = ((target - setup.mean) / setup.deviation).astype(np.float32) if is_scoring else target

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        ids = self._examples.tokens[int(self._examples.row[i])].tolist()
        return {"input_ids": [self._specials.cls, *ids, self._specials.sep], "labels": self._target[i].item()}


class _Recorder(TrainerCallback):
    """Seals checkpoints, notes memory and time of each epoch, shows progress, stops at a loss that is not finite."""

    def __init__(self, checkpoints: TrainerCheckpoints, device: torch.device) -> None:
        self._checkpoints, self._device = checkpoints, device
        self._progress: TrainingProgress | None = None
        self._began_s = 0.0
        self._loss = self._metric = float("nan")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress = TrainingProgress(state.max_steps, state.global_step, is_shown=True)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began_s = time.monotonic()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss = (logs or {}).get("loss", (logs or {}).get("eval_loss"))
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"step {state.global_step}: the loss is {loss}. Lower finetune.learning_rate; "
                "the checkpoints of earlier epochs are kept."
            )
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._progress is not None:
            figures = f"loss {self._loss:.3f}"
            if not math.isnan(self._metric):
                figures += f", {args.metric_for_best_model} {self._metric:.3f}"
            self._progress.update(state.global_step, figures)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        self._metric = (metrics or {}).get(f"eval_{args.metric_for_best_model}", self._metric)
        is_cuda = self._device.type == "cuda"
        memory = memory_figures(self._device)
        peak = memory["peak_memory_gib"]
        # The last entry of the record is this validation: what is added stands in the checkpoint that follows.
        state.log_history[-1] |= {
            "epoch_seconds": round(time.monotonic() - self._began_s, 3),
            "gpu_memory_gib": peak if is_cuda else None,
            "gpu_memory_reason": None if is_cuda else _GPU_REASON,
            "peak_memory_gib": peak,
        }

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._checkpoints.seal(state.global_step)
        # Trainer itself would remove the older one before this one is sealed.
        self._checkpoints.forget_but(state.global_step, state.best_global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Take the progress bar down."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def train(
    model: BertForSequenceClassification, setup: Setup, checkpoints: TrainerCheckpoints, newest: Sealed | None
) -> Outcome:
    """Train, from a checkpoint on if there is one; the weights are in the checkpoints of the outcome's steps.

    On a CPU a training that was cut off gives the bits of one that was not. A cut costs at most an epoch.

    Raises:
        TrainingError: If a loss is not finite.
    """
    recorder = _Recorder(checkpoints, setup.device)
    trainer = _trainer(model, setup, checkpoints.folder, recorder)
    began_s = time.monotonic()
    state: Any
    if newest is not None and _is_finished(newest.state, setup.settings):
        state = newest.state
    else:
        try:
            trainer.train(resume_from_checkpoint=None if newest is None else str(newest.folder))
        finally:
            recorder.close()
        state = vars(trainer.state)
    logs = state["log_history"]
    last = state["global_step"]
    return Outcome(
        best_step=state["best_global_step"],
        last_step=last,
        epochs=[_epoch(entry) for entry in logs if "eval_loss" in entry],
        losses=[{k: e[k] for k in ("step", "loss", "learning_rate")} for e in logs if "loss" in e],
        is_stopped_early=last < state["max_steps"],
        resumed_from_step=0 if newest is None else newest.state["global_step"],
        seconds=time.monotonic() - began_s,
    )


def predict(model: BertForSequenceClassification, setup: Setup, examples: Examples) -> NDArray[np.float64]:
    """Return the [n, classes] probabilities of the rows, or their [n] scores on the table's scale."""
    order = np.argsort(-examples.tokens.lengths(examples.row), kind="stable")
    rows, collate = _Rows(examples, setup), _collator(setup)
    out = np.empty((len(examples), max(1, len(setup.dataset.classes))))
    model.eval()
    size = 4 * setup.settings.batch
    with torch.inference_mode():
        for begin in range(0, len(order), size):
            at = order[begin : begin + size]
            found = collate([rows[int(i)] for i in at])
            batch = {name: value.to(setup.device) for name, value in found.items() if name != "labels"}
            with torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.precision == "bf16"):
                logits = model(**batch).logits
            out[at] = logits.double().cpu().numpy()
    if not setup.dataset.classes:
        return out[:, 0] * setup.deviation + setup.mean
    grown = np.exp(out - out.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))


def _trainer(model: BertForSequenceClassification, setup: Setup, folder: Path, recorder: _Recorder) -> Trainer:
    settings = setup.settings
    splits = setup.dataset.splits
    steps = math.ceil(len(splits["train"]) / settings.batch) * settings.epochs
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=4 * settings.batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=math.ceil(settings.warmup_fraction * steps),
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_gradient_norm,
        optim="adamw_torch",
        bf16=setup.precision == "bf16",
        use_cpu=setup.device.type == "cpu",
        train_sampling_strategy="group_by_length",
        dataloader_pin_memory=setup.device.type == "cuda",
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=settings.metric,
        greater_is_better=settings.metric in _HIGHER_IS_BETTER,
        restore_callback_states_from_checkpoint=True,
        logging_strategy="steps",
        logging_steps=max(1, steps // _LOGS),
        logging_nan_inf_filter=False,
        seed=settings.seed,
        data_seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    # Several GPUs would each get a batch of their own, by DataParallel: the result would depend on the machine.
    arguments._n_gpu = min(1, arguments.n_gpu)
    stopping = [] if settings.patience is None else [EarlyStoppingCallback(settings.patience, settings.min_gain)]
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=_collator(setup),
        train_dataset=_Rows(splits["train"], setup),
        eval_dataset=_Rows(splits["validation"], setup),
        compute_metrics=_validation_figures(setup),
        compute_loss_func=_weighted_loss(setup),
        callbacks=[recorder, *stopping],
    )
    for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"]:
        trainer.remove_callback(callback)
    return trainer


def _collator(setup: Setup) -> DataCollatorWithPadding:
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return DataCollatorWithPadding(PreTrainedTokenizerFast(tokenizer_object=setup.tokenizer, **names))


def _validation_figures(setup: Setup) -> Callable[[EvalPrediction], dict[str, float]]:
    n_classes = len(setup.dataset.classes)

    def figures(found: EvalPrediction) -> dict[str, float]:
        logits, truth = np.asarray(found.predictions, np.float64), np.asarray(found.label_ids)
        if n_classes:
            return figures_of(confusion(truth, logits.argmax(1), n_classes))
        scale = setup.deviation
        of = score_figures(truth.astype(np.float64).ravel() * scale, logits.ravel() * scale)
        # A model that still says the same of every row has no correlation; it must lose against any other.
        return {**of, "spearman": -1.0 if math.isnan(of["spearman"]) else of["spearman"]}

    return figures


def _weighted_loss(setup: Setup) -> Callable[..., Tensor] | None:
    """Return the cross entropy by balanced class weights; None for the model's own loss."""
    if setup.settings.class_weights == "none":
        return None
    train = setup.dataset.splits["train"]
    counts = np.bincount(train.target, minlength=len(setup.dataset.classes))
    weights = torch.tensor(len(train) / (len(counts) * counts), dtype=torch.float32, device=setup.device)

    def loss(outputs: Any, labels: Tensor, **_: object) -> Tensor:
        return functional.cross_entropy(outputs.logits.float(), labels, weight=weights)

    return loss


def _is_finished(state: dict[str, Any], settings: FinetuneSettings) -> bool:
    """Return whether a training ended at this checkpoint: Trainer itself would add an epoch after an early stop."""
    stopping = state["stateful_callbacks"].get("EarlyStoppingCallback")
    waited = stopping["attributes"]["early_stopping_patience_counter"] if isinstance(stopping, dict) else 0
    return bool(state["global_step"] >= state["max_steps"] or (settings.patience and waited >= settings.patience))


def _epoch(entry: dict[str, Any]) -> dict[str, Any]:
    own = {k.removeprefix("eval_"): v for k, v in entry.items() if k.startswith("eval_")}
    kept = ("epoch_seconds", "gpu_memory_gib", "gpu_memory_reason", "peak_memory_gib")
    for name in ("runtime", "samples_per_second", "steps_per_second"):
        own.pop(name, None)
    return {"epoch": round(entry["epoch"]), "step": entry["step"], "validation": own, **{k: entry[k] for k in kept}}
