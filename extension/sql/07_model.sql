-- Models: their architectures as rows, random weights, logits and loss.

-- The rows for a row of llm_model_config: the nodes of its architecture, with its sizes and options.
CREATE FUNCTION _llm_model_graph(config llm_model_config)
    RETURNS TABLE (name text, op text, inputs text[], attrs jsonb)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH config AS (
        SELECT c.n_layer, c.n_head, a.family, a.layer AS layer_name, a.stream, a.embedding, a.head, o.options,
            (o.options ->> 'tied_head')::boolean AS tied, (o.options ->> 'layer_norm_epsilon')::float8 AS eps,
            o.options ->> 'activation' AS activation, o.options -> 'attention_layers' AS kinds,
            -- HuggingFace's names; the inverse index makes the scores of later layers smaller
            coalesce((o.options ->> 'scale_attn_weights')::boolean, true) AS scaled,
            coalesce((o.options ->> 'scale_attn_by_inverse_layer_idx')::boolean, false) AS by_layer,
            CASE WHEN o.options ->> 'bias' = 'false' THEN ARRAY['%.bias']
                WHEN o.options ->> 'qkv_bias' = 'false' THEN ARRAY['%.c_attn.bias', '%.attn.head.%.bias'] END
                AS unbiased,
            sqrt(size.head::float8) AS root, (o.options ->> 'experts')::int AS experts, per_token,
            -- an architecture's own window may be longer than a short context
            coalesce(c.options -> 'window_size', to_jsonb(least((o.options ->> 'window_size')::int, c.n_positions)))
                AS window_size,
            -- what the placeholders in shapes stand for, but for the dimensions that the engine knows by name
            jsonb_build_object('F', CASE WHEN c.d_ff = 4 * c.d_model THEN '4*C' ELSE 'F' END, 'NH', c.n_head,
                'KH', size.kv, 'HS', size.head, '3*HS', 3 * size.head, 'P+2', c.n_positions + 2,
                'Q', CASE size.head * c.n_head WHEN c.d_model THEN '"C"' ELSE to_jsonb(size.head * c.n_head) END,
                '3*Q', CASE size.head * c.n_head WHEN c.d_model THEN '"3*C"'
                    ELSE to_jsonb(3 * size.head * c.n_head) END,
                'K', CASE size.head * size.kv WHEN c.d_model THEN '"C"' ELSE to_jsonb(size.head * size.kv) END,
                'E', o.options -> 'experts', 'k', per_token, '1', 1) AS sizes,
            size.head AS head_size, size.kv AS n_kv_head,
            -- 2 n_layer terms are added to the residual stream: they are initialised smaller (Radford et al.,
            -- 2019)
            0.02 / sqrt(2 * greatest(c.n_layer, 1)::float8) AS small
        FROM (SELECT (_llm_model_graph.config).*) AS c
        JOIN @extschema@.llm_architecture AS a ON a.architecture = coalesce(c.options ->> 'architecture', 'gpt2')
        CROSS JOIN LATERAL (SELECT a.defaults || jsonb_strip_nulls(c.options)) AS o (options)
        CROSS JOIN LATERAL (SELECT coalesce((o.options ->> 'head_dim')::int, c.d_model / c.n_head),
            coalesce((o.options ->> 'n_kv_head')::int, c.n_head)) AS size (head, kv)
        CROSS JOIN LATERAL (SELECT coalesce((o.options ->> 'experts_per_token')::int,
            least(2, (o.options ->> 'experts')::int))) AS mixture (per_token)
        WHERE c.model IS NOT NULL
    ),
    node AS (
        SELECT node.part, node.n, node.name, node.inputs, node.shape,
            CASE WHEN node.kind = 'activation' THEN activation
                WHEN node.kind = 'projection' AND EXISTS (SELECT FROM unnest(node.bias) AS b (switch)
                    WHERE switch = 'always' OR (options ->> switch)::boolean) THEN 'biased projection'
                ELSE node.kind END AS kind
        FROM config JOIN @extschema@._llm_architecture_nodes() AS node ON node.of && ARRAY['*', family]
        WHERE node.needs IS NULL
            OR coalesce(options -> ltrim(node.needs, '!') <> 'false', false) <> (node.needs LIKE '!%')
    ),
    graph AS (
        SELECT part, layer, n, one, k, node.kind, coalesce(piece.op, node.kind) AS op,
            replace(replace(node.name || coalesce(suffix, ''), '%', here), '@', one::text) AS name,
            replace(replace(replace(
                coalesce(replace(replace(piece.inputs, '$self', node.name), '$input', btrim(node.inputs, '{}')),
                    node.inputs), '%', here), '.@', '.' || one),
                '^', CASE layer WHEN 0 THEN stream ELSE replace(layer_name, '%', (layer - 1)::text) END)::text[]
                AS inputs,
            (SELECT jsonb_agg(coalesce(sizes -> d.dim, to_jsonb(d.dim)) ORDER BY d.i)
             FROM unnest(shape::text[]) WITH ORDINALITY AS d (dim, i)) AS shape,
            -- what is within a layer: the residual stream after it is kept
            part = 1 AND node.name <> '%'
                AND (options -> 'recompute' = 'true' OR options -> 'recompute' @> to_jsonb(layer)) AS recomputed
        FROM config CROSS JOIN node
        LEFT JOIN @extschema@._llm_node_pieces() AS piece ON piece.kind = node.kind
        JOIN LATERAL generate_series(0, n_layer) AS layer
            ON CASE part WHEN 0 THEN layer = 0 WHEN 1 THEN layer < n_layer ELSE layer = n_layer END
        JOIN LATERAL generate_series(0, CASE WHEN node.name LIKE '%@%' THEN n_head - 1 ELSE 0 END) AS one ON true
        CROSS JOIN LATERAL (SELECT replace(layer_name, '%', layer::text)) AS this (here)
    )
    SELECT g.name, g.op, CASE WHEN g.inputs[1] LIKE '&%'
            THEN ARRAY(SELECT replace(g.inputs[1], '&', replace(layer_name, '%', i::text))
                FROM generate_series(0, n_layer - 1) AS i)
            WHEN g.inputs[1] LIKE '@%'
            THEN ARRAY(SELECT replace(substr(g.inputs[1], 2), '#', i::text) FROM generate_series(0, n_head - 1) AS i)
            WHEN tied THEN array_replace(g.inputs, head, embedding) ELSE g.inputs END,
        CASE WHEN g.recomputed AND g.op <> 'param' THEN '{"recompute": true}' ELSE '{}' END::jsonb || CASE g.op
            WHEN 'input' THEN jsonb_build_object('shape', shape, 'dtype', 'int')
            WHEN 'param' THEN CASE WHEN g.name LIKE '%.bias'
                THEN jsonb_build_object('shape',
                        CASE kind WHEN 'biased projection' THEN jsonb_build_array(shape -> 0)
                            WHEN 'experts' THEN shape - 1 ELSE jsonb_build_array(shape -> -1) END,
                        'init', 'zeros')
                    || CASE WHEN g.name LIKE ANY (unbiased) THEN '{"trainable": false}' ELSE '{}' END::jsonb
                WHEN kind IN ('layernorm', 'rmsnorm') THEN jsonb_build_object('shape', shape, 'init', 'ones')
                ELSE jsonb_build_object('shape', shape, 'init', 'normal',
                    'std', CASE WHEN g.name
                        ~ '\.(c_proj|out_proj|o_proj|down_proj|dense|dense_4h_to_h|fc_out|fc2)\.weight$'
                        THEN small ELSE 0.02 END) END
            WHEN 'layernorm' THEN jsonb_build_object('eps', eps)
            WHEN 'rmsnorm' THEN jsonb_build_object('eps', eps)
            WHEN 'reshape' THEN jsonb_build_object('shape', shape)
            WHEN 'slice' THEN CASE kind WHEN 'slice' THEN '{"starts": [2], "stops": [null]}'
                ELSE (SELECT jsonb_build_object('starts', jsonb_build_array(0, 0, 0, part * head_size),
                        'stops', jsonb_build_array(NULL, NULL, NULL, (part + 1) * head_size))
                    FROM (SELECT CASE WHEN g.name LIKE '%.query\_heads' THEN 0 WHEN g.name LIKE '%.key\_heads' THEN 1
                        ELSE 2 END) AS third (part)) END::jsonb
            WHEN 'rope' THEN jsonb_build_object('theta', options -> 'rope_theta', 'n_head',
                    CASE WHEN g.name LIKE '%.k\_rope' THEN n_kv_head ELSE n_head END)
                || CASE WHEN (options ->> 'rotary_dim')::int < head_size
                    THEN jsonb_build_object('dims', options -> 'rotary_dim') ELSE '{}' END
                || CASE WHEN (options ->> 'interleaved')::boolean THEN '{"interleaved": true}' ELSE '{}' END::jsonb
                || coalesce(options -> 'rope_scaling', '{}')
            WHEN 'attention' THEN jsonb_build_object('n_head', n_head)
                || CASE WHEN n_kv_head < n_head THEN jsonb_build_object('n_kv_head', n_kv_head) ELSE '{}' END
                || CASE WHEN scaled AND NOT by_layer THEN '{}' ELSE jsonb_build_object('scale',
                    CASE WHEN scaled THEN 1 / root ELSE 1 END / CASE WHEN by_layer THEN layer + 1 ELSE 1 END) END
                || CASE WHEN kinds ->> (layer % greatest(jsonb_array_length(kinds), 1)) = 'local'
                    THEN jsonb_build_object('window', window_size) ELSE '{}' END
            WHEN 'gelu' THEN CASE activation WHEN 'gelu_erf' THEN '{"approximate": "none"}' ELSE '{}' END::jsonb
            WHEN 'constant' THEN jsonb_build_object('value', CASE kind WHEN 'balance scale'
                THEN experts * coalesce((options ->> 'balance_loss')::float8, 0.01) ELSE 1.702 END)
            WHEN 'matmul' THEN CASE WHEN kind IN ('linear', 'gate') THEN '{}' ELSE '{"transpose_b": true}' END::jsonb
            WHEN 'topk' THEN jsonb_build_object('k', per_token) || CASE kind WHEN 'chosen'
                THEN '{"output": "indices"}' WHEN 'used' THEN '{"output": "mask"}' ELSE '{}' END::jsonb
            WHEN 'mean' THEN '{"axis": 0}'
            WHEN 'concat' THEN '{"axis": -1}'
            WHEN 'sum' THEN CASE kind WHEN 'mixed' THEN '{"axis": 2}' ELSE '{}' END::jsonb
            ELSE '{}'::jsonb END
    FROM config CROSS JOIN graph AS g
    ORDER BY part, layer, n, one, k
