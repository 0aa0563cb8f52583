# SPDX-License-Identifier: Apache-2.0
"""Unknown tokens of outputs, replaced by the source tokens that the model attends to."""

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import UNKNOWN, split_tokens
from keras_seq.models.feature_side import FeatureSide, without_features
from keras_seq.models.token_side import require


def text_sources(side):
    """Returns a side of sources that stay texts, for a side with a vectorizer."""
    source, features = without_features(side)
    return FeatureSide(_TextSide(source), features) if features else _TextSide(source)


class _TextSide:
    """Gives the sources of a search as texts, ordered by their lengths in tokens.

    Args:
        side: a `TokenSide` with a vectorizer.
    """

    def __init__(self, side):
        self.side = side
        self.name, self.label, self.vectorizer, self.window = side.name, side.label, side.vectorizer, side.window

    def source_rows(self, inputs, size, label="`inputs`"):
        """Yields the sources as `TextRows`, about `size` at a time."""
        texts = self.side.check_sources(inputs, label)
        for start in range(0, texts.shape[0], size):
            part = texts[start : start + size]
            yield TextRows(part.numpy(), self.side.rows(part, label).lengths)


class TextRows:
    """Texts with their numbers of tokens, as `TokenRows`.

    Args:
        texts: array of strings (sequences,).
        lengths: integers (sequences,).
    """

    def __init__(self, texts, lengths):
        self.texts = texts
        self.lengths = lengths

    @classmethod
    def concatenate(cls, parts):
        return cls(*(np.concatenate(values) for values in zip(*((p.texts, p.lengths) for p in parts), strict=True)))

    def __len__(self):
        return len(self.lengths)

    def padded(self, indices):
        return self.texts[indices]


def check_copy_unknown(model):
    """Raises a ValueError unless a `GenerativeModel` can copy source tokens to its output texts."""
    missing = None
    if not model.has_attention:
        missing = "attention"
    elif model.source_vectorizer is None:
        missing = "`source_vectorizer`"
    elif model.target_vectorizer is None:
        missing = "`target_vectorizer`"
    if missing is not None:
        raise ValueError(
            "`copy_unknown=True` needs a model with attention, `source_vectorizer` and `target_vectorizer`, because it "
            f"copies tokens of source texts to output texts. Received: a model without {missing}"
        )


def most_attended_tokens(vectorizer, texts, attention_weights):
    """Returns for each step the source token with the largest attention weight, `[UNK]` where that is `[END]`.

    Args:
        vectorizer: the layer that splits the texts.
        texts: strings (sources,); or a dict that has them as "source", beside features.
        attention_weights: (sources, ..., positions).

    Returns:
        Strings (sources, ...).
    """
    texts = tf.convert_to_tensor(texts["source"] if isinstance(texts, dict) else texts)
    if texts.dtype != tf.string:
        raise ValueError(f"`inputs` must be strings with `copy_unknown=True`. Received: dtype {texts.dtype.name}")
    tokens = split_tokens(vectorizer, texts)
    end = tf.fill([tf.shape(texts)[0], 1], UNKNOWN)
    tokens = tf.concat([tokens, end], axis=1).to_tensor(UNKNOWN)  # (sources, positions)
    sizes = tf.stack([tf.shape(attention_weights)[-1], tf.maximum(tf.shape(tokens)[1], 1)])
    message = "An encoder must return one position for each source token if `copy_unknown` is True."
    with tf.control_dependencies([require(sizes[0] == sizes[1], message, sizes)]):
        positions = tf.argmax(attention_weights, axis=-1, output_type=tf.int32)
    return tf.gather(tokens, positions, batch_dims=1)
