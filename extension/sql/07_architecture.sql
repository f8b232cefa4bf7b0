-- Architectures that a model may have besides GPT-2's: what they are called, how their config.json and checkpoints
-- spell things, and their nodes. The graph is written here, in SQL, so that llm_create_model with random weights and
-- both importers, by path and over the connection, make the same rows.

-- family: whose nodes it has. keys: our names of dimensions and options, with those of config.json. defaults: options
-- that a config.json may leave out, and what they are then. requires: keys of config.json that may have no other value.
-- prefix: of the names in checkpoints, which ours leave out, but for the head. stream: the residual stream before the
-- first layer; layer: after layer %; norm: the norm before the head; act: the nonlinearity of the first layer.
CREATE VIEW llm_architecture WITH (security_invoker = true) AS
    SELECT * FROM (VALUES
        ('gpt2', 'gpt2', 'GPT2LMHeadModel', '', 'wte.weight', 'lm_head.weight', 'drop', 'h.%', 'ln_f', 'h.0.mlp.act',
            '{"n_layer": "n_layer", "n_head": "n_head", "d_model": "n_embd", "d_ff": "n_inner",
              "n_positions": "n_positions", "vocab": "vocab_size", "activation": "activation_function",
              "layer_norm_epsilon": "layer_norm_epsilon", "tied_head": "tie_word_embeddings",
              "scale_attn_weights": "scale_attn_weights",
              "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx", "bias": "bias",
              "qkv_bias": "qkv_bias", "attention_layers": "attention_layers", "window_size": "window_size",
              "head_dim": "head_dim", "experts": "experts", "experts_per_token": "experts_per_token",
              "balance_loss": "balance_loss", "separate_heads": "separate_heads"}'::jsonb,
            '{"activation": "gelu_tanh", "layer_norm_epsilon": 1e-5, "scale_attn_weights": true,
              "scale_attn_by_inverse_layer_idx": false, "bias": true, "qkv_bias": true, "tied_head": true}'::jsonb,
            '{"add_cross_attention": false}'::jsonb),
        ('gpt_neo', 'gpt_neo', 'GPTNeoForCausalLM',
            'transformer.', 'wte.weight', 'lm_head.weight', 'drop', 'h.%', 'ln_f',
            'h.0.mlp.act',
            '{"n_layer": "num_layers", "n_head": "num_heads", "d_model": "hidden_size", "d_ff": "intermediate_size",
              "n_positions": "max_position_embeddings", "vocab": "vocab_size", "activation": "activation_function",
              "layer_norm_epsilon": "layer_norm_epsilon", "tied_head": "tie_word_embeddings",
              "attention_layers": "attention_layers", "window_size": "window_size", "head_dim": "head_dim"}',
            '{"activation": "gelu_tanh", "layer_norm_epsilon": 1e-5, "tied_head": true,
              "scale_attn_weights": false, "attention_layers": ["global", "local"], "window_size": 256}', '{}'),
        ('gpt_neox', 'gpt_neox', 'GPTNeoXForCausalLM',
            'gpt_neox.', 'embed_in.weight', 'embed_out.weight', 'embed_in', 'layers.%',
            'final_layer_norm', 'layers.0.mlp.act',
            '{"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "d_model": "hidden_size",
              "d_ff": "intermediate_size", "n_positions": "max_position_embeddings", "vocab": "vocab_size",
              "activation": "hidden_act", "layer_norm_epsilon": "layer_norm_eps", "tied_head": "tie_word_embeddings",
              "rope_theta": "rope_theta", "rope_scaling": "rope_scaling", "rotary_dim": "rotary_dim",
              "attention_bias": "attention_bias", "parallel_residual": "use_parallel_residual",
              "attention_layers": "attention_layers", "window_size": "window_size", "head_dim": "head_dim"}',
            '{"activation": "gelu_erf", "layer_norm_epsilon": 1e-5, "tied_head": false, "rope_theta": 10000,
              "attention_bias": true, "parallel_residual": true}', '{}'),
        ('gptj', 'gptj', 'GPTJForCausalLM', 'transformer.', 'wte.weight', 'lm_head.weight', 'drop', 'h.%', 'ln_f',
            'h.0.mlp.act',
            '{"n_layer": "n_layer", "n_head": "n_head", "d_model": "n_embd", "d_ff": "n_inner",
              "n_positions": "n_positions", "vocab": "vocab_size", "activation": "activation_function",
              "layer_norm_epsilon": "layer_norm_epsilon", "tied_head": "tie_word_embeddings",
              "rotary_dim": "rotary_dim", "attention_layers": "attention_layers", "window_size": "window_size",
              "head_dim": "head_dim"}',
            '{"activation": "gelu_tanh", "layer_norm_epsilon": 1e-5, "tied_head": false, "rope_theta": 10000,
              "rotary_dim": 64, "interleaved": true}', '{}'),
        ('opt', 'opt', 'OPTForCausalLM', 'model.decoder.', 'embed_tokens.weight', 'lm_head.weight', 'embd', 'layers.%',
            'final_layer_norm', 'layers.0.act',
            '{"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "d_model": "hidden_size",
              "d_ff": "ffn_dim", "n_positions": "max_position_embeddings", "vocab": "vocab_size",
              "activation": "activation_function", "layer_norm_epsilon": "layer_norm_epsilon",
              "tied_head": "tie_word_embeddings", "attention_bias": "enable_bias", "head_dim": "head_dim",
              "attention_layers": "attention_layers", "window_size": "window_size"}',
            '{"activation": "relu", "layer_norm_epsilon": 1e-5, "tied_head": true, "attention_bias": true}',
            '{"do_layer_norm_before": true, "_remove_final_layer_norm": false, "layer_norm_elementwise_affine": true}')
    ) AS known (architecture, family, class, prefix, embedding, head, stream, layer, norm, act, keys, defaults,
        requires)
    UNION ALL
    -- Llama's family: what all its members call alike, and what is each one's own
    SELECT own.architecture, 'llama', own.class, 'model.', 'embed_tokens.weight', 'lm_head.weight', 'embed_tokens',
        'layers.%', 'norm', 'layers.0.mlp.act', shared.keys || own.keys, shared.defaults || own.defaults, '{}'
    FROM (VALUES (
        '{"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads",
          "head_dim": "head_dim", "d_model": "hidden_size", "d_ff": "intermediate_size",
          "n_positions": "max_position_embeddings", "vocab": "vocab_size", "activation": "hidden_act",
          "layer_norm_epsilon": "rms_norm_eps", "tied_head": "tie_word_embeddings", "rope_theta": "rope_theta",
          "rope_scaling": "rope_scaling", "rotary_dim": "rotary_dim", "attention_layers": "attention_layers",
          "window_size": "window_size"}'::jsonb,
        '{"activation": "silu", "layer_norm_epsilon": 1e-6, "tied_head": false, "rope_theta": 10000}'::jsonb
    )) AS shared (keys, defaults), (VALUES
        ('llama', 'LlamaForCausalLM', '{"attention_bias": "attention_bias", "mlp_bias": "mlp_bias"}'::jsonb,
            '{"attention_bias": false, "mlp_bias": false}'::jsonb),
        ('mistral', 'MistralForCausalLM', '{}', '{}'),
        ('qwen2', 'Qwen2ForCausalLM', '{}', '{"qkv_bias": true}'),
        ('qwen3', 'Qwen3ForCausalLM', '{"attention_bias": "attention_bias"}',
            '{"head_dim": 128, "attention_bias": false, "qk_norm": true}')
    ) AS own (architecture, class, keys, defaults);
