-- Aggregates over two labels: what was predicted against what users did. Their state is a float8[] of counts, so that they
-- run in parallel and on a distributed table. Rows with a NULL are left out and counted; an undefined ratio is NULL, never 0,
-- unless the caller says what it is to be.

CREATE FUNCTION _confusion_step(state double precision[], actual boolean, predicted boolean) RETURNS double precision[]
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_step_wrapper';
COMMENT ON FUNCTION _confusion_step IS 'pg_finetune private: counts one row into {tp, fp, fn, tn, ignored}';
GRANT EXECUTE ON FUNCTION _confusion_step TO finetune_analyst;

CREATE FUNCTION _confusion_step_weighted(state double precision[], actual boolean, predicted boolean, weight double precision) RETURNS double precision[]
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_step_weighted_wrapper';
COMMENT ON FUNCTION _confusion_step_weighted IS 'pg_finetune private: counts one row with its weight';
GRANT EXECUTE ON FUNCTION _confusion_step_weighted TO finetune_analyst;

CREATE FUNCTION _confusion_step_chosen(state double precision[], actual boolean, predicted boolean, weight double precision, zero_division double precision) RETURNS double precision[]
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_step_chosen_wrapper';
COMMENT ON FUNCTION _confusion_step_chosen IS 'pg_finetune private: counts one row with its weight and keeps what 0/0 is to be';
GRANT EXECUTE ON FUNCTION _confusion_step_chosen TO finetune_analyst;

