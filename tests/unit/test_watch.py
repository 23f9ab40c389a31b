"""``commbert watch`` on records that grow, are cut off, are replaced, or are hostile."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from commbert.inspection import following
from commbert.inspection.following import Follower
from commbert.inspection.watching import duration, follow, print_once, sparkline, state, view

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _step(n, **changes):
    row = {"event": "step", "step": n, "tokens_per_s": 1234.5, "elapsed_s": 2.0 * n, "loss": 10.0 / n}
    return row | {"mlm_loss": 4.5, "memory_gib": 3.25, "peak_memory_gib": 3.5, "mfu_pct": 41.25} | changes


def _validation(n, **figures):
    return {"event": "validation", "step": n, **({"hard": 0.5} | figures)}


def _lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class Run:
    """A run's folder as training leaves it behind while it runs."""

    def __init__(self, folder):
        self.folder = folder

    def store(self, name="0123abcd"):
        folder = self.folder / "checkpoint" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "metrics.jsonl"

    def begin(self, n_steps=20, name="0123abcd"):
        path = self.store(name)
        (path.parent / "identity.json").write_text(json.dumps({"steps": n_steps}))
        path.touch()
        return self

    def write(self, *rows, name="0123abcd"):
        with self.store(name).open("ab") as file:
            file.write(_lines(rows))

    def finish(self, **summary):
        record = self.store().read_bytes()
        (self.folder / "metrics.jsonl").write_bytes(record)
        summary = {"planned_steps": 20, "best_step": 4, "best_metric": "hard", "best_value": 0.75} | summary
        (self.folder / "training.json").write_text(json.dumps(summary))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "final")


def _console(*, terminal=False, width=100, **options):
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={"TERM": "xterm"} if terminal else {},
        **options,
    )


def _once(run, **options):
    follower, console = Follower(run.folder), _console(**options)
    follower.look()
    print_once(follower, console)
    return console.file.getvalue()


