"""Two models on the same data: each figure before and after, and their difference with a paired interval.

A figure's items are the same for both models (the hidden words, questions, pairs), and both are resampled alike: the
interval is that of the difference, narrower than the two intervals would suggest. A difference whose 95 % interval
holds 0 is within noise.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from commbert.artifacts import sha256_file
from commbert.errors import DataError
from commbert.evaluation import meaning
from commbert.evaluation.bootstrap import resample_weights, spearman, spearman_resamples
from commbert.evaluation.scores import Draws
from commbert.inference.answering import by_domain, by_split, right, sorted_out, wilson
from commbert.inference.choosing import choose_all
from commbert.inference.comparedfiles import ComparedFile, read_labelled_pairs, read_texts
from commbert.inference.comparedlabels import labelled
from commbert.inference.comparison import Better, Case, Comparison, Measured, Row, measured, row_of
from commbert.inference.models import AskedModel
from commbert.inference.questions import read_questions
from commbert.inference.wholewords import WordScores, cut, hidden_words, word_scores
from commbert.nn.measures import auc
from commbert.nn.model import text_vectors

Floats = NDArray[np.float64]
_DIGESTED = ("model.safetensors", "tokenizer.json", "config.json")


def compare(
    a: AskedModel,
    b: AskedModel,
    files: Sequence[ComparedFile],
    *,
    names: tuple[str, str] | None = None,
    n_resamples: int = 1000,
    seed: int = 17,
) -> Comparison:
    """Measure two models on files; their vocabularies may differ.

    A model without a trained MLM head has no figures of hidden words and questions, and the reason stands in the row.

    Args:
        a: The model before.
        b: The model after.
        files: What to measure on.
        names: What the models are called; their folders if not given.
        n_resamples: Bootstrap resamples.
        seed: Draws the hidden words and the resamples.

    Raises:
        DataError: If a file is not as its kind asks; names file and line.
    """
    case = Case((a, b), names or (str(a.folder), str(b.folder)), n_resamples, seed, [])
    if sha256_file(a.folder / "tokenizer.json") != sha256_file(b.folder / "tokenizer.json"):
        case.notes.append(
            "The tokenizers differ: losses per token count other tokens and do not compare; per word and per character "
            "they do."
        )
    rows = [row for file in files for row in _KINDS[file.kind](case, file)]
    told = [{"path": f.shown, "kind": f.kind, "sha256": sha256_file(f.path)} for f in files]
    settings = {"bootstrap": n_resamples, "seed": seed}
    return Comparison(case.names, (_about(a), _about(b)), rows, told, case.notes, settings)


def _about(model: AskedModel) -> dict[str, Any]:
    digests = {name: sha256_file(model.folder / name) for name in _DIGESTED}
    vocabulary = model.bert.config.vocab_size
    return {"folder": str(model.folder), "sha256": digests, "vocabulary": vocabulary, "lacks": list(model.lacks)}


def _texts(case: Case, file: ComparedFile) -> Iterator[Row]:
    """Yield figures of hidden words, and the tokens per word."""
    texts = cut(case.models, read_texts(file))
    if not texts:
        raise DataError(f"{file.path}: expected words, found none that either tokenizer reads. Choose another file.")
    hidden = hidden_words(texts, seed=case.seed)
    n_unknown = sum(int((~text.is_known).sum()) for text in texts)
    if n_unknown:
        n_words = sum(len(text.begin) for text in texts)
        case.notes.append(
            f"{file.shown}: {n_unknown} of {n_words} words hold an [UNK] for one of the models; they are never hidden."
        )
    if any(map(len, hidden)) and any(case.has_head):
        scores = [
            word_scores(model, i, texts, hidden) if has else None
            for i, (model, has) in enumerate(zip(case.models, case.has_head, strict=True))
        ]
        for figure, better, of in _WORD_FIGURES:
            a, b = (None if s is None else case.mean(*of(s)) for s in scores)
            yield row_of(file, figure, better, (a, b), case.reason)
    else:
        yield row_of(file, "hidden words", "", (None, None), case.reason or "no word that both models can write")
    n_words_of = np.array([len(text.begin) for text in texts], np.float64)
    rows = np.arange(len(texts))
    a, b = (case.mean(np.array([len(t.tokens[i].ids) for t in texts], np.float64), rows, n_words_of) for i in (0, 1))
    yield row_of(file, "tokens per word", "", (a, b))


_WORD_FIGURES: tuple[tuple[str, Better, Callable[[WordScores], tuple[Any, ...]]], ...] = (
    ("MLM loss per token, nats", "lower", lambda s: (s.loss_nats, s.text, s.n_tokens)),
    ("MLM loss per word, nats", "lower", lambda s: (s.loss_nats, s.text)),
    ("MLM loss per character, nats", "lower", lambda s: (s.loss_nats, s.text, s.n_chars)),
    ("hidden words, first guess", "higher", lambda s: (s.top1, s.text)),
    ("hidden words, first five guesses", "higher", lambda s: (s.top5, s.text)),
)


def _questions(case: Case, file: ComparedFile) -> Iterator[Row]:
    """Yield accuracies, of all questions, by domain and by split, and without the question."""
    known = [q for q in read_questions(file.path).questions if q.answer is not None]
    if not known:
        raise DataError(f"{file.path}: expected questions with answers, found none. Add a column answer.")
    if not any(case.has_head):
        yield row_of(file, "accuracy", "higher", (None, None), case.reason)
        return
    answered = []
    for model, has in zip(case.models, case.has_head, strict=True):
        answered.append(sorted_out(known, choose_all(model, known))[0] if has else None)
    # Both are asked the same questions: those that either cannot be asked are left out.
    lines = set.intersection(*({a.question.line for a in found} for found in answered if found is not None))
    if len(lines) < len(known):
        case.notes.append(f"{file.shown}: {len(known) - len(lines)} of {len(known)} questions cannot be asked of both.")
    if not lines:
        yield row_of(file, "accuracy", "higher", (None, None), "no question that both can be asked")
        return
    asked = [q for q in known if q.line in lines]
    kept = [None if f is None else [a for a in f if a.question.line in lines] for f in answered]
    for is_blind in (False, True):
        # A table that a model was trained on says by its splits which questions were held out.
        splits = [(f"split {split}", rows) for split, rows in by_split(asked)]
        for domain, rows in [*by_domain(asked), *splits]:
            if is_blind and len(rows) < len(asked):
                continue
            pair = [
                None if f is None else _accuracy(case, right([f[i] for i in rows], is_blind=is_blind)) for f in kept
            ]
            chance = np.mean([1 / len(asked[i].options) for i in rows])
            name = "accuracy without the question" if is_blind else f"accuracy, {domain}"
            better: Better = "" if is_blind else "higher"
            yield row_of(file, f"{name} (chance {chance:.0%})", better, (pair[0], pair[1]), case.reason)


def _accuracy(case: Case, is_right: Floats) -> Measured:
    found = case.mean(is_right, np.arange(len(is_right)))
    return Measured(found.draws, wilson(int(is_right.sum()), len(is_right)))


def _embed(model: AskedModel) -> meaning.Embed:
    def embed(texts: Sequence[str]) -> Tensor:
        sequences = [ids[: model.most_tokens] for ids in model.encode(texts)]
        return text_vectors(model.bert, sequences, model.specials, pooling=model.pooling, device=model.device)

    return embed


def _similarity(case: Case, file: ComparedFile) -> Iterator[Row]:
    """Yield Spearman's correlation of cosines with grades."""
    rows = meaning.read_similarity(file.path)
    grades = np.array([row.relation for row in rows], np.float64)
    pair: list[Measured | None] = []
    for model in case.models:
        cosine = meaning.similarity_cosines(_embed(model), rows)
        value = float(spearman(cosine[None], grades[None])[0])
        draws = Draws(value, spearman_resamples(cosine, grades, **case.options), len(rows))
        pair.append(None if np.isnan(value) else measured(draws))
    reason = "a correlation with a constant" if None in pair else ""
    yield row_of(file, "similarity, Spearman's correlation", "higher", (pair[0], pair[1]), reason)


