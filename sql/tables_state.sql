-- Class 3 of 3, state of this node: identities and leases are fine here, no other class refers to it.

CREATE TABLE installation (
    system_identifier bigint NOT NULL,
    database_oid      oid NOT NULL,
    adopted_at        timestamptz NOT NULL DEFAULT pg_catalog.now(),
    worker_paused     boolean NOT NULL DEFAULT false,
    timeline          text,
    PRIMARY KEY (system_identifier, database_oid)
);
COMMENT ON TABLE installation IS 'Which database this is. In a restored or cloned copy a row of another database stands here, and the worker does nothing until adopt_database()';
COMMENT ON COLUMN installation.timeline IS 'WAL timeline the worker last worked on: another one means a promotion or a restore to a point in time, after which what was sent may be missing here';
INSERT INTO installation (system_identifier, database_oid)
SELECT s.system_identifier, d.oid
FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();
SELECT pg_catalog.pg_extension_config_dump('installation', '');

CREATE TABLE dataset (
    id            uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    name          text NOT NULL CHECK (name OPERATOR(pg_catalog.<>) ''),
    version       integer NOT NULL,
    dimensions    integer,
    positive      text[] NOT NULL,
    split_at      timestamptz,
    seed          bigint NOT NULL,
    examples      bigint NOT NULL,
    users         bigint NOT NULL,
    report        jsonb NOT NULL,
    digest        bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    created_by    text NOT NULL DEFAULT current_user,
    UNIQUE (name, version)
);
COMMENT ON TABLE dataset IS 'Frozen datasets: same name again = next version';
COMMENT ON COLUMN dataset.version IS 'the training_set_version that its data points carry';
COMMENT ON COLUMN dataset.report IS 'what was taken and what was left out, with counts and warnings';
COMMENT ON COLUMN dataset.digest IS 'sha256 over the sorted example ids, labels and splits';
SELECT pg_catalog.pg_extension_config_dump('dataset', '');

CREATE SEQUENCE fencing_token;
COMMENT ON SEQUENCE fencing_token IS 'every claim of a job takes the next number; a write with an older number touches nothing';
SELECT pg_catalog.pg_extension_config_dump('fencing_token', '');

