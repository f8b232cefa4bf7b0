-- Import and export of checkpoints. The required contents of a file are decided here once, for the import by
-- path (C) and over the connection (Python): both pass their list of tensors to _llm_import_begin and write
-- the rows it returns.

CREATE FUNCTION _llm_import_config(config jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    result jsonb := '{}';
    options jsonb := '{}';
    activations CONSTANT jsonb := '{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh", "gelu_python_tanh": "gelu_tanh", "gelu_accurate": "gelu_tanh",
        "gelu_tanh": "gelu_tanh", "gelu": "gelu_erf", "gelu_python": "gelu_erf", "gelu_erf": "gelu_erf",
        "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh", "sigmoid": "sigmoid",
        "quick_gelu": "quick_gelu"}';
    dimension record;
    flag text;
    smallest int;
    epsilon jsonb := config -> 'layer_norm_epsilon';
    eos jsonb := config -> 'eos_token_id';
BEGIN
    IF config IS NULL THEN
        RETURN '{"options": {}}';
    ELSIF jsonb_typeof(config) <> 'object' THEN
        RAISE EXCEPTION 'config.json holds %, expected an object', jsonb_typeof(config)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF coalesce(config ->> 'model_type', 'gpt2') <> 'gpt2' THEN
        RAISE EXCEPTION 'config.json describes a model of type "%", expected "gpt2"', config ->> 'model_type'
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Other architectures can be written as llm_graph rows; their weights go into llm_param '
                      'by name.';
    ELSIF coalesce(config ->> 'add_cross_attention', 'false') <> 'false' THEN
        RAISE EXCEPTION 'config.json requires attention that GPT-2''s graph does not have'
            USING ERRCODE = 'feature_not_supported', DETAIL = 'add_cross_attention must be false.';
    END IF;

    -- A null means "not stated", as HuggingFace writes n_inner.
    FOR dimension IN
        SELECT ours, theirs, value
        FROM (VALUES ('n_layer', 'n_layer', 1), ('n_head', 'n_head', 1), ('d_model', 'n_embd', 1),
                     ('d_ff', 'n_inner', 1), ('n_positions', 'n_ctx', 1), ('n_positions', 'n_positions', 2),
                     ('vocab', 'vocab_size', 1)) AS known (ours, theirs, rank),
             LATERAL (SELECT config -> theirs) AS stated (value)
        WHERE jsonb_typeof(value) <> 'null'
        ORDER BY rank
    LOOP
        smallest := CASE dimension.ours WHEN 'n_layer' THEN 0 ELSE 1 END;
        IF jsonb_typeof(dimension.value) <> 'number'
            OR (dimension.value)::numeric NOT BETWEEN smallest AND 2147483647
            OR (dimension.value)::numeric <> trunc((dimension.value)::numeric) THEN
            RAISE EXCEPTION 'config.json: % is %, expected a whole number from % to 2147483647',
                dimension.theirs, dimension.value, smallest
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        result := result || jsonb_build_object(dimension.ours, (dimension.value)::int);
    END LOOP;

    IF jsonb_typeof(config -> 'activation_function') <> 'null' THEN
        IF NOT activations ? (config ->> 'activation_function') THEN
            RAISE EXCEPTION 'config.json: activation_function is "%"', config ->> 'activation_function'
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'Supported are gelu_new (tanh), gelu (erf), relu, silu, tanh, sigmoid and quick_gelu.';
        END IF;
        options := options || jsonb_build_object('activation', activations -> (config ->> 'activation_function'));
    END IF;
    IF jsonb_typeof(epsilon) <> 'null' THEN
        IF jsonb_typeof(epsilon) <> 'number' OR epsilon::numeric NOT BETWEEN 0 AND 1 THEN
            RAISE EXCEPTION 'config.json: layer_norm_epsilon is %, expected a number from 0 to 1', epsilon
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        options := options || jsonb_build_object('layer_norm_epsilon', epsilon);
    END IF;
    IF jsonb_typeof(config -> 'tie_word_embeddings') = 'boolean' THEN
        options := options || jsonb_build_object('tied_head', config -> 'tie_word_embeddings');
    END IF;
    FOREACH flag IN ARRAY ARRAY['scale_attn_weights', 'scale_attn_by_inverse_layer_idx', 'bias', 'qkv_bias'] LOOP
        IF jsonb_typeof(config -> flag) = 'boolean' THEN
            options := options || jsonb_build_object(flag, config -> flag);
        ELSIF jsonb_typeof(config -> flag) <> 'null' THEN
            RAISE EXCEPTION 'config.json: % is %, expected true or false', flag, config -> flag
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
    IF jsonb_typeof(eos) = 'array' THEN -- with several end tokens, training used the first
        eos := eos -> 0;
    END IF;
    IF jsonb_typeof(eos) = 'number' THEN
        options := options || jsonb_build_object('eos_token_id', eos);
    END IF;
    IF jsonb_typeof(config -> 'tokenizer') = 'string' THEN -- written by pg_llm's own export
        result := result || jsonb_build_object('tokenizer', config -> 'tokenizer');
    END IF;
    RETURN result || jsonb_build_object('options', options);
