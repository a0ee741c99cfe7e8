-- Class 1 of 3, data: keyed by user. user_id leads every primary key and unique index, ids are text or uuid,
-- no foreign key leaves the class (docs/decisions.md, "three classes of tables").

CREATE TABLE training_data_point (
    user_id              text NOT NULL CHECK (user_id OPERATOR(pg_catalog.<>) ''),
    id                   text NOT NULL DEFAULT pg_catalog.gen_random_uuid()::text,
    source               text NOT NULL DEFAULT 'api',
    signal_id            text,
    chunk_id             text,
    chunk_content        text NOT NULL,
    embedding            vector,
    query_embedding      vector,
    user_action          text CHECK (user_action OPERATOR(pg_catalog.=) ANY (ARRAY['saved', 'skipped', 'snipped'])),
    actioned_at          timestamptz,
    relevance_score      double precision,
    quality_score        double precision,
    episode_title        text,
    podcast_title        text,
    speaker_name         text,
    reason               text,
    surface              text,
    session_id           text,
    model_variant        text,
    model_id             text,
    position             integer,
    propensity           double precision,
    shown_at             timestamptz NOT NULL DEFAULT pg_catalog.now(),
    changes              integer NOT NULL DEFAULT 0,
    created_at           timestamptz NOT NULL DEFAULT pg_catalog.now(),
    used_for_training    boolean NOT NULL DEFAULT false,
    training_set_version integer,
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, source, signal_id)
);
COMMENT ON TABLE training_data_point IS 'What each user did with each item shown: one row per (user, source, signal); user_action NULL = shown, still pending';
COMMENT ON COLUMN training_data_point.id IS 'source:signal_id for captured rows, random for rows written by hand';
COMMENT ON COLUMN training_data_point.source IS 'name of the captured table (capture_source.name), or ''api''';
COMMENT ON COLUMN training_data_point.query_embedding IS 'vector of the question that the user had typed and that the item answered; NULL = none was asked';
COMMENT ON COLUMN training_data_point.surface IS 'screen or list that showed the item; saves and skips are only compared within one surface';
COMMENT ON COLUMN training_data_point.reason IS 'what the user or the application said about the action; chat exports put it into the answer';
COMMENT ON COLUMN training_data_point.propensity IS 'probability with which the item was shown, in (0, 1]; NULL = unknown';
COMMENT ON COLUMN training_data_point.changes IS 'how often the user changed a mind already recorded';
COMMENT ON COLUMN training_data_point.used_for_training IS 'true once a dataset froze this row; training_set_version says which last';
-- No index on what an action changes, and room on each page for one action per row: it then touches no index at all.
ALTER TABLE training_data_point SET (fillfactor = 50);
SELECT pg_catalog.pg_extension_config_dump('training_data_point', '');

CREATE TABLE model_performance_log (
    user_id         text NOT NULL CHECK (user_id OPERATOR(pg_catalog.<>) ''),
    source          text NOT NULL DEFAULT 'api',
    signal_id       text NOT NULL,
    team_id         text CHECK (team_id OPERATOR(pg_catalog.<>) ''),
    model_variant   text NOT NULL DEFAULT 'base',
    model_id        text,
    experiment      text,
    phase           integer,
    user_action     text CHECK (user_action OPERATOR(pg_catalog.=) ANY (ARRAY['saved', 'skipped', 'snipped'])),
    relevance_score double precision,
    surface         text,
    session_id      text,
    position        integer,
    propensity      double precision,
    shown_at        timestamptz NOT NULL DEFAULT pg_catalog.now(),
    actioned_at     timestamptz,
    PRIMARY KEY (user_id, source, signal_id)
);
COMMENT ON TABLE model_performance_log IS 'Every impression with the variant and model that served it, and what the user then did: the input of all metrics';
COMMENT ON COLUMN model_performance_log.experiment IS 'experiment that assigned the variant at shown_at; NULL = none ran, or the user was not in it';
COMMENT ON COLUMN model_performance_log.phase IS 'experiment_phase.phase at shown_at';
COMMENT ON COLUMN model_performance_log.team_id IS 'team of the user when the item was shown: what experiments with unit team_id draw and count by; NULL = none';
ALTER TABLE model_performance_log SET (fillfactor = 50);
CREATE INDEX model_performance_log_experiment ON model_performance_log (experiment, phase, shown_at);
SELECT pg_catalog.pg_extension_config_dump('model_performance_log', '');

