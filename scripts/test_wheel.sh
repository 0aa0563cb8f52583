#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the wheel of dist/ for each Python and TensorFlow in a bare environment, without a compiler on PATH, and runs
# scripts/check_installation.py there.
#
#   make test-wheels                                  # what make wheels has built
#   make test-wheels PYTHONS="python3.12" REQUIREMENTS="tensorflow-cpu==2.21.0"
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=$(ls "$PWD"/dist/keras_seq-*-manylinux_*.whl)
IFS=';' read -ra requirements <<< "${REQUIREMENTS:-tensorflow==2.21.0;tensorflow-cpu==2.21.0;tensorflow==2.20.0}"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
  if ! "$python" -c "" 2> /dev/null; then
    echo "$python is not there: skipped"
    continue
  fi
  for requirement in "${requirements[@]}"; do
    echo "$python, $requirement"
    "$python" -m venv --clear "$folder/venv"
    bare=(env -i "HOME=$folder" "PATH=$folder/venv/bin")
    "${bare[@]}" "$folder/venv/bin/python" -m pip install --quiet "$wheel" "$requirement"
    (cd "$folder" && "${bare[@]}" "$folder/venv/bin/python" - < "$OLDPWD/scripts/check_installation.py")
  done
done
