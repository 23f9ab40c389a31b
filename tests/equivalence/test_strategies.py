"""What processes share changes neither the path nor the checkpoint; a process that goes astray is named."""

import contextlib
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from commbert.errors import SettingsError, TrainingError
from commbert.nn.collectives import Processes
from commbert.training import loop
from commbert.training.checkpoints import CheckpointStore
from commbert.training.strategies import choose_strategy, make_strategy
from equivalence.training_case import LEVERS, context, free_port, network, rows_of, settings, train_in, trained

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
# Five windows and three pairs in four parts: parts of words alone, and rounds in which one process has nothing.
CASES = {
    "usual": {},
    "few_rows": {"batch_windows": 2, "batch_pairs": 1},
    "learnt_temperature": {"contrastive": {"temperature_learning_rate": 0.01}},
    "levers": {"contrastive": LEVERS["all"], "optimizer": {"head_learning_rate": 5.0e-3}},
    "projection_and_temperature": {
        # Of one rate and no decay: none of them may share a group with what is sharded.
        "contrastive": {"projection": "linear", "temperature_learning_rate": 1.0e-3},
        "optimizer": {"weight_decay": 0.0},
    },
    "mlm_alone": {"objectives": {"mlm": 1.0, "contrastive": 0.0}},
    "pairs_alone": {"objectives": {"mlm": 0.0, "contrastive": 1.0}},
    "nsp": {"objectives": {"mlm": 0.5, "contrastive": 0.5, "nsp": 1.0}, "batch_windows": 2, "batch_pairs": 2},
}
STRATEGIES = ("ddp", "zero1", "fsdp")
RELAY = (("ddp", 2), ("fsdp", 4), ("zero1", 6), ("fsdp", 8))
"""Strategy and the step after which it is stopped."""
RELAYED = ("usual", "levers")
N_STEPS = 9


def _settings(**changes):
    return settings(**{"max_steps": N_STEPS, "validate_every_steps": 3, **changes})


def _run(folder, strategy, processes, chosen, *, stop_after=None, model=None):
    """Train and return the summary and all weights, of which sharded strategies hold a part here."""
    model = model or network(dtype=torch.float64)
    original = loop.add_gradient

    def stopping(network_, at, batch, *rest):
        if batch.step + 1 == stop_after:
            signal.raise_signal(signal.SIGTERM)
        return original(network_, at, batch, *rest)

    loop.add_gradient = stopping
    try:
        outcome, store = train_in(folder, model, context(chosen, processes=processes), strategy=strategy)
    finally:
        loop.add_gradient = original
    return outcome, store


def _expect_error(action):
    try:
        action()
    except TrainingError as error:
        return str(error)
    return "no error"


def _astray(rank, processes, folder):
    """Change one weight on the second process only."""
    model = network()
    if rank == 1:
        with torch.no_grad():
            model.layers[1].feed_in.weight[3, 3] += 1e-6
    return _expect_error(
        lambda: train_in(
            folder, model, context(_settings(), processes=processes), strategy="ddp", checksum_every_steps=1
        )
    )


def _poisoned(rank, processes, folder, what):
    """Let the second process alone compute a loss, or a gradient, that is not finite."""
    original = loop.add_gradient

    def poison(network_, at, batch, *rest):
        sums = original(network_, at, batch, *rest)
        if rank == 1 and batch.step == 2:
            if what == "loss":
                sums.mlm.fill_(float("nan"))
            else:
                network_.mlm_bias.grad[0] = float("inf")
        return sums

    loop.add_gradient = poison
    try:
        return _expect_error(
            lambda: train_in(folder, network(), context(_settings(), processes=processes), strategy="ddp")
        )
    finally:
        loop.add_gradient = original


