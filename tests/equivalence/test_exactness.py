"""A step, and fifty of them, are the same for 1, 2, 3 processes that compute 1, 2, 4 parts each: values and gradients.

Dropout is off: another cut into parts draws it anew.
"""

import math
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from commbert.nn.collectives import Processes
from equivalence.exact_case import (
    ACCUMULATIONS,
    CASES,
    DTYPES,
    LOG_TEMPERATURE,
    of_step,
    of_temperature,
    trajectory,
    worker,
)
from equivalence.training_case import NO_DROPOUT, error, free_port, network, parameters

pytestmark = pytest.mark.slow
TOLERANCES = {"fp64": 1e-10, "fp32": 1e-5}
RANKS = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
ALONE = Processes()


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> dict[tuple[int, int], dict]:
    """Run all cases in three and in two processes, once; return what each found."""
    folder = tmp_path_factory.mktemp("several")
    # They are forked from a process that has imported what is slow to import, and nothing else.
    multiprocessing.set_forkserver_preload(["torch._dynamo", "transformers.models.bert.modeling_bert"])
    ports = {3: free_port(), 2: free_port()}
    mp.start_processes(worker, args=(ports, str(folder)), nprocs=3, start_method="forkserver")
    return {(n, rank): torch.load(Path(folder, f"{n}.{rank}.pt")) for n, rank in RANKS if n > 1}


@pytest.fixture(scope="module")
def whole() -> dict[str, tuple]:
    """Return each case computed by one process in one part."""
    return {f"{case}|{name}": of_step(ALONE, case, dtype, 1) for case in CASES for name, dtype in DTYPES.items()}


@pytest.mark.parametrize(("n", "rank"), RANKS)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_of_a_step_do_not_depend_on_who_computes_how_many_parts(several, whole, case, name, n, rank):
    gradient, losses, _, _ = whole[f"{case}|{name}"]
    for accumulation in ACCUMULATIONS:
        key = f"{case}|{name}|{accumulation}"
        found = of_step(ALONE, case, DTYPES[name], accumulation) if n == 1 else several[n, rank][key]
        assert error(found[0], gradient) <= TOLERANCES[name]
        assert torch.allclose(found[1], losses, rtol=TOLERANCES[name], atol=0.0)


def test_processes_compute_as_many_parts_as_was_meant_and_unequal_ones(several):
    for accumulation in ACCUMULATIONS:
        for n in (2, 3):
            found = [several[n, rank][f"joint|fp64|{accumulation}"] for rank in range(n)]
            assert [parts for _, _, parts, _ in found] == [accumulation] * n
            assert len({tokens for *_, tokens in found}) > 1


@pytest.mark.parametrize(("n", "rank"), RANKS[1:])
def test_an_empty_part_adds_nothing(several, whole, n, rank):
    gradient, losses, parts, _ = several[n, rank]["even"]
    assert parts == 2
    assert error(gradient, whole["joint|fp64"][0]) <= 1e-10
    assert torch.allclose(losses, whole["joint|fp64"][1], rtol=1e-10, atol=0.0)


@pytest.mark.parametrize(("n", "rank"), RANKS)
def test_the_slope_of_the_temperature_does_not_depend_on_who_computes_how_many_parts(several, n, rank):
    loss, slope, gradient = of_temperature(ALONE, 1)
    for accumulation in ACCUMULATIONS:
        alone = n == 1
        found = of_temperature(ALONE, accumulation) if alone else several[n, rank][f"temperature|{accumulation}"]
        assert found[0] == pytest.approx(loss, rel=1e-12)
        assert found[1] == pytest.approx(slope, rel=1e-10)
        assert error(found[2], gradient) <= 1e-10


def test_the_slope_of_the_temperature_is_that_of_finite_differences():
    h = 1e-5
    up, down = (of_temperature(ALONE, 1, LOG_TEMPERATURE + d)[0] for d in (h, -h))
    slope = of_temperature(ALONE, 1)[1]
    assert abs(slope) > 1e-2
    assert slope == pytest.approx((up - down) / (2 * h), rel=1e-7)


@pytest.fixture(scope="module")
def path_of_one(tmp_path_factory) -> dict[str, tuple]:
    """Return final weights and losses of one process that computes each step in one part."""
    folder = tmp_path_factory.mktemp("one")
    return {name: trajectory(folder / name, ALONE, dtype, 1) for name, dtype in DTYPES.items()}


@pytest.mark.parametrize(("n", "rank"), RANKS)
@pytest.mark.parametrize("name", DTYPES)
def test_fifty_steps_end_in_the_weights_of_one_process_and_one_part(several, path_of_one, tmp_path, name, n, rank):
    weights, steps = path_of_one[name]
    assert steps.shape == (50, 2)
    assert not torch.equal(steps, steps.clamp(max=1.0)), "clipping is on"
    for accumulation in (1, 2):
        if n > 1:
            found = several[n, rank][f"trajectory|{name}|{accumulation}"]
        else:
            found = trajectory(tmp_path / str(accumulation), ALONE, DTYPES[name], accumulation)
        assert error(found[0], weights) <= TOLERANCES[name]
        if rank == 0:
            assert torch.allclose(found[1][:, 0], steps[:, 0], rtol=TOLERANCES[name], atol=0.0)


def test_fifty_steps_move_the_weights_far(path_of_one):
    start = torch.cat([p.flatten() for p in parameters(network(dtype=torch.float64, **NO_DROPOUT)).values()])
    weights, steps = path_of_one["fp64"]
    assert error(weights, start) > 1e-2
    assert steps[-5:, 0].mean() < steps[:5, 0].mean() - 0.1
    assert math.isfinite(float(steps.sum()))


def test_all_processes_end_in_the_same_weights_bit_by_bit(several):
    for name in DTYPES:
        for n in (2, 3):
            weights = [several[n, rank][f"trajectory|{name}|2"][0] for rank in range(n)]
            assert all(torch.equal(w, weights[0]) for w in weights)
