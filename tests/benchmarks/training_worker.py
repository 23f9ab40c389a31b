"""One variant of the training benchmark, in a process of its own; ``training.py`` starts it and reads its result.

All variants read the same masked windows, labels and pairs, and take the same steps of the same objective:
0.7 MLM (mean over the masked tokens) + 0.3 InfoNCE (from anchor to positive, all positives of the step as candidates).
"""

import argparse
import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from commbert.artifacts import write_json
from commbert.nn.collectives import Processes
from commbert.nn.model import from_transformers, load_transformers, special_ids
from commbert.nn.packing import on_tensors
from commbert.nn.products import linear
from commbert.rows import Rows
from commbert.settings.training import TrainingSettings
from commbert.training.batches import step_batch, step_windows
from commbert.training.context import Context
from commbert.training.data import DataPaths, PairData, read_training_data
from commbert.training.plan import Stream, make_plan
from commbert.training.step import add_gradient
from commbert.training.strategies import make_strategy

Ints = NDArray[np.int64]
NO_DROPOUT = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
BASE_SIZE = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
MAX_TOKENS = 128
IGNORED = -100


# What is computed: the same for all variants.


@dataclass(frozen=True)
class DistinctPairs(Stream):
    """The planned pairs without those that repeat a word of their step.

    MultipleNegativesRankingLoss counts a repeated word as a negative, commbert does not: with repeats losses differ.
    """

    chosen: tuple[Ints, ...]

    def batch(self, step: int) -> tuple[Ints, Ints]:
        return np.zeros(self.batch_size, np.int64), self.chosen[step]


@dataclass(frozen=True)
class Batch:
    """One step's rows with [CLS] and [SEP], windows masked."""

    windows: list[Tensor]
    labels: list[Tensor]
    anchors: list[Tensor]
    positives: list[Tensor]


@dataclass(frozen=True)
class Case:
    """What every variant is given."""

    context: Context
    config: BertConfig
    start: Path
    size: str
    batches: list[Batch]

    @property
    def device(self) -> torch.device:
        return self.context.device


def read_case(args: argparse.Namespace) -> Case:
    """Read tables and start model, and lay out the batches of all steps."""
    settings = TrainingSettings.model_validate(
        {
            "objectives": {"mlm": 0.7, "contrastive": 0.3},
            "contrastive": {"temperature": 0.05, "symmetric": False, "mask_known_positives": False},
            "batch_windows": args.batch,
            "batch_pairs": args.batch,
            "micro_batches": args.micro_batches,
            "optimizer": {"learning_rate": 2.0e-5, "max_gradient_norm": 1.0},
        }
    )
    start = args.data / "runs/final/start"
    context = our_context(settings, args, start)
    sizes = BASE_SIZE if args.size == "base" else {}
    config = BertConfig.from_pretrained(str(start), **NO_DROPOUT, **sizes)
    batches = [batch_of(context, step) for step in range(args.steps + 1)]
    return Case(context, config, start, args.size, batches)


