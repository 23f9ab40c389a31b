from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score

from commbert import counters
from commbert.evaluation.bootstrap import ap_resamples, resample_weights, spearman_resamples
from commbert.evaluation.controls import Controls, controls, problems
from commbert.evaluation.pairs import HeldOutPairs, by_pieces, rung_scores
from commbert.evaluation.pairs import by_frequency as by_lines
from commbert.evaluation.scores import Column, difference, figure, read_scores, resampled, write_scores
from commbert.evaluation.unigram import unigram
from commbert.evaluation.words import ByFrequency, Space, Words
from commbert.known import KnownPairs, pair_keys
from commbert.nn.measures import auc
from commbert.pairs.exchange import by_frequency
from commbert.pairs.negatives import NO_WORD, Draws, draw_from

torch.set_num_threads(1)
OPTIONS = {"n_resamples": 200, "seed": 1}


def _column(values, weights=None, clusters=None):
    n = len(values)
    ones = np.ones(n) if weights is None else np.array(weights, float)
    return Column(np.arange(n), np.arange(n) if clusters is None else clusters, np.array(values, float), ones)


def _scores(shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 60, 200)
    return {
        "english_novel:positive": _column(rng.normal(0.5 + shift, 1, 200), clusters=clusters),
        "english_novel:negative": _column(rng.normal(0, 1, 200), clusters=clusters),
        "english_seen:positive": _column(rng.normal(0.9 + shift, 1, 50), clusters=clusters[:50]),
        "english_seen:negative": _column(rng.normal(0, 1, 50), clusters=clusters[:50]),
        "mlm_loss": _column(rng.gamma(2.0, 1.0, 200), clusters=clusters),
        "mlm_loss_per_char": _column(rng.gamma(2.0, 1.0, 200), weights=rng.integers(1, 9, 200), clusters=clusters),
        "general_similarity": _column(rng.random(200), weights=rng.integers(0, 5, 200)),
    }


def _sides(scores, *strata):
    return [np.concatenate([scores[f"english_{s}:{side}"].value for s in strata]) for side in ("positive", "negative")]


def test_a_mean_by_hand():
    assert figure({"mlm_top1": _column([1, 0, 0, 1])}, "mlm_top1", **OPTIONS).value == 0.5


def test_loss_per_character_is_a_sum_over_a_sum():
    scores = {"mlm_loss_per_char": _column([3.0, 1.0], weights=[5, 3])}
    assert figure(scores, "mlm_loss_per_char", **OPTIONS).value == 0.5


STRATA = [("", ("novel", "seen")), ("_novel", ("novel",)), ("_seen", ("seen",))]


@pytest.mark.parametrize(("end", "strata"), STRATA)
def test_the_figure_of_a_rung_is_its_auc(end, strata):
    scores = _scores()
    found = figure(scores, f"auc_english{end}", **OPTIONS)
    assert found.value == pytest.approx(auc(*_sides(scores, *strata)), rel=1e-12)
    assert found.n == sum(len(scores[f"english_{s}:positive"].value) for s in strata)


@pytest.mark.parametrize(("end", "strata"), STRATA)
def test_average_precision_is_that_of_scikit_learn(end, strata):
    scores = {k: replace(c, value=c.value.round(1)) for k, c in _scores().items()}  # with ties
    positive, negative = _sides(scores, *strata)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    expected = average_precision_score(labels, np.concatenate([positive, negative]))
    found = figure(scores, f"ap_english{end}", **OPTIONS)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.low < found.value < found.high


def test_a_resample_of_average_precision_is_that_of_the_repeated_rows():
    rng = np.random.default_rng(2)
    positive, negative = rng.normal(0.4, 1, 30), rng.normal(0, 1, 30)
    clusters = np.arange(30) // 3
    drawn = ap_resamples(positive, negative, clusters, n_resamples=5, seed=4)
    index, weights = resample_weights(clusters, 5, 4)
    for found, weight in zip(drawn, weights, strict=True):
        rows = np.repeat(np.arange(30), weight[index])
        labels = np.repeat([1, 0], len(rows))
        values = np.concatenate([positive[rows], negative[rows]])
        assert found == pytest.approx(average_precision_score(labels, values), rel=1e-12)


def test_general_similarity_is_the_correlation_of_ranks():
    column = _scores()["general_similarity"]
    found = figure({"general_similarity": column}, "general_similarity", **OPTIONS)
    assert found.value == pytest.approx(spearmanr(column.value, column.weight).statistic, rel=1e-12)
    assert found.low < found.value < found.high


