# SPDX-License-Identifier: Apache-2.0
"""Decisions that several kernels take by the same numbers leave nvcc no choice of fused or rounded operations."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "ns_diff3r" / "csrc" / "cuda"
KERNELS = """
#include "pair.h"
using namespace ns_diff3r::cuda;
extern "C" __global__ void count_tiles(const Record<float>* records, int* out, int width) {
  int count = 0;
  for (int x = 0; x < width; ++x) count += reaches(records[threadIdx.x], float(16 * x), 0.5f, 15.0f, 15.0f) ? 1 : 0;
  out[threadIdx.x] = count;
}
extern "C" __global__ void decide(const Record<float>* records, ns_diff3r::RasterizationConfig<float> config,
                                  bool* out, float* alpha) {
  const Record<float>& record = records[threadIdx.x];
  const PairAlpha<float> pair = pair_alpha<false>(config, record, record, alpha[0], alpha[1]);
  out[threadIdx.x] = pair.contributes;
  alpha[threadIdx.x] = passed_on(pair.alpha);
}
"""


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_nothing_is_left_to_contract(tmp_path):
    source = tmp_path / "decisions.cu"
    source.write_text(KERNELS)
    texts = []
    for fused in ("true", "false"):
        out = tmp_path / f"{fused}.ptx"
        options = ["-std=c++17", "-O3", "-arch=compute_90", f"-fmad={fused}", f"-I{SOURCES}"]
        subprocess.run(["nvcc", *options, "-ptx", str(source), "-o", str(out)], check=True, capture_output=True)
        texts.append([line for line in out.read_text().splitlines() if line and not line.startswith("//")])
    assert any("fma.rn.f32" in line for line in texts[0])
    # a product that does not name its rounding may still be fused by the assembler
    assert not [line for line in texts[0] if "mul.f32" in line]
    assert [line.replace(".rn.", ".") for line in texts[0]] == [line.replace(".rn.", ".") for line in texts[1]]
