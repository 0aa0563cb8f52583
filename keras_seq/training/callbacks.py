# SPDX-License-Identifier: Apache-2.0
"""Callbacks for `fit`."""

import keras

from keras_seq.data.vocabulary import END_ID, PAD_ID
from keras_seq.training.scores import error_rates, reference_groups, tokenized_references


class DecodingReport(keras.callbacks.Callback):
    """After each epoch, decode held-out sources as the finished model will be used, score and show them.

    Adds `val_token_error_rate` and `val_sequence_error_rate`, in percent, to the epoch's logs, so that the progress
    bar shows them, the history keeps them, and other callbacks can watch them:
    `keras.callbacks.EarlyStopping("val_token_error_rate", mode="min")`. `Seq2Seq.fit` runs it before the other
    callbacks, wherever it is in their list.

    Args:
        sources: held-out sources, strings or token ids, as `Seq2Seq.generate` takes them.
        references: for each of them a target string, or a list of one or more targets. Targets of token ids are lists
            of integers; `[END]` and padding in them do not count.
        samples: how many of the sources to print with what the model makes of them.
        separator: between the tokens of the targets, as of `error_rates`; "" where each character is a token.

    Raises:
        ValueError: if sources and references differ in number, and for references that `error_rates` does not take.
    """

    def __init__(self, sources, references, samples=3, separator=" "):
        super().__init__()
        self.sources = list(sources)
        self.references = [
            [r if isinstance(r, str) else _without_end(r) for r in group] for group in reference_groups(references)
        ]
        self.samples = samples
        self.separator = separator
        tokenized_references(self.references, separator)  # raises for what could not be scored after an epoch
        if len(self.sources) != len(self.references):
            raise ValueError(
                "`sources` and `references` must be of one length. "
                f"Received: {len(self.sources)} sources and {len(self.references)} references"
            )

    def on_epoch_end(self, epoch, logs=None):
        outputs = self.model.generate(self.sources)
        if not isinstance(outputs, list):  # of a model without a target vectorizer
            outputs = [_without_end(row) for row in outputs.tolist()]
        rates = error_rates(outputs, self.references, self.separator)
        logs["val_token_error_rate"], logs["val_sequence_error_rate"] = rates
        if self.samples:
            shown = zip(self.sources[: self.samples], outputs[: self.samples], strict=True)
            print("\n" + "\n".join(f"  {source} → {output}" for source, output in shown))


def reports_first(callbacks):
    """The callbacks of a `fit` with each `DecodingReport` before the others, which may watch what it adds to the logs.

    Keras calls them in this order. A `keras.callbacks.CallbackList` stays as it is.
    """
    if callbacks is None or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return sorted(keras.tree.flatten(callbacks), key=lambda callback: not isinstance(callback, DecodingReport))


def _without_end(tokens):
    """A sequence of token ids without `[END]` and padding; any other sequence of tokens as it is."""
    return [token for token in tokens if isinstance(token, str) or token not in (END_ID, PAD_ID)]