def test_a_resample_of_the_correlation_is_that_of_its_rows():
    rng = np.random.default_rng(5)
    values, grades = rng.random(40), rng.integers(0, 5, 40).astype(float)
    rows = np.random.default_rng([6, 7]).integers(0, 40, (3, 40))
    expected = [spearmanr(values[r], grades[r]).statistic for r in rows]
    assert spearman_resamples(values, grades, n_resamples=3, seed=6) == pytest.approx(expected, rel=1e-12)


def test_a_figure_that_was_not_measured_is_none():
    assert figure({}, "mlm_loss", **OPTIONS) is None
    assert figure({}, "auc_english", **OPTIONS) is None
    assert difference(_scores(), {}, "mlm_loss", **OPTIONS) is None


@pytest.mark.parametrize(
    "name", ["auc_english", "ap_english_novel", "mlm_loss", "mlm_loss_per_char", "general_similarity"]
)
def test_a_model_differs_from_itself_by_nothing(name):
    found = difference(_scores(), _scores(), name, **OPTIONS)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_difference_has_the_sign_of_ours_minus_theirs():
    better, worse = _scores(shift=1.0), _scores()
    found = difference(better, worse, "auc_english", **OPTIONS)
    assert found.value > 0
    assert found.low > 0


def test_a_paired_difference_is_narrower_than_two_intervals():
    ours = _scores()
    theirs = {"mlm_loss": replace(ours["mlm_loss"], value=ours["mlm_loss"].value + 0.1)}
    paired = difference(theirs, ours, "mlm_loss", **OPTIONS)
    alone = figure(ours, "mlm_loss", **OPTIONS)
    assert paired.value == pytest.approx(0.1, rel=1e-9)
    assert paired.high - paired.low < 0.01 * (alone.high - alone.low)


def test_models_measured_on_other_items_are_not_compared():
    short = {"mlm_loss": _column([1.0, 2.0])}
    assert difference(_scores(), short, "mlm_loss", **OPTIONS) is None


def test_scores_read_are_scores_written(tmp_path):
    scores = _scores()
    write_scores(tmp_path / "scores.parquet", scores, {"inputs": "x"})
    again = read_scores(tmp_path / "scores.parquet")
    assert again.keys() == scores.keys()
    for name, column in scores.items():
        assert all(np.array_equal(v, getattr(again[name], k)) for k, v in vars(column).items())


def test_resamples_are_as_many_as_asked():
    value, draws, n = resampled(_scores(), "mlm_loss", n_resamples=123, seed=0)
    assert (len(draws), n) == (123, 200)
    assert draws.min() < value < draws.max()


def test_unigram_by_hand():
    # Counts 3, 0, 1 of three tokens, one added to each: 4/7, 1/7, 2/7.
    found = unigram(np.array([3, 0, 1]))
    assert np.exp(found.log_probability) == pytest.approx([4 / 7, 1 / 7, 2 / 7], rel=1e-12)
    assert found.rank.tolist() == [0, 2, 1]


def test_unigram_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    counts = np.bincount(rng.integers(0, 50, 1000), minlength=80)
    assert np.exp(unigram(counts).log_probability).sum() == pytest.approx(1.0, rel=1e-12)


@pytest.fixture(scope="module")
def zipf():
    """A vocabulary whose words share lines by frequency alone, with vectors that know frequencies and nothing else."""
    rng = np.random.default_rng(0)
    n_words, n_pairs = 5000, 4000
    # Flatter than Zipf's 1 / rank: the pairs stage drops frequent words from lines.
    frequency = (3000 / np.arange(1, n_words + 1) ** 0.7).astype(np.uint64) + 1
    share = frequency / frequency.sum()
    anchor, positive = (rng.choice(n_words, n_pairs * 2, p=share).astype(np.uint32) for _ in range(2))
    keep = np.flatnonzero(anchor != positive)[:n_pairs]
    anchor, positive = anchor[keep], positive[keep]
    known = np.unique(pair_keys(anchor, positive))
    direction = torch.from_numpy(rng.normal(size=8))
    loud = torch.from_numpy(rankdata(frequency.astype(float)) / n_words)
    vectors = torch.from_numpy(rng.normal(size=(n_words, 8))) + 4 * loud[:, None] * direction
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    pool, draws = np.arange(n_words, dtype=np.uint32), Draws(counters.mixed(np.arange(n_pairs, dtype=np.uint64)), 0)
    pools = {
        "frequency_matched": by_frequency(anchor, positive, frequency, KnownPairs(known), rng),
        "random_code": draw_from(pool, anchor, positive, KnownPairs(known), draws, kind="random code"),
    }
    found = {rung: np.flatnonzero(ids != NO_WORD) for rung, ids in pools.items()}
    assert len(found["frequency_matched"]) > 0.9 * n_pairs
    vectors = vectors.float()
    mean = vectors[np.unique(anchor).astype(np.int64)].double().mean(0)
    popularity = (vectors.double() @ mean).numpy()
    return {
        rung: controls(
            positive[rows].astype(np.int64),
            pools[rung][rows].astype(np.int64),
            popularity=popularity,
            vectors=vectors.numpy(),
            n_lines=frequency.astype(np.float64),
        )
        for rung, rows in found.items()
    }


