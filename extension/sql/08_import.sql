-- Import and export of checkpoints. The required contents of a file are decided here once, for the import by
-- path (C) and over the connection (Python): both pass their list of tensors to _llm_import_begin and write
-- the rows it returns.

-- Prefixes come from wrappers: transformer. (HuggingFace), _orig_mod. (torch.compile), module. (data parallel).
CREATE FUNCTION _llm_import_tensors(tensors jsonb, architecture text DEFAULT 'gpt2')
    RETURNS TABLE ("position" int, name text, dtype text, shape bigint[], stored_name text, is_transposed boolean)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH stored AS (
        SELECT ordinality::int AS "position", tensor ->> 'name' AS stored_name, tensor ->> 'dtype' AS dtype,
            regexp_replace(tensor ->> 'name', CASE architecture WHEN 'gpt2'
                THEN '^(\w+\.)*?(?=(wte|wpe|ln_f|lm_head|h\.[0-9]+)\.)'
                ELSE '^((_orig_mod|module|model|transformer|gpt_neox|decoder)\.)*' END, '') AS name,
            ARRAY(SELECT dim::bigint
                  FROM jsonb_array_elements_text(tensor -> 'shape') WITH ORDINALITY AS d (dim, i) ORDER BY i) AS shape
        FROM jsonb_array_elements(tensors) WITH ORDINALITY AS t (tensor, ordinality)
        WHERE tensor ->> 'name' !~ '^optimizer\.[mv]\.'
    ), file AS (
        SELECT coalesce(bool_or(name = 'wte.weight'), false) AS has_wte,
            coalesce(bool_or(name = 'lm_head.weight'), false) AS has_head,
            -- as a Linear layer of PyTorch stores it, (3*C,C)
            coalesce(bool_or(architecture = 'gpt2' AND shape[1] = 3 * shape[2]
                AND name ~ '^h\.[0-9]+\.attn\.c_attn\.weight$'), false) AS linear
        FROM stored
    ), named AS (
        SELECT stored.*, linear AND cardinality(shape) = 2 AND name ~ '^h\.[0-9]+\.' AS is_transposed,
            -- DialoGPT's name of the head; and a tied pair of which the head alone was kept
            CASE WHEN name = 'lm_head.decoder.weight' AND NOT has_head THEN 'lm_head.weight'
                -- transformers 5's name of it in memory
                WHEN name = 'lm_head.weight' AND architecture = 'gpt_neox' THEN 'embed_out.weight'
                ELSE name END AS new_name,
            has_wte
        FROM stored CROSS JOIN file
    )
    SELECT "position",
        CASE WHEN new_name = 'lm_head.weight' AND NOT has_wte AND architecture = 'gpt2' THEN 'wte.weight'
            ELSE new_name END,
        dtype, CASE WHEN is_transposed THEN ARRAY[shape[2], shape[1]] ELSE shape END, stored_name, is_transposed
    FROM named
    WHERE name !~ '^(h|layers)\.[0-9]+\.(attn|attention|attn\.attention)\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$'
$$;
COMMENT ON FUNCTION _llm_import_tensors(jsonb, text) IS
    'A file''s tensors under the names of an architecture, of GPT-2 with its shapes, (in,out): without prefixes, the '
    'masks and tables that old checkpoints carry, and the optimizer''s moments in pg_llm''s own; is_transposed: '
    'the file has (out,in)';

-- Which tensors are the head and the embedding: they are compared bit for bit before the import begins.
CREATE FUNCTION _llm_import_head(tensors jsonb, config jsonb) RETURNS TABLE (head int, embedding int)
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT max("position") FILTER (WHERE t.name = a.head), max("position") FILTER (WHERE t.name = a.embedding)
    FROM @extschema@.llm_architecture AS a, @extschema@._llm_import_tensors(tensors, a.architecture) AS t
    WHERE a.architecture = coalesce(config ->> 'model_type', 'gpt2')
