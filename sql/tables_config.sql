-- Class 2 of 3, configuration: small, text keys, reference tables under Citus.

CREATE TABLE model (
    id          text PRIMARY KEY,
    base_model  text NOT NULL,
    provider    text NOT NULL,
    method      text NOT NULL,
    dimensions  integer,
    dataset_id  uuid,
    job_id      uuid,
    provider_model text,
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    retired_at  timestamptz
);
COMMENT ON TABLE model IS 'Registry of models. ''base'' is the plain mean of a user''s saved vectors and always there; the others come from jobs';
COMMENT ON COLUMN model.provider_model IS 'its name at the provider, for requests there; NULL = trained here';
COMMENT ON COLUMN model.dataset_id IS 'what it was trained on: dataset.id, whose examples stand in dataset_example';
INSERT INTO model (id, base_model, provider, method) VALUES ('base', 'the application''s own embeddings', 'builtin', 'none');
SELECT pg_catalog.pg_extension_config_dump('model', $$WHERE id <> 'base'$$);

CREATE TABLE adapter (
    model_id   text PRIMARY KEY REFERENCES model (id),
    dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 16000),
    matrix     real[] NOT NULL,
    bias       real[] NOT NULL,
    gamma      real NOT NULL DEFAULT 0,
    score_scale  double precision NOT NULL DEFAULT 1,
    score_offset double precision NOT NULL DEFAULT 0,
    typed_matrix real[],
    typed_bias   real[],
    heads        integer NOT NULL DEFAULT 0,
    positive   text[] NOT NULL DEFAULT ARRAY['saved', 'snipped'],
    knn3_weight       double precision NOT NULL DEFAULT 0,
    popularity_weight double precision NOT NULL DEFAULT 0,
    digest     bytea NOT NULL,
    report     jsonb NOT NULL DEFAULT '{}',
    CHECK (pg_catalog.cardinality(matrix) OPERATOR(pg_catalog.=) dimensions * dimensions),
    CHECK (pg_catalog.cardinality(bias) OPERATOR(pg_catalog.=) dimensions),
    CHECK ((typed_matrix IS NULL) OPERATOR(pg_catalog.=) (typed_bias IS NULL)),
    CHECK (pg_catalog.cardinality(typed_matrix) OPERATOR(pg_catalog.=) dimensions * dimensions),
    CHECK (pg_catalog.cardinality(typed_bias) OPERATOR(pg_catalog.=) dimensions)
);
ALTER TABLE adapter ALTER COLUMN matrix SET STORAGE EXTERNAL;
ALTER TABLE adapter ALTER COLUMN typed_matrix SET STORAGE EXTERNAL;
COMMENT ON TABLE adapter IS 'Weights of models trained by the built-in trainer: query vector q'' = matrix q + bias; immutable once written';
COMMENT ON COLUMN adapter.matrix IS 'row-major, dimensions x dimensions';
COMMENT ON COLUMN adapter.typed_matrix IS 'the same for the vector of a typed question, with typed_bias; NULL = those stay as they are';
COMMENT ON COLUMN adapter.heads IS 'users who have a direction of their own in adapter_head when the model was saved; 0 = nobody';
COMMENT ON COLUMN adapter.gamma IS 'weight of the user''s own negative direction added to the query vector; 0 = off';
COMMENT ON COLUMN adapter.score_scale IS 'relevance_score = 1 / (1 + exp(-(score_scale * cosine + score_offset)))';
COMMENT ON COLUMN adapter.positive IS 'actions that make a user''s profile, as in the dataset it was trained on; all others are the user''s negatives';
COMMENT ON COLUMN adapter.digest IS 'sha256 over all weights, those of adapter_head included: same input, seed and binary give the same digest';
COMMENT ON COLUMN adapter.knn3_weight IS 'second stage of rank_signals(): how much similarity to the three closest saved items counts beside the cosine; 0 = not at all';
COMMENT ON COLUMN adapter.popularity_weight IS 'the same for the share of others who saved the item';
COMMENT ON COLUMN adapter.report IS 'how it was trained: seed, counts, candidates tried, durations';
SELECT pg_catalog.pg_extension_config_dump('adapter', '');

