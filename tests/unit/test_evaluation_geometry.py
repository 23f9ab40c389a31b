"""Figures of how vectors lie, against brute force and by hand."""

import math

import numpy as np
import pytest
import torch

from commbert.evaluation import geometry as g

torch.set_num_threads(1)


def unit(n, h=16, seed=0, shared=0.0):
    """Return random unit vectors, with so much of a common direction."""
    rows = np.random.default_rng(seed).normal(size=(n, h))
    rows[:, 0] += shared * math.sqrt(h)
    return torch.nn.functional.normalize(torch.from_numpy(rows.astype(np.float32)), dim=1)


def brute_neighbours(vectors, k):
    """Sort all others of each row in plain Python."""
    v = vectors.double().numpy()
    out = []
    for i in range(len(v)):
        cosines = [float(np.float32(v[i] @ v[j])) for j in range(len(v))]
        out.append(sorted((j for j in range(len(v)) if j != i), key=lambda j: (-cosines[j], j))[:k])
    return out


# -- Alignment, uniformity, cosine -------------------------------------------------------------------------------------

CROSS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])


def test_alignment_by_hand():
    # Squared distances: orthogonal 2, opposite 4, equal 0.
    assert g.alignment(CROSS, np.array([0, 0, 0]), np.array([1, 2, 3])) == pytest.approx(2.0)


def test_uniformity_by_hand():
    found = g.uniformity(CROSS, np.array([0, 0]), np.array([1, 2]))
    assert found == pytest.approx(math.log((math.exp(-4) + math.exp(-8)) / 2))
    assert g.uniformity(CROSS, np.array([0]), np.array([1]), t=3.0) == pytest.approx(-6.0)


def test_uniformity_of_far_vectors_does_not_underflow():
    assert g.uniformity(CROSS, np.array([0]), np.array([2]), t=1000.0) == pytest.approx(-4000.0)


def test_one_vector_for_all_is_the_worst_uniformity_and_the_best_alignment():
    same, (a, b) = unit(1).repeat(50, 1), g.random_pairs(50, 100, 0)
    assert g.uniformity(same, a, b) == pytest.approx(0.0, abs=1e-6)
    assert g.alignment(same, a, b) == pytest.approx(0.0, abs=1e-6)
    assert g.mean_random_cosine(same, a, b) == pytest.approx(1.0)


def test_mean_random_cosine_is_that_of_all_pairs():
    vectors = unit(40, shared=1.0)
    gram = (vectors @ vectors.T).double().numpy()
    expected = (gram.sum() - 40) / (40 * 39)
    a, b = g.random_pairs(40, 200_000, 3)
    assert g.mean_random_cosine(vectors, a, b) == pytest.approx(expected, abs=2e-3)
    assert expected > 0.4


def test_figures_of_many_pairs_are_those_of_their_parts(monkeypatch):
    vectors, (a, b) = unit(30), g.random_pairs(30, 100, 1)
    whole = g.alignment(vectors, a, b)
    monkeypatch.setattr(g, "_COLUMNS_AT_ONCE", 7)
    assert g.alignment(vectors, a, b) == pytest.approx(whole, rel=1e-12)


def test_random_pairs_are_different_rows_each_as_often():
    a, b = g.random_pairs(5, 40_000, 2)
    assert (a != b).all()
    counts = np.bincount(a * 5 + b, minlength=25).reshape(5, 5)
    off = counts[~np.eye(5, dtype=bool)]
    assert abs(off - 2000).max() < 250
    assert [x.tolist() for x in g.random_pairs(9, 20, 7)] == [x.tolist() for x in g.random_pairs(9, 20, 7)]
    assert g.random_pairs(9, 20, 7)[0].tolist() != g.random_pairs(9, 20, 8)[0].tolist()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_words_have_no_figure(n):
    a, b = g.random_pairs(n, 10, 0)
    assert math.isnan(g.uniformity(unit(n), a, b))
    assert math.isnan(g.mean_random_cosine(unit(n), a, b))
    assert math.isnan(g.alignment(unit(n), a, b))


# -- Effective rank ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_effective_rank_is_its_definition(shape, centred):
    vectors = unit(*shape, shared=1.0)
    x = vectors.double().numpy()
    s = np.linalg.svd(x - x.mean(0) if centred else x, compute_uv=False)
    p = s[s > 1e-9] / s.sum()
    assert g.effective_rank(vectors, centred=centred) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_effective_rank_by_hand():
    # Singular values 2 and 1: shares 2/3 and 1/3.
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert g.effective_rank(rows) == pytest.approx(expected)
    assert g.effective_rank(torch.eye(7)) == pytest.approx(7)
    assert g.effective_rank(torch.eye(7), centred=True) == pytest.approx(6)


