"""Words by their spelling: TF-IDF of character n-grams, decomposed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from commbert.baselines.factors import truncated_svd, unit_rows
from commbert.baselines.vectors import WordVectors

_WORDS_AT_ONCE = 65_536


def ngram_vectors(
    words: Sequence[str],
    in_training: NDArray[np.bool_],
    *,
    dims: int,
    lengths: tuple[int, int],
    max_ngrams: int,
    seed: int,
) -> WordVectors:
    """Return the words' TF-IDF of character n-grams in the leading dimensions of the training words', at length 1.

    Upper and lower case are one; TF is 1 + log(count), IDF log((1 + n) / (1 + n_words_with)) + 1 (scikit-learn's). The
    edges of a word count as a blank. The training words alone decide on n-grams, IDF and dimensions.

    Args:
        words: All words.
        in_training: [n_words] which of them stand in the training split.
        dims: Dimensions at most.
        lengths: Shortest and longest n-gram, in characters.
        max_ngrams: The most frequent are kept.
        seed: Start of the decomposition.

    Returns:
        A vector for each word, 0 for one that shares no n-gram with a training word.

    Reference: Deerwester et al. 1990, doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9 (the
    decomposition), over n-grams as in Bojanowski et al. 2017, doi:10.1162/tacl_a_00051, section 3.2.
    """
    training = [word for word, is_there in zip(words, in_training, strict=True) if is_there]
    if not any(not word.isspace() for word in training):
        return WordVectors(np.zeros((len(words), 0), np.float32), 1.0, 0)
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=lengths, sublinear_tf=True, max_features=max_ngrams, dtype=np.float64
    )
    matrix = csr_array(vectorizer.fit_transform(training))
    factors = truncated_svd(matrix, dims, seed=seed)
    vectors = np.zeros((len(words), len(factors.values)), np.float32)
    for at in range(0, len(words), _WORDS_AT_ONCE):
        some = csr_array(vectorizer.transform(words[at : at + _WORDS_AT_ONCE]))
        norms = np.sqrt(np.asarray(some.power(2).sum(axis=1)))
        vectors[at : at + _WORDS_AT_ONCE] = unit_rows(some @ factors.right, norms)
    return WordVectors(vectors, factors.explained, matrix.nnz)
