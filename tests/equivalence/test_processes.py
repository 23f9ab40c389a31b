"""Two processes over gloo give what one gives."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from commbert.nn.collectives import Processes
from commbert.training.checkpoints import CheckpointStore
from equivalence.training_case import (
    EQUAL_CASES,
    TRAJECTORY,
    context,
    error,
    free_port,
    gradient,
    gradients_of_cases,
    lonely_pair,
    network,
    parameters,
    rows_of,
    settings,
    train_in,
    worker,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Run all cases in two processes, once."""
    folder = tmp_path_factory.mktemp("two")
    # Each test looks for its own file, so that a crash in one case is not the failure of all.
    with contextlib.suppress(mp.ProcessExitedException, mp.ProcessRaisedException):
        mp.spawn(worker, args=(2, free_port(), str(folder)), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def one() -> dict[str, torch.Tensor]:
    return gradients_of_cases(Processes())


@pytest.mark.parametrize("case", EQUAL_CASES)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_give_the_gradient_of_one(two, one, case, rank):
    found = torch.load(two / f"gradients.{rank}.pt")
    assert error(found[f"{case}|gradient"], one[f"{case}|gradient"]) <= 1e-10


@pytest.mark.parametrize("case", EQUAL_CASES)
def test_two_processes_give_the_loss_and_the_counts_of_one(two, one, case):
    found = torch.load(two / "gradients.1.pt")
    assert torch.allclose(found[f"{case}|loss"], one[f"{case}|loss"], rtol=1e-12)
    assert torch.equal(found[f"{case}|counts"], one[f"{case}|counts"])


def test_two_processes_take_the_path_of_one(two, tmp_path):
    model = network()
    train_in(tmp_path, model, context(settings(**TRAJECTORY)))
    found = torch.load(two / "trajectory.0.pt")
    # The attention's key bias has a true gradient of zero; Adam makes a step of its rounding.
    drift = {n: float((found[n] - p).abs().max()) for n, p in parameters(model).items() if "key.bias" not in n}
    moved = max(float((parameters(network())[n] - p).abs().max()) for n, p in parameters(model).items())
    assert moved > 1e-3
    assert max(drift.values()) <= 1e-5, max(drift, key=drift.get)


def test_both_processes_hold_the_same_weights_in_the_end(two):
    a, b = (torch.load(two / f"trajectory.{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_two_processes_write_the_metrics_of_one(two, tmp_path):
    _, store = train_in(tmp_path, network(), context(settings(**TRAJECTORY)))
    other = CheckpointStore(two / "run", {"name": "x"})
    expected, found = rows_of(store), rows_of(other)
    assert [(r["event"], r["step"]) for r in found] == [(r["event"], r["step"]) for r in expected]
    losses = [(r["loss"], s["loss"]) for r, s in zip(found, expected, strict=True) if r["event"] == "step"]
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in losses)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_without_words_takes_part_all_the_same(two, rank):
    expected = gradient(network(dtype=torch.float64), lonely_pair())[1]
    assert error(torch.load(two / f"lonely.{rank}.pt"), expected) <= 1e-10
