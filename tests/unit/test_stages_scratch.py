"""Data stages and start model without a base model, and start models made from other runs."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM, BertForPreTraining

import cli_case
import data_case
import tiny
import tiny_stages
from commbert import tables
from commbert.artifacts import read_json, read_manifest
from commbert.errors import ModelError, SettingsError
from commbert.nn.model import load_bert
from commbert.settings.model import ModelSettings, PathModel, ScratchModel
from commbert.settings.tokenizer import TokenizerSettings
from commbert.stages import base, model, tokenizer
from commbert.tokenization.encoding import encode_words, load_tokenizer
from commbert.tokenization.vocabulary import learn_vocabulary, write_vocabulary

TOKENIZER = TokenizerSettings(mode="train", vocabulary_size=400, min_frequency=2)
SIZES = {"layers": 2, "heads": 4, "hidden_size": 32, "feed_forward": 48, "positions": 40}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, tree):
    """The data stages with a learnt vocabulary: where they left everything."""
    settings = data_case.settings_of(data_case.path_source(tree, shards=2), tokenizer=TOKENIZER)
    at = tmp_path_factory.mktemp("drawn")
    return at, tiny_stages.run_data(at, settings, None)


def model_settings(**changes):
    return ModelSettings(base=ScratchModel(kind="scratch", **{**SIZES, **changes.pop("base", {})}), **changes)


@pytest.fixture(scope="module")
def start(drawn):
    at, _ = drawn
    model.run(model_settings(), base=None, tokenizer=at / "tokenizer" / "tokenizer", out=at / "start")
    return at / "start"


def test_each_word_of_the_table_carries_the_ids_of_the_learnt_tokenizer(drawn):
    at, _ = drawn
    learnt = load_tokenizer(at / "tokenizer" / "tokenizer")
    rows = tables.read(at / "tokenizer" / "words.parquet", tables.WORDS).to_pylist()
    assert len(rows) > 100
    assert [row["token_ids"] for row in rows] == encode_words(learnt, [row["word"] for row in rows])
    assert {row["n_pieces_before"] for row in rows} == {0}  # there was no tokenizer before


def test_the_receipts_tell_what_was_asked_for_and_what_came(drawn):
    receipts = read_json(drawn[0] / "tokenizer" / "receipts.json")
    size = load_tokenizer(drawn[0] / "tokenizer" / "tokenizer").get_vocab_size()
    assert (receipts["entries_asked"], receipts["entries_after"], receipts["entries_before"]) == (400, size, None)
    assert 1.0 <= receipts["fertility"]["after"]["tokens_per_word"] < 4.0
    assert receipts["words"] == tables.read(drawn[0] / "tokenizer" / "words.parquet", tables.WORDS).num_rows


def test_windows_hold_the_tokens_of_the_learnt_tokenizer(drawn):
    at, data = drawn
    size = load_tokenizer(at / "tokenizer" / "tokenizer").get_vocab_size()
    parts = [tables.read(data.windows(shard).windows["train"], tables.WINDOWS) for shard in data.shards]
    ids = np.array([i for part in parts for row in part["input_ids"].to_pylist() for i in row], np.int64)
    assert ids.max() < size
    assert ids.min() > 0


def test_the_shards_do_not_change_the_vocabulary(drawn, tree, tmp_path):
    settings = data_case.settings_of(data_case.path_source(tree, shards=1), tokenizer=TOKENIZER)
    tiny_stages.run_data(tmp_path, settings, None)
    one, two = (folder / "tokenizer" / "tokenizer" / "vocab.txt" for folder in (tmp_path, drawn[0]))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("mode", "has_base"), [("train", True), ("keep", False), ("extend", False)])
def test_a_base_where_none_belongs_or_none_where_one_does_is_refused(tmp_path, mode, has_base):
    paths = dict.fromkeys(("files", "shards", "corpus_words", "english"), tmp_path / "x")
    outs = dict.fromkeys(("tokenizer_out", "words_out", "receipts_out"), tmp_path / "y")
    base_folder = tmp_path if has_base else None
    with pytest.raises(SettingsError, match=rf"^--base: expected (one|none) with tokenizer\.mode {mode}, found"):
        tokenizer.run(TokenizerSettings(mode=mode), base=base_folder, folders={}, **paths, **outs)


def test_the_start_model_has_the_sizes_asked_for_and_the_tokenizers_vocabulary(start, drawn):
    config = json.loads((start / "config.json").read_text())
    size = load_tokenizer(drawn[0] / "tokenizer" / "tokenizer").get_vocab_size()
    found = (config["num_hidden_layers"], config["num_attention_heads"], config["hidden_size"])
    assert (*found, config["intermediate_size"], config["max_position_embeddings"]) == (2, 4, 32, 48, 40)
    assert config["vocab_size"] == size
    summary = read_manifest(start)["about"]["summary"]
    assert summary["new_rows"] == summary["vocabulary"] == size
    assert summary["parts_drawn_anew"] == ["embeddings", "encoder", "mlm_head", "pooler", "nsp_head"]


def test_every_setting_of_the_architecture_reaches_the_model(drawn, tmp_path):
    sizes = {"activation": "relu", "hidden_dropout": 0.2, "attention_dropout": 0.3, "initializer_range": 0.5}
    grown = drawn[0] / "tokenizer" / "tokenizer"
    model.run(model_settings(base=sizes), base=None, tokenizer=grown, out=tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    keys = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "pad_token_id")
    assert [config[key] for key in keys] == ["relu", 0.2, 0.3, 0.5, 0]
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert weights["bert.encoder.layer.1.output.dense.weight"].std().item() == pytest.approx(0.5, rel=0.1)


def test_weights_are_drawn_as_bert_draws_them(start):
    weights = load_file(start / "model.safetensors")
    rows = weights["bert.embeddings.word_embeddings.weight"]
    assert rows[0].abs().max() == 0  # [PAD]
    assert rows[1:].std().item() == pytest.approx(0.02, rel=0.1)
    assert weights["bert.encoder.layer.0.attention.self.query.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert all(t.abs().max() == 0 for name, t in weights.items() if name.endswith("bias"))
    assert torch.equal(weights["bert.embeddings.LayerNorm.weight"], torch.ones(32))


def test_the_seed_alone_decides_the_weights(start, drawn, tmp_path):
    grown = drawn[0] / "tokenizer" / "tokenizer"
    torch.manual_seed(99)
    model.run(model_settings(), base=None, tokenizer=grown, out=tmp_path / "same")
    model.run(model_settings(seed=18), base=None, tokenizer=grown, out=tmp_path / "other")
    first, same, other = (
        (f / "model.safetensors").read_bytes() for f in (start, tmp_path / "same", tmp_path / "other")
    )
    assert first == same != other


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForMaskedLM, AutoModel])
def test_other_readers_load_the_start_model_whole(start, kind):
    loaded, info = kind.from_pretrained(str(start), output_loading_info=True)
    assert not info["missing_keys"]
    tokenizer_ = AutoTokenizer.from_pretrained(str(start))
    assert tokenizer_.model_max_length == 40
    assert loaded(**tokenizer_("harq " * 90, truncation=True, return_tensors="pt"))[0].shape[1] in (2, 40)


def test_a_run_that_starts_from_another_one_begins_with_its_weights(start, drawn, tmp_path):
    settings = model_settings(start="pretrain", pooling="cls")
    found = model.run(settings, base=start, tokenizer=drawn[0] / "tokenizer" / "tokenizer", out=tmp_path / "next")
    one, two = load_bert(start).state_dict(), load_bert(tmp_path / "next").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (found["new_rows"], found["parts_drawn_anew"]) == (0, [])
    about = read_manifest(tmp_path / "next")["about"]["settings"]
    assert (about["start"], about["pooling"]) == ("pretrain", "cls")


def test_words_that_the_start_has_already_are_not_added_again(start, drawn, tmp_path):
    grown = shutil.copytree(drawn[0] / "tokenizer" / "tokenizer", tmp_path / "grown")
    (grown / "new_words.json").write_text(json.dumps(["harq"]))
    found = model.run(model_settings(start="pretrain"), base=start, tokenizer=grown, out=tmp_path / "next")
    assert found["new_rows"] == 0


def test_a_start_with_another_vocabulary_is_refused(start, drawn, tmp_path):
    other = shutil.copytree(start, tmp_path / "other")
    spec = json.loads((other / "tokenizer.json").read_text())
    words = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    words[-1], words[-2] = words[-2], words[-1]
    spec["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    (other / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ModelError, match=r"expected the vocabulary of .* with words appended, found another one"):
        model.run(model_settings(), base=other, tokenizer=drawn[0] / "tokenizer" / "tokenizer", out=tmp_path / "m")


def test_a_model_without_base_and_without_sizes_is_refused(drawn, tmp_path):
    settings = ModelSettings(base=PathModel(kind="path", path="x"))
    with pytest.raises(SettingsError, match=r"^--base: expected a folder with model\.base\.kind path, found none"):
        model.run(settings, base=None, tokenizer=drawn[0] / "tokenizer" / "tokenizer", out=tmp_path / "m")


def test_a_model_drawn_anew_is_not_fetched(tmp_path):
    with pytest.raises(SettingsError, match=r"^model\.base\.kind: scratch has no base model"):
        base.run(ScratchModel(kind="scratch"), out=tmp_path / "b", timeout_s=1.0)


def test_an_exported_pretraining_is_a_base_whose_vocabulary_grows(tree, tmp_path):
    few = pl.DataFrame({"word": ["index", "process"], "n": [9, 9]})  # the words of the tree fall into letters
    learnt, start = tmp_path / "learnt", tmp_path / "start"
    learnt.mkdir()
    write_vocabulary(learn_vocabulary(few, TOKENIZER), learnt, lower_case=True)
    (learnt / "new_words.json").write_text("[]")
    model.run(model_settings(), base=None, tokenizer=learnt, out=start)
    base.run(PathModel(kind="path", path=str(start)), out=tmp_path / "base", timeout_s=1.0)
    grow = TokenizerSettings(min_count=2, min_files=1, max_new_words=7, max_chars=30)
    settings = data_case.settings_of(data_case.path_source(tree, shards=1), tokenizer=grow)
    tiny_stages.run_data(tmp_path, settings, tmp_path / "base")
    source = PathModel(kind="path", path=str(start))
    grown = tmp_path / "tokenizer" / "tokenizer"
    found = model.run(ModelSettings(base=source), base=tmp_path / "base", tokenizer=grown, out=tmp_path / "m")
    new_words = read_json(grown / "new_words.json")
    assert found["new_rows"] == len(new_words) > 0
    one, two = load_bert(start), load_bert(tmp_path / "m")
    n = one.config.vocab_size
    assert torch.equal(two.word_embeddings.weight[:n], one.word_embeddings.weight)
    [pieces] = encode_words(load_tokenizer(start), new_words[:1])
    assert torch.allclose(two.word_embeddings.weight[n], one.word_embeddings.weight[pieces].mean(0))


def test_the_commands_work_without_a_base(drawn, tmp_path):
    at, data = drawn
    lines = data.lines(data.shards[0])
    words = tiny_stages.WORDS.of_lines().as_json()
    for option in ("--lower-case", "--keep-case"):
        done = cli_case.commbert("lex", "--settings", words, option, "--lines", lines, "--out", tmp_path / option[2:])
        assert done.returncode == 0, done.stderr
    strings = {
        name: set(tables.read(tmp_path / name / "pretokens.parquet", tables.SHARD_WORDS)["word"].to_pylist())
        for name in ("lower-case", "keep-case")
    }
    assert strings["lower-case"] == {s.lower() for s in strings["keep-case"]} != strings["keep-case"]
    settings, grown = model_settings().as_json(), at / "tokenizer" / "tokenizer"
    done = cli_case.commbert("model", "--settings", settings, "--tokenizer", grown, "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m" / "vocab.txt").read_text().splitlines()[:5] == tiny.SPECIALS
