# SPDX-License-Identifier: Apache-2.0
"""Conversion between texts and token ids."""

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import split_texts
from keras_seq.data.graphemes import split_graphemes
from keras_seq.data.subword_splitter import WORD_START, SubwordSplitter

PAD_ID = 0
UNKNOWN_ID = 1
START_ID = 2
END_ID = 3
FORBIDDEN_IDS = (PAD_ID, START_ID)  # never generated
UNKNOWN = "[UNK]"
START = "[START]"
END = "[END]"

SPECIAL_TOKENS = ["", UNKNOWN, START, END]  # the index of a token is its id
_SPLITTERS = {"grapheme": split_graphemes}  # what `TextVectorization` takes for a name of ours
_SEPARATORS = {"character": "", split_graphemes: "", "whitespace": " "}
_ADAPT_BATCH = 8192  # number of texts counted at once


def text_vectorizer(texts, split="character", max_tokens=None, standardize=None):
    """Creates a `keras.layers.TextVectorization` with the vocabulary of `texts`.

    The vocabulary is `["", "[UNK]", "[START]", "[END]"]`, followed by the tokens from the most to
    the least frequent. Tokens of the same frequency are in descending order of their bytes. So
    `PAD_ID` stands for padding and `UNKNOWN_ID` for a token outside the vocabulary. The layer does
    not add `START_ID` and `END_ID`: the model does. To convert texts in which these tokens may
    occur, use `text_to_ids`, as `Seq2Seq` does.

    Args:
        texts: texts of the vocabulary: an iterable of strings, or a `tf.data.Dataset` of strings,
            batched or not.
        split: `"character"` for Unicode code points; `"grapheme"` for the characters that users see, with their
            combining marks, see `split_graphemes`; `"whitespace"` for words between ASCII whitespace; or any other
            value that `TextVectorization` takes.
        max_tokens: maximum size of the vocabulary, including the four special tokens, or `None`
            for no limit.
        standardize: see `TextVectorization`. By default texts are not changed.

    Returns:
        The layer. It maps strings (batch,) to a ragged int64 tensor (batch, None) of token ids.

    Raises:
        ValueError: if `texts` contains no token, a value that is not a string, or one of the
            tokens `[START]`, `[END]` and NUL; or if `max_tokens` leaves no room for a token. The
            token `[UNK]` is allowed and becomes `UNKNOWN_ID`. Also if words are not valid UTF-8;
            among characters, what is not becomes U+FFFD.

    Example:

    >>> vectorizer = text_vectorizer(["K AE T", "T UW"], split="whitespace")
    >>> " ".join(vectorizer.get_vocabulary()[4:])
    'T UW K AE'
    >>> vectorizer(["T UW K", "OW"]).to_list()
    [[4, 5, 6], [1]]
    """
    if max_tokens is not None and max_tokens <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"`max_tokens` must be None or greater than {len(SPECIAL_TOKENS)}, the number of special tokens. "
            f"Received: {max_tokens!r}"
        )
    if isinstance(split, str):
        if split not in ("character", "grapheme", "whitespace"):
            raise ValueError(
                f"`split` must be 'character', 'grapheme', 'whitespace', or a function. Received: {split!r}"
            )
        split = _SPLITTERS.get(split, split)
    options = {"standardize": standardize, "split": split, "output_mode": "int", "ragged": True}
    counter = keras.layers.TextVectorization(**options)
    counter.adapt(text_batches(texts))
    try:
        # Keras returns NumPy strings, which cannot be part of a layer's config.
        tokens = [str(token) for token in counter.get_vocabulary(include_special_tokens=False)]
    except UnicodeDecodeError as error:
        raise ValueError(f"`texts` must be valid UTF-8 for split={split!r}. Received: {error.object!r}") from error
    _check_tokens(tokens)
    if max_tokens is not None:
        tokens = tokens[: max_tokens - len(SPECIAL_TOKENS)]
    # A second layer, because Keras saves a given vocabulary in the config, but a learned one in a
    # text file with one token per line, where a line break as a token is lost.
    return keras.layers.TextVectorization(vocabulary=[START, END, *tokens], **options)