END
$$;
COMMENT ON FUNCTION _llm_import_config(jsonb) IS
    'HuggingFace''s config.json of a GPT-2 as columns and options of llm_model_config; refuses what the graph '
    'cannot express';

-- Prefixes come from wrappers: transformer. (HuggingFace), _orig_mod. (torch.compile), module. (data parallel).
CREATE FUNCTION _llm_import_tensors(tensors jsonb)
    RETURNS TABLE ("position" int, name text, dtype text, shape bigint[], stored_name text, is_transposed boolean)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH stored AS (
        SELECT ordinality::int AS "position", tensor ->> 'name' AS stored_name, tensor ->> 'dtype' AS dtype,
            regexp_replace(tensor ->> 'name', '^(\w+\.)*?(?=(wte|wpe|ln_f|lm_head|h\.[0-9]+)\.)', '') AS name,
            ARRAY(SELECT dim::bigint
                  FROM jsonb_array_elements_text(tensor -> 'shape') WITH ORDINALITY AS d (dim, i) ORDER BY i) AS shape
        FROM jsonb_array_elements(tensors) WITH ORDINALITY AS t (tensor, ordinality)
        WHERE tensor ->> 'name' !~ '^optimizer\.[mv]\.'
    ), file AS (
        SELECT coalesce(bool_or(name = 'wte.weight'), false) AS has_wte,
            coalesce(bool_or(name = 'lm_head.weight'), false) AS has_head,
            -- as a Linear layer of PyTorch stores it, (3*C,C)
            coalesce(bool_or(shape[1] = 3 * shape[2] AND name ~ '^h\.[0-9]+\.attn\.c_attn\.weight$'), false) AS linear
        FROM stored
    ), named AS (
        SELECT stored.*, linear AND cardinality(shape) = 2 AND name ~ '^h\.[0-9]+\.' AS is_transposed,
            -- DialoGPT's name of the head; and a tied pair of which the head alone was kept
            CASE WHEN name = 'lm_head.decoder.weight' AND NOT has_head THEN 'lm_head.weight' ELSE name END AS new_name,
            has_wte
        FROM stored CROSS JOIN file
    )
    SELECT "position", CASE WHEN new_name = 'lm_head.weight' AND NOT has_wte THEN 'wte.weight' ELSE new_name END,
        dtype, CASE WHEN is_transposed THEN ARRAY[shape[2], shape[1]] ELSE shape END, stored_name, is_transposed
    FROM named
    WHERE name !~ '^h\.[0-9]+\.attn\.(bias|masked_bias)$'
$$;
COMMENT ON FUNCTION _llm_import_tensors(jsonb) IS
    'A file''s tensors under GPT-2''s names and with its shapes, (in,out): without prefixes, the causal masks that old '
    'checkpoints carry, and the optimizer''s moments in pg_llm''s own; is_transposed: the file has (out,in)';

