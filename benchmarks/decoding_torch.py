# SPDX-License-Identifier: Apache-2.0
"""The usual PyTorch code for decoding: a loop in Python, with the weights of the shared model."""

import decoding_case
import torch
from decoding_case import END_ID as END
from decoding_case import START_ID as START
from decoding_case import UNKNOWN_ID as UNKNOWN
from torch import nn

FORBIDDEN = [0, START]  # padding, and what a target cannot contain


class Seq2Seq(nn.Module):
    """A bidirectional LSTM encoder, and an LSTM decoder with additive attention."""

    def __init__(self, folder):
        super().__init__()
        description, weights = decoding_case.shared_model(folder), decoding_case.load_weights(folder)
        self.source_ids = {token: i for i, token in enumerate(description["source"])}
        self.target = description["target"]
        units, embedding = description["units"], description["embedding"]
        self.source_embedding = nn.Embedding(len(self.source_ids), embedding)
        self.target_embedding = nn.Embedding(len(self.target), embedding)
        self.encoder = nn.LSTM(embedding, units, batch_first=True, bidirectional=True)
        self.bridge_h, self.bridge_c = nn.Linear(4 * units, units), nn.Linear(4 * units, units)
        self.key = nn.Linear(2 * units, units, bias=False)
        self.query = nn.Linear(units, units, bias=False)
        self.score = nn.Linear(units, 1, bias=False)
        self.cell = nn.LSTMCell(embedding + 2 * units, units)
        self.readout = nn.Linear(units, len(self.target))
        self.load_state_dict(torch_weights(weights))

    def encode(self, words):
        """Returns the memory, its keys, the mask of the positions, and the first state of the decoder."""
        ids = [[self.source_ids.get(letter, UNKNOWN) for letter in word] + [END] for word in words]
        lengths = torch.tensor([len(row) for row in ids])
        source = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        embedded = self.source_embedding(source)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        memory, (h, c) = self.encoder(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(memory, batch_first=True)
        summary = torch.cat([h[0], c[0], h[1], c[1]], -1)
        state = torch.tanh(self.bridge_h(summary)), torch.tanh(self.bridge_c(summary))
        return memory, self.key(memory), source != 0, state

    def step(self, tokens, state, memory, keys, mask):
        """Returns the log-probabilities (rows, vocabulary) of the next tokens, and the new state."""
        energies = self.score(torch.tanh(keys + self.query(state[0])[:, None]))[..., 0]  # (rows, source)
        weights = energies.masked_fill(~mask, -torch.inf).softmax(-1)
        context = torch.bmm(weights[:, None], memory)[:, 0]
        state = self.cell(torch.cat([self.target_embedding(tokens), context], -1), state)
        return self.readout(state[0]).log_softmax(-1), state

    @torch.inference_mode()
    def greedy(self, words):
        memory, keys, mask, state = self.encode(words)
        tokens = torch.full([len(words)], START)
        ended = torch.zeros(len(words), dtype=torch.bool)
        outputs = []
        for _ in range(2 * mask.shape[1] + 10):
            scores, state = self.step(tokens, state, memory, keys, mask)
            scores[:, FORBIDDEN] = -torch.inf
            tokens = scores.argmax(-1)
            outputs.append(tokens)
            ended |= tokens == END
            if ended.all():
                break
        return [self.text(row) for row in torch.stack(outputs, 1).tolist()]

    @torch.inference_mode()
    def beam(self, words, beams):
        """Beam search: `beams` live hypotheses, and for each word the best one that has ended."""
        memory, keys, mask, state = self.encode(words)
        memory, keys, mask, *state = (x.repeat_interleave(beams, 0) for x in (memory, keys, mask, *state))
        count, vocabulary = len(words), len(self.target)
        first_rows = beams * torch.arange(count)[:, None]
        live = torch.full([count, beams], -torch.inf)  # at first all beams of a word are equal: one is enough
        live[:, 0] = 0
        best, texts = torch.full([count], -torch.inf), [""] * count
        tokens, outputs = torch.full([count * beams], START), torch.zeros([count * beams, 0], dtype=torch.int64)
        for _ in range(2 * mask.shape[1] + 10):
            scores, state = self.step(tokens, state, memory, keys, mask)
            scores[:, FORBIDDEN] = -torch.inf
            scores = (live.view(-1, 1) + scores).view(count, -1)
            candidates, chosen = scores.topk(2 * beams)  # at least half of them go on
            has_ended = chosen % vocabulary == END
            ends, place = candidates[:, :beams].masked_fill(~has_ended[:, :beams], -torch.inf).max(1)
            for word in (ends > best).nonzero()[:, 0].tolist():
                texts[word] = self.text(outputs[word * beams + chosen[word, place[word]] // vocabulary].tolist())
            best = best.maximum(ends)
            live, places = candidates.masked_fill(has_ended, -torch.inf).topk(beams)
            if (best >= live[:, 0]).all():  # longer hypotheses are not more likely
                break
            chosen = chosen.gather(1, places)
            rows = (first_rows + chosen // vocabulary).view(-1)
            tokens = (chosen % vocabulary).view(-1)
            outputs = torch.cat([outputs[rows], tokens[:, None]], 1)
            state = [x[rows] for x in state]
        return texts

    def text(self, ids):
        return " ".join(self.target[i] for i in (ids[: ids.index(END)] if END in ids else ids))


def torch_weights(weights):
    """Returns the state dict. PyTorch transposes kernels, has two biases, and the same order of gates as Keras."""

    def lstm(name, suffix):
        bias = weights[f"{name}.bias"]
        return {
            f"weight_ih{suffix}": weights[f"{name}.kernel"].T,
            f"weight_hh{suffix}": weights[f"{name}.recurrent_kernel"].T,
            f"bias_ih{suffix}": bias,
            f"bias_hh{suffix}": 0 * bias,
        }

    def dense(name):
        return {f"{name}.weight": weights[f"{name}.kernel"].T, f"{name}.bias": weights[f"{name}.bias"]}

    encoder = {**lstm("forward", "_l0"), **lstm("backward", "_l0_reverse")}
    arrays = {
        **{f"{side}_embedding.weight": weights[f"{side}_embedding.embeddings"] for side in ("source", "target")},
        **{f"encoder.{name}": array for name, array in encoder.items()},
        **{f"{name}.weight": weights[f"attention.{name}_kernel"].T for name in ("key", "query", "score")},
        **{f"cell.{name}": array for name, array in lstm("cell", "").items()},
        **dense("bridge_h"),
        **dense("bridge_c"),
        **dense("readout"),
    }
    return {name: torch.tensor(array) for name, array in arrays.items()}
