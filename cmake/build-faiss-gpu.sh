#!/usr/bin/env bash
# Builds FAISS's brute-force GPU search from Debian's source package of the installed libfaiss.
#
#   build-faiss-gpu.sh FOLDER [NVCC] [ARCHITECTURE] [JOBS]
#
# Debian builds libfaiss without its GPU code. This fetches the source of exactly the installed
# version (apt checks its signature), compiles the files that faiss::gpu::bfKnn needs for one
# architecture (about 6 minutes on two cores) and leaves in FOLDER:
#   libfaiss_gpu.a        to be linked before libfaiss.a
#   include/faiss/gpu/    the headers
#   LICENSE               FAISS's (MIT)
# FOLDER is meant to be outside the build tree, so that this happens once. Objects already there are
# not compiled again: after an interruption it goes on where it stopped.
set -euo pipefail

folder=$1
nvcc=${2:-nvcc}
architecture=${3:-90}
jobs=${4:-$(nproc)}

die() {
  echo "build-faiss-gpu.sh: $*" >&2
  exit 1
}

version=$(dpkg-query -W -f '${source:Version}' libfaiss-dev 2> /dev/null) ||
  die "libfaiss-dev is not installed; run scripts/install-deps.sh"
mkdir -p "$folder/objects"
exec 9> "$folder/lock"
flock 9  # two builds at once would write the same objects
[[ -f $folder/libfaiss_gpu.a && -f $folder/include/faiss/gpu/GpuDistance.h ]] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The machine's own Debian sources, for source packages; the machine's settings stay as they are.
mkdir -p "$work/parts" "$work/lists/partial"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [[ -f $file ]] && sed -n 's/^deb /deb-src /p' "$file" > "$work/parts/$(basename "$file" .list).list"
done
for file in /etc/apt/sources.list.d/*.sources; do
  [[ -f $file ]] && sed 's/^Types:.*/Types: deb-src/' "$file" > "$work/parts/$(basename "$file")"
done
apt=(apt-get -q -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/parts"
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o "APT::Sandbox::User=root")
(
  cd "$work"
  "${apt[@]}" update > apt.log 2>&1 && "${apt[@]}" source --download-only "faiss=$version" >> apt.log 2>&1
) || {
  tail -5 "$work/apt.log" >&2
  die "cannot fetch Debian's source of faiss $version; check the network, or configure with
-DMSADB_FAISS_GPU=OFF (only the reference engine on GPUs is missing then)"
}
mkdir "$work/source"
tar xf "$work"/faiss_*.orig.tar.gz -C "$work/source" --strip-components=1

cd "$work/source"
sources=(
  faiss/gpu/{GpuDistance.cu,GpuResources.cpp,StandardGpuResources.cpp}
  faiss/gpu/impl/{BroadcastSum,Distance,IndexUtils,L2Norm,L2Select}.cu
  faiss/gpu/utils/{BlockSelectFloat,DeviceUtils,WarpSelectFloat}.cu
  faiss/gpu/utils/{StackDeviceMemory,Timer}.cpp
  faiss/gpu/utils/blockselect/BlockSelectFloat*.cu
  faiss/gpu/utils/warpselect/WarpSelectFloat*.cu
)
compile() {
  local source=$1 object
  object=$folder/objects/$(sed 's|^faiss/gpu/||; s|/|_|g' <<< "$source").o
  [[ -f $object ]] && return
  "$nvcc" -std=c++17 -O2 -arch="sm_$architecture" -x cu -Xcompiler -fPIC --expt-relaxed-constexpr \
    --expt-extended-lambda -w -I. -c "$source" -o "$object.part"
  mv "$object.part" "$object"
}
export -f compile
export folder nvcc architecture
printf '%s\n' "${sources[@]}" | xargs -P "$jobs" -I{} bash -ec 'compile {}'

mkdir -p "$folder/include"
find faiss/gpu -name "*.h" -exec cp --parents -t "$folder/include" {} +
cp LICENSE "$folder/"
rm -f "$folder/libfaiss_gpu.a.part"
objects=()
for source in "${sources[@]}"; do
  objects+=("$folder/objects/$(sed 's|^faiss/gpu/||; s|/|_|g' <<< "$source").o")
done
ar crs "$folder/libfaiss_gpu.a.part" "${objects[@]}"
mv "$folder/libfaiss_gpu.a.part" "$folder/libfaiss_gpu.a"
rm -rf "$folder/objects"