CREATE TABLE dataset_example (
    user_id         text NOT NULL,
    dataset_id      uuid NOT NULL,
    id              text NOT NULL,
    chunk_id        text,
    chunk_content   text NOT NULL,
    content_hash    bytea NOT NULL,
    twin_of         bytea,
    embedding       vector,
    query_embedding vector,
    user_action     text NOT NULL CHECK (user_action OPERATOR(pg_catalog.=) ANY (ARRAY['saved', 'skipped', 'snipped', 'ignored'])),
    label           boolean NOT NULL,
    evidence        text NOT NULL CHECK (evidence OPERATOR(pg_catalog.=) ANY (ARRAY['good', 'bad', 'mistake', 'ignored'])),
    weight          double precision NOT NULL DEFAULT 1 CHECK (weight OPERATOR(pg_catalog.>) 0),
    split           text NOT NULL CHECK (split OPERATOR(pg_catalog.=) ANY (ARRAY['train', 'test'])),
    relevance_score double precision,
    surface         text,
    session_id      text,
    context         text,
    reason          text,
    shown_at        timestamptz NOT NULL,
    actioned_at     timestamptz NOT NULL,
    PRIMARY KEY (user_id, dataset_id, id)
);
COMMENT ON TABLE dataset_example IS 'Frozen examples of each dataset: copies, so that later changes and deletions of signals do not change what a model was trained on (forget_user does remove them)';
COMMENT ON COLUMN dataset_example.id IS 'training_data_point.id of the same user';
COMMENT ON COLUMN dataset_example.twin_of IS 'content_hash of the text that this one is a near copy of; NULL = none';
COMMENT ON COLUMN dataset_example.reason IS 'training_data_point.reason when frozen';
COMMENT ON COLUMN dataset_example.query_embedding IS 'vector of the question that the item was shown for; NULL = none';
COMMENT ON COLUMN dataset_example.label IS 'true = positive (by default saved and snipped), false = negative';
COMMENT ON COLUMN dataset_example.evidence IS 'good = positive, bad = negative, mistake = the score said the opposite of what the user did, ignored = shown for long and left alone';
COMMENT ON COLUMN dataset_example.split IS 'train = older, test = newest; the same chunk text never stands on both sides';
COMMENT ON COLUMN dataset_example.context IS 'titles and speaker in one line, for text formats';
CREATE INDEX dataset_example_dataset ON dataset_example (dataset_id, user_id, id);
SELECT pg_catalog.pg_extension_config_dump('dataset_example', '');

CREATE TABLE satisfaction_survey (
    user_id     text NOT NULL CHECK (user_id OPERATOR(pg_catalog.<>) ''),
    id          uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    experiment  text,
    variant     text,
    score       smallint NOT NULL CHECK (score BETWEEN 1 AND 5),
    comment     text,
    answered_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (user_id, id)
);
COMMENT ON TABLE satisfaction_survey IS 'Answers to "how well did these suggestions fit?", 1 (not at all) to 5 (very well), with the variant that served the user at that time';
SELECT pg_catalog.pg_extension_config_dump('satisfaction_survey', '');

CREATE TABLE data_point_vector (
    user_id   text NOT NULL,
    id        text NOT NULL,
    model_id  text NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (user_id, id, model_id)
);
COMMENT ON TABLE data_point_vector IS 'Vectors under a re-embedded model of what users saved: what user_query() starts from for users of that model. A row counts while its data point is there and saved';
COMMENT ON COLUMN data_point_vector.id IS 'training_data_point.id of the same user';
SELECT pg_catalog.pg_extension_config_dump('data_point_vector', '');

