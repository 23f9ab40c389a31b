"""Our packed encoder is transformers' eager BERT on padded batches: values, gradients, and the folders of both."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModel, AutoModelForMaskedLM, BertForMaskedLM, BertForPreTraining, BertModel

import oracle
import tiny
from commbert.errors import ModelError
from commbert.nn import encoder
from commbert.nn.encoder import Bert, Reading, check_config
from commbert.nn.model import _names, from_transformers, load_bert, load_transformers, to_transformers
from commbert.nn.packing import pack_sequences
from equivalence import training_case
from equivalence.training_case import REGULAR, SPECIALS

NO_DROPOUT = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
CONFIGS = {
    "one_layer": {"num_hidden_layers": 1},
    "two_layers_gelu_new": {"hidden_act": "gelu_new", "intermediate_size": 48},
    "three_layers_relu": {"num_hidden_layers": 3, "hidden_act": "relu"},
    "one_head": {"num_attention_heads": 1, "hidden_size": 24},
    "heads_of_two": {"num_attention_heads": 8, "hidden_size": 16, "hidden_act": "gelu_pytorch_tanh"},
    "large_epsilon": {"layer_norm_eps": 0.1, "intermediate_size": 7},
    "three_kinds_of_segments": {"type_vocab_size": 3},
}


def _error(found, expected):
    return training_case.error(found.detach(), expected.detach())


def _shaken(model, *, seed=1):
    """Move every weight away from where it starts: biases from 0, LayerNorm from 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.2)
    return model


def _network(*, dtype=torch.float64, seed=1, **changes):
    torch.manual_seed(seed)
    theirs = _shaken(BertForPreTraining(tiny.config(**{"initializer_range": 0.1, **changes})), seed=seed).to(dtype)
    return from_transformers(theirs).train()


def _sequences(seed, n=9):
    rng = np.random.default_rng(seed)
    found = [rng.choice(REGULAR, length) for length in rng.integers(0, 25, n)]
    return sorted(found, key=lambda s: -len(s)) if seed % 2 else found


def _batch(model, seed):
    """Return the same sequences padded and packed, with random segments."""
    sequences = _sequences(seed)
    batch, packed = oracle.padded(sequences, SPECIALS), pack_sequences(sequences, SPECIALS)
    segments = torch.from_numpy(
        np.random.default_rng(seed).integers(0, model.config.type_vocab_size, len(packed.input_ids))
    )
    padded_segments = torch.zeros_like(batch.input_ids)
    padded_segments[batch.attention_mask.bool()] = segments
    return batch, padded_segments, replace(packed, segment_ids=segments)


def _theirs(model, batch, segments):
    """Return transformers' hidden states, MLM logits (both at real tokens only) and NSP logits."""
    out = model(batch.input_ids, batch.attention_mask, segments, output_hidden_states=True)
    at = batch.attention_mask.bool()
    return [*(h[at] for h in out.hidden_states), out.prediction_logits[at], out.seq_relationship_logits]


def _ours(model, packed):
    states = [model.embedded(packed)]
    for layer in model.layers:
        states.append(layer(states[-1], packed))
    last = model.hidden_states(packed)
    return [*states[:-1], last, model.mlm_logits(last), model.nsp_logits(last[packed.offsets[:-1].long()])]


