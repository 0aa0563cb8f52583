# SPDX-License-Identifier: Apache-2.0
"""Callbacks for `fit`."""

import keras
import numpy as np

from keras_seq.data.vocabulary import END_ID, PAD_ID
from keras_seq.training.scores import error_rates, group_references, tokenize_references


class DecodingReport(keras.callbacks.Callback):
    """Decodes held-out sources with `generate` after each epoch, reports error rates and prints samples.

    It uses the sampler of `Seq2Seq.compile`. If that returns several outputs for each source, the best one counts.

    The callback adds `val_token_error_rate` and `val_sequence_error_rate`, in percent, to the logs of the epoch. The
    progress bar shows them, the history keeps them and other callbacks can monitor them, for example
    `keras.callbacks.EarlyStopping("val_token_error_rate", mode="min")`. `Seq2Seq.fit` runs this callback before all
    others, whatever its position in their list.

    Args:
        sources: held-out sources: a list or array of strings, token ids or arrays, or a dict of arrays, as
            `Seq2Seq.generate` takes them.
        references: list with one entry per source: a target string, or a list of one or more targets. Targets of token
            ids are lists of integers, in which `[END]` and padding are ignored.
        samples: number of sources to print together with their outputs.
        separator: string between the tokens of a target, see `error_rates`; "" if each character is a token.

    Raises:
        ValueError: if `sources` and `references` differ in length, or if `error_rates` does not take the references.
    """

    def __init__(self, sources, references, samples=3, separator=" "):
        super().__init__()
        is_plain = isinstance(sources, (dict, np.ndarray)) or hasattr(sources, "shape")
        self.sources = sources if is_plain else list(sources)
        self.references = [
            [r if isinstance(r, str) else _without_end(r) for r in group] for group in group_references(references)
        ]
        self.samples = samples
        self.separator = separator
        tokenize_references(self.references, separator)  # raises here instead of after the first epoch
        count = _count(self.sources)
        if count != len(self.references):
            raise ValueError(
                "`sources` and `references` must have the same length. "
                f"Received: {count} sources and {len(self.references)} references"
            )

    def on_epoch_end(self, epoch, logs=None):
        outputs = self.model.generate(self.sources, verbose=0)
        if isinstance(outputs, list):
            outputs = [output if isinstance(output, str) else output[0] for output in outputs]  # of several the best
        else:  # token ids: the model has no target vectorizer
            outputs = [_without_end(row) for row in (outputs[:, 0] if outputs.ndim == 3 else outputs).tolist()]
        rates = error_rates(outputs, self.references, self.separator)
        logs["val_token_error_rate"], logs["val_sequence_error_rate"] = rates
        if self.samples:
            samples = zip(self._sample_names(), outputs[: self.samples], strict=False)
            print("\n" + "\n".join(f"  {source} → {output}" for source, output in samples))

    def _sample_names(self):
        """Returns what is printed of the first sources: themselves, or their numbers if they are arrays."""
        sources = self.sources if isinstance(self.sources, dict) else self.sources[: self.samples]
        if isinstance(sources, dict) or np.ndim(sources[0]) > 1:
            return [f"source {i}" for i in range(self.samples)]
        return sources


def _count(sources):
    while isinstance(sources, dict):
        sources = next(iter(sources.values()))
    return len(sources)


def order_callbacks(callbacks):
    """Returns the callbacks with each `DecodingReport` first, so that the others can monitor what it adds to the logs.

    Keras calls them in this order. A `keras.callbacks.CallbackList` is returned unchanged.
    """
    if callbacks is None or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return sorted(keras.tree.flatten(callbacks), key=lambda callback: not isinstance(callback, DecodingReport))


def _without_end(tokens):
    """Returns a list of tokens without the ids of `[END]` and padding."""
    return [token for token in tokens if isinstance(token, str) or token not in (END_ID, PAD_ID)]
