# SPDX-License-Identifier: Apache-2.0
"""Samples for TensorBoard: `pip install 'keras_seq[tensorboard]'`."""

import html
import importlib
import io
import pathlib
import re

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END, END_ID, PAD_ID, split_tokens
from keras_seq.plots import plot_attention
from keras_seq.training.callbacks import count_sources
from keras_seq.training.data_parallel import is_chief

_MAX_TOKENS = 60  # of a source or an output in a heat map, so that it fits a screen
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!>|])")


class TensorBoardSamples(keras.callbacks.Callback):
    """Writes outputs of held-out sources and their attention weights for TensorBoard, beside its curves.

    After each `every`-th epoch the callback decodes the sources with `generate` and the sampler of `compile`. It writes
    a table `samples` of sources, outputs and references, and, if the model has attention, a heat map `attention/1`,
    `attention/2`, ... for each source, whose rows are the output tokens and whose columns are the source tokens. Of
    long sequences the first 60 tokens are drawn. Their step is the epoch, counted from 0, as in
    `keras.callbacks.TensorBoard`, whose `log_dir` may be the same.

    Args:
        log_dir: folder of the logs. The files are in its subfolder `samples`.
        sources: a few sources: a list or array of strings, token ids or arrays, or a dict of these, as
            `Seq2Seq.generate` takes them.
        references: list with one target string per source, shown beside the outputs, or None.
        every: number of epochs from one report to the next.

    Raises:
        ImportError: if TensorBoard or matplotlib is not installed.
        ValueError: if `every` is not a positive integer, or if `sources` and `references` differ in length.

    Example:
        >>> callback = TensorBoardSamples("logs", ["cat", "dog"], ["K AE T", "D AO G"], every=5)
        >>> callbacks = [keras.callbacks.TensorBoard("logs"), callback]  # for `fit`
    """

    def __init__(self, log_dir, sources, references=None, every=1):
        super().__init__()
        _check_packages()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be a positive integer. Received: {every!r}")
        count = count_sources(sources)
        if references is not None and len(references) != count:
            raise ValueError(
                "`sources` and `references` must have the same length. "
                f"Received: {count} sources and {len(references)} references"
            )
        self.log_dir = str(pathlib.Path(log_dir) / "samples")
        self.sources = sources
        self.references = references
        self.every = every
        self._writer = None

    def on_train_begin(self, logs=None):
        if is_chief():
            self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every or not is_chief():
            return
        results = self.model.generate(self.sources, return_dict=True, verbose=0)
        if results["token_ids"].ndim == 3:  # several outputs for each source, the best first
            results = {name: value[:, 0] for name, value in results.items()}
        targets = [_target_tokens(ids, self.model.target_vectorizer) for ids in results["token_ids"]]
        outputs = results.get("text", [" ".join(tokens) for tokens in targets])
        with self._writer.as_default(step=epoch):
            tf.summary.text("samples", self._table(outputs))
            if results.get("attention_weights", np.empty(0)).shape[-1]:  # there is attention
                self._write_heat_maps(results["attention_weights"], targets)
        self._writer.flush()

    def _table(self, outputs):
        """Returns the cells of the table of samples, as Markdown: an array (samples + 1, columns)."""
        columns = {"source": self._source_names(len(outputs)), "output": outputs}
        if self.references is not None:
            columns["reference"] = list(map(_to_text, self.references))
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        return np.array([[_to_markdown(str(cell)) for cell in row] for row in rows])

    def _source_names(self, count):
        """Returns what the table shows of the sources: texts, token ids, or the numbers of sources that are neither."""
        sources = self._sequences()
        if sources is None:
            return [f"source {i + 1}" for i in range(count)]
        return [source if isinstance(source, str) else " ".join(map(str, source)) for source in sources]

    def _sequences(self):
        """Returns the sources as a list of strings and lists of token ids, or None if they are something else."""
        sources = self.sources.get("source") if isinstance(self.sources, dict) else self.sources
        if sources is None or np.ndim(sources[0]) > 1:
            return None
        return [keras.ops.convert_to_numpy(s).tolist() if np.ndim(s) else _to_text(s) for s in sources]

    def _write_heat_maps(self, weights, targets):
        sources = self._source_tokens(weights)
        for i, (panel, source, target) in enumerate(zip(weights, sources, targets, strict=True)):
            figure = plot_attention([panel], [source[:_MAX_TOKENS]], [target[:_MAX_TOKENS]])
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=100)
            tf.summary.image(f"attention/{i + 1}", tf.io.decode_png(file.getvalue(), channels=3)[None])

    def _source_tokens(self, weights):
        """Returns labels for the columns of the weights (batch, time, source) of each source."""
        sources, vectorizer = self._sequences(), self.model.source_vectorizer
        if sources is not None:
            if vectorizer is None:
                tokens = [list(map(str, ids)) for ids in sources]
            else:
                tokens = split_tokens(vectorizer, tf.constant(sources, tf.string)).to_list()
                tokens = [[_printable(token.decode(errors="replace")) for token in row] + [END] for row in tokens]
            if max(map(len, tokens)) == weights.shape[2]:
                return tokens
        # The positions of an encoder's memory need not be tokens.
        return [[str(n + 1) for n in range(np.max(np.nonzero(panel.any(0))[0], initial=0) + 1)] for panel in weights]


def _check_packages():
    """Raises an ImportError if one of the packages is missing that `tf.summary` and `plots` import when used."""
    try:
        for package in ("tensorboard", "matplotlib"):
            importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            "TensorBoardSamples needs TensorBoard and matplotlib: pip install 'keras_seq[tensorboard]'"
        ) from error


def _to_text(source):
    source = source.numpy() if isinstance(source, tf.Tensor) else source
    return source.decode(errors="replace") if isinstance(source, bytes) else str(source)


def _target_tokens(ids, vectorizer):
    """Returns the tokens of an output as strings, with `[END]` and without padding."""
    ids = ids[: np.argmax(ids == END_ID) + 1] if END_ID in ids else ids[ids != PAD_ID]
    if vectorizer is None:
        return list(map(str, ids))
    vocabulary = vectorizer.get_vocabulary()
    return [_printable(str(vocabulary[i])) if i < len(vocabulary) else str(i) for i in ids]


def _printable(token):
    """Returns a token without line breaks and other characters that have no glyph."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)


def _to_markdown(text):
    """Returns Markdown that shows a text as it is."""
    return _MARKDOWN.sub(r"\\\1", html.escape(text, quote=False))