$$;
COMMENT ON FUNCTION _llm_import_head(jsonb, jsonb) IS
    'The positions of a file''s head and embedding among its tensors; NULL where it has none';

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
    FROM @extschema@.llm_model_config AS c
    JOIN @extschema@.llm_architecture AS a ON a.architecture = coalesce(c.options ->> 'architecture', 'gpt2')
    CROSS JOIN LATERAL (
        SELECT max((attrs ->> 'n_head')::numeric) FILTER (WHERE op = 'attention') AS n_head,
            jsonb_build_object(
                'tied_head', CASE WHEN count(*) > 0 THEN NOT bool_or(name = a.head AND op = 'param') END,
                'layer_norm_epsilon', max((attrs ->> 'eps')::float8) FILTER (WHERE name = a.norm),
                'activation', max(CASE WHEN op <> 'gelu' THEN op WHEN attrs ->> 'approximate' = 'none' THEN 'gelu_erf'
                        ELSE 'gelu_tanh' END)
                    FILTER (WHERE name = a.act AND op IN ('gelu', 'relu', 'silu', 'tanh', 'sigmoid'))
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
    registered jsonb;
    edited jsonb;
    differences text[];
BEGIN
    SELECT to_jsonb(c) - 'options' || a.defaults || '{"architecture": "gpt2"}' || c.options,
        to_jsonb(g) - 'options' || a.defaults || '{"architecture": "gpt2"}' || g.options
    INTO STRICT registered, edited
    FROM @extschema@.llm_model_config AS c
    JOIN @extschema@.llm_architecture AS a ON a.architecture = coalesce(c.options ->> 'architecture', 'gpt2')
    CROSS JOIN @extschema@._llm_graph_config(the_model) AS g
    WHERE c.model = the_model;
    -- a pattern and its repetition over the layers are the same; so are windows that see the whole context
    registered := registered || jsonb_build_object('attention_layers',
        @extschema@._llm_attention_layers(registered, (registered ->> 'n_layer')::int),
        'window_size', least((registered ->> 'window_size')::int, (registered ->> 'n_positions')::int));
    edited := edited || jsonb_build_object('attention_layers', registered -> 'attention_layers',
        'window_size', registered -> 'window_size');
    IF file -> 'options' ? 'attention_layers' THEN
        file := jsonb_set(file, '{options,attention_layers}',
            @extschema@._llm_attention_layers(file -> 'options', (registered ->> 'n_layer')::int));
    END IF;
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
        coalesce(file ->> 'tokenizer', CASE WHEN (file ->> 'vocab')::int IN (50257, 50304)
            AND coalesce(options ->> 'architecture', 'gpt2') IN ('gpt2', 'gpt_neo') THEN 'gpt2' END),
        options);
END
$$;
COMMENT ON FUNCTION _llm_import_register(text, jsonb, jsonb, boolean) IS
    'Registers a file''s model: config row and graph, dimensions from config.json or the tensors'' shapes';

CREATE FUNCTION _llm_import_is_zero(model text, parameter text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT parameter LIKE '%.bias' AND c.options ->> 'architecture' IS NULL AND (c.options ->> 'bias' = 'false'
        OR (c.options ->> 'qkv_bias' = 'false' AND
            (parameter LIKE '%.attn.c_attn.bias' OR parameter LIKE '%.attn.head.%.bias'))) IS TRUE
    FROM @extschema@.llm_model_config AS c WHERE c.model = _llm_import_is_zero.model
$$;
COMMENT ON FUNCTION _llm_import_is_zero(text, text) IS
    'Whether a parameter is a bias that the model does not have: a file may leave it out, and it is zero then';

-- Raises an error unless the file's tensors are the model's parameters, by name, shape and type.
CREATE FUNCTION _llm_import_check(model text, architecture llm_architecture, tensors jsonb, ignore_head boolean,
    ignore_surplus boolean)
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
               FROM @extschema@._llm_import_tensors(tensors, architecture.architecture) AS f
               WHERE f.name <> architecture.head OR NOT ignore_head) AS t ON t.name = expected.name;
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
COMMENT ON FUNCTION _llm_import_check(text, llm_architecture, jsonb, boolean, boolean) IS
    'Names every tensor of a file that is missing, surplus or of another shape than the model''s graph requires';

CREATE FUNCTION _llm_import_architecture(model text, config jsonb) RETURNS llm_architecture
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    name text := config ->> 'model_type';
    known @extschema@.llm_architecture;
BEGIN
    IF name IS NULL THEN
        SELECT c.options ->> 'architecture' INTO name FROM @extschema@.llm_model_config AS c WHERE c.model = model;
    END IF;
    name := coalesce(name, 'gpt2');
    PERFORM @extschema@._llm_check_architecture(name, 'config.json: model_type');
    SELECT a.* INTO known FROM @extschema@.llm_architecture AS a WHERE a.architecture = name;
    RETURN known;
END
$$;
COMMENT ON FUNCTION _llm_import_architecture(text, jsonb) IS
    'The architecture of a file: that of its config.json, else that of the registered model, else GPT-2';

CREATE FUNCTION _llm_import_begin(model text, tensors jsonb, config jsonb, head_is_wte boolean,
    ignore_surplus boolean DEFAULT false)
    RETURNS TABLE (name text, "position" int, shape int[], is_transposed boolean)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    the_model CONSTANT text := model;
    known CONSTANT @extschema@.llm_architecture := @extschema@._llm_import_architecture(the_model, config);
    has_head CONSTANT boolean := EXISTS (
        SELECT FROM @extschema@._llm_import_tensors(tensors, known.architecture) AS t WHERE t.name = known.head);
    untied CONSTANT boolean := coalesce(config ->> 'tie_word_embeddings', known.defaults ->> 'tied_head') = 'false';
    -- A head equal to wte counts as separate only if the config says so: training may then make them differ.
    separate_head CONSTANT boolean := CASE WHEN has_head THEN untied OR NOT head_is_wte ELSE untied END;
    twice text[];
    shared text;
BEGIN
    IF known.architecture = 'gpt2' AND coalesce(jsonb_typeof(config), 'object') = 'object' 
        AND NOT coalesce(config, '{}') ? 'bias'
        AND (SELECT bool_or(t.name = 'ln_f.weight') AND NOT bool_or(t.name ~ '^(h\.[0-9]+|ln_f)\..*bias$')
             FROM @extschema@._llm_import_tensors(tensors) AS t) THEN
        config := coalesce(config, '{}') || '{"bias": false}';
    END IF;
    IF the_model IS NULL OR the_model = '' THEN
        RAISE EXCEPTION 'a model needs a name' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'For example: SELECT pg_llm_import_safetensors(''/data/gpt2'', ''gpt2-small'');';
    END IF;
    SELECT array_agg(t.stored_name ORDER BY t."position") INTO twice
    FROM @extschema@._llm_import_tensors(tensors, known.architecture) AS t
    GROUP BY t.name HAVING count(*) > 1 ORDER BY t.name LIMIT 1;
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
            RAISE WARNING 'config.json ties the head, but % differs from %: imported as a head of its own',
                known.head, known.embedding;
        END IF;
        PERFORM @extschema@._llm_import_register(the_model, tensors, config, separate_head);
    END IF;
    PERFORM @extschema@._llm_import_check(the_model, known, tensors, head_is_wte AND NOT EXISTS (
        SELECT FROM @extschema@.llm_param_shapes(the_model) AS p WHERE p.name = known.head), ignore_surplus);

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
            AND p.name NOT IN (
                SELECT t.name FROM @extschema@._llm_import_tensors(tensors, known.architecture) AS t);
    RETURN QUERY
        SELECT p.name::text, t."position", p.shape, t.is_transposed
        FROM @extschema@.llm_param_shapes(the_model) AS p
        JOIN @extschema@._llm_import_tensors(tensors, known.architecture) AS t ON t.name = p.name
        JOIN @extschema@.llm_graph AS g ON g.model = the_model AND g.name = p.name
        ORDER BY g.id;
END
$$;
COMMENT ON FUNCTION _llm_import_begin(text, jsonb, jsonb, boolean, boolean) IS
    'Begins an import: registers the model or checks that the file fits it, empties its parameters, and returns '
    'which tensor of the file (position from 1) becomes which parameter, in graph order, and whether it has to be '
    'transposed. tensors: [{"name", "dtype", "shape"}]; head_is_wte: the head equals the embedding '
    '(_llm_import_head) bit for bit';

CREATE FUNCTION llm_export_config(model text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH model AS (
        SELECT c, c.*, a.architecture, a.class, a.keys, a.defaults || jsonb_strip_nulls(c.options) AS stated
        FROM @extschema@._llm_graph_config(model) AS c
        JOIN @extschema@.llm_architecture AS a ON a.architecture = coalesce(c.options ->> 'architecture', 'gpt2')
        WHERE c.model IS NOT NULL
    )
    SELECT (SELECT jsonb_object_agg(names.theirs, CASE names.ours
                WHEN 'activation' THEN CASE value #>> '{}' WHEN 'gelu_tanh' THEN '"gelu_new"'::jsonb
                    WHEN 'gelu_erf' THEN '"gelu"' ELSE value END
                ELSE value END)
            FROM jsonb_each_text(m.keys) AS names (ours, theirs)
            CROSS JOIN LATERAL (SELECT coalesce(to_jsonb(m) -> names.ours, m.stated -> names.ours)) AS v (value)
            -- of what only pg_llm reads, what was asked for
            WHERE value IS NOT NULL AND (m.options ? names.ours
                OR names.ours NOT IN ('scale_attn_weights', 'scale_attn_by_inverse_layer_idx', 'bias', 'qkv_bias')))
        || @extschema@._llm_export_spelling(m.c, m.architecture, m.stated)
        || jsonb_build_object('model_type', m.architecture, 'architectures', jsonb_build_array(m.class),
            'bos_token_id', coalesce(m.options -> 'bos_token_id', m.options -> 'eos_token_id'),
            'eos_token_id', m.options -> 'eos_token_id',
            'torch_dtype', 'float32', 'tokenizer', @extschema@.llm_tokenizer(m.model))
    FROM model AS m
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
    known @extschema@.llm_architecture;
    config @extschema@.llm_model_config;
    unread text;
BEGIN
    PERFORM @extschema@._llm_export_check(the_model);
    SELECT a.* INTO known FROM @extschema@.llm_architecture AS a
    WHERE a.architecture = (the_config::jsonb) ->> 'model_type';
    -- the model that an import of this config.json makes
    SELECT r.* INTO config
    FROM @extschema@.llm_model_config AS c,
        jsonb_populate_record(c, @extschema@._llm_import_config(the_config::jsonb)) AS r
    WHERE c.model = the_model;
    unread := @extschema@._llm_export_unread(config);
    -- recompute is about training and its memory; what the model computes does not depend on it
    IF EXISTS (WITH own AS (
            SELECT g.name, g.op, g.inputs, g.attrs - 'recompute' FROM @extschema@.llm_graph AS g
            WHERE g.model = the_model
        ), known AS (
            SELECT t.name, t.op, t.inputs, t.attrs - 'recompute' FROM @extschema@._llm_model_graph(config) AS t
        )
        (TABLE own EXCEPT TABLE known) UNION ALL (TABLE known EXCEPT TABLE own)) THEN
        RAISE WARNING 'the graph of model "%" is no longer %, and the file''s config.json cannot express it',
            the_model, CASE known.architecture WHEN 'gpt2' THEN 'GPT-2''s' ELSE 'that of ' || known.architecture END
            USING HINT = 'The weights are written; keep the rows of llm_graph as well.';
    ELSIF unread IS NOT NULL THEN
        RAISE WARNING 'transformers'' % has no %: with this file it computes something else than model "%"',
            known.class, unread, the_model
            USING HINT = 'Imported here, the model is the same: only pg_llm reads this from config.json.';
    END IF;
    RETURN QUERY SELECT CASE WHEN split_part(r.name, '.', 1) = split_part(known.head, '.', 1) THEN r.name
                     ELSE known.prefix || r.name END, r.owner_model,
                     r.owner_name, r.shape, the_config
                 FROM @extschema@._llm_export_rows(the_model) AS r;
END
$$;
COMMENT ON FUNCTION _llm_export_begin(text) IS
    'Begins an export: the rows to write, or an error that names what is missing; and the model as config.json';

CREATE FUNCTION pg_llm_import_safetensors(path text, model text, ignore_surplus boolean DEFAULT false,
    OUT tensors int, OUT parameters bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_import_safetensors(text, text, boolean) IS
    'Imports a model from a .safetensors file of the server, or from a folder with model.safetensors (or its shards '
    'and index) and config.json. ignore_surplus: tensors that the model does not have are left out, with a notice';
CREATE FUNCTION pg_llm_import_npz(path text, model text, ignore_surplus boolean DEFAULT false,
    OUT tensors int, OUT parameters bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_import_npz(text, text, boolean) IS
    'Imports a model from an .npz file of the server, or from a folder with model.npz and config.json. '
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
