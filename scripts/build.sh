#!/usr/bin/env bash
# Configures and builds msadb: scripts/build.sh [BUILD_DIR [CMAKE_OPTION...]]
#   scripts/build.sh                                          build/release, optimised, with tests
#   scripts/build.sh build/asan -DMSADB_SANITIZE=address,undefined
# TARGETS="msadb_cli ..." builds only those.
source "$(dirname "$0")/lib/common.sh"

build_dir=${1:-build/release}
shift || true
cmake -G Ninja -S . -B "$build_dir" -DCMAKE_BUILD_TYPE=Release "$@"
# shellcheck disable=SC2086  # TARGETS is a list of words
cmake --build "$build_dir" -j "$(build_jobs)" ${TARGETS:+--target $TARGETS}