CREATE TABLE chunk_popularity (
    model_id text NOT NULL REFERENCES adapter (model_id) ON DELETE CASCADE,
    chunk_id text NOT NULL,
    saved    integer NOT NULL,
    shown    integer NOT NULL,
    PRIMARY KEY (model_id, chunk_id)
);
COMMENT ON TABLE chunk_popularity IS 'How many users saved each chunk of those it was shown to, in the train part of a model''s dataset: what rank_signals() calls popularity';
SELECT pg_catalog.pg_extension_config_dump('chunk_popularity', '');

CREATE TABLE model_evaluation (
    model_id          text NOT NULL REFERENCES model (id),
    against           text NOT NULL REFERENCES model (id),
    evaluated_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    users             integer NOT NULL,
    examples          integer NOT NULL,
    base_auc          double precision,
    auc               double precision,
    auc_delta         double precision,
    auc_delta_low     double precision,
    auc_delta_high    double precision,
    base_save_rate_10 double precision,
    save_rate_10      double precision,
    base_fpr_50       double precision,
    fpr_50            double precision,
    base_coverage_10  double precision,
    coverage_10       double precision,
    knn3_auc          double precision,
    rocchio_auc       double precision,
    popularity_auc    double precision,
    cold_examples     integer,
    cold_auc_delta    double precision,
    cold_auc_delta_high double precision,
    base_f1           double precision,
    f1                double precision,
    f1_delta          double precision,
    f1_delta_low      double precision,
    f1_delta_high     double precision,
    seed              bigint NOT NULL,
    verdict           text NOT NULL CHECK (verdict OPERATOR(pg_catalog.=) ANY (ARRAY['passed', 'refused', 'not enough data'])),
    reason            text NOT NULL,
    PRIMARY KEY (model_id, against)
);
COMMENT ON TABLE model_evaluation IS 'The gate: how each model did on newest actions of users it was never trained on, beside the model it would replace; only verdict ''passed'' may be shown to users';
COMMENT ON COLUMN model_evaluation.auc_delta_low IS 'lower end of the 90 % paired bootstrap interval over users: the gate asks for more than 0 (one-sided 5 %)';
COMMENT ON COLUMN model_evaluation.f1 IS 'chat models: of their yes and no; f1_delta_low and auc_delta_low must be above 0. Their AUC is the mean of the shares of saved and of skipped items answered rightly, base_... is the model they were tuned from (against ''base'') or the live one; counts in chat_evaluation';
COMMENT ON COLUMN model_evaluation.users IS 'users who judged; where fewer than 16 users acted, days';
COMMENT ON COLUMN model_evaluation.rocchio_auc IS 'baseline: mean of the saved less mean of the skipped; knn3_auc: mean similarity to the three nearest saved; popularity_auc: share of others who saved it, without any text';
COMMENT ON COLUMN model_evaluation.save_rate_10 IS 'share of saved among the ten ranked first, mean over users';
COMMENT ON COLUMN model_evaluation.fpr_50 IS 'share of the unsaved ranked above the point where half of the saved are found, mean over users';
COMMENT ON COLUMN model_evaluation.coverage_10 IS 'distinct items in all users'' top ten / items: a model that shows everybody the same has little';
SELECT pg_catalog.pg_extension_config_dump('model_evaluation', '');

