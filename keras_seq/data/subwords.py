# SPDX-License-Identifier: Apache-2.0
"""Vocabularies of subwords. They are learned by SentencePiece: `pip install 'keras_seq[text]'`."""

import io

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.subword_splitter import WORD_START, SubwordSplitter
from keras_seq.data.vocabulary import END, SPECIAL_TOKENS, START, split_tokens, text_batches


def subword_vectorizer(texts, vocabulary_size=8000, *, character_coverage=0.9995, standardize=None):
    """Creates a `keras.layers.TextVectorization` whose tokens are subwords, learned from `texts` by SentencePiece.

    The subwords are the pieces of a unigram language model (Kudo 2018). Frequent words become one piece, rare words
    several. Pieces do not cross spaces; the first piece of a word begins with U+2581, which stands for the space. Only
    learning needs the package SentencePiece: the layer splits by `SubwordSplitter`, with operations of TensorFlow, and
    is saved with the model.

    The vocabulary is `["", "[UNK]", "[START]", "[END]"]`, followed by the pieces from the most to the least probable.
    The layer serves wherever one of `text_vectorizer` does. Unicode is not normalized, and whitespace other than that
    of ASCII is part of words.

    Args:
        texts: texts to learn from: an iterable of strings, or a `tf.data.Dataset` of strings, batched or not. They
            should be a few thousand at least.
        vocabulary_size: maximum size of the vocabulary, including the four special tokens. It is smaller if `texts`
            have fewer frequent pieces.
        character_coverage: which share of the characters in `texts` is known for sure. The rarest of the others are
            `[UNK]`. Use 1.0 for a small alphabet.
        standardize: see `TextVectorization`. By default texts are not changed.

    Returns:
        The layer. It maps strings (batch,) to a ragged int64 tensor (batch, None) of token ids.

    Raises:
        ImportError: if SentencePiece is not installed.
        ValueError: if `texts` contains no token or a value that is not a string, if `vocabulary_size` is not an integer
            or leaves no room for the characters, or if `character_coverage` is not in (0, 1].

    Example:

    >>> texts = ["unseen seen see", "unwell well", "undo do"] * 10
    >>> vectorizer = subword_vectorizer(texts, vocabulary_size=30)
    >>> [token.decode() for token in split_tokens(vectorizer, tf.constant(["undo well"]))[0].numpy()]
    ['▁un', 'do', '▁', 'well']
    """
    _check_arguments(vocabulary_size, character_coverage)
    standardizer = keras.layers.TextVectorization(standardize=standardize, split=None)
    lines = _training_lines(text_batches(texts), standardizer)
    if not lines:
        raise ValueError("`texts` must contain at least one token. Received: none")
    pieces, scores = _learn_pieces(lines, vocabulary_size, character_coverage)
    return keras.layers.TextVectorization(
        vocabulary=[START, END, *pieces],
        standardize=standardize,
        split=SubwordSplitter(pieces, scores),
        output_mode="int",
        ragged=True,
    )


def _check_arguments(vocabulary_size, character_coverage):
    if not isinstance(vocabulary_size, int) or vocabulary_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"`vocabulary_size` must be an integer greater than {len(SPECIAL_TOKENS)}, the number of special tokens. "
            f"Received: {vocabulary_size!r}"
        )
    if not 0 < character_coverage <= 1:
        raise ValueError(f"`character_coverage` must be greater than 0 and at most 1. Received: {character_coverage!r}")


def _training_lines(batches, standardizer):
    """Returns the texts as `SubwordSplitter` reads them, as bytes: words with single spaces between them."""
    lines = []
    for batch in batches:
        texts = tf.strings.unicode_transcode(split_tokens(standardizer, tf.reshape(batch, [-1])), "UTF-8", "UTF-8")
        words = tf.strings.split(tf.strings.regex_replace(texts, WORD_START, " "))
        lines += [line for line in tf.strings.reduce_join(words, -1, separator=" ").numpy() if line]
    return lines


def _learn_pieces(lines, vocabulary_size, character_coverage):
    """Returns the pieces that SentencePiece learns, and their scores."""
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError("subword_vectorizer needs SentencePiece: pip install 'keras_seq[text]'") from error
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary_size - len(SPECIAL_TOKENS) + 1,  # one is SentencePiece's unknown piece
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            max_sentence_length=max(10, *map(len, lines)) + 1,  # no text is left out
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            "`vocabulary_size` must leave room for each character that `character_coverage` includes. "
            f"Received: {vocabulary_size}. SentencePiece says: {error}"
        ) from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = [i for i in range(processor.get_piece_size()) if processor.id_to_piece(i) not in SPECIAL_TOKENS]
    ids = [i for i in ids if not processor.is_unknown(i)]
    return [processor.id_to_piece(i) for i in ids], [processor.get_score(i) for i in ids]
