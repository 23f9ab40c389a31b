import json

import pytest

import tiny
from commbert.errors import ModelError
from commbert.finetuning.network import check_encoder_folder
from commbert.modelfolder import check_model_folder, check_weights
from commbert.nn.model import load_bert
from commbert.settings.model import PathModel
from commbert.stages import base
from commbert.tokenization.encoding import load_tokenizer

CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def bring(folder, out):
    return base.run(PathModel(kind="path", path=str(folder)), out=out, timeout_s=1.0)


def test_a_complete_folder_gives_its_sizes(folder):
    assert check_model_folder(folder, name="base") == {k: v for k, v in CONFIG.items() if k != "model_type"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"expected {name}, found none"):
        check_model_folder(folder, name="base")


@pytest.mark.parametrize("text", ["", "{", "\xff"])
def test_a_config_that_is_no_json_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json: expected JSON"):
        check_model_folder(folder, name="base")


@pytest.mark.parametrize(("value", "found"), [({"model_type": "gpt2"}, "'gpt2'"), ({}, "None"), ([], "'list'")])
def test_a_model_that_is_no_bert_is_refused_with_its_kind(folder, value, found):
    (folder / "config.json").write_text(json.dumps(value))
    with pytest.raises(ModelError, match=f"expected model_type bert, found {found}"):
        check_model_folder(folder, name="base")


def test_a_config_that_asks_to_run_code_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "x.Model"}}))
    with pytest.raises(ModelError, match="auto_map asks to run code"):
        check_model_folder(folder, name="base")


@pytest.mark.parametrize("value", ["32", None, 3.5])
def test_a_size_that_is_no_whole_number_is_named(folder, value):
    (folder / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": value}))
    with pytest.raises(ModelError, match="expected whole numbers above 0 for hidden_size"):
        check_model_folder(folder, name="base")


def test_the_base_stage_takes_model_files_only(folder, tmp_path):
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    bring(folder, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]


def test_pickled_weights_only_are_refused_and_leave_no_folder(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights only"):
        bring(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


def test_a_base_path_that_is_no_folder_names_the_setting(tmp_path):
    with pytest.raises(ModelError, match=r"model\.base\.path: expected a folder"):
        bring(tmp_path / "none", tmp_path / "out")


@pytest.fixture
def whole(tmp_path):
    return tiny.write_base_model(tmp_path / "whole")


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_weights_that_fit_are_taken_with_and_without_heads(whole, tmp_path):
    check_weights(whole, name="it")
    check_weights(tiny.write_base_model(tmp_path / "heads", with_heads=True), name="it")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num_hidden_layers": 10**9}, "expected 1000000000 layers, found 2"),
        ({"num_hidden_layers": 1}, "expected 1 layers, found 2"),
        ({"hidden_size": 2**20}, "word_embeddings.weight of .* x 1048576, found"),
        ({"vocab_size": 10**12}, "word_embeddings.weight of 1000000000000 x 32"),
        ({"max_position_embeddings": 10**12}, "position_embeddings"),
        ({"type_vocab_size": 10**12}, "token_type_embeddings"),
        ({"intermediate_size": 10**12}, r"layer\.0\.intermediate"),
        ({"num_labels": 10**9}, "num_labels: expected at most 10,000, found 1,000,000,000"),
    ],
)
def test_sizes_that_the_weights_have_not_are_refused_before_anything_is_made(whole, values, told):
    change(whole, **values)
    for load in (load_bert, check_encoder_folder):
        with pytest.raises(ModelError, match=told):
            load(whole)


@pytest.mark.parametrize("cut", [0, 5, 1000])
def test_weights_that_are_cut_off_are_named(whole, cut):
    path = whole / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        load_bert(whole)


def test_files_nested_without_end_are_refused(whole):
    (whole / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="expected a BERT tokenizer"):
        load_tokenizer(whole)
    (whole / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="expected JSON"):
        check_model_folder(whole, name="it")