CREATE TABLE chat_evaluation (
    model_id          text NOT NULL REFERENCES model (id),
    role              text NOT NULL CHECK (role OPERATOR(pg_catalog.=) ANY (ARRAY['model', 'base', 'live'])),
    provider          text NOT NULL,
    answered_by       text NOT NULL,
    rows              integer NOT NULL,
    tp                integer NOT NULL,
    fp                integer NOT NULL,
    fn                integer NOT NULL,
    tn                integer NOT NULL,
    unparseable       integer NOT NULL,
    "precision"       double precision,
    recall            double precision,
    f1                double precision,
    accuracy          double precision,
    false_suggestion_rate double precision,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    usd               numeric,
    evaluated_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (model_id, role)
);
COMMENT ON TABLE chat_evaluation IS 'How a chat model, the model it was tuned from and the live chat model answered the same held-out questions: counts and what they are made into';
COMMENT ON COLUMN chat_evaluation.role IS 'model = the one that was judged, base = what it was tuned from, live = what served then';
COMMENT ON COLUMN chat_evaluation.unparseable IS 'answers that were neither yes nor no; each counts as the wrong one, as fn or fp';
COMMENT ON COLUMN chat_evaluation.false_suggestion_rate IS 'share of the skipped items that it would have shown';
COMMENT ON COLUMN chat_evaluation.usd IS 'of these answers, those kept from earlier calls included; NULL = no price known';
SELECT pg_catalog.pg_extension_config_dump('chat_evaluation', '');

CREATE TABLE experiment_layer (
    name       text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.<>) ''),
    seed       text NOT NULL UNIQUE,
    unit       text NOT NULL DEFAULT 'user_id' CHECK (unit OPERATOR(pg_catalog.=) ANY (ARRAY['user_id', 'team_id'])),
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE experiment_layer IS 'Groups of experiments that share users out among them: a user is in at most one experiment of a layer';
COMMENT ON COLUMN experiment_layer.unit IS 'what is drawn, the same in all experiments of the layer';
SELECT pg_catalog.pg_extension_config_dump('experiment_layer', '');

CREATE TABLE experiment_holdout (
    period     integer PRIMARY KEY,
    seed       text NOT NULL,
    share      double precision NOT NULL CHECK (share OPERATOR(pg_catalog.>=) 0 AND share OPERATOR(pg_catalog.<=) 1),
    buckets    int4multirange NOT NULL,
    model_id   text NOT NULL DEFAULT 'base' REFERENCES model (id),
    valid_from timestamptz NOT NULL DEFAULT pg_catalog.now(),
    valid_to   timestamptz
);
COMMENT ON TABLE experiment_holdout IS 'Users who are in no experiment, so that what all experiments together brought can be measured; one row per change, the last is in force';
COMMENT ON COLUMN experiment_holdout.model_id IS 'model that serves them whatever is deployed';
SELECT pg_catalog.pg_extension_config_dump('experiment_holdout', '');

CREATE TABLE experiment (
    name            text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.<>) ''),
    seed            text NOT NULL UNIQUE,
    hash_version    smallint NOT NULL DEFAULT 2 CHECK (hash_version OPERATOR(pg_catalog.=) ANY (ARRAY[1, 2])),
    status          text NOT NULL DEFAULT 'running' CHECK (status OPERATOR(pg_catalog.=) ANY (ARRAY['running', 'stopped'])),
    started_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    stopped_at      timestamptz,
    planned_users   integer NOT NULL DEFAULT 5000 CHECK (planned_users OPERATOR(pg_catalog.>) 0),
    shipped_variant text,
    unit            text NOT NULL DEFAULT 'user_id' CHECK (unit OPERATOR(pg_catalog.=) ANY (ARRAY['user_id', 'team_id'])),
    unit_encoding   text NOT NULL DEFAULT 'utf8' CHECK (unit_encoding OPERATOR(pg_catalog.=) ANY (ARRAY['utf8', 'utf16'])),
    outcome_window  interval NOT NULL DEFAULT '7 days' CHECK (outcome_window OPERATOR(pg_catalog.>) interval '0'),
    attribution     text NOT NULL DEFAULT 'impression' CHECK (attribution OPERATOR(pg_catalog.=) ANY (ARRAY['impression', 'first_exposure'])),
    layer           text REFERENCES experiment_layer (name),
    layer_buckets   int4multirange,
    started_by      text NOT NULL DEFAULT current_user,
    CHECK ((layer IS NULL) OPERATOR(pg_catalog.=) (layer_buckets IS NULL))
);
COMMENT ON TABLE experiment IS 'A/B tests between models; what each user gets is computed from seed and user id, nothing is written per user';
COMMENT ON COLUMN experiment.unit IS 'what is drawn and what the statistics count by: user_id, or team_id as the view of the captured table has it';
COMMENT ON COLUMN experiment.outcome_window IS 'an action later than this counts as none; infinity = any action counts';
COMMENT ON COLUMN experiment.attribution IS 'impression: the window of each item begins when it was shown; first_exposure: one window for all items of a unit, from the first it was shown';
COMMENT ON COLUMN experiment.unit_encoding IS 'what of non-ASCII ids is hashed: utf8 bytes, or utf16 units as JavaScript does';
COMMENT ON COLUMN experiment.layer_buckets IS 'its share of the layer''s buckets';
COMMENT ON COLUMN experiment.planned_users IS 'number of users at which a decision is expected: tunes the confidence sequence, fixed at start';
SELECT pg_catalog.pg_extension_config_dump('experiment', '');

