#!/usr/bin/env bash
# Packs the GPU tests and benches with the libraries they need into one archive, for a machine that
# has a GPU, a driver and cuBLAS, and none of msadb's packages. There:
#
#   mkdir -p /tmp/gpu && python3 -m tarfile -e gpu-pack.tar.xz /tmp/gpu && /tmp/gpu/run.sh --list
#
#   bench/gpu/pack.sh [BUILD_FOLDER [ARCHIVE]]     default: build/release, BUILD_FOLDER/gpu-pack.tar.xz
#
# BUILD_FOLDER is configured with CUDA; what is out of date in it is built. JOBS (default 2) says
# with how many processes.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${1:-build/release}")
archive=$(realpath -m "${2:-$build/gpu-pack.tar.xz}")
programs=(kernels_cuda_backend_test kernels_cuda_route_test model_cuda_test index_gpu_test index_property_test
  storage_block_cache_test db_database_test db_gpu_test db_gpu_failure_test bench_gpu_model route_topk_bench gpu_search_bench
  gpu_question_bench db_bench)
cmake --build "$build" -j "${JOBS:-2}" --target "${programs[@]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/lib" "$work/data"
for program in "${programs[@]}"; do
  found=$(find "$build" -type f -name "$program" -perm -u+x -print -quit)
  strip -o "$work/bin/$program" "$found"
  # Everything but the C library, which must be the machine's own.
  ldd "$found" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -vE '/(libc|libm|libdl|librt|libpthread)\.so' | while read -r library; do
      [ -e "$work/lib/$(basename "$library")" ] ||
        strip --strip-unneeded -o "$work/lib/$(basename "$library")" "$(realpath "$library")"
    done
done
cp -r tests/data/msa "$work/data/"
cp bench/gpu/run.sh "$work/"
tar -C "$work" -cf - . | xz -T0 -6 >"$archive"
echo "$archive: $(stat -c %s "$archive") bytes; unpacked $(du -sb "$work" | cut -f1)"