class TestFollowing:
    def test_only_what_is_new_is_read(self, run):
        run.begin().write(_step(1), _step(2))
        follower = Follower(run.folder)
        assert follower.look()
        assert not follower.look()
        run.write(_step(3), _validation(3))
        assert follower.look()
        assert follower.seen.steps == [1, 2, 3]
        assert follower.seen.losses == [10.0, 5.0, pytest.approx(10 / 3)]
        assert [v["step"] for v in follower.seen.validations] == [3]

    def test_a_line_that_is_not_whole_yet_waits_for_its_rest(self, run):
        run.begin().write(_step(1))
        follower = Follower(run.folder)
        whole = _lines([_step(2)])
        for cut in (1, 20, len(whole) - 1):
            run.begin().write()
            with run.store().open("ab") as file:
                file.write(whole[:cut])
            follower.look()
            assert follower.seen.steps == [1]
            os.truncate(run.store(), len(_lines([_step(1)])))
        run.write(_step(2))
        follower.look()
        assert (follower.seen.steps, follower.seen.n_unreadable) == ([1, 2], 0)

    def test_rows_that_a_resume_cuts_off_are_forgotten(self, run):
        run.begin().write(*(_step(n) for n in range(1, 8)), _validation(7))
        follower = Follower(run.folder)
        follower.look()
        os.truncate(run.store(), len(_lines(_step(n) for n in range(1, 5))))
        follower.look()
        assert follower.seen.steps == [1, 2, 3, 4]
        assert follower.seen.validations == []

    def test_a_file_that_was_cut_off_and_has_grown_longer_between_two_looks_is_read_anew(self, run):
        run.begin().write(*(_step(n) for n in range(1, 6)))
        follower = Follower(run.folder)
        follower.look()
        os.truncate(run.store(), len(_lines(_step(n) for n in range(1, 3))))
        run.write(*(_step(n, elapsed_s=100.0 + n) for n in range(3, 12)))
        follower.look()
        assert follower.seen.steps == [*range(1, 12)]
        assert follower.seen.elapsed_s[2:] == [100.0 + n for n in range(3, 12)]

    def test_a_file_in_the_place_of_another_is_read_from_its_start(self, run):
        run.begin().write(_step(1), _step(2))
        follower = Follower(run.folder)
        follower.look()
        new = run.store().with_name("new")
        new.write_bytes(_lines([_step(1, loss=7.0), _step(2, loss=6.0), _step(3, loss=5.0)]))
        new.replace(run.store())
        follower.look()
        assert follower.seen.losses == [7.0, 6.0, 5.0]

    def test_steps_that_are_taken_again_stand_for_the_first_ones(self, run):
        run.begin().write(_step(1), _step(2), _validation(2), _step(3), _step(2, loss=9.0), _validation(2, hard=0.9))
        follower = Follower(run.folder)
        follower.look()
        assert (follower.seen.steps, follower.seen.losses) == ([1, 2], [10.0, 9.0])
        assert [v["hard"] for v in follower.seen.validations] == [0.9]

    def test_a_large_record_is_read_in_pieces(self, run, monkeypatch):
        monkeypatch.setattr(following, "_PIECE", 37)
        run.begin().write(*(_step(n) for n in range(1, 50)))
        follower = Follower(run.folder)
        follower.look()
        assert follower.seen.steps == [*range(1, 50)]
        run.write(_step(50))
        follower.look()
        assert follower.seen.steps[-1] == 50

    def test_a_line_without_end_takes_no_memory(self, run, monkeypatch):
        monkeypatch.setattr(following, "_PIECE", 64)
        monkeypatch.setattr(following, "_LONGEST_LINE", 256)
        run.begin().write(_step(1))
        with run.store().open("ab") as file:
            file.write(b"x" * 10_000 + b"\n")
        run.write(_step(2))
        follower = Follower(run.folder)
        follower.look()
        assert follower.seen.steps == [1, 2]
        assert follower.seen.n_unreadable > 0

    @pytest.mark.parametrize(
        "line",
        [
            *(b"", b"nonsense", b"\xff\xfe", b"[1]", b"null", b"{}", b'{"event": "step"}', b"[" * 100_000),
            *(b'{"event": "other", "step": 3}', b'{"event": ["step"], "step": 3}', b'{"event": "step", "step": true}'),
            *(b'{"event": "step", "step": -1}', b'{"event": "step", "step": 1e3}', b'{"event": "step", "step": "4"}'),
            b'{"event": "step", "step": ' + b"9" * 4000 + b"}",
        ],
    )
    def test_what_is_no_row_is_counted_and_passed_over(self, run, line):
        run.begin().write(_step(1))
        with run.store().open("ab") as file:
            file.write(line + b"\n")
        run.write(_step(2))
        follower = Follower(run.folder)
        follower.look()
        assert (follower.seen.steps, follower.seen.n_unreadable) == ([1, 2], 1)
        assert "unreadable: 1 lines of the record" in _once(run)

    def test_of_several_records_the_one_written_last_is_followed(self, run):
        run.begin(name="a").write(_step(5), name="a")
        run.begin(name="b", n_steps=77).write(_step(1), name="b")
        os.utime(run.store("a"), (1, 1))
        follower = Follower(run.folder)
        follower.look()
        assert (follower.seen.steps, follower.n_steps) == ([1], 77)

    def test_a_run_is_over_when_its_summary_is_there(self, run):
        run.begin().write(_step(20))
        follower = Follower(run.folder)
        follower.look()
        assert follower.summary is None
        run.finish()
        assert follower.look()
        assert follower.summary is not None
        assert state(follower) == "finished after step 20 of 20, best at step 4: hard 0.7500"

    def test_the_summary_of_the_training_before_is_not_the_end_of_this_one(self, run):
        run.begin().write(_step(20))
        run.finish()
        os.utime(run.folder / "training.json", (1000, 1000))
        follower = Follower(run.folder)
        follower.look()
        assert follower.summary is None
        assert follower.seen.steps == [20]

    def test_a_pipe_in_the_place_of_a_record_blocks_nobody(self, run):
        (run.folder / "checkpoint" / "x").mkdir(parents=True)
        os.mkfifo(run.folder / "checkpoint" / "x" / "metrics.jsonl")
        follower = Follower(run.folder)
        follower.look()
        assert not follower.has_begun


