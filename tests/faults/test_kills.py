"""What ``kill -9`` does to a training, at moments drawn by a seed. COMMBERT_KILL_TRIALS sets the number of trials."""

import os

import pytest

from faults.kill_trials import ENDS_WITHIN_S, run_trials
from faults.trainer import Trainer, digests, leftovers

pytestmark = pytest.mark.slow
N_TRIALS = int(os.environ.get("COMMBERT_KILL_TRIALS", "6"))


@pytest.fixture(scope="module")
def results(stages, tmp_path_factory):
    """Run all trials, once, two side by side."""
    return run_trials(stages, tmp_path_factory.mktemp("kills"), n_trials=N_TRIALS, seed=1, jobs=2)


@pytest.fixture(scope="module")
def kills(results):
    return [k for r in results for k in r.kills]


@pytest.mark.parametrize("part", ["final", "best", "metrics"])
def test_a_training_killed_at_any_moment_ends_with_the_bytes_of_one_that_never_was(results, part):
    assert [r.plan for r in results if not r.equal[part]] == []


def test_every_second_trial_was_killed_inside_a_save_and_all_were_killed(results):
    assert all(r.kills for r in results)
    assert sum(r.n_inside > 0 for r in results) >= N_TRIALS // 2


def test_a_checkpoint_that_has_its_name_is_whole(kills):
    assert all(k.newest_is_whole for k in kills)


def test_a_killed_training_goes_on_from_its_newest_checkpoint(results):
    assert [r.plan for r in results if not r.went_on_from_newest] == []


def test_a_job_with_a_killed_process_ends_and_leaves_no_process(kills):
    assert all(k.left_nobody and k.ended_s < ENDS_WITHIN_S for k in kills)


def test_a_finished_training_has_removed_what_its_killed_writers_left(results):
    assert [r.left_in_the_end for r in results if r.left_in_the_end] == []


def _is_writing_outputs(folder):
    return any(folder.glob(".*.tmp-*"))


def test_a_training_killed_while_it_writes_its_models_leaves_nothing_behind_when_it_ends(stages, tmp_path):
    trainer = Trainer(stages, tmp_path / "run")
    with trainer.start() as job:
        assert job.until(lambda: _is_writing_outputs(trainer.folder), every_s=0.0001), job.said
        job.process.kill()
        job.ended()
    assert leftovers(trainer.folder)  # else the kill came too late
    trainer.run()
    assert digests(trainer.folder)
    assert leftovers(trainer.folder) == []
