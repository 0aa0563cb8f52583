# SPDX-License-Identifier: Apache-2.0
"""The contenders of the word benchmark: an epoch of `keras_seq.Seq2Seq` and of Yoyodyne on words and pronunciations.

Both have a bidirectional LSTM encoder, attention, an LSTM decoder, dropout, and Adam with clipped gradients; there is
no validation. Each reads its words as its users do: keras_seq in buckets of similar length, Yoyodyne shuffled, from
another process. The sizes are the same, but keras_seq has more parameters: it computes the first state of the decoder
from the last state of the encoder, where Yoyodyne learns it.
"""

import importlib.util
import os
import pathlib
from typing import NamedTuple

from contest import Contender

EMBEDDING, UNITS, BATCH, DROPOUT, LEARNING_RATE, CLIP = 128, 256, 128, 0.3, 1e-3, 1.0


class Words(NamedTuple):
    path: str  # file with two columns; contenders may write other files to its folder
    pairs: int

    def __str__(self):
        return f"epoch of {self.pairs} words"


def read_words(path=None):
    """Returns the sources and targets of a file with two columns, or the training split of CMUdict."""
    from keras_seq import data

    return data.load_cmudict()["train"] if path is None else data.read_pairs(path)


def write_words(folder, sources, targets, max_pairs):
    """Writes at most `max_pairs` pairs, spread evenly, to a file. Returns the case."""
    pairs = list(zip(sources, targets, strict=True))
    pairs = pairs[:: -(-len(pairs) // max_pairs)]
    path = pathlib.Path(folder, "words.tsv")
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return Words(str(path), len(pairs))


def keras_seq_epoch(case):
    import keras_seq

    sources, targets = keras_seq.data.read_pairs(case.path)
    batches = keras_seq.data.bucket_by_length(sources, targets, BATCH)
    source = keras_seq.data.text_vectorizer(sources)
    target = keras_seq.data.text_vectorizer(targets, split="whitespace")
    sizes = {"embedding_dim": EMBEDDING, "units": UNITS, "cell": "lstm", "dropout": DROPOUT}
    encoder = keras_seq.Encoder(source.vocabulary_size(), **sizes)
    model = keras_seq.Seq2Seq(encoder, keras_seq.Decoder(target.vocabulary_size(), **sizes), source, target)
    model.compile(keras_seq.training.Adam(LEARNING_RATE, global_clipnorm=CLIP))
    return lambda: model.fit(batches, verbose=0)


def yoyodyne_epoch(case):
    import lightning
    import torch
    from yoyodyne import data, models

    torch.set_num_threads(os.cpu_count())
    words = data.DataModule(
        model_dir=str(pathlib.Path(case.path).parent), train=case.path, target_sep=" ", batch_size=BATCH
    )
    encoder = models.modules.LSTMEncoder(dropout=DROPOUT, embedding_size=EMBEDDING, hidden_size=UNITS, layers=1)
    model = models.SoftAttentionLSTMModel(
        source_encoder=encoder,
        decoder_dropout=DROPOUT,
        decoder_hidden_size=UNITS,
        embedding_size=EMBEDDING,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=LEARNING_RATE),
        target_vocab_size=words.target_vocab_size,
        vocab_size=words.vocab_size,
    )
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)

    def run():
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, gradient_clip_val=CLIP, **quiet)
        trainer.fit(model, words.train_dataloader())

    return run


CONTENDERS = [Contender("keras_seq", keras_seq_epoch), Contender("yoyodyne", yoyodyne_epoch)]
LEGEND = (
    f"BiLSTM-{UNITS} encoder, attention, LSTM-{UNITS} decoder, embeddings of {EMBEDDING}, batch {BATCH}, "
    f"dropout {DROPOUT}; without validation. keras_seq: Seq2Seq.fit on buckets of similar length; yoyodyne: "
    "SoftAttentionLSTMModel with its own data module and Lightning's trainer."
)


def missing():
    """Returns a line on what is not installed, or None."""
    if importlib.util.find_spec("yoyodyne") is None:
        return "Words are skipped: Yoyodyne is not installed (pip install yoyodyne==0.5.27 torch==2.13.0)."
    return None