CREATE FUNCTION _confusion_combine(state double precision[], other double precision[]) RETURNS double precision[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_combine_wrapper';
COMMENT ON FUNCTION _confusion_combine IS 'pg_finetune private: adds the counts of two groups of rows';
GRANT EXECUTE ON FUNCTION _confusion_combine TO finetune_analyst;

CREATE FUNCTION _confusion_precision(state double precision[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_precision_wrapper';
COMMENT ON FUNCTION _confusion_precision IS 'pg_finetune private: tp / (tp + fp)';
GRANT EXECUTE ON FUNCTION _confusion_precision TO finetune_analyst;

CREATE FUNCTION _confusion_recall(state double precision[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_recall_wrapper';
COMMENT ON FUNCTION _confusion_recall IS 'pg_finetune private: tp / (tp + fn)';
GRANT EXECUTE ON FUNCTION _confusion_recall TO finetune_analyst;

CREATE FUNCTION _confusion_f1(state double precision[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_f1_wrapper';
COMMENT ON FUNCTION _confusion_f1 IS 'pg_finetune private: 2 tp / (2 tp + fp + fn)';
GRANT EXECUTE ON FUNCTION _confusion_f1 TO finetune_analyst;

CREATE FUNCTION _confusion_mcc(state double precision[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_mcc_wrapper';
COMMENT ON FUNCTION _confusion_mcc IS 'pg_finetune private: Matthews correlation coefficient';
GRANT EXECUTE ON FUNCTION _confusion_mcc TO finetune_analyst;

CREATE FUNCTION _confusion_ratios(state double precision[]) RETURNS double precision[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'confusion_ratios_wrapper';
COMMENT ON FUNCTION _confusion_ratios IS 'pg_finetune private: the ratios of binary_report, in its order';
GRANT EXECUTE ON FUNCTION _confusion_ratios TO finetune_analyst;

CREATE TYPE binary_report_row AS (
    tp double precision, fp double precision, fn double precision, tn double precision, ignored double precision,
    "precision" double precision, recall double precision, f1 double precision, f2 double precision, f0_5 double precision,
    specificity double precision, accuracy double precision, balanced_accuracy double precision, mcc double precision,
    jaccard double precision, kappa double precision);
COMMENT ON TYPE binary_report_row IS 'What binary_report returns; ignored = rows with a NULL';

CREATE FUNCTION _binary_report(state double precision[]) RETURNS binary_report_row
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r double precision[] := @extschema@._confusion_ratios(state);
BEGIN
    RETURN ROW(state[1], state[2], state[3], state[4], state[5],
               r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11])::@extschema@.binary_report_row;
END
$$;
COMMENT ON FUNCTION _binary_report IS 'pg_finetune private: all that the counts tell, as one row';
GRANT EXECUTE ON FUNCTION _binary_report TO finetune_analyst;

-- Aggregates have no default arguments: each comes plain, with a weight, and with a weight and an answer to 0/0.
DO $aggregates$
DECLARE
    aggregate record;
    form record;
BEGIN
    FOR aggregate IN SELECT * FROM (VALUES
        ('precision_score', '_confusion_precision', 'Share of the predicted that was actual; NULL when nothing was predicted'),
        ('recall_score', '_confusion_recall', 'Share of the actual that was predicted; NULL when nothing was actual'),
        ('f1_score', '_confusion_f1', 'Harmonic mean of precision and recall, from counts; NULL when nothing was predicted or actual'),
        ('mcc', '_confusion_mcc', 'Matthews correlation of label and prediction, -1 to 1; NULL when either has one value only'),
        ('false_suggestion_rate', '_confusion_precision', 'Share of the suggested that was skipped: pass user_action = ''skipped'' as actual and what was suggested as predicted; NULL when no suggestion is resolved'),
        ('binary_report', '_binary_report', 'All counts and ratios of two labels as one row; ignored = rows with a NULL')
    ) a (name, final, meaning) LOOP
        FOR form IN SELECT * FROM (VALUES
            ('boolean, boolean', 'actual boolean, predicted boolean', '_confusion_step', '{0,0,0,0,0}', ''),
            ('boolean, boolean, double precision', 'actual boolean, predicted boolean, weight double precision',
             '_confusion_step_weighted', '{0,0,0,0,0}', '; weight >= 0, NULL leaves the row out'),
            ('boolean, boolean, double precision, double precision',
             'actual boolean, predicted boolean, weight double precision, zero_division double precision',
             '_confusion_step_chosen', '{0,0,0,0,0,Infinity}', '; weight >= 0; 0/0 becomes zero_division: 0, 1, NaN or NULL')
        ) f (types, arguments, step, start, meaning) LOOP
            EXECUTE pg_catalog.format(
                'CREATE AGGREGATE @extschema@.%I(%s) (SFUNC = @extschema@.%I, STYPE = double precision[], INITCOND = %L,
                 FINALFUNC = @extschema@.%I, COMBINEFUNC = @extschema@._confusion_combine, PARALLEL = SAFE)',
                aggregate.name, form.arguments, form.step, form.start, aggregate.final);
            EXECUTE pg_catalog.format('COMMENT ON AGGREGATE @extschema@.%I(%s) IS %L', aggregate.name, form.types, aggregate.meaning || form.meaning);
            EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION @extschema@.%I(%s) TO finetune_analyst', aggregate.name, form.types);
        END LOOP;
    END LOOP;
END
$aggregates$;

CREATE FUNCTION binary_label(value text, positive text[], negative text[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value IS NULL OR value = ANY (positive) THEN
        RETURN value = ANY (positive);
    ELSIF value = ANY (negative) THEN
        RETURN false;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = format('label %L is none of the two', value),
        DETAIL = format('Positive is %s, negative is %s.', positive, negative),
        HINT = 'Add it to one of the two sets, or leave such rows out: FILTER (WHERE ...).';
END
$$;
COMMENT ON FUNCTION binary_label IS 'True for a positive label, false for a negative one, NULL for NULL, an error for any other: what the aggregates take';
GRANT EXECUTE ON FUNCTION binary_label TO finetune_analyst;

-- Any number of classes.

CREATE FUNCTION _label_step(state bytea, actual text, predicted text) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'label_step_wrapper';
COMMENT ON FUNCTION _label_step IS 'pg_finetune private: counts one row of classes';
GRANT EXECUTE ON FUNCTION _label_step TO finetune_analyst;

CREATE FUNCTION _label_step_weighted(state bytea, actual text, predicted text, weight double precision) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'label_step_weighted_wrapper';
COMMENT ON FUNCTION _label_step_weighted IS 'pg_finetune private: counts one row of classes with its weight';
GRANT EXECUTE ON FUNCTION _label_step_weighted TO finetune_analyst;

CREATE FUNCTION _label_combine(state bytea, other bytea) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'label_combine_wrapper';
COMMENT ON FUNCTION _label_combine IS 'pg_finetune private: adds the counts of two groups of rows';
GRANT EXECUTE ON FUNCTION _label_combine TO finetune_analyst;

CREATE FUNCTION _label_rows(state bytea) RETURNS TABLE (class text, "precision" double precision, recall double precision, f1 double precision,
    support double precision, predicted double precision, hits double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'label_rows_wrapper';
COMMENT ON FUNCTION _label_rows IS 'pg_finetune private: one row per class';
GRANT EXECUTE ON FUNCTION _label_rows TO finetune_analyst;

CREATE TYPE classification_report_row AS (
    class text, "precision" double precision, recall double precision, f1 double precision,
    support double precision, predicted double precision, hits double precision);
COMMENT ON TYPE classification_report_row IS 'What classification_report returns, an array of: support = how often the class was meant, predicted = how often it was predicted, hits = both';

CREATE FUNCTION _classification_report(state bytea) RETURNS classification_report_row[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT array_agg(ROW(r.*)::@extschema@.classification_report_row ORDER BY r.class COLLATE "C")
            FROM @extschema@._label_rows(state) r);
END
$$;
COMMENT ON FUNCTION _classification_report IS 'pg_finetune private: the classes of a state as an array of rows';
GRANT EXECUTE ON FUNCTION _classification_report TO finetune_analyst;

CREATE AGGREGATE classification_report(actual text, predicted text) (
    SFUNC = @extschema@._label_step, STYPE = bytea,
    FINALFUNC = @extschema@._classification_report,
    COMBINEFUNC = @extschema@._label_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE classification_report(text, text) IS 'One row per class, as an array: SELECT * FROM unnest((SELECT classification_report(actual, predicted) FROM ...))';
GRANT EXECUTE ON FUNCTION classification_report(text, text) TO finetune_analyst;

CREATE AGGREGATE classification_report(actual text, predicted text, weight double precision) (
    SFUNC = @extschema@._label_step_weighted, STYPE = bytea,
    FINALFUNC = @extschema@._classification_report,
    COMBINEFUNC = @extschema@._label_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE classification_report(text, text, double precision) IS 'One row per class, as an array: SELECT * FROM unnest((SELECT classification_report(actual, predicted) FROM ...)); weight >= 0';
GRANT EXECUTE ON FUNCTION classification_report(text, text, double precision) TO finetune_analyst;
