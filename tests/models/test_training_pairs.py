# SPDX-License-Identifier: Apache-2.0
"""`fit`, `evaluate` and the like take data in every form that Keras takes, with the same results.

The reference is an explicit training loop on token ids computed without a vectorizer.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import JIT

import keras_seq
from keras_seq.training import ScheduledSampling

LETTERS = "hgfedcba"  # in the order of their ids, from 4
SOURCES = ["ab", "", "hedge", "cab", "face", "a", "deaf"]
TARGETS = ["ba", "g", "egdeh", "", "ecaf", "aa", "f"]
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, 1.5, 3.0, 0.25], "float32")
BATCHES = [slice(0, 3), slice(3, 6), slice(6, 7)]  # batch_size 3, different widths
FORMS = ["lists", "arrays", "tensors", "dataset", "generator", "pydataset"]


def to_ids(texts):
    """Rows of token ids of unequal length, each ending with `[END]`."""
    return [[4 + LETTERS.index(letter) for letter in text] + [3] for text in texts]


def pad(rows):
    return np.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


def make_model(vectorizers=True, compiled=True, **options):
    keras.utils.set_random_seed(1)
    vectorizer = keras_seq.data.text_vectorizer([LETTERS])
    size = vectorizer.vocabulary_size()
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(size, 4, 4, cell="rnn"),
        keras_seq.Decoder(size, 4, 4, cell="rnn", attention=None),
        *([vectorizer, vectorizer] if vectorizers else []),
    )
    assert vectorizer.get_vocabulary()[4:] == list(LETTERS)
    if compiled:
        model.compile(keras.optimizers.SGD(0.5), **{"run_eagerly": True, **options})
    return model


class Batches(keras.utils.PyDataset):
    def __init__(self, batches, **options):
        super().__init__(**options)
        self.batches, self.epochs_ended = batches, 0

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]

    def on_epoch_end(self):
        self.epochs_ended += 1


def make_data(form, kind, weighted, rows=slice(None)):
    """The data as arguments of `fit`; `kind` is "strings" or "ids"."""
    columns = [SOURCES[rows], TARGETS[rows]] if kind == "strings" else [to_ids(SOURCES[rows]), to_ids(TARGETS[rows])]
    columns += [WEIGHTS[rows]] if weighted else []

    def batches():
        for start in range(0, len(columns[0]), 3):
            batch = [column[start : start + 3] for column in columns]
            yield tuple(batch if kind == "strings" else [pad(batch[0]), pad(batch[1]), *batch[2:]])

    if form == "dataset":
        if kind == "ids":
            columns[:2] = [tf.ragged.constant(column) for column in columns[:2]]
        return {"x": tf.data.Dataset.from_tensor_slices(tuple(columns)).batch(3)}
    if form == "generator":
        return {"x": batches()}
    if form == "pydataset":
        return {"x": Batches(list(batches()), workers=0)}
    if form != "lists" and kind == "ids":
        columns[:2] = map(pad, columns[:2])
    if form != "lists":
        columns = [(np.array if form == "arrays" else tf.constant)(column) for column in columns]
    return {"batch_size": 3, **dict(zip(("x", "y", "sample_weight"), columns, strict=False))}


def as_validation_data(arguments):
    if "y" not in arguments:
        return arguments["x"]
    return tuple(arguments[name] for name in ("x", "y", "sample_weight") if name in arguments)


def token_losses(model, rows=slice(None)):
    """Cross-entropies of the target tokens (batch, time), zero at padding, and which positions are tokens."""
    source, target = pad(to_ids(SOURCES[rows])), pad(to_ids(TARGETS[rows]))
    logits = np.asarray(model((source, np.pad(target, [(0, 0), (1, 0)], constant_values=2)[:, :-1])), "float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    is_token = target != 0
    return -np.take_along_axis(log_probabilities, target[..., None], -1)[..., 0] * is_token, is_token


def expected_loss(model, rows=slice(None), weights=None):
    losses, is_token = token_losses(model, rows)
    return (losses if weights is None else losses * weights[rows, None]).sum() / is_token.sum()


def train_reference(weights=None):
    """A model after one epoch of gradient descent on the mean over the tokens of each batch."""
    model = make_model(vectorizers=False, compiled=False)
    for rows in BATCHES:
        source, target = pad(to_ids(SOURCES[rows])), pad(to_ids(TARGETS[rows]))
        inputs = np.pad(target, [(0, 0), (1, 0)], constant_values=2)[:, :-1]
        factors = (target != 0) * (1.0 if weights is None else weights[rows, None])
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, model((source, inputs), training=True))
            loss = tf.reduce_sum(losses * tf.cast(factors, "float32")) / np.sum(target != 0)
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(0.5 * tf.convert_to_tensor(gradient))
    return model


def assert_same_weights(model, expected):
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "weighted"),
    [
        ("strings", True),
        pytest.param("ids", False, marks=pytest.mark.slow),
        pytest.param("strings", False, marks=pytest.mark.slow),
        pytest.param("ids", True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_results(form, kind, weighted):
    """In `fit`, as validation data and in `evaluate`."""
    model = make_model(vectorizers=kind == "strings")
    weights = WEIGHTS if weighted else None
    initial_loss = expected_loss(model, weights=weights)
    steps = 3 if form == "generator" else None
    evaluated = model.evaluate(**make_data(form, kind, weighted), steps=steps, verbose=0)
    assert evaluated[0] == pytest.approx(initial_loss, rel=1e-5)
    validation_data = as_validation_data(make_data(form, kind, weighted))
    history = model.fit(
        **make_data(form, kind, weighted),
        **{} if form in ("dataset", "generator") else {"shuffle": False},
        steps_per_epoch=steps,
        validation_data=validation_data,
        validation_steps=steps,
        validation_batch_size=2 if form in FORMS[:3] else None,
        verbose=0,
    ).history
    assert_same_weights(model, train_reference(weights))
    assert history["val_loss"][0] == pytest.approx(expected_loss(model, weights=weights), rel=1e-5)
    after = model.evaluate(**make_data("lists", kind, weighted), verbose=0)
    assert [history["val_loss"][0], history["val_token_accuracy"][0]] == pytest.approx(after, rel=1e-5)


def test_rows_of_unequal_length_are_pad():
    rows = to_ids(SOURCES)
    model = make_model(vectorizers=False)
    for sources in (rows, [np.array(row) for row in rows], np.array(rows, object), tf.ragged.constant(rows)):
        (source, _), target = model.prepare(sources, rows)
        np.testing.assert_array_equal(source, pad(rows))
        np.testing.assert_array_equal(target, pad(rows))


@pytest.mark.parametrize("kind", ["strings", "ids"])
def test_validation_split_is_the_end_of_the_data(kind):
    model = make_model(vectorizers=kind == "strings")
    history = model.fit(**make_data("lists", kind, True), validation_split=0.4, epochs=2, verbose=0).history
    expected = expected_loss(model, slice(4, 7), WEIGHTS)
    assert history["val_loss"][1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("jit_compile", JIT)
def test_compiled_training_gives_the_same_results(jit_compile):
    model = make_model(run_eagerly=False, jit_compile=jit_compile)
    data = make_data("dataset", "strings", True)["x"]
    history = model.fit(data, validation_data=data, verbose=0).history
    assert_same_weights(model, train_reference(WEIGHTS))
    assert history["val_loss"][0] == pytest.approx(expected_loss(model, weights=WEIGHTS), rel=1e-5)


def test_prepared_data_are_unchanged():
    model = make_model()
    prepared = model.prepare(SOURCES, TARGETS, WEIGHTS)
    again = model.prepare(*prepared)
    for a, b in zip(keras.tree.flatten(prepared), keras.tree.flatten(again), strict=True):
        np.testing.assert_array_equal(a, b)
    inputs, target, _ = prepared
    for data in ((inputs, target, WEIGHTS), prepared, (tf.data.Dataset.from_tensors((inputs, target, WEIGHTS)),)):
        arguments = dict(zip(("x", "y", "sample_weight"), data, strict=False))
        assert model.evaluate(**arguments, verbose=0)[0] == pytest.approx(expected_loss(model, weights=WEIGHTS))


def test_generators_and_pydatasets_over_several_epochs():
    """Batches may have any widths: here the first two are equally wide, the third is not."""
    batches = [(["abc", "a"], ["a", "bb"]), (["cab", "b"], ["b", "aa"]), (["a"], ["edgehead"])]
    model = make_model()
    dataset = Batches(batches, workers=2)
    history = model.fit(dataset, epochs=2, verbose=0, validation_data=Batches(batches, workers=0)).history
    assert len(history["val_loss"]) == 2
    assert dataset.epochs_ended >= 2
    steps = int(model.optimizer.iterations)

    def repeat_batches():
        while True:
            yield from batches

    history = model.fit(
        repeat_batches(),
        steps_per_epoch=2,
        epochs=4,
        initial_epoch=1,
        verbose=0,
        validation_data=repeat_batches(),
        validation_steps=3,
    ).history
    assert len(history["val_loss"]) == 3
    assert int(model.optimizer.iterations) == steps + 6


def test_other_arguments_are_passed_to_keras():
    model, epochs = make_model(), []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    history = model.fit(SOURCES, TARGETS, 2, 3, 0, [record], 0.3, initial_epoch=1, validation_freq=2)
    assert epochs == [1, 2]
    assert len(history.history["val_loss"]) == 1
    results = model.evaluate(SOURCES, TARGETS, 1, 0, WEIGHTS, steps=2, return_dict=True)
    assert results["loss"] == pytest.approx(expected_loss(model, slice(0, 2), WEIGHTS), rel=1e-5)


@pytest.mark.parametrize("kind", ["strings", "ids"])
def test_train_on_batch_and_test_on_batch(kind):
    model = make_model(vectorizers=kind == "strings")
    data = make_data("lists", kind, True)
    batch = data["x"], data["y"], data["sample_weight"]
    expected = expected_loss(model, weights=WEIGHTS)
    assert model.test_on_batch(*batch)[0] == pytest.approx(expected, rel=1e-5)
    assert model.train_on_batch(*batch, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)
    assert expected_loss(model, weights=WEIGHTS) < expected


class TestWeights:
    def test_token_weights(self):
        model = make_model(vectorizers=False)
        weights = np.random.default_rng(0).random((7, 6), "float32")
        losses, is_token = token_losses(model)
        expected = (losses * weights).sum() / is_token.sum()
        ids = pad(to_ids(SOURCES)), pad(to_ids(TARGETS))
        assert model.evaluate(*ids, 2, 0, weights)[0] == pytest.approx(expected, rel=1e-5)
        data = tf.data.Dataset.from_tensor_slices((*ids, weights)).batch(2)
        assert model.evaluate(data, verbose=0)[0] == pytest.approx(expected, rel=1e-5)
        rows = [list(row[keep]) for row, keep in zip(weights, is_token, strict=True)]  # rows as long as the targets
        assert model.evaluate(*map(to_ids, (SOURCES, TARGETS)), 7, 0, rows)[0] == pytest.approx(expected, rel=1e-5)

    def test_class_weights_are_weights_of_tokens(self):
        model = make_model()
        losses, is_token = token_losses(model)
        target = pad(to_ids(TARGETS))
        expected = (losses * np.where(target == 3, 0.25, np.where(target == 7, 2.0, 1.0))).sum() / is_token.sum()
        class_weight = {3: 0.25, 7: 2.0}
        result = model.train_on_batch(SOURCES, TARGETS, class_weight=class_weight)
        assert result[0] == pytest.approx(expected, rel=1e-5)
        losses = []
        for form in ("lists", "dataset", "generator", "pydataset"):
            model = make_model()
            losses += model.fit(
                **make_data(form, "strings", False),
                class_weight=class_weight,
                steps_per_epoch=3,
                shuffle=False,
                verbose=0,
            ).history["loss"]
        np.testing.assert_allclose(losses, losses[0], rtol=1e-5)

    @pytest.mark.parametrize("count", [6, 1, 5])
    @pytest.mark.parametrize("form", ["lists", "dataset", "pydataset"])
    def test_number_of_weights_must_be_the_number_of_sequences(self, form, count):
        """Even if it is the number of tokens of the targets."""
        model = make_model()
        data = {
            "lists": lambda: {"x": SOURCES, "y": TARGETS, "sample_weight": WEIGHTS[:count]},
            "dataset": lambda: {"x": tf.data.Dataset.from_tensors((SOURCES, TARGETS, WEIGHTS[:count]))},
            "pydataset": lambda: {"x": Batches([(SOURCES, TARGETS, WEIGHTS[:count])], workers=0)},
        }[form]()
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"`sample_weight` must be .*\(batch,\)"):
            model.fit(**data, verbose=0)

    @pytest.mark.parametrize(
        ("kind", "weights"),
        [("strings", np.ones((7, 6))), ("ids", np.ones((7, 5))), ("ids", np.ones((7, 6, 1))), ("ids", ["a"] * 7)],
    )
    def test_weights_of_another_shape(self, kind, weights):
        model = make_model(vectorizers=kind == "strings")
        arguments = {**make_data("lists", kind, False), "sample_weight": weights}
        with pytest.raises(ValueError, match="`sample_weight` must be one weight per sequence"):
            model.fit(**arguments, verbose=0)

    @pytest.mark.parametrize("class_weight", [{"a": 1.0}, {12: 1.0}, {-1: 1.0}])
    def test_weights_of_unknown_classes(self, class_weight):
        with pytest.raises(ValueError, match="`class_weight` must be a dict from target token ids, 0 to 11"):
            make_model().fit(SOURCES, TARGETS, class_weight=class_weight, verbose=0)

    def test_class_weights_cannot_be_combined(self):
        model = make_model()
        with pytest.raises(ValueError, match="`class_weight` and `sample_weight` cannot be combined"):
            model.fit(SOURCES, TARGETS, class_weight={3: 1.0}, sample_weight=WEIGHTS, verbose=0)
        with pytest.raises(ValueError, match="`class_weight` cannot be combined with `validation_split`"):
            model.fit(SOURCES, TARGETS, class_weight={3: 1.0}, validation_split=0.5, verbose=0)


@pytest.mark.parametrize("attention", ["bahdanau", None])
def test_empty_batches_and_zero_weights_give_no_nan(attention):
    vectorizer = keras_seq.data.text_vectorizer([LETTERS])
    parts = keras_seq.Encoder(12, 4, 4), keras_seq.Decoder(12, 4, 4, attention=attention)
    model = keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)
    model.compile(keras.optimizers.SGD(0.5), metrics=["accuracy", keras_seq.training.Perplexity()], run_eagerly=True)
    before = model.get_weights()
    empty = tf.zeros([0], tf.string)
    results = [
        model.train_on_batch(SOURCES, TARGETS, np.zeros(7)),
        model.fit(SOURCES, TARGETS, sample_weight=np.zeros(7), verbose=0).history["loss"],
        model.train_on_batch(empty, empty),
        model.evaluate(tf.data.Dataset.from_tensors((empty, empty)), verbose=0),
    ]
    assert np.isfinite(keras.tree.flatten(results)).all()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(model.train_on_batch(["", ""], ["", ""])).all()  # only [END]
    assert np.isfinite(np.concatenate([weights.ravel() for weights in model.get_weights()])).all()


@pytest.mark.parametrize("mode", ["parallel", pytest.param("sequential", marks=pytest.mark.slow)])
def test_scheduled_sampling_with_every_form_of_data(mode):
    losses = []
    for form in ("lists", "dataset", "generator"):
        model = make_model(scheduled_sampling=ScheduledSampling(1.0, mode, "argmax"))
        data = make_data(form, "strings", False)
        losses += model.fit(**data, steps_per_epoch=3, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_special_tokens_in_a_text_are_unknown_tokens():
    vectorizer = keras_seq.data.text_vectorizer(["K AE T"], split="whitespace")
    parts = keras_seq.Encoder(7, 4, 4), keras_seq.Decoder(7, 4, 4)
    model = keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)
    for text in ("K [END] T", "K [START] T", "K \0 T"):
        (source, _), target = model.prepare([text], [text])
        assert np.asarray(source).tolist() == np.asarray(target).tolist() == [[5, 1, 4, 3]]
    as_dataset = tf.data.Dataset.from_tensors((["[END]"], ["[END]"]))
    np.testing.assert_array_equal(model.generate(as_dataset), model.generate(["OW"]))  # also unknown


class TestErrors:
    @pytest.mark.parametrize("bad", [-1, 12, 2**31 + 4, 2**40])
    @pytest.mark.parametrize("form", ["lists", "arrays", "dataset", "generator", "pydataset"])
    @pytest.mark.parametrize("side", ["x", "y"])
    def test_ids_outside_the_vocabulary(self, form, bad, side):
        good, ids = [[4, 3], [5, 3]], [[4, 3], [bad, 3]]
        pair = (ids, good) if side == "x" else (good, ids)
        data = {
            "lists": lambda: pair,
            "arrays": lambda: tuple(map(np.array, pair)),
            "dataset": lambda: (tf.data.Dataset.from_tensors(tuple(map(np.array, pair))),),
            "generator": lambda: (iter([pair]),),
            "pydataset": lambda: (Batches([pair], workers=0),),
        }[form]()
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match=rf"`{side}` .* must be token ids from 0 to 11"
        ):
            make_model(vectorizers=False).evaluate(*data, verbose=0)

    @pytest.mark.parametrize("ids", [[[4.0, 3.0]], [[True, False]], [4, 3], [[[4, 3]]], [[4, "a"]], [None], "ab", [{}]])
    @pytest.mark.parametrize("form", ["arrays", "dataset"])
    def test_data_that_are_neither_strings_nor_ids(self, ids, form):
        model = make_model()
        with pytest.raises(ValueError, match=r"`y` \(targets\) must be"):
            if form == "arrays":
                model.fit(["a"], ids, verbose=0)
            else:
                try:
                    data = tf.data.Dataset.from_tensors((["a"], ids))
                except (ValueError, TypeError):
                    pytest.skip("tf.data does not take these data")
                model.fit(data, verbose=0)

    @pytest.mark.parametrize("kind", ["strings", "ids"])
    def test_different_numbers_of_sources_and_targets(self, kind):
        model, data = make_model(vectorizers=kind == "strings"), make_data("lists", kind, False)
        x, y = data["x"], data["y"][:5]
        with pytest.raises(ValueError, match=r"`x` and `y` must contain the same number of sequences.* \[7, 5\]"):
            model.fit(x, y, verbose=0)
        if kind == "strings":
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=r"`x` and `y` must contain the same number of sequences"
            ):
                model.fit(tf.data.Dataset.from_tensors((x, y)), verbose=0)

    def test_unbatched_strings(self):
        pairs = list(zip(SOURCES, TARGETS, strict=True))
        model = make_model()
        for data in (tf.data.Dataset.from_tensor_slices((SOURCES, TARGETS)), iter(pairs), Batches(pairs, workers=0)):
            with pytest.raises(ValueError, match=r"`x` \(sources\) must be strings, shape \(batch,\)"):
                model.fit(data, verbose=0)

    @pytest.mark.parametrize("batch", [["a", "b", "c", "d"], "ab", ("a",), {"x": ["a"]}])
    def test_batches_that_are_not_pairs(self, batch):
        with pytest.raises(ValueError, match=r"Data must consist of batches `\(sources, targets\)`"):
            make_model().fit(iter([batch]), verbose=0)

    def test_missing_targets(self):
        for x in (SOURCES, (SOURCES, TARGETS)):
            with pytest.raises(ValueError, match=r"`y` must be the targets, unless `x` is a `tf.data.Dataset`"):
                make_model().fit(x, verbose=0)
        with pytest.raises(ValueError, match=r"Data must consist of batches `\(sources, targets\)`"):
            make_model().fit(tf.data.Dataset.from_tensors(SOURCES), verbose=0)

    def test_empty_data(self):
        with pytest.raises(ValueError, match="at least one sequence"):
            make_model().fit(np.array([], str), np.array([], str), verbose=0)

    def test_ids_without_a_token(self):
        with pytest.raises(ValueError, match=r"`y` \(targets\) must have at least one token"):
            make_model(vectorizers=False).fit([[4, 3]], np.zeros((1, 0), int), verbose=0)

    def test_validation_data_with_four_items(self):
        with pytest.raises(ValueError, match="`validation_data` must be"):
            make_model().fit(SOURCES, TARGETS, validation_data=(SOURCES, TARGETS, WEIGHTS, WEIGHTS), verbose=0)


def test_prepared_datasets_are_checked():
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 4), keras_seq.Decoder(9, 4, 4))
    model.compile(jit_compile=False)
    batch = ((np.array([[4, 5]]), np.array([[2, 4]])), np.array([[4, 99]]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`y` \(targets\)"):
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)


def test_decode_of_an_empty_batch():
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 4), keras_seq.Decoder(9, 4, 4))
    assert model.decode(tf.zeros((0, 3), tf.int32))["token_ids"].shape == (0, 0)