CREATE TABLE experiment_phase (
    experiment text NOT NULL REFERENCES experiment (name),
    phase      integer NOT NULL,
    seed       text NOT NULL,
    coverage   double precision NOT NULL CHECK (coverage BETWEEN 0 AND 1),
    allocation text NOT NULL DEFAULT 'ranges' CHECK (allocation OPERATOR(pg_catalog.=) ANY (ARRAY['ranges', 'minimal'])),
    valid_from timestamptz NOT NULL DEFAULT pg_catalog.now(),
    valid_to   timestamptz,
    PRIMARY KEY (experiment, phase)
);
COMMENT ON COLUMN experiment_phase.allocation IS 'ranges: one range of buckets an arm, as the SDKs build it; minimal: the sets that moved the fewest users';
COMMENT ON TABLE experiment_phase IS 'History of each experiment''s allocation: one row per change of coverage or weights';
SELECT pg_catalog.pg_extension_config_dump('experiment_phase', '');

CREATE TABLE experiment_arm (
    experiment text NOT NULL,
    phase      integer NOT NULL,
    ordinal    smallint NOT NULL,
    variant    text NOT NULL CHECK (variant OPERATOR(pg_catalog.<>) ''),
    model_id   text NOT NULL REFERENCES model (id),
    weight     double precision NOT NULL CHECK (weight BETWEEN 0 AND 1),
    buckets    int4multirange NOT NULL CHECK (buckets OPERATOR(pg_catalog.<@) '[0,10000)'::int4range),
    PRIMARY KEY (experiment, phase, variant),
    UNIQUE (experiment, phase, ordinal),
    FOREIGN KEY (experiment, phase) REFERENCES experiment_phase (experiment, phase)
);
COMMENT ON TABLE experiment_arm IS 'Variants of each phase: the model each serves and the buckets (of 0..9999) of users who get it; ordinal 0 is the control';
SELECT pg_catalog.pg_extension_config_dump('experiment_arm', '');

CREATE TABLE experiment_pin (
    user_id    text NOT NULL CHECK (user_id OPERATOR(pg_catalog.<>) ''),
    experiment text NOT NULL REFERENCES experiment (name),
    variant    text NOT NULL,
    reason     text,
    pinned_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (user_id, experiment)
);
COMMENT ON TABLE experiment_pin IS 'Users who get a given variant whatever their bucket (testers); they are left out of the analysis';
SELECT pg_catalog.pg_extension_config_dump('experiment_pin', '');

