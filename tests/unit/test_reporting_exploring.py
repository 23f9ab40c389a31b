"""The page of neighbours and the map: what they hold, and that text of others stays text."""

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from commbert.reporting.escaping import one_line
from commbert.reporting.exploring import (
    COSINE_STEPS,
    ExploredWords,
    Nearest,
    json_in_html,
    neighbours_page,
    packed,
    shared_share,
    unpacked,
)
from commbert.reporting.maps import map_figure
from commbert.settings.explore import MOST_KEPT, ExploreSettings

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x>",
    "a\u2028b",
    "\u202ertl",
    "\x1b[31m",
    "&amp;",
    "日本",
    "l\nm",
]
K = 4


def nearest(n, seed, k=K):
    rng = np.random.default_rng(seed)
    index = np.stack([rng.permutation([j for j in range(n) if j != i])[:k] for i in range(n)])
    return Nearest(index, -np.sort(-rng.uniform(-1, 1, (n, k)).astype(np.float32), axis=1))


def page_of(names, *, run="final", n_not_plain=0, areas=("src/a", "<i>")):
    rng = np.random.default_rng(9)
    n_lines = rng.integers(0, 50, len(names))
    words = ExploredWords(names, n_lines, areas, rng.integers(0, len(areas), len(names)), [0, 1])
    found = {"base": nearest(len(names), 0), "run": nearest(len(names), 1)}
    facts = {
        "n_left_out": 3,
        "n_not_plain": n_not_plain,
        "base_name": "base model",
        "pooling": {"base": "mean", "run": "cls"},
        "models": {"base": "a" * 64, "run": "b" * 64},
        "commit": "c0ffee",
        "recall_k": K,
        "recall": {"base": 1.0, "run": 0.9876},
        "shared": 0.25,
        "choices": [2, 4],
    }
    return neighbours_page(run, words, found, {k: packed(v) for k, v in found.items()}, facts=facts), words, found