COMMENT ON VIEW llm_architecture IS
    'An architecture that llm_create_model and the importers know: the option architecture, which is model_type in '
    'config.json; its class in transformers, its names, and what its config.json calls the columns and options of '
    'llm_model_config';
GRANT SELECT ON llm_architecture TO PUBLIC;

CREATE FUNCTION _llm_check_architecture(architecture text, told text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.llm_architecture AS a
                   WHERE a.architecture = _llm_check_architecture.architecture) THEN
        RAISE EXCEPTION '% "%" is not known', told, left(architecture, 100) USING ERRCODE = 'feature_not_supported',
            HINT = format('Known are %s. Another architecture can be written as llm_graph rows; its weights go into '
                'llm_param by name.',
                (SELECT string_agg(a.architecture, ', ' ORDER BY a.architecture)
                    FROM @extschema@.llm_architecture AS a));
    END IF;
END $$;
COMMENT ON FUNCTION _llm_check_architecture(text, text) IS
    'Refuses an architecture that is not known; lists those that are';

-- Both what a learner writes in options and what a config.json has goes through here.
CREATE FUNCTION _llm_check_option(told text, name text, value jsonb, option text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind CONSTANT text := CASE
        WHEN option IN ('n_layer', 'n_head', 'd_model', 'd_ff', 'n_positions', 'vocab', 'n_kv_head', 'head_dim',
            'rotary_dim', 'window_size', 'experts', 'experts_per_token')
            THEN 'whole'
        WHEN option IN ('tied_head', 'scale_attn_weights', 'scale_attn_by_inverse_layer_idx', 'bias', 'qkv_bias',
            'attention_bias', 'mlp_bias', 'qk_norm', 'parallel_residual', 'interleaved', 'separate_heads')
            THEN 'boolean'
        ELSE option END;
    smallest CONSTANT int := CASE option WHEN 'n_layer' THEN 0 ELSE 1 END;
    largest CONSTANT int := CASE option WHEN 'experts' THEN 4096 WHEN 'experts_per_token' THEN 4096
        ELSE 2147483647 END;
    expected text;
BEGIN
    IF kind = 'whole' AND (jsonb_typeof(value) <> 'number' OR value::numeric NOT BETWEEN smallest AND largest
                           OR value::numeric <> trunc(value::numeric)) THEN
        expected := format('a whole number from %s to %s', smallest, largest);
    ELSIF kind = 'boolean' AND jsonb_typeof(value) <> 'boolean' THEN
        expected := 'true or false';
    ELSIF kind = 'layer_norm_epsilon'
        AND (jsonb_typeof(value) <> 'number' OR value::numeric NOT BETWEEN 0 AND 1) THEN
        expected := 'a number from 0 to 1';
    ELSIF kind = 'balance_loss' AND (jsonb_typeof(value) <> 'number' OR value::numeric NOT BETWEEN 0 AND 1000) THEN
        expected := 'a number from 0 to 1000';
    ELSIF kind = 'rope_theta' AND (jsonb_typeof(value) <> 'number' OR value::numeric NOT BETWEEN 1 AND 1e12) THEN
        expected := 'a number from 1 to 1e12';
    ELSIF kind = 'rope_scaling' AND jsonb_typeof(value) <> 'object' THEN
        expected := 'an object such as {"factor": 2}';
    ELSIF kind = 'attention_layers' AND NOT coalesce(jsonb_typeof(value) = 'array' AND value <> '[]'
        AND value <@ '["global", "local"]', false) THEN
        expected := 'a list of "global" and "local"';
    ELSIF kind = 'recompute' AND jsonb_typeof(value) <> 'boolean' AND value::text !~ '^\[[0-9, ]*\]$' THEN
        expected := 'true, or a list of layers, the first being 0';
    END IF;
    IF expected IS NOT NULL THEN
        RAISE EXCEPTION '%: % is %, expected %', told, name, left(value::text, 100), expected
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
COMMENT ON FUNCTION _llm_check_option(text, text, jsonb, text) IS
    'Refuses a value that a column or option of llm_model_config cannot have; told and name say where it is from';

CREATE FUNCTION _llm_check_experts(told text, n_layer int, options jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    alone CONSTANT text := (SELECT string_agg(key, ' and ' ORDER BY key) FROM jsonb_object_keys(options) AS o (key)
        WHERE key IN ('experts_per_token', 'balance_loss'));
BEGIN
    IF NOT options ? 'experts' THEN
        IF alone IS NOT NULL THEN
            RAISE EXCEPTION '%: % without experts', told, alone USING ERRCODE = 'invalid_parameter_value',
                HINT = 'A mixture of experts is options => ''{"experts": 4, "experts_per_token": 2}''.';
        END IF;
    ELSIF coalesce(options ->> 'architecture', 'gpt2') <> 'gpt2' THEN
        RAISE EXCEPTION '%: the MLPs of "%" cannot be mixtures of experts, those of "gpt2" can', told,
            options ->> 'architecture' USING ERRCODE = 'feature_not_supported',
            HINT = 'Its llm_graph rows can be changed: topk, expert_matmul and gather_rows make a mixture.';
    ELSIF (options ->> 'experts_per_token')::int > (options ->> 'experts')::int THEN
        RAISE EXCEPTION '%: experts_per_token is %, expected a whole number from 1 to %, the experts', told,
            options ->> 'experts_per_token', options ->> 'experts' USING ERRCODE = 'invalid_parameter_value';
    ELSIF n_layer = 0 THEN
        RAISE EXCEPTION '%: a model without layers has no MLP that could be % experts', told, options ->> 'experts'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'n_layer is to be 1 or more.';
    END IF;
END $$;
COMMENT ON FUNCTION _llm_check_experts(text, int, jsonb) IS
    'Refuses options of a mixture of experts that do not fit one another; each was checked by itself before';

CREATE FUNCTION _llm_check_options(config llm_model_config) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told CONSTANT text := format('model "%s"', left(config.model, 100));
    item record;
BEGIN
    PERFORM @extschema@._llm_check_architecture(
        coalesce(config.options ->> 'architecture', 'gpt2'), told || ': architecture');
    IF config.options ->> 'activation' NOT IN ('gelu_tanh', 'gelu_erf', 'relu', 'silu', 'tanh', 'sigmoid', 'quick_gelu')
    THEN
        RAISE EXCEPTION '%: activation "%" is not known', told, config.options ->> 'activation'
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'options: {"activation": "gelu_tanh"}, "gelu_erf", "relu", "silu", "tanh", "sigmoid" or '
            '"quick_gelu".';
    END IF;
    IF config.n_head % greatest(coalesce((config.options ->> 'n_kv_head')::int, config.n_head), 1) <> 0 THEN
        RAISE EXCEPTION '%: % heads do not divide among n_kv_head %', told, config.n_head,
            config.options ->> 'n_kv_head'
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Each head of keys and values serves n_head / n_kv_head heads of queries.';
    END IF;
    FOR item IN SELECT key, value FROM jsonb_each(config.options) WHERE jsonb_typeof(value) <> 'null' ORDER BY key LOOP
        PERFORM @extschema@._llm_check_option(told, item.key, item.value, item.key);
    END LOOP;
    PERFORM @extschema@._llm_check_experts(told, config.n_layer, jsonb_strip_nulls(config.options));
    IF config.options -> 'separate_heads' = 'true' AND config.options ->> 'architecture' <> 'gpt2' THEN
        RAISE EXCEPTION '%: the heads of "%" cannot have weights of their own, those of "gpt2" can', told,
            config.options ->> 'architecture' USING ERRCODE = 'feature_not_supported';
    END IF;
    IF jsonb_typeof(config.options -> 'recompute') = 'array' THEN
        FOR item IN SELECT value FROM jsonb_array_elements(config.options -> 'recompute') AS layer (value)
            WHERE NOT to_jsonb(ARRAY(SELECT generate_series(0, config.n_layer - 1))) @> value LOOP
            RAISE EXCEPTION '%: recompute names layer %, expected layers from 0 to %', told,
                left(item.value::text, 100), config.n_layer - 1 USING ERRCODE = 'invalid_parameter_value';
        END LOOP;
    END IF;
END $$;
COMMENT ON FUNCTION _llm_check_options(llm_model_config) IS
    'Refuses a model''s options that no graph can be made of, by name';

-- The nodes of each architecture. of: the families that have the node, * all; part 0 comes before the layers, 1 is a
-- layer, 2 comes after them. %: this layer; ^: the residual stream that it reads; &: each layer. @: this
-- head; #: each head, where inputs begin with @. A layer with
-- parameters stands for several rows (_llm_node_pieces): shape is its weight's, bias says whether it has one (an
-- option, or always). needs: the option without which the node is left out; !: with which.
-- B batch, T time, C channels, F = 4*C unless d_ff is set, V vocabulary, P positions, NH heads, KH heads of
-- keys and values, HS size of a head, Q = NH*HS, K = KH*HS, E experts, of which each position uses k.
CREATE FUNCTION _llm_architecture_nodes()
    RETURNS TABLE (of text[], part int, n int, name text, kind text, inputs text, shape text, bias text[], needs text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT node.of::text[], node.part, node.n, node.name, node.kind, node.inputs, node.shape, node.bias::text[],
        node.needs
    FROM (VALUES
        ('{*}',            0,  1, 'tokens',         'input',       '{}',                     '{B,T}', NULL, NULL),
        ('{*}',            0,  2, 'positions',      'input',       '{}',                     '{T}',   NULL, NULL),
        ('{gpt2,gpt_neo}', 0,  3, 'wte.weight',     'param',       '{}',                     '{V,C}', NULL, NULL),
        ('{gpt2,gpt_neo}', 0,  4, 'wpe.weight',     'param',       '{}',                     '{P,C}', NULL, NULL),
        ('{gpt2,gpt_neo}', 0,  5, 'wte',            'embedding',   '{tokens,wte.weight}',    NULL,    NULL, NULL),
        ('{gpt2,gpt_neo}', 0,  6, 'wpe',            'embedding',   '{positions,wpe.weight}', NULL,    NULL, NULL),
        ('{gpt2,gpt_neo}', 0,  7, 'embd',           'add',         '{wte,wpe}',              NULL,    NULL, NULL),
        ('{gpt2,gpt_neo}', 0,  8, 'drop',           'dropout',     '{embd}',                 NULL,    NULL, NULL),
        ('{gpt2,gpt_neo}', 2,  1, 'ln_f',           'layernorm',   '{^}',                    '{C}',   NULL, NULL),
        ('{gpt2,gpt_neo}', 2,  2, 'lm_head.weight', 'param', '{}', '{V,C}', NULL, '!tied_head'),
        ('{gpt2,gpt_neo}', 2,  3, 'logits',         'matmul',      '{ln_f,lm_head.weight}',  NULL,    NULL, NULL),
        ('{*}',            2,  8, 'targets',        'input',       '{}',                     '{B,T}', NULL, NULL),
        ('{*}',            2,  9, 'loss',           'cross_entropy', '{logits,targets}',       NULL,    NULL, NULL),

        -- GPT-2: x = x + attn(ln_1(x))
        ('{gpt2}', 1, -5, '%.ln_1',          'layernorm', '{^}',             '{C}',     NULL, NULL), -- (B,T,C)
        ('{gpt2}', 1,  2, '%.attn.c_attn',   'linear', '{%.ln_1}', '{C,3*Q}', NULL, '!separate_heads'), -- (B,T,3*C)
        ('{gpt2}', 1,  3, '%.attn.heads',    'attention', '{%.attn.c_attn}', NULL, NULL, '!separate_heads'), -- (B,T,C)
        -- the same with weights of its own for each head, (B,T,HS)
        ('{gpt2}', 1, -4, '%.attn.head.@.q', 'linear',  '{%.ln_1}',          '{C,HS}', NULL, 'separate_heads'),
        ('{gpt2}', 1, -3, '%.attn.head.@.k', 'linear',  '{%.ln_1}',          '{C,HS}', NULL, 'separate_heads'),
        ('{gpt2}', 1, -2, '%.attn.head.@.v', 'linear',  '{%.ln_1}',          '{C,HS}', NULL, 'separate_heads'),
        ('{gpt2}', 1, -1, '%.attn.q', 'concat', '{@%.attn.head.#.q}', NULL, NULL, 'separate_heads'), -- (B,T,C)
        ('{gpt2}', 1,  0, '%.attn.k', 'concat', '{@%.attn.head.#.k}', NULL, NULL, 'separate_heads'),
        ('{gpt2}', 1,  1, '%.attn.v', 'concat', '{@%.attn.head.#.v}', NULL, NULL, 'separate_heads'),
        ('{gpt2}', 1,  3, '%.attn.heads', 'attention', '{%.attn.q,%.attn.k,%.attn.v}', NULL, NULL, 'separate_heads'),
        ('{gpt2}', 1,  4, '%.attn.c_proj',   'linear',    '{%.attn.heads}',  '{Q,C}',   NULL, NULL),
        ('{gpt2}', 1,  5, '%.attn.drop',     'dropout',   '{%.attn.c_proj}', NULL,      NULL, NULL),
        ('{gpt2}', 1,  6, '%.attn.residual', 'add',       '{^,%.attn.drop}', NULL,      NULL, NULL),
        -- x = x + mlp(ln_2(x))
        ('{gpt2}', 1,  7, '%.ln_2',       'layernorm',  '{%.attn.residual}', '{C}',   NULL, NULL),
        ('{gpt2}', 1,  8, '%.mlp.c_fc',   'linear',     '{%.ln_2}',          '{C,F}', NULL, '!experts'), -- (B,T,F)
        ('{gpt2}', 1, 13, '%.mlp.act',    'activation', '{%.mlp.c_fc}',      NULL,    NULL, NULL),
        ('{gpt2}', 1, 14, '%.mlp.c_proj', 'linear',     '{%.mlp.act}',       '{F,C}', NULL, '!experts'), -- (B,T,C)
        ('{gpt2}', 1, 18, '%.mlp.drop',   'dropout',    '{%.mlp.c_proj}',    NULL,    NULL, '!experts'),
        ('{gpt2}', 1, 19, '%',            'add',        '{%.attn.residual,%.mlp.drop}', NULL, NULL, NULL),
        -- A mixture of E experts (Shazeer et al., 2017): mlp is the sum of the k experts with the best scores, weighted
        -- by the softmax of these scores, as in Mixtral (Jiang et al., 2024)
        ('{gpt2}', 1,  8, '%.mlp.gate',     'gate',    '{%.ln_2}',          '{C,E}',   NULL, 'experts'), -- (B,T,E)
        ('{gpt2}', 1,  9, '%.mlp.chosen',   'chosen',  '{%.mlp.gate}',      NULL,      NULL, 'experts'), -- (B,T,k)
        ('{gpt2}', 1, 10, '%.mlp.best',     'best',    '{%.mlp.gate}',      NULL,      NULL, 'experts'),
        ('{gpt2}', 1, 11, '%.mlp.shares',   'softmax', '{%.mlp.best}',      NULL,      NULL, 'experts'),
        ('{gpt2}', 1, 12, '%.mlp.c_fc',     'experts', '{%.ln_2}',          '{E,C,F}', NULL, 'experts'), -- (B,T,k,F)
        ('{gpt2}', 1, 14, '%.mlp.c_proj',   'experts', '{%.mlp.act}',       '{E,F,C}', NULL, 'experts'), -- (B,T,k,C)
        ('{gpt2}', 1, 15, '%.mlp.weights',  'reshape', '{%.mlp.shares}',    '{B,T,k,1}', NULL, 'experts'),
        ('{gpt2}', 1, 16, '%.mlp.weighted', 'mul',     '{%.mlp.c_proj,%.mlp.weights}', NULL, NULL, 'experts'),
        ('{gpt2}', 1, 17, '%.mlp.mixed',    'mixed',   '{%.mlp.weighted}',  NULL,      NULL, 'experts'), -- (B,T,C)
        ('{gpt2}', 1, 18, '%.mlp.drop',     'dropout', '{%.mlp.mixed}',     NULL,      NULL, 'experts'),
        -- which experts are chosen, (2,L,B,T,k): their numbers, then their weights
        ('{gpt2}', 2, 4, 'routing.experts', 'stack',   '{&.mlp.chosen}',    NULL,      NULL, 'experts'),
        ('{gpt2}', 2, 5, 'routing.shares',  'stack',   '{&.mlp.shares}',    NULL,      NULL, 'experts'),
        ('{gpt2}', 2, 6, 'routing',         'stack',   '{routing.experts,routing.shares}', NULL, NULL, 'experts'),
        -- Training also minimises, in each layer, E times the sum over the experts of (choices of the expert, per
        -- position) (mean probability of the expert), which is smallest where all are chosen alike (Fedus et al., 2021)
        ('{gpt2}', 1, 20, '%.mlp.used',        'used',    '{%.mlp.gate}',          NULL, NULL, 'experts'), -- (B,T,E)
        ('{gpt2}', 1, 21, '%.mlp.load',        'average', '{%.mlp.used}',          NULL, NULL, 'experts'), -- (E)
        ('{gpt2}', 1, 22, '%.mlp.probs',       'softmax', '{%.mlp.gate}',          NULL, NULL, 'experts'),
        ('{gpt2}', 1, 23, '%.mlp.probability', 'average', '{%.mlp.probs}',         NULL, NULL, 'experts'),
        ('{gpt2}', 1, 24, '%.mlp.product', 'mul', '{%.mlp.load,%.mlp.probability}', NULL, NULL, 'experts'),
        ('{gpt2}', 1, 25, '%.mlp.balance',     'sum',     '{%.mlp.product}',       NULL, NULL, 'experts'), -- a scalar
        ('{gpt2}', 2, 10, 'balance.layers',    'total',   '{&.mlp.balance}',       NULL, NULL, 'experts'),
        ('{gpt2}', 2, 11, 'balance.scale',     'balance scale', '{}',              NULL, NULL, 'experts'),
        ('{gpt2}', 2, 12, 'balance', 'mul', '{balance.layers,balance.scale}',       NULL, NULL, 'experts'),
        ('{gpt2}', 2, 13, 'training_loss',     'add',     '{loss,balance}',        NULL, NULL, 'experts'),

        -- GPT-Neo (Black et al., 2021): as GPT-2, with a product each for queries, keys and values, and scores that
        -- are not divided by the root of the head size
        ('{gpt_neo}', 1,  1, '%.ln_1',                    'layernorm',  '{^}',                    '{C}',   NULL, NULL),
        ('{gpt_neo}', 1,  2, '%.attn.attention.q_proj',   'projection', '{%.ln_1}',               '{Q,C}', NULL, NULL),
        ('{gpt_neo}', 1,  3, '%.attn.attention.k_proj',   'projection', '{%.ln_1}',               '{Q,C}', NULL, NULL),
        ('{gpt_neo}', 1,  4, '%.attn.attention.v_proj',   'projection', '{%.ln_1}',               '{Q,C}', NULL, NULL),
        ('{gpt_neo}', 1,  5, '%.attn.heads', 'attention',
            '{%.attn.attention.q_proj,%.attn.attention.k_proj,%.attn.attention.v_proj}', NULL, NULL, NULL),
        ('{gpt_neo}', 1,  6, '%.attn.attention.out_proj', 'projection', '{%.attn.heads}', '{C,Q}', '{always}', NULL),
        ('{gpt_neo}', 1,  7, '%.attn.drop',               'dropout', '{%.attn.attention.out_proj}', NULL, NULL, NULL),
        ('{gpt_neo}', 1,  8, '%.attn.residual',           'add',        '{^,%.attn.drop}',        NULL,    NULL, NULL),
        ('{gpt_neo}', 1,  9, '%.ln_2',                    'layernorm',  '{%.attn.residual}',      '{C}',   NULL, NULL),
        ('{gpt_neo}', 1, 10, '%.mlp.c_fc',                'projection', '{%.ln_2}', '{F,C}', '{always}', NULL),
        ('{gpt_neo}', 1, 11, '%.mlp.act',                 'activation', '{%.mlp.c_fc}',           NULL,    NULL, NULL),
        ('{gpt_neo}', 1, 12, '%.mlp.c_proj',              'projection', '{%.mlp.act}', '{C,F}', '{always}', NULL),
        ('{gpt_neo}', 1, 13, '%.mlp.drop',                'dropout',    '{%.mlp.c_proj}',         NULL,    NULL, NULL),
        ('{gpt_neo}', 1, 14, '%',                         'add', '{%.attn.residual,%.mlp.drop}', NULL, NULL, NULL),

        -- Llama (Touvron et al., 2023) and its relatives: norms by the root mean square, positions that turn queries
        -- and keys, and an MLP whose nonlinearity is a gate, down(act(gate(x)) * up(x))
        ('{llama}', 0,  3, 'embed_tokens.weight', 'param',      '{}',                     '{V,C}', NULL, NULL),
        ('{llama}', 0,  4, 'embed_tokens',        'embedding',  '{tokens,embed_tokens.weight}', NULL,    NULL, NULL),
        ('{llama}', 1,  1, '%.input_layernorm',   'rmsnorm',    '{^}',                    '{C}',   NULL, NULL),
        ('{llama}', 1,  2, '%.self_attn.q_proj', 'projection',
            '{%.input_layernorm}', '{Q,C}', '{qkv_bias,attention_bias}', NULL),
        ('{llama}', 1,  3, '%.self_attn.k_proj', 'projection',
            '{%.input_layernorm}', '{K,C}', '{qkv_bias,attention_bias}', NULL),
        ('{llama}', 1,  4, '%.self_attn.v_proj', 'projection',
            '{%.input_layernorm}', '{K,C}', '{qkv_bias,attention_bias}', NULL),
        ('{llama}', 1,  5, '%.self_attn.q_rope',  'rope', '{%.self_attn.q_proj,positions}', NULL, NULL, '!qk_norm'),
        ('{llama}', 1,  6, '%.self_attn.k_rope',  'rope', '{%.self_attn.k_proj,positions}', NULL, NULL, '!qk_norm'),
        -- Qwen 3: a norm for each head
        ('{llama}', 1,  5, '%.self_attn.q_heads', 'reshape', '{%.self_attn.q_proj}', '{B,T,NH,HS}', NULL, 'qk_norm'),
        ('{llama}', 1,  6, '%.self_attn.q_norm',         'rmsnorm', '{%.self_attn.q_heads}', '{HS}', NULL, 'qk_norm'),
        ('{llama}', 1,  7, '%.self_attn.q_flat',         'reshape', '{%.self_attn.q_norm}', '{B,T,Q}', NULL, 'qk_norm'),
        ('{llama}', 1,  8, '%.self_attn.q_rope', 'rope', '{%.self_attn.q_flat,positions}', NULL, NULL, 'qk_norm'),
        ('{llama}', 1,  9, '%.self_attn.k_heads', 'reshape', '{%.self_attn.k_proj}', '{B,T,KH,HS}', NULL, 'qk_norm'),
        ('{llama}', 1, 10, '%.self_attn.k_norm',         'rmsnorm', '{%.self_attn.k_heads}', '{HS}', NULL, 'qk_norm'),
        ('{llama}', 1, 11, '%.self_attn.k_flat',         'reshape', '{%.self_attn.k_norm}', '{B,T,K}', NULL, 'qk_norm'),
        ('{llama}', 1, 12, '%.self_attn.k_rope', 'rope', '{%.self_attn.k_flat,positions}', NULL, NULL, 'qk_norm'),
        ('{llama}', 1, 13, '%.self_attn.heads', 'attention',
            '{%.self_attn.q_rope,%.self_attn.k_rope,%.self_attn.v_proj}', NULL, NULL, NULL),
        ('{llama}', 1, 14, '%.self_attn.o_proj', 'projection',
            '{%.self_attn.heads}', '{C,Q}', '{attention_bias}', NULL),
        ('{llama}', 1, 15, '%.self_attn.residual',       'add',        '{^,%.self_attn.o_proj}', NULL,      NULL, NULL),
        ('{llama}', 1, 16, '%.post_attention_layernorm', 'rmsnorm',    '{%.self_attn.residual}', '{C}',     NULL, NULL),
        ('{llama}', 1, 17, '%.mlp.gate_proj', 'projection',
            '{%.post_attention_layernorm}', '{F,C}', '{mlp_bias}', NULL),
        ('{llama}', 1, 18, '%.mlp.act',                  'activation', '{%.mlp.gate_proj}',      NULL,      NULL, NULL),
        ('{llama}', 1, 19, '%.mlp.up_proj', 'projection', '{%.post_attention_layernorm}', '{F,C}', '{mlp_bias}', NULL),
        ('{llama}', 1, 20, '%.mlp.gated',                'mul', '{%.mlp.act,%.mlp.up_proj}', NULL, NULL, NULL),
        ('{llama}', 1, 21, '%.mlp.down_proj',            'projection', '{%.mlp.gated}', '{C,F}', '{mlp_bias}', NULL),
        ('{llama}', 1, 22, '%', 'add', '{%.self_attn.residual,%.mlp.down_proj}', NULL, NULL, NULL),
        ('{llama}', 2,  1, 'norm',                       'rmsnorm',    '{^}',                    '{C}',     NULL, NULL),
        ('{llama}', 2,  2, 'lm_head.weight',             'param', '{}', '{V,C}', NULL, '!tied_head'),
        ('{llama}', 2,  3, 'logits',                     'matmul',     '{norm,lm_head.weight}',  NULL,      NULL, NULL),

        -- GPT-NeoX and Pythia (Biderman et al., 2023): one product whose rows are query, key and value of the first
        -- head, then of the second, ...; attention and MLP read the same residual stream
        ('{gpt_neox}', 0,  3, 'embed_in.weight',             'param', '{}', '{V,C}', NULL, NULL),
        ('{gpt_neox}', 0,  4, 'embed_in',                    'embedding', '{tokens,embed_in.weight}', NULL, NULL, NULL),
        ('{gpt_neox}', 1,  1, '%.input_layernorm',           'layernorm', '{^}', '{C}', NULL, NULL),
        ('{gpt_neox}', 1,  2, '%.attention.query_key_value', 'projection',
            '{%.input_layernorm}', '{3*Q,C}', '{attention_bias}', NULL),
        ('{gpt_neox}', 1,  3, '%.attention.by_head', 'reshape',
            '{%.attention.query_key_value}', '{B,T,NH,3*HS}', NULL, NULL),
        ('{gpt_neox}', 1,  4, '%.attention.query_heads',     'head slice', '{%.attention.by_head}', NULL, NULL, NULL),
        ('{gpt_neox}', 1,  5, '%.attention.key_heads',       'head slice', '{%.attention.by_head}', NULL, NULL, NULL),
        ('{gpt_neox}', 1,  6, '%.attention.value_heads',     'head slice', '{%.attention.by_head}', NULL, NULL, NULL),
        ('{gpt_neox}', 1,  7, '%.attention.query', 'reshape', '{%.attention.query_heads}', '{B,T,Q}', NULL, NULL),
        ('{gpt_neox}', 1,  8, '%.attention.key', 'reshape', '{%.attention.key_heads}', '{B,T,Q}', NULL, NULL),
        ('{gpt_neox}', 1,  9, '%.attention.value', 'reshape', '{%.attention.value_heads}', '{B,T,Q}', NULL, NULL),
        ('{gpt_neox}', 1, 10, '%.attention.q_rope',          'rope', '{%.attention.query,positions}', NULL, NULL, NULL),
        ('{gpt_neox}', 1, 11, '%.attention.k_rope',          'rope', '{%.attention.key,positions}', NULL, NULL, NULL),
        ('{gpt_neox}', 1, 12, '%.attention.heads', 'attention',
            '{%.attention.q_rope,%.attention.k_rope,%.attention.value}', NULL, NULL, NULL),
        ('{gpt_neox}', 1, 13, '%.attention.dense', 'projection',
            '{%.attention.heads}', '{C,Q}', '{attention_bias}', NULL),
        ('{gpt_neox}', 1, 14, '%.attention.residual', 'add', '{^,%.attention.dense}', NULL, NULL, '!parallel_residual'),
        ('{gpt_neox}', 1, 15, '%.post_attention_layernorm', 'layernorm',
            '{%.attention.residual}', '{C}', NULL, '!parallel_residual'),
        ('{gpt_neox}', 1, 15, '%.post_attention_layernorm',  'layernorm', '{^}', '{C}', NULL, 'parallel_residual'),
        ('{gpt_neox}', 1, 16, '%.mlp.dense_h_to_4h', 'projection',
            '{%.post_attention_layernorm}', '{F,C}', '{always}', NULL),
        ('{gpt_neox}', 1, 17, '%.mlp.act',                   'activation', '{%.mlp.dense_h_to_4h}', NULL, NULL, NULL),
        ('{gpt_neox}', 1, 18, '%.mlp.dense_4h_to_h',         'projection', '{%.mlp.act}', '{C,F}', '{always}', NULL),
        ('{gpt_neox}', 1, 19, '%.parallel', 'add',
            '{%.mlp.dense_4h_to_h,%.attention.dense}', NULL, NULL, 'parallel_residual'),
        ('{gpt_neox}', 1, 20, '%',                           'add', '{%.parallel,^}', NULL, NULL, 'parallel_residual'),
        ('{gpt_neox}', 1, 20, '%', 'add',
            '{%.mlp.dense_4h_to_h,%.attention.residual}', NULL, NULL, '!parallel_residual'),
        ('{gpt_neox}', 2,  1, 'final_layer_norm',            'layernorm', '{^}', '{C}', NULL, NULL),
        ('{gpt_neox}', 2,  2, 'embed_out.weight',            'param', '{}', '{V,C}', NULL, '!tied_head'),
        ('{gpt_neox}', 2,  3, 'logits', 'matmul', '{final_layer_norm,embed_out.weight}', NULL, NULL, NULL),

        -- GPT-J (Wang and Komatsuzaki, 2021): attention and MLP read the same norm; a head with a bias
        ('{gptj}', 0,  3, 'wte.weight',      'param',      '{}',                     '{V,C}', NULL, NULL),
        ('{gptj}', 0,  4, 'wte',             'embedding',  '{tokens,wte.weight}',    NULL,    NULL, NULL),
        ('{gptj}', 0,  5, 'drop',            'dropout',    '{wte}',                  NULL,    NULL, NULL),
        ('{gptj}', 1,  1, '%.ln_1',          'layernorm',  '{^}',                    '{C}',   NULL, NULL),
        ('{gptj}', 1,  2, '%.attn.q_proj',   'projection', '{%.ln_1}',               '{Q,C}', NULL, NULL),
        ('{gptj}', 1,  3, '%.attn.k_proj',   'projection', '{%.ln_1}',               '{Q,C}', NULL, NULL),
        ('{gptj}', 1,  4, '%.attn.v_proj',   'projection', '{%.ln_1}',               '{Q,C}', NULL, NULL),
        ('{gptj}', 1,  5, '%.attn.q_rope',   'rope',       '{%.attn.q_proj,positions}', NULL,    NULL, NULL),
        ('{gptj}', 1,  6, '%.attn.k_rope',   'rope',       '{%.attn.k_proj,positions}', NULL,    NULL, NULL),
        ('{gptj}', 1,  7, '%.attn.heads', 'attention', '{%.attn.q_rope,%.attn.k_rope,%.attn.v_proj}', NULL, NULL, NULL),
        ('{gptj}', 1,  8, '%.attn.out_proj', 'projection', '{%.attn.heads}',         '{C,Q}', NULL, NULL),
        ('{gptj}', 1,  9, '%.attn.drop',     'dropout',    '{%.attn.out_proj}',      NULL,    NULL, NULL),
        ('{gptj}', 1, 10, '%.mlp.fc_in',     'projection', '{%.ln_1}',               '{F,C}', '{always}', NULL),
        ('{gptj}', 1, 11, '%.mlp.act',       'activation', '{%.mlp.fc_in}',          NULL,    NULL, NULL),
        ('{gptj}', 1, 12, '%.mlp.fc_out',    'projection', '{%.mlp.act}',            '{C,F}', '{always}', NULL),
        ('{gptj}', 1, 13, '%.mlp.drop',      'dropout',    '{%.mlp.fc_out}',         NULL,    NULL, NULL),
        ('{gptj}', 1, 14, '%.parallel',      'add',        '{%.attn.drop,%.mlp.drop}', NULL,    NULL, NULL),
        ('{gptj}', 1, 15, '%',               'add',        '{%.parallel,^}',         NULL,    NULL, NULL),
        ('{gptj}', 2,  1, 'ln_f',            'layernorm',  '{^}',                    '{C}',   NULL, NULL),
        ('{gptj}', 2,  2, 'lm_head.weight',  'param',      '{}',                     '{V,C}', NULL, '!tied_head'),
        ('{gptj}', 2,  3, 'lm_head.bias',    'param',      '{}',                     '{V}',   NULL, NULL),
        ('{gptj}', 2,  4, 'lm_head',         'matmul',     '{ln_f,lm_head.weight}',  NULL,    NULL, NULL),
        ('{gptj}', 2,  5, 'logits',          'add',        '{lm_head,lm_head.bias}', NULL,    NULL, NULL),

        -- OPT (Zhang et al., 2022): as GPT-2, with a table of positions of which the first two rows are not used
        ('{opt}', 0,  3, 'embed_tokens.weight',    'param',      '{}',                     '{V,C}',   NULL, NULL),
        ('{opt}', 0,  4, 'embed_positions.weight', 'param',      '{}',                     '{P+2,C}', NULL, NULL),
        ('{opt}', 0,  5, 'embed_positions.used',   'slice',      '{embed_positions.weight}', NULL,      NULL, NULL),
        ('{opt}', 0,  6, 'embed_tokens',           'embedding',  '{tokens,embed_tokens.weight}', NULL,      NULL, NULL),
        ('{opt}', 0,  7, 'embed_positions',        'embedding', '{positions,embed_positions.used}', NULL, NULL, NULL),
        ('{opt}', 0,  8, 'embd',                   'add', '{embed_tokens,embed_positions}', NULL, NULL, NULL),
        ('{opt}', 1,  1, '%.self_attn_layer_norm', 'layernorm',  '{^}',                    '{C}',     NULL, NULL),
        ('{opt}', 1,  2, '%.self_attn.q_proj', 'projection',
            '{%.self_attn_layer_norm}', '{Q,C}', '{attention_bias}', NULL),
        ('{opt}', 1,  3, '%.self_attn.k_proj', 'projection',
            '{%.self_attn_layer_norm}', '{Q,C}', '{attention_bias}', NULL),
        ('{opt}', 1,  4, '%.self_attn.v_proj', 'projection',
            '{%.self_attn_layer_norm}', '{Q,C}', '{attention_bias}', NULL),
        ('{opt}', 1,  5, '%.self_attn.heads', 'attention',
            '{%.self_attn.q_proj,%.self_attn.k_proj,%.self_attn.v_proj}', NULL, NULL, NULL),
        ('{opt}', 1,  6, '%.self_attn.out_proj', 'projection',
            '{%.self_attn.heads}', '{C,Q}', '{attention_bias}', NULL),
        ('{opt}', 1,  7, '%.self_attn.drop',       'dropout',    '{%.self_attn.out_proj}', NULL,      NULL, NULL),
        ('{opt}', 1,  8, '%.self_attn.residual',   'add',        '{^,%.self_attn.drop}',   NULL,      NULL, NULL),
        ('{opt}', 1,  9, '%.final_layer_norm',     'layernorm',  '{%.self_attn.residual}', '{C}',     NULL, NULL),
        ('{opt}', 1, 10, '%.fc1', 'projection', '{%.final_layer_norm}', '{F,C}', '{attention_bias}', NULL),
        ('{opt}', 1, 11, '%.act',                  'activation', '{%.fc1}',                NULL,      NULL, NULL),
        ('{opt}', 1, 12, '%.fc2',                  'projection', '{%.act}', '{C,F}', '{attention_bias}', NULL),
        ('{opt}', 1, 13, '%.drop',                 'dropout',    '{%.fc2}',                NULL,      NULL, NULL),
        ('{opt}', 1, 14, '%',                      'add', '{%.self_attn.residual,%.drop}', NULL, NULL, NULL),
        ('{opt}', 2,  1, 'final_layer_norm',       'layernorm',  '{^}',                    '{C}',     NULL, NULL),
        ('{opt}', 2,  2, 'lm_head.weight',         'param', '{}', '{V,C}', NULL, '!tied_head'),
        ('{opt}', 2,  3, 'logits',                 'matmul', '{final_layer_norm,lm_head.weight}', NULL, NULL, NULL)
    ) AS node (of, part, n, name, kind, inputs, shape, bias, needs)
$$;
COMMENT ON FUNCTION _llm_architecture_nodes() IS 'The nodes of each architecture, with layers as %';

-- The rows that a layer with parameters, or an activation, stands for. $input: what the node reads; $self: its name.
CREATE FUNCTION _llm_node_pieces() RETURNS TABLE (kind text, k int, suffix text, op text, inputs text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM (VALUES
        ('layernorm', 1, '.weight', 'param',     '{}'),
        ('layernorm', 2, '.bias',   'param',     '{}'),
        ('layernorm', 3, '',        'layernorm', '{$input,$self.weight,$self.bias}'),
        -- the weight of a linear layer is (in,out), that of a projection (out,in), as PyTorch's Linear has it
        ('linear',    1, '.weight', 'param',     '{}'),
        ('linear',    2, '.bias',   'param',     '{}'),
        ('linear',    3, '.matmul', 'matmul',    '{$input,$self.weight}'),
        ('linear',    4, '',        'add',       '{$self.matmul,$self.bias}'),
        ('projection', 1, '.weight', 'param',    '{}'),
        ('projection', 2, '',        'matmul',   '{$input,$self.weight}'),
        ('biased projection', 1, '.weight', 'param',  '{}'),
        ('biased projection', 2, '.bias',   'param',  '{}'),
        ('biased projection', 3, '.matmul', 'matmul', '{$input,$self.weight}'),
        ('biased projection', 4, '',        'add',    '{$self.matmul,$self.bias}'),
        ('rmsnorm', 1, '.weight', 'param',   '{}'),
        ('rmsnorm', 2, '',        'rmsnorm', '{$input,$self.weight}'),
        ('head slice', 1, '', 'slice', '{$input}'),
        ('gelu_tanh', 1, '',        'gelu',      '{$input}'),
        ('gelu_erf',  1, '',        'gelu',      '{$input}'),
        ('relu',      1, '',        'relu',      '{$input}'),
        ('silu',      1, '',        'silu',      '{$input}'),
        ('tanh',      1, '',        'tanh',      '{$input}'),
        ('sigmoid',   1, '',        'sigmoid',   '{$input}'),
        -- x sigmoid(1.702 x), an approximation of gelu (Hendrycks and Gimpel, 2016)
        ('quick_gelu', 1, '.slope',   'constant', '{}'),
        ('quick_gelu', 2, '.scaled',  'mul',      '{$input,$self.slope}'),
        ('quick_gelu', 3, '.sigmoid', 'sigmoid',  '{$self.scaled}'),
        ('quick_gelu', 4, '',         'mul',      '{$input,$self.sigmoid}'),
        ('gate',     1, '.weight',  'param',         '{}'),
        ('gate',     2, '',         'matmul',        '{$input,$self.weight}'),
        ('chosen',   1, '',         'topk',          '{$input}'),
        ('best',     1, '',         'topk',          '{$input}'),
        ('used',     1, '',         'topk',          '{$input}'),
        -- a linear layer of each expert, computed for those that a position has chosen
        ('experts',  1, '.weight',  'param',         '{}'),
        ('experts',  2, '.bias',    'param',         '{}'),
        ('experts',  3, '.matmul',  'expert_matmul', '{$input,%.mlp.chosen,$self.weight}'),
        ('experts',  4, '.biases',  'gather_rows',   '{$self.bias,%.mlp.chosen}'),
        ('experts',  5, '',         'add',           '{$self.matmul,$self.biases}'),
        ('mixed',    1, '',         'sum',           '{$input}'),
        ('average',  1, '.rows',    'mean',          '{$input}'),
        ('average',  2, '',         'mean',          '{$self.rows}'),
        ('balance scale', 1, '',    'constant',      '{}')
    ) AS piece (kind, k, suffix, op, inputs)
$$;
COMMENT ON FUNCTION _llm_node_pieces() IS
    'The rows that a layer with parameters, or an activation, stands for; $input is what it reads, $self its name';
