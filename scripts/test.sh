#!/usr/bin/env bash
# Installs what is needed, builds, and runs every test. The last line counts them:
#   N passed, N failed, N skipped
# and the exit code is 0 only when something ran and nothing failed.
#   scripts/test.sh [BUILD_DIR [CMAKE_OPTION...]]      CTEST_ARGS="-R cli" picks tests
source "$(dirname "$0")/lib/common.sh"

build_dir=${1:-build/release}
shift || true
scripts/install-deps.sh
say "Building in $build_dir"
# All parts, also after the quickstart's build of the program alone.
scripts/build.sh "$build_dir" -DMSADB_BUILD_TESTS=ON -DMSADB_BUILD_BENCH=ON -DMSADB_BUILD_CLI=ON \
  -DMSADB_BUILD_PYTHON=ON "$@"

say "Testing"
results=$PWD/$build_dir/test-results
rm -rf "$results"
mkdir -p "$results"
status=0
# Each GoogleTest program also writes its own cases, for the count.
# shellcheck disable=SC2086  # CTEST_ARGS is a list of words
GTEST_OUTPUT="xml:$results/" ctest --test-dir "$build_dir" --output-on-failure --no-tests=error \
  --test-output-size-passed 65536 --test-output-truncation tail \
  --output-junit "$results/ctest.junit" -j "$(nproc)" ${CTEST_ARGS:-} < /dev/null || status=$?
python3 scripts/lib/count_tests.py "$results" "$status"
