# SPDX-License-Identifier: Apache-2.0
"""Linear models of single words and pairs of words, by scikit-learn."""

from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline


def train_baselines(sentences, labels):
    """Returns a dict from name to classifier, trained. Sentences are words separated by spaces."""
    words_and_pairs = {"token_pattern": r"\S+", "ngram_range": (1, 2)}
    classifiers = {
        "naive Bayes, pairs of words": (CountVectorizer(binary=True, **words_and_pairs), MultinomialNB()),
        "logistic regression, pairs of words": (
            TfidfVectorizer(sublinear_tf=True, **words_and_pairs),
            LogisticRegression(C=4, max_iter=500),
        ),
    }
    return {name: make_pipeline(*steps).fit(sentences, labels) for name, steps in classifiers.items()}