def _worker(rank, world_size, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ["WORLD_SIZE"] = str(world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    processes, at = Processes(rank, world_size, rank), Path(folder)
    for what in ("loss", "gradient"):
        (at / f"{what}.{rank}.txt").write_text(_poisoned(rank, processes, at / what, what), encoding="utf-8")
    (at / f"astray.{rank}.txt").write_text(_astray(rank, processes, at / "astray"), encoding="utf-8")
    for strategy in STRATEGIES:
        for case, changes in CASES.items():
            _run(at / strategy / case, strategy, processes, _settings(**changes))
    for strategy, stop_after in RELAY:
        for case in RELAYED:
            _run(at / "relay" / case, strategy, processes, _settings(**CASES[case]), stop_after=stop_after)
    # A model of several processes is written whole by the first.
    made = make_strategy("fsdp", network(), _settings(), processes)
    whole = made.whole_model()
    if whole is not None:
        torch.save(whole.state_dict(), at / "whole.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies")
    # Each test looks for its own file, so that a crash in one case is not the failure of all.
    with contextlib.suppress(mp.ProcessExitedException, mp.ProcessRaisedException):
        mp.spawn(_worker, args=(2, free_port(), str(folder)), nprocs=2)

    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return {case: _run(folder / case, "single", Processes(), _settings(**c))[1] for case, c in CASES.items()}


def _weights(store):
    """Return the weights of the last checkpoint."""
    checkpoint, skipped = store.newest()
    assert not skipped
    assert checkpoint.state["step"] == N_STEPS
    return load_file(checkpoint.folder / "model.safetensors")


def _losses(store):
    return [r["loss"] for r in rows_of(store) if r["event"] == "step"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_takes_the_path_of_one_process(two, one, strategy, case):
    store = CheckpointStore(two / strategy / case, {"name": "x"})
    assert _losses(store) == pytest.approx(_losses(one[case]), rel=1e-9)
    found, expected = _weights(store), _weights(one[case])
    assert found.keys() == expected.keys()
    assert max(float((found[n] - expected[n]).abs().max()) for n in expected) <= 1e-9


@pytest.mark.parametrize("case", RELAYED)
def test_a_run_handed_from_strategy_to_strategy_is_the_one_that_never_stopped(two, one, case):
    model = network(seed=99, dtype=torch.float64)
    outcome, store = _run(two / "relay" / case, "single", Processes(), _settings(**CASES[case]), model=model)
    assert outcome.summary["resumed_at_steps"] == [2, 4, 6, 8]
    assert _losses(store) == pytest.approx(_losses(one[case]), rel=1e-9)
    expected = _weights(one[case])
    assert max(float((p - expected[n]).abs().max()) for n, p in trained(model).items()) <= 1e-9


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_with_other_weights_is_noticed_by_all(two, rank):
    assert "differing layers.1.feed_in.weight" in (two / f"astray.{rank}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_process_whose_share_is_not_finite_is_named_with_its_rows(two, rank, what):
    message = (two / f"{what}.{rank}.txt").read_text(encoding="utf-8")
    assert "step 3: loss or gradient not finite in process 1 " in message
    assert "Its windows [" in message


def test_a_sharded_model_is_written_whole(two):
    stored, expected = torch.load(two / "whole.pt"), network().state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[n], t) for n, t in expected.items())


def test_one_process_shares_nothing_whatever_was_set():
    assert choose_strategy("auto", Processes(), CPU, 10)[0] == "single"
    assert choose_strategy("fsdp", Processes(), CPU, 10) == (
        "single",
        "one process has nothing to share (fsdp was set)",
    )


def test_several_processes_share_nothing_unless_a_gpu_is_too_small(monkeypatch):
    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    several, cuda = Processes(0, 4, 0), torch.device("cuda")
    assert choose_strategy("auto", several, CPU, 10**12)[0] == "ddp"
    assert choose_strategy("auto", several, cuda, 340 * 10**6)[0] == "ddp"
    name, reason = choose_strategy("auto", several, cuda, 3 * 10**9)
    assert (name, "44.7 GiB" in reason) == ("fsdp", True)


def test_single_is_refused_for_several_processes():
    with pytest.raises(SettingsError, match=r"runtime\.processes: 1"):
        choose_strategy("single", Processes(0, 2, 0), CPU, 10)


def test_an_asked_for_strategy_is_taken():
    assert choose_strategy("zero1", Processes(0, 2, 0), CPU, 10) == ("zero1", "as set")
