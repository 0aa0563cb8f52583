# SPDX-License-Identifier: Apache-2.0
"""Prepares the decoding benchmark: a model, its weights for the other contenders, and what it makes of the test words.

The model learns CMUdict for one short epoch, so that outputs have realistic lengths. Its decoder begins with the same
learned state for all words, as that of Yoyodyne, which can then run with the same weights.
"""

import json
import pathlib

from decoding_case import BATCH, spread

PATHS = {  # names in weights.npz, and the paths of the layers
    "source_embedding": "encoder.embedding",
    "forward": "encoder.recurrent_layers.0.forward_layer.cell",
    "backward": "encoder.recurrent_layers.0.backward_layer.cell",
    "target_embedding": "decoder.embedding",
    "attention": "decoder.recurrent_layer.attention",
    "cell": "decoder.recurrent_layer.cell",
    "bridge_h": "decoder.bridges.0",
    "bridge_c": "decoder.bridges.1",
    "readout": "decoder.readout",
}


def prepare(folder, sizes, train_pairs, test_words, beam_widths):
    """Writes everything that the contenders read to a folder. A model that is there already is used again.

    Args:
        folder: the folder.
        sizes: dict with "embedding_dim" and "units".
        train_pairs: number of pairs to learn from.
        test_words: number of test words to choose from.
        beam_widths: the numbers of beams for which outputs are written.
    """
    import keras

    import keras_seq

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = keras_seq.data.load_cmudict()
    path = folder / f"model-{sizes['units']}-{train_pairs}.keras"
    if not path.exists():
        train([spread(column, train_pairs) for column in splits["train"]], sizes).save(path)
    model = keras.saving.load_model(path, compile=False)
    words = choose_words(splits["test"][0], test_words)
    write_weights(model, folder / "weights.npz")
    model.export(folder / "saved_model")  # again in each run, because it depends on the code
    every_word = list(dict.fromkeys(words["any"] + words["nine letters"]))
    description = {
        "file": path.name,
        "source": list(map(str, model.source_vectorizer.get_vocabulary())),
        "target": list(map(str, model.target_vectorizer.get_vocabulary())),
        "units": sizes["units"],
        "embedding": sizes["embedding_dim"],
        "words": words,
        "outputs": {
            beams: dict(zip(every_word, generate(model, every_word, beams), strict=True)) for beams in beam_widths
        },
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")


def train(pairs, sizes):
    import keras

    import keras_seq

    keras.utils.set_random_seed(0)
    batches = keras_seq.data.bucket_by_length(*pairs, 128, seed=0)
    source, target = keras_seq.data.text_vectorizer(pairs[0]), keras_seq.data.text_vectorizer(pairs[1], "whitespace")
    encoder = keras_seq.Encoder(source.vocabulary_size(), **sizes)
    decoder = keras_seq.Decoder(target.vocabulary_size(), **sizes)
    model = keras_seq.Seq2Seq(encoder, decoder, source, target)
    for bridge in decoder.bridges:
        bridge.kernel.assign(0 * bridge.kernel)  # leaves the bias, a state that all words share
        bridge.kernel.trainable = False
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, len(batches), alpha=0.01)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    model.fit(batches, verbose=0)
    return model


def choose_words(words, count):
    """Returns a dict of lists: words of any length, of nine letters, and short ones."""
    words = list(dict.fromkeys(words))
    return {
        "any": spread(words, count),
        "nine letters": spread([word for word in words if len(word) == 9], count),
        "short": spread([word for word in words if len(word) <= 10], 255),
    }


def write_weights(model, path):
    import numpy as np

    arrays = {}
    for name, layer_path in PATHS.items():
        layer = model
        for part in layer_path.split("."):
            layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
        arrays.update({f"{name}.{weight.name}": weight.numpy() for weight in layer.weights})
    np.savez(path, **arrays)


def generate(model, words, beams, **options):
    """Calls `Seq2Seq.generate` for greedy search (one beam) or beam search."""
    import keras_seq

    if beams > 1:
        options["sampler"] = keras_seq.decoding.BeamSampler(beams)
    return model.generate(words, batch_size=BATCH, verbose=0, **options)
