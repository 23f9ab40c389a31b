"""A training in memory: random windows, words and pairs, a tiny network, and what two processes do with them."""

import contextlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import BertForPreTraining

import tiny
from commbert.known import pair_keys
from commbert.nn.collectives import Processes, sum_gradients, summed
from commbert.nn.encoder import Bert
from commbert.nn.model import from_transformers
from commbert.nn.packing import SpecialIds
from commbert.nn.projection import Projection, make_projection
from commbert.rows import Rows
from commbert.sentences import Documents
from commbert.settings.base import merged
from commbert.settings.training import TrainingSettings
from commbert.training.batches import StepBatch, step_batch
from commbert.training.checkpoints import CheckpointStore
from commbert.training.context import Context
from commbert.training.data import PairData, TrainingData
from commbert.training.loop import Outcome, Rhythm, train
from commbert.training.plan import make_plan
from commbert.training.record import MEASURED
from commbert.training.retrieval import choose_retrieval
from commbert.training.step import add_gradient, weights_at
from commbert.training.strategies import make_strategy
from commbert.training.trackers import Tracker

SPECIALS = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
N_VOCABULARY = len(tiny.vocabulary())
REGULAR = np.arange(5, N_VOCABULARY)
NO_DROPOUT = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}


def ragged(rows: Sequence[Sequence[int]]) -> Rows:
    """Lay rows end to end."""
    values = [np.asarray(r, np.int64) for r in rows]
    return Rows.end_to_end(
        np.concatenate(values) if values else np.empty(0, np.int64), np.cumsum([0, *map(len, values)], dtype=np.int64)
    )


def data(
    *, n_windows: int = 26, n_words: int = 24, n_pairs: int = 31, seed: int = 0, n_tokens: tuple[int, int] = (1, 30)
) -> TrainingData:
    """Return random rows: windows of 1 to 29 tokens, words of 1 to 6, pairs with none to two negatives, longer texts.

    Of the pairs of texts, two have the same first text.
    """
    rng = np.random.default_rng(seed)
    windows = [rng.choice(REGULAR, rng.integers(*n_tokens)) for _ in range(n_windows)]
    words = [rng.choice(REGULAR, rng.integers(1, 7)) for _ in range(n_words)]
    ab = np.array([rng.choice(n_words, 2, replace=False) for _ in range(n_pairs)]).reshape(n_pairs, 2)
    negatives = [rng.integers(0, n_words, rng.integers(0, 3)) for _ in range(n_pairs)]
    further = rng.integers(0, n_words, (n_words, 2))
    held_out = rng.integers(0, n_words, (4, 12))
    known = np.unique(pair_keys(*np.concatenate([ab, further]).T))
    everywhere = np.ones(n_words, np.bool_)
    texts = [rng.choice(REGULAR, rng.integers(2, 25)) for _ in range(9)]
    of_texts = n_words + np.array([(0, 1), (0, 2), (3, 4), (5, 6), (8, 7)])
    return TrainingData(
        windows=ragged(windows),
        pairs=PairData(ab[:, 0], ab[:, 1], ragged(negatives)),
        words=ragged([*words, *texts]),
        known=np.concatenate([known, np.unique(pair_keys(*of_texts.T))]),
        texts=PairData.of(*of_texts.T),
        documents=documents(n_windows),
        validation_sentences=(ragged(windows), documents(n_windows).pairs(*_firsts(n_windows), seed=1)),
        validation_windows=[rng.choice(REGULAR, 20) for _ in range(3)],
        validation_positive=(held_out[0], held_out[1]),
        validation_negative=(held_out[2], held_out[3]),
        validation_retrieval=choose_retrieval(
            held_out[0], held_out[1], everywhere, known, n_queries=8, n_candidates=20, seed=seed
        ),
    )


def documents(n_windows: int) -> Documents:
    """Return files of 1, 2, 3, 4 ... windows, each of two lines of its own."""
    file_id = np.repeat(np.arange(n_windows), np.arange(n_windows) + 1)[:n_windows]
    line = 2 * np.arange(n_windows)
    return Documents.of(file_id, line, line + 1)


def _firsts(n_windows: int) -> tuple[np.ndarray, np.ndarray]:
    first = documents(n_windows).firsts
    return first, np.zeros_like(first)


def settings(**changes: Any) -> TrainingSettings:
    """Return the settings of a small run; nested changes are laid on."""
    base: dict[str, Any] = {
        "epochs": 3,
        "batch_windows": 9,
        "batch_pairs": 11,
        "micro_batches": 4,
        "validate_every_steps": 3,
        "best_metric": "auc_frequency_matched",
        "optimizer": {"learning_rate": 1.0e-3},
        "seed": 5,
    }
    return TrainingSettings.model_validate(merged(base, changes))


