# SPDX-License-Identifier: Apache-2.0
"""Data: TSV files, vocabularies, length buckets, shuffled batches, streams, windows of series, CMUdict."""

from keras_seq.data.batching import bucket_by_length as bucket_by_length
from keras_seq.data.bucketing import bucketed_batches as bucketed_batches
from keras_seq.data.cmudict import group_by_source as group_by_source
from keras_seq.data.cmudict import load_cmudict as load_cmudict
from keras_seq.data.epoch_order import shuffled_batches as shuffled_batches
from keras_seq.data.forecasting import forecasting_windows as forecasting_windows
from keras_seq.data.graphemes import split_graphemes as split_graphemes
from keras_seq.data.load_tfds import load_tfds_cmudict as load_tfds_cmudict
from keras_seq.data.streams import stream_batches as stream_batches
from keras_seq.data.subword_splitter import SubwordSplitter as SubwordSplitter
from keras_seq.data.subwords import subword_vectorizer as subword_vectorizer
from keras_seq.data.tsv import iter_pairs as iter_pairs
from keras_seq.data.tsv import read_pairs as read_pairs
from keras_seq.data.vocabulary import END as END
from keras_seq.data.vocabulary import END_ID as END_ID
from keras_seq.data.vocabulary import PAD_ID as PAD_ID
from keras_seq.data.vocabulary import START as START
from keras_seq.data.vocabulary import START_ID as START_ID
from keras_seq.data.vocabulary import UNKNOWN_ID as UNKNOWN_ID
from keras_seq.data.vocabulary import Detokenizer as Detokenizer
from keras_seq.data.vocabulary import detokenizer as detokenizer
from keras_seq.data.vocabulary import split_tokens as split_tokens
from keras_seq.data.vocabulary import text_to_ids as text_to_ids
from keras_seq.data.vocabulary import text_vectorizer as text_vectorizer
