#!/usr/bin/env bash
# From a fresh checkout on Debian 12 to answers: installs, builds, makes a
# memory from examples/documents and asks it questions. Run it again at any time; it does only what
# is missing. Leaves ./msadb ready.
source "$(dirname "$0")/lib/common.sh"

scripts/install-deps.sh --no-tests

say "Building msadb (the first time takes a few minutes)"
TARGETS=msadb_cli scripts/build.sh build/release -DMSADB_BUILD_TESTS=OFF -DMSADB_BUILD_BENCH=OFF \
  -DMSADB_BUILD_PYTHON=OFF
ln -sfn build/release/cli/msadb msadb

say "Making a memory in build/quickstart with the model models/default"
rm -rf build/quickstart
./msadb create build/quickstart --model models/default
./msadb ingest build/quickstart examples/documents

ask() {
  say "$1"
  ./msadb ask build/quickstart "$1" --max-tokens 64
}
ask "Where is the spare key of the house?"
ask "Who leads the Lighthouse project?"
ask "What is the phone number of the plumber?"
ask "When does the ferry to the island leave in winter?"
ask "What is the dog called?"

cat << 'END'

== Your turn
  ./msadb ask build/quickstart "When does the book club meet?"
  ./msadb search build/quickstart "money for travel" -k 3
  ./msadb insert build/quickstart "The parcel is with the neighbours at number 14."
  ./msadb ask build/quickstart "Where is the parcel?" --trace
A memory of your own texts:
  ./msadb create mine && ./msadb ingest mine ~/some/folder
  ./msadb --help
END
