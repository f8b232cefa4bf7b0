-- Models: GPT-2's architecture as rows, random weights, logits and loss.

-- B batch, T time, C channels, F = 4*C unless d_ff is set, V vocabulary, P positions.
-- %: this layer; ^: the residual stream that it reads. shape: for a layer with parameters, its weight's.
CREATE FUNCTION _llm_gpt2_graph(config llm_model_config)
    RETURNS TABLE (name text, op text, inputs text[], attrs jsonb)
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH node (part, n, name, kind, inputs, shape) AS (VALUES
        (0,  1, 'tokens',          'input',         '{}',                           '{B,T}'),
        (0,  2, 'positions',       'input',         '{}',                           '{T}'),
        (0,  3, 'wte.weight',      'param',         '{}',                           '{V,C}'),
        (0,  4, 'wpe.weight',      'param',         '{}',                           '{P,C}'),
        (0,  5, 'wte',             'embedding',     '{tokens,wte.weight}',          NULL),      -- (B,T,C)
        (0,  6, 'wpe',             'embedding',     '{positions,wpe.weight}',       NULL),      -- (T,C)
        (0,  7, 'embd',            'add',           '{wte,wpe}',                    NULL),      -- (B,T,C)
        (0,  8, 'drop',            'dropout',       '{embd}',                       NULL),
        -- each layer: x = x + attn(ln_1(x))
        (1,  1, '%.ln_1',          'layernorm',     '{^}',                          '{C}'),     -- (B,T,C)
        (1,  2, '%.attn.c_attn',   'linear',        '{%.ln_1}',                     '{C,3*C}'), -- (B,T,3*C)
        (1,  3, '%.attn.heads',    'attention',     '{%.attn.c_attn}',              NULL),      -- (B,T,C)
        (1,  4, '%.attn.c_proj',   'linear',        '{%.attn.heads}',               '{C,C}'),
        (1,  5, '%.attn.drop',     'dropout',       '{%.attn.c_proj}',              NULL),
        (1,  6, '%.attn.residual', 'add',           '{^,%.attn.drop}',              NULL),
        -- x = x + mlp(ln_2(x))
        (1,  7, '%.ln_2',          'layernorm',     '{%.attn.residual}',            '{C}'),
        (1,  8, '%.mlp.c_fc',      'linear',        '{%.ln_2}',                     '{C,F}'),   -- (B,T,F)
        (1,  9, '%.mlp.act',       'activation',    '{%.mlp.c_fc}',                 NULL),
        (1, 10, '%.mlp.c_proj',    'linear',        '{%.mlp.act}',                  '{F,C}'),   -- (B,T,C)
        (1, 11, '%.mlp.drop',      'dropout',       '{%.mlp.c_proj}',               NULL),
        (1, 12, '%',               'add',           '{%.attn.residual,%.mlp.drop}', NULL),
        -- the head
        (2,  1, 'ln_f',            'layernorm',     '{^}',                          '{C}'),
        (2,  2, 'lm_head.weight',  'param',         '{}',                           '{V,C}'),   -- unless tied
        (2,  3, 'logits',          'matmul',        '{ln_f,lm_head.weight}',        NULL),      -- (B,T,V)
        (2,  4, 'targets',         'input',         '{}',                           '{B,T}'),
        (2,  5, 'loss',            'cross_entropy', '{logits,targets}',             NULL)       -- ()
    ),
    piece (kind, k, suffix, op, inputs) AS (VALUES -- the rows for a layer with parameters, or an activation
        -- input: what the node reads; self: its name
        ('layernorm', 1, '.weight', 'param',     '{}'),
        ('layernorm', 2, '.bias',   'param',     '{}'),
        ('layernorm', 3, '',        'layernorm', '{input,self.weight,self.bias}'),
        ('linear',    1, '.weight', 'param',     '{}'),
        ('linear',    2, '.bias',   'param',     '{}'),
        ('linear',    3, '.matmul', 'matmul',    '{input,self.weight}'),
        ('linear',    4, '',        'add',       '{self.matmul,self.bias}'),
        ('gelu_tanh', 1, '',        'gelu',      '{input}'),
        ('gelu_erf',  1, '',        'gelu',      '{input}'),
        ('relu',      1, '',        'relu',      '{input}'),
        ('silu',      1, '',        'silu',      '{input}'),
        ('tanh',      1, '',        'tanh',      '{input}'),
        ('sigmoid',   1, '',        'sigmoid',   '{input}'),
        -- x sigmoid(1.702 x), an approximation of gelu (Hendrycks and Gimpel, 2016)
        ('quick_gelu', 1, '.slope',   'constant', '{}'),
        ('quick_gelu', 2, '.scaled',  'mul',      '{input,self.slope}'),
        ('quick_gelu', 3, '.sigmoid', 'sigmoid',  '{self.scaled}'),
        ('quick_gelu', 4, '',         'mul',      '{input,self.sigmoid}')
    ),
    config AS (
        SELECT c.n_layer, c.n_head, coalesce((c.options ->> 'tied_head')::boolean, true) AS tied,
            coalesce((c.options ->> 'layer_norm_epsilon')::float8, 1e-5) AS eps,
            coalesce(c.options ->> 'activation', 'gelu_tanh') AS activation,
            -- HuggingFace's names; the inverse index makes the scores of later layers smaller
            coalesce((c.options ->> 'scale_attn_weights')::boolean, true) AS scaled,
            coalesce((c.options ->> 'scale_attn_by_inverse_layer_idx')::boolean, false) AS by_layer,
            CASE WHEN c.options ->> 'bias' = 'false' THEN '%.bias'
                WHEN c.options ->> 'qkv_bias' = 'false' THEN '%.c_attn.bias' END AS unbiased,
            sqrt((c.d_model / c.n_head)::float8) AS root, -- of the head size
            CASE WHEN c.d_ff = 4 * c.d_model THEN '4*C' ELSE 'F' END AS ff,
            -- 2 n_layer terms are added to the residual stream: they are initialised smaller (Radford et al.,
            -- 2019)
            0.02 / sqrt(2 * greatest(c.n_layer, 1)::float8) AS small
        FROM (SELECT (_llm_gpt2_graph.config).*) AS c WHERE c.model IS NOT NULL
    ),
    graph AS (
        SELECT part, layer, n, k, node.kind, coalesce(piece.op, node.kind) AS op,
            replace(node.name || coalesce(suffix, ''), '%', 'h.' || layer) AS name,
            replace(replace(
                coalesce(replace(replace(piece.inputs, 'self', node.name), 'input', btrim(node.inputs, '{}')),
                    node.inputs), '%', 'h.' || layer),
                '^', CASE layer WHEN 0 THEN 'drop' ELSE 'h.' || layer - 1 END)::text[] AS inputs,
            array_replace(shape::text[], 'F', ff) AS shape
        FROM config CROSS JOIN node
        LEFT JOIN piece ON piece.kind = CASE node.kind WHEN 'activation' THEN activation ELSE node.kind END
        JOIN LATERAL generate_series(0, n_layer) AS layer
            ON CASE part WHEN 0 THEN layer = 0 WHEN 1 THEN layer < n_layer ELSE layer = n_layer END
    )
    SELECT g.name, g.op,
        CASE WHEN tied THEN array_replace(g.inputs, 'lm_head.weight', 'wte.weight') ELSE g.inputs END,
        CASE g.op
            WHEN 'input' THEN jsonb_build_object('shape', shape, 'dtype', 'int')
            WHEN 'param' THEN CASE WHEN g.name LIKE '%.bias'
                THEN jsonb_build_object('shape', shape[cardinality(shape):], 'init', 'zeros')
                    || CASE WHEN g.name LIKE unbiased THEN '{"trainable": false}' ELSE '{}' END::jsonb
                WHEN kind = 'layernorm' THEN jsonb_build_object('shape', shape, 'init', 'ones')
                ELSE jsonb_build_object('shape', shape, 'init', 'normal',
                    'std', CASE WHEN g.name LIKE '%.c_proj.weight' THEN small ELSE 0.02 END) END
            WHEN 'layernorm' THEN jsonb_build_object('eps', eps)
            WHEN 'attention' THEN jsonb_build_object('n_head', n_head)
                || CASE WHEN scaled AND NOT by_layer THEN '{}' ELSE jsonb_build_object('scale',
                    CASE WHEN scaled THEN 1 / root ELSE 1 END / CASE WHEN by_layer THEN layer + 1 ELSE 1 END) END
            WHEN 'gelu' THEN CASE activation WHEN 'gelu_erf' THEN '{"approximate": "none"}' ELSE '{}' END::jsonb
            WHEN 'constant' THEN '{"value": 1.702}'
            ELSE CASE g.name WHEN 'logits' THEN '{"transpose_b": true}' ELSE '{}' END::jsonb END
    FROM config CROSS JOIN graph AS g
    WHERE NOT (tied AND g.name = 'lm_head.weight')
    ORDER BY part, layer, n, k
