-- Models: GPT-2's architecture as rows, random weights, logits and loss.

CREATE FUNCTION llm_gpt2_graph(model text) RETURNS TABLE (name text, op text, inputs text[], attrs jsonb)
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    WITH c AS (
        SELECT n_layer, 'h.' || n_layer - 1 AS last, coalesce((options ->> 'tied_head')::boolean, true) AS tied,
            jsonb_build_object('eps', coalesce((options ->> 'layer_norm_epsilon')::float8, 1e-5)) AS eps,
            jsonb_build_object('n_head', n_head) AS heads,
            CASE options ->> 'activation' WHEN 'relu' THEN 'relu' ELSE 'gelu' END AS act,
            CASE options ->> 'activation' WHEN 'gelu_erf' THEN '{"approximate": "none"}' ELSE '{}' END::jsonb AS act_attrs,
            CASE WHEN d_ff = 4 * d_model THEN '4*C' ELSE 'F' END AS ff,
            -- the sums into the residual stream start smaller, by the number of such sums (Radford et al., 2019)
            0.02 / sqrt(2 * greatest(n_layer, 1)::float8) AS small
        FROM @extschema@.llm_model_config AS config WHERE config.model = llm_gpt2_graph.model
    ),
    embedding AS (
        SELECT 0 AS place, 0 AS layer, v.* FROM c, LATERAL (VALUES
            (1, 'tokens',     'input',     '{}'::text[],               '{"shape": ["B", "T"], "dtype": "int"}'::jsonb),
            (2, 'positions',  'input',     '{}',                       '{"shape": ["T"], "dtype": "int"}'),
            (3, 'wte.weight', 'param',     '{}',                       '{"shape": ["V", "C"], "init": "normal", "std": 0.02}'),
            (4, 'wpe.weight', 'param',     '{}',                       '{"shape": ["P", "C"], "init": "normal", "std": 0.02}'),
            (5, 'wte',        'embedding', '{tokens,wte.weight}',      '{}'),
            (6, 'wpe',        'embedding', '{positions,wpe.weight}',   '{}'),
            (7, 'embd',       'add',       '{wte,wpe}',                '{}'),
            (8, 'drop',       'dropout',   '{embd}',                   '{}')) AS v (n, name, op, inputs, attrs)
    ),
    block AS ( -- x = x + attn(ln_1(x)); x = x + mlp(ln_2(x))
        SELECT 1, i, v.n, h || v.name, v.op, v.inputs, v.attrs
        FROM c, generate_series(0, n_layer - 1) AS i, format('h.%s', i) AS h,
        LATERAL (VALUES
            ( 1, '.ln_1.weight',        'param',     '{}',                                                   '{"shape": ["C"], "init": "ones"}'),
            ( 2, '.ln_1.bias',          'param',     '{}',                                                   '{"shape": ["C"], "init": "zeros"}'),
            ( 3, '.ln_1',               'layernorm', ARRAY[CASE i WHEN 0 THEN 'drop' ELSE 'h.' || i - 1 END, h || '.ln_1.weight', h || '.ln_1.bias'], eps),
            ( 4, '.attn.c_attn.weight', 'param',     '{}',                                                   '{"shape": ["C", "3*C"], "init": "normal", "std": 0.02}'),
            ( 5, '.attn.c_attn.bias',   'param',     '{}',                                                   '{"shape": ["3*C"], "init": "zeros"}'),
            ( 6, '.attn.c_attn.matmul', 'matmul',    ARRAY[h || '.ln_1', h || '.attn.c_attn.weight'],        '{}'),
            ( 7, '.attn.c_attn',        'add',       ARRAY[h || '.attn.c_attn.matmul', h || '.attn.c_attn.bias'], '{}'),
            ( 8, '.attn.heads',         'attention', ARRAY[h || '.attn.c_attn'],                             heads),
            ( 9, '.attn.c_proj.weight', 'param',     '{}',                                                   jsonb_build_object('shape', ARRAY['C', 'C'], 'init', 'normal', 'std', small)),
            (10, '.attn.c_proj.bias',   'param',     '{}',                                                   '{"shape": ["C"], "init": "zeros"}'),
            (11, '.attn.c_proj.matmul', 'matmul',    ARRAY[h || '.attn.heads', h || '.attn.c_proj.weight'],  '{}'),
            (12, '.attn.c_proj',        'add',       ARRAY[h || '.attn.c_proj.matmul', h || '.attn.c_proj.bias'], '{}'),
            (13, '.attn.drop',          'dropout',   ARRAY[h || '.attn.c_proj'],                             '{}'),
            (14, '.attn.residual',      'add',       ARRAY[CASE i WHEN 0 THEN 'drop' ELSE 'h.' || i - 1 END, h || '.attn.drop'], '{}'),
            (15, '.ln_2.weight',        'param',     '{}',                                                   '{"shape": ["C"], "init": "ones"}'),
            (16, '.ln_2.bias',          'param',     '{}',                                                   '{"shape": ["C"], "init": "zeros"}'),
            (17, '.ln_2',               'layernorm', ARRAY[h || '.attn.residual', h || '.ln_2.weight', h || '.ln_2.bias'], eps),
            (18, '.mlp.c_fc.weight',    'param',     '{}',                                                   jsonb_build_object('shape', ARRAY['C', ff], 'init', 'normal', 'std', 0.02)),
            (19, '.mlp.c_fc.bias',      'param',     '{}',                                                   jsonb_build_object('shape', ARRAY[ff], 'init', 'zeros')),
            (20, '.mlp.c_fc.matmul',    'matmul',    ARRAY[h || '.ln_2', h || '.mlp.c_fc.weight'],           '{}'),
            (21, '.mlp.c_fc',           'add',       ARRAY[h || '.mlp.c_fc.matmul', h || '.mlp.c_fc.bias'],  '{}'),
            (22, '.mlp.act',            act,         ARRAY[h || '.mlp.c_fc'],                                act_attrs),
            (23, '.mlp.c_proj.weight',  'param',     '{}',                                                   jsonb_build_object('shape', ARRAY[ff, 'C'], 'init', 'normal', 'std', small)),
            (24, '.mlp.c_proj.bias',    'param',     '{}',                                                   '{"shape": ["C"], "init": "zeros"}'),
            (25, '.mlp.c_proj.matmul',  'matmul',    ARRAY[h || '.mlp.act', h || '.mlp.c_proj.weight'],      '{}'),
            (26, '.mlp.c_proj',         'add',       ARRAY[h || '.mlp.c_proj.matmul', h || '.mlp.c_proj.bias'], '{}'),
            (27, '.mlp.drop',           'dropout',   ARRAY[h || '.mlp.c_proj'],                              '{}'),
            (28, '',                    'add',       ARRAY[h || '.attn.residual', h || '.mlp.drop'],         '{}')
        ) AS v (n, name, op, inputs, attrs)
    ),
    head AS (
        SELECT 2, 0, v.* FROM c, LATERAL (VALUES
            (1, 'ln_f.weight',    'param',         '{}'::text[],                                       '{"shape": ["C"], "init": "ones"}'::jsonb),
            (2, 'ln_f.bias',      'param',         '{}',                                               '{"shape": ["C"], "init": "zeros"}'),
            (3, 'ln_f',           'layernorm',     ARRAY[CASE n_layer WHEN 0 THEN 'drop' ELSE last END, 'ln_f.weight', 'ln_f.bias'], eps),
            (4, 'lm_head.weight', 'param',         '{}',                                               '{"shape": ["V", "C"], "init": "normal", "std": 0.02}'),
            (5, 'logits',         'matmul',        ARRAY['ln_f', CASE WHEN tied THEN 'wte.weight' ELSE 'lm_head.weight' END], '{"transpose_b": true}'),
            (6, 'targets',        'input',         '{}',                                               '{"shape": ["B", "T"], "dtype": "int"}'),
            (7, 'loss',           'cross_entropy', '{logits,targets}',                                 '{}')
        ) AS v (n, name, op, inputs, attrs)
        WHERE NOT (tied AND v.name = 'lm_head.weight')
    )
    SELECT g.name, g.op, g.inputs, g.attrs
    FROM (SELECT * FROM embedding UNION ALL SELECT * FROM block UNION ALL SELECT * FROM head) AS g
    ORDER BY place, layer, n