$$;
COMMENT ON FUNCTION _llm_model_graph(llm_model_config) IS
    'The graph rows of a row of llm_model_config, for its architecture, sizes and options';

CREATE FUNCTION llm_model_graph(model text) RETURNS TABLE (name text, op text, inputs text[], attrs jsonb)
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.* FROM @extschema@._llm_model_graph(
        (SELECT c FROM @extschema@.llm_model_config AS c WHERE c.model = llm_model_graph.model)) AS g
$$;
COMMENT ON FUNCTION llm_model_graph(text) IS
    'The architecture of a model''s config as graph rows: those that llm_create_model writes';

CREATE FUNCTION llm_gpt2_graph(model text) RETURNS TABLE (name text, op text, inputs text[], attrs jsonb)
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.* FROM @extschema@.llm_model_config AS c, @extschema@._llm_model_graph(
        jsonb_populate_record(c, jsonb_build_object('options', c.options || '{"architecture": "gpt2"}'))) AS g
    WHERE c.model = llm_gpt2_graph.model
$$;
COMMENT ON FUNCTION llm_gpt2_graph(text) IS
    'GPT-2''s architecture as graph rows, for the dimensions and options of a model''s config';

CREATE FUNCTION _llm_write_graph(model text) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n int;
    config @extschema@.llm_model_config;
