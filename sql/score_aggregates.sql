-- Aggregates over a score or a probability and whether the outcome was positive. The exact ones keep eight bytes a row in an
-- expanded object behind a bytea: nothing is copied per row, and it is flattened when a parallel worker hands it over.
-- Rows with a NULL, NaN or infinite score are left out and counted.

CREATE FUNCTION _score_step(state bytea, actual boolean, score double precision) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'score_step_wrapper';
COMMENT ON FUNCTION _score_step IS 'pg_finetune private: keeps one row';
GRANT EXECUTE ON FUNCTION _score_step TO finetune_analyst;

CREATE FUNCTION _score_step_weighted(state bytea, actual boolean, score double precision, weight double precision) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'score_step_weighted_wrapper';
COMMENT ON FUNCTION _score_step_weighted IS 'pg_finetune private: keeps one row with its weight';
GRANT EXECUTE ON FUNCTION _score_step_weighted TO finetune_analyst;

CREATE FUNCTION _score_combine(state bytea, other bytea) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'score_combine_wrapper';
COMMENT ON FUNCTION _score_combine IS 'pg_finetune private: puts two groups of rows together';
GRANT EXECUTE ON FUNCTION _score_combine TO finetune_analyst;

CREATE FUNCTION _score_auc(state bytea) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'score_auc_wrapper';
COMMENT ON FUNCTION _score_auc IS 'pg_finetune private: area under the ROC curve';
GRANT EXECUTE ON FUNCTION _score_auc TO finetune_analyst;

CREATE FUNCTION _score_average_precision(state bytea) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'score_average_precision_wrapper';
COMMENT ON FUNCTION _score_average_precision IS 'pg_finetune private: average precision';
GRANT EXECUTE ON FUNCTION _score_average_precision TO finetune_analyst;

