# SPDX-License-Identifier: Apache-2.0
"""A Markov chain of tokens, with the smoothing of Kneser and Ney."""

import collections

import numpy as np


class MarkovChain:
    """Predicts each token of a text from some that precede it, by interpolated Kneser-Ney smoothing (Ney et al. 1994).

    Args:
        texts: texts of tokens, separated by spaces. Each is preceded by `[START]` and followed by `[END]`.
        lags: which tokens the chain reads, the most important first: 1 is the token before, 5 that of the same voice
            one moment before. The last ones are left out first where a context is rare.
        vocabulary: all tokens.
        cycle: number of tokens of a moment. Which of them is predicted is known, too.
    """

    def __init__(self, texts, lags, vocabulary, cycle=5):
        self.lags, self.vocabulary, self.cycle = tuple(lags), [*vocabulary, "[END]"], cycle
        counts = collections.defaultdict(collections.Counter)
        for text in texts:
            for context, token in self._contexts(text.split()):
                counts[context][token] += 1
        self.levels = [counts]  # of contexts of all lags, then always one fewer
        for _ in self.lags:
            shorter = collections.defaultdict(collections.Counter)
            for context, tokens in self.levels[-1].items():
                for token in tokens:  # in how many contexts it occurs, not how often
                    shorter[context[:-1]][token] += 1
            self.levels.append(shorter)
        self.discounts = []
        for level in self.levels:
            values = collections.Counter(count for tokens in level.values() for count in tokens.values())
            self.discounts.append(values[1] / (values[1] + 2 * values[2]) if values[2] else 0.5)

    def _context(self, tokens, place):
        return (place % self.cycle, *(tokens[place - lag] if lag <= place else "[START]" for lag in self.lags))

    def _contexts(self, tokens):
        return ((self._context(tokens, place), token) for place, token in enumerate([*tokens, "[END]"]))

    def _mixture(self, context):
        """Returns pairs of a discounted share of counts and the counts, and the share that is left for all tokens."""
        pairs, rest = [], 1.0
        for level, discount in zip(self.levels, self.discounts, strict=True):
            tokens = level.get(context)
            if tokens:
                total = sum(tokens.values())
                pairs.append((rest / total, discount, tokens))
                rest *= discount * len(tokens) / total
            context = context[:-1]
        return pairs, rest

    def bits(self, text):
        """Returns the negative binary logarithm of the probability of each token and `[END]`, an array."""
        results = []
        for context, token in self._contexts(text.split()):
            pairs, rest = self._mixture(context)
            shares = [share * (tokens[token] - discount) for share, discount, tokens in pairs if token in tokens]
            results.append(-np.log2(sum(shares) + rest / len(self.vocabulary)))
        return np.array(results)

    def generate(self, generator, max_length, temperature=1.0):
        """Returns a text drawn from the chain. Below a temperature of 1 likely tokens become more likely."""
        tokens = []
        while len(tokens) < max_length and tokens[-1:] != ["[END]"]:
            pairs, _ = self._mixture(self._context(tokens, len(tokens)))
            probabilities = collections.Counter()  # of tokens that occur at such a place
            for share, discount, counts in pairs:
                probabilities.update({token: share * (count - discount) for token, count in counts.items()})
            if len(tokens) < self.cycle:
                del probabilities["[END]"]
            weights = np.array(list(probabilities.values())) ** (1 / temperature)
            tokens.append(str(generator.choice(list(probabilities), p=weights / weights.sum())))
        return " ".join(token for token in tokens if token != "[END]")


def best_chain(lags, texts, vocabulary):
    """Returns the chain with the number of lags that is best on dev."""
    chains = [MarkovChain(texts["train"], lags[: n + 1], vocabulary) for n in range(len(lags))]
    return min(chains, key=lambda chain: sum(chain.bits(text).sum() for text in texts["dev"]))
