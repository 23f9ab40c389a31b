"""The subcommands that ask a model: what they print, and one clear line for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import inference_case as case
import tiny
from cli_case import assert_refused, commbert

ALL = ("fill-mask", "similarity", "neighbours", "predict", "encode", "search", "shell")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    at = tmp_path_factory.mktemp("models")
    case.write_model(at / "model")
    case.write_model(at / "base", seed=3)
    case.write_model(at / "headless", with_heads=False)
    case.write_classifier(at / "classifier")
    case.write_classifier(at / "scores", ("score",), problem_type="regression")
    (at / "words.txt").write_text("\n".join(tiny.WORDS))
    return at


@pytest.fixture
def ask(models, capsys):
    """Run a subcommand in this process, and return its exit code, output lines and messages."""

    def run(command, *args, model="model"):
        done = commbert(command, *args, "--model", models / model, "--device", "cpu")
        return done, capsys.readouterr().out

    return run


def answered(done_and_out):
    done, out = done_and_out
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out


def as_json(done_and_out):
    return [json.loads(line) for line in answered(done_and_out).splitlines()]


def in_process_of_its_own(models, *args, text=b"", **options):
    command = [sys.executable, "-m", "commbert", *map(str, args), "--model", str(models / "model"), "--device", "cpu"]
    return subprocess.run(command, input=text, capture_output=True, timeout=120, check=False, **options)


# -- What is printed ---------------------------------------------------------------------------------------------------


def test_fill_mask_prints_a_table_or_one_object_per_text(ask):
    out = answered(ask("fill-mask", "harq [MASK] slot", "-k", 3))
    assert out.startswith("harq [MASK] slot\n")
    assert out.count("0.") == 3
    two = answered(ask("fill-mask", "[MASK] a [MASK]"))
    assert "[MASK] 1" in two
    assert "[MASK] 2" in two
    assert "distribution of its own" in two
    first, second = as_json(ask("fill-mask", "harq [MASK]", "[MASK] [MASK]", "--json", "-k", 4))
    assert first["text"] == "harq [MASK]"
    assert [len(first["masks"]), len(second["masks"])] == [1, 2]
    assert len(first["masks"][0]) == 4
    assert set(first["masks"][0][0]) == {"token", "token_id", "probability"}


@pytest.mark.slow
def test_texts_come_from_a_file_a_column_or_standard_input(ask, models, tmp_path):
    (tmp_path / "t.txt").write_text("a [MASK]\n\nb [MASK]\n")
    (tmp_path / "t.csv").write_text('text,x\n"a, [MASK]",1\n')
    assert [f["where"][-6:] for f in as_json(ask("fill-mask", "-f", tmp_path / "t.txt", "--json"))] == [
        "line 1",
        "line 3",
    ]
    (one,) = as_json(ask("fill-mask", "-f", tmp_path / "t.csv", "--column", "text", "--json"))
    assert one["text"] == "a, [MASK]"
    done = in_process_of_its_own(models, "fill-mask", "--json", text="ö [MASK]\n".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["text"] == "ö [MASK]"


def test_similarity_of_two_and_of_a_file_with_the_base_model_beside(ask, models, tmp_path):
    (tmp_path / "p.tsv").write_text("harq\trlc\nbeam\tbeam\n")
    both = as_json(ask("similarity", "-f", tmp_path / "p.tsv", "--compare", "--base", models / "base", "--json"))
    assert both[1]["cosine"] == pytest.approx(1)
    assert both[1]["base_cosine"] == pytest.approx(1)
    assert both[0]["cosine"] != pytest.approx(both[0]["base_cosine"], abs=1e-4)
    (one,) = as_json(ask("similarity", "harq", "rlc", "--json"))
    assert one["cosine"] == pytest.approx(both[0]["cosine"], abs=1e-6)
    assert f"{one['cosine']:+.4f}" in answered(ask("similarity", "harq", "rlc"))


def test_neighbours_with_those_of_the_base_model_beside_them(ask, models):
    args = ("neighbours", "harq", "-k", 4, "--words", models / "words.txt", "--compare", "--base", models / "base")
    (found,) = as_json(ask(*args, "--json"))
    assert len(found["neighbours"]) == len(found["base_neighbours"]) == 4
    assert found["neighbours"] != found["base_neighbours"]
    assert "harq" not in {n["word"] for n in found["neighbours"]}
    out = answered(ask(*args))
    assert all(n["word"] in out for n in found["neighbours"] + found["base_neighbours"])
    assert "of 4 stand in both lists" in out


def test_encode_and_search_by_what_was_saved(ask, models, tmp_path):
    for name in ("v.parquet", "v.npy"):
        out = answered(ask("encode", "-f", models / "words.txt", "-o", tmp_path / name))
        assert out == f"{tmp_path / name}: 13 vectors of 32 numbers\n"
    printed = as_json(ask("encode", "-f", models / "words.txt", "--json"))
    assert np.array([p["vector"] for p in printed]) == pytest.approx(np.load(tmp_path / "v.npy"), abs=1e-6)
    (saved,) = as_json(ask("search", "harq", "--in", tmp_path / "v.parquet", "--json", "-k", 3))
    (fresh,) = as_json(ask("search", "harq", "--in", models / "words.txt", "--json", "-k", 3))
    assert [h["text"] for h in saved["hits"]] == [h["text"] for h in fresh["hits"]]
    assert saved["hits"][0]["text"] == "harq"
    assert fresh["hits"][0]["where"].endswith("words.txt, line 1")
    # The table cuts long places over several lines.
    assert "line 1" in answered(ask("search", "harq", "--in", models / "words.txt"))


def test_predict_prints_class_names_safely_and_scores(ask):
    (found,) = as_json(ask("predict", "harq", "--json", model="classifier"))
    assert sum(s["score"] for s in found["scores"]) == pytest.approx(1)
    out = answered(ask("predict", "[bold]ha\x1b[31mrq", model="classifier"))
    assert "\x1b" not in out
    assert "[bold]ha\\x1b[31mrq" in out
    assert "[red]evil\\x1b[0m" in out
    assert len(as_json(ask("predict", "harq", "-k", 1, "--json", model="classifier"))[0]["scores"]) == 1
    assert "score" in answered(ask("predict", "harq", model="scores"))


LONG = "[MASK] " + "a " * 100


@pytest.mark.parametrize(
    ("args", "model"),
    [
        (("fill-mask", LONG), "model"),
        (("encode", LONG), "model"),
        (("similarity", LONG, "b"), "model"),
        (("neighbours", LONG, "--words", "{words}"), "model"),
        (("search", LONG, "--in", "{words}"), "model"),
        (("predict", LONG), "classifier"),
    ],
)
def test_a_long_text_is_cut_where_it_is_asked_for(ask, models, args, model):
    args = [a.replace("{words}", str(models / "words.txt")) for a in args]
    assert len(as_json(ask(*args, "--truncate", "--json", model=model))) == 1


def test_vectors_keep_their_length_where_it_is_asked_for(ask):
    (unit,), (own,) = (as_json(ask("encode", "harq", "--json", *more)) for more in ((), ("--no-normalize",)))
    unit, own = np.array(unit["vector"]), np.array(own["vector"])
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(own) > 1.5
    assert own / np.linalg.norm(own) == pytest.approx(unit, abs=1e-6)


# -- Mistakes ----------------------------------------------------------------------------------------------------------

MISTAKES = {
    "a text without a mask": (("fill-mask", "harq slot"), "model", "argument 1: expected a text with [MASK]"),
    "no head": (("fill-mask", "a [MASK]"), "headless", "needs a trained mlm head, found none"),
    "too long to fill": (
        ("fill-mask", "[MASK] " + "a " * 100),
        "model",
        "at most 64 tokens with [CLS] and [SEP], found",
    ),
    "too long to encode": (("encode", "a " * 100, "--json"), "model", "argument 1: expected at most 64 tokens"),
    "too long to compare": (("similarity", "a " * 100, "b"), "model", "argument 1: expected at most 64 tokens"),
    "too long to classify": (("predict", "a " * 100), "classifier", "argument 1: expected at most 64 tokens"),
    "too long to search": (("search", "a " * 100, "--in", "{words}"), "model", "expected at most 64 tokens"),
    "no classifier": (("predict", "a"), "model", "needs a classifier head, found none"),
    "one text to compare": (("similarity", "a"), "model", "expected two texts to compare, found 1"),
    "two places": (("fill-mask", "a [MASK]", "-f", "x"), "model", "expected texts as arguments or by --file"),
    "a blank text": (("encode", " ", "--json"), "model", "argument 1: expected a text, found a blank one"),
    "a missing file": (("predict", "-f", "nowhere.txt"), "classifier", "nowhere.txt: expected a file of texts"),
    "a column of nothing": (("predict", "--column", "a"), "classifier", "--column: expected --file"),
    "no output": (("encode", "a"), "model", "--out"),
    "a wrong output": (("encode", "a", "-o", "v.txt"), "model", "v.txt: expected an output that ends in"),
    "nowhere to search": (("search", "a", "--in", "nowhere"), "model", "nowhere: expected a file to search"),
    "no words": (("neighbours", "a", "--words", "nowhere"), "model", "nowhere: expected a table of words"),
    "no base": (
        ("similarity", "a", "b", "--compare", "--base", "nowhere"),
        "model",
        "nowhere: expected a model folder",
    ),
    "half a character": (("encode", "a\udcff", "--json"), "model", "argument 1: expected UTF-8"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_1(ask, models, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    args, model, expected = MISTAKES[mistake]
    done, out = ask(*(str(a).replace("{words}", str(models / "words.txt")) for a in args), model=model)
    assert_refused(done, tmp_path, expected)
    assert out == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ALL)
def test_a_missing_model_is_named_by_every_command(ask, models, command, tmp_path):
    text = {"similarity": ("a", "b"), "fill-mask": ("[MASK]",), "shell": ()}.get(command, ("a",))
    more = {"encode": ("-o", tmp_path / "v.npy"), "search": ("--in", models / "words.txt")}.get(command, ())
    done, _ = ask(command, *text, *more, model="nowhere")
    assert_refused(done, tmp_path, "nowhere: expected a model folder, found none")


def test_a_device_that_is_not_there_is_named(models, tmp_path):
    done = commbert("fill-mask", "[MASK]", "--model", models / "model", "--device", "quantum")
    assert_refused(done, tmp_path, "found 'quantum'")


# -- Pipes and signals -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command_without_a_word(models, tmp_path):
    (tmp_path / "t.txt").write_text("a [MASK]\n" * 20_000)
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "commbert", "fill-mask", "-f", str(tmp_path / "t.txt"), *more]
        command += ["--model", str(models / "model"), "--device", "cpu"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=300) in (0, 1)
        assert errors == b""


@pytest.mark.slow
def test_ctrl_c_ends_the_command_with_130_and_no_traceback(models):
    command = [sys.executable, "-m", "commbert", "fill-mask", "--json", "--model", str(models / "model")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    process.stdin.write(b"a [MASK]\n" * 1024)
    process.stdin.flush()
    assert process.stdout.readline()  # it waits for more now
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [("fill-mask", "a [MASK]"), ("fill-mask", "a [MASK]", "--json"), ("choose", "a", "--option=b", "--option=c")],
)
def test_a_full_disk_behind_standard_output_is_one_line(models, arguments):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "commbert", *arguments, "--model", str(models / "model"), "--device", "cpu"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("error: standard output or log: No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("which", "told"), [("stdin", "expected a text, found none"), ("stdout", "found a closed one")]
)
def test_a_closed_stream_is_one_line(models, monkeypatch, which, told):
    monkeypatch.setattr(sys, which, None)
    arguments = ["fill-mask", "--model", models / "model", "--device", "cpu"]
    done = commbert(*arguments, *(["a [MASK]"] if which == "stdout" else []))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