CREATE FUNCTION _score_counts(state bytea) RETURNS double precision[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'score_counts_wrapper';
COMMENT ON FUNCTION _score_counts IS 'pg_finetune private: {positives, negatives, ignored}';
GRANT EXECUTE ON FUNCTION _score_counts TO finetune_analyst;

CREATE FUNCTION _score_thresholds(state bytea, points integer) RETURNS TABLE (threshold double precision, tp double precision, fp double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'score_thresholds_wrapper';
COMMENT ON FUNCTION _score_thresholds IS 'pg_finetune private: what is at or above each score, from the highest; points > 0 thins them out to about that many';
GRANT EXECUTE ON FUNCTION _score_thresholds TO finetune_analyst;

CREATE TYPE score_report_row AS (
    positives double precision, negatives double precision, ignored double precision,
    roc_auc double precision, average_precision double precision);
COMMENT ON TYPE score_report_row IS 'What score_report returns; ignored = rows with a NULL, NaN or infinite score';

CREATE FUNCTION _score_report(state bytea) RETURNS score_report_row
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c double precision[] := @extschema@._score_counts(state);
BEGIN
    RETURN ROW(c[1], c[2], c[3], @extschema@._score_auc(state), @extschema@._score_average_precision(state))::@extschema@.score_report_row;
END
$$;
COMMENT ON FUNCTION _score_report IS 'pg_finetune private: all that the scores tell, as one row';
GRANT EXECUTE ON FUNCTION _score_report TO finetune_analyst;

CREATE TYPE threshold_row AS (
    threshold double precision, tp double precision, fp double precision, fn double precision, tn double precision,
    "precision" double precision, recall double precision, f1 double precision,
    fpr double precision, tnr double precision, npv double precision, accuracy double precision);
COMMENT ON TYPE threshold_row IS 'What threshold_table returns, an array of: rates if a score at or above the threshold counts as positive';

CREATE FUNCTION _threshold_rows(state bytea, points integer) RETURNS threshold_row[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c double precision[] := @extschema@._score_counts(state);
BEGIN
    RETURN (
        SELECT array_agg(ROW(t.threshold, t.tp, t.fp, n.fn, n.tn,
                   t.tp / nullif(t.tp + t.fp, 0), t.tp / nullif(c[1], 0), 2 * t.tp / nullif(t.tp + t.fp + c[1], 0),
                   t.fp / nullif(c[2], 0), n.tn / nullif(c[2], 0), n.tn / nullif(n.tn + n.fn, 0),
                   (t.tp + n.tn) / nullif(c[1] + c[2], 0))::@extschema@.threshold_row ORDER BY t.threshold DESC)
        FROM @extschema@._score_thresholds(state, points) t
        CROSS JOIN LATERAL (VALUES (c[1] - t.tp, c[2] - t.fp)) n (fn, tn));
END
$$;
COMMENT ON FUNCTION _threshold_rows IS 'pg_finetune private: one row per threshold; points > 0 thins them out';
GRANT EXECUTE ON FUNCTION _threshold_rows TO finetune_analyst;

CREATE FUNCTION _threshold_table(state bytea) RETURNS threshold_row[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN @extschema@._threshold_rows(state, 0); END $$;
COMMENT ON FUNCTION _threshold_table IS 'pg_finetune private: one row per different score, from the highest';
GRANT EXECUTE ON FUNCTION _threshold_table TO finetune_analyst;

CREATE AGGREGATE roc_auc(actual boolean, score double precision) (
    SFUNC = @extschema@._score_step, STYPE = bytea,
    FINALFUNC = @extschema@._score_auc,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE roc_auc(boolean, double precision) IS 'Area under the ROC curve: the chance that a positive scores above a negative, ties half; exact; NULL when one class is missing';
GRANT EXECUTE ON FUNCTION roc_auc(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE roc_auc(actual boolean, score double precision, weight double precision) (
    SFUNC = @extschema@._score_step_weighted, STYPE = bytea,
    FINALFUNC = @extschema@._score_auc,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE roc_auc(boolean, double precision, double precision) IS 'Area under the ROC curve: the chance that a positive scores above a negative, ties half; exact; NULL when one class is missing; weight >= 0';
GRANT EXECUTE ON FUNCTION roc_auc(boolean, double precision, double precision) TO finetune_analyst;

CREATE AGGREGATE average_precision(actual boolean, score double precision) (
    SFUNC = @extschema@._score_step, STYPE = bytea,
    FINALFUNC = @extschema@._score_average_precision,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE average_precision(boolean, double precision) IS 'Precision averaged over the steps of recall, ties one step; exact; NULL without positives';
GRANT EXECUTE ON FUNCTION average_precision(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE average_precision(actual boolean, score double precision, weight double precision) (
    SFUNC = @extschema@._score_step_weighted, STYPE = bytea,
    FINALFUNC = @extschema@._score_average_precision,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE average_precision(boolean, double precision, double precision) IS 'Precision averaged over the steps of recall, ties one step; exact; NULL without positives; weight >= 0';
GRANT EXECUTE ON FUNCTION average_precision(boolean, double precision, double precision) TO finetune_analyst;

CREATE AGGREGATE score_report(actual boolean, score double precision) (
    SFUNC = @extschema@._score_step, STYPE = bytea,
    FINALFUNC = @extschema@._score_report,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE score_report(boolean, double precision) IS 'roc_auc, average_precision and what they were made of, as one row; ignored = rows with a NULL, NaN or infinite score';
GRANT EXECUTE ON FUNCTION score_report(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE score_report(actual boolean, score double precision, weight double precision) (
    SFUNC = @extschema@._score_step_weighted, STYPE = bytea,
    FINALFUNC = @extschema@._score_report,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE score_report(boolean, double precision, double precision) IS 'roc_auc, average_precision and what they were made of, as one row; ignored = rows with a NULL, NaN or infinite score; weight >= 0';
GRANT EXECUTE ON FUNCTION score_report(boolean, double precision, double precision) TO finetune_analyst;

CREATE AGGREGATE threshold_table(actual boolean, score double precision) (
    SFUNC = @extschema@._score_step, STYPE = bytea,
    FINALFUNC = @extschema@._threshold_table,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE threshold_table(boolean, double precision) IS 'All rates at every different score, from the highest, as an array: SELECT * FROM unnest((SELECT threshold_table(actual, score) FROM ...))';
GRANT EXECUTE ON FUNCTION threshold_table(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE threshold_table(actual boolean, score double precision, weight double precision) (
    SFUNC = @extschema@._score_step_weighted, STYPE = bytea,
    FINALFUNC = @extschema@._threshold_table,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE threshold_table(boolean, double precision, double precision) IS 'All rates at every different score, from the highest, as an array: SELECT * FROM unnest((SELECT threshold_table(actual, score) FROM ...)); weight >= 0';
GRANT EXECUTE ON FUNCTION threshold_table(boolean, double precision, double precision) TO finetune_analyst;

CREATE AGGREGATE _scores(actual boolean, score double precision) (
    SFUNC = @extschema@._score_step, STYPE = bytea,
    COMBINEFUNC = @extschema@._score_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE _scores(boolean, double precision) IS 'pg_finetune private: the rows themselves';
GRANT EXECUTE ON FUNCTION _scores(boolean, double precision) TO finetune_analyst;
