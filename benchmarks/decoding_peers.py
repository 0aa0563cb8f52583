# SPDX-License-Identifier: Apache-2.0
"""Yoyodyne and g2p-en as contenders of the decoding benchmark. They run in the environment of `peers`."""

import csv
import os
import pathlib
import tempfile
import types
import weakref

import decoding_case
from decoding_case import END_ID, START_ID, UNKNOWN_ID


def yoyodyne(case):
    """`predict` of Yoyodyne's trainer, from a file with words to a file with pronunciations."""
    import torch
    from yoyodyne import callbacks, data, special, trainers

    case = case.share("yoyodyne")
    torch.set_num_threads(os.cpu_count())
    # Yoyodyne puts a start symbol before each source. Without it, it computes what the others do, and is a bit faster.
    data.mappers.Mapper.encode_source = lambda self, symbols: self._encode([*symbols, special.END])
    folder = tempfile.TemporaryDirectory()
    words, path = pathlib.Path(folder.name, "words.tsv"), pathlib.Path(folder.name, "outputs.tsv")
    words.write_text("".join(f"{word}\n" for word in case.words))
    index = _yoyodyne_index(case.folder)
    index.write(folder.name)
    module = data.DataModule(
        model_dir=folder.name,
        predict=str(words),
        target_col=0,
        target_sep=" ",
        tie_embeddings=False,
        batch_size=decoding_case.BATCH,
    )
    model = _yoyodyne_model(case, index)
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)

    def run():
        writer = callbacks.PredictionWriter(str(path), target_sep=" ")
        trainers.Trainer(accelerator="cpu", callbacks=[writer], **quiet).predict(model, datamodule=module)

    run()
    with path.open() as file:
        outputs = [row[0] if row else "" for row in csv.reader(file, delimiter="\t")]  # with beams, the best is first
    decoding_case.check_outputs(case, dict(zip(case.words, outputs, strict=True)))
    weakref.finalize(run, folder.cleanup)
    return run


def _yoyodyne_index(folder):
    from yoyodyne import data

    description = decoding_case.shared_model(folder)
    source, target = (description[side][4:] for side in ("source", "target"))  # without the special tokens
    return data.indexes.Index(
        source_vocabulary=[f"{{{letter}}}" for letter in source],  # as its parser writes those of sources
        target_vocabulary=target,
        tie_embeddings=False,
    )


def _yoyodyne_model(case, index):
    """Returns a model with the weights of the shared one."""
    import torch
    from decoding_torch import torch_weights
    from yoyodyne import models, special

    description, weights = decoding_case.shared_model(case.folder), decoding_case.load_weights(case.folder)
    units, embedding = description["units"], description["embedding"]
    encoder = models.modules.LSTMEncoder(embedding_size=embedding, hidden_size=units, layers=1)
    model = models.SoftAttentionLSTMModel(
        source_encoder=encoder,
        decoder_hidden_size=units,
        embedding_size=embedding,
        beam_width=case.beams,
        target_vocab_size=index.target_vocab_size,
        vocab_size=index.vocab_size,
    )
    ours = torch_weights(weights)
    source_embedding, target_embedding = (ours[f"{side}_embedding.weight"] for side in ("source", "target"))
    embeddings = torch.zeros(index.vocab_size, embedding)
    readout = torch.zeros(index.target_vocab_size, units)
    bias = torch.full([index.target_vocab_size], -1e9)  # for special tokens that the shared model does not have
    ids = {special.START_IDX: START_ID, special.END_IDX: END_ID}
    ids.update({index(token): i for i, token in enumerate(description["target"]) if i > END_ID})
    for its_id, our_id in ids.items():
        embeddings[its_id] = target_embedding[our_id]
        if our_id != START_ID:
            readout[its_id], bias[its_id] = ours["readout.weight"][our_id], ours["readout.bias"][our_id]
    for i, letter in enumerate(description["source"]):
        if i > END_ID:
            embeddings[index(f"{{{letter}}}")] = source_embedding[i]
    embeddings[special.UNK_IDX] = source_embedding[UNKNOWN_ID]
    embeddings[special.END_IDX] = source_embedding[END_ID]  # only sources contain it: targets begin with START
    model.load_state_dict(
        {
            "embeddings.weight": embeddings,
            **{name.replace("encoder.", "source_encoder.module."): ours[name] for name in ours if "encoder." in name},
            **{
                f"decoder.module.{name}_l0": ours[f"cell.{name}"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            },
            "decoder.h0": torch.tanh(ours["bridge_h.bias"]),
            "decoder.c0": torch.tanh(ours["bridge_c.bias"]),
            "decoder.attention.M.weight": torch.cat([ours["key.weight"], ours["query.weight"]], 1),
            "decoder.attention.M.bias": torch.zeros(units),
            "decoder.attention.V.weight": ours["score.weight"],
            "decoder.attention.V.bias": torch.zeros(1),
            "classifier.weight": readout,
            "classifier.bias": bias,
        }
    )
    return model


def g2p_en(case):
    """`G2p.predict` of g2p-en on NumPy, with the weights of its package, which has neither attention nor beams."""
    import nltk

    nltk.download = lambda *arguments: False  # not needed for words outside its dictionary
    from g2p_en import g2p

    g2p.cmudict = types.SimpleNamespace(dict=dict)  # an empty dictionary: all words are predicted
    model, words = g2p.G2p(), case.words
    return lambda: [model.predict(word) for word in words]
