"""A training may be gone on with by another number of processes: the result is that of one, up to rounding."""

import itertools
import signal

import pytest

from faults.trainer import N_STEPS, Trainer, newest_step, rows, steps_done

pytestmark = pytest.mark.slow
WORLD_SIZES = (1, 2, 4, 1)
LOSSES = ("loss", "mlm_loss", "contrastive_loss")


def _train_until_stopped(trainer: Trainer, processes: int) -> int:
    """Stop after some steps more; return the step of the checkpoint."""
    with trainer.start(processes) as job:
        job.until_step(newest_step(trainer.folder) + 8)
        job.process.send_signal(signal.SIGTERM)
        job.ended()
    assert steps_done(trainer.folder) == newest_step(trainer.folder)
    return newest_step(trainer.folder)


@pytest.fixture(scope="module")
def runs(stages, tmp_path_factory):
    """Train once with one process, and once with one, two, four and one; return both folders and the stops."""
    at = tmp_path_factory.mktemp("sizes")
    straight, changing = (Trainer(stages, at / name, every_s=1e6) for name in ("straight", "changing"))
    straight.run()
    stops = [_train_until_stopped(changing, n) for n in WORLD_SIZES[:-1]]
    changing.run(WORLD_SIZES[-1])
    return straight.folder, changing.folder, stops


def test_every_number_of_processes_did_some_steps(runs):
    edges = [0, *runs[2], N_STEPS]
    assert all(a < b for a, b in itertools.pairwise(edges)), edges


def test_a_training_started_by_torchrun_goes_on_where_one_process_stopped(runs, stages, tmp_path):
    straight, trainer = runs[0], Trainer(stages, tmp_path / "run", every_s=1e6)
    _train_until_stopped(trainer, 1)
    with trainer.start(2, by_torchrun=True) as job:
        assert job.ended() == 0, job.said
    expected, found = ([r["loss"] for r in rows(folder) if "loss" in r] for folder in (straight, trainer.folder))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_by_one_two_four_and_one_processes_has_the_losses_of_one(runs, name):
    # Relative to the loss; dropout is on, as the model's configuration has it.
    straight, changing = ([r for r in rows(folder) if name in r] for folder in runs[:2])
    assert [r["step"] for r in changing] == [r["step"] for r in straight]
    errors = [abs(a[name] - b[name]) / abs(b[name]) for a, b in zip(changing, straight, strict=True)]
    print(f"{name}: largest relative difference {max(errors):.1e}, stops after {runs[2]}")
    assert max(errors) <= 1e-5