def _pairs(case: Case, file: ComparedFile) -> Iterator[Row]:
    """Yield the AUC of related pairs against unrelated ones."""
    first, second, is_positive = read_labelled_pairs(file.path)
    index, drawn = resample_weights(np.arange(len(first)), **case.options)
    pair = []
    for model in case.models:
        vectors = _embed(model)([*first, *second]).double().numpy()
        cosine = (vectors[: len(first)] * vectors[len(first) :]).sum(-1)
        draws = np.array([_auc(np.repeat(index, weight), cosine, is_positive) for weight in drawn])
        pair.append(measured(Draws(_auc(index, cosine, is_positive), draws, len(first))))
    yield row_of(file, "pairs, AUC", "higher", (pair[0], pair[1]))


def _auc(rows: NDArray[np.int64], cosine: Floats, is_positive: NDArray[np.bool_]) -> float:
    positive = is_positive[rows]
    return auc(cosine[rows[positive]], cosine[rows[~positive]])


def _terms(case: Case, file: ComparedFile) -> Iterator[Row]:
    """Yield how high right expansions and acronyms stand among all."""
    pairs = meaning.read_terms(file.path)
    both = [meaning.acronym_ranks(_embed(model), pairs) for model in case.models]
    # A pair asked in both directions is one cluster.
    clusters = np.tile(np.arange(len(pairs)), 2)
    for figure, name in (("MRR", "reciprocal_rank"), ("right one first", "recall_at_1")):
        values = [np.concatenate([getattr(side, name) for side in (r.to_expansion, r.to_acronym)]) for r in both]
        a, b = (case.mean(value, clusters) for value in values)
        yield row_of(file, f"terms, {figure}", "higher", (a, b))


_KINDS: dict[str, Callable[[Case, ComparedFile], Iterator[Row]]] = {
    "text": _texts,
    "code": _texts,
    "questions": _questions,
    "similarity": _similarity,
    "pairs": _pairs,
    "terms": _terms,
    "labelled": labelled,
}
