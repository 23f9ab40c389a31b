"""What a line of ``commbert shell`` asks for, and its answer."""

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commbert.cli.answers import (
    filled_table,
    hits_table,
    lines_table,
    neighbours_table,
    options_table,
    similarity_table,
)
from commbert.cli.asking import Answers, progress
from commbert.errors import DataError

if TYPE_CHECKING:
    from commbert.inference.models import AskedModel
    from commbert.inference.neighbours import WordSpace
    from commbert.inference.vectors import EncodedTexts

_NEIGHBOURS = 10
_HITS = 5
_MOST = 10_000
_HELP = (
    ("text with [MASK]", "what fits each [MASK]"),
    ("qa QUESTION | OPTION | OPTION", "which option fits the question"),
    ("sim A B", "how alike two words are; sim TEXT | TEXT for texts"),
    ("near WORD [K]", "the K words nearest to it"),
    ("find TEXT", "the passages nearest to it"),
    ("help", "this list"),
    ("quit", "end; so does Ctrl-D"),
)


class Conversation:
    """Answers lines; what takes long to make (vectors of words and passages) is made once, when first needed."""

    def __init__(
        self,
        model: "AskedModel",
        answers: Answers,
        *,
        words: Path | None,
        among: Path,
        choose: Callable[..., Sequence[Any]] | None = None,
    ) -> None:
        """Start one.

        Args:
            model: What is asked.
            answers: Prints.
            words: As for ``commbert neighbours``.
            among: As for ``commbert search``.
            choose: Scores options; None: ``commbert.inference.choosing.choose``.
        """
        self._model, self._answers, self._words, self._among = model, answers, words, among
        self._choose = choose
        self._space: WordSpace | None = None
        self._passages: list[EncodedTexts] | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "qa": self._qa,
            "sim": self._sim,
            "near": self._near,
            "find": self._find,
            "help": self._help,
        }

    def answer(self, line: str) -> bool:
        """Answer a line and return whether the conversation goes on.

        Raises:
            CommbertError: If the line cannot be answered.
        """
        line = line.strip()
        name, _, rest = line.partition(" ")
        if not line:
            return True
        if line in ("quit", "exit"):
            return False
        if name in self._commands and ("[MASK]" not in line or "|" in line):
            self._commands[name](rest.strip())
        elif "[MASK]" in line:
            self._fill(line)
        else:
            near = difflib.get_close_matches(name.lower(), [*self._commands, "quit"], n=1)
            hint = f"Did you mean {near[0]}?" if near else "help lists the commands."
            raise DataError(f"expected a command or a text with [MASK], found {name[:40]!a}. {hint}")
        return True

    def _fill(self, line: str) -> None:
        from commbert.inference.filling import fill_mask

        for filled in fill_mask(self._model, [line]):
            self._answers.give(filled.as_dict(), partial(filled_table, filled))

    def _qa(self, rest: str) -> None:
        question, *options = (part.strip() for part in rest.split("|"))
        if not question or len(options) < 2 or not all(options):
            raise DataError(f"expected qa QUESTION | OPTION | OPTION, found {len(options)} option(s) or an empty part.")
        from commbert.inference.choosing import choose as by_model

        choose = self._choose or by_model
        scores = [
            {name: getattr(one, name) for name in ("option", "score", "probability", "n_pieces")}
            for one in choose(self._model, question, options)
        ]
        self._answers.give({"question": question, "options": scores}, lambda: options_table(question, scores))

    def _sim(self, rest: str) -> None:
        from commbert.inference.vectors import similarity

        parts = [part.strip() for part in rest.split("|")] if "|" in rest else rest.split()
        if len(parts) != 2 or not all(parts):
            raise DataError(f"expected sim A B, or sim TEXT | TEXT, found {len(parts)} part(s).")
        for found in similarity(self._model, [(parts[0], parts[1])]):
            value = {"a": found.a, "b": found.b, "cosine": found.cosine}
            self._answers.give(value, partial(similarity_table, [(found.a, found.b, [found.cosine])], ["cosine"]))

    def _near(self, rest: str) -> None:
        from commbert.inference.neighbours import space_of

        word, _, last = rest.rpartition(" ")
        is_number = bool(word) and last.isascii() and last.isdigit() and len(last) < 10
        word, k = (word.strip(), int(last)) if is_number else (rest, _NEIGHBOURS)
        if not word or not 1 <= k <= _MOST:
            raise DataError(f"expected near WORD or near WORD K with K from 1 to {_MOST}, found {rest[:40]!a}.")
        if self._space is None:
            with progress("vectors of words") as advance:
                self._space = space_of(self._model, self._words, on_words=advance)
        found = self._space.nearest([word], k)
        value = {"word": word, "neighbours": [vars(one) for one in found[0]]}
        self._answers.give(value, lambda: neighbours_table(word, found, ["model"]))

    def _find(self, rest: str) -> None:
        from commbert.inference.searching import passages, search

        if not rest:
            raise DataError("expected find TEXT, found no text.")
        if self._passages is None:
            every: list[EncodedTexts] = []
            with progress("vectors of passages") as advance:
                for some in passages(self._model, self._among):
                    every.append(some)
                    advance(len(some.texts))
            self._passages = every
        hits = search(self._model, [rest], self._passages, top_k=_HITS)[0]
        value = {"query": rest, "hits": [vars(hit) for hit in hits]}
        self._answers.give(value, lambda: hits_table(rest, hits))

    def _help(self, rest: str) -> None:
        del rest
        self._answers.give({"help": dict(_HELP)}, lambda: lines_table(_HELP))
