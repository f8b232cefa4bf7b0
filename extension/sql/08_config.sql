-- config.json of HuggingFace, read and written: what an architecture calls its dimensions and options is in
-- llm_architecture; what it spells in a way of its own is here.

-- Keys of any config.json that ask for what no architecture here has; a value of false, 0 or null asks for nothing.
CREATE FUNCTION _llm_import_requires(config jsonb, requires jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    foreign_keys CONSTANT text[] := '{quantization_config,num_experts,num_local_experts,n_routed_experts}';
    item record;
BEGIN
    FOR item IN
        SELECT key, config -> key AS value, required FROM jsonb_each(requires) AS r (key, required)
        UNION ALL
        SELECT key, config -> key, NULL FROM unnest(foreign_keys) AS f (key)
        ORDER BY key
    LOOP
        IF item.required IS NULL AND item.value NOT IN ('null', 'false', '0') THEN
            RAISE EXCEPTION 'config.json: % is %, which is not supported', item.key, left(item.value::text, 100)
                USING ERRCODE = 'feature_not_supported', HINT = CASE item.key WHEN 'quantization_config'
                    THEN 'Download the weights in float32, float16 or bfloat16; llm_quantize makes them smaller here.'
                    ELSE 'A mixture of experts has other layers than those of this model_type.' END;
        ELSIF item.required <> item.value AND item.value <> 'null' THEN
            RAISE EXCEPTION 'config.json: % is %, supported is %', item.key, left(item.value::text, 100), item.required
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'Other architectures can be written as llm_graph rows; their weights go into llm_param '
                          'by name.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _llm_import_requires(jsonb, jsonb) IS
    'Refuses a config.json that asks for layers that its architecture has not here, naming the key';

CREATE FUNCTION _llm_import_states(config jsonb, names jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing CONSTANT text := (SELECT string_agg(n.theirs, ', ' ORDER BY n.theirs)
        FROM jsonb_each_text(names) AS n (ours, theirs)
        WHERE n.ours IN ('n_layer', 'n_head', 'd_model', 'n_positions', 'vocab')
                AND coalesce(jsonb_typeof(config -> n.theirs), 'null') = 'null'
            OR n.ours = 'd_ff' AND NOT config ? n.theirs);
BEGIN
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'config.json does not state %', missing USING ERRCODE = 'invalid_parameter_value',
            HINT = format('A model of type "%s" needs it.', config ->> 'model_type');
    END IF;
END
$$;
COMMENT ON FUNCTION _llm_import_states(jsonb, jsonb) IS
    'Refuses a config.json without a dimension that weights do not determine, naming the key';

-- What different architectures write in ways of their own, as attention_layers and window_size.
CREATE FUNCTION _llm_import_layers(config jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE config ->> 'model_type'
        -- attention_types: [[["global", "local"], 6]] is that pair six times over
        WHEN 'gpt_neo' THEN (
            SELECT CASE WHEN count(*) > 0
                THEN jsonb_build_object('attention_layers', jsonb_agg(kind ORDER BY i, time, j)) ELSE '{}' END
            FROM jsonb_array_elements(CASE jsonb_typeof(config -> 'attention_types') WHEN 'array'
                    THEN config -> 'attention_types' ELSE '[]' END) WITH ORDINALITY AS types (item, i),
                generate_series(1, least((item ->> 1)::numeric, (config ->> 'num_layers')::numeric)) AS time,
                jsonb_array_elements(item -> 0) WITH ORDINALITY AS kinds (kind, j))
        -- a window of every layer; layers of both kinds stand under our own key
        WHEN 'mistral' THEN CASE WHEN config -> 'sliding_window' = 'null'
                OR config -> 'attention_layers' @> '["global", "local"]' THEN '{}'
            ELSE jsonb_build_object('attention_layers', '["local"]'::jsonb, 'window_size',
                coalesce(config -> 'sliding_window', '4096')) END
        WHEN 'qwen2' THEN window_of.layers
        WHEN 'qwen3' THEN window_of.layers
        ELSE '{}' END
    FROM (SELECT CASE WHEN config -> 'use_sliding_window' = 'true'
            AND coalesce(config -> 'sliding_window', 'null') <> 'null' THEN (
                SELECT jsonb_build_object('window_size', config -> 'sliding_window', 'attention_layers',
                    jsonb_agg(CASE WHEN coalesce(config -> 'layer_types' ->> layer = 'sliding_attention',
                        layer >= (config ->> 'max_window_layers')::int) THEN 'local' ELSE 'global' END ORDER BY layer))
                FROM generate_series(0, (config ->> 'num_hidden_layers')::int - 1) AS layer)
            ELSE '{}' END) AS window_of (layers)
$$;
COMMENT ON FUNCTION _llm_import_layers(jsonb) IS
    'The kinds of attention layers that a config.json states, under the names of our options';

CREATE FUNCTION _llm_import_types(config jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    types CONSTANT jsonb := config -> 'attention_types';
BEGIN
    IF config ->> 'model_type' IS DISTINCT FROM 'gpt_neo' OR coalesce(jsonb_typeof(types), 'null') = 'null' THEN
        RETURN;
    ELSIF jsonb_typeof(types) = 'array' THEN
        IF NOT EXISTS (SELECT FROM jsonb_array_elements(types) AS t (item)
            WHERE jsonb_typeof(item -> 0) IS DISTINCT FROM 'array'
                OR jsonb_typeof(item -> 1) IS DISTINCT FROM 'number') THEN
            RETURN;
        END IF;
    END IF;
    RAISE EXCEPTION 'config.json: attention_types is %, expected lists such as [[["global", "local"], 6]]',
        left(types::text, 100) USING ERRCODE = 'invalid_parameter_value';
END
$$;
COMMENT ON FUNCTION _llm_import_types(jsonb) IS
    'Refuses a GPT-Neo''s attention_types that are no lists of kinds and times';

-- Of rope_parameters (transformers 5), or of rope_theta, rope_scaling, rotary_pct and rotary_emb_base.
CREATE FUNCTION _llm_import_rope(config jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given CONSTANT jsonb := CASE
        WHEN jsonb_typeof(config -> 'rope_parameters') = 'object' THEN config -> 'rope_parameters'
        WHEN jsonb_typeof(config -> 'rope_scaling') = 'object' THEN config -> 'rope_scaling' ELSE '{}' END;
    kind CONSTANT text := coalesce(given ->> 'rope_type', given ->> 'type', 'default');
    keys CONSTANT text[] := CASE kind WHEN 'default' THEN '{}' WHEN 'linear' THEN '{factor}'
        WHEN 'llama3' THEN '{factor,low_freq_factor,high_freq_factor,original_max_position_embeddings}' END;
    fraction CONSTANT jsonb := coalesce(given -> 'partial_rotary_factor', config -> 'partial_rotary_factor',
        config -> 'rotary_pct', CASE config ->> 'model_type' WHEN 'gpt_neox' THEN '0.25' ELSE '1' END::jsonb);
    head_size CONSTANT float8 := coalesce((config ->> 'head_dim')::float8,
        (config ->> 'hidden_size')::float8 / nullif((config ->> 'num_attention_heads')::float8, 0));
    missing text;
BEGIN
    IF keys IS NULL THEN
        RAISE EXCEPTION 'config.json: rope_type "%" is not supported', left(kind, 100)
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Supported are default, linear and llama3: the operation rope turns by these alone.';
    END IF;
    SELECT string_agg(k, ', ') INTO missing FROM unnest(keys) AS k
    WHERE jsonb_typeof(given -> k) IS DISTINCT FROM 'number';
    IF missing IS NOT NULL OR jsonb_typeof(fraction) <> 'number' THEN
        RAISE EXCEPTION 'config.json: %, expected a number', coalesce(format('rope_scaling of type %s has for %s: %s',
                kind, missing, left(given::text, 200)), 'partial_rotary_factor is ' || left(fraction::text, 100))
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'rope_theta', coalesce(given -> 'rope_theta', config -> 'rope_theta', config -> 'rotary_emb_base'),
        'rotary_dim', coalesce(config -> 'rotary_dim',
            CASE WHEN fraction <> '1' THEN to_jsonb(trunc(head_size * fraction::float8)::int) END),
        'rope_scaling', (SELECT jsonb_object_agg(k, given -> k) FROM unnest(keys) AS k)))
        || CASE WHEN keys = '{}' THEN '{"rope_scaling": null}' ELSE '{}' END::jsonb;
END
$$;
COMMENT ON FUNCTION _llm_import_rope(jsonb) IS
    'The rotary positions that a config.json states, under the names of our options; refuses scalings by name that '
    'rope does not have';

-- config.json with what has several spellings under one.
CREATE FUNCTION _llm_import_spelling(config jsonb, keys jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT config || @extschema@._llm_import_layers(config)
        || CASE WHEN keys ? 'rotary_dim' THEN @extschema@._llm_import_rope(config) ELSE '{}' END
        || CASE WHEN keys ->> 'n_positions' = 'n_positions' AND coalesce(config -> 'n_positions', 'null') = 'null'
                AND config ? 'n_ctx'
            THEN jsonb_build_object('n_positions', config -> 'n_ctx') ELSE '{}' END
$$;
COMMENT ON FUNCTION _llm_import_spelling(jsonb, jsonb) IS
    'A config.json with context length, kinds of attention layers and rotary positions under one spelling each';

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
    known @extschema@.llm_architecture;
    item record;
    eos jsonb := config -> 'eos_token_id';
BEGIN
    IF config IS NULL THEN
        RETURN '{"options": {}}';
    ELSIF jsonb_typeof(config) <> 'object' THEN
        RAISE EXCEPTION 'config.json holds %, expected an object', jsonb_typeof(config)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM @extschema@._llm_check_architecture(coalesce(config ->> 'model_type', 'gpt2'), 'config.json: model_type');
    SELECT a.* INTO STRICT known FROM @extschema@.llm_architecture AS a
    WHERE a.architecture = coalesce(config ->> 'model_type', 'gpt2');
    PERFORM @extschema@._llm_import_requires(config, known.requires);
    PERFORM @extschema@._llm_import_types(config);
    config := @extschema@._llm_import_spelling(config, known.keys);
    IF known.architecture = 'gpt_neo'
        AND to_jsonb(jsonb_array_length(config -> 'attention_layers')) <> config -> 'num_layers' THEN
        RAISE EXCEPTION 'config.json: attention_types states % layers, num_layers %',
            jsonb_array_length(config -> 'attention_layers'), config -> 'num_layers'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- A null means "not stated", as HuggingFace writes n_inner.
    FOR item IN
        SELECT c.ours, c.theirs, config -> c.theirs AS value
        FROM jsonb_each_text(known.keys) AS c (ours, theirs)
        WHERE jsonb_typeof(config -> c.theirs) <> 'null'
        ORDER BY c.theirs
    LOOP
        PERFORM @extschema@._llm_check_option('config.json', item.theirs, item.value, item.ours);
        IF item.ours IN ('n_layer', 'n_head', 'd_model', 'd_ff', 'n_positions', 'vocab') THEN
            result := result || jsonb_build_object(item.ours, (item.value)::int);
        ELSIF item.ours = 'activation' AND NOT activations ? (item.value #>> '{}') THEN
            RAISE EXCEPTION 'config.json: % is "%"', item.theirs, item.value #>> '{}'
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'Supported are gelu_new (tanh), gelu (erf), relu, silu, tanh, sigmoid and quick_gelu.';
        ELSE
            options := options || jsonb_build_object(item.ours,
                CASE item.ours WHEN 'activation' THEN activations -> (item.value #>> '{}') ELSE item.value END);
        END IF;
    END LOOP;

    -- in a short context, a longer window is none
    IF (options ->> 'window_size')::int > (result ->> 'n_positions')::int THEN
        options := options || jsonb_build_object('window_size', result -> 'n_positions');
    END IF;
    IF jsonb_typeof(eos) = 'array' THEN -- with several end tokens, training used the first
        eos := eos -> 0;
    END IF;
    IF jsonb_typeof(eos) = 'number' THEN
        options := options || jsonb_build_object('eos_token_id', eos);
    END IF;
    IF known.architecture <> 'gpt2' THEN
        PERFORM @extschema@._llm_import_states(config, known.keys);
        options := options || jsonb_strip_nulls(jsonb_build_object('architecture', known.architecture,
            'bos_token_id',
            CASE jsonb_typeof(config -> 'bos_token_id') WHEN 'number' THEN config -> 'bos_token_id' END));
    END IF;
    IF jsonb_typeof(config -> 'tokenizer') = 'string' THEN -- written by pg_llm's own export
        result := result || jsonb_build_object('tokenizer', config -> 'tokenizer');
    END IF;
    RETURN result || jsonb_build_object('options', options);
END
$$;
COMMENT ON FUNCTION _llm_import_config(jsonb) IS
    'HuggingFace''s config.json as columns and options of llm_model_config; refuses what the graph cannot express';

CREATE FUNCTION _llm_attention_layers(options jsonb, n_layer int) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(coalesce(options -> 'attention_layers'
        -> (layer % greatest(jsonb_array_length(options -> 'attention_layers'), 1)), '"global"') ORDER BY layer)
    FROM generate_series(0, n_layer - 1) AS layer
$$;
COMMENT ON FUNCTION _llm_attention_layers(jsonb, int) IS 'The kind of each attention layer, "global" or "local"';

-- The converse of _llm_import_spelling.
CREATE FUNCTION _llm_export_spelling(config llm_model_config, architecture text, options jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE architecture
        WHEN 'gpt2' THEN jsonb_build_object('n_ctx', config.n_positions)
        WHEN 'gpt_neo' THEN jsonb_build_object('attention_layers', layers, 'attention_types', (
            SELECT jsonb_agg(jsonb_build_array(jsonb_build_array(kind), 1) ORDER BY i)
            FROM jsonb_array_elements(layers) WITH ORDINALITY AS l (kind, i)))
        WHEN 'gpt_neox' THEN jsonb_build_object('rotary_emb_base', options -> 'rope_theta', 'rotary_pct', fraction)
        WHEN 'mistral' THEN jsonb_build_object('sliding_window',
            CASE WHEN layers @> '["local"]' THEN options -> 'window_size' END)
        WHEN 'qwen2' THEN windows
        WHEN 'qwen3' THEN windows
        ELSE '{}' END
        -- transformers' defaults differ from these
        || CASE WHEN family = 'llama' THEN jsonb_build_object('head_dim', size, 'num_key_value_heads',
            coalesce(options -> 'n_kv_head', to_jsonb(config.n_head))) ELSE '{}' END
        || CASE WHEN options ? 'rope_theta' AND architecture <> 'gptj' THEN jsonb_build_object('rope_scaling', (
                SELECT s || jsonb_build_object('rope_type',
                    CASE WHEN s ? 'low_freq_factor' THEN 'llama3' ELSE 'linear' END)
                FROM (SELECT options -> 'rope_scaling') AS scaling (s) WHERE s <> 'null'))
                || CASE WHEN fraction < 1 THEN jsonb_build_object('partial_rotary_factor', fraction) ELSE '{}' END
            ELSE '{}' END
    FROM (SELECT @extschema@._llm_attention_layers(options, config.n_layer),
            coalesce((options ->> 'head_dim')::int, config.d_model / config.n_head),
            (SELECT k.family FROM @extschema@.llm_architecture AS k
                WHERE k.architecture = _llm_export_spelling.architecture)) AS a (layers, size, family)
    CROSS JOIN LATERAL (SELECT least(coalesce((options ->> 'rotary_dim')::float8, size) / size, 1)) AS exact (exact)
    -- half a channel more, where the quotient would be rounded down to a channel less
    CROSS JOIN LATERAL (SELECT CASE WHEN trunc(size * exact) = round(size * exact) THEN exact
        ELSE (round(size * exact) + 0.5) / size END) AS f (fraction)
    CROSS JOIN LATERAL (SELECT CASE WHEN layers @> '["local"]' THEN jsonb_build_object('use_sliding_window', true,
            'sliding_window', options -> 'window_size', 'max_window_layers', config.n_layer, 'layer_types', (
                SELECT jsonb_agg(CASE kind WHEN 'local' THEN 'sliding_attention' ELSE 'full_attention' END ORDER BY i)
                FROM jsonb_array_elements_text(layers) WITH ORDINALITY AS l (kind, i)))
        ELSE '{"use_sliding_window": false}' END) AS w (windows)
$$;
COMMENT ON FUNCTION _llm_export_spelling(llm_model_config, text, jsonb) IS
    'What config.json of an architecture says of kinds of attention layers and rotary positions, as it spells it';

CREATE FUNCTION _llm_export_unread(config llm_model_config) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(u.option, ' and ' ORDER BY u.option)
    FROM @extschema@.llm_architecture AS a
    CROSS JOIN LATERAL (SELECT a.defaults || jsonb_strip_nulls(config.options),
        coalesce((config.options ->> 'head_dim')::int, config.d_model / config.n_head)) AS o (options, head)
    CROSS JOIN LATERAL (SELECT @extschema@._llm_attention_layers(o.options, config.n_layer)) AS l (kinds)
    CROSS JOIN LATERAL (VALUES
        ('attention_layers', CASE WHEN a.architecture IN ('gpt_neo', 'qwen2', 'qwen3') THEN false
            WHEN a.architecture = 'mistral' THEN l.kinds @> '["global", "local"]' ELSE l.kinds @> '["local"]' END),
        ('experts', o.options ? 'experts'),
        ('separate_heads', o.options -> 'separate_heads' = 'true'),
        ('head_dim', a.family <> 'llama' AND o.head * config.n_head <> config.d_model),
        ('layer_norm_epsilon', a.architecture = 'opt' AND (o.options ->> 'layer_norm_epsilon')::float8 <> 1e-5),
        ('rotary_dim', a.family = 'llama' AND (o.options ->> 'rotary_dim')::int < o.head)) AS u (option, unread)
    WHERE a.architecture = coalesce(config.options ->> 'architecture', 'gpt2') AND u.unread
$$;
COMMENT ON FUNCTION _llm_export_unread(llm_model_config) IS
    'Options of a model that no key of its architecture''s config.json stands for, so that other programs compute '
    'something else; NULL where there are none';