def _weighted(tensors):
    """Return a sum that reads every number of every tensor."""
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in tensors]
    return sum((t * w).sum() for t, w in zip(tensors, weights, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", CONFIGS)
def test_all_states_logits_and_gradients_are_those_of_transformers(name, dtype, tolerance):
    ours = _network(dtype=dtype, **NO_DROPOUT, **CONFIGS[name])
    theirs = oracle.theirs(ours)
    for seed in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        batch, segments, packed = _batch(ours, seed)
        expected, found = _theirs(theirs, batch, segments), _ours(ours, packed)
        assert len(found) == ours.config.num_hidden_layers + 3
        assert max(_error(f, e) for f, e in zip(found, expected, strict=True)) <= tolerance
        _weighted(expected).backward()
        _weighted(found).backward()
        gradients = oracle.gradients(theirs, ours)
        off = {n: _error(p.grad, gradients[n]) for n, p in ours.named_parameters()}
        assert max(off.values()) <= tolerance, max(off, key=off.get)


def test_outside_training_dropout_is_off():
    model = _network(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.5).eval()
    batch, segments, packed = _batch(model, 0)
    expected = _theirs(oracle.theirs(model), batch, segments)
    assert max(_error(f, e) for f, e in zip(_ours(model, packed), expected, strict=True)) <= 1e-10


def _stretch_instead_of_dropping(model):
    """Replace all dropout by something that draws nothing: both models draw in another order."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.forward = lambda x, of=module: x * (1.0 + of.p) if of.training else x


def test_hidden_dropout_stands_where_transformers_has_it():
    model = _network(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.3)
    batch, segments, packed = _batch(model, 0)
    theirs = oracle.theirs(model)
    _stretch_instead_of_dropping(model)
    _stretch_instead_of_dropping(theirs)
    expected, found = _theirs(theirs, batch, segments), _ours(model, packed)
    assert max(_error(f, e) for f, e in zip(found, expected, strict=True)) <= 1e-10
    assert _error(_ours(model.eval(), packed)[-1], found[-1]) > 1e-3


@pytest.mark.parametrize("kind", ["hidden", "attention"])
def test_each_dropout_can_be_set_alone(kind):
    model = _network(**NO_DROPOUT)
    packed = _batch(model, 0)[2]
    before = model.hidden_states(packed)
    model.set_dropout(hidden=None, attention=None)
    assert torch.equal(model.hidden_states(packed), before)
    model.set_dropout(**{"hidden": None, "attention": None, kind: 0.3})
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3 if kind == "hidden" else 0.0}
    assert {layer.attention_dropout for layer in model.layers} == {0.3 if kind == "attention" else 0.0}
    assert not torch.equal(model.hidden_states(packed), before)


def _gradient(model, value):
    model.zero_grad(set_to_none=True)
    value.backward()
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_last_layer_computed_only_where_it_is_read_is_the_whole_one_there(seed, n_layers):
    model = _network(num_hidden_layers=n_layers, **NO_DROPOUT)
    packed = _batch(model, seed)[2]
    tokens = torch.from_numpy(np.random.default_rng(seed).permutation(len(packed.input_ids))[:13])
    whole, read = model.hidden_states(packed)[tokens], model.hidden_states(packed, tokens)
    assert _error(read, whole) <= 1e-12
    assert _error(_gradient(model, _weighted([read])), _gradient(model, _weighted([whole]))) <= 1e-12


def test_a_reading_gives_the_cross_entropy_of_its_labels_and_the_states_of_the_rest():
    model = _network(**NO_DROPOUT)
    packed = _batch(model, 1)[2]
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.permutation(len(packed.input_ids))[:20])
    labels = torch.from_numpy(rng.choice(REGULAR, 8))
    out = model(packed, Reading(tokens, labels))
    whole = model.hidden_states(packed)
    expected = functional.cross_entropy(model.mlm_logits(whole)[tokens[:8]], labels, reduction="sum")
    assert out.mlm_loss_sum.item() == pytest.approx(expected.item(), rel=1e-12)
    assert _error(out.hidden, whole[tokens[8:]]) <= 1e-12
    found = _gradient(model, out.mlm_loss_sum + _weighted([out.hidden]))
    assert _error(found, _gradient(model, expected + _weighted([whole[tokens[8:]]]))) <= 1e-12


@pytest.mark.parametrize("labels", [None, torch.zeros(0, dtype=torch.int64)])
def test_without_labels_there_is_no_loss_and_all_is_hidden_state(labels):
    model = _network(**NO_DROPOUT)
    packed = _batch(model, 0)[2]
    out = model(packed, Reading(None, labels))
    assert out.mlm_loss_sum is None
    assert torch.equal(out.hidden, model.hidden_states(packed))


def test_a_label_that_stands_in_reads_the_head_and_no_token():
    model = _network(**NO_DROPOUT)
    packed = _batch(model, 0)[2]
    tokens = torch.tensor([4, 0, 9])
    out = model(packed, Reading(tokens, torch.zeros(1, dtype=torch.int64), is_stand_in=True))
    assert _error(out.hidden, model.hidden_states(packed)[tokens]) <= 1e-12
    model.zero_grad()
    out.mlm_loss_sum.backward()
    read = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    head = {"mlm_dense.bias", "mlm_norm.weight", "mlm_norm.bias", "mlm_bias", "word_embeddings.weight"}
    assert read == head


@pytest.mark.parametrize("dropout", [{}, NO_DROPOUT])
def test_layers_computed_again_in_backward_change_nothing(monkeypatch, dropout):
    model = _network(**dropout)
    packed = _batch(model, 0)[2]
    calls, original = [], encoder.attention
    monkeypatch.setattr(encoder, "attention", lambda *a, **k: calls.append(1) or original(*a, **k))
    found = []
    for checkpoints in (False, True):
        model.checkpoints_layers = checkpoints
        torch.manual_seed(3)
        out = model(packed, Reading(torch.arange(12), torch.from_numpy(REGULAR[:5])))
        value = out.mlm_loss_sum + _weighted([out.hidden])
        found.append((value.item(), _gradient(model, value), len(calls)))
    assert found[1][0] == found[0][0]
    assert torch.equal(found[1][1], found[0][1])
    # 2 layers; then 2 more, and both again in backward.
    assert [n for *_, n in found] == [2, 6]


def test_a_key_bias_changes_nothing_is_not_trained_and_is_kept():
    model = _network(**NO_DROPOUT)
    packed = _batch(model, 0)[2]
    keys = {n: b.clone() for n, b in model.named_buffers()}
    assert list(keys) == ["layers.0.key_bias", "layers.1.key_bias"]
    assert all(b.abs().min() > 0 for b in keys.values())
    assert not any("key_bias" in n for n, _ in model.named_parameters())
    theirs = to_transformers(model)
    for i, layer in enumerate(theirs.bert.encoder.layer):
        assert torch.equal(layer.attention.self.key.bias, keys[f"layers.{i}.key_bias"])
    before = _ours(model, packed)
    for b in model.buffers():
        b.zero_()
    assert max(_error(f, e) for f, e in zip(_ours(model, packed), before, strict=True)) <= 1e-12


KINDS = {"encoder": (BertModel, {}), "masked": (BertForMaskedLM, {}), "whole": (BertForPreTraining, {})}
KINDS["sharded"] = (BertForPreTraining, {"max_shard_size": "20KB"})


def _stored(folder):
    """Return all tensors of a folder under the names of BertForPreTraining."""
    found = {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}
    return {n if n.startswith(("bert.", "cls.")) else f"bert.{n}": t for n, t in found.items()}


@pytest.fixture
def folder(tmp_path):
    """Return a function that saves a model of some kind."""

    def write(kind, *, dtype=torch.float32, **changes):
        torch.manual_seed(0)
        of_kind, options = KINDS[kind]
        _shaken(of_kind(tiny.config(**changes))).to(dtype).save_pretrained(str(tmp_path / kind), **options)
        return tmp_path / kind

    return write


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        ("encoder", {"mlm_dense", "mlm_norm", "mlm_bias", "nsp"}),
        ("masked", {"pooler", "nsp"}),
        ("whole", set()),
        ("sharded", set()),
    ],
)
def test_a_folder_of_any_layout_is_read_whole_and_written_back_bit_by_bit(folder, kind, drawn):
    at = folder(kind)
    stored, bert = _stored(at), load_bert(at)
    assert len(list(at.glob("*.safetensors"))) > 2 or kind != "sharded"
    written = to_transformers(bert).state_dict()
    assert all(torch.equal(written[n], t) for n, t in stored.items())
    lacking = {n for n in bert.state_dict() if not set(_names(n)) <= set(stored)}
    assert {n.split(".")[0] for n in lacking} == drawn
    again = from_transformers(to_transformers(bert)).state_dict()
    assert list(again) == list(bert.state_dict())
    assert all(torch.equal(again[n], t) for n, t in bert.state_dict().items())


def test_a_folder_computes_what_transformers_computes_of_it(folder):
    at = folder("whole", layer_norm_eps=1e-3, hidden_act="relu")
    ours, theirs = load_bert(at).eval(), BertForPreTraining.from_pretrained(str(at), attn_implementation="eager").eval()
    batch, segments, packed = _batch(ours, 1)
    expected = _theirs(theirs, batch, segments)
    assert max(_error(f, e) for f, e in zip(_ours(ours, packed), expected, strict=True)) <= 1e-5


def test_weights_saved_in_bf16_are_loaded_in_float32_as_they_are(folder):
    at = folder("whole", dtype=torch.bfloat16)
    stored, bert = _stored(at), load_bert(at)
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert {t.dtype for t in bert.state_dict().values()} == {torch.float32}
    written = to_transformers(bert).state_dict()
    assert all(torch.equal(written[n], t.float()) for n, t in stored.items())


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForMaskedLM])
def test_what_we_write_others_load_with_nothing_missing(tmp_path, kind):
    model = _network(dtype=torch.float32).eval()
    to_transformers(model).save_pretrained(str(tmp_path))
    loaded, info = kind.from_pretrained(str(tmp_path), output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    batch, segments, packed = _batch(model, 0)
    out = loaded.eval()(batch.input_ids, batch.attention_mask, segments)
    ours = model.hidden_states(packed)
    expected = ours if kind is AutoModel else model.mlm_logits(ours)
    assert _error(out[0][batch.attention_mask.bool()], expected) <= 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_and_the_precision_are_handed_over(training):
    model = _network().train(training)
    theirs = to_transformers(model)
    assert (theirs.training, theirs.dtype) == (training, torch.float64)
    assert from_transformers(theirs).training == training


def test_our_weights_are_a_copy_that_training_does_not_share():
    model = _network()
    theirs = to_transformers(model)
    before = theirs.bert.encoder.layer[0].output.dense.weight.clone()
    with torch.no_grad():
        model.layers[0].feed_out.weight.zero_()
    assert torch.equal(theirs.bert.encoder.layer[0].output.dense.weight, before)


def test_buffers_of_their_model_are_not_left_to_chance():
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # new memory is filled with what nobody wants
    try:
        embeddings = to_transformers(_network()).bert.embeddings
    finally:
        torch.use_deterministic_algorithms(was)
    assert embeddings.position_ids.tolist() == [[*range(64)]]
    assert embeddings.token_type_ids.tolist() == [[0] * 64]


def test_names_and_shapes_of_bert_large_are_those_of_transformers():
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    config = tiny.config(vocab_size=30522, max_position_embeddings=512, **sizes)
    with torch.device("meta"):
        ours, theirs = Bert(config).state_dict(), BertForPreTraining(config).state_dict()
    parts = {n: torch.cat([theirs[t] for t in _names(n)]).shape for n in ours}
    assert parts == {n: t.shape for n, t in ours.items()}
    named = [t for n in ours for t in _names(n)]
    assert len(named) == len(set(named))
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert set(theirs) - set(named) == tied


REFUSED = {
    "position_embedding_type": ({"position_embedding_type": "relative_key"}, "expected absolute, found relative_key"),
    "is_decoder": ({"is_decoder": True}, "is_decoder: expected false"),
    "add_cross_attention": ({"add_cross_attention": True, "is_decoder": True}, "is_decoder: expected false"),
    "hidden_act": ({"hidden_act": "silu"}, "hidden_act: expected one of .* found silu"),
    "heads": ({"num_attention_heads": 5}, "expected a divisor of hidden_size 32, found 5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_computes_something_else_is_refused_in_one_line(name):
    changes, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as refused:
        check_config(tiny.config(**changes))
    assert "\n" not in str(refused.value)


def test_cross_attention_alone_is_refused():
    config = tiny.config()
    config.add_cross_attention = True
    with pytest.raises(ModelError, match="add_cross_attention: expected false"):
        check_config(config)


def test_absolute_positions_may_be_named():
    check_config(tiny.config(position_embedding_type="absolute"))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("load", [load_bert, load_transformers])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_folder_that_computes_something_else_is_refused_in_one_line(folder, name, load):
    at = folder("whole")
    stored = json.loads((at / "config.json").read_text(encoding="utf-8"))
    (at / "config.json").write_text(json.dumps({**stored, **REFUSED[name][0]}), encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        load(at)
    assert "\n" not in str(refused.value)


def test_an_activation_nobody_knows_is_refused_in_one_line(folder):
    at = folder("whole")
    stored = json.loads((at / "config.json").read_text(encoding="utf-8"))
    (at / "config.json").write_text(json.dumps({**stored, "hidden_act": "nonsense"}), encoding="utf-8")
    with pytest.raises(ModelError, match="nonsense") as refused:
        load_bert(at)
    assert "\n" not in str(refused.value)


def test_a_reason_of_many_lines_is_told_in_one(folder, monkeypatch):
    def broken(*_, **__):
        raise OSError("no such thing\nand a long story")

    monkeypatch.setattr(BertForPreTraining, "from_pretrained", broken)
    with pytest.raises(ModelError, match=r"OSError: no such thing and a long story$"):
        load_bert(folder("whole"))
