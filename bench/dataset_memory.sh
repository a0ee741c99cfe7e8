#!/usr/bin/env bash
# how much memory create_dataset takes for 10 million points (narrow ones, of 16 dimensions): the peak of its server process
# dataset_memory.sh URL [POINTS]; each number of points beside a tenth of it, so that growth would show.
source "$(dirname "$0")/../scripts/env.sh"

url=$1 points=${2:-10000000}
export PGOPTIONS='-c client_min_messages=warning'
sql() { "$PGFT_BIN/psql" --quiet --no-psqlrc --set ON_ERROR_STOP=1 "$url" "$@"; }
sql -c 'CREATE EXTENSION pg_finetune CASCADE' -c 'CREATE TABLE result (points bigint, seconds numeric, start_mb numeric, peak_mb numeric, shared_mb numeric)'
from=1
for upto in $((points / 10)) "$points"; do
    # the triggers that keep profiles are not what is measured
    sql --set from="$from" --set upto="$upto" <<'SQL'
SET session_replication_role = replica;
INSERT INTO training_data_point (user_id, id, source, signal_id, chunk_id, chunk_content, embedding, user_action, actioned_at, shown_at, surface)
SELECT 'user-' || i % 100000, 'signal:' || i, 'signal', i::text, (i / 3)::text, 'passage ' || i / 3,
       ARRAY(SELECT sin(i / 3 * 0.37 + k) FROM generate_series(1, 16) k)::vector,
       CASE WHEN i / 100000 % 3 = 0 THEN 'saved' ELSE 'skipped' END, t, t, 'feed'
FROM (SELECT i, '2026-01-01'::timestamptz + i * interval '1 s' AS t FROM generate_series(:from, :upto) i) s;
SQL
    sql -c 'VACUUM ANALYZE training_data_point'
    sql <<'SQL'
CREATE FUNCTION pg_temp.mb(field text) RETURNS numeric LANGUAGE sql VOLATILE AS
$$ SELECT round(substring(pg_read_file('/proc/self/status') FROM field || ':\s*(\d+)')::numeric / 1024) $$;
SELECT pg_temp.mb('RssAnon') AS start, clock_timestamp() AS started \gset
SELECT create_dataset('memory', min_user_saved => 1, min_user_skipped => 0) \g /dev/null
INSERT INTO result SELECT (SELECT report ->> 'points' FROM dataset ORDER BY version DESC LIMIT 1)::bigint,
    round(extract(epoch FROM clock_timestamp() - :'started')), :start, pg_temp.mb('VmHWM'), pg_temp.mb('RssShmem');
SELECT drop_dataset('memory') \g /dev/null
SQL
    from=$((upto + 1))
done
sql -c "SELECT points, seconds, start_mb AS \"own memory before, MB\", peak_mb AS \"peak, MB\", shared_mb AS \"of it shared buffers, MB\", peak_mb - shared_mb AS \"own at peak, MB\" FROM result ORDER BY points"