def network(*, seed: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> Bert:
    """Return a tiny BERT whose weights are large enough for gradients to be told from rounding."""
    torch.manual_seed(seed)
    theirs = BertForPreTraining(tiny.config(**{"initializer_range": 0.2, **changes})).to(dtype)
    with torch.no_grad():
        theirs.cls.predictions.bias.normal_(0.0, 0.2)
    return from_transformers(theirs).train()


def context(
    chosen: TrainingSettings,
    rows: TrainingData | None = None,
    *,
    processes: Processes | None = None,
    pooling: str = "mean",
    autocast: contextlib.AbstractContextManager[None] | None = None,
) -> Context:
    """Return what the stage would pass to the loop."""
    rows, processes = rows or data(), processes or Processes()
    return Context(
        settings=chosen,
        data=rows,
        plan=make_plan(
            chosen,
            n_windows=len(rows.documents.firsts) if chosen.objectives.nsp and rows.documents else len(rows.windows),
            n_pairs=len(rows.pairs),
            n_texts=len(rows.texts),
            world_size=processes.world_size,
        ),
        specials=SPECIALS,
        regular_ids=REGULAR,
        pooling=pooling,
        most_positions=64,
        processes=processes,
        device=torch.device("cpu"),
        autocast=autocast or contextlib.nullcontext(),
    )


@dataclass(frozen=True)
class StepResult:
    """Means over the whole step; a loss is None where the step had nothing for it."""

    loss: float
    mlm_loss: float | None
    contrastive_loss: float | None
    nsp_loss: float | None
    batch: StepBatch
    projection: Projection | None


def gradient_of_step(model: Bert, at: Context, step: int, *, temperature: Any = None, is_even: bool = False) -> Any:
    """Add the step's gradient, summed over all processes, to the parameters' ``grad``."""
    batch = step_batch(at, step, is_even=is_even)
    temperature = at.settings.contrastive.temperature if temperature is None else temperature
    projection = make_projection(
        at.settings.contrastive, model.config.hidden_size, seed=at.settings.seed, like=model.mlm_bias.detach()
    )
    sums = add_gradient(model, at, batch, temperature, projection)
    parameters = [p for p in model.parameters() if p.requires_grad]
    parameters += projection.parameters() if projection is not None else []
    if isinstance(temperature, torch.Tensor):
        parameters.append(temperature)
    sum_gradients(parameters, at.processes)
    mlm_sum, pair_sum, nsp_sum = summed(torch.stack([sums.mlm, sums.contrastive, sums.nsp]), at.processes).tolist()
    mlm = mlm_sum / batch.n_hidden_tokens if batch.n_hidden_tokens else None
    pairs = pair_sum / batch.n_terms if batch.n_terms else None
    nsp = nsp_sum / batch.n_sentence_pairs if batch.n_sentence_pairs else None
    weights = (*weights_at(at.settings.objectives, step, at.plan.n_steps), at.settings.objectives.nsp)
    loss = sum(w * (value or 0.0) for w, value in zip(weights, (mlm, pairs, nsp), strict=True))
    return StepResult(loss, mlm, pairs, nsp, batch, projection)


def gradient(
    model: Bert, at: Context, step: int = 0, *, without: tuple[str, ...] = ()
) -> tuple[StepResult, torch.Tensor]:
    """Return a step's figures and its gradient as one vector."""
    model.zero_grad(set_to_none=True)
    result = gradient_of_step(model, at, step)
    return result, torch.cat([flat_gradient(model, without=without), *of_projection(result.projection)])


def of_projection(projection: Projection | None) -> list[torch.Tensor]:
    """Return the gradients of a projection; of none, none."""
    weights = projection.parameters() if projection is not None else ()
    return [torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1) for p in weights]


def flat_gradient(model: Bert, *, without: tuple[str, ...] = ()) -> torch.Tensor:
    """Return all gradients end to end; a missing one counts as zero."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()).reshape(-1)
            for n, p in model.named_parameters()
            if not any(w in n for w in without)
        ]
    )


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the length of the difference over the length of what was expected."""
    assert expected.norm() > 1e-6, "nothing to compare"
    return float((found - expected).norm() / expected.norm())


def train_in(
    folder: Path,
    model: Bert,
    at: Context,
    *,
    name: str = "x",
    strategy: str = "single",
    matmul_tflops: float | None = None,
    trackers: Sequence[Tracker] = (),
    **rhythm: Any,
) -> tuple[Outcome, CheckpointStore]:
    """Train with the store of identity ``name``."""
    store = CheckpointStore(folder, {"name": name})
    with store.lock() if at.processes.is_first else contextlib.nullcontext():
        if at.processes.is_first:
            store.prepare()
        made = make_strategy(strategy, model, at.settings, at.processes)
        chosen = Rhythm(**{"checkpoint_every_s": 1e9, **rhythm})
        outcome = train(made, at, store, chosen, matmul_tflops=matmul_tflops, trackers=trackers)
    return outcome, store


