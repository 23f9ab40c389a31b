import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from commbert.errors import ModelError, SettingsError
from commbert.nn.collectives import Processes, gather_rows, join, sum_gradients, summed
from commbert.nn.devices import choose_device, choose_precision
from commbert.nn.model import (
    grow_embeddings,
    load_bert,
    missing_parts,
    save_for_others,
    special_ids,
    text_vectors,
    to_transformers,
)
from commbert.settings.model import PathModel
from commbert.stages import base
from equivalence.training_case import SPECIALS, network

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder without heads, like most published encoders."""
    return tiny.write_base_model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny.write_base_model(tmp_path_factory.mktemp("whole"), with_heads=True)


def test_new_rows_are_the_mean_of_their_pieces():
    model = network()
    old = model.word_embeddings.weight.detach().clone()
    grow_embeddings(model, [[10, 11, 12], [20]], init="piece_mean", seed=0)
    new = model.word_embeddings.weight
    assert torch.allclose(new[-2], (old[10] + old[11] + old[12]) / 3, atol=1e-7)
    assert torch.equal(new[-1], old[20])
    assert torch.equal(new[:-2], old)


def test_new_decoder_biases_are_the_mean_of_their_pieces():
    model = network()
    old = model.mlm_bias.detach().clone()
    grow_embeddings(model, [[10, 11], [20]], init="piece_mean", seed=0)
    assert model.mlm_bias[-2].item() == pytest.approx((old[10] + old[11]).item() / 2, abs=1e-7)
    assert torch.equal(model.mlm_bias[:-2], old)


def test_rows_of_a_normal_start_have_the_configs_spread_and_no_bias():
    model = network(initializer_range=0.02)
    grow_embeddings(model, [[10]] * 300, init="normal", seed=0)
    new = model.word_embeddings.weight[-300:].detach()
    assert float(new.std()) == pytest.approx(0.02, rel=0.05)
    assert torch.equal(model.mlm_bias[-300:], torch.zeros(300))


def test_growing_keeps_decoder_and_embeddings_one_tensor():
    model = network()
    grow_embeddings(model, [[10, 11]], init="piece_mean", seed=0)
    theirs = to_transformers(model)
    decoder = theirs.cls.predictions.decoder
    assert decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    assert decoder.bias is theirs.cls.predictions.bias
    assert decoder.weight.shape[0] == decoder.bias.shape[0] == theirs.config.vocab_size == 126


def test_old_words_keep_their_vectors_when_the_vocabulary_grows():
    model = network()
    before = text_vectors(model, [[10, 11], [12]], SPECIALS, pooling="mean", device=CPU)
    grow_embeddings(model, [[10, 11]], init="piece_mean", seed=0)
    assert torch.equal(text_vectors(model, [[10, 11], [12]], SPECIALS, pooling="mean", device=CPU), before)


def test_growing_by_nothing_changes_nothing():
    model = network()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    grow_embeddings(model, [], init="piece_mean", seed=0)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_heads_that_a_folder_lacks_are_named(encoder, whole):
    assert missing_parts(encoder) == ["mlm_head", "nsp_head"]
    assert missing_parts(whole) == []


def test_heads_that_a_folder_lacks_are_drawn_with_the_seed(encoder):
    a, b, c = (load_bert(encoder, seed=s).mlm_dense.weight for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_weights_are_loaded_as_they_are(whole):
    stored = load_file(whole / "model.safetensors")
    loaded = to_transformers(load_bert(whole)).state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in stored.items())


@pytest.mark.parametrize("lost", ["encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight"])
def test_a_folder_without_an_encoder_weight_is_refused_by_its_name(encoder, tmp_path, lost):
    tensors = load_file(encoder / "model.safetensors")
    assert lost in tensors
    save_file({n: t for n, t in tensors.items() if n != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((encoder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=lost.replace(".", r"\.")):
        load_bert(tmp_path)


def test_weights_of_another_shape_are_refused(encoder, tmp_path):
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError):
        load_bert(tmp_path)


def test_a_folder_that_is_not_there_is_no_hub_look_up(tmp_path):
    with pytest.raises(ModelError, match="expected a model folder, found none"):
        load_bert(tmp_path / "nobody")


def test_damaged_weights_are_a_message(encoder, tmp_path):
    (tmp_path / "config.json").write_bytes((encoder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_bert(tmp_path)


@pytest.fixture
def pickled(encoder, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((encoder / name).read_bytes())
    torch.save(load_file(encoder / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_never_loaded(pickled):
    with pytest.raises(ModelError):
        load_bert(pickled)


def test_a_base_of_pickled_weights_only_is_refused_with_the_reason(pickled, tmp_path):
    with pytest.raises(ModelError, match="pickled weights only"):
        base.run(PathModel(kind="path", path=str(pickled)), out=tmp_path / "out", timeout_s=1.0)
    assert not (tmp_path / "out").exists()


def test_a_base_with_code_of_its_own_is_refused(encoder, tmp_path):
    folder = tmp_path / "coded"
    folder.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes((encoder / name).read_bytes())
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="auto_map"):
        base.run(PathModel(kind="path", path=str(folder)), out=tmp_path / "out", timeout_s=1.0)


def test_vectors_have_length_one_and_the_order_of_the_texts():
    model = network()
    texts = [[10], [11, 12, 13, 14], [15, 16]]
    together = text_vectors(model, texts, SPECIALS, pooling="mean", device=CPU, batch_tokens=10)
    alone = torch.cat([text_vectors(model, [t], SPECIALS, pooling="mean", device=CPU) for t in texts])
    assert together.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert float((together - alone).abs().max()) < 1e-6


def test_a_text_of_more_tokens_than_positions_is_cut():
    model = network()
    long, cut = text_vectors(model, [[10] * 200, [10] * 62], SPECIALS, pooling="mean", device=CPU)
    assert float((long - cut).abs().max()) < 1e-6


def test_vectors_are_taken_without_dropout_and_training_goes_on_with_it():
    model = network()
    a, b = (text_vectors(model, [[10, 11]], SPECIALS, pooling="mean", device=CPU) for _ in range(2))
    assert torch.equal(a, b)
    assert model.training


def test_special_ids_are_read_from_the_tokenizer(encoder):
    assert special_ids(encoder) == SPECIALS


def test_a_tokenizer_without_mask_is_refused(encoder, tmp_path):
    spec = json.loads((encoder / "tokenizer.json").read_text(encoding="utf-8"))
    del spec["model"]["vocab"]["[MASK]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(ModelError, match="MASK"):
        special_ids(tmp_path)


def test_a_saved_folder_is_loaded_with_the_same_weights(encoder, tmp_path):
    model = load_bert(encoder, seed=3)
    save_for_others(model, encoder, tmp_path / "out", pooling="mean")
    again = load_bert(tmp_path / "out", seed=4).state_dict()
    assert all(torch.equal(again[n], t) for n, t in model.state_dict().items())
    assert missing_parts(tmp_path / "out") == []


def test_a_saved_folder_says_its_pooling(encoder, tmp_path):
    save_for_others(load_bert(encoder), encoder, tmp_path / "out", pooling="cls")
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    assert (pooling["pooling_mode_cls_token"], pooling["pooling_mode_mean_tokens"]) == (True, False)
    assert pooling["word_embedding_dimension"] == 32


def test_loading_says_nothing(encoder, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        load_bert(encoder)
    out = capfd.readouterr()
    assert (out.out, out.err, caplog.text) == ("", "", "")


def test_automatic_precision_on_a_cpu_is_fp32_with_a_reason():
    precision, reason = choose_precision("auto", CPU)
    assert precision == "fp32"
    assert "cpu" in reason


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="Use auto"):
        choose_device("cuda")
    assert choose_device("cpu") == CPU


def test_one_process_is_the_identity_of_every_collective(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join("cpu")
    assert alone == Processes(0, 1, 0)
    rows = torch.ones(2, 3)
    parameter = torch.nn.Parameter(rows)
    assert sum_gradients([parameter], alone) == 0.0
    assert gather_rows(rows, [2], alone) is rows
    assert summed(rows, alone) is rows
    assert parameter.grad is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": {"vocab": 3}}'])
def test_a_tokenizer_without_a_vocabulary_is_a_message(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="expected a tokenizer with a vocabulary"):
        special_ids(tmp_path)
