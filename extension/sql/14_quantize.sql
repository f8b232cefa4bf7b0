-- Quantized weights. Rows stay float32 tensors; the copies that the kernels read become two or four times
-- smaller.

CREATE FUNCTION pg_llm_quantize(t tensor, format text, transposed boolean DEFAULT false) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_quantize(tensor, text, boolean) IS
    'A matrix (K,N), or (N,K) if transposed, with each element rounded to a value that needs fewer bits: bf16, the '
    'nearest float32 with 8 significant bits; or int8, an integer from -127 to 127 times a scale for each 128 rows '
    'of a column, the largest magnitude / 127 rounded up to 8 significant bits';

CREATE FUNCTION pg_llm_format(t tensor, transposed boolean DEFAULT false) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_format(tensor, boolean) IS
    'The smallest format that represents every element of a matrix (K,N), or (N,K) if transposed, exactly: int8, '
    'bf16 or float32. The kernels read the matrix in this format';

CREATE FUNCTION _llm_matmul_weights(model text) RETURNS TABLE (name text, transposed boolean)
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.name, bool_and(coalesce((m.attrs ->> 'transpose_b')::boolean, false))
    FROM @extschema@.llm_graph AS p
    JOIN @extschema@.llm_graph AS m ON m.model = p.model AND m.op = 'matmul' AND m.inputs[2] = p.name
    WHERE p.model = _llm_matmul_weights.model AND p.op = 'param' AND cardinality(p.shape) = 2
    GROUP BY p.id, p.name ORDER BY p.id
$$;
COMMENT ON FUNCTION _llm_matmul_weights(text) IS
    'Parameters of a model that its matmuls read as matrices, and whether each is read transposed';

CREATE FUNCTION llm_quantize(model text, format text, target text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made text := coalesce(target, model || '-' || format);
    missing text;
BEGIN
    IF model IS NULL OR format IS NULL THEN
        RAISE EXCEPTION 'model and format must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF format NOT IN ('bf16', 'int8') THEN
        RAISE EXCEPTION '"%" is not a format of weights', left(format, 100) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Formats are bf16 (16 bits) and int8 (8.25 bits, scales included).';
    ELSIF NOT EXISTS (SELECT FROM @extschema@.llm_graph AS g WHERE g.model = model) THEN
        RAISE EXCEPTION 'there is no model "%" to copy', left(model, 100) USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model, count(*) FROM llm_param GROUP BY model lists those with weights.';
    END IF;
    INSERT INTO @extschema@.llm_model_config
        (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options, recipe)
        SELECT made, n_layer, n_head, d_model, d_ff, n_positions, vocab,
            coalesce(@extschema@.llm_tokenizer(model), model), options || jsonb_build_object('weights', format), recipe
        FROM @extschema@.llm_model_config AS c WHERE c.model = model
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model "%" already exists', left(made, 100) USING ERRCODE = 'duplicate_object',
            HINT = 'Give the copy another name, llm_quantize(model, format, name), '
            'or delete the old one from llm_model_config.';
    END IF;
    INSERT INTO @extschema@.llm_graph (model, name, op, inputs, attrs)
        SELECT made, name, op, inputs, attrs FROM @extschema@.llm_graph AS g WHERE g.model = model ORDER BY id;
    PERFORM @extschema@._llm_progress_begin('quantize', made, 'tensor',
        (SELECT count(*) FROM @extschema@.llm_graph AS g WHERE g.model = model AND g.op = 'param'));
    INSERT INTO @extschema@.llm_param (model, name, data)
        SELECT made, g.name, CASE WHEN w.name IS NULL THEN p.data
            ELSE @extschema@.pg_llm_quantize(p.data, format, w.transposed) END
        FROM @extschema@.llm_graph AS g
        LEFT JOIN @extschema@.llm_param_share AS s ON s.target_model = g.model AND s.target_name = g.name
        LEFT JOIN @extschema@.llm_param AS p
            ON p.model = coalesce(s.source_model, g.model) AND p.name = coalesce(s.source_name, g.name)
        LEFT JOIN @extschema@._llm_matmul_weights(model) AS w ON w.name = g.name
        WHERE g.model = model AND g.op = 'param' AND @extschema@._llm_progress_step('quantize')
        ORDER BY g.id;
    PERFORM @extschema@._llm_progress_end();
    SELECT string_agg('"' || name || '"', ', ' ORDER BY name) INTO missing
    FROM (SELECT name FROM @extschema@.llm_param AS p WHERE p.model = made AND data IS NULL ORDER BY name LIMIT 5) AS p;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'model "%" has no weights for %', model, missing USING ERRCODE = 'undefined_object',
            HINT = format('llm_init_model(%L, seed) gives it random weights.', model);
    END IF;
    IF EXISTS (SELECT FROM @extschema@.llm_graph AS g WHERE g.model = model AND g.op = 'expert_matmul') THEN
        RAISE NOTICE 'the experts of model "%" stay float32: expert_matmul reads no other format', model;
    END IF;
    RETURN made;
END $$;
COMMENT ON FUNCTION llm_quantize(text, text, text) IS
    'Makes a copy of a model, named target (NULL: the model''s name and the format), whose matmuls read bf16 or int8 '
    'weights. The copy''s rows store the rounded values in float32, and nothing else is stored: sums are float32, '
    'and every result is that of these rows. Returns the name';

CREATE FUNCTION llm_quantization(model text, source text)
    RETURNS TABLE (name text, format text, bits float8, rms_error float8, max_error float8, source_rms float8)
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.name, f.format, CASE f.format WHEN 'int8' THEN 8.25 WHEN 'bf16' THEN 16 ELSE 32 END::float8,
        sqrt(e.square), e.largest, sqrt(e.source_square)
    FROM @extschema@._llm_matmul_weights(model) AS w
    JOIN @extschema@.llm_param AS p ON p.model = llm_quantization.model AND p.name = w.name
    JOIN @extschema@.llm_param AS q ON q.model = source AND q.name = w.name,
    LATERAL (SELECT @extschema@.pg_llm_format(p.data, w.transposed) AS format) AS f,
    LATERAL (SELECT p.data OPERATOR(@extschema@.-) q.data AS change) AS d,
    LATERAL (SELECT @extschema@.mean(d.change OPERATOR(@extschema@.*) d.change)::float8 AS square,
        greatest(@extschema@.tensor_max(d.change)::float8, -@extschema@.tensor_min(d.change)::float8) AS largest,
        @extschema@.mean(q.data OPERATOR(@extschema@.*) q.data)::float8 AS source_square) AS e
$$;
COMMENT ON FUNCTION llm_quantization(text, text) IS
    'What quantizing did to each matrix: the format it is read in, bits per weight with scales, root mean square and '
    'largest difference from the source model''s weight, and that weight''s own root mean square';

CREATE FUNCTION llm_perplexity_change(model text, source text, dataset text, max_rows bigint DEFAULT NULL,
    OUT perplexity float8, OUT source_perplexity float8, OUT change float8, OUT tokens bigint)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT p.perplexity, p.tokens INTO perplexity, tokens
        FROM @extschema@.llm_perplexity(model, dataset, max_rows) AS p;
    SELECT p.perplexity INTO source_perplexity FROM @extschema@.llm_perplexity(source, dataset, max_rows) AS p;
    change := perplexity / source_perplexity - 1;
END $$;
COMMENT ON FUNCTION llm_perplexity_change(text, text, text, bigint) IS
    'The price of fewer bits: perplexity of a quantized model and of its source on the first max_rows rows of a '
    'dataset (NULL: all), and the relative change';
