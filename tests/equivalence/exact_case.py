"""What one, two and three processes compute, with one or several parts each, to be compared."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from commbert.nn.collectives import Processes, sum_gradients, summed
from commbert.training.batches import step_batch
from commbert.training.step import add_gradient
from equivalence.training_case import (
    LEVERS,
    NO_DROPOUT,
    context,
    data,
    flat_gradient,
    gradient_of_step,
    network,
    of_projection,
    parameters,
    rows_of,
    settings,
    train_in,
)

DTYPES = {"fp64": torch.float64, "fp32": torch.float32}
ACCUMULATIONS = (1, 2, 4)
"""Parts of a step that each process computes."""
CASES: dict[str, dict[str, Any]] = {
    "joint": {"batch_windows": 16, "batch_pairs": 16},
    "few_pairs": {"batch_windows": 16, "batch_pairs": 3},
    "few_windows": {"batch_windows": 2, "batch_pairs": 16},
    "texts": {"batch_windows": 16, "batch_pairs": 16, "batch_texts": 4},
    "levers": {"batch_windows": 16, "batch_pairs": 16, "contrastive": LEVERS["all"]},
}
TRAJECTORY: dict[str, Any] = {
    "epochs": 40,
    "max_steps": 50,
    "validate_every_steps": 50,
    "optimizer": {"learning_rate": 3.0e-4, "warmup_fraction": 0.2, "max_gradient_norm": 1.0},
}
LOG_TEMPERATURE = -2.0


def of_step(processes: Processes, case: str, dtype: torch.dtype, n_parts: int, *, is_even: bool = False) -> Any:
    """Return the gradient, the losses, and this process's number of parts and of tokens."""
    model = network(dtype=dtype, **NO_DROPOUT)
    chosen = settings(**CASES[case], micro_batches=n_parts)
    at = context(chosen, data(n_windows=40, n_tokens=(4, 30)), processes=processes)
    found = gradient_of_step(model, at, 1, is_even=is_even)
    tokens = sum(len(p.packed.input_ids) for p in found.batch.parts)
    losses = torch.tensor([found.loss, found.mlm_loss, found.contrastive_loss], dtype=torch.float64)
    whole = torch.cat([flat_gradient(model), *of_projection(found.projection)])
    return whole.double(), losses, len(found.batch.parts), tokens


def of_temperature(processes: Processes, n_parts: int, log_temperature: float = LOG_TEMPERATURE) -> Any:
    """Return the step's loss and its derivative by the logarithm of the temperature, and the network's gradient."""
    model = network(dtype=torch.float64, **NO_DROPOUT)
    at = context(settings(micro_batches=n_parts, contrastive={"symmetric": True}), processes=processes)
    learnt = torch.nn.Parameter(torch.tensor(log_temperature, dtype=torch.float64))
    batch = step_batch(at, 0)
    sums = add_gradient(model, at, batch, learnt.exp())
    sum_gradients([*model.parameters(), learnt], processes)
    mlm, pairs = summed(torch.stack([sums.mlm, sums.contrastive]), processes).tolist()
    assert learnt.grad is not None
    loss = 0.7 * mlm / batch.n_hidden_tokens + 0.3 * pairs / batch.n_terms
    return loss, learnt.grad.item(), flat_gradient(model)


def trajectory(folder: Path, processes: Processes, dtype: torch.dtype, n_parts: int) -> Any:
    """Train 50 steps and return the final weights, end to end, and the loss and the gradient's norm of each step."""
    model = network(dtype=dtype, **NO_DROPOUT)
    at = context(settings(**TRAJECTORY, micro_batches=n_parts), processes=processes)
    _, store = train_in(folder, model, at)
    weights = torch.cat([p.double().flatten() for p in parameters(model).values()])
    if not processes.is_first:
        return weights, None
    steps = [r for r in rows_of(store) if r["event"] == "step"]
    return weights, torch.tensor([[r["loss"], r["gradient_norm"]] for r in steps], dtype=torch.float64)


def _all(processes: Processes, folder: Path) -> dict[str, Any]:
    n = processes.world_size
    found: dict[str, Any] = {}
    for accumulation in ACCUMULATIONS:
        for name, dtype in DTYPES.items():
            for case in CASES:
                found[f"{case}|{name}|{accumulation}"] = of_step(processes, case, dtype, n * accumulation)
            if accumulation <= 2:
                at = folder / f"{name}.{accumulation}"
                found[f"trajectory|{name}|{accumulation}"] = trajectory(at, processes, dtype, n * accumulation)
        found[f"temperature|{accumulation}"] = of_temperature(processes, n * accumulation)
    # One part more than the processes share out evenly: all but the first compute an empty one.
    found["even"] = of_step(processes, "joint", torch.float64, n + 1, is_even=True)
    return found


def worker(rank: int, ports: dict[int, int], folder: str) -> None:
    """Do everything as one of three processes, then as one of two: starting them costs more than all they compute."""
    torch.set_num_threads(1)
    for n, port in ports.items():
        if rank >= n:
            return
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        dist.init_process_group("gloo", rank=rank, world_size=n, timeout=timedelta(seconds=60))
        torch.save(_all(Processes(rank, n, rank), Path(folder, str(n))), Path(folder, f"{n}.{rank}.pt"))
        dist.destroy_process_group()
