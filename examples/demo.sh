#!/usr/bin/env bash
# demo.sh - render a picture on all cores of this machine; show what it gained
# against one thread and against OpenMP, and where its time went. `make demo`
# builds first.
set -eu
cd "$(dirname "$0")/.."
BUILD=${BUILD-build}

# Embedded: no coordinator, a slot for each core.
export TASKRT_COORDINATOR=
unset TASKRT_SLOTS

echo "10000 x 1000 points of the Mandelbrot set on $(nproc) cores"
"$BUILD/examples/mandelbrot" --mode compare --stat --output mandelbrot.png "$@"
