"""Folders that we save are read whole by others, in a process of their own, without a network."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from commbert.nn.model import load_bert, save_for_others, special_ids, text_vectors
from commbert.nn.packing import pack_sequences
from commbert.tokenization.encoding import encode_words, load_tokenizer
from tiny import WORDS

_READER = """
import json, sys
import torch
from transformers import AutoModel, AutoModelForMaskedLM, pipeline
from sentence_transformers import SentenceTransformer

mean, cls, words, long_text = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
found = {}
for kind in (AutoModel, AutoModelForMaskedLM):
    _, info = kind.from_pretrained(mean, output_loading_info=True)
    found[kind.__name__] = {k: sorted(map(str, info[k])) for k in ("missing_keys", "mismatched_keys")}
fill = pipeline("fill-mask", model=mean, device="cpu", top_k=3)
found["fill_mask"] = fill("harq [MASK] slot")
for name, folder in (("mean", mean), ("cls", cls)):
    encoder = SentenceTransformer(folder, device="cpu")
    found[name] = encoder.encode(words, batch_size=4).tolist()
    found[f"{name}_similarity"] = encoder.similarity_fn_name
try:
    found["long_text"] = len(SentenceTransformer(mean, device="cpu").encode([long_text])[0])
except Exception as error:
    found["long_text"] = repr(error)
print("FOUND" + json.dumps(found, default=str))
"""

TEXTS = [*WORDS, "harq_process", "the scheduler of the beam"]


@pytest.fixture(scope="module")
def read_by_others(stages, tmp_path_factory):
    cls = tmp_path_factory.mktemp("export") / "cls"
    save_for_others(load_bert(stages.start), stages.start, cls, pooling="cls")
    command = [sys.executable, "-c", _READER, str(stages.start), str(cls), json.dumps(TEXTS), "harq " * 200]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("FOUND", 1)[1])


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForMaskedLM"])
def test_a_reader_draws_no_weight_of_its_own(read_by_others, kind):
    assert read_by_others[kind] == {"missing_keys": [], "mismatched_keys": []}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_gives_our_vectors(read_by_others, stages, pooling):
    sequences = encode_words(load_tokenizer(stages.start), TEXTS)
    ours = text_vectors(
        load_bert(stages.start), sequences, special_ids(stages.start), pooling=pooling, device=torch.device("cpu")
    )
    assert np.abs(np.array(read_by_others[pooling]) - ours.numpy()).max() <= 1e-5


def test_sentence_transformers_compares_by_cosine(read_by_others):
    assert read_by_others["mean_similarity"] == "cosine"


def test_sentence_transformers_cuts_a_text_of_more_tokens_than_positions(read_by_others):
    assert read_by_others["long_text"] == 32


def test_fill_mask_gives_our_probabilities(read_by_others, stages):
    tokenizer, specials = load_tokenizer(stages.start), special_ids(stages.start)
    (harq,), (slot,) = encode_words(tokenizer, ["harq", "slot"])
    model = load_bert(stages.start).eval()
    with torch.inference_mode():
        hidden = model.hidden_states(pack_sequences([[harq, specials.mask, slot]], specials))
        expected = model.mlm_logits(hidden)[2].softmax(-1).topk(3)
    assert [row["token"] for row in read_by_others["fill_mask"]] == expected.indices.tolist()
    assert [row["score"] for row in read_by_others["fill_mask"]] == pytest.approx(expected.values.tolist(), rel=1e-4)


def test_the_folder_holds_safe_weights_only(stages):
    assert {p.suffix for p in stages.start.rglob("*") if p.is_file()} == {".json", ".txt", ".safetensors"}
