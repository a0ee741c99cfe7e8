#!/usr/bin/env bash
# what capture adds to the application's writes, beside hand-written triggers that write the same rows
# Usage: capture.sh URL (of an empty database). ROUNDS rounds, the four tables in turn; the median counts.
# hand: a PL/pgSQL row trigger into our tables, whose profiles follow; bare: the same trigger into copies of them that have no profiles.
set -euo pipefail
url=$1
bin=${PGFT_BIN:-$(dirname "${PG_CONFIG:-$(command -v pg_config)}")}
rounds=${ROUNDS:-5}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sql() { "$bin/psql" --quiet --no-psqlrc --no-align --tuples-only --set ON_ERROR_STOP=1 "$url" "$@"; }
export PGOPTIONS='-c client_min_messages=warning'

sql >/dev/null <<'SQL'
CREATE EXTENSION pg_finetune CASCADE;
SELECT setseed(0.5);
-- 600 characters that do not compress and 384 dimensions: what a paragraph and a small embedding model give.
CREATE TABLE chunk (id bigint PRIMARY KEY, content text NOT NULL, embedding vector(384) NOT NULL);
INSERT INTO chunk SELECT i, (SELECT string_agg(md5(i::text || j), ' ') FROM generate_series(1, 18) j),
    (SELECT array_agg(random()) FROM generate_series(1, 384) WHERE i = i)::real[]::vector FROM generate_series(1, 1000) i;
CREATE TABLE plain (id bigint PRIMARY KEY, user_id text NOT NULL, chunk_id bigint NOT NULL REFERENCES chunk,
                    user_action text, actioned_at timestamptz, surface text NOT NULL DEFAULT 'feed', note text);
CREATE TABLE hand (LIKE plain INCLUDING ALL);
CREATE TABLE bare (LIKE plain INCLUDING ALL);
CREATE TABLE ours (LIKE plain INCLUDING ALL);
CREATE TABLE bare_point (LIKE training_data_point INCLUDING ALL) WITH (fillfactor = 50);
CREATE TABLE bare_log (LIKE model_performance_log INCLUDING ALL) WITH (fillfactor = 50);
CREATE VIEW ours_for_training AS
SELECT s.id AS signal_id, s.user_id, s.chunk_id, c.content AS chunk_content, c.embedding, s.user_action, s.actioned_at, s.surface
FROM ours s JOIN chunk c ON c.id = s.chunk_id;
CREATE FUNCTION hand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO model_performance_log (user_id, source, signal_id, user_action, surface, actioned_at)
    VALUES (NEW.user_id, 'hand', NEW.id, NEW.user_action, NEW.surface, NEW.actioned_at)
    ON CONFLICT (user_id, source, signal_id) DO UPDATE SET user_action = EXCLUDED.user_action, actioned_at = EXCLUDED.actioned_at;
    INSERT INTO training_data_point (user_id, id, source, signal_id, chunk_id, chunk_content, embedding, user_action, actioned_at, surface, model_variant)
    SELECT NEW.user_id, 'hand:' || NEW.id, 'hand', NEW.id, NEW.chunk_id, c.content, c.embedding, NEW.user_action, NEW.actioned_at, NEW.surface, 'base'
    FROM chunk c WHERE c.id = NEW.chunk_id
    ON CONFLICT (user_id, source, signal_id) DO UPDATE SET user_action = EXCLUDED.user_action, actioned_at = EXCLUDED.actioned_at;
    RETURN NULL;
END $$;
CREATE TRIGGER hand AFTER UPDATE OF user_action ON hand FOR EACH ROW EXECUTE FUNCTION hand();
DO $$ BEGIN
    EXECUTE replace(replace(replace(pg_get_functiondef('hand()'::regprocedure), 'public.hand()', 'public.bare()'),
                            'model_performance_log', 'bare_log'), 'training_data_point', 'bare_point');
END $$;
CREATE TRIGGER hand AFTER UPDATE OF user_action ON bare FOR EACH ROW EXECUTE FUNCTION bare();
SELECT capture_signals('ours', via => 'ours_for_training');
-- Impressions, not timed: 70,000 per table.
INSERT INTO plain SELECT i, 'user-' || i % 2000, 1 + i % 1000 FROM generate_series(1, 70000) i;
INSERT INTO hand SELECT * FROM plain;
INSERT INTO bare SELECT * FROM plain;
INSERT INTO ours SELECT * FROM plain;
CREATE TABLE result (what text, tab text, us double precision);
-- Nanoseconds that this server process has been on a processor: other work on the machine does not count.
CREATE FUNCTION on_cpu() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::double precision / 1000 $$;
CREATE PROCEDURE measure(what text, tab text, rows int, query text) LANGUAGE plpgsql AS $$
DECLARE
    started double precision := on_cpu();
