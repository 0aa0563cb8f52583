# SPDX-License-Identifier: Apache-2.0
"""Runs an exported model with TensorFlow alone."""

import argparse
import os
import pathlib
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("saved_model", type=pathlib.Path, help="folder written by `Seq2Seq.export`")
    parser.add_argument("text", nargs="+", help="sources, for example words")
    options = parser.parse_args()
    if not (options.saved_model / "saved_model.pb").is_file():
        parser.error(f"{options.saved_model} is not a SavedModel")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    import tensorflow as tf

    model = tf.saved_model.load(options.saved_model)
    results = model.signatures["serving_default"](inputs=tf.constant(options.text))
    scores = results["log_probabilities"].numpy()
    for text, output, score in zip(options.text, results["text"].numpy(), scores, strict=True):
        print(f"{text} → {output.decode()}   (log probability {score:.2f})")
    print("keras_seq was", "imported" if "keras_seq" in sys.modules else "not imported")


if __name__ == "__main__":
    main()
