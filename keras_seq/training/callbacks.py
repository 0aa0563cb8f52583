# SPDX-License-Identifier: Apache-2.0
"""Callbacks for `fit`."""

import keras

from keras_seq.training.scores import error_rates


class DecodingReport(keras.callbacks.Callback):
    """After each epoch, decode held-out sources as the finished model will be used, score and show them.

    Adds `val_token_error_rate` and `val_sequence_error_rate`, in percent, to the epoch's logs, so that the progress
    bar shows them, the history keeps them, and other callbacks can watch them.

    Args:
        sources: held-out source strings.
        references: for each of them a list of target strings.
        samples: how many of the sources to print with what the model makes of them.
        separator: between the tokens of the targets; "" where each character is a token.
    """

    def __init__(self, sources, references, samples=3, separator=" "):
        super().__init__()
        self.sources = list(sources)
        self.references = [list(group) for group in references]
        self.samples = samples
        self.separator = separator

    def on_epoch_end(self, epoch, logs=None):
        outputs = self.model.generate(self.sources)
        rates = error_rates(
            [self._spaced(output) for output in outputs],
            [[self._spaced(reference) for reference in group] for group in self.references],
        )
        logs["val_token_error_rate"], logs["val_sequence_error_rate"] = rates
        shown = zip(self.sources[: self.samples], outputs[: self.samples], strict=True)
        print("\n" + "\n".join(f"  {source} → {output}" for source, output in shown))

    def _spaced(self, text):
        return text if self.separator else " ".join(text)
