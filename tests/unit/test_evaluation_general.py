import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import tiny
from commbert.errors import DataError
from commbert.evaluation.general import GeneralMlm, general_mlm
from commbert.evaluation.masked import masked_scores
from commbert.nn.measures import MlmScores, mlm_scores
from commbert.nn.model import load_bert, special_ids
from commbert.tokenization.encoding import load_tokenizer

torch.set_num_threads(1)
CPU = torch.device("cpu")
SENTENCES = ["The house of the people, water and time.", "A number.", "Return the index of value 7!", "Tabling, houser"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_base_model(tmp_path_factory.mktemp("model") / "model", with_heads=True)


@pytest.fixture(scope="module")
def score(folder):
    network, tokenizer, specials = load_bert(folder), load_tokenizer(folder), special_ids(folder)

    def of(sentences, seed=1, tokenizer=tokenizer, network=network):
        return general_mlm(network, tokenizer, specials, sentences, seed=seed, device=CPU)

    return of


def test_losses_are_those_of_the_hidden_tokens_over_what_they_cover(folder, score):
    tokenizer, specials = load_tokenizer(folder), special_ids(folder)
    sentences = [s for i in range(8) for s in (f"{SENTENCES[0]} {i}", f"{SENTENCES[3]}{i}")]
    windows = [np.array(tokenizer.encode(s, add_special_tokens=False).ids) for s in sentences]
    plain = mlm_scores(load_bert(folder), windows, specials, seed=1, rate=0.15, device=CPU)
    found = score(sentences)
    assert found.loss_nats.tolist() == plain.loss.tolist()
    assert found.sentence.tolist() == plain.window.tolist()
    # Token by token, with the standard library: characters, and one over the pieces of its word.
    n_chars, n_words = [], []
    for window, place, label in zip(plain.window, plain.place, plain.label, strict=True):
        tokens = tokenizer.encode(sentences[window], add_special_tokens=False).tokens
        assert tokens[place] == tokenizer.id_to_token(int(label))
        first = max(i for i in range(place + 1) if not tokens[i].startswith("##"))
        last = next((i for i in range(place + 1, len(tokens)) if not tokens[i].startswith("##")), len(tokens))
        n_chars.append(len(tokens[place].removeprefix("##")))
        n_words.append(1 / (last - first))
    assert found.n_chars.tolist() == n_chars
    assert found.n_words.tolist() == n_words
    assert 1 in n_words
    assert min(n_words) < 0.5
    total = plain.loss.sum()
    assert found.loss_per_token == pytest.approx(total / len(n_chars), rel=1e-12)
    assert found.loss_per_char == pytest.approx(total / sum(n_chars), rel=1e-12)
    assert found.loss_per_word == pytest.approx(total / sum(n_words), rel=1e-12)
    assert found.top1 == (plain.rank == 0).mean()
    assert found.top5 == (plain.rank <= 4).mean()


def test_all_words_of_a_text_are_covered_once_if_all_is_hidden(score, monkeypatch):
    monkeypatch.setattr("commbert.evaluation.general.MASK_RATE", 1.0)
    found = score(SENTENCES)
    words = [w for s in SENTENCES for w in re.findall(r"[A-Za-z0-9]+|[^ ]", s)]
    assert found.n_words.sum() == pytest.approx(len(words), rel=1e-12)
    assert found.n_chars.sum() == sum(map(len, words))


def test_an_unknown_word_covers_its_characters(score):
    found = score(["中"])
    assert found.n_chars.tolist() == [1.0]


def test_the_same_seed_hides_the_same_tokens(score):
    long = [f"{SENTENCES[0]} {SENTENCES[2]}"] * 5
    one, again, other = score(long), score(long), score(long, seed=2)
    assert one.as_dict() == again.as_dict()
    assert one.n_chars.tolist() != other.n_chars.tolist()


def test_about_15_pct_of_the_tokens_are_hidden(folder, score):
    sentences = [SENTENCES[0]] * 300
    n = len(load_tokenizer(folder).encode(SENTENCES[0], add_special_tokens=False).ids) * 300
    assert 0.13 < score(sentences).as_dict()["n_tokens"] / n < 0.22  # at least one of each sentence


def test_a_sentence_longer_than_the_model_is_cut(score):
    found = score([" ".join(["water"] * 500)])
    assert 1 <= len(found.loss_nats) < 40


def test_text_without_tokens_is_refused(score):
    with pytest.raises(DataError, match="found none in '\\\\u200b'"):
        score(["The house.", "\u200b"])
    with pytest.raises(DataError, match="at least one sentence"):
        score([])


def test_special_tokens_in_a_text_are_text(folder, score):
    found = score(["[MASK]"] * 20)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("[MASK]") not in found.rank
    assert found.n_chars.max() == 1


def test_figures_by_hand():
    loss, chars, words = np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 2.0, 3.0, 1.0]), np.array([1.0, 0.5, 0.5, 1.0])
    found = GeneralMlm(np.array([0, 0, 1, 1]), loss, np.array([0, 1, 4, 5]), chars, words)
    assert found.as_dict() == {
        "loss_per_token": 3.0,
        "loss_per_char": 1.5,
        "loss_per_word": 4.0,
        "top1": 0.25,
        "top5": 0.75,
        "n_tokens": 4,
    }


def test_a_right_token_on_the_fifth_place_is_among_the_first_five_and_on_the_sixth_not(folder, monkeypatch):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("harq slot harq", add_special_tokens=False).ids
    place = np.arange(len(ids))
    ranks = np.array([0, 4, 5, *[9] * len(ids)])[: len(ids)]
    found = MlmScores(np.zeros(len(ids), np.int64), np.array(ids), np.ones(len(ids)), ranks, place)
    monkeypatch.setattr("commbert.evaluation.masked.mlm_scores", lambda *_, **__: found)
    options = {"clusters": np.zeros(1, np.int64), "seed": 0, "device": CPU}
    columns, _ = masked_scores(None, tokenizer, special_ids(folder), [np.array(ids)], **options)
    assert columns["mlm_top5"].value.tolist() == [float(rank <= 4) for rank in ranks.tolist()]
    assert columns["mlm_top5"].value[:3].tolist() == [1.0, 1.0, 0.0]
    assert columns["mlm_top1"].value[:3].tolist() == [1.0, 0.0, 0.0]
