-- The application that the demo plays: podcasts, cut into passages, shown to listeners one by one.
-- pg_finetune is told about it by the view at the end; the application's tables know nothing of pg_finetune.

CREATE SCHEMA app;
SET search_path = app, public;

-- Who looks around later finds the same; and queries of a model need a wider search of the index than the default of 40.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database());
    EXECUTE format('ALTER DATABASE %I SET hnsw.ef_search = 100', current_database());
END
$$;
SET hnsw.ef_search = 100;

CREATE TABLE podcast (
    id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    title text NOT NULL UNIQUE
);

CREATE TABLE episode (
    id         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    podcast_id bigint NOT NULL REFERENCES podcast,
    title      text NOT NULL,
    year       integer NOT NULL
);

CREATE TABLE transcript_chunk (
    id           bigint PRIMARY KEY,
    episode_id   bigint NOT NULL REFERENCES episode,
    speaker_name text NOT NULL,
    content      text NOT NULL,
    embedding    vector(384) NOT NULL
);
CREATE INDEX transcript_chunk_embedding ON transcript_chunk USING hnsw (embedding vector_cosine_ops);

CREATE TABLE listener (
    id        uuid PRIMARY KEY,
    joined_at timestamptz NOT NULL
);
COMMENT ON TABLE listener IS 'Simulated people: their tastes are in no table';

CREATE TABLE signal (
    id              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    user_id         uuid NOT NULL REFERENCES listener,
    chunk_id        bigint NOT NULL REFERENCES transcript_chunk,
    session_id      uuid NOT NULL,
    position        integer NOT NULL,
    surface         text NOT NULL,
    relevance_score double precision,
    user_action     text CHECK (user_action IN ('saved', 'skipped', 'snipped')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    actioned_at     timestamptz,
    UNIQUE (user_id, chunk_id),
    UNIQUE (session_id, position)
);
COMMENT ON TABLE signal IS 'What was shown to whom, in which list and place, and what they did with it; user_action NULL = not looked at';

CREATE VIEW signal_for_training AS
SELECT s.id AS signal_id, s.user_id, s.chunk_id, c.content AS chunk_content, c.embedding, s.user_action, s.actioned_at,
       s.created_at AS shown_at, s.relevance_score, s.surface, s.session_id, s.position,
       e.title AS episode_title, p.title AS podcast_title, c.speaker_name
FROM signal s
JOIN transcript_chunk c ON c.id = s.chunk_id
JOIN episode e ON e.id = c.episode_id
JOIN podcast p ON p.id = e.podcast_id;
