# SPDX-License-Identifier: Apache-2.0
"""Classifiers of windows of DNA that a network should beat."""

import itertools

import genome
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SIZES = range(2, 7)  # k
STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # C, the inverse of the regularization


def count_kmers(texts):
    """Returns a dict from k to the counts of each k-mer on both strands, sparse (windows, k-mers)."""
    strands = texts, [genome.reverse_complement(text) for text in texts]
    vectorizers = {k: CountVectorizer(analyzer="char", ngram_range=(k, k), dtype=float) for k in SIZES}
    for vectorizer in vectorizers.values():
        vectorizer.fit(itertools.chain(*strands))
    return {k: sum(vectorizer.transform(strand) for strand in strands) for k, vectorizer in vectorizers.items()}


def score_kmers(counts, y, train, dev, test):
    """Returns the scores of the `test` windows by a logistic regression of k-mer counts, and k and C.

    k and C are the best for the `dev` windows, a part of `train`. The regression then learns from all of `train`.
    """

    def fit(k, c, chosen):
        regression = LogisticRegression(C=c, class_weight="balanced", max_iter=1000)
        return make_pipeline(StandardScaler(with_mean=False), regression).fit(counts[k][chosen], y[chosen])

    def score_dev(choice):
        return balanced_accuracy_score(y[dev], fit(*choice, train & ~dev).predict(counts[choice[0]][dev]))

    k, c = max(((k, c) for k in SIZES for c in STRENGTHS), key=score_dev)
    return fit(k, c, train).decision_function(counts[k][test]), k, c


def score_open_frames(texts, y, train, test):
    """Returns the scores of the `test` windows by how many codons follow each other without a stop codon.

    The most such codons in any of the six reading frames are compared with a threshold, which is learned.
    """
    stops = [np.ravel([genome.BASES.index(base) for base in stop]) @ [16, 4, 1] for stop in ("TAA", "TAG", "TGA")]
    is_open = ~np.isin(genome.read_codons(texts), stops)
    run = longest = np.zeros(is_open.shape[:2], int)
    for step in np.moveaxis(is_open, 2, 0):
        run = (run + 1) * step
        longest = np.maximum(longest, run)
    longest = longest.max(axis=1, keepdims=True)
    return LogisticRegression(class_weight="balanced").fit(longest[train], y[train]).decision_function(longest[test])
