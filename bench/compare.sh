#!/bin/sh
# Times this project and PyTorch alternately on this machine (A B A B ...) and takes medians.
# Writes bench/results/NAME.json and the table in docs/src/engine.md.
#
#   bench/compare.sh NAME [--python PYTHON] [--threads 2] [--batch 8,32] [--rounds 3] [--compile]
#
# PYTHON needs torch and timm (python3 -m venv V && V/bin/pip install torch timm).
# --compile also times torch.compile, which needs a C++ compiler.
set -e
python=python3
next=
for argument in "$@"; do
    [ "$next" = 1 ] && python=$argument
    next=$([ "$argument" = --python ] && echo 1 || true)
done
python=$(command -v "$python")
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")/.."
cargo build --release --quiet
exec "$python" bench/compare.py "$@" --python "$python"
