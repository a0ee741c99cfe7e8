#!/usr/bin/env bash
# Tests of two equal models, looked at every day: how often a winner is found where there is none, by users and by events.
source "$(dirname "$0")/../scripts/env.sh"

"$PGFT_ROOT/scripts/setup.sh"
cd "$PGFT_ROOT"
PG_FINETUNE_SIMULATIONS=${PG_FINETUNE_SIMULATIONS:-5000} cargo test --profile release --no-default-features --features pg18 --test core -- \
    --nocapture equal_models_are_hardly_ever_told_apart | sed -n '/experiments without/,/fixed horizon/p'