CREATE TABLE fine_tuning_job (
    id               uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    dataset_id       uuid NOT NULL REFERENCES dataset (id),
    provider         text NOT NULL,
    base_model       text NOT NULL,
    method           text NOT NULL,
    hyperparameters  jsonb NOT NULL DEFAULT '{}',
    seed             bigint NOT NULL,
    state            text NOT NULL DEFAULT 'pending' CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY[
                         'pending', 'uploading', 'validating', 'queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired'])),
    stage            text NOT NULL DEFAULT 'waiting for a worker',
    progress         double precision NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    step             bigint NOT NULL DEFAULT 0,
    steps            bigint,
    loss             double precision,
    validation_auc   double precision,
    attempt          integer NOT NULL DEFAULT 0,
    max_attempts     integer NOT NULL DEFAULT 5 CHECK (max_attempts OPERATOR(pg_catalog.>) 0),
    token            bigint,
    holder_pid       integer,
    holder_started   timestamptz,
    lease_expires_at timestamptz,
    due_at           timestamptz NOT NULL DEFAULT pg_catalog.now(),
    deadline_at      timestamptz NOT NULL,
    cancel_requested boolean NOT NULL DEFAULT false,
    phase            text CHECK (phase OPERATOR(pg_catalog.=) ANY (ARRAY['prepare', 'ask', 'upload', 'estimate', 'create', 'find', 'dedupe', 'poll', 'events', 'cancel', 'clean'])),
    run_key          uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    base_url         text,
    intent_at        timestamptz,
    looks            integer NOT NULL DEFAULT 0,
    failures         integer NOT NULL DEFAULT 0,
    failing_since    timestamptz,
    remote           jsonb,
    remote_job_id    text,
    duplicates       text[] NOT NULL DEFAULT '{}',
    raw_status       text,
    serving_state    text NOT NULL DEFAULT 'none' CHECK (serving_state OPERATOR(pg_catalog.=) ANY (ARRAY['none', 'needs_deploy', 'ready'])),
    cancel_sent_at   timestamptz,
    train_bytes      bigint,
    train_rows       bigint,
    train_tokens     bigint,
    validation_share double precision CHECK (validation_share OPERATOR(pg_catalog.>=) 0 AND validation_share OPERATOR(pg_catalog.<=) 0.5),
    validation_bytes bigint,
    validation_rows  bigint,
    checkpoints      jsonb,
    max_usd          numeric CHECK (max_usd OPERATOR(pg_catalog.>=) 0),
    estimated_usd    numeric,
    billed_usd       numeric,
    trained_tokens   bigint,
    error_code       text,
    error_message    text,
    error_hint       text,
    model_id         text,
    owner            text NOT NULL DEFAULT current_user,
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_at       timestamptz,
    finished_at      timestamptz
);
COMMENT ON TABLE fine_tuning_job IS 'Jobs: one attempt chain to train one model on one dataset; read the view fine_tuning_jobs';
COMMENT ON COLUMN fine_tuning_job.token IS 'fencing token of the worker that holds the job; NULL = nobody';
COMMENT ON COLUMN fine_tuning_job.holder_pid IS 'backend that holds the job; with holder_started it tells a dead holder from a live one';
COMMENT ON COLUMN fine_tuning_job.lease_expires_at IS 'without a heartbeat until then another worker takes over';
COMMENT ON COLUMN fine_tuning_job.due_at IS 'not before: later than now after a failed attempt';
COMMENT ON COLUMN fine_tuning_job.phase IS 'the request to a provider that comes next; NULL = none (built-in trainer, or all is done)';
COMMENT ON COLUMN fine_tuning_job.run_key IS 'what this run is found by at the provider; a retry gets another';
COMMENT ON COLUMN fine_tuning_job.base_url IS 'address at submit: the key goes to no other';
COMMENT ON COLUMN fine_tuning_job.intent_at IS 'when the request that creates the job at the provider was about to leave; until its answer is written down it is looked up, never sent again';
COMMENT ON COLUMN fine_tuning_job.looks IS 'searches for a job whose creation was not answered';
COMMENT ON COLUMN fine_tuning_job.failures IS 'failed requests in a row';
COMMENT ON COLUMN fine_tuning_job.remote IS 'memory of the protocol: ids of files at the provider';
COMMENT ON COLUMN fine_tuning_job.duplicates IS 'jobs at the provider that are one too many and are being cancelled';
COMMENT ON COLUMN fine_tuning_job.raw_status IS 'the provider''s own word for its state';
COMMENT ON COLUMN fine_tuning_job.serving_state IS 'ready = the model answers; needs_deploy = somebody has to deploy it at the provider first';
COMMENT ON COLUMN fine_tuning_job.validation_share IS 'share of the train side''s texts that goes to the provider as validation file; NULL leaves it to the protocol';
COMMENT ON COLUMN fine_tuning_job.checkpoints IS 'models that the provider kept from the course of the training: model, step, metrics';
COMMENT ON COLUMN fine_tuning_job.max_usd IS 'the job ends before anything is uploaded when it is estimated to cost more';
CREATE INDEX fine_tuning_job_phase ON fine_tuning_job (due_at) WHERE phase IS NOT NULL;
CREATE INDEX fine_tuning_job_open ON fine_tuning_job (due_at)
    WHERE state OPERATOR(pg_catalog.<>) ALL (ARRAY['succeeded', 'failed', 'cancelled', 'expired']);
CREATE UNIQUE INDEX fine_tuning_job_one_open ON fine_tuning_job (dataset_id, provider, base_model, method, hyperparameters, seed)
    WHERE state OPERATOR(pg_catalog.<>) ALL (ARRAY['succeeded', 'failed', 'cancelled', 'expired']);
SELECT pg_catalog.pg_extension_config_dump('fine_tuning_job', '');

CREATE TABLE provider_health (
    provider    text NOT NULL,
    owner       text NOT NULL,
    failures    integer NOT NULL DEFAULT 0,
    retry_at    timestamptz NOT NULL DEFAULT '-infinity',
    last_error  text,
    changed_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (provider, owner)
);
COMMENT ON TABLE provider_health IS 'Providers that did not answer, refused a key or asked for fewer requests: nothing is sent there for this owner before retry_at';
SELECT pg_catalog.pg_extension_config_dump('provider_health', '');