$$;
COMMENT ON FUNCTION llm_gpt2_graph(text) IS
    'GPT-2''s architecture as graph rows, for the dimensions and options of a model''s config';

CREATE FUNCTION llm_write_gpt2_graph(model text) RETURNS int
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
    ELSIF mode IS NOT NULL AND mode NOT IN ('gelu_tanh', 'gelu_erf', 'relu') THEN
        RAISE EXCEPTION 'model "%": activation "%" is not known', model, mode USING ERRCODE = 'invalid_parameter_value',
            HINT = 'options: {"activation": "gelu_tanh"}, "gelu_erf" or "relu".';
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
COMMENT ON FUNCTION llm_write_gpt2_graph(text) IS
    'Writes GPT-2''s rows into llm_graph for a model that has none; returns how many';

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
            HINT = 'Each head takes d_model / n_head channels; choose a d_model that is a multiple of n_head.';
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
    PERFORM @extschema@.llm_write_gpt2_graph(model);
END $$;
COMMENT ON FUNCTION llm_create_model(text, int, int, int, int, int, int, text, jsonb) IS
    'Adds a model of GPT-2''s architecture: its config row, if new, and its graph rows; no weights yet';

CREATE FUNCTION llm_init_tensor(name text, shape int[], init text, std float8, seed bigint) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_init_tensor(text, int[], text, float8, bigint) IS
    'A parameter''s first value: normal numbers of a seed and the parameter''s name, zeros or ones';

CREATE FUNCTION llm_init_model(model text, seed bigint DEFAULT 0) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n bigint;
BEGIN
    IF model IS NULL OR seed IS NULL THEN
        RAISE EXCEPTION 'model and seed must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM @extschema@.llm_write_gpt2_graph(model);
    DELETE FROM @extschema@.llm_param AS p WHERE p.model = model;
    INSERT INTO @extschema@.llm_param (model, name, data)
        SELECT model, s.name, @extschema@.llm_init_tensor(s.name, s.shape, s.init, s.std, seed)
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

CREATE FUNCTION llm_eval(model text, node text, inputs jsonb) RETURNS tensor
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_eval(text, text, jsonb) IS
    'The value of any node of the graph, from named inputs: {"tokens": [[1, 2, 3]]}; positions count from 0 where '
    'absent';