BEGIN
    EXECUTE query;
    INSERT INTO result VALUES (what, tab, (on_cpu() - started) / rows);
END $$;
SQL
sql -c 'VACUUM ANALYZE'

# one WHAT SET TRIGGER: statements of one row under pgbench, three tables side by side, so that whatever else the machine does
# meets all of them alike; three scripts begin with another table each. Latencies, the mean of all. Only one table with
# hand-written triggers at a time: two would keep their common code in the caches for each other.
one() {
    local tables=(plain "$3" ours) scripts=() first turn tab
    for first in 0 1 2; do
        scripts+=(--file "$scratch/$first.sql")
        echo '\set id random(50001, 70000)' >"$scratch/$first.sql"
        for turn in 0 1 2; do
            tab=${tables[(first + turn) % 3]}
            echo "UPDATE $tab SET $2 WHERE id = :id;" >>"$scratch/$first.sql"
        done
    done
    "$bin/pgbench" --no-vacuum --protocol prepared --transactions 4000 --report-per-command --random-seed "$RANDOM" "${scripts[@]}" "$url" 2>/dev/null |
        awk -v what="$1" '$3 == "UPDATE" { sum[$4] += $1; n[$4]++ }
            END { for (tab in sum) printf "INSERT INTO result VALUES ('\''%s'\'', '\''%s'\'', %f);\n", what, tab, 1000 * sum[tab] / n[tab] }' | sql
}
bulk() { sql -c "CALL measure('$1', '$2', 10000, \$\$$3\$\$)"; }

for ((round = 0; round < rounds; round++)); do
    from=$((round * 10000 + 1)) to=$(((round + 1) * 10000))
    sql -c CHECKPOINT
    for other in hand bare; do
        one 'action, 1 row' "user_action = CASE user_action WHEN 'saved' THEN 'skipped' ELSE 'saved' END, actioned_at = now()" $other
        one 'note, 1 row' "note = 'seen'" $other
    done
    for tab in plain hand bare ours; do
        sql -c CHECKPOINT
        bulk 'first action, 10,000 rows' $tab "UPDATE $tab SET user_action = 'saved', actioned_at = now() WHERE id BETWEEN $from AND $to"
        bulk 'other action, 10,000 rows' $tab "UPDATE $tab SET user_action = 'skipped', actioned_at = now() WHERE id BETWEEN $from AND $to"
        bulk 'note, 10,000 rows' $tab "UPDATE $tab SET note = 'seen' WHERE id BETWEEN $from AND $to"
        sql -c "VACUUM $tab" -c 'VACUUM training_data_point, model_performance_log, user_profile, bare_point, bare_log'
    done
done
"$bin/psql" --quiet --no-psqlrc "$url" <<'SQL'
\echo Microseconds per row, the median of all rounds: of 10,000 rows processor time in the server, of 1 row the latency. added_to_X = (captured - plain) / (X - plain); ratio_total = captured / plain
WITH usual AS (SELECT what, tab, percentile_cont(0.5) WITHIN GROUP (ORDER BY us) AS us FROM result GROUP BY what, tab)
SELECT p.what, round(p.us::numeric, 2) AS plain, round(h.us::numeric, 2) AS hand, round(b.us::numeric, 2) AS bare, round(o.us::numeric, 2) AS captured,
       CASE WHEN p.what LIKE '%action%' THEN round(((o.us - p.us) / (h.us - p.us))::numeric, 2) END AS added_to_hand,
       CASE WHEN p.what LIKE '%action%' THEN round(((o.us - p.us) / (b.us - p.us))::numeric, 2) END AS added_to_bare,
       round((o.us / p.us)::numeric, 3) AS ratio_total
FROM usual p JOIN usual h USING (what) JOIN usual b USING (what) JOIN usual o USING (what)
WHERE p.tab = 'plain' AND h.tab = 'hand' AND b.tab = 'bare' AND o.tab = 'ours' ORDER BY 1;
SQL

# Memory of a statement that acts upon a million rows, and upon a tenth of them: the server process's own at its end.
for rows in 100000 1000000; do
    sql --set rows=$rows <<'SQL' >/dev/null
TRUNCATE ours, training_data_point, model_performance_log;
INSERT INTO ours SELECT i, 'user-' || i % 2000, 1 + i % 1000 FROM generate_series(1, :rows) i;
SQL
    sql --set rows=$rows <<'SQL'
UPDATE ours SET user_action = 'saved', actioned_at = now();
SELECT format('UPDATE of %s rows in one statement: %s of %s captured, %s MB of its own memory in the server process at the most', :rows,
    (SELECT count(*) FROM training_data_point WHERE user_action = 'saved'), count(*),
    (substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s*(\d+)')::int - substring(pg_read_file('/proc/self/status') FROM 'RssShmem:\s*(\d+)')::int) / 1024) FROM ours;
SQL
done
