#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The paper's ablation row (c), "no learned Λ": as posed_re10k.sh, but λ is one number everywhere and stays it, since the
# uncertainty head, which begins as that number, is not trained. LAMBDA sets it (1).
#
#   LAMBDA=1 scripts/recipes/posed_re10k_global_lambda.sh [--print] RE10K [more arguments of ns-train]
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/posed_re10k.sh" "$@" \
    --pipeline.model.uncertainty-head.initial "${LAMBDA:-1}" \
    --pipeline.model.training.uncertainty-head.pretrain-rate 0 --pipeline.model.training.uncertainty-head.bilevel-rate 0
