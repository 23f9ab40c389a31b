"""The page: nothing active but our own script, nothing loaded, readable for everyone, hostile text shown as text."""

import base64
import csv
import hashlib
import io
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from commbert.reporting import figures, rendering
from commbert.reporting.context import build_context
from commbert.reporting.curves import _curve, loss_figure, optimizer_figure
from commbert.reporting.figures import DARK, LIGHT, comparison_figure, empty_figure
from commbert.reporting.listing import figures_table, stages_table
from commbert.reporting.rendering import render_html, render_markdown
from commbert.reporting.timeline import _series, timeline_figure
from report_case import SOURCE, sources, step, training

TEMPLATES = Path(rendering.__file__).parent / "templates"
HOSTILE = "</pre></td><script>alert(1)</script>|[x](javascript:1)`**\x1b[31m\u202e" + "y" * 10_000
VOID = {"meta", "img", "br", "wbr", "link", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and whether all were closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def of(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]


def pictures(made, context):
    return {
        "loss": loss_figure(made.steps, made.validations),
        "comparison": comparison_figure(context["rows"], context["columns"]),
        "optimizer": optimizer_figure(made.steps, max_gradient_norm=1.0),
        "map": empty_figure("map"),
    }


def rendered(**changes):
    made = sources(**changes)
    context = build_context(made)
    return render_html("report.html.j2", context, pictures(made, context))


@pytest.fixture(scope="module")
def text():
    return rendered()


@pytest.fixture(scope="module")
def page(text):
    found = Page(text)
    assert found.open == []
    return found


def test_the_one_script_is_the_one_that_the_policy_names_by_its_digest(text):
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_nothing_is_loaded_and_no_attribute_is_active(page):
    links = [v for _, attrs in page.elements for k, v in attrs.items() if k in ("src", "href", "action", "data")]
    assert all(link.startswith(("data:image/svg+xml;base64,", "#")) for link in links)
    assert not [k for _, attrs in page.elements for k in attrs if k.startswith("on") or k == "style"]
    assert not page.of("link", "iframe", "object", "embed", "form", "base")
    assert "@import" not in (TEMPLATES / "style.html.j2").read_text()
    assert "url(" not in (TEMPLATES / "style.html.j2").read_text()


def test_headings_go_down_by_one_and_there_is_one_first(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_language_landmarks_and_anchors_are_there(page):
    assert page.of("html")[0]["lang"] == "en"
    assert [len(page.of(tag)) for tag in ("header", "nav", "main")] == [1, 1, 1]
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"][1:] for attrs in page.of("a")]
    assert set(targets) <= set(ids)
    assert all(section["aria-labelledby"] in ids for section in page.of("section"))


def test_every_table_has_a_caption_and_scopes_and_scrolls_in_a_box_that_keys_reach(page):
    tables = len(page.of("table"))
    assert tables > 10
    assert len(page.of("caption")) == tables
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.of("th"))
    boxes = [attrs for attrs in page.of("div") if attrs.get("class") == "scroll"]
    assert len(boxes) == tables + len(page.of("img"))
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in boxes)


def test_every_picture_has_words_and_names_its_axes(page):
    images = page.of("img")
    assert len(images) == 4
    assert all(len(image["alt"]) > 20 for image in images)
    svgs = [base64.b64decode(image["src"].partition(",")[2]).decode() for image in images]
    assert all("<title>" in svg and 'role="img"' in svg for svg in svgs)
    assert "loss (nats)" in svgs[1] + svgs[0]
    assert any("learning rate" in svg and "tokens (1/s)" in svg for svg in svgs)


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_ratio_of_black_and_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(scheme):
    style = (TEMPLATES / "style.html.j2").read_text()
    palette = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", re.findall(r":root \{([^}]+)\}", style)[scheme]))
    for ink, paper in itertools.product(("ink", "soft", "good", "bad", "accent"), ("paper", "tint")):
        assert contrast(palette[ink], palette[paper]) >= 4.5, (ink, paper)
    assert palette["paper"] == (LIGHT, DARK)[scheme]["paper"]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_pictures_have_the_contrast_of_wcag_aa_on_both_papers(palette):
    assert contrast(palette["ink"], palette["paper"]) >= 4.5
    assert all(contrast(c, palette["paper"]) >= 4.5 for c in palette["series"])
    assert contrast(palette["soft"], palette["paper"]) >= 3.0


def test_every_colour_of_a_picture_turns_on_a_dark_screen():
    svg = loss_figure([step(1), step(2)], [{"step": 2, "retrieval_mrr": 0.5}])
    style, _, body = svg.partition("</style>")
    used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", body))
    assert used
    assert all(f'fill: {colour}"]' in style for colour in used)
    assert len(figures.LIGHT["series"]) == len(figures.DARK["series"])