CREATE TABLE chat_answer (
    user_id           text NOT NULL CHECK (user_id OPERATOR(pg_catalog.<>) ''),
    dataset_id        uuid NOT NULL,
    example_id        text NOT NULL,
    provider          text NOT NULL,
    answered_by       text NOT NULL,
    question          bytea NOT NULL,
    label             boolean,
    answer            text NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    usd               numeric,
    answered_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (user_id, dataset_id, example_id, provider, answered_by)
);
COMMENT ON TABLE chat_answer IS 'What chat models at providers answered about held-out examples: kept, so that an interrupted evaluate_model() goes on where it was and no answer is paid for twice';
COMMENT ON COLUMN chat_answer.answered_by IS 'the model''s name at the provider';
COMMENT ON COLUMN chat_answer.question IS 'sha256 of what was asked: with other words in the template it is asked anew';
COMMENT ON COLUMN chat_answer.label IS 'true = would save; NULL = the answer was neither yes nor no';
COMMENT ON COLUMN chat_answer.answer IS 'its first 200 characters';
COMMENT ON COLUMN chat_answer.usd IS 'at the prices of provider_price when it was asked; NULL = no price known';
SELECT pg_catalog.pg_extension_config_dump('chat_answer', '');

-- Without CHECKs, which are parsed anew for each statement: its rows come from data points, which have them.
CREATE TABLE user_profile (
    user_id     text NOT NULL,
    id          uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    user_action text NOT NULL,
    dimensions  integer NOT NULL,
    points      bigint NOT NULL,
    total       bytea NOT NULL,
    PRIMARY KEY (user_id, id)
);
-- In the row itself as long as it fits on a page, with room for the next version beside it.
ALTER TABLE user_profile ALTER COLUMN total SET STORAGE EXTERNAL;
ALTER TABLE user_profile SET (toast_tuple_target = 8160, fillfactor = 50);
COMMENT ON TABLE user_profile IS 'Sums of the unit vectors of training_data_point by user, action and dimensions, kept by its triggers: the profile is the sum of a user''s rows, however many';
COMMENT ON COLUMN user_profile.points IS 'how many vectors the sum holds; a row that takes away has less than none';
COMMENT ON COLUMN user_profile.total IS 'fixed point, 2^32 = 1, one little-endian int8 per dimension: what is added and taken away again leaves nothing behind';
-- A restore fills the data points, and so this table through their triggers.
SELECT pg_catalog.pg_extension_config_dump('user_profile', 'WHERE false');

CREATE TABLE adapter_head (
    user_id  text NOT NULL CHECK (user_id OPERATOR(pg_catalog.<>) ''),
    model_id text NOT NULL,
    head     real[] NOT NULL,
    PRIMARY KEY (user_id, model_id)
);
ALTER TABLE adapter_head ALTER COLUMN head SET STORAGE EXTERNAL;
COMMENT ON TABLE adapter_head IS 'A direction of each user''s own, learned from this user''s actions alone where a database has fewer than 16 users: half of the query vector under that model';
COMMENT ON COLUMN adapter_head.head IS 'of length 1, as many numbers as the model has dimensions';
SELECT pg_catalog.pg_extension_config_dump('adapter_head', '');
CREATE TABLE shadow_score (
    user_id       text NOT NULL CHECK (user_id OPERATOR(pg_catalog.<>) ''),
    deployment_id bigint NOT NULL,
    source        text NOT NULL,
    signal_id     text NOT NULL,
    surface       text,
    shown_at      timestamptz NOT NULL,
    scored_at     timestamptz,
    saved         boolean,
    score         real,
    spread        real,
    earlier_score real,
    earlier_spread real,
    PRIMARY KEY (user_id, deployment_id, source, signal_id)
);
COMMENT ON TABLE shadow_score IS 'A sample of live impressions, scored by the deployed model and by what served before it, each with the user''s profile as it was before the item was shown';
COMMENT ON COLUMN shadow_score.deployment_id IS 'deployment.id of what was live when the item was shown';
COMMENT ON COLUMN shadow_score.scored_at IS 'NULL = the user has not decided yet';
COMMENT ON COLUMN shadow_score.score IS 'cosine with the query vector of the deployed model; NULL = the user had no profile then, or the item has no vector';
COMMENT ON COLUMN shadow_score.spread IS 'standard deviation of the cosines of a hundred items of all kinds with the same query vector';
COMMENT ON COLUMN shadow_score.earlier_score IS 'the same under what served before';
CREATE INDEX shadow_score_shown ON shadow_score (deployment_id, shown_at);
SELECT pg_catalog.pg_extension_config_dump('shadow_score', '');