def our_context(settings: TrainingSettings, args: argparse.Namespace, start: Path) -> Context:
    """Return what commbert's own stage would pass to its steps; all variants take their rows from it."""
    tables = {"windows": "windows/train", "pairs": "pairs/train", "known": "pairs/known", "words": "tokenizer/words"}
    held_out = {"validation_windows": "windows/validation", "validation_pairs": "pairs/validation"}
    suffix = {"windows": "json", "validation_windows": "json"}  # lists of files
    paths = {k: args.data / f"{v}.{suffix.get(k, 'parquet')}" for k, v in (tables | held_out).items()}
    data = read_training_data(
        DataPaths(**paths),
        validation_windows=1,
        validation_pairs=10,
        validation_queries=1,
        validation_candidates=2,
        seed=0,
    )
    no_negatives = Rows.end_to_end(np.empty(0, np.int64), np.zeros(len(data.pairs) + 1, np.int64))
    data = replace(data, pairs=PairData(data.pairs.anchor, data.pairs.positive, no_negatives))
    plan = make_plan(settings, n_windows=len(data.windows), n_pairs=len(data.pairs), world_size=1)
    plan = replace(plan, pairs=distinct_pairs(plan.pairs, data.pairs, args.steps + 1))
    specials = special_ids(start)
    vocabulary = json.loads((start / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    regular = {i for t, i in vocabulary.items() if not t.startswith("[unused")} - set(vars(specials).values())
    device = torch.device(args.device)
    # The check compares numbers, so it runs in float32 on a GPU too.
    is_bf16 = device.type == "cuda" and not args.check
    return Context(
        settings=settings,
        data=data,
        plan=plan,
        specials=specials,
        regular_ids=np.array(sorted(regular)),
        pooling="mean",
        most_positions=MAX_TOKENS,
        processes=Processes(),
        device=device,
        autocast=torch.autocast("cuda", torch.bfloat16) if is_bf16 else contextlib.nullcontext(),
    )


def distinct_pairs(stream: Stream, pairs: PairData, n_steps: int) -> DistinctPairs:
    """Return the first pairs of the plan whose words are all different within a step."""
    rows = chain.from_iterable(stream.batch(step)[1] for step in range(10 * stream.steps_per_epoch))
    chosen = [_distinct_rows(rows, pairs, stream.batch_size) for _ in range(n_steps)]
    return DistinctPairs(**vars(stream), chosen=tuple(chosen))


def _distinct_rows(rows: Iterator[int], pairs: PairData, wanted: int) -> Ints:
    chosen: list[int] = []
    used: set[int] = set()
    for row in rows:
        words = {int(pairs.anchor[row]), int(pairs.positive[row])}
        if len(words) == 2 and not words & used:
            chosen.append(row)
            used |= words
        if len(chosen) == wanted:
            return np.array(chosen)
    raise SystemExit(f"pairs/train.parquet: expected {wanted} pairs of different words for every step, found fewer.")


def batch_of(context: Context, step: int) -> Batch:
    """Return a step's rows, masked by commbert's own function of (seed, epoch, window)."""
    read = step_windows(context, step)
    masked, lengths = read.masked, read.lengths
    windows = np.split(masked.input_ids, np.cumsum(lengths)[:-1])
    labels = np.full(int(lengths.sum()), IGNORED)
    labels[masked.positions] = masked.labels
    _, rows = context.plan.pairs.batch(step)
    pairs, words, specials = context.data.pairs, context.data.words, context.specials

    def framed(ids: Ints, left: int = specials.cls, right: int = specials.sep) -> Tensor:
        return torch.from_numpy(np.concatenate([[left], ids, [right]]))

    return Batch(
        windows=[framed(w) for w in windows],
        labels=[framed(x, IGNORED, IGNORED) for x in np.split(labels, np.cumsum(lengths)[:-1])],
        anchors=[framed(w) for w in words.rows(pairs.anchor[rows])],
        positives=[framed(w) for w in words.rows(pairs.positive[rows])],
    )


def work_of(batch: Batch, config: BertConfig) -> dict[str, float]:
    """Return a step's useful tokens and useful FLOP: what no implementation of this objective can leave out."""
    lengths = np.array([len(s) for s in (*batch.windows, *batch.anchors, *batch.positives)], np.float64)
    n_masked = sum(int((x != IGNORED).sum()) for x in batch.labels)
    h, i, v, layers = config.hidden_size, config.intermediate_size, config.vocab_size, config.num_hidden_layers
    linear = 2 * (4 * h * h + 2 * h * i) * lengths.sum()
    attention = 4 * h * (lengths**2).sum()
    forward = layers * (linear + attention) + n_masked * (2 * h * v + 2 * h * h)
    return {
        "windows": len(batch.windows),
        "useful_tokens": int(lengths.sum()),
        "masked_tokens": n_masked,
        "useful_gflop": 3 * forward / 1e9,  # a backward pass costs twice its forward pass
    }


def start_network(kind: Any, case: Case) -> Any:
    """Return the start model as a class of transformers, without dropout; all variants get the same weights."""
    torch.manual_seed(case.context.settings.seed)
    source = load_transformers(case.start) if case.size == "minilm" else BertForPreTraining(case.config)
    network = kind(case.config)
    missing = network.load_state_dict(source.state_dict(), strict=False).missing_keys
    if missing:
        raise SystemExit(f"{kind.__name__}: the start model lacks {missing[:3]}.")
    return network.to(case.device).train()


def encoder_norm(network: Any) -> float:
    """Return the 2-norm of the gradient of the encoder, embeddings included."""
    heads = ("pooler.", "mlm_", "nsp.")
    parts = getattr(network, "bert", network).named_parameters()
    grads = [p.grad for n, p in parts if p.grad is not None and not n.startswith(heads)]
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.double()) for g in grads])))


# What is measured.


