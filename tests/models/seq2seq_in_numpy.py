# SPDX-License-Identifier: Apache-2.0
"""A whole `Seq2Seq` in NumPy, float64, one sequence at a time, and slow searches over it.

It reads the weights of a model and follows the papers and docstrings, not the code: no batches, no padding, no masks.
"""

import itertools

import numpy as np

PAD, UNK, START, END = range(4)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_softmax(x):
    x = x - np.max(x)
    return x - np.log(np.sum(np.exp(x)))


def lstm(x, states, kernel, recurrent_kernel, bias):
    h, c = states
    i, f, g, o = np.split(x @ kernel + h @ recurrent_kernel + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru(x, states, kernel, recurrent_kernel, bias):
    (h,) = states
    xz, xr, xg = np.split(x @ kernel + bias[0], 3)
    hz, hr, hg = np.split(h @ recurrent_kernel + bias[1], 3)
    z = sigmoid(xz + hz)
    g = np.tanh(xg + sigmoid(xr + hr) * hg)
    return [z * h + (1 - z) * g]


def mgu(x, states, kernel, recurrent_kernel, bias):
    (h,) = states
    xf, xg = np.split(x @ kernel + bias, 2)
    uf, ug = np.split(recurrent_kernel, 2, axis=1)
    f = sigmoid(xf + h @ uf)
    return [(1 - f) * h + f * np.tanh(xg + (f * h) @ ug)]


def rnn(x, states, kernel, recurrent_kernel, bias):
    return [np.tanh(x @ kernel + states[0] @ recurrent_kernel + bias)]


CELLS = {"lstm": lstm, "gru": gru, "mgu": mgu, "rnn": rnn}


def embedded_features(model, features):
    """Yields the vector of each feature, in the order of their names."""
    weights = {weight.path: np.asarray(weight, "float64") for weight in model.weights if "/feature" in weight.path}
    for name in sorted(features):
        own = {path.split("/")[-1]: values for path, values in weights.items() if path.split("/")[-2] == name}
        if "embeddings" in own:
            yield own["embeddings"][features[name]]
        else:
            yield features[name] @ own["kernel"] + own["bias"]


class NumpySeq2Seq:
    """One layer, with the attention "bahdanau", "luong" or None.

    Args:
        model: a built `Seq2Seq`.
        cells: the names of the cells of encoder and decoder.
        attention: the name of the attention, or None.
        features: dict from names to the index of a tag or to a real vector; the same for all sources.
    """

    def __init__(self, model, cells, attention, features=()):
        self.features = np.concatenate([np.zeros(0), *embedded_features(model, dict(features))])
        encoder = [np.asarray(weight, "float64") for weight in model.encoder.weights]
        self.source_embeddings, *encoder = encoder
        self.directions = [encoder[0:3], encoder[3:6]]
        decoder = {weight.path.split("/", 2)[-1]: np.asarray(weight, "float64") for weight in model.decoder.weights}
        names = list(decoder)

        def take(ending, among=names):
            found = [name for name in among if name.endswith(ending)]
            assert len(found) == 1, (ending, found)
            return decoder[found[0]]

        dense = [name for name in names if name.split("/")[-2].startswith("dense")]
        *bridges, self.readout_kernel, self.readout_bias = [decoder[name] for name in dense]
        self.bridges = [bridges[i : i + 2] for i in range(0, len(bridges), 2)]
        in_cell = [name for name in names if "_cell" in name]
        self.cell_weights = [take(ending, in_cell) for ending in ("/kernel", "/recurrent_kernel", "/bias")]
        self.target_embeddings = take("embeddings")
        self.encoder_cell, self.cell = (CELLS[name] for name in cells)
        self.encoder_states = 2 if cells[0] == "lstm" else 1
        self.attention = attention
        if attention is not None:
            self.key_kernel = take("key_kernel")
        if attention == "bahdanau":
            self.query_kernel, self.score_kernel = take("query_kernel"), take("score_kernel")[:, 0]
        if attention == "luong":
            self.attentional_kernel = take("attentional_kernel")
        self.vocabulary_size = len(self.readout_bias)
        self.starts, self.steps = {}, {}

    def start(self, source):
        """Returns the memory, the keys and the initial state."""
        if source not in self.starts:
            embedded = np.stack([np.concatenate([self.source_embeddings[i], self.features]) for i in source])
            outputs, finals = [], []
            for weights, inputs in zip(self.directions, (embedded, embedded[::-1]), strict=True):
                states = [np.zeros(len(weights[1])) for _ in range(self.encoder_states)]
                hs = []
                for x in inputs:
                    states = self.encoder_cell(x, states, *weights)
                    hs.append(states[0])
                outputs.append(np.reshape(hs, (len(source), -1)))
                finals.extend(states)
            memory = np.concatenate([outputs[0], outputs[1][::-1]], axis=1)
            summary = np.concatenate(finals)
            states = [np.tanh(summary @ kernel + bias) for kernel, bias in self.bridges]
            keys = memory @ self.key_kernel if self.attention else None
            fed = np.zeros(self.attentional_kernel.shape[1]) if self.attention == "luong" else None
            self.starts[source] = memory, keys, (states, fed)
        return self.starts[source]

    def attend(self, query, memory, keys):
        energies = (
            keys @ query
            if self.attention == "luong"
            else (np.tanh(query @ self.query_kernel + keys) @ self.score_kernel)
        )
        weights = np.exp(log_softmax(energies))
        return weights @ memory, weights

    def step(self, source, history):
        """Returns log-probabilities of what follows `history`, the attention weights of this step, and the state."""
        source, history = tuple(map(int, source)), tuple(map(int, history))
        if (source, history) not in self.steps:
            memory, keys, state = self.start(source)
            if history:
                state = self.step(source, history[:-1])[2]
            states, fed = state
            x = np.concatenate([self.target_embeddings[history[-1] if history else START], self.features])
            weights = np.zeros(0)
            if self.attention == "bahdanau":
                context, weights = self.attend(states[0], memory, keys)
                x = np.concatenate([x, context])
            elif self.attention == "luong":
                x = np.concatenate([x, fed])
            states = self.cell(x, states, *self.cell_weights)
            output = states[0]
            if self.attention == "luong":
                context, weights = self.attend(output, memory, keys)
                output = fed = np.tanh(np.concatenate([output, context]) @ self.attentional_kernel)
            result = log_softmax(output @ self.readout_kernel + self.readout_bias)
            self.steps[source, history] = result, weights, (states, fed)
        return self.steps[source, history]

    def log_probabilities(self, source, history):
        return self.step(source, history)[0]

    def attention_weights(self, source, target):
        """Returns (time, source)."""
        return np.stack([self.step(source, target[:t])[1] for t in range(len(target))])


class NumpyEnsemble(NumpySeq2Seq):
    def __init__(self, members, average):
        self.members, self.average = members, average
        self.vocabulary_size = members[0].vocabulary_size

    def step(self, source, history):
        results = [member.step(source, history) for member in self.members]
        logs = np.stack([result[0] for result in results])
        if self.average == "probabilities":
            logs = np.log(np.mean(np.exp(logs), axis=0))
        else:
            logs = log_softmax(np.mean(logs, axis=0))
        with_attention = [result[1] for result in results if len(result[1])]
        return logs, np.mean(with_attention, axis=0) if with_attention else np.zeros(0), None


def token_scores(model, source, history, processors=()):
    """Returns the log-probabilities from which a search chooses: -inf for padding and [START], then the processors."""
    result = np.array(model.log_probabilities(source, history))
    result[[PAD, START]] = -np.inf
    for processor in processors:
        result = processor(result, list(history))
    if np.all(result == -np.inf):
        result[END] = 0.0  # where nothing is allowed, the output ends
    return result


def log_probability(model, source, target):
    return float(sum(model.log_probabilities(source, target[:t])[target[t]] for t in range(len(target))))


def ranking_score(model, source, target, total, length_penalty=0.0, coverage_penalty=0.0):
    score = total / ((5 + len(target)) / 6) ** length_penalty
    if coverage_penalty:
        sums = np.sum(model.attention_weights(source, target), axis=0)
        score += coverage_penalty * np.sum(np.log(np.clip(sums, 1e-9, 1.0)))
    return score


def greedy(model, source, limit, processors=()):
    history = ()
    while len(history) < limit and END not in history:
        history += (int(np.argmax(token_scores(model, source, history, processors))),)
    return history


def every_output(model, limit):
    """Yields every output that a search may return: those that end, and those that are cut."""
    tokens = [token for token in range(model.vocabulary_size) if token not in (PAD, START, END)]
    for length in range(limit):
        for body in itertools.product(tokens, repeat=length):
            yield (*body, END)
    yield from itertools.product(tokens, repeat=limit)


def processed_total(model, source, target, processors=()):
    return sum(token_scores(model, source, target[:t], processors)[target[t]] for t in range(len(target)))


def exhaustive(model, source, limit, processors=(), **penalties):
    """Returns `[(score, output)]` of every possible output, the best first."""
    ranked = []
    for target in every_output(model, limit):
        total = processed_total(model, source, target, processors)
        if total > -np.inf:
            ranked.append((ranking_score(model, source, target, total, **penalties), target))
    return sorted(ranked, reverse=True)


def beam(model, source, limit, num_beams, processors=(), num_groups=1, diversity_penalty=0.0, **penalties):
    """Beam search that never stops early, except with one beam. Returns `[(score, output)]`, the best first."""
    width = num_beams // num_groups
    groups, finished = [[(0.0, ())] for _ in range(num_groups)], {}
    for t in range(limit):
        chosen = np.zeros(model.vocabulary_size)  # how often earlier groups continue with each token
        for index, group in enumerate(groups):
            candidates = []
            for total, history in group:
                scores = token_scores(model, source, history, processors)
                for token in np.flatnonzero(scores > -np.inf):
                    value = total + scores[token]
                    candidates.append((value - diversity_penalty * chosen[token], value, (*history, int(token))))
            candidates.sort(reverse=True)
            best = candidates[:width]
            finished.update((output, value) for _, value, output in best if output[-1] == END or t == limit - 1)
            live = [candidate for candidate in candidates if candidate[2][-1] != END][:width]
            for *_, output in live if t < limit - 1 else best:
                chosen[output[-1]] += 1
            groups[index] = [(value, output) for _, value, output in live]
        if num_beams == 1 and finished:
            break
    ranked = [(ranking_score(model, source, output, value, **penalties), output) for output, value in finished.items()]
    return sorted(ranked, reverse=True)


def draw_distribution(logs, temperature=1.0, k=None, p=None):
    """Returns the probabilities from which a sampler draws, given token scores."""
    probabilities = np.exp(log_softmax(logs / temperature))
    kept = np.argsort(-probabilities, kind="stable")[:k]
    if p is not None:
        kept = kept[np.cumsum(probabilities[kept]) - probabilities[kept] < p]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept]
    return result / np.sum(result)


