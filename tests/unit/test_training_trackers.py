"""TensorBoard files and MLflow runs hold what metrics.jsonl holds, once."""

import json
import logging
import os
import struct
import sys
import time
import types
from collections import defaultdict

import pytest

from commbert.errors import ArtifactError, SettingsError
from commbert.reporting.reading import read_metrics
from commbert.training import loop, trackers
from commbert.training.record import MEASURED
from commbert.training.trackers import Mlflow, TensorBoard
from equivalence.training_case import context, network, settings, train_in

N_STEPS = 9


def _rows(store):
    return [json.loads(line) for line in store.metrics.read_text(encoding="utf-8").splitlines()]


def _expected(rows):
    """Return (tag, step, value) of all numbers of the record."""
    groups = {"step": "train", "validation": "validation"}
    return {
        (f"{groups[row['event']]}/{key}", row["step"]): value
        for row in rows
        for key, value in row.items()
        if key not in ("event", "step") and value is not None
    }


def _killed(monkeypatch, number):
    original = loop.add_gradient

    def add_gradient(model, at, batch, *rest):
        if batch.step == number:
            raise KeyboardInterrupt
        return original(model, at, batch, *rest)

    monkeypatch.setattr(loop, "add_gradient", add_gradient)


def _kill_and_resume(folder, monkeypatch, make, number=7):
    """Kill a training some steps after a checkpoint, and go on."""
    with monkeypatch.context() as patch:
        _killed(patch, number)
        _save_every_fourth_step(patch)
        with pytest.raises(KeyboardInterrupt):
            train_in(folder, network(), context(settings()), trackers=[make()])
    return train_in(folder, network(seed=9), context(settings()), trackers=[make()])


def _save_every_fourth_step(patch):
    original = loop._Loop._agreed

    def agreed(self, *wishes):
        stops, _ = original(self, *wishes)
        return [stops, self.state.step % 4 == 0]

    patch.setattr(loop._Loop, "_agreed", agreed)


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("tensorboardX")

    def _events(self, folder):
        """Read the event files as TensorBoard does: records with checksums, one after the other."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        events = []
        for path in sorted(folder.glob("events.out.tfevents.*")):
            data = path.read_bytes()
            while data:
                header, crc = data[:8], struct.unpack("<I", data[8:12])[0]
                (n,) = struct.unpack("<Q", header)
                assert crc == masked_crc32c(header)
                assert struct.unpack("<I", data[12 + n : 16 + n])[0] == masked_crc32c(data[12 : 12 + n])
                events.append(Event.FromString(data[12 : 12 + n]))
                data = data[16 + n :]
        return events

    def _scalars(self, folder):
        found = defaultdict(list)
        for event in self._events(folder):
            for value in event.summary.value:
                found[value.tag, event.step].append(value.simple_value)
        return found

    def _check(self, folder, store):
        expected, found = _expected(_rows(store)), self._scalars(folder)
        assert found.keys() == expected.keys()
        assert all(len(values) == 1 for values in found.values())
        assert all(found[key] == pytest.approx([value], rel=1e-6) for key, value in expected.items())

    def test_the_events_are_the_rows_of_the_record(self, tmp_path):
        _, store = train_in(tmp_path, network(), context(settings()), trackers=[TensorBoard(tmp_path / "tb")])
        self._check(tmp_path / "tb", store)

    def test_the_file_begins_as_the_format_asks(self, tmp_path):
        train_in(tmp_path, network(), context(settings(max_steps=1)), trackers=[TensorBoard(tmp_path / "tb")])
        version, start, *_ = self._events(tmp_path / "tb")
        assert version.file_version == "brain.Event:2"
        assert (start.session_log.status, start.step) == (start.session_log.START, 1)

    def test_no_step_stands_twice_after_a_kill_and_a_resume(self, tmp_path, monkeypatch):
        outcome, store = _kill_and_resume(tmp_path, monkeypatch, lambda: TensorBoard(tmp_path / "tb"))
        assert outcome.summary["resumed_at_steps"] == [4]
        self._check(tmp_path / "tb", store)
        sizes = [path.stat().st_size for path in sorted((tmp_path / "tb").iterdir())]
        assert [size > 0 for size in sizes] == [False, True]

    def test_another_training_in_the_folder_takes_the_place_of_the_first(self, tmp_path):
        for name, seed in (("a", 5), ("b", 6), ("a", 5)):
            chosen = context(settings(seed=seed))
            _, store = train_in(tmp_path, network(), chosen, name=name, trackers=[TensorBoard(tmp_path / "tb")])
            self._check(tmp_path / "tb", store)
        assert len(list((tmp_path / "tb").iterdir())) == 2

    def test_a_tensorboard_that_watches_follows_to_the_new_file_and_forgets_the_old_steps(self, tmp_path):
        accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        watching = accumulators.EventAccumulator(str(tmp_path / "tb"))
        for name, seed in (("a", 5), ("b", 6)):
            chosen = context(settings(seed=seed))
            _, store = train_in(tmp_path, network(), chosen, name=name, trackers=[TensorBoard(tmp_path / "tb")])
            watching.Reload()
            losses = [(row["step"], pytest.approx(row["loss"])) for row in _rows(store) if row["event"] == "step"]
            assert [(event.step, event.value) for event in watching.Scalars("train/loss")] == losses

    def test_files_of_others_are_left_alone(self, tmp_path):
        (tmp_path / "tb").mkdir()
        other = tmp_path / "tb" / "events.out.tfevents.1.host"
        other.write_bytes(b"")
        train_in(tmp_path, network(), context(settings(max_steps=1)), trackers=[TensorBoard(tmp_path / "tb")])
        assert other.exists()

    def test_times_go_on_from_the_time_that_was_trained(self, tmp_path, monkeypatch):
        _, store = _kill_and_resume(tmp_path, monkeypatch, lambda: TensorBoard(tmp_path / "tb"))
        times = [e.wall_time for e in self._events(tmp_path / "tb") if e.HasField("summary")]
        assert times == sorted(times)
        assert times[-1] <= time.time()
        elapsed = [row["elapsed_s"] for row in _rows(store) if row["event"] == "step"]
        assert times[-1] - times[0] == pytest.approx(elapsed[-1] - elapsed[0], abs=1e-3)

    def test_tracking_changes_neither_record_nor_weights(self, tmp_path):
        models = [network(), network()]
        stores = [
            train_in(tmp_path / str(i), model, context(settings()), trackers=made)[1]
            for i, (model, made) in enumerate(zip(models, ([], [TensorBoard(tmp_path / "tb")]), strict=True))
        ]
        a, b = ([{k: v for k, v in row.items() if k not in MEASURED} for row in _rows(store)] for store in stores)
        assert a == b


@pytest.mark.parametrize(
    ("make", "setting", "extra"),
    [
        (TensorBoard, "runtime.tensorboard", "tensorboard"),
        (lambda _: Mlflow("http://x", run="r", identity="i", parameters={}), "runtime.mlflow_uri", "mlflow"),
    ],
)
def test_a_missing_package_is_named_with_the_setting_and_the_way_to_install_it(
    tmp_path, monkeypatch, make, setting, extra
):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(trackers.importlib, "import_module", missing)
    with pytest.raises(SettingsError, match=rf"{setting}: expected the package .* pip install 'commbert\[{extra}\]'"):
        make(tmp_path)


class FakeServer:
    """What an MLflow server keeps, and a client that asks it as MLflow's does."""

    def __init__(self):
        self.experiments, self.runs = {}, {}
        self.is_down = False
        self.n_requests = 0

    def module(self):
        entities = types.ModuleType("mlflow.entities")
        entities.Metric = lambda key, value, timestamp, step: types.SimpleNamespace(
            key=key, value=value, timestamp=timestamp, step=step
        )
        entities.Param = lambda key, value: (key, value)
        mlflow = types.ModuleType("mlflow")
        mlflow.entities, mlflow.MlflowClient = entities, lambda tracking_uri: FakeClient(self, tracking_uri)
        return {"mlflow": mlflow, "mlflow.entities": entities}


