import numpy as np
import pytest
import torch

import tiny
from commbert.errors import ModelError, SettingsError
from commbert.nn.averaging import averaged, averaged_models
from commbert.nn.model import load_bert
from equivalence.training_case import network

torch.set_num_threads(1)
HEADS = ("mlm_dense.", "mlm_norm.", "mlm_bias", "nsp.")


@pytest.fixture(scope="module")
def sides():
    """The start model, and one that was trained; the pooler was not."""
    start, trained = network(seed=1), network(seed=2)
    trained.pooler.load_state_dict(start.pooler.state_dict())
    return start, trained


def same(a, b, names):
    return all(torch.equal(a.state_dict()[n], b.state_dict()[n]) for n in names)


def body(model):
    return [n for n in model.state_dict() if not n.startswith(HEADS)]


def heads(model):
    return [n for n in model.state_dict() if n.startswith(HEADS)]


def test_no_share_of_the_start_is_the_trained_model_bit_by_bit(sides):
    start, trained = sides
    trained.layers[0].feed_in.bias.data[0] = -0.0
    found = averaged(start, trained, 0.0)
    for name, weight in found.state_dict().items():
        assert weight.numpy().tobytes() == trained.state_dict()[name].numpy().tobytes(), name


def test_the_whole_share_is_the_start_model_with_the_trained_head(sides):
    start, trained = sides
    found = averaged(start, trained, 1.0)
    assert same(found, start, body(start))
    assert same(found, trained, heads(trained))
    assert not same(start, trained, body(start))


def test_between_them_weights_are_averaged_by_hand(sides):
    start, trained = sides
    found = averaged(start, trained, 0.3)
    for name, weight in found.state_dict().items():
        a, b = (m.state_dict()[name].numpy().astype(np.float64) for m in (start, trained))
        expected = b if name.startswith(HEADS) else (0.7 * b + 0.3 * a).astype(np.float32)
        assert weight.numpy() == pytest.approx(expected, rel=1.2e-7, abs=1e-12), name


def test_embeddings_and_every_layer_are_averaged(sides):
    start, trained = sides
    found = averaged(start, trained, 0.5)
    moved = {n for n, w in found.state_dict().items() if not torch.equal(w, trained.state_dict()[n])}
    same_on_both_sides = {n for n, w in start.state_dict().items() if torch.equal(w, trained.state_dict()[n])}
    assert moved == set(body(start)) - same_on_both_sides
    assert {
        "word_embeddings.weight",
        "position_embeddings.weight",
        "layers.0.qkv_weight",
        "layers.1.feed_out.weight",
    } <= moved


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_what_training_left_alone_stays_bit_by_bit(sides, share):
    start, trained = sides
    assert same(averaged(start, trained, share), start, ["pooler.weight", "pooler.bias"])


def test_the_sign_of_a_zero_that_was_not_trained_stays(sides):
    start, trained = (network(seed=s) for s in (1, 2))
    for model in (start, trained):
        torch.nn.init.constant_(model.pooler.bias, -0.0)
    assert averaged(start, trained, 0.3).pooler.bias.signbit().all()


def test_neither_side_is_changed(sides):
    start, trained = sides
    before = [{n: w.clone() for n, w in m.state_dict().items()} for m in sides]
    found = averaged(start, trained, 0.4)
    with torch.no_grad():
        for weight in found.parameters():
            weight.zero_()
    assert all(torch.equal(w, m.state_dict()[n]) for m, old in zip(sides, before, strict=True) for n, w in old.items())


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(sides, share):
    with pytest.raises(SettingsError, match="expected a share from 0 to 1"):
        averaged(*sides, share)


def test_models_of_other_vocabularies_are_refused(sides):
    with pytest.raises(ModelError, match=r"found other shapes of mlm_bias, word_embeddings.weight \(2 in all\)"):
        averaged(network(vocab_size=200), sides[1], 0.5)


def test_the_curve_is_the_same_models_one_after_the_other(tmp_path):
    start, trained = (tiny.write_base_model(tmp_path / str(s), with_heads=True, seed=s) for s in (1, 2))
    shares = [0.0, 0.25, 1.0]
    found = dict(averaged_models(start, trained, shares))
    assert [*found] == shares
    for share, model in found.items():
        expected = averaged(load_bert(start), load_bert(trained), share)
        assert same(model, expected, expected.state_dict())