CREATE TABLE capture_source (
    name        text PRIMARY KEY,
    relation    regclass NOT NULL UNIQUE,
    via         regclass NOT NULL,
    key_column  name NOT NULL,
    on_error    text NOT NULL DEFAULT 'warn' CHECK (on_error OPERATOR(pg_catalog.=) ANY (ARRAY['warn', 'abort'])),
    columns     text[] NOT NULL,
    on_truncate text NOT NULL DEFAULT 'keep' CHECK (on_truncate OPERATOR(pg_catalog.=) ANY (ARRAY['keep', 'remove'])),
    on_replica  boolean NOT NULL DEFAULT false,
    snapshot_embeddings boolean NOT NULL DEFAULT true,
    attached_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    attached_by text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE capture_source IS 'Application tables whose changes are captured, and the view that maps each to data points';
COMMENT ON COLUMN capture_source.columns IS 'columns of the view that are taken';
COMMENT ON COLUMN capture_source.on_truncate IS 'after a TRUNCATE data points that the view no longer shows are kept, or removed unless a dataset learned from them';
COMMENT ON COLUMN capture_source.on_replica IS 'true = also capture what a logical subscription or session_replication_role = replica writes';
COMMENT ON COLUMN capture_source.snapshot_embeddings IS 'false = vectors are not copied into data points: for text models';
SELECT pg_catalog.pg_extension_config_dump('capture_source', '');

CREATE TABLE retraining_schedule (
    name             text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.<>) ''),
    cron             text NOT NULL,
    time_zone        text NOT NULL DEFAULT 'UTC',
    min_new_examples integer NOT NULL DEFAULT 100 CHECK (min_new_examples OPERATOR(pg_catalog.>=) 0),
    min_first_examples integer NOT NULL DEFAULT 1000 CHECK (min_first_examples OPERATOR(pg_catalog.>=) 0),
    provider         text NOT NULL DEFAULT 'builtin',
    base_model       text NOT NULL DEFAULT 'base',
    method           text NOT NULL DEFAULT 'contrastive',
    hyperparameters  jsonb NOT NULL DEFAULT '{}',
    coverage         double precision NOT NULL DEFAULT 1 CHECK (coverage OPERATOR(pg_catalog.>) 0 AND coverage OPERATOR(pg_catalog.<=) 1),
    planned_users    integer NOT NULL DEFAULT 5000 CHECK (planned_users OPERATOR(pg_catalog.>) 0),
    rollout          jsonb CHECK (pg_catalog.jsonb_typeof(rollout) OPERATOR(pg_catalog.=) 'object'),
    max_usd          numeric CHECK (max_usd OPERATOR(pg_catalog.>=) 0),
    evaluate         boolean NOT NULL DEFAULT false,
    enabled          boolean NOT NULL DEFAULT true,
    next_due_at      timestamptz NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    created_by       text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE retraining_schedule IS 'When to retrain, with what, and how many new examples make it worth while';
COMMENT ON COLUMN retraining_schedule.min_first_examples IS 'examples wanted before the very first run, when no model has been trained yet';
COMMENT ON COLUMN retraining_schedule.planned_users IS 'of the experiment that a run starts';
COMMENT ON COLUMN retraining_schedule.rollout IS 'arguments of start_rollout() for the experiment that a run starts; NULL = a person decides';
COMMENT ON COLUMN retraining_schedule.evaluate IS 'whether the worker has a model that stands at a provider answer there for the gate; else evaluate_model() is called by hand';
COMMENT ON COLUMN retraining_schedule.next_due_at IS 'next tick after the last one handled';
SELECT pg_catalog.pg_extension_config_dump('retraining_schedule', '');