HOSTILE_SOURCES = {
    "ingest": {
        **sources().ingest,
        "sources": [{**SOURCE, "name": HOSTILE, "license": HOSTILE, "url": HOSTILE}],
        "skipped_examples": [HOSTILE],
        "split_by": HOSTILE,
        "secrets": {HOSTILE: 1},
        "accounting": {HOSTILE: {"files": 1, "bytes": 2, "lines": 3}},
    },
    "receipts": {**sources().receipts, "first_words": [HOSTILE]},
    "config": {**sources().config, "texts": {"x": HOSTILE}},
    "training": training(
        device=HOSTILE,
        precision_reason=HOSTILE,
        strategy_reason=HOSTILE,
        environment={"commit": HOSTILE, "platform": HOSTILE, "versions": {HOSTILE: HOSTILE}},
        machine={"cpu": HOSTILE, "cores": 1, "memory_gib": 1.0, "gpus": [{"name": HOSTILE, "memory_gib": 1.0}]},
    ),
    "evaluation": {
        **sources().evaluation,
        "neighbours": {HOSTILE: [[HOSTILE, 1.0]]},
        "opposites": {"n": 1, "rate": 1.0, "mutual_rate": None, "examples": [[HOSTILE, HOSTILE]]},
        "geometry": {"alignment": 1.0, "collapse": [HOSTILE]},
    },
    "model_folder": HOSTILE,
}


@pytest.fixture(scope="module")
def hostile():
    made = sources(**HOSTILE_SOURCES)
    made.usage[0]["stage"] = HOSTILE
    made.usage[0]["energy"]["reason"] = HOSTILE
    return made, build_context(made)


def test_hostile_text_is_text_in_the_page(hostile, page):
    made, context = hostile
    text = render_html("report.html.j2", context, pictures(made, context))
    found = Page(text)
    assert found.open == []
    assert len(found.of("script")) == 1
    assert len(found.of("table")) == len(page.of("table")) + 1  # that of the secrets
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "y" * 600 not in text.partition("All settings")[0]
    assert "\\u{202e}" in text


def test_hostile_text_is_text_in_markdown_and_card(hostile):
    _, context = hostile
    for template in ("report.md.j2", "evaluated_card.md.j2"):
        links = dict.fromkeys(("loss", "comparison", "optimizer"), "f.svg")
        text = render_markdown(template, {**context, "figures": links})
        shown = MarkdownIt("commonmark").enable("table").render(text)
        assert not re.search(r"<(script|a |iframe|object)", shown)
        assert "\x1b" not in text
        assert "\u202e" not in text
        for row in re.findall(r"<tr>(.*?)</tr>", shown, re.DOTALL):
            assert len(re.findall(r"<t[hd]", row)) >= 2


@pytest.mark.parametrize("template", ["report.md.j2", "evaluated_card.md.j2"])
def test_rows_of_a_markdown_table_are_as_long_as_its_head(hostile, template):
    for context in (hostile[1], build_context(sources())):
        links = dict.fromkeys(("loss", "comparison", "optimizer"), "f.svg")
        shown = (
            MarkdownIt("commonmark").enable("table").render(render_markdown(template, {**context, "figures": links}))
        )
        tables = re.findall(r"<table>(.*?)</table>", shown, re.DOTALL)
        assert tables
        assert not re.findall(r"<p>\|", shown)  # a row that fell out of its table
        for table in tables:
            lengths = {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)}
            assert len(lengths) == 1


def test_csv_tables_have_a_row_per_figure_and_model_and_per_stage(hostile):
    _, context = hostile
    rows = list(csv.DictReader(io.StringIO(figures_table(context))))
    assert len(rows) == len(context["rows"]) * 2
    base = next(r for r in rows if r["model"] == "base")
    assert (base["value"], base["run_minus_model"], base["verdict"]) == ("0.5", "0.2", "better")
    stages = list(csv.DictReader(io.StringIO(stages_table(context))))
    assert [s["serves"] for s in stages] == ["run", "run"]
    assert stages[0]["kwh"] == ""
    assert "\x1b" not in stages[0]["stage"]


