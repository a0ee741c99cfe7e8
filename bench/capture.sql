-- what capture adds to the application's writes (384 dimensions, one join)
CREATE EXTENSION pg_finetune CASCADE;
SELECT setseed(0.5);
CREATE TABLE chunk (id bigint PRIMARY KEY, content text NOT NULL, embedding vector(384) NOT NULL);
INSERT INTO chunk SELECT i, repeat('word ' || i || ' ', 60), (SELECT array_agg(random()) FROM generate_series(1, 384) WHERE i = i)::real[]::vector
FROM generate_series(1, 1000) i;
CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text NOT NULL, chunk_id bigint NOT NULL REFERENCES chunk,
                    user_action text, actioned_at timestamptz, surface text NOT NULL DEFAULT 'feed');
CREATE TABLE captured (LIKE plain INCLUDING ALL);
CREATE VIEW captured_for_training AS
SELECT s.id AS signal_id, s.user_id, s.chunk_id, c.content AS chunk_content, c.embedding, s.user_action, s.actioned_at, s.surface
FROM captured s JOIN chunk c ON c.id = s.chunk_id;
SELECT capture_signals('captured', via => 'captured_for_training') \g /dev/null

CREATE TABLE result (what text, tab text, ms_per_row double precision);
CREATE PROCEDURE measure(tab text) LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz := clock_timestamp();
BEGIN
    FOR i IN 1..2000 LOOP
        EXECUTE format('INSERT INTO %I (user_id, chunk_id) VALUES ($1, $2)', tab) USING 'user-' || i % 200, 1 + i % 1000;
        COMMIT;
    END LOOP;
    INSERT INTO result VALUES ('one row a statement', tab, extract(epoch FROM clock_timestamp() - started) * 1000 / 2000);
    started := clock_timestamp();
    EXECUTE format('INSERT INTO %I (user_id, chunk_id) SELECT ''bulk-'' || i %% 200, 1 + i %% 1000 FROM generate_series(1, 20000) i', tab);
    COMMIT;
    INSERT INTO result VALUES ('20,000 rows a statement', tab, extract(epoch FROM clock_timestamp() - started) * 1000 / 20000);
    started := clock_timestamp();
    EXECUTE format('UPDATE %I SET user_action = ''saved'', actioned_at = now() WHERE user_id LIKE ''bulk-%%''', tab);
    COMMIT;
    INSERT INTO result VALUES ('20,000 actions a statement', tab, extract(epoch FROM clock_timestamp() - started) * 1000 / 20000);
END $$;
CALL measure('plain');
CALL measure('captured');
SELECT p.what, round(p.ms_per_row::numeric, 4) AS plain_ms_per_row, round(c.ms_per_row::numeric, 4) AS captured_ms_per_row,
       round((c.ms_per_row / p.ms_per_row)::numeric, 1) AS ratio
FROM result p JOIN result c USING (what) WHERE p.tab = 'plain' AND c.tab = 'captured' ORDER BY 1 DESC;
