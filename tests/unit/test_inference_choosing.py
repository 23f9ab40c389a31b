"""Multiple choice: equal to transformers, one hidden piece at a time, padded; and what is refused."""

import io
import json

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

import tiny
from cli_case import assert_refused, commbert
from commbert.errors import DataError, ModelError
from commbert.inference.answering import accuracies, sorted_out, wilson
from commbert.inference.choosing import SCORINGS, Choice, OptionScore, choose, choose_all
from commbert.inference.hidden import hidden_tokens
from commbert.inference.models import load_model
from commbert.inference.questions import Question, read_questions

torch.set_num_threads(1)
CHINESE = list("手机基站信号接收发送你好")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Weights far from their start, so that tokens differ in likelihood by nats, not by hundredths.
    return tiny.write_base_model(tmp_path_factory.mktemp("m") / "model", with_heads=True, initializer_range=0.5)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder, device="cpu")


def slow_scores(model, left, options, right, *, scoring):
    """Return the mean log probability of each option's pieces: one padded forward pass of transformers per piece."""
    theirs = BertForMaskedLM.from_pretrained(str(model.folder), attn_implementation="eager").eval()
    vocabulary = model.tokenizer.get_vocab()
    entry = {number: text for text, number in vocabulary.items()}
    scores = []
    for option in options:
        pieces = model.encode([option])[0]
        before, after = model.encode([left])[0], model.encode([right])[0]
        whole = [2, *before, *pieces, *after, 3]
        total = 0.0
        for i, piece in enumerate(pieces):
            ids = list(whole)
            at = 1 + len(before) + i
            ids[at] = model.specials.mask
            if scoring == "word-l2r":
                for j in range(i + 1, len(pieces)):
                    if not entry[pieces[j]].startswith("##"):
                        break
                    ids[1 + len(before) + j] = model.specials.mask
            padding = [0] * (60 - len(ids))
            attention = [1] * len(ids) + padding
            with torch.no_grad():
                logits = theirs(torch.tensor([ids + padding]), attention_mask=torch.tensor([attention])).logits
            total += float(torch.log_softmax(logits[0, at].double(), -1)[piece])
        scores.append(total / len(pieces))
    return scores


QUESTION = ("the rlc ", " returns a number of values", ["harq", "water", "mac layer", "the scheduler grant", "pdcp"])


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("slot", ["[MASK]", "____", "___"])
def test_scores_are_those_of_transformers_one_padded_text_at_a_time(model, scoring, slot):
    left, right, options = QUESTION
    found = choose(model, left + slot + right, options, scoring=scoring)
    expected = slow_scores(model, left, options, right, scoring=scoring)
    np.testing.assert_allclose([o.score for o in found], expected, rtol=0, atol=1e-5)
    assert [o.option for o in found] == options
    assert [o.n_pieces for o in found] == [4, 1, 7, 14, 4]
    assert np.ptp(expected) > 0.5


@pytest.mark.parametrize("scoring", SCORINGS)
def test_without_a_slot_the_option_follows_the_question(model, scoring):
    _, _, options = QUESTION
    found = choose(model, "the people of the house?", options, scoring=scoring)
    expected = slow_scores(model, "the people of the house?", options, "", scoring=scoring)
    np.testing.assert_allclose([o.score for o in found], expected, rtol=0, atol=1e-5)


def test_the_blind_scores_are_those_of_the_options_alone(model):
    left, right, options = QUESTION
    blind = choose(model, left + "[MASK]" + right, options, is_blind=True)
    expected = slow_scores(model, "", options, "", scoring="word-l2r")
    np.testing.assert_allclose([o.score for o in blind], expected, rtol=0, atol=1e-5)
    assert blind == choose(model, "another question?", options, is_blind=True, is_calibrated=True)


