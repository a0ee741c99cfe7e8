#!/usr/bin/env bash
# Shadow scoring: deployed models that are better, as good or worse, and how often either comparison takes them back.
source "$(dirname "$0")/../scripts/env.sh"

cd "$PGFT_ROOT"
cargo test --profile release --no-default-features --features pg18 --test core -- --ignored --nocapture who_is_taken_back | grep -E 'rolled back|, (picked|shown)'
