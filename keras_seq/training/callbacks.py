# SPDX-License-Identifier: Apache-2.0
"""Callbacks for `fit`."""

import numbers

import keras
import numpy as np

from keras_seq.data.vocabulary import END_ID, PAD_ID
from keras_seq.training.backup import BackupAndRestore
from keras_seq.training.data_parallel import from_chief, is_chief
from keras_seq.training.scores import (
    bleu,
    check_strings,
    chrf,
    error_rates,
    group_references,
    import_sacrebleu,
    tokenize_references,
)

_METRICS = {"error_rates": ("token_error_rate", "sequence_error_rate"), "bleu": ("bleu",), "chrf": ("chrf",)}


class DecodingReport(keras.callbacks.Callback):
    """Decodes held-out sources with `generate` after each epoch, reports error rates, BLEU or chrF and prints samples.

    It uses the sampler of `Seq2Seq.compile`. If that returns several outputs for each source, the best one counts.

    The callback adds `val_token_error_rate` and `val_sequence_error_rate`, in percent, to the logs of the epoch, and if
    `metrics` asks for them `val_bleu` and `val_chrf`, from 0 to 100. The progress bar shows them, the history keeps
    them and other callbacks can monitor them, for example `keras.callbacks.EarlyStopping("val_token_error_rate",
    mode="min")`. `Seq2Seq.fit` runs this callback before these, whatever its position in their list. With
    `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)` it decodes with the averaged weights.

    Args:
        sources: held-out sources: a list or array of strings, token ids or arrays, or a dict of these, as
            `Seq2Seq.generate` takes them.
        references: list with one entry per source: a target string, or a list of one or more targets. Targets of token
            ids are lists of integers, in which `[END]` and padding are ignored.
        samples: number of sources to print together with their outputs.
        separator: string between the tokens of a target, see `error_rates`; "" if each character is a token.
        metrics: which of "error_rates", "bleu" and "chrf" to report, see `error_rates`, `bleu` and `chrf`. The last two
            need sacreBLEU; chrF also needs strings.
        max_length: maximum number of tokens of an output, see `generate`. Pass it where targets are much longer than
            sources.

    Raises:
        ImportError: if `metrics` need sacreBLEU and it is not installed.
        ValueError: if `sources` and `references` differ in length, if `error_rates` does not take the references, or
            if `metrics` are others, or if `max_length` is no positive integer.
    """

    def __init__(self, sources, references, samples=3, separator=" ", metrics=("error_rates",), max_length=None):
        super().__init__()
        is_plain = isinstance(sources, (dict, np.ndarray)) or hasattr(sources, "shape")
        self.sources = sources if is_plain else list(sources)
        self.references = [
            [r if isinstance(r, str) else _without_end(r) for r in group] for group in group_references(references)
        ]
        self.samples = samples
        self.separator = separator
        self.max_length = _check_length(max_length)
        self.metrics = _check_metrics(metrics, self.references, separator)
        count = count_sources(self.sources)
        if count != len(self.references):
            raise ValueError(
                "`sources` and `references` must have the same length. "
                f"Received: {count} sources and {len(self.references)} references"
            )

    def on_epoch_end(self, epoch, logs=None):
        # The chief decodes, and all workers get its numbers: they must agree on when to stop.
        names = [f"val_{name}" for metric in self.metrics for name in _METRICS[metric]]
        values = self._measure() if is_chief() else [0.0] * len(names)
        logs.update(zip(names, from_chief(np.array(values, "float64")).tolist(), strict=True))

    def _measure(self):
        """Decodes the sources. Returns the values of all metrics, and prints samples."""
        outputs = self.model.generate(self.sources, self.max_length, verbose=0)
        if isinstance(outputs, list):
            outputs = [output if isinstance(output, str) else output[0] for output in outputs]  # of several the best
        else:  # token ids: the model has no target vectorizer
            outputs = [_without_end(row) for row in (outputs[:, 0] if outputs.ndim == 3 else outputs).tolist()]
        functions = {
            "error_rates": lambda: [*error_rates(outputs, self.references, self.separator)],
            "bleu": lambda: [bleu(outputs, self.references)],
            "chrf": lambda: [chrf(outputs, self.references)],
        }
        if self.samples:
            samples = zip(self._sample_names(), outputs[: self.samples], strict=False)
            print("\n" + "\n".join(f"  {source} → {output}" for source, output in samples))
        return [value for metric in self.metrics for value in functions[metric]()]

    def _sample_names(self):
        """Returns what is printed of the first sources: themselves, or their numbers if they are arrays."""
        sources = self.sources if isinstance(self.sources, dict) else self.sources[: self.samples]
        if isinstance(sources, dict) or np.ndim(sources[0]) > 1:
            return [f"source {i}" for i in range(self.samples)]
        return sources