def test_a_calibrated_score_is_what_the_question_adds(model):
    left, right, options = QUESTION
    text = left + "[MASK]" + right
    seen, blind = choose(model, text, options), choose(model, text, options, is_blind=True)
    calibrated = choose(model, text, options, is_calibrated=True)
    expected = [s.score - b.score for s, b in zip(seen, blind, strict=True)]
    np.testing.assert_allclose([o.score for o in calibrated], expected, atol=1e-12)


def test_probabilities_are_the_softmax_of_the_scores(model):
    found = choose(model, "the ____ of the table", ["water", "harq", "time"])
    score = np.array([o.score for o in found])
    expected = np.exp(score) / np.exp(score).sum()
    np.testing.assert_allclose([o.probability for o in found], expected, rtol=1e-9)


def test_a_word_of_one_piece_is_scored_alike_in_both_ways_and_one_of_several_is_not(model):
    options = ["water", "harq"]
    one, several = zip(*(choose(model, "the ____", options, scoring=s) for s in SCORINGS), strict=True)
    assert one[0].score == pytest.approx(one[1].score, abs=1e-6)
    assert abs(several[0].score - several[1].score) > 1e-3


def test_many_questions_are_scored_as_each_alone_and_told_of(model):
    questions = [
        Question(f"the {'house ' * (i % 7)}____ of {i}", ("mac", "rlc", "the table")[: 2 + i % 2]) for i in range(150)
    ]
    told = []
    found = choose_all(model, questions, on_progress=told.append)
    assert told == [128, 22]
    for i in (0, 1, 127, 128, 149):
        alone = choose(model, questions[i].text, questions[i].options)
        assert [o.score for o in found[i].options] == pytest.approx([o.score for o in alone], abs=1e-5)


def test_the_order_of_the_options_changes_no_score(model):
    forth = choose(model, "the ____", ["mac", "harq", "time"])
    back = choose(model, "the ____", ["time", "harq", "mac"])
    assert [o.score for o in forth] == pytest.approx([o.score for o in reversed(back)], abs=1e-6)


def test_small_batches_give_the_figures_of_large_ones(model):
    rng = np.random.default_rng(3)
    texts = [rng.integers(5, 60, n) for n in (3, 9, 4, 1, 30)]
    text_of, place = np.array([0, 0, 2, 3, 4, 4]), np.array([0, 2, 3, 0, 29, 1])
    token = rng.integers(5, 60, 6)
    small, large = (
        hidden_tokens(model, texts, text_of=text_of, place=place, token=token, batch_tokens=n) for n in (1, 10_000)
    )
    np.testing.assert_allclose(small.loss_nats, large.loss_nats, atol=1e-5)
    assert small.rank.tolist() == large.rank.tolist()


def test_special_tokens_in_an_option_are_text(model):
    found = choose(model, "the ____", ["[MASK]", "[PAD] table", "null", "NA"])
    assert [o.n_pieces for o in found] == [6, 6, 4, 2]


def test_an_option_of_which_a_part_is_known_is_scored(model):
    assert [o.n_pieces for o in choose(model, "the ____", ["mac 基", "rlc"])] == [4, 3]


