#!/usr/bin/env bash
# Installs the Debian 12 packages that building, testing and running msadb need; with --no-tests only
# those for building and running the program and the C++ library. Installs what is missing, upgrades
# nothing, and is quick when everything is there. Works as root or through sudo. CUDA is optional and
# not installed: the build finds nvcc if you have it.
source "$(dirname "$0")/lib/common.sh"

case ${1:-} in
  "") tests=yes ;;
  --no-tests) tests=no ;;
  *) die "usage: scripts/install-deps.sh [--no-tests]" ;;
esac

packages=(
  build-essential cmake ninja-build ccache pkg-config ca-certificates
  # the Python package
  python3 python3-venv python3-dev pybind11-dev
  # storage
  librocksdb-dev libflatbuffers-dev flatbuffers-compiler libxxhash-dev
  # index
  libfaiss-dev libroaring-dev
  # model
  libopenblas-openmp-dev libpcre2-dev libutf8proc-dev libssl-dev libboost1.81-dev
  # command line
  nlohmann-json3-dev libcli11-dev
)
# The console is tested in Chromium.
[[ $tests == no ]] || packages+=(
  libgtest-dev libgmock-dev libbenchmark-dev chromium chromium-driver curl openssl wrk
)

command -v apt-get > /dev/null ||
  die "this script knows Debian and its relatives only; install by hand: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done

# The Python packages of the tests, in a virtual environment of this source tree. Without them those
# tests skip, so failing here is no reason to stop.
install_python_packages() {
  [[ $tests == yes ]] || return 0
  local wanted stamp=.venv/installed-for-tests
  wanted=$(cat tests/server/requirements.txt)
  [[ -f $stamp && $(< "$stamp") == "$wanted" ]] && return
  say "Installing Python packages of the tests into .venv"
  # One that was interrupted half-way has no pip.
  .venv/bin/python3 -m pip --version > /dev/null 2>&1 || python3 -m venv --clear .venv
  if .venv/bin/python3 -m pip install --quiet --disable-pip-version-check \
    -r tests/server/requirements.txt; then
    echo "$wanted" > "$stamp"
  else
    echo "Some could not be installed; the tests that need them will be skipped." >&2
  fi
}

if ((${#missing[@]} == 0)); then
  echo "All ${#packages[@]} Debian packages are installed."
  install_python_packages
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo > /dev/null ||
    die "run this as root, or install sudo; missing packages: ${missing[*]}"
  as_root=(sudo)
fi
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" < /dev/null
}
say "Installing ${missing[*]}"
apt update || echo "Some package lists could not be refreshed; going on with those there are." >&2
apt install --no-install-recommends --no-upgrade "${missing[@]}"
install_python_packages
