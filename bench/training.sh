#!/usr/bin/env bash
# One training run against the same algorithm in numpy and torch: bench/training.sh [PYTHON with numpy and torch]
source "$(dirname "$0")/../scripts/env.sh"
python=${1:-python3}
"$python" -c 'import numpy' 2>/dev/null || { say "skipped: $python has no numpy"; exit 0; }
cd "$PGFT_ROOT"
cargo test --release --quiet --test core -- --ignored --nocapture time_of_a_run |
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 "$python" bench/training.py