class Page(HTMLParser):
    """Collects elements, the ids, what scripts and text hold."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text, self._in = [], [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data

    def values(self, name):
        return [v for _, n, v in self.attributes if n == name]


NAMES = ["harq", "mcs_index", "dmrs", *HOSTILE]


def test_the_page_holds_the_lists_that_it_was_given():
    text, words, found = page_of(NAMES)
    data = json.loads(Page(text).scripts[0])
    assert data["lines"] == words.n_lines.tolist()
    assert [data["areas"][a] for a in data["area"]] == [words.areas[a] for a in words.area]
    assert data["words"][:3] == NAMES[:3]
    for model, own in found.items():
        assert unpacked(data[model], data["k"]).index.tolist() == own.index.tolist()
        # Read as the script does, number by number.
        raw = base64.b64decode(data[model]["cosine"])
        at = 2 * (5 * data["k"] + 2)
        cosine = int.from_bytes(raw[at : at + 2], "little", signed=True) / data["steps"]
        assert abs(cosine - own.cosine[5, 2]) <= 0.51 / COSINE_STEPS


def test_lists_are_unpacked_as_they_were_packed_within_the_stated_rounding():
    own = Nearest(np.array([[65_535, 0], [1, 256]]), np.array([[1.0, -1.0], [1.0000001, 0.5]], np.float32))
    found = unpacked(packed(own), 2)
    assert found.index.tolist() == own.index.tolist()
    assert np.abs(found.cosine - own.cosine).max() < 1.6e-5


def test_the_shared_share_counts_equal_entries_in_any_order():
    a, b = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[2, 1, 9], [7, 8, 4]])
    assert shared_share(a, b, 3) == pytest.approx(3 / 6)
    assert shared_share(a, b, 2) == pytest.approx(2 / 4)
    assert shared_share(a, a, 3) == 1


def test_words_of_others_are_text_wherever_they_stand():
    text, _, _ = page_of(HOSTILE, run="a&b<c>")
    page, clean = Page(text), Page(page_of([f"w{i}" for i in range(len(HOSTILE))])[0])
    assert page.tags == clean.tags
    assert not {"img", "i", "iframe", "object", "link", "base"} & set(page.tags)
    assert all(c.isprintable() or c == "\n" for c in text)
    data = json.loads(page.scripts[0])
    assert data["words"][0] == HOSTILE[0]
    assert data["words"][2:5] == ["a\\u{2028}b", "\\u{202e}rtl", "\\u{1b}[31m"]
    assert data["words"][7] == "l\\u{a}m"
    assert HOSTILE[0] in page.text


def test_json_in_html_is_the_same_json_and_ends_no_script():
    value = {"a": ["</script>", "<!--", "&lt;", "\u2028", "\u2029", "日本", 1.5]}
    text = json_in_html(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_only_the_pages_own_script_may_run_and_nothing_may_be_loaded():
    text, _, _ = page_of(NAMES)
    page = Page(text)
    data, script = page.scripts
    assert json.loads(data)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [v for v in page.values("content") if v.startswith("default-src")]
    assert policy.split("; ")[:2] == ["default-src 'none'", f"script-src 'sha256-{digest}'"]
    assert not re.search(r"https?:|//[a-z]", text.replace(script, ""))
    assert not page.values("src")
    assert not [v for v in page.values("href") if not v.startswith("#")]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_the_script_writes_text_never_markup():
    script = Page(page_of(NAMES)[0]).scripts[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch|XMLHttp", script)
    assert "</" not in script
    assert "<!--" not in script


def test_every_id_that_the_script_asks_for_is_on_the_page_once():
    page = Page(page_of(NAMES)[0])
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'(?:byId|getElementById)\("([a-z-]+)"\)', page.scripts[1]))
    assert asked >= {"word", "suggestions", "many"}
    assert asked | {"rows-base", "rows-run"} <= set(ids)


def test_every_field_has_a_label_and_every_table_a_heading():
    page = Page(page_of(NAMES)[0])
    assert {"word", "many"} == set(page.values("for"))
    assert page.tags.count("caption") + page.tags.count("h2") >= 3
    assert ("html", "lang", "en") in page.attributes
    assert page.values("aria-controls") == ["suggestions"]


def test_without_a_script_the_page_says_what_it_is_and_shows_telling_words():
    text, words, found = page_of(NAMES)
    page = Page(text)
    assert "scripts are off" in page.text
    assert ("section", "hidden", None) in page.attributes
    for row in words.telling:
        assert words.word[row] in page.text
        for model in found.values():
            assert all(one_line(words.word[i]) in page.text for i in model.index[row])


def test_the_page_says_how_exact_it_is_and_what_the_files_lack():
    text = Page(page_of(NAMES, n_not_plain=2)[0]).text
    assert "1.0000 (base) and 0.9876 (run)" in " ".join(text.split())
    assert "25.0" in text
    assert "2 words with white space" in " ".join(text.split())
    assert "pooling mean (base) and cls (run)" in " ".join(text.split())
    assert "white space" not in Page(page_of(NAMES)[0]).text.replace("white space or control", "x")


def test_the_same_words_give_the_same_bytes():
    assert page_of(NAMES)[0] == page_of(NAMES)[0]


@pytest.mark.parametrize(("words", "neighbours"), [(50_000, 24), (12_000, 100)])
def test_the_largest_page_that_settings_allow_stays_under_20_mb(words, neighbours):
    assert words * neighbours <= MOST_KEPT
    ExploreSettings(words=words, neighbours=neighbours)
    lists = 2 * words * neighbours * 4 * 4 / 3
    of_words = words * (100 + 4 + 20)  # 100 letters, the longest that words.max_chars lets through, quotes and counts
    assert lists + of_words + 50_000 < 20e6


def test_settings_of_a_larger_page_are_refused_with_what_was_found():
    with pytest.raises(ValueError, match="must not exceed 1200000, or the page passes 20 MB, found 50000 and 25"):
        ExploreSettings(words=50_000, neighbours=25)


def placed(names, n_areas=3):
    rng = np.random.default_rng(2)
    return [
        {"word": w, "area": i % n_areas, "base": rng.normal(size=2).tolist(), "run": rng.normal(size=2).tolist()}
        for i, w in enumerate(names)
    ]


SVG = "{http://www.w3.org/2000/svg}"


def texts(picture):
    return ["".join(e.itertext()) for e in ET.fromstring(picture).iter(f"{SVG}text")]


def marks(picture):
    """Return how many words and marks of the legend are drawn."""
    groups = [e for e in ET.fromstring(picture).iter(f"{SVG}g") if (e.get("id") or "").startswith("PathCollection")]
    return sum(len(list(g.iter(f"{SVG}use"))) for g in groups)


def test_the_map_names_words_and_areas_as_text():
    picture = map_figure(placed(NAMES), ["src/a", "<i>", "\u202ec"], run="<b>")
    root = ET.fromstring(picture)
    found = texts(picture)
    assert {"src/a", "<i>", "\\u{202e}c", "run <b>", "base model", "harq"} <= set(found)
    assert "\\u{1b}[31m" in found
    assert root.get("role") == "img"
    ids = root.get("aria-labelledby").split()
    told = {e.get("id"): e.text for e in root if e.get("id") in ids}
    assert list(told) == ids
    assert f"{len(NAMES)} words" in told["map-title"]


def test_the_map_draws_every_word_once_in_each_panel():
    names = [f"w{i}" for i in range(40)]
    picture = map_figure(placed(names), ["a", "b", "c"], run="final")
    assert marks(picture) == 2 * 40 + 3


def test_areas_beyond_the_marks_are_named_together():
    areas = [f"dir{i}" for i in range(11)]
    picture = map_figure(placed([f"w{i}" for i in range(44)], 11), areas, run="final")
    found = texts(picture)
    assert marks(picture) == 2 * 44 + 8
    assert [t for t in found if re.fullmatch(r"dir\d+", t)] == areas[:7]
    assert "other directories" in found


def test_no_name_on_the_map_lies_upon_another():
    """Boxes as wide as the letters of the font that matplotlib measures with."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from commbert.reporting import maps

    figure = Figure(figsize=(maps._PANEL_INCHES, maps._PANEL_INCHES))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    rng = np.random.default_rng(0)
    at = rng.normal(size=(200, 2))
    at[:8] = [[4, 4], [4, -4], [-4, 4], [-4, -4], [4, 0], [-4, 0], [0, 4], [0, -4]]  # at the frame, named first
    with mpl.rc_context(maps.STYLE):
        maps._draw(axes, at, np.zeros(200, np.int64), ["a"])
        maps._label(axes, at, [f"word_{i}" for i in range(200)])
        for label in axes.texts:
            label.update_positions(figure.canvas.get_renderer())
        drawn = [Text.get_window_extent(t, figure.canvas.get_renderer()) for t in axes.texts]  # without its line
    assert 20 < len(drawn) <= 45
    overlaps = [(a, b) for i, a in enumerate(drawn) for b in drawn[:i] if a.overlaps(b)]
    assert not overlaps
    frame = axes.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in drawn)


def test_words_that_come_first_are_named_first():
    names = [f"w{i:03}" for i in range(300)]
    found = [t for t in texts(map_figure(placed(names), ["a", "b", "c"], run="final")) if re.fullmatch(r"w\d+", t)]
    assert found.count("w000") == 2
    assert np.median([int(t[1:]) for t in found]) < 60


def test_the_same_map_is_the_same_picture():
    made = [map_figure(placed(NAMES), ["a", "b", "c"], run="final") for _ in range(2)]
    assert made[0] == made[1]
