# SPDX-License-Identifier: Apache-2.0
"""Callbacks for `fit`."""

import keras
import numpy as np

from keras_seq.data.vocabulary import END_ID, PAD_ID
from keras_seq.training.scores import (
    bleu,
    check_strings,
    chrf,
    error_rates,
    group_references,
    import_sacrebleu,
    tokenize_references,
)

_METRICS = ("error_rates", "bleu", "chrf")


class DecodingReport(keras.callbacks.Callback):
    """Decodes held-out sources with `generate` after each epoch, reports error rates, BLEU or chrF and prints samples.

    It uses the sampler of `Seq2Seq.compile`. If that returns several outputs for each source, the best one counts.

    The callback adds `val_token_error_rate` and `val_sequence_error_rate`, in percent, to the logs of the epoch, and if
    `metrics` asks for them `val_bleu` and `val_chrf`, from 0 to 100. The
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
        metrics: which of "error_rates", "bleu" and "chrf" to report, see `error_rates`, `bleu` and `chrf`. The last two
            need sacreBLEU; chrF also needs strings.

    Raises:
        ImportError: if `metrics` need sacreBLEU and it is not installed.
        ValueError: if `sources` and `references` differ in length, if `error_rates` does not take the references, or
            if `metrics` are others.
    """

    def __init__(self, sources, references, samples=3, separator=" ", metrics=("error_rates",)):
        super().__init__()
        is_plain = isinstance(sources, (dict, np.ndarray)) or hasattr(sources, "shape")
        self.sources = sources if is_plain else list(sources)
        self.references = [
            [r if isinstance(r, str) else _without_end(r) for r in group] for group in group_references(references)
        ]
        self.samples = samples
        self.separator = separator
        self.metrics = _check_metrics(metrics, self.references, separator)
        count = count_sources(self.sources)
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
        if "error_rates" in self.metrics:
            rates = error_rates(outputs, self.references, self.separator)
            logs["val_token_error_rate"], logs["val_sequence_error_rate"] = rates
        if "bleu" in self.metrics:
            logs["val_bleu"] = bleu(outputs, self.references)
        if "chrf" in self.metrics:
            logs["val_chrf"] = chrf(outputs, self.references)
        if self.samples:
            samples = zip(self._sample_names(), outputs[: self.samples], strict=False)
            print("\n" + "\n".join(f"  {source} → {output}" for source, output in samples))

    def _sample_names(self):
        """Returns what is printed of the first sources: themselves, or their numbers if they are arrays."""
        sources = self.sources if isinstance(self.sources, dict) else self.sources[: self.samples]
        if isinstance(sources, dict) or np.ndim(sources[0]) > 1:
            return [f"source {i}" for i in range(self.samples)]
        return sources


def _check_metrics(metrics, references, separator):
    """Returns the names of metrics, and raises here instead of after the first epoch what they would raise."""
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not set(metrics) <= set(_METRICS):
        raise ValueError(f"`metrics` must be some of {', '.join(map(repr, _METRICS))}. Received: {metrics}")
    tokenize_references(references, separator)
    if "chrf" in metrics:
        check_strings("references", [reference for group in references for reference in group])
    if {"bleu", "chrf"} & set(metrics):
        import_sacrebleu()
    return metrics


def count_sources(sources):
    """Returns the number of sources, which may be a dict of arrays."""
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