def text_batches(texts):
    """Returns a dataset of batches of strings."""
    if isinstance(texts, tf.data.Dataset):
        spec = texts.element_spec
        if not isinstance(spec, tf.TensorSpec) or spec.dtype != tf.string:
            raise ValueError(f"`texts` must be a dataset of strings. Received: elements {spec}")
        return texts.batch(_ADAPT_BATCH) if spec.shape.rank == 0 else texts
    if isinstance(texts, str | bytes):
        raise ValueError(
            "`texts` must be an iterable of strings. For a single text, pass [text]. "
            f"Received a single string: {texts[:40]!r}"
        )
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str | bytes):
            raise ValueError(f"`texts` must contain strings. Received: {text!r}")
    return tf.data.Dataset.from_tensor_slices(tf.constant(texts, tf.string)).batch(_ADAPT_BATCH)


def _check_tokens(tokens):
    if not tokens:
        raise ValueError("`texts` must contain at least one token. Received: none")
    for token in (START, END):
        if token in tokens:
            raise ValueError(f"`texts` must not contain the special token {token!r}.")
    if "" in tokens:  # NumPy, inside Keras, turns NUL into an empty string
        raise ValueError("`texts` must not contain the NUL character as a token.")


def text_to_ids(vectorizer, texts):
    """Converts texts to token ids, without special tokens.

    A vectorizer that splits at whitespace maps the token `[END]` in a text to `END_ID`. This
    function maps `[START]`, `[END]` and empty tokens to `UNKNOWN_ID`, like any other token outside
    the vocabulary.

    Args:
        vectorizer: layer from `text_vectorizer` or `subword_vectorizer`.
        texts: string tensor (batch,).

    Returns:
        Ragged int64 tensor (batch, None) of token ids.

    Example:

    >>> vectorizer = text_vectorizer(["K AE T"], split="whitespace")
    >>> text_to_ids(vectorizer, tf.constant(["K [END] T"])).to_list()
    [[5, 1, 4]]
    """
    ids = vectorizer(texts)
    return tf.ragged.map_flat_values(
        lambda flat_ids: tf.where(flat_ids < len(SPECIAL_TOKENS), tf.cast(UNKNOWN_ID, flat_ids.dtype), flat_ids), ids
    )


def split_tokens(vectorizer, texts):
    """Splits texts into tokens as `vectorizer` does, in a graph too.

    There is a token for each id that `text_to_ids` returns. Tokens outside the vocabulary are kept as they are written.

    Args:
        vectorizer: layer from `text_vectorizer` or `subword_vectorizer`.
        texts: string tensor (batch,).

    Returns:
        Ragged string tensor (batch, None) of tokens.

    Example:

    >>> vectorizer = text_vectorizer(["K AE T"], split="whitespace")
    >>> split_tokens(vectorizer, tf.constant(["K OW T"])).to_list()
    [[b'K', b'OW', b'T']]
    """
    return split_texts(vectorizer, texts)


def detokenizer(vectorizer, separator=None):
    """Creates the `Detokenizer` that inverts a `text_vectorizer` or a `subword_vectorizer`.

    It restores a text exactly if all its tokens are in the vocabulary and, with
    `split="whitespace"` or subwords, if single spaces separate the words.

    Args:
        vectorizer: layer from `text_vectorizer` or `subword_vectorizer`.
        separator: string between two tokens. By default it depends on how `vectorizer` splits:
            empty for `"character"`, `"grapheme"` and subwords, a space for `"whitespace"`.

    Returns:
        The `Detokenizer` layer.

    Raises:
        ValueError: if `vectorizer` splits in another way and `separator` is None, or if its
            vocabulary does not begin with the four special tokens.

    Example:

    >>> vectorizer = text_vectorizer(["cat", "dog"])
    >>> detokenizer(vectorizer)(vectorizer(["cat", "goat"])).numpy()
    array([b'cat', b'goat'], dtype=object)
    """
    split = vectorizer.get_config()["split"]
    if isinstance(split, SubwordSplitter):
        return Detokenizer(vectorizer.get_vocabulary(), separator or "", word_start=WORD_START)
    if separator is None:
        if not isinstance(split, str) and split is not split_graphemes:  # another callable may not be hashable
            raise ValueError(f"`separator` must be a string for a vectorizer with split={split!r}. Received: None")
        separator = _SEPARATORS[split]
    return Detokenizer(vectorizer.get_vocabulary(), separator)


