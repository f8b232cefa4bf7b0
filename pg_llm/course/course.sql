-- The course's own tables: every attempt of every notebook, and in a class the results that the solutions
-- give. Students reach the latter only through judge(), which tells right from wrong. The script may be run
-- again, after an update of pg_llm: attempts and keys stay.

CREATE SCHEMA IF NOT EXISTS llm_course;

CREATE TABLE IF NOT EXISTS llm_course.exercise (
    id text PRIMARY KEY,
    spec jsonb NOT NULL
);
COMMENT ON TABLE llm_course.exercise IS 'In a class, an exercise as students may see it: task, variants, options; no answers';

CREATE TABLE IF NOT EXISTS llm_course.answer_key (
    exercise text NOT NULL REFERENCES llm_course.exercise ON DELETE CASCADE,
    variant int NOT NULL,
    keys jsonb NOT NULL,
    solution text NOT NULL,
    PRIMARY KEY (exercise, variant)
);
COMMENT ON TABLE llm_course.answer_key IS
    'In a class, what the solution and the usual mistakes return on each variant; closed to students';

CREATE TABLE IF NOT EXISTS llm_course.attempt (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    student name NOT NULL DEFAULT session_user,
    exercise text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    score real CHECK (score BETWEEN 0 AND 1),
    message text NOT NULL,
    answer text NOT NULL
);
COMMENT ON TABLE llm_course.attempt IS
    'A try at an exercise; score 1 is right, NULL says that the cell was run before anything was filled in';
CREATE INDEX IF NOT EXISTS attempt_of_student ON llm_course.attempt (student, exercise, at);

-- Comparison ----