class FakeClient:
    def __init__(self, server, tracking_uri):
        assert tracking_uri == "http://mlflow.example:5000"
        self.server = server

    def _run(self, run_id):
        self.server.n_requests += 1
        if self.server.is_down:
            raise ConnectionError("no route to host")
        return self.server.runs[run_id] if run_id else None

    def get_experiment_by_name(self, name):
        self._run(None)
        found = self.server.experiments.get(name)
        return types.SimpleNamespace(experiment_id=found) if found else None

    def create_experiment(self, name):
        self.server.experiments[name] = "1"
        return "1"

    def create_run(self, experiment_id, tags, run_name):
        number = f"run{len(self.server.runs)}"
        self.server.runs[number] = {"tags": tags, "name": run_name, "params": {}, "metrics": [], "status": "RUNNING"}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=number))

    def search_runs(self, experiment_ids, filter_string, max_results):
        found = [n for n, r in self.server.runs.items() if f"'{r['tags']['commbert.identity']}'" in filter_string]
        return [types.SimpleNamespace(info=types.SimpleNamespace(run_id=n)) for n in found[:max_results]]

    def update_run(self, run_id, status):
        self._run(run_id)["status"] = status

    def get_metric_history(self, run_id, key):
        return [m for m in self._run(run_id)["metrics"] if m.key == key]

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(metrics) <= 1000
        assert len(params) <= 100
        run = self._run(run_id)
        run["metrics"] += metrics
        for key, value in params:
            assert run["params"].setdefault(key, value) == value

    def set_terminated(self, run_id, status):
        self._run(run_id)["status"] = status


