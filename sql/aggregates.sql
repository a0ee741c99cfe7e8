-- Aggregates for analysts: precision, recall and F1 of predictions against what users did.
-- The state is a plain bigint[] {tp, fp, fn}, so that they run in parallel and on a distributed table; rows with a NULL
-- are skipped; an undefined ratio is NULL, never 0.

CREATE FUNCTION _confusion_step(state bigint[], actual boolean, predicted boolean) RETURNS bigint[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_step_wrapper';
COMMENT ON FUNCTION _confusion_step IS 'Counts one row into {tp, fp, fn}';
REVOKE ALL ON FUNCTION _confusion_step FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _confusion_step TO finetune_analyst;

CREATE FUNCTION _confusion_combine(state bigint[], other bigint[]) RETURNS bigint[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_combine_wrapper';
COMMENT ON FUNCTION _confusion_combine IS 'Adds the counts of two groups of rows';
REVOKE ALL ON FUNCTION _confusion_combine FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _confusion_combine TO finetune_analyst;

CREATE FUNCTION _confusion_precision(state bigint[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_precision_wrapper';
COMMENT ON FUNCTION _confusion_precision IS 'tp / (tp + fp)';
REVOKE ALL ON FUNCTION _confusion_precision FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _confusion_precision TO finetune_analyst;

CREATE FUNCTION _confusion_recall(state bigint[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_recall_wrapper';
COMMENT ON FUNCTION _confusion_recall IS 'tp / (tp + fn)';
REVOKE ALL ON FUNCTION _confusion_recall FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _confusion_recall TO finetune_analyst;

CREATE FUNCTION _confusion_f1(state bigint[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_f1_wrapper';
COMMENT ON FUNCTION _confusion_f1 IS '2 tp / (2 tp + fp + fn)';
REVOKE ALL ON FUNCTION _confusion_f1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _confusion_f1 TO finetune_analyst;

CREATE AGGREGATE precision_score(actual boolean, predicted boolean) (
    SFUNC = @extschema@._confusion_step,
    STYPE = bigint[],
    INITCOND = '{0,0,0}',
    FINALFUNC = @extschema@._confusion_precision,
    COMBINEFUNC = @extschema@._confusion_combine,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE precision_score(boolean, boolean) IS 'Share of the predicted that was actual; NULL when nothing was predicted';
GRANT EXECUTE ON FUNCTION precision_score(boolean, boolean) TO finetune_analyst;

CREATE AGGREGATE recall_score(actual boolean, predicted boolean) (
    SFUNC = @extschema@._confusion_step,
    STYPE = bigint[],
    INITCOND = '{0,0,0}',
    FINALFUNC = @extschema@._confusion_recall,
    COMBINEFUNC = @extschema@._confusion_combine,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE recall_score(boolean, boolean) IS 'Share of the actual that was predicted; NULL when nothing was actual';
GRANT EXECUTE ON FUNCTION recall_score(boolean, boolean) TO finetune_analyst;

CREATE AGGREGATE f1_score(actual boolean, predicted boolean) (
    SFUNC = @extschema@._confusion_step,
    STYPE = bigint[],
    INITCOND = '{0,0,0}',
    FINALFUNC = @extschema@._confusion_f1,
    COMBINEFUNC = @extschema@._confusion_combine,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE f1_score(boolean, boolean) IS 'Harmonic mean of precision and recall, from counts; NULL when nothing was predicted or actual';
GRANT EXECUTE ON FUNCTION f1_score(boolean, boolean) TO finetune_analyst;
