"""What report, card, page and map say of a model that was drawn anew, or that another run trained."""

import json

import pytest

from commbert.reporting.context import build_context, reproducing_settings
from commbert.reporting.maps import map_figure
from commbert.reporting.rendering import render_html, render_markdown
from commbert.settings.base import merged
from commbert.settings.config import load
from commbert.stages.train import _base_name
from report_case import settings, sources

PICTURES = dict.fromkeys(("loss", "comparison", "optimizer"), "f.svg")
RECEIPTS = {
    "entries_asked": 8000,
    "entries_before": None,
    "entries_after": 5603,
    "entries_added": 5603,
    "new_rows_never_trained": 12,
    "heldout_words": 40,
    "fertility": {"before": None, "after": {"tokens_per_word": 1.077, "one_token_words_pct": 95.04}},
    "unknown_heldout_pct": 0.125,
    "characters_per_token_heldout": 2.68,
    "first_words": ["self", "<b>"],
}


def context_of(base, **start):
    found = sources()
    model = {**found.model, "settings": {"pooling": "mean", "base": base, **start}}
    config = settings()
    config["tokenizer"] = {**config["tokenizer"], "mode": "train", "vocabulary_size": 8000}
    return build_context(sources(receipts=RECEIPTS, model=model, config=config))


@pytest.mark.parametrize("form", ["report.md.j2", "report.html.j2"])
def test_a_learnt_vocabulary_is_told_with_what_was_asked_for_and_no_before(form):
    context = context_of({"kind": "scratch", "layers": 4})
    if form.endswith(".md.j2"):
        text = render_markdown(form, {**context, "figures": PICTURES})
        assert "| entries | – | 5,603 |" in text
        assert "| words of one token, held-out text | – | 95.0 % |" in text
    else:
        text = render_html(form, context, PICTURES)
        assert '<td class="n">–</td><td class="n">5,603</td>' in text
        assert "<b>" not in text.split('id="tokenizer"')[1].split("</section>")[0]
    assert "5,603 entries of\n8,000 asked for, 12 of which the training text never needs" in text
    assert "common English words are cut otherwise" not in text


def test_what_was_asked_of_a_learnt_vocabulary_is_compared_with_what_came():
    [line] = [row for row in context_of({"kind": "scratch"})["asked"] if row["setting"] == "tokenizer.vocabulary_size"]
    assert (line["asked"], line["done"]) == ("8,000 at most", "5,603")


@pytest.mark.parametrize(
    ("base", "start", "told"),
    [
        ({"kind": "scratch", "layers": 4}, {"start": None}, "none, all weights were drawn anew"),
        ({"kind": "scratch", "layers": 4}, {"start": "pretrain"}, "run pretrain of the same configuration"),
        ({"kind": "wheel", "package": "p", "version": "1"}, {"start": None}, "p 1"),
        ({"kind": "wheel", "package": "p", "version": "1"}, {}, "p 1"),
    ],
)
def test_both_cards_name_what_the_model_was_made_from(base, start, told):
    card = render_markdown("evaluated_card.md.j2", {**context_of(base, **start), "figures": PICTURES})
    assert told in card.split("Base model: ")[1].split(". The licences")[0]
    assert _base_name({"base": base, **start}) == told


def test_the_map_names_the_model_that_training_started_from():
    words = [{"word": f"w{i}", "area": 0, "base": [i, 1.0 * i], "run": [i, 2.0]} for i in range(6)]
    picture = map_figure(words, ["a"], run="final", base="untrained model")
    assert "untrained model" in picture
    assert "base model" not in picture


SOURCES = {"sources": [{"kind": "path", "name": "a", "path": "src"}]}
CHAIN = {
    "corpus": SOURCES,
    "model": {"base": {"kind": "scratch", "positions": 128}},
    "tokenizer": {"mode": "train"},
    "report": {"compare_with": ["untrained", "second"]},
    "runs": {
        "first": {"training": {"max_steps": 7}, "windows": {"stride": 3}},
        "second": {"model": {"start": "first", "pooling": "cls"}, "training": {"epochs": 2}},
        "final": {"model": {"start": "second", "average_with_base": 0.3}, "training": {"epochs": 3}},
    },
}


@pytest.mark.parametrize("beside", [{}, {"runs": {"mlm_only": {"training": {"objectives": {"contrastive": 0.0}}}}}])
def test_the_settings_of_a_report_make_the_whole_chain_again(beside):
    config = load(CHAIN)
    again = reproducing_settings({"run": "final", "settings": json.loads(config.settings_of("final"))})
    found = load(merged({"corpus": SOURCES, **beside}, again))
    assert found.starts_of("final") == ["second", "first"]
    for run in CHAIN["runs"]:
        for of in ("model_of", "training_of", "data_of"):
            assert getattr(found, of)(run) == getattr(config, of)(run), (run, of)


def test_the_settings_of_a_run_without_a_start_name_that_run_alone():
    again = reproducing_settings({"run": "first@3", "settings": json.loads(load(CHAIN).settings_of("first@3"))})
    assert again["runs"] == {"first": {}}
    assert again["training"]["seed"] == 3
