SET max_parallel_workers_per_gather = 0;
CREATE TABLE ours (user_id text, anchor text, positive text, negative text);
CREATE TABLE took (side text, seconds double precision, on_cpu double precision);
CREATE FUNCTION on_cpu() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::double precision / 1e9 $$;
DO $$
DECLARE
    started timestamptz := clock_timestamp();
    before double precision := on_cpu();
BEGIN
    INSERT INTO ours SELECT (t).user_id, (t).anchor_id, (t).positive_id, (t).negative_id
    FROM (SELECT contrastive_triplets('mining', 4, own_skips => false) AS t OFFSET 0) x;
    INSERT INTO took VALUES ('ours', extract(epoch FROM clock_timestamp() - started), on_cpu() - before);
END $$;
SELECT triplet_plan('mining') LIMIT 1;
\set pairs :out '/pairs.csv'
\set vectors :out '/vectors.csv'
-- the pairs that the triplets are made of: the same draw
COPY (SELECT replace(line::json ->> 'anchor', 'passage ', ''), replace(line::json ->> 'positive', 'passage ', '') FROM export_jsonl('mining', 'pair') line)
TO :'pairs' WITH (FORMAT csv);
COPY (SELECT id, embedding FROM dataset_example ORDER BY id::int) TO :'vectors' WITH (FORMAT csv);
