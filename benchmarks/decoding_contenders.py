# SPDX-License-Identifier: Apache-2.0
"""The contenders of the decoding benchmark: the same words, decoded by the same model in several frameworks."""

import functools
import os
import pathlib
import sys

import decoding_case
import peers
from contest import Contender

FORBIDDEN = -1e4  # a logit


@functools.cache
def load_model(folder):
    import keras

    import keras_seq  # noqa: F401  registers the classes of the model

    return keras.saving.load_model(pathlib.Path(folder, decoding_case.shared_model(folder)["file"]), compile=False)


def keras_seq_generate(case):
    """`Seq2Seq.generate`, from strings to strings. One call for a batch, or for each word alone."""
    from decoding_model import generate

    model, words = load_model(case.folder), case.words
    if case.forced:
        bias = model.decoder.readout.bias
        bias.assign([FORBIDDEN if i == decoding_case.END_ID else value for i, value in enumerate(bias.numpy())])
        generate = functools.partial(generate, max_length=case.forced)
        lengths = {len(text.split()) for text in generate(model, words, case.beams)}
        if lengths != {case.forced}:
            raise ValueError(f"outputs must have {case.forced} tokens. Received: {sorted(lengths)}")
    if case.table == "word":
        return lambda: [generate(model, word, case.beams) for word in words]
    return lambda: generate(model, words, case.beams)


def saved_model(case):
    """The SavedModel that `Seq2Seq.export` writes, without keras_seq."""
    import tensorflow as tf

    model = tf.saved_model.load(f"{case.folder}/saved_model")
    function = model.signatures["serving_default" if case.beams == 1 else "generate_beam"]

    def run():
        texts = [function(inputs=tf.constant([word]))["text"].numpy() for word in case.words]
        return [text.flat[0].decode() for text in texts]  # of several hypotheses the best

    decoding_case.check_outputs(case, dict(zip(case.words, run(), strict=True)))
    if "keras_seq" in sys.modules:
        raise RuntimeError("keras_seq must not be imported in this process")
    return run


def torch_loop(case):
    import torch
    from decoding_torch import Seq2Seq

    torch.set_num_threads(os.cpu_count())
    model, words = Seq2Seq(case.folder), case.words
    decode = model.greedy if case.beams == 1 else functools.partial(model.beam, beams=case.beams)
    size = 1 if case.table == "word" else decoding_case.BATCH

    def run():
        return [text for i in range(0, len(words), size) for text in decode(words[i : i + size])]

    decoding_case.check_outputs(case, dict(zip(words, run(), strict=True)))
    return run


def is_in(*tables):
    return lambda case: case.table in tables


CONTENDERS = [
    Contender("keras_seq", keras_seq_generate, is_in("batch", "word", "mixed")),
    Contender("forced", keras_seq_generate, is_in("beams", "length")),  # its model is changed
    Contender("SavedModel", saved_model, is_in("word")),
    Contender("torch", torch_loop, is_in("batch", "word")),
]
PEERS = [
    Contender("yoyodyne", functools.partial(peers.start, "decoding_peers:yoyodyne"), is_in("batch")),
    Contender(
        "g2p-en",
        functools.partial(peers.start, "decoding_peers:g2p_en"),
        lambda case: case.table == "word" and case.beams == 1,
    ),
]
