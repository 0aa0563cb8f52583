# SPDX-License-Identifier: Apache-2.0
"""Use an exported model where only TensorFlow is installed: use_saved_model.py SAVED_MODEL TEXT [TEXT ...]."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # only errors

import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
texts = sys.argv[2:]
results = model.signatures["serving_default"](inputs=tf.constant(texts))
for text, output, score in zip(texts, results["text"].numpy(), results["log_probabilities"].numpy(), strict=True):
    print(f"{text} → {output.decode()}   (log probability {score:.2f})")
print("keras_seq was", "imported" if "keras_seq" in sys.modules else "not imported")