CREATE OR REPLACE FUNCTION llm_course.same_value(expected jsonb, got jsonb, options jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind text := jsonb_typeof(expected);
    e numeric;
    g numeric;
    allowed numeric;
BEGIN
    IF kind = 'boolean' AND got IN ('0', '1') THEN  -- a truth value as a number
        RETURN expected = to_jsonb(got = '1');
    ELSIF expected IS NULL OR got IS NULL OR kind <> jsonb_typeof(got) THEN
        RETURN false;
    ELSIF kind = 'array' THEN
        RETURN jsonb_array_length(expected) = jsonb_array_length(got) AND NOT EXISTS (
            SELECT FROM generate_series(0, jsonb_array_length(expected) - 1) AS i
            WHERE NOT llm_course.same_value(expected -> i, got -> i, options));
    ELSIF kind = 'string' THEN
        RETURN btrim(expected #>> '{}', E' \n\t') = btrim(got #>> '{}', E' \n\t');
    ELSIF kind <> 'number' THEN
        RETURN expected = got;
    END IF;
    e := (expected #>> '{}')::numeric;
    g := (got #>> '{}')::numeric;
    IF (options ->> 'either_sign')::boolean THEN
        e := abs(e);
        g := abs(g);
    END IF;
    -- A whole number is a count or an id and has to match, unless the exercise says otherwise.
    allowed := abs(e) * coalesce((options ->> 'tolerance')::numeric, CASE scale(e) WHEN 0 THEN 1e-6 ELSE 1e-3 END);
    IF scale(e) > 0 OR options ->> 'tolerance' IS NOT NULL THEN
        allowed := greatest(allowed, coalesce((options ->> 'absolute')::numeric, 1e-6));
    END IF;
    -- Rounding to at least two significant digits or three decimals is sensible. A 0 is a rounded number
    -- only where all numbers of the result are rounded.
    IF scale(e) > 0 AND (scale(trim_scale(g)) >= 3 OR length(ltrim(translate(trim_scale(g)::text, '-.', ''), '0')) >= 2) THEN
        allowed := greatest(allowed, 0.5000001 * power(10::numeric, -scale(trim_scale(g))));
    END IF;
    IF scale(e) > 0 AND options ->> 'decimals' IS NOT NULL THEN
        allowed := greatest(allowed, 0.5000001 * power(10::numeric, -(options ->> 'decimals')::int));
    END IF;
    RETURN abs(e - g) <= allowed;
END $$;
COMMENT ON FUNCTION llm_course.same_value IS
    'True if two JSON values agree: numbers within the tolerance or sensibly rounded, text without outer spaces, 1 and 0 as truth values';

CREATE OR REPLACE FUNCTION llm_course.projected(rows jsonb, columns int[]) RETURNS TABLE (n bigint, line jsonb)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.n, (SELECT jsonb_agg(r.line -> c ORDER BY k) FROM unnest(columns) WITH ORDINALITY AS u (c, k))
    FROM jsonb_array_elements(rows) WITH ORDINALITY AS r (line, n)
$$;
COMMENT ON FUNCTION llm_course.projected IS 'The rows with the columns of these positions, counted from 0';

CREATE OR REPLACE FUNCTION llm_course.exact(line jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(CASE jsonb_typeof(value)
        WHEN 'number' THEN CASE WHEN trunc(value::numeric) = value::numeric THEN to_jsonb(trunc(value::numeric)) END
        WHEN 'string' THEN to_jsonb(btrim(value #>> '{}', E' \n\t'))
        WHEN 'boolean' THEN value END ORDER BY n)
    FROM jsonb_array_elements(line) WITH ORDINALITY AS v (value, n)
$$;
COMMENT ON FUNCTION llm_course.exact IS
    'A row with only those values that agree exactly in equal rows; null where rounding may differ';

CREATE OR REPLACE FUNCTION llm_course.rows_right(expected jsonb, got jsonb, columns int[], options jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Pairs the rows in the order of what is exact in them; few that find no partner so are searched for.
    WITH e AS (
        SELECT line, row_number() OVER (ORDER BY CASE WHEN (options ->> 'ordered')::boolean THEN n END,
            llm_course.exact(line), line) AS n
        FROM jsonb_array_elements(expected) WITH ORDINALITY AS r (line, n)
    ), g AS (
        SELECT line, row_number() OVER (ORDER BY CASE WHEN (options ->> 'ordered')::boolean THEN n END,
            llm_course.exact(line), line) AS n
        FROM llm_course.projected(got, columns)
    ), pair AS (
        SELECT e.n, e.line AS wanted, g.line AS came,
            e.line = g.line OR llm_course.same_value(e.line, g.line, options) AS ok
        FROM e JOIN g USING (n)
    ), rest AS (
        SELECT * FROM pair WHERE NOT ok AND NOT coalesce((options ->> 'ordered')::boolean, false)
    )
    SELECT (SELECT count(*) FROM pair WHERE ok) + CASE
        WHEN (SELECT count(*) FROM rest) BETWEEN 2 AND 60 THEN (
            -- As many as have at least as many equals among the rows that came as among those wanted.
            SELECT count(*) FROM rest AS a
            WHERE (SELECT count(*) FROM rest AS b WHERE llm_course.same_value(a.wanted, b.came, options))
                >= (SELECT count(*) FROM rest AS b WHERE llm_course.same_value(a.wanted, b.wanted, options)))
        ELSE 0 END
$$;
COMMENT ON FUNCTION llm_course.rows_right IS
    'How many of the expected rows came, if both tables have the same number of rows';

CREATE OR REPLACE FUNCTION llm_course.candidates(expected jsonb, got jsonb) RETURNS SETOF int[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted int := jsonb_array_length(expected -> 'columns');
    came int := jsonb_array_length(got -> 'columns');
    lines int := jsonb_array_length(expected -> 'rows');
    named int[];
    kinds text[];
    kinds_came text[];
BEGIN
    -- By name, if all names are there.
    SELECT array_agg(g.k - 1 ORDER BY e.k) INTO named
    FROM jsonb_array_elements_text(expected -> 'columns') WITH ORDINALITY AS e (name, k)
    LEFT JOIN jsonb_array_elements_text(got -> 'columns') WITH ORDINALITY AS g (name, k)
        ON lower(g.name) = lower(e.name) AND e.name <> '?column?';
    IF cardinality(named) = wanted AND array_position(named, NULL) IS NULL AND wanted > 1 THEN
        RETURN NEXT named;
        RETURN;
    END IF;
    -- By position, passing over extra ones; a single column may have any name.
    RETURN QUERY
    SELECT array_agg(i ORDER BY i)
    FROM generate_series(0, (1 << least(came, 10)) - 1) AS mask, generate_series(0, least(came, 10) - 1) AS i
    WHERE mask & (1 << i) > 0 GROUP BY mask HAVING count(*) = wanted ORDER BY mask LIMIT 64;
    -- In small tables, columns of other names may stand in any order. A column that has its name stays.
    IF wanted BETWEEN 2 AND 4 AND came <= 6 AND lines BETWEEN 1 AND 500 THEN
        named := named[1:wanted];
        SELECT array_agg(jsonb_typeof(value) ORDER BY n) INTO kinds
        FROM jsonb_array_elements(expected -> 'rows' -> 0) WITH ORDINALITY AS r (value, n);
        SELECT array_agg(jsonb_typeof(value) ORDER BY n) INTO kinds_came
        FROM jsonb_array_elements(got -> 'rows' -> 0) WITH ORDINALITY AS r (value, n);
        RETURN QUERY
        WITH RECURSIVE chosen (columns) AS (
            SELECT '{}'::int[]
            UNION ALL
            SELECT columns || i FROM chosen, generate_series(0, came - 1) AS i
            WHERE cardinality(columns) < wanted AND i <> ALL (columns)
                AND kinds_came[i + 1] = kinds[cardinality(columns) + 1]
                AND coalesce(named[cardinality(columns) + 1] = i, i <> ALL (array_remove(named, NULL)))
        ) SELECT columns FROM chosen WHERE cardinality(columns) = wanted LIMIT 60;
    END IF;
END $$;
COMMENT ON FUNCTION llm_course.candidates IS
    'Which columns of a result may be the expected ones: their positions, counted from 0, the likeliest first';

CREATE OR REPLACE FUNCTION llm_course.decimals(got jsonb) RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT max(scale(trim_scale((value #>> '{}')::numeric)))
    FROM jsonb_path_query(got -> 'rows', 'strict $.** ? (@.type() == "number")') AS value
$$;
COMMENT ON FUNCTION llm_course.decimals IS 'The most decimals that a number of the result has; null where there is no number';

CREATE OR REPLACE FUNCTION llm_course.compare(expected jsonb, got jsonb, options jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted int := jsonb_array_length(expected -> 'columns');
    lines int := jsonb_array_length(expected -> 'rows');
    candidate int[];
    likeliest int[];
    decimals int;
    best bigint := 0;
    good bigint;
    agreed text[];
BEGIN
    IF jsonb_array_length(got -> 'columns') < wanted OR lines <> jsonb_array_length(got -> 'rows') THEN
        RETURN jsonb_build_object('right', false, 'shape', false);
    END IF;
    -- A result that is rounded throughout, to so many decimals.
    decimals := llm_course.decimals(got);
    IF decimals BETWEEN 3 AND 8 THEN
        options := options || jsonb_build_object('decimals', decimals);
    END IF;
    FOR candidate IN SELECT llm_course.candidates(expected, got) LOOP
        likeliest := coalesce(likeliest, candidate);
        good := llm_course.rows_right(expected -> 'rows', got -> 'rows', candidate, options);
        best := greatest(best, good);
        EXIT WHEN good = lines;
    END LOOP;
    IF lines = 1 AND wanted > 1 AND best < 1 THEN
        SELECT array_agg(format('`%s`', e.name) ORDER BY e.k) INTO agreed
        FROM jsonb_array_elements_text(expected -> 'columns') WITH ORDINALITY AS e (name, k)
        WHERE llm_course.same_value(expected -> 'rows' -> 0 -> e.k::int - 1, got -> 'rows' -> 0 -> likeliest[e.k], options);
    END IF;
    RETURN jsonb_build_object('right', best = lines, 'shape', true, 'rows_right', best, 'rows', lines,
        'columns_right', array_to_string(agreed, ', '));
END $$;
COMMENT ON FUNCTION llm_course.compare IS
    'Compares two tables {"columns": [name], "rows": [[value]]} as bags of rows: right, shape, rows_right, rows, columns_right';

CREATE OR REPLACE FUNCTION llm_course.dimensions(value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    axes text[] := '{}';
BEGIN
    WHILE jsonb_typeof(value) = 'array' LOOP
        axes := axes || jsonb_array_length(value)::text;
        value := value -> 0;
    END LOOP;
    RETURN ' (' || array_to_string(axes, ',') || ')';
END $$;
COMMENT ON FUNCTION llm_course.dimensions IS 'The shape of a tensor in JSON, as text: (2,3)';

CREATE OR REPLACE FUNCTION llm_course.shape(got jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN r = 0 THEN 'no rows'
        WHEN r = 1 AND c = 1 THEN CASE jsonb_typeof(value)
            WHEN 'number' THEN 'one number' WHEN 'string' THEN 'one text' WHEN 'boolean' THEN 'true or false'
            WHEN 'null' THEN 'NULL' ELSE 'one tensor' || coalesce(llm_course.dimensions(value), '') END
        ELSE r || CASE r WHEN 1 THEN ' row' ELSE ' rows' END || ' with ' || c || CASE c WHEN 1 THEN ' column' ELSE ' columns' END
        END
    FROM (SELECT jsonb_array_length(got -> 'rows') AS r, jsonb_array_length(got -> 'columns') AS c,
        got -> 'rows' -> 0 -> 0 AS value) AS s
$$;
COMMENT ON FUNCTION llm_course.shape IS 'The shape of a result in words';

CREATE OR REPLACE FUNCTION llm_course.echo(got jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN jsonb_array_length(got -> 'rows') = 1 AND jsonb_array_length(got -> 'columns') = 1
        AND jsonb_typeof(got -> 'rows' -> 0 -> 0) <> 'array'
        THEN CASE jsonb_typeof(got -> 'rows' -> 0 -> 0) WHEN 'null' THEN 'NULL'
            WHEN 'string' THEN format('''%s''', left(got -> 'rows' -> 0 ->> 0, 80)) ELSE got -> 'rows' -> 0 ->> 0 END
        ELSE llm_course.shape(got) END
$$;
COMMENT ON FUNCTION llm_course.echo IS 'What came, in a few words: the value itself if it is a single one';

CREATE OR REPLACE FUNCTION llm_course.verdict(results jsonb, keys jsonb, options jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    variants int := jsonb_array_length(keys);
    result jsonb;
    expected jsonb;
    same jsonb;
    score numeric;
    own numeric;
    hidden numeric := 0;
    failed int;
    known text;
    about text;
    came text;
BEGIN
    FOR v IN 0 .. variants - 1 LOOP
        result := results -> v;
        expected := keys -> v -> 'solution';
        score := 0;
        IF result ? 'rows' THEN
            same := llm_course.compare(expected, result, options);
            -- A table of the right shape is worth a quarter; rows that are right share half.
            score := CASE WHEN (same ->> 'right')::boolean THEN 1
                WHEN (same ->> 'shape')::boolean AND (same ->> 'rows')::int > 1
                THEN 0.25 + 0.5 * (same ->> 'rows_right')::numeric / (same ->> 'rows')::numeric
                ELSE 0 END;
        END IF;
        IF score < 1 AND failed IS NULL THEN
            failed := v;
            came := CASE WHEN (options ->> 'probed')::boolean THEN 'tried by the check, it gave '
                WHEN (options ->> 'stand_in')::boolean THEN 'on data of the check, got ' ELSE 'got ' END;
            IF NOT result ? 'rows' THEN
                about := result ->> 'error';
            ELSIF NOT (same ->> 'shape')::boolean
                OR (same ->> 'rows')::int = 1 AND llm_course.shape(result) <> llm_course.shape(expected)
                AND jsonb_array_length(result -> 'columns') = jsonb_array_length(expected -> 'columns')
            THEN
                about := format('%s%s; expected %s.', came, llm_course.echo(result), llm_course.shape(expected));
            ELSIF (same ->> 'rows')::int > 1 THEN
                about := format('%s%s, of which %s %s right.', came, llm_course.shape(result), same ->> 'rows_right',
                    CASE same ->> 'rows_right' WHEN '1' THEN 'is' ELSE 'are' END);
            ELSIF jsonb_array_length(expected -> 'columns') > 1 THEN
                about := format('%s%s; %s.', came, llm_course.echo(result),
                    coalesce('right is only ' || nullif(same ->> 'columns_right', ''), 'none of the values is right'));
            ELSE
                about := format('%s%s.', came, llm_course.echo(result));
            END IF;
            -- Right as far as it goes: said, never accepted.
            IF result ? 'rows' AND llm_course.decimals(result) IN (1, 2) AND (llm_course.compare(expected, result,
                options || jsonb_build_object('decimals', llm_course.decimals(result))) ->> 'right')::boolean
            THEN
                about := about || ' If it is rounded, keep three decimals.';
            END IF;
            SELECT w.value ->> 'message' INTO known
            FROM jsonb_array_elements(coalesce(keys -> v -> 'wrong', '[]')) WITH ORDINALITY AS w (value, n)
            WHERE CASE WHEN result ? 'rows' THEN w.value ? 'table'
                    AND (llm_course.compare(w.value -> 'table', result, options) ->> 'right')::boolean
                -- The same data exception: a division by zero, a number out of range.
                ELSE w.value ->> 'error' = substring(result ->> 'error' FROM
                    '^(?:tried by the check, it failed: )?ERROR (22[0-9A-Z]{3}):') END
            ORDER BY w.n LIMIT 1;
        END IF;
        IF v = 0 THEN own := score; ELSE hidden := hidden + score / (variants - 1); END IF;
    END LOOP;
    score := CASE WHEN variants = 1 THEN own WHEN own = 1 THEN 0.5 + 0.5 * hidden ELSE own / 2 END;
    IF failed IS NULL THEN
        RETURN jsonb_build_object('right', true, 'score', 1);
    END IF;
    -- Less than everything is never rounded up to it.
    RETURN jsonb_build_object('right', false, 'score', least(round(score, 2), 0.95), 'failed', failed, 'message',
        CASE WHEN failed = 0 THEN '' WHEN (options ->> 'stand_in')::boolean THEN 'right for some data, but not for other. There: '
            ELSE 'right for the data shown, but not for other data. There: ' END
        || coalesce(known, about || CASE WHEN failed > 0 AND results -> failed ? 'rows' AND NOT coalesce((options ->> 'probed')::boolean, false)
            THEN ' Compute the result from the tables and variables of the task, so that it changes with them.'
            ELSE '' END));
END $$;
COMMENT ON FUNCTION llm_course.verdict IS
    'Judges the results of an answer, one per variant, by the keys: right, score from 0 to 1, message, failed variant';

-- A class ----

CREATE OR REPLACE FUNCTION llm_course.judge(exercise text, answer text, results jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    verdict jsonb;
BEGIN
    SELECT llm_course.verdict(results, jsonb_agg(k.keys ORDER BY k.variant), e.spec -> 'options') INTO verdict
    FROM llm_course.answer_key AS k JOIN llm_course.exercise AS e ON e.id = k.exercise
    WHERE k.exercise = judge.exercise GROUP BY e.spec;
    IF verdict IS NULL THEN
        RAISE EXCEPTION 'there is no exercise %', exercise USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO llm_course.attempt (exercise, score, message, answer)
    VALUES (exercise, (verdict ->> 'score')::real, left(coalesce(verdict ->> 'message', ''), 1000), left(answer, 10000));
    RETURN verdict;
END $$;
COMMENT ON FUNCTION llm_course.judge IS
    'In a class: judges the results of an answer by the keys and records the attempt under the session''s login role';

CREATE OR REPLACE FUNCTION llm_course.looked(exercise text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ INSERT INTO llm_course.attempt (exercise, message, answer) VALUES (left(exercise, 20), '', '') $$;
COMMENT ON FUNCTION llm_course.looked IS 'Records that an exercise''s cell was run before anything was filled in';

CREATE OR REPLACE VIEW llm_course.progress AS
SELECT student, exercise, count(score) AS tries, coalesce(max(score), 0)::real AS score,
    coalesce(max(score), 0) = 1 AS is_right, min(at) AS first_seen,
    -- A blank cell starts no clock: "Run all" opens every exercise of a notebook at once.
    min(at) FILTER (WHERE score = 1) - min(at) FILTER (WHERE score IS NOT NULL) AS time
FROM llm_course.attempt GROUP BY student, exercise;
COMMENT ON VIEW llm_course.progress IS
    'An exercise of a student: tries, best score, and the time from the first try to the first right answer';
ALTER VIEW llm_course.progress SET (security_invoker = true);

ALTER TABLE llm_course.attempt ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own ON llm_course.attempt;
CREATE POLICY own ON llm_course.attempt FOR SELECT USING (student = session_user);
COMMENT ON POLICY own ON llm_course.attempt IS 'Students see their own attempts; the owner of the table sees all';
GRANT USAGE ON SCHEMA llm_course TO PUBLIC;
GRANT SELECT ON llm_course.exercise, llm_course.attempt, llm_course.progress TO PUBLIC;

-- In a class nothing of a student's is kept here but attempts: no large objects, and no temporary tables either.
DO $$ BEGIN
    IF current_setting('is_superuser')::boolean THEN
        REVOKE EXECUTE ON FUNCTION lo_create(oid), lo_creat(int), lo_from_bytea(oid, bytea) FROM PUBLIC;
    END IF;
END $$;