class TestShowing:
    def test_a_run_that_does_not_exist_is_waited_for(self, run):
        assert f"state: waiting: no training has begun in {run.folder} (there is no such folder yet)" in _once(run)
        run.folder.mkdir()
        assert f"state: waiting: no training has begun in {run.folder}\n" in _once(run)

    def test_the_plain_lines_hold_all_figures(self, run):
        run.begin().write(*(_step(n) for n in range(1, 6)), _validation(5, mlm_loss=2.25, retrieval_mrr=None))
        assert _once(run).splitlines() == [
            f"run: {run.folder}",
            "state: step 5 of 20 (25.0 %), about 30 s left",
            "loss: 2.0000, mlm 4.5000",
            "speed: 1,234 tokens/s, MFU 41.2 %",
            "memory: 3.25 GiB, peak 3.50 GiB",
            "loss of all steps: █▄▂▁▁ 2.000 to 10.000",
            "validation: step 5; hard 0.5000; mlm_loss 2.2500",
        ]

    def test_a_terminal_has_a_bar_and_a_table(self, run):
        run.begin().write(*(_step(n) for n in range(1, 6)), _validation(2), _validation(5, mlm_loss=2.25))
        shown = re.sub(r"\x1b\[[0-9;]*m", "", _once(run, terminal=True))
        assert re.search(r"━{15,}", shown)
        assert re.search(r"step +hard +mlm_loss", shown)
        assert re.search(r"2 +0\.5000 +-", shown)
        assert re.search(r"loss +2\.0000, mlm 4\.5000", shown)

    @pytest.mark.parametrize("width", [30, 80, 200])
    def test_no_line_is_wider_than_the_terminal(self, run, width):
        figures = {f"a_long_name_of_a_figure_{i}": 0.5 for i in range(12)}
        run.begin().write(*(_step(n) for n in range(1, 300)), _validation(5, **figures))
        shown = re.sub(r"\x1b\[[0-9;]*m", "", _once(run, terminal=True, width=width))
        assert max(map(len, shown.splitlines())) <= width

    def test_only_the_last_validations_are_shown(self, run):
        run.begin().write(_step(9), *(_validation(n) for n in range(1, 10)))
        found = re.findall(r"validation: step (\d)", _once(run))
        assert found == ["5", "6", "7", "8", "9"]

    def test_without_a_plan_there_is_no_share_and_no_remaining_time(self, run):
        run.begin().write(_step(1), _step(2))
        (run.store().parent / "identity.json").unlink()
        assert "state: step 2\n" in _once(run)

    @pytest.mark.parametrize("value", [None, "text", True, [1], float("nan"), float("inf"), 10**400, {"a": 1}])
    def test_a_figure_that_is_no_number_is_left_out(self, run, value):
        run.begin().write(_step(1, loss=value, memory_gib=value), _validation(1, hard=value, mrr=0.5))
        shown = _once(run)
        assert "loss: mlm 4.5000" in shown
        assert "memory: peak 3.50 GiB" in shown
        assert "validation: step 1; mrr 0.5000" in shown
        assert "loss of all steps" not in shown

    @pytest.mark.parametrize("terminal", [False, True])
    def test_hostile_text_reaches_no_terminal(self, tmp_path, terminal):
        run = Run(tmp_path / "a\x1b]0;title\x07\n\u202eb[red]x[/]")
        names = {"\x1b[2J\nfake: line": 0.5, "[bold]m[/bold]": 0.25}
        run.begin().write(_step(1), _validation(1, **names))
        run.finish(best_metric="\x1b[31m\r\nred\u202e")
        shown = _once(run, terminal=terminal, width=400)
        shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)  # rich's own colours; those of the names are of another form
        assert not CONTROL.search(shown)
        assert "\nfake" not in shown
        assert "[red]x[/]" in shown
        assert "[bold]m[/bold]" in shown
        assert "\\u{1b}[31m" in shown

    def test_no_color_is_heard(self, run):
        run.begin().write(*(_step(n) for n in range(1, 6)))
        assert re.search(r"\x1b\[[0-9;]*3\d|\x1b\[9\d", _once(run, terminal=True, color_system="truecolor"))
        shown = _once(run, terminal=True, color_system="truecolor", no_color=True)
        assert not re.search(r"\x1b\[[0-9;]*3\d|\x1b\[9\d", shown)

    def test_a_terminal_without_these_signs_gets_plain_ones(self, run):
        run.begin().write(*(_step(n) for n in range(1, 6)))
        follower, file = Follower(run.folder), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        follower.look()
        print_once(follower, Console(file=file, width=100, highlight=False))
        file.flush()
        assert b"loss of all steps: #~.__ 2.000 to 10.000" in file.buffer.getvalue()

    def test_a_record_that_stands_still_is_said_to(self, run):
        run.begin().write(_step(1), _step(2))
        os.utime(run.store(), (time.time() - 7200, time.time() - 7200))
        assert "nothing new for 2 h 00 min" in _once(run)

    def test_a_slow_step_is_no_standstill(self, run):
        run.begin().write(_step(1, elapsed_s=600.0), _step(2, elapsed_s=1200.0))
        os.utime(run.store(), (time.time() - 7200, time.time() - 7200))
        assert "nothing new" not in _once(run)

    def test_an_early_stop_is_called_so(self, run):
        run.begin().write(_step(7))
        run.finish(stopped_early=True, best_value=None)
        assert "state: stopped early after step 7 of 20\n" in _once(run)

    def test_a_summary_that_cannot_be_read_is_an_end_all_the_same(self, run):
        run.begin().write(_step(7))
        run.finish()
        (run.folder / "training.json").write_text("{")
        assert "state: finished after step 7\n" in _once(run)