def samples(n=40, **columns):
    at = np.arange(n, dtype=float)
    at[n // 2 :] += 100.0
    whole = {"time_unix_s": np.tile(1e9 + at, 2), "device": ["host"] * n + ["gpu0"] * n}
    whole["node_cpu_pct"] = [50.0] * n + [None] * n
    whole["power_w"] = [None] * n + [250.0] * n
    return pa.table({**whole, **columns})


def test_a_timeline_has_a_panel_per_sensor_and_a_line_per_device():
    svg = timeline_figure(samples(), stage="train final")
    assert all(part in svg for part in ("utilisation (%)", "power (W)", "host", "gpu0", "(s)"))
    assert "temperature" not in svg
    assert svg == timeline_figure(samples(), stage="train final")


def test_the_power_of_the_cpu_comes_from_its_energy_and_never_from_a_counter_that_began_anew():
    joules = [*np.arange(20) * 30.0, *np.arange(20) * 30.0]
    table = samples(cpu_energy_j=joules + [None] * 40, time_unix_s=np.tile(1e9 + np.arange(40.0), 2))
    found = {device: y for title, device, _, y in _series(table) if title.startswith("power")}
    assert np.nanmax(found["host"]) == np.nanmin(found["host"]) == 30.0
    assert np.isnan(found["host"][[0, 20]]).all()
    assert (found["gpu0"] == 250.0).all()


def test_without_samples_there_is_no_timeline():
    assert timeline_figure(None, stage="train") is None
    assert timeline_figure(samples().slice(0, 0), stage="train") is None
    nothing = samples(node_cpu_pct=[None] * 80, power_w=pa.array([None] * 80, pa.float64()))
    assert timeline_figure(nothing, stage="train") is None
    assert timeline_figure(pa.table({"other": [1]}), stage="train") is None


def test_a_gap_in_the_samples_is_a_gap_in_the_line():
    whole = samples(time_unix_s=np.tile(1e9 + np.arange(40.0), 2))
    moves = []
    for table in (samples(), whole):
        line = max(re.findall(r'd="(M[^"]+)"', timeline_figure(table, stage="t")), key=len)
        moves.append(line.count("M"))
    assert moves == [2, 1]


def test_a_long_training_has_a_small_picture_with_its_peaks():
    steps = [step(i, gradient_norm=0.5) for i in range(1, 20_001)]
    steps[777]["gradient_norm"], steps[9_000]["gradient_norm"] = 9.0, 0.1
    assert len(optimizer_figure(steps, max_gradient_norm=1.0)) < 400_000
    axes = Figure().subplots()
    _curve(axes, steps, "gradient_norm", "norm", "#000000")
    assert (axes.dataLim.ymin, axes.dataLim.ymax) == (0.1, 9.0)


def test_a_map_and_a_timeline_are_shown_where_there_are_some():
    made = sources()
    context = build_context(made)
    some = {"loss": "<svg/>", "comparison": "<svg/>", "optimizer": "<svg/>"}
    for more in ("map", "timeline"):
        page = render_html("report.html.j2", context, {**some, more: "<svg>only</svg>"})
        text = render_markdown("report.md.j2", {**context, "figures": {**some, more: f"figures/{more}.svg"}})
        assert base64.b64encode(b"<svg>only</svg>").decode() in page
        assert f"(figures/{more}.svg)" in text
        assert ("no timeline of its devices" in page) is (more == "map")


def test_the_commands_that_make_it_again_name_commit_settings_and_target():
    text = rendered()
    assert f"git checkout {'a' * 40}\nsnakemake --cores all --configfile reports/final_settings.yaml" in text
    assert "changed files" not in text
    dirty = {"commit": "b" * 40 + "-dirty", "versions": {}}
    assert "The run was made from changed files" in rendered(training=training(environment=dirty))
    assert "The commit is not known" in rendered(training=training(environment={"commit": None, "versions": {}}))


def test_the_run_is_the_first_column_whatever_it_is_called():
    context = build_context(replace(sources(), run="a-b.c"))
    assert context["columns"] == ["a-b.c", "base"]


def test_a_correlation_below_zero_is_on_the_picture():
    cell = {"value": -0.5, "low": -0.7, "high": -0.3}
    below = {"key": "general_similarity", "label": "similarity", "cells": {"a": cell}}
    above = {**below, "cells": {"a": {"value": 0.5, "low": 0.3, "high": 0.7}}}
    ticks = [re.findall(r">(\u2212?-?[0-9]\.[0-9]+)</text>", comparison_figure([row], ["a"])) for row in (below, above)]
    assert any(tick.startswith(("-", "\u2212")) for tick in ticks[0])
    assert not any(tick.startswith(("-", "\u2212")) for tick in ticks[1])


def test_labels_of_axes_are_no_longer_than_their_panel():
    further = {"padding_saved_pct": 1.0, "mfu_pct": 2.0, "memory_gib": 3.0}
    shown = optimizer_figure([step(1, **further), step(2, **further)], max_gradient_norm=1.0)
    labels = re.findall(r">([^<>]+)</(?:text|tspan)>", shown)
    assert any("matrix speed" in label for label in labels)
    assert max(map(len, labels)) <= 24