def test_effective_rank_of_one_direction_is_one_and_of_nothing_zero():
    same = unit(1).repeat(20, 1)
    assert g.effective_rank(same) == pytest.approx(1.0)
    assert g.effective_rank(same, centred=True) == 0.0
    assert math.isnan(g.effective_rank(torch.empty(0, 4)))


def test_effective_rank_in_pieces_is_that_of_the_whole(monkeypatch):
    whole = g.effective_rank(unit(100), centred=True)
    monkeypatch.setattr(g, "_COLUMNS_AT_ONCE", 7)
    assert g.effective_rank(unit(100), centred=True) == pytest.approx(whole, rel=1e-9)


# -- Neighbours and hubness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 7, 64, 1000])
@pytest.mark.parametrize("block_rows", [1, 9, 1000])
def test_neighbours_are_those_of_sorting(monkeypatch, columns, block_rows):
    monkeypatch.setattr(g, "_COLUMNS_AT_ONCE", columns)
    vectors = unit(65)
    index, cosine = g.neighbours(vectors, 10, block_rows=block_rows)
    assert index.tolist() == brute_neighbours(vectors, 10)
    expected = (vectors[torch.from_numpy(index)] * vectors[:, None]).sum(-1).numpy()
    np.testing.assert_allclose(cosine, expected, atol=1e-6)
    assert (np.diff(cosine, axis=1) <= 0).all()


@pytest.mark.parametrize("columns", [3, 11, 1000])
def test_of_equal_neighbours_the_lower_rows_are_taken(monkeypatch, columns):
    monkeypatch.setattr(g, "_COLUMNS_AT_ONCE", columns)
    vectors = torch.eye(4)[torch.tensor([0, 1, 0, 1, 0, 2, 0, 1, 3, 0, 0, 1, 0])]
    index, cosine = g.neighbours(vectors, 4)
    assert index.tolist() == brute_neighbours(vectors, 4)
    assert index[0].tolist() == [2, 4, 6, 9]
    assert index[5].tolist() == [0, 1, 2, 3]
    assert cosine[3].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_only_the_queries_are_asked_among_all_rows():
    vectors = unit(30)
    queries = np.array([4, 29, 4, 0])
    index, cosine = g.neighbours(vectors, 5, queries=queries, block_rows=3)
    whole, cosines = g.neighbours(vectors, 5)
    assert (index == whole[queries]).all()
    np.testing.assert_allclose(cosine, cosines[queries], atol=1e-6)


@pytest.mark.parametrize(("n", "k", "given"), [(0, 3, 0), (1, 3, 0), (2, 3, 1), (4, 3, 3), (4, 9, 3), (4, 0, 0)])
def test_a_row_has_no_more_neighbours_than_there_are_others(n, k, given):
    index, cosine = g.neighbours(unit(n), k)
    assert index.shape == cosine.shape == (n, given)
    assert all(i not in row for i, row in enumerate(index.tolist()))


@pytest.mark.parametrize(("columns", "block_rows"), [(7, 4), (1000, 256)])
def test_the_nearest_rows_of_any_vectors_are_those_of_brute_force(monkeypatch, columns, block_rows):
    monkeypatch.setattr(g, "_COLUMNS_AT_ONCE", columns)
    vectors, asked = unit(40), unit(9, seed=1)
    own = np.array([-1, 3, -1, -1, 0, 39, -1, -1, 8])
    index, cosine = g.nearest_rows(asked, vectors, 6, own=own, block_rows=block_rows)
    every = (asked.double() @ vectors.double().T).numpy()
    for row, left_out in enumerate(own):
        others = [i for i in np.argsort(-every[row]) if i != left_out]
        assert index[row].tolist() == others[:6]
        assert cosine[row] == pytest.approx(every[row][others[:6]], abs=1e-6)
    everything, last = g.nearest_rows(asked, vectors, 99, own=own)
    assert everything.shape == (9, 40)
    assert np.isneginf(last[:, -1]).tolist() == (own >= 0).tolist()
    assert g.nearest_rows(asked, vectors[:0], 3)[0].shape == (9, 0)


def test_no_block_is_larger_than_asked_for(monkeypatch):
    monkeypatch.setattr(g, "_COLUMNS_AT_ONCE", 50)
    seen = []
    top = g._top
    monkeypatch.setattr(g, "_top", lambda scores, k: seen.append(scores.shape) or top(scores, k))
    g.neighbours(unit(120), 10, block_rows=32)
    assert max(rows for rows, _ in seen) == 32
    assert max(columns for _, columns in seen) == 50