$$;
COMMENT ON FUNCTION _llm_gpt2_graph(llm_model_config) IS 'GPT-2''s graph rows for a row of llm_model_config';

CREATE FUNCTION llm_gpt2_graph(model text) RETURNS TABLE (name text, op text, inputs text[], attrs jsonb)
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.* FROM @extschema@._llm_gpt2_graph(
        (SELECT c FROM @extschema@.llm_model_config AS c WHERE c.model = llm_gpt2_graph.model)) AS g
$$;
COMMENT ON FUNCTION llm_gpt2_graph(text) IS
    'GPT-2''s architecture as graph rows, for the dimensions and options of a model''s config';

CREATE FUNCTION _llm_write_gpt2_graph(model text) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n int;
    mode text;
    layers int;
BEGIN
    SELECT config.options ->> 'activation', config.n_layer INTO mode, layers
        FROM @extschema@.llm_model_config AS config WHERE config.model = model;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no model "%"', left(model, 100) USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model FROM llm_model_config lists the models; '
            'llm_create_model(name, n_layer, n_head, d_model, n_positions, vocab) adds one.';
    ELSIF mode NOT IN ('gelu_tanh', 'gelu_erf', 'relu', 'silu', 'tanh', 'sigmoid', 'quick_gelu') THEN
        RAISE EXCEPTION 'model "%": activation "%" is not known', model, mode USING ERRCODE = 'invalid_parameter_value',
            HINT = 'options: {"activation": "gelu_tanh"}, "gelu_erf", "relu", "silu", "tanh", "sigmoid" or '
            '"quick_gelu".';
    ELSIF layers > 700 THEN
        RAISE EXCEPTION 'model "%": % layers are more than 700', model, layers USING ERRCODE = 'program_limit_exceeded',
            HINT = 'A graph has at most 20000 nodes and a layer is 28 of them.';
    END IF;
    INSERT INTO @extschema@.llm_graph (model, name, op, inputs, attrs)
        SELECT model, g.name, g.op, g.inputs, g.attrs FROM @extschema@.llm_gpt2_graph(model) AS g
        WHERE NOT EXISTS (SELECT FROM @extschema@.llm_graph AS old WHERE old.model = model);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
COMMENT ON FUNCTION _llm_write_gpt2_graph(text) IS
    'Writes GPT-2''s rows into llm_graph for a model that has none; returns how many';

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
    ELSIF d_model % n_head <> 0 THEN
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
    PERFORM @extschema@._llm_write_gpt2_graph(model);
END $$;
COMMENT ON FUNCTION llm_create_model(text, int, int, int, int, int, int, text, jsonb) IS
    'Adds a model of GPT-2''s architecture: its config row, if new, and its graph rows; no weights yet';

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
    PERFORM @extschema@._llm_write_gpt2_graph(model);
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
    'Gives a model random weights, the same for the same seed; writes GPT-2''s graph if the model has none; returns '
    'the number of parameters';

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
