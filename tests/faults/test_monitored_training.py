"""What a training that is stopped and goes on took, in all its processes: a record of each attempt, samples of all."""

import signal

import pytest

from commbert.artifacts import read_json
from commbert.tables import SAMPLES, read
from faults.trainer import Trainer, newest_step

pytestmark = pytest.mark.slow
PROCESSES = 2


class Monitored(Trainer):
    """Writes a record of what it took."""

    def _command(self, processes):
        return [*super()._command(processes), "--usage", str(self.folder / "logs" / "train.final.usage.json")]


@pytest.fixture(scope="module")
def logs(stages, tmp_path_factory):
    trainer = Monitored(stages, tmp_path_factory.mktemp("monitored") / "run")
    with trainer.start(PROCESSES) as job:
        job.until_step(newest_step(trainer.folder) + 3)
        job.process.send_signal(signal.SIGTERM)
        assert job.ended() == 75, job.said
    first = sorted(path.name for path in (trainer.folder / "logs").iterdir())
    trainer.run(PROCESSES)
    return trainer.folder / "logs", first


def test_a_stopped_attempt_leaves_its_samples_and_what_it_took_but_no_record(logs):
    assert logs[1] == ["train.final.attempts.json", "train.final.samples.parquet"]


def test_the_record_of_the_end_has_the_attempt_before_it(logs):
    assert sorted(path.name for path in logs[0].iterdir()) == ["train.final.samples.parquet", "train.final.usage.json"]
    found = read_json(logs[0] / "train.final.usage.json")
    (earlier,) = found["earlier_attempts"]
    assert earlier["began_unix_s"] + earlier["wall_s"] <= found["began_unix_s"] + 0.1
    assert earlier["stage"] == found["stage"] == "train"


def test_the_samples_are_of_both_attempts(logs):
    rows = read(logs[0] / "train.final.samples.parquet", SAMPLES).to_pylist()
    assert {row["attempt"] for row in rows} == {0, 1}
    assert [row["time_unix_s"] for row in rows] == sorted(row["time_unix_s"] for row in rows)


def test_one_sampler_measures_the_launcher_and_all_processes(logs):
    found = read_json(logs[0] / "train.final.usage.json")
    assert found["host"]["peak_processes"] == 1 + PROCESSES
    assert found["host"]["peak_tree_rss_gib"] > 1.5 * found["peak_rss_gib"]