def test_hubness_by_hand():
    # Row 0 is named three times, the others never: counts 3, 0, 0, 0; skewness of one of four is 2 / sqrt(3).
    assert g.hubness(np.array([[0], [0], [0]]), 4) == pytest.approx(2 / math.sqrt(3))
    assert g.hubness(np.array([[1], [0]]), 2) == 0.0
    assert g.hubness(np.empty((0, 10), np.int64), 5) == 0.0


def test_hubness_counts_the_first_ten():
    index = np.tile(np.arange(12), (3, 1))
    assert g.hubness(index, 12) == g.hubness(index[:, :10], 12) != 0


def test_a_vector_in_the_middle_of_all_others_is_a_hub():
    vectors = unit(600, 200, shared=1.0)
    spread = g.hubness(g.neighbours(vectors, 10)[0], 600)
    vectors[0] = torch.nn.functional.normalize(vectors.mean(0), dim=0)
    assert g.hubness(g.neighbours(vectors, 10)[0], 600) > 2 * spread > 0


# -- All figures and the alarm -----------------------------------------------------------------------------------------


def measured(vectors, **changes):
    a, b = g.random_pairs(len(vectors), 50, 9)
    return g.geometry(vectors, a, b, **{"n_pairs": 2000, "n_queries": 50, "seed": 0, **changes})


def test_all_figures_are_those_of_their_functions_and_the_same_again():
    vectors = unit(80)
    found = measured(vectors)
    a, b = g.random_pairs(80, 50, 9)
    c, d = g.random_pairs(80, 2000, 0)
    assert found == measured(vectors)
    assert found.alignment == g.alignment(vectors, a, b)
    assert found.uniformity == g.uniformity(vectors, c, d)
    assert found.mean_random_cosine == g.mean_random_cosine(vectors, c, d)
    assert found.effective_rank == g.effective_rank(vectors)
    assert found.effective_rank_centred == g.effective_rank(vectors, centred=True)
    assert found.largest_rank == 16
    assert measured(unit(5)).largest_rank == 4


def test_hubness_is_of_all_rows_if_all_may_be_asked():
    vectors = unit(80)
    assert measured(vectors, n_queries=1000).hubness == g.hubness(g.neighbours(vectors, 10)[0], 80)
    assert measured(vectors, n_queries=79).hubness != measured(vectors, n_queries=1000).hubness


@pytest.mark.parametrize(("n", "h"), [(500, 16), (300, 384), (20, 384), (3000, 64)])
def test_random_vectors_are_not_collapsed_and_use_most_of_their_dimensions(n, h):
    found = measured(unit(n, h))
    assert g.collapse(found) == []
    assert found.effective_rank_centred > 0.85 * found.largest_rank


def test_constant_vectors_are_collapsed_for_both_reasons():
    reasons = g.collapse(measured(unit(1).repeat(100, 1)))
    assert len(reasons) == 2
    assert reasons[0].startswith("The mean cosine of random words is 1.000, above 0.9")
    assert reasons[1].startswith("The effective rank of the centred vectors is 0.0, below 1.6 (10% of 16)")


def test_a_narrow_cone_is_collapsed_for_its_cosine_alone():
    reasons = g.collapse(measured(unit(400, 64, shared=4.0)))
    assert len(reasons) == 1
    assert "mean cosine" in reasons[0]


def test_a_line_of_opposite_vectors_is_collapsed_for_its_rank_alone():
    vectors = unit(1, 64) * torch.tensor([1.0, -1.0]).repeat(100)[:, None]
    reasons = g.collapse(measured(vectors))
    assert len(reasons) == 1
    assert "effective rank" in reasons[0]


def test_a_shared_mean_of_a_healthy_model_is_no_collapse():
    found = measured(unit(400, 64, shared=1.0))
    assert 0.4 < found.mean_random_cosine < 0.6
    assert g.collapse(found) == []


@pytest.mark.parametrize("n", [0, 1])
def test_of_fewer_than_two_words_the_alarm_says_so_by_figures_that_are_no_numbers(n):
    found = g.geometry(unit(n), np.empty(0, np.int64), np.empty(0, np.int64), seed=0)
    assert math.isnan(found.mean_random_cosine)
    assert found.as_dict()["mean_random_cosine"] is None
    assert found.as_dict()["largest_rank"] == 0
    assert any("nan" in reason for reason in g.collapse(found))