class Stopwatch:
    """Times of the steps after the first (warm-up) one, the peak of matrix products around them, peak memory."""

    def __init__(self, device: torch.device, n_steps: int) -> None:
        self._device, self._n_steps = device, n_steps
        self._n_done = 0
        self._last = 0.0
        self._last_cpu = 0.0
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.peaks: list[dict[str, float]] = []
        self.memory_gib = {"before": _peak_memory_gib(device)}

    def step_done(self) -> None:
        """Call after each step, the update included."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        if self._n_done:
            self.seconds.append(time.perf_counter() - self._last)
            self.cpu_seconds.append(time.process_time() - self._last_cpu)
        if self._n_done == self._n_steps:
            self.memory_gib["peak"] = _peak_memory_gib(self._device)
        if self._n_done in (0, self._n_steps):
            self.peaks.append(matmul_gflops(self._device))
        if self._n_done == 0 and self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._n_done += 1
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    @property
    def cpu_share(self) -> float | None:
        """CPU time of a thread per time passed; threads wait for each other busily, so 1 unless cores are shared."""
        passed = sum(self.seconds) * torch.get_num_threads()
        return sum(self.cpu_seconds) / passed if passed else None


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def matmul_gflops(device: torch.device) -> dict[str, float]:
    """Return the best of several large matrix products, in GFLOP/s: by torch.mm, and by whoever commbert takes."""
    n, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, b, out = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(3))
    ways = {"torch.mm": lambda: torch.mm(a, b, out=out), "commbert": lambda: linear(a, b)}
    return {name: 2 * n**3 / _shortest_s(way, device) / 1e9 for name, way in ways.items()}


def _shortest_s(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(12):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


# The variants.


@dataclass
class Outcome:
    """What a variant computed."""

    losses: list[float]
    encoder_gradient_norm: float
    """Of step 0, before clipping."""


class PaddedStep:
    """What the public system does: every row padded to 128, words too, and logits for every position of every row."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.network = start_network(BertForMaskedLM, case)
        self._batches = [self._padded(b) for b in case.batches]
        settings = case.context.settings.optimizer
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.learning_rate)
        self._max_norm = settings.max_gradient_norm

    def gradient(self, step: int) -> Tensor:
        windows, labels, anchors, positives = self._batches[step]
        weights = self._case.context.settings.objectives
        self._optimizer.zero_grad()
        with self._case.context.autocast:
            out = self.network(*windows, labels=labels)
            pair_loss = self._info_nce(self._vectors(*anchors), self._vectors(*positives))
            loss = weights.mlm * out.loss + weights.contrastive * pair_loss
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._max_norm)
        self._optimizer.step()

    def _vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        out = self.network(ids, mask, output_hidden_states=True)
        weight = mask.unsqueeze(-1).to(out.hidden_states[-1].dtype)
        return (out.hidden_states[-1] * weight).sum(1) / weight.sum(1)

    def _info_nce(self, anchors: Tensor, positives: Tensor) -> Tensor:
        a, p = (functional.normalize(x.float(), dim=-1) for x in (anchors, positives))
        logits = a @ p.T / self._case.context.settings.contrastive.temperature
        return functional.cross_entropy(logits, torch.arange(len(a), device=a.device))

    def _padded(self, batch: Batch) -> tuple[Any, Tensor, Any, Any]:
        windows, anchors, positives = (self._rows(x) for x in (batch.windows, batch.anchors, batch.positives))
        return windows, to_width(batch.labels, IGNORED).to(self._case.device), anchors, positives

    def _rows(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        ids = to_width(rows, self._case.context.specials.pad)
        mask = to_width([torch.ones_like(r) for r in rows], 0)
        return ids.to(self._case.device), mask.to(self._case.device)


def to_width(rows: list[Tensor], fill: int) -> Tensor:
    """Pad rows to 128 columns."""
    return torch.stack([functional.pad(r, (0, MAX_TOKENS - len(r)), value=fill) for r in rows])


class OurStep:
    """commbert's trainer: all that this benchmark uses of it.

    A step's rows are picked, masked and packed within the step here; in training that happens while the step before is
    computed.
    """

    def __init__(self, case: Case) -> None:
        self._context = case.context
        # As the stage does.
        torch.use_deterministic_algorithms(case.device.type == "cpu")
        self.network = from_transformers(start_network(BertForPreTraining, case))
        self._strategy = make_strategy("single", self.network, case.context.settings, Processes())
        self._is_bad = torch.zeros((), device=case.device)

    def gradient(self, step: int) -> Tensor:
        context = self._context
        self._strategy.optimizer.zero_grad(set_to_none=True)
        batch = on_tensors(step_batch(context, step), lambda t: t.to(context.device, non_blocking=True))
        sums = add_gradient(self.network, context, batch, self._strategy.temperature.value())
        weights = context.settings.objectives
        return weights.mlm * sums.mlm / batch.n_hidden_tokens + weights.contrastive * sums.contrastive / batch.n_terms

    def update(self) -> None:
        norm = self._strategy.clip(self._context.settings.optimizer.max_gradient_norm)
        self._is_bad.logical_or_(~torch.isfinite(norm))
        self._strategy.step(self._is_bad)


def run_steps(variant: PaddedStep | OurStep, n_steps: int, step_done: Callable[[], None]) -> Outcome:
    """Take steps 0 to n_steps - 1."""
    losses, norm = [], 0.0
    for step in range(n_steps):
        losses.append(variant.gradient(step))
        if step == 0:
            norm = encoder_norm(variant.network)
        variant.update()
        step_done()
    return Outcome([float(x) for x in losses], norm)


def run_libraries(case: Case, n_steps: int, step_done: Callable[[], None]) -> Outcome:
    """Take the steps with transformers' Trainer and sentence-transformers' loss, both at their defaults.

    Only ``compute_loss`` is overridden. Windows, anchors and positives are each padded to their longest row.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses as pair_losses
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import Trainer, TrainerCallback

    settings = case.context.settings
    network = start_network(BertForMaskedLM, case)
    encoder = Transformer(str(case.start))
    encoder.model = network.bert  # shared: one encoder learns from both losses
    embedder = SentenceTransformer(modules=[encoder, Pooling(case.config.hidden_size)], device=str(case.device))
    pair_loss = pair_losses.MultipleNegativesRankingLoss(embedder, scale=1 / settings.contrastive.temperature)
    losses: list[Tensor] = []
    norms: list[float] = []

    class JointTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Tensor:
            mlm = model(**inputs["windows"]).loss
            # Accelerate puts autocast around the prepared model only; the embedder is not that.
            with self.accelerator.autocast():
                contrastive = pair_loss([dict(inputs["anchors"]), dict(inputs["positives"])], None)
            loss = settings.objectives.mlm * mlm + settings.objectives.contrastive * contrastive
            losses.append(loss.detach())
            return loss

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            if not norms:
                norms.append(encoder_norm(network))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            step_done()

    with tempfile.TemporaryDirectory() as folder:
        rows = [row for b in case.batches for row in zip(b.windows, b.labels, b.anchors, b.positives, strict=True)]
        trainer = JointTrainer(
            network,
            trainer_arguments(case, folder, n_steps),
            train_dataset=rows,
            data_collator=lambda chosen: collated(chosen, case.context.specials.pad),
            callbacks=[Watch()],
        )
        trainer.train()
    return Outcome([float(x) for x in losses], norms[0])


def trainer_arguments(case: Case, folder: str, n_steps: int) -> Any:
    """Return the Trainer's defaults, but for rate, decay, order of rows, and nothing saved or logged."""
    from transformers import TrainingArguments

    settings = case.context.settings
    is_cuda, is_check = case.device.type == "cuda", n_steps == 1
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=settings.batch_windows,
        max_steps=n_steps,
        learning_rate=settings.optimizer.learning_rate,
        lr_scheduler_type="constant",
        # Its callbacks see the gradient after clipping only, and the check is on the gradient before.
        max_grad_norm=1e9 if is_check else settings.optimizer.max_gradient_norm,
        weight_decay=settings.optimizer.weight_decay,
        bf16=is_cuda and not is_check,
        use_cpu=not is_cuda,
        dataloader_pin_memory=is_cuda,
        # The order is that of the plan, as for the other variants.
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def collated(rows: list[tuple[Tensor, ...]], pad: int) -> dict[str, dict[str, Tensor]]:
    """Pad windows, anchors and positives each to their longest row."""
    windows, labels, anchors, positives = (list(column) for column in zip(*rows, strict=True))

    def features(column: list[Tensor]) -> dict[str, Tensor]:
        mask = pad_sequence([torch.ones_like(r) for r in column], batch_first=True)
        return {"input_ids": pad_sequence(column, batch_first=True, padding_value=pad), "attention_mask": mask}

    padded_labels = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    return {
        "windows": {**features(windows), "labels": padded_labels},
        "anchors": features(anchors),
        "positives": features(positives),
    }


def run(variant: str, case: Case, n_steps: int, step_done: Callable[[], None]) -> Outcome:
    """Take steps 0 to n_steps - 1 with a variant."""
    if variant == "libraries":
        return run_libraries(case, n_steps, step_done)
    return run_steps({"padded": PaddedStep, "commbert": OurStep}[variant](case), n_steps, step_done)


def main() -> None:
    """Run as told on the command line, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=["padded", "libraries", "commbert"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", choices=["minilm", "base"], required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--micro-batches", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="timed steps; 0 with --check")
    parser.add_argument("--check", action="store_true", help="one step in float32, loss and gradient norm, no times")
    parser.add_argument("--result", type=Path, required=True)
    args = parser.parse_args()
    case = read_case(args)
    watch = Stopwatch(case.device, args.steps)
    outcome = run(args.variant, case, args.steps + 1, (lambda: None) if args.check else watch.step_done)
    result = {
        **vars(outcome),
        "threads": torch.get_num_threads(),
        "step_seconds": watch.seconds,
        "cpu_share": watch.cpu_share,
        "matmul_gflops": watch.peaks,
        "memory_gib": watch.memory_gib,
        "work": [work_of(b, case.config) for b in case.batches[1:]],
    }
    write_json(args.result, result)


if __name__ == "__main__":
    main()