CREATE TABLE key_origin (
    provider   text NOT NULL,
    owner      text NOT NULL,
    origin     text NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (provider, owner)
);
COMMENT ON TABLE key_origin IS 'Where each key may go: scheme, host and port that the provider had when its user mapping was last written. A dump leaves it out: a restore writes the mappings anew';
COMMENT ON COLUMN key_origin.owner IS 'role of the user mapping; public for that of all roles';
SELECT pg_catalog.pg_extension_config_dump('key_origin', 'WHERE false');

CREATE TABLE fine_tuning_event (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id  uuid NOT NULL REFERENCES fine_tuning_job (id) ON DELETE CASCADE,
    at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    level   text NOT NULL DEFAULT 'info' CHECK (level OPERATOR(pg_catalog.=) ANY (ARRAY['info', 'warning', 'error'])),
    message text NOT NULL,
    data    jsonb
);
COMMENT ON TABLE fine_tuning_event IS 'What happened to each job, oldest first';
CREATE INDEX fine_tuning_event_job ON fine_tuning_event (job_id, id);
SELECT pg_catalog.pg_extension_config_dump('fine_tuning_event', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('fine_tuning_event', 'id')::pg_catalog.regclass, '');

CREATE TABLE reembedding (
    model_id       text NOT NULL REFERENCES model (id),
    relation       regclass NOT NULL,
    key_column     name NOT NULL,
    content_column name NOT NULL,
    column_name    name NOT NULL,
    dimensions     integer,
    state          text NOT NULL DEFAULT 'running' CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['running', 'stopped', 'complete'])),
    rows           bigint,
    done           bigint NOT NULL DEFAULT 0,
    failed_keys    text[] NOT NULL DEFAULT '{}',
    points         bigint NOT NULL DEFAULT 0,
    tokens         bigint NOT NULL DEFAULT 0,
    usd            numeric,
    last_error     text,
    holder_pid     integer,
    holder_started timestamptz,
    started_by     text NOT NULL DEFAULT current_user,
    started_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    changed_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    completed_at   timestamptz,
    PRIMARY KEY (model_id, relation)
);
COMMENT ON TABLE reembedding IS 'Second columns of vectors under another embedding model, one row per model and table; read the view reembeddings';
COMMENT ON COLUMN reembedding.failed_keys IS 'rows whose text the provider refuses: left out until reembed(..., retry_failed => true)';
COMMENT ON COLUMN reembedding.points IS 'saved data points that were given a vector of this model';
COMMENT ON COLUMN reembedding.completed_at IS 'when all rows had a vector for the first time: from then on the model may serve';
SELECT pg_catalog.pg_extension_config_dump('reembedding', '');

CREATE TABLE retraining_run (
    schedule    text NOT NULL,
    due_at      timestamptz NOT NULL,
    state       text NOT NULL CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['running', 'ran', 'skipped', 'missed', 'failed'])),
    stage       text NOT NULL,
    reason      text,
    new_examples bigint,
    dataset_id  uuid,
    job_id      uuid,
    model_id    text,
    experiment  text,
    tries       integer NOT NULL DEFAULT 0,
    retry_at    timestamptz,
    started_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    finished_at timestamptz,
    PRIMARY KEY (schedule, due_at)
);
COMMENT ON TABLE retraining_run IS 'Every tick of every schedule: ran, skipped because ..., missed (caught up once), failed because ...';
COMMENT ON COLUMN retraining_run.tries IS 'how often a provider was asked for an evaluation of the model';
COMMENT ON COLUMN retraining_run.retry_at IS 'in stage evaluation: when the provider is asked, or asked again if nothing is heard of those who ask now; NULL = it has answered';
SELECT pg_catalog.pg_extension_config_dump('retraining_run', '');