class TestOverTime:
    def _played(self, run, acts, **options):
        """Follow; each sleep is one act of the training."""
        acts, console, follower = iter(acts), _console(**options), Follower(run.folder)

        def sleep(_):
            next(acts)()

        follow(follower, console, interval_s=9.0, sleep=sleep)
        return console.file.getvalue()

    def _acts(self, run):
        return [
            lambda: None,
            lambda: run.begin().write(_step(1), _step(2)),
            lambda: run.write(_validation(2), _step(3)),
            lambda: None,
            lambda: os.truncate(run.store(), len(_lines([_step(1)]))),
            lambda: run.write(_step(2), _validation(2, hard=0.625), _step(20)),
            run.finish,
        ]

    def test_lines_tell_a_training_from_before_it_began_to_its_end(self, run):
        figures = "speed 1,234 tokens/s, MFU 41.2 %, memory 3.25 GiB, peak 3.50 GiB"
        assert self._played(run, self._acts(run)).splitlines() == [
            f"waiting: no training has begun in {run.folder} (there is no such folder yet)",
            f"step 2 of 20 (10.0 %), about 36 s left, loss 5.0000, mlm 4.5000, {figures}",
            f"step 3 of 20 (15.0 %), about 34 s left, loss 3.3333, mlm 4.5000, {figures}",
            "validation: step 2; hard 0.5000",
            f"step 1 of 20 (5.0 %), loss 10.0000, mlm 4.5000, {figures}",
            f"step 20 of 20 (100.0 %), about 0 s left, loss 0.5000, mlm 4.5000, {figures}",
            "validation: step 2; hard 0.6250",
            f"finished after step 20 of 20, best at step 4: hard 0.7500, loss 0.5000, mlm 4.5000, {figures}",
        ]

    def test_a_terminal_is_redrawn_and_keeps_the_end(self, run):
        shown = self._played(run, self._acts(run), terminal=True)
        for text in ("waiting: no training", "step 3 of 20", "finished after step 20 of 20", "hard"):
            assert text in shown
        assert "\x1b[1A" in shown

    def test_a_run_that_is_over_is_shown_without_waiting(self, run):
        run.begin().write(_step(20))
        run.finish()
        assert "finished after step 20" in self._played(run, [])
        assert "finished after step 20" in self._played(run, [], terminal=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min")),
        *((86_399, "23 h 59 min"), (90_000, "1 d 1 h"), (1e30, "11,574 d 1 h")),
    ],
)
def test_a_time_is_told_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_a_curve_is_made_of_means_over_equal_stretches():
    assert sparkline([], 4) == ""
    assert sparkline([None], 4) == ""
    assert sparkline([2.0], 4) == "▁ 2.000 to 2.000"
    assert sparkline([1.0, 3.0, 5.0, 7.0, 6.0, 10.0], 3) == "▁▆█ 2.000 to 8.000"
    assert sparkline([1.0, None, 3.0], 3) == "▁ █ 1.000 to 3.000"


def test_a_curve_of_equal_numbers_is_flat():
    assert set(sparkline([4.265930395611262] * 999, 10).partition(" ")[0]) == {"▁"}


@pytest.mark.parametrize("losses", [[1e308, 1e308, 1.0], [1e308, -1e308], [1e308] * 200, [5e-324, 1e-323]])
def test_a_curve_of_numbers_of_any_size_is_drawn(losses):
    curve, _, words = sparkline(losses, 2).partition(" ")
    assert len(curve) == 2
    assert len(words) < 30


def test_the_view_of_nothing_is_the_wish_to_wait(run):
    console = _console(terminal=True, width=300)
    console.print(view(Follower(run.folder), console))
    assert "waiting" in console.file.getvalue()


def _command(*arguments):
    return [sys.executable, "-m", "commbert", "watch", *map(str, arguments)]


def test_the_command_prints_the_state_and_ends(run):
    run.begin().write(_step(1), _step(2))
    done = subprocess.run(_command(run.folder, "--once"), capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "state: step 2 of 20" in done.stdout


def test_the_command_refuses_a_file(run):
    run.begin()
    done = subprocess.run(_command(run.store(), "--once"), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("expected the folder of a run, found a file. Give its folder.")


def test_the_command_loads_neither_torch_nor_polars(run):
    script = (
        f"import sys; sys.argv = ['commbert', 'watch', {str(run.folder)!r}, '--once']\n"
        "from commbert.cli import app\n"
        "app(standalone_mode=False)\n"
        "assert not {'torch', 'polars', 'transformers', 'pyarrow', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_ends_it_without_a_word_of_complaint(run):
    run.begin().write(_step(1), _step(2))
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    command = _command(run.folder, "--interval-s", 0.05)
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=env)
    os.close(theirs)
    shown = b""
    while shown.count(b"step 2 of 20") < 3:
        shown += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    os.close(ours)
    assert (process.returncode, errors) == (0, b"")