@pytest.mark.parametrize("rule", ["blind", "classifier", "frequency"])
def test_whoever_does_not_look_at_the_first_word_is_at_chance_on_matched_negatives(zipf, rule):
    assert getattr(zipf["frequency_matched"], rule) == pytest.approx(0.5, abs=1e-9)
    assert not problems(zipf)


def test_the_controls_see_that_random_words_are_rarer(zipf):
    found = zipf["random_code"]
    assert found.blind > 0.65
    assert found.classifier > 0.65
    assert found.frequency > 0.7


def test_a_hard_rung_that_gives_itself_away_is_a_problem_with_rule_and_value(zipf):
    (line, *_) = problems({"lexical": zipf["random_code"]})
    assert line.startswith("rung lexical: a rule that never sees the first word (blind) reaches an AUC of 0.")
    assert "expected 0.5 +- 0.03" in line


def test_an_easy_rung_may_be_solved_by_frequency(zipf):
    assert not problems({"random_code": zipf["random_code"]})


@pytest.mark.parametrize(
    ("value", "n", "is_fine"), [(0.529, 50, True), (0.531, 50, False), (0.469, 50, False), (0.9, 49, True)]
)
def test_the_bound_of_the_controls(value, n, is_fine):
    assert (not problems({"lexical": Controls(0.5, 0.5, value, n)})) == is_fine


def test_controls_of_no_pairs_are_none():
    nothing = np.empty(0, np.int64)
    found = controls(nothing, nothing, popularity=np.ones(3), vectors=np.ones((3, 2), np.float32), n_lines=np.ones(3))
    assert (found.blind, found.classifier, found.frequency, found.n) == (None, None, None, 0)


def _held_out():
    # Pair (0, 1) with negative 2; pair (2, 1) with negative 0.
    return HeldOutPairs(
        anchor=np.array([0, 2]),
        positive=np.array([1, 1]),
        is_novel=np.array([True, False]),
        group={"english": np.array([0, 1])},
        negative={"english": np.array([2, 0])},
    )


WORDS = Words(["a", "b", "c"], np.array([5.0, 3.0, 1.0]), np.ones(3, np.bool_), 3)
SPACE = Space(WORDS, torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), np.arange(3))


def test_rung_scores_by_hand():
    found = rung_scores(_held_out(), "english", SPACE.score)
    assert found.positive == pytest.approx([0.6, 0.8], abs=1e-7)
    assert found.negative == pytest.approx([0.0, 0.0], abs=1e-7)
    assert found.first.tolist() == [0, 2]
    assert (found.positive_word.tolist(), found.negative_word.tolist()) == ([1, 1], [2, 0])
    assert found.is_novel.tolist() == [True, False]


def test_popularity_is_the_cosine_to_the_mean_anchor():
    # The mean anchor is (0.5, 0.5).
    assert SPACE.popularity(np.array([0, 2])) == pytest.approx([0.5, 0.7, 0.5], abs=1e-7)


def test_the_frequency_rule_scores_the_second_word_only():
    rule = ByFrequency(WORDS)
    assert rule.score(np.array([0, 1]), np.array([1, 2])).tolist() == [3.0, 1.0]
    # Everyone's list: the most frequent word first.
    everyone = rule.vectors_of(np.arange(3))
    assert ((everyone @ everyone.T).argsort(dim=1, descending=True) == torch.arange(3)).all()


def test_strata_take_the_rarer_and_the_longer_word():
    found = rung_scores(_held_out(), "english", SPACE.score)
    lines = by_lines(found, np.array([0.0, 50.0, 7.0]))
    assert {k: v.tolist() for k, v in lines.items() if v.any()} == {
        "0 lines": [True, False],
        "1 to 9 lines": [False, True],
    }
    pieces = by_pieces(found, np.array([1, 2, 4]))
    assert {k: v.tolist() for k, v in pieces.items() if v.any()} == {
        "2 tokens": [True, False],
        "3 or 4 tokens": [False, True],
    }


def test_strata_part_all_rows():
    rng = np.random.default_rng(0)
    pairs = HeldOutPairs(
        np.arange(99), np.arange(1, 100), np.ones(99, np.bool_), {"x": np.arange(99)}, {"x": np.arange(99)}
    )
    found = rung_scores(pairs, "x", lambda a, b: np.zeros(len(a)))
    for parts in (by_lines(found, rng.integers(0, 300, 100).astype(float)), by_pieces(found, rng.integers(1, 9, 100))):
        assert (np.sum(list(parts.values()), axis=0) == 1).all()