BEGIN
    SELECT c.* INTO config FROM @extschema@.llm_model_config AS c WHERE c.model = model;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no model "%"', left(model, 100) USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model FROM llm_model_config lists the models; '
            'llm_create_model(name, n_layer, n_head, d_model, n_positions, vocab) adds one.';
    ELSIF EXISTS (SELECT FROM @extschema@.llm_graph AS old WHERE old.model = model) THEN
        RETURN 0;
    END IF;
    PERFORM @extschema@._llm_check_options(config);
    IF config.n_layer > 700 THEN
        RAISE EXCEPTION 'model "%": % layers are more than 700', model, config.n_layer
            USING ERRCODE = 'program_limit_exceeded',
            HINT = 'A graph has at most 20000 nodes and a layer is 28 of them.';
    END IF;
    INSERT INTO @extschema@.llm_graph (model, name, op, inputs, attrs)
        SELECT model, g.name, g.op, g.inputs, g.attrs FROM @extschema@.llm_model_graph(model) AS g;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
COMMENT ON FUNCTION _llm_write_graph(text) IS
    'Writes the rows of a model''s architecture into llm_graph if it has none; returns how many';

CREATE FUNCTION llm_get_model_config(model text) RETURNS llm_model_config
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    config @extschema@.llm_model_config;
BEGIN
    SELECT c.* INTO config FROM @extschema@.llm_model_config AS c WHERE c.model = model;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no model "%"', left(model, 100) USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model FROM llm_model_config lists the models.';
    END IF;
    RETURN config;