CREATE FUNCTION _llm_import_list(items text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_to_string(items[1:20], ', ')
        || CASE WHEN cardinality(items) > 20 THEN format(' and %s more', cardinality(items) - 20) ELSE '' END
$$;
COMMENT ON FUNCTION _llm_import_list(text[]) IS 'The first twenty items, and how many more there are';

-- The dimensions of the file's model: from its config.json, and where that lacks one, from its tensors'
-- shapes.
CREATE FUNCTION _llm_import_dimensions(tensors jsonb, config jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stated jsonb := @extschema@._llm_import_config(config);
    derived jsonb;
BEGIN
    SELECT jsonb_strip_nulls(jsonb_build_object(
               'n_layer', coalesce(max(substring(name FROM '^h\.([0-9]{1,5})\.')::int) + 1, 0),
               'd_model', max(shape[2]) FILTER (WHERE name = 'wte.weight'),
               'd_ff', max(shape[2]) FILTER (WHERE name = 'h.0.mlp.c_fc.weight'),
               'n_positions', max(shape[1]) FILTER (WHERE name = 'wpe.weight'),
               'vocab', max(shape[1]) FILTER (WHERE name = 'wte.weight')))
    INTO derived
    FROM @extschema@._llm_import_tensors(tensors);
    -- In HuggingFace's config, n_inner null means 4 n_embd, whatever the tensors' shapes.
    IF config IS NOT NULL AND NOT stated ? 'd_ff' AND stated ? 'd_model' THEN
        stated := stated || jsonb_build_object('d_ff', (stated ->> 'd_model')::bigint * 4);
    END IF;
    RETURN derived || stated;
END
$$;
COMMENT ON FUNCTION _llm_import_dimensions(jsonb, jsonb) IS
    'Dimensions and options of the model in a file, from its config.json and its tensors'' shapes';

-- A learner edits llm_graph, not llm_model_config: what config.json can say of the edits.
CREATE FUNCTION _llm_graph_config(model text) RETURNS llm_model_config
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_populate_record(c, jsonb_build_object(
        'n_head', coalesce(g.n_head, c.n_head), 'options', c.options || jsonb_strip_nulls(g.options)))
    FROM @extschema@.llm_model_config AS c, LATERAL (
        SELECT max((attrs ->> 'n_head')::numeric) FILTER (WHERE op = 'attention') AS n_head,
            jsonb_build_object(
                'tied_head', CASE WHEN count(*) > 0 THEN NOT bool_or(name = 'lm_head.weight' AND op = 'param') END,
                'layer_norm_epsilon', max((attrs ->> 'eps')::float8) FILTER (WHERE name = 'ln_f'),
                'activation', max(CASE WHEN op <> 'gelu' THEN op WHEN attrs ->> 'approximate' = 'none' THEN 'gelu_erf'
                        ELSE 'gelu_tanh' END)
                    FILTER (WHERE name = 'h.0.mlp.act' AND op IN ('gelu', 'relu', 'silu', 'tanh', 'sigmoid'))
            ) AS options
        FROM @extschema@.llm_graph AS node WHERE node.model = c.model) AS g
    WHERE c.model = _llm_graph_config.model
$$;
COMMENT ON FUNCTION _llm_graph_config(text) IS
    'A model''s row of llm_model_config with the heads, head, activation and epsilon that its graph has';

-- Raises an error unless the file describes the registered model.
CREATE FUNCTION _llm_import_compare(model text, config jsonb, separate_head boolean) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    the_model CONSTANT text := model;
    file jsonb := @extschema@._llm_import_config(config);
    defaults CONSTANT jsonb := '{"layer_norm_epsilon": 1e-5, "activation": "gelu_tanh", "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false, "bias": true, "qkv_bias": true}';
    registered jsonb;
    edited jsonb;
    differences text[];
BEGIN
    SELECT to_jsonb(c) - 'options' || defaults || c.options, to_jsonb(g) - 'options' || defaults || g.options
    INTO STRICT registered, edited
    FROM @extschema@.llm_model_config AS c, @extschema@._llm_graph_config(the_model) AS g
    WHERE c.model = the_model;
    -- Weights for either are welcome: an edit of the graph is kept, and an export of it can be imported again.
    SELECT array_agg(format('%s: registered %s, file %s', key, registered ->> key, value #>> '{}') ORDER BY key)
    INTO differences
    FROM jsonb_each(file - 'options' - 'tokenizer' || (file -> 'options') - 'tied_head')
    WHERE registered -> key <> value AND edited -> key <> value;
    IF separate_head AND coalesce(edited ->> 'tied_head', 'true') = 'true' THEN
        differences := differences
            || 'head: registered tied to wte.weight, file has a lm_head.weight that differs from it'::text;
    END IF;
    IF differences IS NOT NULL THEN
        RAISE EXCEPTION 'model "%" is registered as another model than the file''s', the_model
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = array_to_string(differences, '; '),
                  HINT = 'Import under another name, or change the row in llm_model_config first.';
    END IF;
END
$$;
COMMENT ON FUNCTION _llm_import_compare(text, jsonb, boolean) IS
    'Refuses a file whose config.json contradicts the model''s row in llm_model_config';

-- Registers the model of a file if no such model is registered.
CREATE FUNCTION _llm_import_register(model text, tensors jsonb, config jsonb, separate_head boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    file jsonb := @extschema@._llm_import_dimensions(tensors, config);
    d_model bigint := file ->> 'd_model';
    n_head int := file ->> 'n_head';
    options CONSTANT jsonb := (file -> 'options') || jsonb_build_object('tied_head', NOT separate_head);
    unknown text := coalesce(CASE WHEN NOT file ? 'vocab' OR NOT file ? 'd_model' THEN 'wte.weight' END,
                             CASE WHEN NOT file ? 'n_positions' THEN 'wpe.weight' END);
BEGIN
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'the dimensions of model "%" are unknown: the file has no config.json and no two-dimensional %',
            model, unknown
            USING ERRCODE = 'undefined_object',
                  DETAIL = format('The file''s tensors: %s', coalesce(nullif(@extschema@._llm_import_list(ARRAY(
                      SELECT t.name FROM @extschema@._llm_import_tensors(tensors) AS t)), ''), 'none')),
                  HINT = 'A GPT-2 checkpoint has wte.weight (vocab,d_model) and wpe.weight (n_positions,d_model).'
                      || CASE WHEN EXISTS (SELECT FROM @extschema@._llm_import_tensors(tensors) AS t
                                           WHERE t.name ~ '(^|\.)tok_emb\.')
                          THEN ' LLMs-from-scratch has other names: pg-llm convert, or pg_llm.load_model in Python.'
                          ELSE '' END;
    END IF;
    IF n_head IS NULL THEN
        -- GPT-2 as OpenAI published it. No other model's number of heads follows from its shapes.
        SELECT published.n_head INTO n_head
        FROM (VALUES (12, 768, 12), (24, 1024, 16), (36, 1280, 20), (48, 1600, 25)) AS published (n_layer, d, n_head)
        WHERE (published.n_layer, published.d, 1024, 50257) = ((file ->> 'n_layer')::int, d_model,
            (file ->> 'n_positions')::int, (file ->> 'vocab')::int);
        IF FOUND THEN
            RAISE NOTICE 'config.json does not state n_head: took %, as GPT-2 of this size has', n_head;
        END IF;
    END IF;
    IF n_head IS NULL THEN
        RAISE EXCEPTION 'n_head of model "%" is unknown: no config.json states it, and weights do not determine it',
            model USING ERRCODE = 'undefined_object',
                  HINT = format('Register the model first: SELECT llm_create_model(%L, n_layer => %s, n_head => ?, '
                                'd_model => %s, n_positions => %s, vocab => %s, d_ff => %s%s);',
                                model, file ->> 'n_layer', d_model, file ->> 'n_positions', file ->> 'vocab',
                                coalesce(file ->> 'd_ff', 'NULL'), ', options => '
                                    || quote_literal(nullif(options, '{"tied_head": true}')))
                      || CASE WHEN EXISTS (SELECT FROM @extschema@._llm_import_tensors(tensors) WHERE is_transposed)
                          THEN ' If nanoGPT trained it, options is to have "activation": "gelu_erf", too.' ELSE '' END;
    END IF;
    PERFORM @extschema@.llm_create_model(model, (file ->> 'n_layer')::int, n_head, d_model::int,
        (file ->> 'n_positions')::int, (file ->> 'vocab')::int, coalesce((file ->> 'd_ff')::int, (d_model * 4)::int),
        -- nanoGPT pads GPT-2's vocabulary to 50304
        coalesce(file ->> 'tokenizer', CASE WHEN (file ->> 'vocab')::int IN (50257, 50304) THEN 'gpt2' END),
        options);
END
$$;
COMMENT ON FUNCTION _llm_import_register(text, jsonb, jsonb, boolean) IS
    'Registers a file''s model: config row and graph, dimensions from config.json or the tensors'' shapes';

CREATE FUNCTION _llm_import_is_zero(model text, parameter text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT parameter LIKE '%.bias' AND (c.options ->> 'bias' = 'false'
        OR (c.options ->> 'qkv_bias' = 'false' AND parameter LIKE '%.attn.c_attn.bias')) IS TRUE
    FROM @extschema@.llm_model_config AS c WHERE c.model = _llm_import_is_zero.model
$$;
COMMENT ON FUNCTION _llm_import_is_zero(text, text) IS
    'Whether a parameter is a bias that the model does not have: a file may leave it out, and it is zero then';

-- Raises an error unless the file's tensors are the model's parameters, by name, shape and type.
CREATE FUNCTION _llm_import_check(model text, tensors jsonb, ignore_head boolean, ignore_surplus boolean)
    RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    the_model CONSTANT text := model;
    missing text[];
    surplus text[];
    misshapen text[];
    numbers text[];
BEGIN
    SELECT array_agg(expected.name || ' ' || expected.wanted ORDER BY expected.i)
               FILTER (WHERE t.name IS NULL AND NOT expected.is_zero),
           array_agg(t.stored_name || ' ' || t.got ORDER BY t.position) FILTER (WHERE expected.name IS NULL),
           array_agg(format('%s is %s%s, expected %s', t.name, t.got,
                            CASE WHEN t.floats THEN '' ELSE ' of type ' || t.dtype END,
                            expected.wanted || CASE WHEN t.floats THEN '' ELSE ' of F32, F16, BF16 or F64' END)
                     ORDER BY expected.i)
               FILTER (WHERE expected.wanted <> t.got OR (NOT t.floats AND expected.name IS NOT NULL))
    INTO missing, surplus, misshapen
    FROM (SELECT p.name, translate(p.shape::text, '{}', '()') AS wanted, row_number() OVER () AS i,
                 @extschema@._llm_import_is_zero(the_model, p.name) AS is_zero
          FROM @extschema@.llm_param_shapes(the_model) AS p) AS expected
    FULL JOIN (SELECT f.*, translate(f.shape::text, '{}', '()') AS got,
                      f.dtype IN ('F32', 'F16', 'BF16', 'F64') AS floats
               FROM @extschema@._llm_import_tensors(tensors) AS f
               WHERE f.name <> 'lm_head.weight' OR NOT ignore_head) AS t ON t.name = expected.name;
    IF ignore_surplus AND surplus IS NOT NULL THEN
        RAISE NOTICE 'left out of the import: %', @extschema@._llm_import_list(surplus);
        surplus := NULL;
    END IF;
    numbers := array_remove(ARRAY[cardinality(missing) || ' missing', cardinality(surplus) || ' surplus',
                                  cardinality(misshapen) || ' of another shape'], NULL);
    IF cardinality(numbers) > 0 THEN
        RAISE EXCEPTION 'the file''s tensors are not those of model "%": %', the_model, array_to_string(numbers, ', ')
            USING ERRCODE = CASE WHEN misshapen IS NOT NULL THEN 'array_subscript_error' ELSE 'undefined_object' END,
                  DETAIL = concat_ws(E'\n', 'Missing: ' || @extschema@._llm_import_list(missing),
                                     'Surplus: ' || @extschema@._llm_import_list(surplus),
                                     'Of another shape: ' || @extschema@._llm_import_list(misshapen)),
                  HINT = CASE WHEN coalesce(missing, misshapen) IS NULL
                              THEN 'ignore_surplus => true imports the file without them.'
                              ELSE 'The names and shapes expected: SELECT * FROM llm_param_shapes('
                                  || quote_literal(the_model) || ');' END;
    END IF;
END
$$;
COMMENT ON FUNCTION _llm_import_check(text, jsonb, boolean, boolean) IS
    'Names every tensor of a file that is missing, surplus or of another shape than the model''s graph requires';

CREATE FUNCTION _llm_import_begin(model text, tensors jsonb, config jsonb, head_is_wte boolean,
    ignore_surplus boolean DEFAULT false)
    RETURNS TABLE (name text, "position" int, shape int[], is_transposed boolean)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    the_model CONSTANT text := model;
    has_head CONSTANT boolean := EXISTS (
        SELECT FROM @extschema@._llm_import_tensors(tensors) AS t WHERE t.name = 'lm_head.weight');
    -- A head equal to wte counts as separate only if the config says so: training may then make them differ.
    separate_head boolean := has_head
        AND (NOT head_is_wte OR coalesce(config ->> 'tie_word_embeddings' = 'false', false));
    twice text[];
    shared text;
BEGIN
    IF coalesce(jsonb_typeof(config), 'object') = 'object' AND NOT coalesce(config, '{}') ? 'bias'
        AND (SELECT bool_or(t.name = 'ln_f.weight') AND NOT bool_or(t.name ~ '^(h\.[0-9]+|ln_f)\..*bias$')
             FROM @extschema@._llm_import_tensors(tensors) AS t) THEN
        config := coalesce(config, '{}') || '{"bias": false}';
    END IF;
    IF the_model IS NULL OR the_model = '' THEN
        RAISE EXCEPTION 'a model needs a name' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'For example: SELECT pg_llm_import_safetensors(''/data/gpt2'', ''gpt2-small'');';
    END IF;
    SELECT array_agg(t.stored_name ORDER BY t."position") INTO twice
    FROM @extschema@._llm_import_tensors(tensors) AS t GROUP BY t.name HAVING count(*) > 1 ORDER BY t.name LIMIT 1;
    IF twice[1] = twice[2] THEN
        RAISE EXCEPTION 'two tensors have the name "%"', twice[1] USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Each tensor must be in one file, once; of shards, one may be a copy of another.';
    ELSIF twice IS NOT NULL THEN
        RAISE EXCEPTION 'the tensors "%" and "%" are the same parameter', twice[1], twice[2]
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The file contains more than one model: save the state_dict of one of them.';
    END IF;
    -- Two concurrent imports of one model: the second waits here, then replaces what the first wrote.
    PERFORM pg_advisory_xact_lock(hashtextextended('pg_llm import ' || the_model, 0));

    IF EXISTS (SELECT FROM @extschema@.llm_model_config AS c WHERE c.model = the_model) THEN
        PERFORM @extschema@._llm_import_compare(the_model, config, has_head AND NOT head_is_wte);
        IF NOT EXISTS (SELECT FROM @extschema@.llm_graph AS g WHERE g.model = the_model) THEN
            PERFORM @extschema@.llm_create_model(c.model, c.n_layer, c.n_head, c.d_model, c.n_positions, c.vocab,
                                                 c.d_ff, c.tokenizer, c.options)
            FROM @extschema@.llm_model_config AS c WHERE c.model = the_model;
        END IF;
    ELSE
        IF separate_head AND NOT head_is_wte AND config ->> 'tie_word_embeddings' = 'true' THEN
            RAISE WARNING 'config.json ties the head, but lm_head.weight differs from wte.weight: '
                'imported as a head of its own';
        END IF;
        PERFORM @extschema@._llm_import_register(
            the_model, tensors, config,
            separate_head OR (NOT has_head AND coalesce(config ->> 'tie_word_embeddings' = 'false', false)));
    END IF;
    PERFORM @extschema@._llm_import_check(the_model, tensors, head_is_wte AND NOT EXISTS (
        SELECT FROM @extschema@.llm_param_shapes(the_model) AS p WHERE p.name = 'lm_head.weight'), ignore_surplus);

    SELECT string_agg(s.target_name, ', ' ORDER BY s.target_name) INTO shared
    FROM @extschema@.llm_param_share AS s WHERE s.target_model = the_model;
    IF shared IS NOT NULL THEN
        RAISE EXCEPTION 'parameters of model "%" are stored in another model: %', the_model, shared
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Separate them with llm_unshare_param first.';
    END IF;
    -- Gradients, moments and step belong to the replaced weights.
    DELETE FROM @extschema@.llm_param AS p WHERE p.model = the_model;
    INSERT INTO @extschema@.llm_param (model, name, data)
        SELECT the_model, p.name, @extschema@.zeros(p.shape)
        FROM @extschema@.llm_param_shapes(the_model) AS p
        WHERE @extschema@._llm_import_is_zero(the_model, p.name)
            AND p.name NOT IN (SELECT t.name FROM @extschema@._llm_import_tensors(tensors) AS t);
    RETURN QUERY
        SELECT p.name::text, t."position", p.shape, t.is_transposed
        FROM @extschema@.llm_param_shapes(the_model) AS p
        JOIN @extschema@._llm_import_tensors(tensors) AS t ON t.name = p.name
        JOIN @extschema@.llm_graph AS g ON g.model = the_model AND g.name = p.name
        ORDER BY g.id;
END
$$;
COMMENT ON FUNCTION _llm_import_begin(text, jsonb, jsonb, boolean, boolean) IS
    'Begins an import: registers the model or checks that the file fits it, empties its parameters, and returns '
    'which tensor of the file (position from 1) becomes which parameter, in graph order, and whether it has to be '
    'transposed. tensors: [{"name", "dtype", "shape"}]; head_is_wte: lm_head.weight equals wte.weight bit for bit';

CREATE FUNCTION llm_export_config(model text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'model_type', 'gpt2', 'architectures', jsonb_build_array('GPT2LMHeadModel'),
        'n_layer', c.n_layer, 'n_head', c.n_head, 'n_embd', c.d_model, 'n_inner', c.d_ff,
        'n_positions', c.n_positions, 'n_ctx', c.n_positions, 'vocab_size', c.vocab,
        'activation_function', CASE coalesce(c.options ->> 'activation', 'gelu_tanh')
            WHEN 'gelu_tanh' THEN 'gelu_new' WHEN 'gelu_erf' THEN 'gelu' ELSE c.options ->> 'activation' END,
        'layer_norm_epsilon', coalesce(c.options -> 'layer_norm_epsilon', '1e-5'),
        'tie_word_embeddings', coalesce(c.options -> 'tied_head', 'true'),
        'bos_token_id', c.options -> 'eos_token_id', 'eos_token_id', c.options -> 'eos_token_id',
        'torch_dtype', 'float32', 'tokenizer', @extschema@.llm_tokenizer(c.model))
        || (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(c.options)
            WHERE key IN ('scale_attn_weights', 'scale_attn_by_inverse_layer_idx', 'bias', 'qkv_bias'))
    FROM @extschema@._llm_graph_config(model) AS c WHERE c.model IS NOT NULL
$$;
COMMENT ON FUNCTION llm_export_config(text) IS
    'A model''s row as HuggingFace''s config.json; NULL where there is no such model';

-- The contents of an export, in graph order. A shared parameter is written as a copy of its source.
CREATE FUNCTION _llm_export_rows(model text) RETURNS TABLE (name text, owner_model text, owner_name text, shape int[])
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.name::text, coalesce(s.source_model, g.model)::text, coalesce(s.source_name, g.name)::text,
           @extschema@.shape(p.data)
    FROM @extschema@.llm_graph AS g
    LEFT JOIN @extschema@.llm_param_share AS s ON s.target_model = g.model AND s.target_name = g.name
    LEFT JOIN @extschema@.llm_param AS p
        ON p.model = coalesce(s.source_model, g.model) AND p.name = coalesce(s.source_name, g.name)
    WHERE g.model = _llm_export_rows.model AND g.op = 'param'
    ORDER BY g.id
$$;
COMMENT ON FUNCTION _llm_export_rows(text) IS
    'A model''s parameters in graph order, the model and name whose row stores each, and their shapes (NULL: no '
    'value)';

CREATE FUNCTION _llm_export_check(model text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    the_model CONSTANT text := model;
    missing text[] := ARRAY(SELECT r.name FROM @extschema@._llm_export_rows(the_model) AS r WHERE r.shape IS NULL);
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.llm_model_config AS c WHERE c.model = the_model) THEN
        RAISE EXCEPTION 'there is no model "%"', the_model USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model FROM llm_model_config lists the models.';
    ELSIF missing <> '{}' OR NOT EXISTS (SELECT FROM @extschema@._llm_export_rows(the_model)) THEN
        RAISE EXCEPTION 'model "%" has no weights', the_model USING ERRCODE = 'undefined_object',
            DETAIL = CASE WHEN missing <> '{}' THEN 'Without a value: ' || @extschema@._llm_import_list(missing)
                          ELSE 'It has no parameters in llm_graph.' END,
            HINT = format('Import a checkpoint, or give it random weights: SELECT llm_init_model(%L);', the_model);
    END IF;
END
$$;
COMMENT ON FUNCTION _llm_export_check(text) IS
    'Raises an error unless every parameter of a model has a value; names those without';

CREATE FUNCTION _llm_export_begin(model text)
    RETURNS TABLE (name text, owner_model text, owner_name text, shape int[], config text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    the_model CONSTANT text := model;
    the_config CONSTANT text := jsonb_pretty(@extschema@.llm_export_config(the_model));
BEGIN
    PERFORM @extschema@._llm_export_check(the_model);
    IF EXISTS (SELECT g.name, g.op, g.inputs, g.attrs FROM @extschema@.llm_graph AS g WHERE g.model = the_model
               EXCEPT SELECT t.* FROM @extschema@._llm_gpt2_graph(@extschema@._llm_graph_config(the_model)) AS t)
        OR EXISTS (SELECT t.* FROM @extschema@._llm_gpt2_graph(@extschema@._llm_graph_config(the_model)) AS t
                   EXCEPT SELECT g.name, g.op, g.inputs, g.attrs FROM @extschema@.llm_graph AS g
                          WHERE g.model = the_model) THEN
        RAISE WARNING 'the graph of model "%" is no longer GPT-2''s, and the file''s config.json cannot express it',
            the_model USING HINT = 'The weights are written; keep the rows of llm_graph as well.';
    END IF;
    RETURN QUERY SELECT r.name, r.owner_model, r.owner_name, r.shape, the_config
                 FROM @extschema@._llm_export_rows(the_model) AS r;
END
$$;
COMMENT ON FUNCTION _llm_export_begin(text) IS
    'Begins an export: the rows to write, or an error that names what is missing; and the model as config.json';

CREATE FUNCTION pg_llm_import_safetensors(path text, model text, ignore_surplus boolean DEFAULT false,
    OUT tensors int, OUT parameters bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_import_safetensors(text, text, boolean) IS
    'Imports a GPT-2 from a .safetensors file of the server, or from a folder with model.safetensors (or its shards '
    'and index) and config.json. ignore_surplus: tensors that the model does not have are left out, with a notice';
CREATE FUNCTION pg_llm_import_npz(path text, model text, ignore_surplus boolean DEFAULT false,
    OUT tensors int, OUT parameters bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_import_npz(text, text, boolean) IS
    'Imports a GPT-2 from an .npz file of the server, or from a folder with model.npz and config.json. '
    'ignore_surplus: tensors that the model does not have are left out, with a notice';
CREATE FUNCTION pg_llm_export_safetensors(path text, model text, OUT tensors int, OUT parameters bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_export_safetensors(text, text) IS
    'Writes a model to a .safetensors file of the server, or as model.safetensors, config.json and the files of its '
    'tokenizer into an existing folder; a reader never sees an incomplete file';
CREATE FUNCTION pg_llm_export_npz(path text, model text, OUT tensors int, OUT parameters bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_export_npz(text, text) IS
    'Writes a model to an .npz file of the server that numpy.load reads, or as model.npz, config.json and the files '
    'of its tokenizer into an existing folder; a reader never sees an incomplete file';
