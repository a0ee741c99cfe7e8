#!/usr/bin/env bash
# hard negatives for 20,000 anchors over 200,000 texts x 384 d, against mine_hard_negatives of sentence-transformers with FAISS
# mining.sh URL. One thread on both sides. Takes the Python of the self-hosted trainer (or PYTHON=...); without it only our side is shown.
source "$(dirname "$0")/../scripts/env.sh"

url=$1 dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 777 "$dir"
sql() { "$PGFT_BIN/psql" --quiet --no-psqlrc --set ON_ERROR_STOP=1 "$@" "$url"; }
PYTHON=${PYTHON:-$TRAINER_VENV/bin/python}
here=$(dirname "${BASH_SOURCE[0]}")
sql --file "$here/mining/data.sql"
sql --file "$here/mining/ours.sql" --set out="$dir"
[ -d "$PGFT_PYTHON/faiss-cpu-1.15.1" ] || python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$PGFT_PYTHON/faiss-cpu-1.15.1" faiss-cpu==1.15.1
if [ -x "$PYTHON" ]; then
    export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
    options='{"range_min": 10, "range_max": 50, "max_score": 0.95, "relative_margin": 0.05, "num_negatives": 4, "use_faiss": true}'
    PYTHONPATH=$PGFT_PYTHON/faiss-cpu-1.15.1 "$PYTHON" "$here/mining/library.py" "$dir" "$options" || say "the library's side failed"
    sql --file "$here/mining/compare.sql" --set out="$dir"
else
    say "no Python of the self-hosted trainer: scripts/trainer.sh test installs it"
fi
