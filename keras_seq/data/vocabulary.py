# SPDX-License-Identifier: Apache-2.0
"""From texts to token ids and back."""

import keras

from keras_seq._lazy_tensorflow import tf

PAD_ID = 0
UNKNOWN_ID = 1
START_ID = 2
END_ID = 3
START = "[START]"
END = "[END]"

_SPECIAL_TOKENS = ["", "[UNK]", START, END]  # a token's place here is its id
_SEPARATORS = {"character": "", "whitespace": " "}
_ADAPT_BATCH = 8192  # texts counted at once


def text_vectorizer(texts, split="character", max_tokens=None, standardize=None):
    """Builds a `keras.layers.TextVectorization` whose vocabulary is that of `texts`.

    The vocabulary is `["", "[UNK]", "[START]", "[END]", ...]`, then the tokens from the most to
    the least frequent, equally frequent ones in descending order of their bytes. So padding is
    `PAD_ID`, a token outside the vocabulary `UNKNOWN_ID`, and the layer never produces `START_ID`
    or `END_ID` from texts such as those given: they are for the model to add. For any other text
    use `text_to_ids`, as `Seq2Seq` does.

    Args:
        texts: the texts to take the vocabulary from: an iterable of strings, or a
            `tf.data.Dataset` of strings, batched or not.
        split: `"character"`, `"whitespace"`, or whatever else `TextVectorization` takes.
        max_tokens: the most tokens that the vocabulary may hold, the four special ones included;
            `None` for no limit.
        standardize: as in `TextVectorization`, but by default texts are taken as they are.

    Returns:
        The layer. It maps strings (batch,) to a ragged int64 tensor (batch, None) of token ids.

    Raises:
        ValueError: `texts` holds no token, something that is not a string, or one of the tokens
            `[START]`, `[END]` and NUL; or `max_tokens` leaves no room for a token. (The token
            `[UNK]` is welcome: it means what it says.)

    Example:

    >>> vectorizer = text_vectorizer(["K AE T", "T UW"], split="whitespace")
    >>> " ".join(vectorizer.get_vocabulary()[4:])
    'T UW K AE'
    >>> vectorizer(["T UW K", "OW"]).to_list()
    [[4, 5, 6], [1]]
    """
    if max_tokens is not None and max_tokens <= len(_SPECIAL_TOKENS):
        raise ValueError(
            f"max_tokens must be None or more than the {len(_SPECIAL_TOKENS)} special tokens, got {max_tokens!r}"
        )
    options = {"standardize": standardize, "split": split, "output_mode": "int", "ragged": True}
    counter = keras.layers.TextVectorization(**options)
    counter.adapt(_batches(texts))
    # Keras returns numpy strings, which a layer's config must not hold.
    tokens = [str(token) for token in counter.get_vocabulary(include_special_tokens=False)]
    _check_tokens(tokens)
    if max_tokens is not None:
        tokens = tokens[: max_tokens - len(_SPECIAL_TOKENS)]
    # A second layer, because a given vocabulary is saved in the config, a learned one in a text
    # file of a line a token, where a token that is itself a line break is lost.
    return keras.layers.TextVectorization(vocabulary=[START, END, *tokens], **options)


def _batches(texts):
    """A dataset of batches of strings, whatever `texts` came as."""
    if isinstance(texts, tf.data.Dataset):
        spec = texts.element_spec
        if not isinstance(spec, tf.TensorSpec) or spec.dtype != tf.string:
            raise ValueError(f"texts must be a dataset of strings, got elements {spec}")
        return texts.batch(_ADAPT_BATCH) if spec.shape.rank == 0 else texts
    if isinstance(texts, str | bytes):
        raise ValueError(f"texts must be many strings, got a single one: {texts!r}")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str | bytes):
            raise ValueError(f"texts must hold strings, got {text!r}")
    return tf.data.Dataset.from_tensor_slices(tf.constant(texts, tf.string)).batch(_ADAPT_BATCH)


def _check_tokens(tokens):
    if not tokens:
        raise ValueError("texts must hold at least one token, got none")
    for token in (START, END):
        if token in tokens:
            raise ValueError(f"texts must not hold the special token {token!r}")
    if "" in tokens:  # what numpy, inside Keras, makes of a NUL
        raise ValueError("texts must not hold the NUL character")