def rows_of(store: CheckpointStore) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without times and memory."""
    return [
        {k: v for k, v in json.loads(line).items() if k not in MEASURED}
        for line in store.metrics.read_text(encoding="utf-8").splitlines()
    ]


def parameters(model: Bert) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters."""
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def trained(model: Bert) -> dict[str, torch.Tensor]:
    """Return a copy of the parameters that some objective trains; the others are those of the start model."""
    return {n: p for n, p in parameters(model).items() if not n.startswith(("pooler.", "nsp."))}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


LEVERS: dict[str, dict[str, Any]] = {
    "hardest": {"hardest": 3},
    "hardness": {"hardness": 0.4},
    "pmi": {"pair_weights": "pmi"},
    "linear": {"projection": "linear"},
    "mlp": {"projection": "mlp", "projection_size": 7},
    "all": {"hardest": 5, "hardness": 0.4, "pair_weights": "pmi", "projection": "mlp", "projection_size": 7},
}
"""Changes of the pair loss: each alone, and all together."""
EQUAL_CASES: dict[str, dict[str, Any]] = {
    **{name: {"contrastive": lever} for name, lever in LEVERS.items()},
    "all_levers_asymmetric": {"contrastive": {"symmetric": False, **LEVERS["all"]}},
    "all_levers_few_pairs": {"contrastive": LEVERS["all"], "batch_windows": 5, "batch_pairs": 1},
    "asymmetric": {"contrastive": {"symmetric": False}},
    "symmetric": {"contrastive": {"symmetric": True}},
    "mlm_alone": {"objectives": {"mlm": 1.0, "contrastive": 0.0}},
    "pairs_alone": {"objectives": {"mlm": 0.0, "contrastive": 1.0}},
    "nsp": {"objectives": {"mlm": 1.0, "contrastive": 0.0, "nsp": 1.0}},
    "nsp_and_pairs": {"objectives": {"mlm": 0.5, "contrastive": 0.3, "nsp": 0.7}, "batch_texts": 3},
    "nsp_few": {"objectives": {"mlm": 0.5, "contrastive": 0.3, "nsp": 0.7}, "batch_windows": 1, "batch_pairs": 2},
    # 5 rows in 4 parts: one process has 3 windows, the other 2.
    "texts": {"batch_texts": 3},
    "texts_alone": {"batch_texts": 4, "objectives": {"mlm": 0.0, "contrastive": 1.0}, "batch_pairs": 1},
    "texts_with_levers": {"batch_texts": 3, "contrastive": LEVERS["all"]},
    "unequal_rows": {"batch_windows": 5, "batch_pairs": 3},
    "fewer_rows_than_parts": {"batch_windows": 1, "batch_pairs": 2},
}
"""Changes of the settings under which two processes must equal one."""

TRAJECTORY = {"max_steps": 8, "batch_texts": 2, "validate_every_steps": 4, "optimizer": {"learning_rate": 1.0e-3}}


def gradients_of_cases(processes: Processes) -> dict[str, torch.Tensor]:
    """Return the gradient and the loss of a step of each case, in float64, dropout on."""
    found: dict[str, torch.Tensor] = {}
    for name, changes in EQUAL_CASES.items():
        model = network(dtype=torch.float64)
        result, found[f"{name}|gradient"] = gradient(model, context(settings(**changes), processes=processes), step=2)
        found[f"{name}|loss"] = torch.tensor([result.loss, result.mlm_loss or 0.0, result.contrastive_loss or 0.0])
        found[f"{name}|counts"] = torch.tensor(
            [result.batch.n_tokens, result.batch.n_hidden_tokens, result.batch.n_words]
        )
    return found


def lonely_pair() -> Context:
    """Return a step of one pair without negatives: two words in four parts, so one of two processes has no word."""
    rows = data(n_pairs=1)
    pairs = PairData(np.array([0]), np.array([1]), ragged([[]]))
    return context(settings(batch_pairs=1), replace(rows, pairs=pairs))


def worker(rank: int, world_size: int, port: int, folder: str) -> None:
    """Do as one of several processes everything that is compared with one process; write what came out."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ["WORLD_SIZE"] = str(world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    processes = Processes(rank, world_size, rank)
    torch.save(gradients_of_cases(processes), Path(folder, f"gradients.{rank}.pt"))
    model = network()
    train_in(Path(folder, "run"), model, context(settings(**TRAJECTORY), processes=processes))
    torch.save(parameters(model), Path(folder, f"trajectory.{rank}.pt"))
    # Last: where it fails, it takes the processes down.
    lonely = replace(lonely_pair(), processes=processes)
    torch.save(gradient(network(dtype=torch.float64), lonely)[1], Path(folder, f"lonely.{rank}.pt"))
    dist.destroy_process_group()