CREATE TABLE deployment (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id    text NOT NULL,
    action      text NOT NULL CHECK (action OPERATOR(pg_catalog.=) ANY (ARRAY['deploy', 'rollback'])),
    reason      text,
    experiment  text,
    overridden  text CHECK (overridden IS NULL OR reason OPERATOR(pg_catalog.<>) ''),
    deployed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    deployed_by text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE deployment IS 'Append-only log of what serves users outside experiments; the last row is live, no row = base';
COMMENT ON COLUMN deployment.overridden IS 'verdict of the gate that somebody overrode, for the reason given; NULL = none';
SELECT pg_catalog.pg_extension_config_dump('deployment', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('deployment', 'id')::pg_catalog.regclass, '');

CREATE TABLE shadow_look (
    deployment_id    bigint PRIMARY KEY REFERENCES deployment (id),
    model_id         text NOT NULL,
    earlier_model_id text NOT NULL,
    auto_rollback    boolean NOT NULL DEFAULT true,
    state            text NOT NULL DEFAULT 'collecting' CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['collecting', 'no worse', 'worse', 'rolled back', 'failed'])),
    reason           text NOT NULL DEFAULT 'nothing has been looked at yet',
    scored           bigint NOT NULL DEFAULT 0,
    unscored         bigint NOT NULL DEFAULT 0,
    compared         bigint NOT NULL DEFAULT 0,
    looks            integer NOT NULL DEFAULT 0,
    impressions      integer,
    unit             text,
    units            integer,
    auc              double precision,
    earlier_auc      double precision,
    gain             double precision,
    gain_low         double precision,
    gain_high        double precision,
    confidence       double precision,
    looked_at        timestamptz,
    next_due_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE shadow_look IS 'The last comparison of each deployed model with what served before it, on live impressions; read the view shadow_status';
COMMENT ON COLUMN shadow_look.auto_rollback IS 'false = a worse model stays until a person rolls it back; written by set_auto_rollback()';
COMMENT ON COLUMN shadow_look.compared IS 'scored when the last comparison was made: the next one waits for 100 more';
COMMENT ON COLUMN shadow_look.unscored IS 'impressions of users who had no profile then, or of items without a vector';
COMMENT ON COLUMN shadow_look.gain IS 'how much more often an item is saved for each standard deviation by which the deployed model scores it above the earlier one, at equal mean score; below 0 = the earlier one is right where they disagree';
COMMENT ON COLUMN shadow_look.confidence IS 'of the interval; it rises with every look, so that all of them together err in one of twenty cases';
SELECT pg_catalog.pg_extension_config_dump('shadow_look', '');

CREATE TABLE rollout_decision (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    experiment text NOT NULL,
    decision   text NOT NULL CHECK (decision OPERATOR(pg_catalog.=) ANY (ARRAY['continue', 'hold', 'promote', 'roll_back', 'inconclusive'])),
    reason     text NOT NULL,
    inputs     jsonb NOT NULL,
    acted      boolean NOT NULL DEFAULT true,
    decided_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    decided_by text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE rollout_decision IS 'Verdicts on experiments with the numbers they were taken on, so that each can be replayed';
COMMENT ON COLUMN rollout_decision.acted IS 'false = a verdict only; the rollout may not carry it out by itself';
SELECT pg_catalog.pg_extension_config_dump('rollout_decision', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('rollout_decision', 'id')::pg_catalog.regclass, '');

CREATE TABLE capture_failure (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source      text NOT NULL,
    operation   text NOT NULL,
    signal_ids  text[] NOT NULL,
    error_code  text NOT NULL,
    error_message text NOT NULL,
    failed_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    healed_at   timestamptz
);
COMMENT ON TABLE capture_failure IS 'Signals that could not be captured and why; backfill_signals() heals them';
SELECT pg_catalog.pg_extension_config_dump('capture_failure', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('capture_failure', 'id')::pg_catalog.regclass, '');

CREATE TABLE forgotten_user (
    user_hash    bytea PRIMARY KEY,
    forgotten_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    forgotten_by text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE forgotten_user IS 'Tombstones of forget_user(): nothing of these people is stored again until readmit_user()';
COMMENT ON COLUMN forgotten_user.user_hash IS 'sha256 of the user id: whoever knows an id can ask whether it was forgotten, nobody can read the ids';
SELECT pg_catalog.pg_extension_config_dump('forgotten_user', '');

CREATE TABLE erasure_request (
    id           uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    job_id       uuid NOT NULL REFERENCES fine_tuning_job (id) ON DELETE CASCADE,
    provider     text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    tries        integer NOT NULL DEFAULT 0,
    retry_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    last_error   text,
    done_at      timestamptz,
    outcome      text
);
COMMENT ON TABLE erasure_request IS 'Training files at providers that hold texts of a forgotten user: the worker deletes them there, done_at says when that happened';
COMMENT ON COLUMN erasure_request.retry_at IS 'an open request is taken up again from then on, later and later, for as long as the file may be there';
CREATE UNIQUE INDEX erasure_request_one_open ON erasure_request (job_id) WHERE done_at IS NULL;
SELECT pg_catalog.pg_extension_config_dump('erasure_request', '');