def text_to_ids(vectorizer, texts):
    """Token ids of texts, in which no text can forge a special token.

    By itself a vectorizer that splits at whitespace maps the token `[END]` of a text to `END_ID`.
    Here `[START]`, `[END]` and empty tokens are unknown, as any other token outside the vocabulary.

    Args:
        vectorizer: a layer from `text_vectorizer`.
        texts: a string tensor (batch,).

    Returns:
        A ragged int64 tensor (batch, None).

    Example:

    >>> vectorizer = text_vectorizer(["K AE T"], split="whitespace")
    >>> text_to_ids(vectorizer, tf.constant(["K [END] T"])).to_list()
    [[5, 1, 4]]
    """
    ids = vectorizer(texts)
    return tf.ragged.map_flat_values(
        lambda flat: tf.where(flat < len(_SPECIAL_TOKENS), tf.cast(UNKNOWN_ID, flat.dtype), flat), ids
    )


def detokenizer(vectorizer, separator=None):
    """Builds the `Detokenizer` that undoes a `text_vectorizer`.

    For texts whose tokens are all in the vocabulary (and which hold no blanks but single spaces
    between the tokens when they are split at whitespace), it gives back the text.

    Args:
        vectorizer: a layer from `text_vectorizer`.
        separator: the string between two tokens. The default follows from how `vectorizer`
            splits: nothing for `"character"`, a space for `"whitespace"`.

    Returns:
        The layer.

    Raises:
        ValueError: `vectorizer` splits in another way and `separator` is not given, or its
            vocabulary does not begin with the four special tokens.

    Example:

    >>> vectorizer = text_vectorizer(["cat", "dog"])
    >>> detokenizer(vectorizer)(vectorizer(["cat", "goat"])).numpy()
    array([b'cat', b'goat'], dtype=object)
    """
    if separator is None:
        split = vectorizer.get_config()["split"]
        # Not `split in _SEPARATORS`: a callable need not be hashable.
        if not isinstance(split, str):
            raise ValueError(f"separator must be given for a vectorizer with split={split!r}")
        separator = _SEPARATORS[split]
    return Detokenizer(vectorizer.get_vocabulary(), separator)


@keras.saving.register_keras_serializable("keras_seq")
class Detokenizer(keras.layers.Layer):
    """Joins token ids to strings, up to the first `[END]`.

    Padding and `[START]` are left out wherever they are, the first `[END]` with all that follows
    it. Unknown ids, and ids outside the vocabulary, become `[UNK]`. The layer consists of
    TensorFlow operations only, so it also works in `tf.function` and in a SavedModel.

    Args:
        vocabulary: the tokens in the order of their ids, beginning with `""`, `"[UNK]"`,
            `"[START]"`, `"[END]"`.
        separator: the string between two tokens.

    Input: an integer tensor (..., time), or a ragged one (batch, None).
    Output: a string tensor (...), (batch,) in the usual case.

    Raises:
        ValueError: `vocabulary` does not begin so, or the inputs are not integers.

    Example:

    >>> import numpy as np
    >>> layer = Detokenizer(["", "[UNK]", "[START]", "[END]", "K", "AE", "T"], separator=" ")
    >>> layer(np.array([[4, 5, 6, 3, 6], [6, 5, 3, 0, 0]])).numpy()
    array([b'K AE T', b'T AE'], dtype=object)
    """

    def __init__(self, vocabulary, separator="", **kwargs):
        super().__init__(**kwargs)
        vocabulary = [str(token) for token in vocabulary]
        if vocabulary[: len(_SPECIAL_TOKENS)] != _SPECIAL_TOKENS:
            raise ValueError(f"vocabulary must begin with {_SPECIAL_TOKENS}, got {vocabulary[: len(_SPECIAL_TOKENS)]}")
        self.vocabulary = vocabulary
        self.separator = separator
        self.lookup = keras.layers.StringLookup(vocabulary=vocabulary, mask_token="", invert=True)

    def build(self, input_shape):
        self.lookup.build(input_shape)

    def call(self, inputs):
        ids = inputs.to_tensor(PAD_ID) if isinstance(inputs, tf.RaggedTensor) else inputs
        if not ids.dtype.is_integer:
            raise ValueError(f"inputs must be integer token ids, got dtype {ids.dtype.name}")
        ended = tf.cumsum(tf.cast(ids == END_ID, tf.int32), axis=-1) > 0  # (..., time)
        kept = ~ended & (ids != PAD_ID) & (ids != START_ID)  # (..., time)
        follows = tf.cumsum(tf.cast(kept, tf.int32), axis=-1) > 1  # (..., time)
        tokens = self.lookup(ids)  # (..., time)
        tokens = tf.where(follows, self.separator + tokens, tokens)
        return tf.strings.reduce_join(tf.where(kept, tokens, ""), axis=-1)  # (...)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape[:-1], dtype="string")

    def get_config(self):
        config = {"vocabulary": list(self.vocabulary), "separator": self.separator}
        return {**super().get_config(), **config}