CREATE TABLE provider_price (
    provider      text NOT NULL,
    base_model    text NOT NULL,
    usd_per_million_training_tokens numeric CHECK (usd_per_million_training_tokens OPERATOR(pg_catalog.>=) 0),
    usd_per_million_input_tokens numeric CHECK (usd_per_million_input_tokens OPERATOR(pg_catalog.>=) 0),
    usd_per_million_output_tokens numeric CHECK (usd_per_million_output_tokens OPERATOR(pg_catalog.>=) 0),
    as_of         date NOT NULL,
    quoted_from   text NOT NULL,
    PRIMARY KEY (provider, base_model)
);
COMMENT ON TABLE provider_price IS 'What training costs, as quoted at a date: yours to edit, under the name of your server; rows under the name of a host came with the extension and are not dumped. builtin costs nothing';
COMMENT ON COLUMN provider_price.usd_per_million_input_tokens IS 'what asking costs, with usd_per_million_output_tokens: for evaluate_model() and reembed(). A tuned model is looked up by its own name, then as ft:BASE, then as its base model';
SELECT pg_catalog.pg_extension_config_dump('provider_price', $$WHERE provider <> 'api.openai.com'$$);

CREATE TABLE export_template (
    name           text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.<>) ''),
    system_message text NOT NULL,
    user_message   text NOT NULL,
    saved_answer   text NOT NULL,
    skipped_answer text NOT NULL
);
COMMENT ON TABLE export_template IS 'Words of the chat formats of export_jsonl(), by name; without a row ''default'' the built-in words serve. Write with set_export_template(), which checks the placeholders';
SELECT pg_catalog.pg_extension_config_dump('export_template', '');

CREATE TABLE retention (
    relation   text PRIMARY KEY,
    keep       interval CHECK (keep OPERATOR(pg_catalog.>) interval '0'),
    last_run_at timestamptz,
    set_by     text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE retention IS 'How long rows are kept, where that differs from the default; written by set_retention()';
COMMENT ON COLUMN retention.keep IS 'NULL = for ever';
COMMENT ON COLUMN retention.last_run_at IS 'when nothing was left to delete: the next look is an hour later';
SELECT pg_catalog.pg_extension_config_dump('retention', '');

CREATE TABLE rollout (
    experiment      text PRIMARY KEY REFERENCES experiment (name),
    steps           double precision[] NOT NULL,
    goal            text NOT NULL,
    margin          double precision NOT NULL,
    guardrails      jsonb NOT NULL,
    alpha           double precision NOT NULL CHECK (alpha OPERATOR(pg_catalog.>) 0 AND alpha OPERATOR(pg_catalog.<) 1),
    guardrail_alpha double precision NOT NULL CHECK (guardrail_alpha OPERATOR(pg_catalog.>) 0 AND guardrail_alpha OPERATOR(pg_catalog.<) 1),
    inference       text NOT NULL CHECK (inference OPERATOR(pg_catalog.=) ANY (ARRAY['sequence', 'hybrid'])),
    outcome_window  interval,
    min_users       integer NOT NULL CHECK (min_users OPERATOR(pg_catalog.>=) 0),
    min_hours       double precision NOT NULL CHECK (min_hours OPERATOR(pg_catalog.>=) 0),
    min_days        double precision NOT NULL CHECK (min_days OPERATOR(pg_catalog.>=) 0),
    max_days        double precision NOT NULL,
    auto_rollback   boolean NOT NULL,
    auto_promote    boolean NOT NULL,
    ship_inconclusive boolean NOT NULL,
    check_every     interval NOT NULL CHECK (check_every OPERATOR(pg_catalog.>=) interval '1 minute'),
    state           text NOT NULL DEFAULT 'running' CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['running', 'paused', 'decided', 'done'])),
    next_due_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_by      text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE rollout IS 'Rules by which the worker raises the coverage of an experiment, rolls it back or promotes its candidate; one row per experiment that has any';
COMMENT ON COLUMN rollout.guardrails IS 'metrics that must not get worse, each with the lift that is still allowed';
COMMENT ON COLUMN rollout.outcome_window IS 'the goal counts only items shown at least that long ago, with what came within it; NULL: as guardrails, all items with what came within the experiment''s window';
COMMENT ON COLUMN rollout.state IS 'decided = a verdict was reached that a person has to carry out; done = it was carried out';
SELECT pg_catalog.pg_extension_config_dump('rollout', '');