# Processors, as functions of (log_probabilities, history): the definitions of Hugging Face Transformers.


def repetition_penalty(penalty):
    def process(logs, history):
        logs = logs.copy()
        for token in set(history):
            logs[token] = logs[token] / penalty if logs[token] > 0 else logs[token] * penalty
        return logs

    return process


def no_repeat_n_gram(size):
    def process(logs, history):
        logs = logs.copy()
        for i in range(len(history) - size + 1):
            *begin, last = history[i : i + size]
            if last != END and begin == history[len(history) - size + 1 :]:
                logs[last] = -np.inf
        return logs

    return process


def min_length(length):
    def process(logs, history):
        logs = logs.copy()
        if len(history) < length:
            logs[END] = -np.inf
        return logs

    return process


def forced_prefix(prefix):
    def process(logs, history):
        if len(history) >= len(prefix):
            return logs
        logs = np.full_like(logs, -np.inf)
        logs[prefix[len(history)]] = 0.0
        return logs

    return process


def lexicon(sequences):
    words = [(*sequence, END) for sequence in sequences]

    def process(logs, history):
        allowed = {
            word[len(history)] for word in words if word[: len(history)] == tuple(history) and len(word) > len(history)
        }
        return np.where([token in allowed for token in range(len(logs))], logs, -np.inf)

    return process