def _check_length(max_length):
    is_integer = isinstance(max_length, numbers.Integral) and not isinstance(max_length, bool)
    if max_length is not None and not (is_integer and max_length > 0):  # raised here instead of after the first epoch
        raise ValueError(f"`max_length` must be a positive integer or None. Received: {max_length!r}")
    return max_length


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


def order_callbacks(callbacks, steps_per_epoch=None):
    """Returns the callbacks of a `fit` in the order that they need. The `fit` of the models of keras_seq calls this.

    `keras.callbacks.SwapEMAWeights` comes first, so that others see the averaged weights that it puts into the model.
    Then comes each `DecodingReport`, so that others can monitor what it adds to the logs. `BackupAndRestore` comes last
    and learns of the others, whose states it backs up. To use it with another model, pass what this function returns to
    `keras.Model.fit`.

    Args:
        callbacks: list of callbacks, `keras.callbacks.CallbackList`, whose list is ordered in place, or None.
        steps_per_epoch: that of `fit`.

    Returns:
        A list of callbacks, or `callbacks` if that is a `keras.callbacks.CallbackList` or None.

    Raises:
        ValueError: if there are a `BackupAndRestore` and `steps_per_epoch`.

    Example:
        >>> from keras_seq.training import BackupAndRestore
        >>> stopping = keras.callbacks.EarlyStopping("val_token_error_rate", mode="min")
        >>> report = DecodingReport(["cat"], ["K AE T"])
        >>> callbacks = order_callbacks([BackupAndRestore("backup"), stopping, report])
        >>> [type(callback).__name__ for callback in callbacks]
        ['DecodingReport', 'EarlyStopping', 'History', 'BackupAndRestore']
    """
    if callbacks is None:
        return None
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    ordered = callbacks.callbacks if is_list else keras.tree.flatten(callbacks)
    backups = [callback for callback in ordered if isinstance(callback, BackupAndRestore)]
    if backups and steps_per_epoch:
        raise ValueError(
            "`steps_per_epoch` must be None with a `BackupAndRestore`: it restarts a training at the beginning of an "
            "epoch, and with `steps_per_epoch` an epoch begins wherever the last one ended in the data. "
            f"Received: {steps_per_epoch}"
        )
    if backups and not any(isinstance(callback, keras.callbacks.History) for callback in ordered):
        ordered.append(keras.callbacks.History())  # which Keras would add after the backup
    ordered.sort(key=_rank)
    for backup in backups:
        backup.set_callbacks(callback for callback in ordered if callback not in backups)
    return callbacks if is_list else ordered


def _rank(callback):
    """Returns the place of a callback among those of other classes."""
    kinds = (keras.callbacks.SwapEMAWeights, DecodingReport)
    ranks = [rank for rank, kind in enumerate(kinds) if isinstance(callback, kind)]
    return ranks[0] if ranks else len(kinds) + isinstance(callback, BackupAndRestore)


def _without_end(tokens):
    """Returns a list of tokens without the ids of `[END]` and padding."""
    return [token for token in tokens if isinstance(token, str) or token not in (END_ID, PAD_ID)]
