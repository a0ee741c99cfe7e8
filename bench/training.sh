#!/usr/bin/env bash
# one training run against the same algorithm in numpy and torch, one thread each
# training.sh [PYTHON with numpy and torch]; without one, that of the self-hosted trainer.
source "$(dirname "$0")/../scripts/env.sh"
python=${1:-$TRAINER_VENV/bin/python}
"$python" -c 'import numpy, torch' 2>/dev/null || { say "skipped: no Python with numpy and torch: scripts/trainer.sh test installs one"; exit 0; }
cd "$PGFT_ROOT"
cargo test --release --quiet --no-default-features --features "$(setting "postgres.$PGFT_MAJOR" feature)" --test core -- --ignored --nocapture time_of_a_run |
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 "$python" bench/training/numpy_and_torch.py