END $$;
COMMENT ON FUNCTION llm_get_model_config(text) IS 'A model''s row of llm_model_config; an error if there is none';

CREATE FUNCTION _llm_check_dimensions(model text, n_layer int, n_head int, d int, vocab int) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    c @extschema@.llm_model_config := @extschema@.llm_get_model_config(model);
BEGIN
    n_layer := coalesce(n_layer, c.n_layer);
    n_head := coalesce(n_head, c.n_head);
    d := coalesce(d, c.d_model);
    vocab := coalesce(vocab, c.vocab);
    IF (n_layer, n_head, d, vocab) <> (c.n_layer, c.n_head, c.d_model, c.vocab) THEN
        RAISE EXCEPTION 'model "%" has n_layer %, n_head %, d %, vocab %; the call has %, %, %, %', model,
            c.n_layer, c.n_head, c.d_model, c.vocab, n_layer, n_head, d, vocab
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave them out: they are taken from llm_model_config.';
    END IF;
END $$;
COMMENT ON FUNCTION _llm_check_dimensions(text, int, int, int, int) IS
    'Refuses dimensions, of which each may be NULL, that are not the model''s';

CREATE FUNCTION llm_create_model(model text, n_layer int, n_head int, d_model int, n_positions int, vocab int,
    d_ff int DEFAULT NULL, tokenizer text DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    old @extschema@.llm_model_config;
BEGIN
    IF model IS NULL OR n_layer IS NULL OR n_head IS NULL OR d_model IS NULL OR n_positions IS NULL OR vocab IS NULL
    THEN
        RAISE EXCEPTION 'model, n_layer, n_head, d_model, n_positions and vocab must not be NULL'
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF n_layer < 0 OR least(n_head, d_model, n_positions, vocab, coalesce(d_ff, 1)) < 1 THEN
        RAISE EXCEPTION 'dimensions must be positive: n_layer %, n_head %, d_model %, n_positions %, vocab %, d_ff %',
            n_layer, n_head, d_model, n_positions, vocab, coalesce(d_ff::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'n_layer may be 0; d_ff NULL is 4 * d_model.';
    ELSIF d_model % n_head <> 0 AND NOT coalesce(options ? 'head_dim', false) THEN
        RAISE EXCEPTION 'd_model % does not divide into % heads', d_model, n_head
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Each head has d_model / n_head channels; choose a d_model that is a multiple of n_head.';
    END IF;
    d_ff := coalesce(d_ff, 4 * d_model);
    options := coalesce(options, '{}');
    INSERT INTO @extschema@.llm_model_config
        (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options)
        VALUES (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options) ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT old FROM @extschema@.llm_model_config AS config WHERE config.model = model;
    IF (old.n_layer, old.n_head, old.d_model, old.n_positions, old.vocab, old.d_ff)
        <> (n_layer, n_head, d_model, n_positions, vocab, d_ff) THEN
        RAISE EXCEPTION 'model "%" exists with other dimensions: '
            'n_layer %, n_head %, d_model %, n_positions %, vocab %, d_ff %', model, old.n_layer, old.n_head,
            old.d_model, old.n_positions, old.vocab, old.d_ff USING ERRCODE = 'duplicate_object',
            HINT = 'Choose another name, or DELETE FROM llm_model_config WHERE model = ...';
    ELSIF NOT old.options @> options OR (tokenizer IS NOT NULL AND old.tokenizer IS DISTINCT FROM tokenizer) THEN
        RAISE EXCEPTION 'model "%" exists with other options: %, tokenizer %', model, old.options,
            coalesce(old.tokenizer, 'its own') USING ERRCODE = 'duplicate_object',
            HINT = 'UPDATE llm_model_config changes them; graph rows that exist stay as they are.';
    END IF;
    PERFORM @extschema@._llm_write_graph(model);
END $$;
COMMENT ON FUNCTION llm_create_model(text, int, int, int, int, int, int, text, jsonb) IS
    'Adds a model: its config row, if new, and the graph rows of its architecture, GPT-2 unless options names another '
    'of llm_architecture; no weights yet';

CREATE FUNCTION _llm_init_tensor(name text, shape int[], init text, std float8, seed bigint) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_init_tensor';
COMMENT ON FUNCTION _llm_init_tensor(text, int[], text, float8, bigint) IS
    'A parameter''s initial value: normal random numbers that depend on a seed and the parameter''s name, zeros or '
    'ones';

CREATE FUNCTION llm_init_model(model text, seed bigint DEFAULT 0) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n bigint;
BEGIN
    IF model IS NULL OR seed IS NULL THEN
        RAISE EXCEPTION 'model and seed must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM @extschema@._llm_write_graph(model);
    DELETE FROM @extschema@.llm_param AS p WHERE p.model = model;
    INSERT INTO @extschema@.llm_param (model, name, data)
        SELECT model, s.name, @extschema@._llm_init_tensor(s.name, s.shape, s.init, s.std, seed)
        FROM @extschema@.llm_param_shapes(model) AS s
        WHERE NOT EXISTS (SELECT FROM @extschema@.llm_param_share AS share
            WHERE share.target_model = model AND share.target_name = s.name);
    SELECT coalesce(sum(@extschema@.numel(p.data)), 0) INTO n FROM @extschema@.llm_param AS p WHERE p.model = model;
    RETURN n;
END $$;
COMMENT ON FUNCTION llm_init_model(text, bigint) IS
    'Gives a model random weights, the same for the same seed; writes its graph if it has none; returns the number of '
    'parameters';

CREATE FUNCTION llm_logits(tokens int[], model text DEFAULT @extschema@.llm_default_model(),
    positions int[] DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_logits(int[], text, int[]) IS
    'Logits of every position: tokens (T) give (T,V), tokens (B,T) give (B,T,V)';

CREATE FUNCTION llm_loss(model text, tokens int[], targets int[], positions int[] DEFAULT NULL) RETURNS real
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_loss(text, int[], int[], int[]) IS
    'Mean cross-entropy in nats per token; targets have the shape of tokens, negative ones are left out';

CREATE FUNCTION llm_loss(model text, tokens int[], targets int[], n_layer int, n_head int, d int, vocab int,
    dropout_p float8 DEFAULT 0, training boolean DEFAULT false) RETURNS real
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM @extschema@._llm_check_dimensions(model, n_layer, n_head, d, vocab);
    IF training AND dropout_p <> 0 THEN
        RAISE EXCEPTION 'llm_loss applies no dropout, and dropout_p is % with training => true', dropout_p
            USING ERRCODE = 'feature_not_supported',
            HINT = 'training => false gives the loss of the whole model; llm_train and llm_train_step apply dropout.';
    END IF;
    RETURN @extschema@.llm_loss(model, tokens, targets);
END $$;
COMMENT ON FUNCTION llm_loss(text, int[], int[], int, int, int, int, float8, boolean) IS
    'The same, with the dimensions that the model must have, each of which may be NULL. Dropout is never applied';

CREATE FUNCTION llm_eval(model text, node text, inputs jsonb, names text[] DEFAULT NULL,
    tensors tensor[] DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_eval(text, text, jsonb, text[], tensor[]) IS
    'The value of any node of the graph, from named inputs: {"tokens": [[1, 2, 3]]}; positions count from 0 where '
    'absent. names and tensors are further inputs, one tensor for each name. Any node may be an input: it has the '
    'value given and is not computed, nor what only it reads (activation patching, logit lens)';

CREATE FUNCTION llm_routing(model text, tokens int[])
    RETURNS TABLE (batch int, "position" int, token_id int, layer int, choice int, expert int, share real)
    LANGUAGE plpgsql VOLATILE ROWS 1000 SET search_path = pg_catalog, pg_temp SET pg_llm.autograd = off AS $$
#variable_conflict use_variable
DECLARE
    routes @extschema@.tensor;
BEGIN
    PERFORM @extschema@.llm_get_model_config(model);
    IF NOT EXISTS (SELECT FROM @extschema@.llm_graph AS g WHERE g.model = model AND g.name = 'routing') THEN
        RAISE EXCEPTION 'model "%" is no mixture of experts: its graph has no node "routing"', left(model, 100)
            USING ERRCODE = 'undefined_object',
            HINT = 'llm_create_model makes one with options => ''{"experts": 4, "experts_per_token": 2}''.';
    ELSIF tokens IS NULL OR EXISTS (SELECT FROM unnest(tokens) AS t (id) WHERE id IS NULL) THEN
        RAISE EXCEPTION 'tokens must not be or contain NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- (2,L,B,T,k): the experts' numbers, then their weights
    routes := @extschema@.llm_eval(model, 'routing', jsonb_build_object('tokens', to_jsonb(tokens)));
    RETURN QUERY SELECT r.idx[2], r.idx[3],
            CASE array_ndims(tokens) WHEN 1 THEN tokens[r.idx[3] + 1] ELSE tokens[r.idx[2] + 1][r.idx[3] + 1] END,
            r.idx[1], r.idx[4], r.expert::int, r.share
        FROM ROWS FROM (@extschema@.tensor_rows(@extschema@._llm_row(routes, 0)),
            @extschema@.tensor_rows(@extschema@._llm_row(routes, 1))) AS r (idx, expert, place, share);
END $$;
COMMENT ON FUNCTION llm_routing(text, int[]) IS
    'Which experts of a mixture compute each token, (T) or (B,T): for each position and layer its choices, the best '
    'first, and their weights, which add up to 1; batch, position, layer, choice and expert count from 0';
