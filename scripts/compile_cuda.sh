#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles the CUDA sources (no device needed), warnings being errors, and prints registers, spills and shared memory of
# every kernel. Fails where a kernel spills that is not known to.
#
#   scripts/compile_cuda.sh
#
#   NVCC                       the compiler (default: nvcc)
#   NS_DIFF3R_CUDA_TARGETS     real architectures, the last one as PTX too (default: "80 90")
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

nvcc=${NVCC:-nvcc}
read -r -a targets <<<"${NS_DIFF3R_CUDA_TARGETS:-80 90}"
flags=(-std=c++17 -O3 --threads 2 -Werror all-warnings -Xcompiler -fPIC,-Wall,-Werror --resource-usage
    -DNS_CUDA_ARCHITECTURES='"check"')
for target in "${targets[@]}"; do flags+=(-gencode "arch=compute_$target,code=sm_$target"); done
flags+=(-gencode "arch=compute_${targets[-1]},code=compute_${targets[-1]}")

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$nvcc" --version | tail -n 2 | head -n 1
for source in ns_diff3r/csrc/cuda/*.cu; do
    start=$SECONDS
    name=$(basename "$source" .cu)
    if ! "$nvcc" "${flags[@]}" -c "$source" -o "$out/$name.o" >"$out/$name.log" 2>&1; then
        cat "$out/$name.log"
        printf 'FAILED: %s\n' "$source"
        exit 1
    fi
    printf '%-28s %4d s\n' "$name" $((SECONDS - start))
done
cat "$out"/*.log | python3 scripts/kernel_resources.py
