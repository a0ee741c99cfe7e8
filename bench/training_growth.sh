#!/usr/bin/env bash
# How one training grows with the number of actions: seconds, and the most memory that its process had.
#   bench/training_growth.sh [ACTIONS...]          default: 10000 100000 1000000; 384 dimensions, 100 actions a user, 20 an item
# Frozen examples are written straight into the dataset, so that only the training is measured. The last size runs once more
# with little memory: its vectors are then read from a temporary file, and the model must be the same.
source "$(dirname "$0")/../scripts/env.sh"
[ $# -gt 0 ] || set -- 10000 100000 1000000
dir=/tmp/pgft.growth.$$
trap '"$PGFT_ROOT/scripts/cluster.sh" destroy "$dir"' EXIT
"$PGFT_ROOT/scripts/cluster.sh" create "$dir" shared_preload_libraries=pg_finetune shared_buffers=16MB wal_level=minimal max_wal_senders=0 \
    max_wal_size=4GB synchronous_commit=off
"$PGFT_ROOT/scripts/cluster.sh" start "$dir"
sql() {
    PGOPTIONS='-c client_min_messages=warning' "$PGFT_BIN/psql" --quiet --no-psqlrc --tuples-only --no-align --set ON_ERROR_STOP=1 \
        "$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" growth)" "$@"
}
"$PGFT_BIN/psql" --quiet "$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" postgres)" -c 'CREATE DATABASE growth TEMPLATE template0'
sql -c 'CREATE EXTENSION pg_finetune CASCADE'

freeze() { # ACTIONS
    sql --set n="$1" <<'SQL'
SELECT setseed(0.5) \g /dev/null
DROP TABLE IF EXISTS item;
CREATE UNLOGGED TABLE item AS
SELECT i AS id, sha256(('item ' || i)::bytea) AS hash, v AS taste, (v || ARRAY(SELECT random() - 0.45 + 0 * i FROM generate_series(1, 382))::real[])::vector AS embedding
FROM generate_series(0, :n / 20 - 1) i CROSS JOIN LATERAL (SELECT ARRAY[random() - 0.5 + 0 * i, random() - 0.5]::real[] AS v) x;
CREATE INDEX ON item (id);
INSERT INTO dataset (name, version, dimensions, positive, seed, examples, users, report, digest)
VALUES ('growth ' || :n, 1, 384, '{saved,snipped}', 1, :n, :n / 100, '{}', '');
INSERT INTO dataset_example (user_id, dataset_id, id, chunk_content, content_hash, embedding, user_action, label, evidence, split, surface, shown_at, actioned_at)
SELECT 'user ' || u, d.id, k::text, 'item ' || i.id, i.hash, i.embedding, CASE WHEN s THEN 'saved' ELSE 'skipped' END, s,
       CASE WHEN s THEN 'good' ELSE 'bad' END, CASE WHEN k > 70 THEN 'test' ELSE 'train' END, 'list', t, t
FROM generate_series(1, :n / 100) u CROSS JOIN generate_series(1, 100) k
JOIN item i ON i.id = (u::bigint * 7919 + k * 104729) % (:n / 20)
CROSS JOIN LATERAL (SELECT i.taste[1] * sin(u) + i.taste[2] * cos(u) > 0, timestamptz '2026-01-01' + k * interval '1 hour') x (s, t)
JOIN dataset d ON d.name = 'growth ' || :n;
ANALYZE dataset_example;
SQL
}

run() { # ACTIONS MEMORY
    sql -c "ALTER SYSTEM SET pg_finetune.training_memory = '$2'" -c 'SELECT pg_reload_conf()' >/dev/null
    sql <<SQL
SELECT fine_tune('growth $1', hyperparameters => '{"epochs": 5}') AS job \gset
CALL wait_for_job(:'job') \g /dev/null
SELECT format('%10s actions %7s MB of vectors %7s allowed %7s s %6s MB at most   %s  %s',
              '$1', round(2 * $1 / 20 * 384 * 4 / 1e6), '$2', round(extract(epoch FROM j.finished_at - j.started_at), 1),
              (SELECT (e.data ->> 'bytes')::bigint / 1000000 FROM fine_tuning_event e WHERE e.job_id = :'job' AND e.message LIKE 'at most%'),
              left(encode(a.digest, 'hex'), 12), a.report ->> 'chosen')
FROM fine_tuning_jobs j JOIN adapter a USING (model_id) WHERE j.id = :'job';
SQL
}

for actions in "$@"; do
    freeze "$actions"
    run "$actions" 1GB
done
run "$actions" 16MB
