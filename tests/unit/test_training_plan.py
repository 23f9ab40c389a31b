from collections import Counter

import numpy as np
import pytest

from commbert.training.plan import Stream, make_plan
from equivalence.training_case import settings


def _plan(n_windows=10, n_pairs=25, world_size=1, **changes):
    chosen = settings(**{"batch_windows": 4, "batch_pairs": 4, "epochs": 2, **changes})
    return make_plan(chosen, n_windows=n_windows, n_pairs=n_pairs, world_size=world_size)


def _samples(stream, n_steps):
    return [s for step in range(n_steps) for s in zip(*(x.tolist() for x in stream.batch(step)), strict=True)]


@pytest.mark.parametrize(("n_rows", "batch_size"), [(10, 4), (10, 5), (7, 1), (3, 8)])
def test_every_row_is_read_exactly_once_per_epoch(n_rows, batch_size):
    n_epochs = 5
    counts = Counter(_samples(Stream("windows", n_rows, batch_size, 1), n_epochs * n_rows))
    assert all(counts[epoch, row] == 1 for epoch in range(n_epochs) for row in range(n_rows))


def test_a_batch_that_spans_two_epochs_names_both():
    epoch, _ = Stream("windows", 10, 4, 1).batch(2)
    assert epoch.tolist() == [0, 0, 1, 1]


def test_epochs_have_different_orders():
    rows = [row for _, row in _samples(Stream("windows", 100, 10, 1), 20)]
    assert rows[:100] != rows[100:]


def test_streams_and_seeds_have_different_orders():
    orders = {tuple(Stream(n, 100, 100, s).batch(0)[1].tolist()) for n in ("windows", "pairs") for s in (1, 2)}
    assert len(orders) == 4


def test_a_step_reads_the_same_rows_whenever_it_is_asked():
    stream = Stream("windows", 1000, 7, 1)
    first = stream.batch(50)[1].tolist()
    for step in range(300):
        stream.batch(step)
    assert stream.batch(50)[1].tolist() == first


def test_an_empty_stream_gives_empty_batches():
    assert [x.tolist() for x in Stream("pairs", 0, 4, 1).batch(3)] == [[], []]


def test_pairs_of_texts_are_a_stream_of_their_own_only_if_they_are_wanted():
    chosen = settings(batch_windows=4, batch_pairs=4, epochs=2, batch_texts=3)
    plan = make_plan(chosen, n_windows=10, n_pairs=25, n_texts=7, world_size=1)
    rows = [row for step in range(7) for row in plan.texts.batch(step)[1].tolist()]
    assert [len(plan.texts.batch(step)[1]) for step in range(7)] == [3] * 7
    assert Counter(rows) == dict.fromkeys(range(7), 3)
    # They lengthen nothing, and an epoch is of windows or pairs.
    assert plan.n_steps == _plan().n_steps
    assert plan.coverage()["texts_epochs"] == pytest.approx(plan.n_steps * 3 / 7)
    for changes in ({"batch_texts": 0}, {"batch_texts": 3, "objectives": {"mlm": 1.0, "contrastive": 0.0}}):
        none = make_plan(settings(**changes), n_windows=10, n_pairs=25, n_texts=7, world_size=1)
        assert none.texts.batch(0)[1].tolist() == []
        assert none.coverage()["texts_epochs"] == 0.0
    doubled = make_plan(
        settings(batch_texts=3, batch_per_process=True), n_windows=9, n_pairs=9, n_texts=7, world_size=2
    )
    assert doubled.texts.batch_size == 6


def test_steps_cover_all_epochs_of_the_windows():
    # ceil(10 / 4) = 3 steps an epoch.
    assert _plan().n_steps == 6


def test_the_other_stream_is_not_cut():
    assert _plan(epoch="pairs").n_steps == 2 * 7
    assert _plan(epoch="longer").n_steps == 14


def test_coverage_counts_both_streams():
    assert _plan().coverage() == {"windows_epochs": 24 / 10, "pairs_epochs": 24 / 25, "texts_epochs": 0.0}


def test_a_stream_without_weight_is_empty_and_the_other_counts_the_epochs():
    plan = _plan(objectives={"mlm": 0.0, "contrastive": 1.0}, epoch="windows")
    assert (plan.windows.n_rows, plan.n_steps) == (0, 14)
    assert plan.coverage()["windows_epochs"] == 0.0


def test_max_steps_ends_the_plan():
    assert _plan(max_steps=5).n_steps == 5
    assert _plan(max_steps=500).n_steps == 6


def test_the_number_of_processes_changes_nothing():
    assert _plan(world_size=4) == _plan(world_size=1)


def test_batches_per_process_grow_with_their_number():
    plan = _plan(world_size=2, batch_per_process=True)
    assert (plan.windows.batch_size, plan.pairs.batch_size, plan.n_steps) == (8, 8, 4)


def test_a_million_rows_are_ordered_without_gaps():
    _, rows = Stream("windows", 10**6, 10**6, 1).batch(0)
    assert (np.sort(rows) == np.arange(10**6)).all()