@keras.saving.register_keras_serializable("keras_seq")
class Detokenizer(keras.layers.Layer):
    """Converts token ids to strings, up to the first `[END]`.

    The layer drops padding, `[START]`, the first `[END]` and everything after it. Unknown ids and
    ids outside the vocabulary become `[UNK]`. The layer uses only TensorFlow operations, so it
    also works in `tf.function` and in a SavedModel.

    Args:
        vocabulary: list of tokens in the order of their ids, beginning with `""`, `"[UNK]"`,
            `"[START]"`, `"[END]"`.
        separator: string between two tokens.
        word_start: character that stands for the space before a word, or None.

    Call arguments:
        inputs: integer tensor (..., time), or a ragged one (batch, None).
        unknown_tokens: string tensor (..., time) with what stands in the place of `[UNK]`, or None. Not for ragged
            inputs.

    Returns:
        String tensor (...), usually (batch,).

    Raises:
        ValueError: if `vocabulary` does not begin with the four special tokens, or if the inputs
            are not integers.

    Example:

    >>> import numpy as np
    >>> layer = Detokenizer(["", "[UNK]", "[START]", "[END]", "K", "AE", "T"], separator=" ")
    >>> layer(np.array([[4, 5, 6, 3, 6], [6, 5, 3, 0, 0]])).numpy()
    array([b'K AE T', b'T AE'], dtype=object)
    """

    def __init__(self, vocabulary, separator="", word_start=None, **kwargs):
        super().__init__(**kwargs)
        vocabulary = [str(token) for token in vocabulary]
        if vocabulary[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
            raise ValueError(
                f"`vocabulary` must begin with {SPECIAL_TOKENS}. Received: {vocabulary[: len(SPECIAL_TOKENS)]}"
            )
        self.vocabulary = vocabulary
        self.separator = separator
        self.word_start = word_start
        self.lookup = keras.layers.StringLookup(vocabulary=vocabulary, mask_token="", invert=True)

    def build(self, input_shape):
        self.lookup.build(input_shape)

    def call(self, inputs, unknown_tokens=None):
        ids = inputs.to_tensor(PAD_ID) if isinstance(inputs, tf.RaggedTensor) else inputs
        if not ids.dtype.is_integer:
            raise ValueError(f"`inputs` must be integer token ids. Received: dtype {ids.dtype.name}")
        has_ended = tf.cumsum(tf.cast(ids == END_ID, tf.int32), axis=-1) > 0  # (..., time)
        is_text = ~has_ended & (ids != PAD_ID) & (ids != START_ID)  # (..., time)
        tokens = self.lookup(ids)  # (..., time)
        if unknown_tokens is not None:
            is_known = (ids != UNKNOWN_ID) & (ids < len(self.vocabulary))
            tokens = tf.where(is_known, tokens, unknown_tokens)
        return self.join(tokens, is_text)

    def join(self, tokens, is_text):
        """Joins tokens to texts.

        Args:
            tokens: string tensor (..., time).
            is_text: boolean tensor (..., time), False for tokens that are left out.

        Returns:
            String tensor (...).
        """
        needs_separator = tf.cumsum(tf.cast(is_text, tf.int32), axis=-1) > 1  # (..., time)
        tokens = tf.where(needs_separator, self.separator + tokens, tokens)
        texts = tf.strings.reduce_join(tf.where(is_text, tokens, ""), axis=-1)  # (...)
        if self.word_start is None:
            return texts
        texts = tf.strings.regex_replace(texts, f"^{self.word_start}", "")
        return tf.strings.regex_replace(texts, self.word_start, " ")

    def compute_output_spec(self, inputs, unknown_tokens=None):
        return keras.KerasTensor(inputs.shape[:-1], dtype="string")

    def get_config(self):
        config = {"vocabulary": list(self.vocabulary), "separator": self.separator, "word_start": self.word_start}
        return {**super().get_config(), **config}
