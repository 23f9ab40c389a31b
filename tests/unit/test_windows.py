import numpy as np
import pytest

from commbert.windows import cut_windows, file_bounds, share_seen, windows_of_file


def offsets_of(*lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def windows(*lengths, lines_before=3, lines_after=3, stride=1, max_tokens=1000):
    """Return (centre, first, last, start, stop, dropped) of each window."""
    found = windows_of_file(
        offsets_of(*lengths), lines_before=lines_before, lines_after=lines_after, stride=stride, max_tokens=max_tokens
    )
    return [(w.centre, w.first, w.last, w.start, w.stop, w.n_dropped_lines) for w in found]


def test_a_file_of_ten_lines_gives_the_windows_made_by_hand():
    # Ten lines of two tokens; three lines on each side where the file has them.
    assert windows(*[2] * 10) == [
        (0, 0, 3, 0, 8, 0),
        (1, 0, 4, 0, 10, 0),
        (2, 0, 5, 0, 12, 0),
        (3, 0, 6, 0, 14, 0),
        (4, 1, 7, 2, 16, 0),
        (5, 2, 8, 4, 18, 0),
        (6, 3, 9, 6, 20, 0),
        (7, 4, 9, 8, 20, 0),
        (8, 5, 9, 10, 20, 0),
        (9, 6, 9, 12, 20, 0),
    ]


def test_before_and_after_are_counted_apart():
    assert windows(*[1] * 5, lines_before=0, lines_after=2)[1][:3] == (1, 1, 3)
    assert windows(*[1] * 5, lines_before=2, lines_after=0)[3][:3] == (3, 1, 3)


@pytest.mark.parametrize(("stride", "centres"), [(1, list(range(10))), (3, [0, 3, 6, 9]), (7, [0, 7]), (99, [0])])
def test_the_stride_is_the_distance_of_the_centres(stride, centres):
    assert [w[0] for w in windows(*[2] * 10, stride=stride)] == centres


@pytest.mark.parametrize(
    ("max_tokens", "first", "last", "dropped"),
    [(14, 2, 8, 0), (13, 2, 7, 1), (11, 3, 7, 2), (9, 3, 6, 3), (7, 4, 6, 4), (5, 4, 5, 5), (3, 5, 5, 6)],
)
def test_lines_are_dropped_from_the_far_ends_in_turn(max_tokens, first, last, dropped):
    # Centre 5 of eleven lines of two tokens: 14 tokens before anything is dropped.
    found = windows(*[2] * 11, max_tokens=max_tokens)[5]
    assert (found[1], found[2], found[5]) == (first, last, dropped)


def test_the_farther_end_is_dropped_first():
    # Centre 0: only lines after it; centre 1: one before, three after.
    assert windows(*[2] * 10, max_tokens=6)[0][1:3] == (0, 2)
    assert windows(*[2] * 10, max_tokens=6)[1][1:3] == (0, 2)


def test_a_window_of_exactly_the_limit_drops_nothing():
    assert windows(*[2] * 7, max_tokens=14)[3] == (3, 0, 6, 0, 14, 0)


def test_a_centre_that_is_too_long_alone_keeps_its_beginning():
    # Lines of 3, 50 and 3 tokens; the centre stands at tokens 3 to 52.
    assert windows(3, 50, 3, max_tokens=10)[1] == (1, 1, 1, 3, 13, 2)


def random_files():
    rng = np.random.default_rng(17)
    for _ in range(200):
        lengths = rng.integers(0, 30, rng.integers(1, 25))
        limits = {
            "lines_before": int(rng.integers(0, 6)),
            "lines_after": int(rng.integers(0, 6)),
            "max_tokens": int(rng.integers(1, 60)),
        }
        yield lengths, limits


def test_window_over_the_limit_never_loses_its_centre():
    for lengths, limits in random_files():
        at = offsets_of(*lengths)
        for centre, first, last, start, stop, _ in windows(*lengths, **limits):
            assert first <= centre <= last
            assert start <= at[centre]
            assert stop >= min(at[centre + 1], at[centre] + limits["max_tokens"])


def test_no_window_is_empty_or_over_the_limit():
    for lengths, limits in random_files():
        assert all(0 < w[4] - w[3] <= limits["max_tokens"] for w in windows(*lengths, **limits))


def test_every_dropped_line_is_counted():
    for lengths, limits in random_files():
        for centre, first, last, _, _, dropped in windows(*lengths, **limits):
            before = min(centre, limits["lines_before"])
            after = min(len(lengths) - 1 - centre, limits["lines_after"])
            assert dropped == before + after - (last - first)


def test_no_line_is_dropped_without_need():
    for lengths, limits in random_files():
        at = offsets_of(*lengths)
        for centre, first, last, _, _, dropped in windows(*lengths, **limits):
            if dropped:
                # Before the last drop the window was one line wider, on one of its sides, and over the limit.
                wider = []
                if first > max(0, centre - limits["lines_before"]):
                    wider.append(at[last + 1] - at[first - 1])
                if last < min(len(lengths) - 1, centre + limits["lines_after"]):
                    wider.append(at[last + 2] - at[first])
                assert max(wider) > limits["max_tokens"]


def test_lines_without_tokens_give_no_window_where_they_stand_alone():
    assert windows(0, 0, lines_before=0, lines_after=0) == []


def test_a_file_without_lines_gives_no_window():
    assert windows() == []


def cut(file_ids, lengths, **changes):
    n = len(file_ids)
    options = {"lines_before": 1, "lines_after": 1, "stride": 1, "max_length": 100, **changes}
    ids = np.arange(sum(lengths), dtype=np.int32)
    line_nos = np.arange(n) * 10 + 10
    return cut_windows(ids, offsets_of(*lengths), np.array(file_ids), line_nos, **options)


def test_windows_never_cross_files():
    columns = cut([0, 0, 4, 4, 4], [1, 2, 3, 4, 5])
    assert [ids.tolist() for ids in columns.input_ids] == [
        [0, 1, 2],
        [0, 1, 2],
        [3, 4, 5, 6, 7, 8, 9],
        [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
        [6, 7, 8, 9, 10, 11, 12, 13, 14],
    ]


def test_windows_carry_the_numbers_of_their_original_lines():
    columns = cut([0, 0, 4, 4, 4], [1, 2, 3, 4, 5])
    assert columns.file_id == [0, 0, 4, 4, 4]
    assert columns.line_no == [10, 20, 30, 40, 50]
    assert columns.first_line == [10, 10, 30, 30, 40]
    assert columns.last_line == [20, 20, 40, 50, 50]


def test_every_file_starts_its_stride_anew():
    assert cut([0, 0, 0, 1, 1], [1] * 5, stride=2).line_no == [10, 30, 40]


def test_the_limit_counts_the_two_special_tokens():
    assert max(len(ids) for ids in cut([0] * 12, [1] * 12, lines_before=5, max_length=8).input_ids) == 6


def test_files_are_runs_of_equal_ids():
    assert file_bounds(np.array([7, 7, 7, 9, 3, 3])) == [(0, 3), (3, 4), (4, 6)]
    assert file_bounds(np.array([], np.int64)) == []


def test_the_share_seen_is_a_percentage_of_the_rows():
    assert share_seen([b"a", b"b", b"a", b"c"], {b"a"}) == 50.0
    assert share_seen([], {b"a"}) == 0.0