def test_chinese_characters_are_words_of_their_own(tmp_path, monkeypatch):
    entries = [*tiny.vocabulary(), *CHINESE]
    monkeypatch.setattr(tiny, "vocabulary", lambda: entries)
    model = load_model(
        tiny.write_base_model(tmp_path / "zh", with_heads=True, initializer_range=0.5, vocab_size=len(entries)),
        device="cpu",
    )
    options = ["基站", "手机", "信号mac"]
    ways = [choose(model, "手机接收____发送", options, scoring=s) for s in SCORINGS]
    assert [o.n_pieces for o in ways[0]] == [2, 2, 5]
    for plain, word in zip(ways[1][:2], ways[0][:2], strict=True):
        assert plain.score == pytest.approx(word.score, abs=1e-6)
    for scoring, found in zip(SCORINGS, ways, strict=True):
        expected = slow_scores(model, "手机接收", options, "发送", scoring=scoring)
        np.testing.assert_allclose([o.score for o in found], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("question", "options", "told"),
    [
        ("the ____", ["mac"], "at least two options, found 1"),
        ("the ____", ["mac", " "], "none in option 2"),
        ("the ____", ["mac", "rlc", "mac "], "found 'mac' as options 1 and 3"),
        ("the ____", ["mac", "MAC"], "'mac' and 'MAC' are the same to this model's tokenizer"),
        ("the ____", ["mac", "基站"], "is outside of the model's vocabulary"),
        ("____ and [MASK]", ["mac", "rlc"], "one slot for the option at most, found 2"),
        (" ", ["mac", "rlc"], "expected a question, found an empty text"),
        ("the \udcff ____", ["mac", "rlc"], "expected UTF-8 in question and options"),
        ("the ____", ["mac", "\ud800"], "expected UTF-8 in question and options"),
        ("house " * 59 + "____", ["mac", "table"], "of at most 62 tokens, found 62"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(model, question, options, told):
    if "found 62" in told:  # as many as there are positions for is no mistake; one more is
        assert len(choose(model, question, options)) == 2
        question, told = "house " + question, "of at most 62 tokens, found 63"
    with pytest.raises(DataError) as caught:
        choose(model, question, options)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_head_is_refused(tmp_path):
    headless = load_model(tiny.write_base_model(tmp_path / "base"), device="cpu")
    with pytest.raises(ModelError, match="mlm head"):
        choose(headless, "the ____", ["mac", "rlc"])


@pytest.mark.parametrize(
    ("about", "lacks"),
    [
        ({"summary": {"parts_drawn_anew": ["mlm_head"]}}, ("mlm_head",)),
        (
            {
                "summary": {"parts_drawn_anew": ["mlm_head", "nsp_head"]},
                "identity": {"settings": {"objectives": {"mlm": 0.7, "contrastive": 0.3}}},
            },
            ("nsp_head",),
        ),
        (
            {
                "summary": {"parts_drawn_anew": ["mlm_head"]},
                "identity": {"settings": {"objectives": {"mlm": 0.0, "contrastive": 1.0}}},
            },
            ("mlm_head",),
        ),
        ({"source": {}}, ()),
        ({"summary": None}, ()),
    ],
)
def test_a_head_that_was_drawn_and_never_trained_counts_as_none(tmp_path, about, lacks):
    path = tiny.write_base_model(tmp_path / "start", with_heads=True)
    (path / "manifest.json").write_text(json.dumps({"about": about, "files": {}}), encoding="utf-8")
    assert load_model(path, device="cpu").lacks == lacks


def choice(*scores, blind):
    def options(values):
        return [OptionScore(str(i), v, 0.0, 1) for i, v in enumerate(values)]

    return Choice(options(scores), options(blind))


def test_accuracies_by_hand():
    questions = [
        Question("a", ("0", "1"), 0, "phy", 2),
        Question("b", ("0", "1"), 1, "phy", 3),
        Question("c", ("0", "1", "2", "3"), 2, "mac", 4),
        Question("d", ("0", "1"), None, "mac", 5),
        Question("e", ("0", "1"), 0, "mac", 6),
    ]
    choices = [
        choice(2.0, 1.0, blind=(0.0, 1.0)),  # right, blindly wrong
        choice(2.0, 1.0, blind=(0.0, 1.0)),  # wrong, blindly right
        choice(0.0, 1.0, 2.0, -1.0, blind=(0.0, 0.0, 1.0, 0.0)),  # right in both
        choice(0.0, 1.0, blind=(0.0, 1.0)),  # nobody knows
        "too long",
    ]
    answered, unasked = sorted_out(questions, choices)
    assert unasked == {6: "too long"}
    every, phy, mac = accuracies(answered, n_resamples=200, seed=1)
    assert [(f.domain, f.n) for f in (every, phy, mac)] == [("all", 3), ("phy", 2), ("mac", 1)]
    assert every.accuracy.value == pytest.approx(2 / 3)
    assert every.blind.value == pytest.approx(2 / 3)
    assert every.difference.value == 0
    assert every.difference.low < 0 < every.difference.high
    assert (phy.accuracy.value, mac.accuracy.value) == (0.5, 1.0)
    assert every.chance == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert answered[0].as_dict()["chosen"] == "A"
    assert answered[0].as_dict()["chosen_blindly"] == "B"


def test_wilson_interval_by_its_formula():
    n, k, z = 72, 23, 1.959963984540054
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(k, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


def test_the_questions_we_ship_are_balanced():
    found = read_questions(tiny_resources() / "questions_5g.csv").questions
    assert len(found) >= 60
    assert len({q.domain for q in found}) >= 5
    assert [sum(q.answer == i for q in found) for i in range(4)] == [len(found) // 4] * 4
    sets = {}
    for q in found:
        assert len(q.options) == 4
        assert q.text.count("____") == 1
        sets.setdefault(frozenset(q.options), []).append(q.options[q.answer])
    # Each option of a set is the answer of one question: what is chosen blindly is right in one of four.
    assert all(sorted(answers) == sorted(options) for options, answers in sets.items())


def tiny_resources():
    from tiny_stages import RESOURCES

    return RESOURCES


def test_the_command_prints_one_question_and_a_file(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    arguments = ["choose", "--model", folder, "--device", "cpu"]
    done = commbert(*arguments, "the ____ of", "--option", "mac", "--option", "[bold]table", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(capsys.readouterr().out)
    assert {o["option"] for o in told["options"]} == {"mac", "[bold]table"}
    assert sum(o["probability"] for o in told["options"]) == pytest.approx(1.0)
    path = tmp_path / "q.csv"
    path.write_text(
        "question,A,B,answer,domain\nthe ____ of,mac,table,A,x\nthe ____,mac,基站,B,y\nof ____,mac,rlc,b,x\n"
    )
    assert commbert(*arguments, "--file", path).returncode == 0
    out = capsys.readouterr().out
    assert "50.0%" in out  # chance
    assert "Skipped: 1 questions." in out
    assert "line 3: the option" in out
    assert commbert(*arguments, "--file", path, "--json").returncode == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["line"] for row in rows[:-1]] == [2, 4]
    assert rows[-1]["summary"]["asked"] == 2
    assert list(rows[-1]["summary"]["skipped"]) == ["3"]


def test_questions_may_come_from_standard_input_as_json_lines(folder, capsys, monkeypatch):
    rows = [{"question": "the ____ of", "options": ["mac", "table"], "answer": a} for a in "AB"]
    given = "".join(json.dumps(row) + "\n" for row in rows).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    done = commbert("choose", "--model", folder, "--device", "cpu", "--file", "-", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    *asked, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["line"] for row in asked] == [1, 2]
    assert summary["summary"]["accuracy"][0]["accuracy"]["value"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a ____", "--option", "x"], "at least two options"),
        ([], "expected a question with options, or a file"),
        (["a", "--option", "x", "--option", "y", "--scoring", "magic"], "--scoring: expected word-l2r, plain"),
        (["--file", "nowhere.csv"], "nowhere.csv: expected a file of questions, found none"),
        (["--file", "q.csv", "--option", "x"], "expected the options in the file"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(folder, tmp_path, arguments, told):
    done = commbert("choose", "--model", folder, "--device", "cpu", *arguments)
    assert_refused(done, tmp_path / "none", told)


def test_a_missing_model_folder_is_named(tmp_path):
    done = commbert("choose", "a ____", "--option", "x", "--option", "y", "--model", tmp_path / "none")
    assert_refused(done, tmp_path / "none", "expected a model folder, found none")
