"""The page of neighbours: one file in which a word is looked up under two models, without any network.

It holds lists of neighbours, not vectors. Lists are exact, whatever the number of dimensions; 20,000 words of 30
neighbours each under two models are 6.4 MB, and the page only looks up. Vectors of 384 numbers in 8 bits would be
20.5 MB, have to be compared with all others for every word typed, and give other neighbours here and there; and a word
that is not on the page cannot be asked either way, for the network that makes vectors is not on it.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commbert.reporting.escaping import one_line
from commbert.reporting.rendering import render_html

COSINE_STEPS = 32_767
"""Cosines are kept as whole numbers of this part: within 1.6e-5 of their own."""

_SCRIPT = Path(__file__).parent / "templates" / "explorer.js"
_SHOWN_OF_TELLING = 8


@dataclass(frozen=True)
class Nearest:
    """The nearest words of each word under one model, nearest first."""

    index: NDArray[np.int64]
    """[n, k] rows of words, below 65,536."""
    cosine: NDArray[np.float32]
    """[n, k]"""


@dataclass(frozen=True)
class ExploredWords:
    """The words of a page; rows belong together."""

    word: Sequence[str]
    n_lines: NDArray[np.integer]
    """[n] training lines."""
    areas: Sequence[str]
    """Names of the parts of the corpus."""
    area: NDArray[np.integer]
    """[n] the part where most lines of the word are."""
    telling: Sequence[int]
    """Rows of words that are shown without asking."""


def packed(nearest: Nearest) -> dict[str, str]:
    """Return lists of neighbours as text: base64 of unsigned, and of signed, 16-bit numbers, the low byte first."""
    cosine = np.rint(np.clip(nearest.cosine.astype(np.float64), -1, 1) * COSINE_STEPS)
    return {"index": _base64(nearest.index.astype("<u2")), "cosine": _base64(cosine.astype("<i2"))}


def unpacked(text: dict[str, str], k: int) -> Nearest:
    """Return what ``packed`` made text of."""
    index = np.frombuffer(base64.b64decode(text["index"]), "<u2").astype(np.int64)
    cosine = np.frombuffer(base64.b64decode(text["cosine"]), "<i2").astype(np.float32) / np.float32(COSINE_STEPS)
    return Nearest(index.reshape(-1, k), cosine.reshape(-1, k))


def shared_share(first: NDArray[np.int64], second: NDArray[np.int64], k: int) -> float:
    """Return the share of the first k entries of each row that both hold, 0 to 1, over all rows together."""
    a, b = first[:, :k], second[:, :k]
    # Row by row: memory is n * k, not n * k * k.
    same = sum(int((a == b[:, [j]]).any(axis=1).sum()) for j in range(b.shape[1]))
    return same / max(1, a.size)


def json_in_html(value: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it ends the element or a line of script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def neighbours_page(
    run: str,
    words: ExploredWords,
    nearest: Mapping[str, Nearest],
    lists: Mapping[str, dict[str, str]],
    *,
    facts: Mapping[str, Any],
) -> str:
    """Return the page.

    Args:
        run: Name of the run.
        words: Its words.
        nearest: Their neighbours under ``base`` and ``run``.
        lists: The same as ``packed`` makes text of it.
        facts: What the page tells of itself: see explorer.html.j2.
    """
    script = _SCRIPT.read_text(encoding="utf-8")
    k = nearest["run"].index.shape[1]
    data = {
        "words": [one_line(word) for word in words.word],
        "lines": words.n_lines.tolist(),
        "areas": [one_line(area) for area in words.areas],
        "area": words.area.tolist(),
        "k": k,
        "steps": COSINE_STEPS,
        **lists,
    }
    context = {
        **facts,
        "run": run,
        "n_words": len(words.word),
        "k": k,
        "steps": COSINE_STEPS,
        "telling": [_telling(row, words, nearest) for row in words.telling],
        "data": json_in_html(data),
        "script": script,
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return render_html("explorer.html.j2", context, {})


def _telling(row: int, words: ExploredWords, nearest: Mapping[str, Nearest]) -> dict[str, Any]:
    told: dict[str, Any] = {"row": row, "word": one_line(words.word[row]), "lines": int(words.n_lines[row])}
    for name, found in nearest.items():
        pairs = zip(found.index[row], found.cosine[row], strict=True)
        told[name] = [(one_line(words.word[i]), float(cosine)) for i, cosine in list(pairs)[:_SHOWN_OF_TELLING]]
    return told


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