class TestMlflow:
    @pytest.fixture
    def server(self, monkeypatch):
        server = FakeServer()
        for name, module in server.module().items():
            monkeypatch.setitem(sys.modules, name, module)
        for name in trackers._MLFLOW_ENVIRONMENT:
            monkeypatch.setenv(name, "as the user set it")
        return server

    def _tracker(self, identity="i"):
        parameters = {"optimizer": {"learning_rate": 0.001}, "seed": 5}
        return Mlflow("http://mlflow.example:5000", run="final", identity=identity, parameters=parameters)

    def _scalars(self, run):
        found = defaultdict(list)
        for metric in run["metrics"]:
            if not metric.key.endswith("/step"):
                found[metric.key, metric.step].append(metric.value)
        return found

    def test_a_run_holds_the_rows_of_the_record_and_the_settings(self, tmp_path, server):
        _, store = train_in(tmp_path, network(), context(settings()), trackers=[self._tracker()])
        (run,) = server.runs.values()
        assert self._scalars(run) == {key: [float(value)] for key, value in _expected(_rows(store)).items()}
        assert (run["name"], run["status"]) == ("final", "FINISHED")
        assert run["params"] == {"optimizer.learning_rate": "0.001", "seed": "5"}

    def test_a_resumed_training_goes_on_in_its_run_and_sends_no_step_twice(self, tmp_path, server, monkeypatch):
        _, store = _kill_and_resume(tmp_path, monkeypatch, self._tracker)
        (run,) = server.runs.values()
        found, expected = self._scalars(run), _expected(_rows(store))
        assert found.keys() == expected.keys()
        assert all(len(values) == 1 for values in found.values())
        same = [key for key in expected if key[0].partition("/")[2] not in MEASURED]
        assert all(found[key] == [expected[key]] for key in same)
        assert run["status"] == "FINISHED"

    def test_a_training_that_ends_before_its_end_is_called_killed(self, tmp_path, server, monkeypatch):
        _killed(monkeypatch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_in(tmp_path, network(), context(settings()), trackers=[self._tracker()])
        assert server.runs["run0"]["status"] == "KILLED"

    def test_another_training_has_a_run_of_its_own(self, tmp_path, server):
        for name in "ab":
            train_in(tmp_path / name, network(), context(settings(max_steps=1)), trackers=[self._tracker(name)])
        assert len(server.runs) == 2

    @pytest.mark.parametrize("from_step", [0, 4])
    def test_a_server_that_goes_away_stops_no_training_and_is_told_of_once(
        self, tmp_path, server, monkeypatch, caplog, from_step
    ):
        monkeypatch.setattr(trackers.Mlflow, "EVERY_S", -1.0)
        original = loop.add_gradient

        def add_gradient(model, at, batch, *rest):
            server.is_down = batch.step >= from_step
            return original(model, at, batch, *rest)

        server.is_down = from_step == 0
        monkeypatch.setattr(loop, "add_gradient", add_gradient)
        monkeypatch.setattr(logging.getLogger("commbert"), "propagate", True)
        outcome, _ = train_in(tmp_path, network(), context(settings()), trackers=[self._tracker()])
        assert outcome.summary["steps"] == N_STEPS
        assert caplog.text.count("ConnectionError: no route to host; nothing more is sent there") == 1

    def test_more_metrics_than_one_request_takes_are_sent_in_several(self, tmp_path, server, monkeypatch):
        monkeypatch.setattr(trackers.Mlflow, "_MOST", 7)
        _, store = train_in(tmp_path, network(), context(settings()), trackers=[self._tracker()])
        assert self._scalars(server.runs["run0"]) == {k: [float(v)] for k, v in _expected(_rows(store)).items()}

    def test_rows_are_sent_together(self, tmp_path, server):
        train_in(tmp_path, network(), context(settings()), trackers=[self._tracker()])
        # The experiment, the settings, the rows, the end.
        assert server.n_requests == 4

    def test_what_the_user_set_for_mlflow_stays(self, server):
        self._tracker()
        assert {os.environ[name] for name in trackers._MLFLOW_ENVIRONMENT} == {"as the user set it"}

    def test_mlflow_tells_its_makers_nothing_and_does_not_wait_for_minutes(self, server, monkeypatch):
        for name in trackers._MLFLOW_ENVIRONMENT:
            monkeypatch.delenv(name)
        self._tracker()
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 10


@pytest.mark.parametrize("damage", [b"\xff\xfe{}", b"\x00" * 50, b'{"event": "st'])
def test_a_damaged_record_is_named_with_its_line(tmp_path, damage):
    record = tmp_path / "metrics.jsonl"
    record.write_bytes(b'{"event": "step", "step": 1, "elapsed_s": 0.5}\n' + damage + b"\n")
    for read in (lambda: list(trackers._rows(record)), lambda: read_metrics(record)):
        with pytest.raises(ArtifactError, match=r"metrics\.jsonl line 2: expected a JSON row"):
            read()


def test_an_address_with_a_password_is_refused_without_showing_it():
    from commbert.settings.checking import section_from_json
    from commbert.settings.runtime import RuntimeSettings

    text = json.dumps({"mlflow_uri": "http://me:hunter2@host:5000"})
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_USERNAME") as error:
        section_from_json(RuntimeSettings, text, where="runtime")
    assert "hunter2" not in str(error.value)
