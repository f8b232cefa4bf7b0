-- LoRA (Hu et al., 2021): a frozen weight W gets a product of two small matrices beside it. Everything is rows,
-- with the names and layouts of PEFT. For a module X that multiplies its input x (…,K) by W (K,N):
--
--   X.base      what X was: x W, plus its bias                                                      (…,N)
--   X.lora_A    x Aᵀ, the parameter X.lora_A.weight is A (r,K)                                      (…,r)
--   X.lora_B    (x Aᵀ) Bᵀ, the parameter X.lora_B.weight is B (N,r), zeros at first                 (…,N)
--   X.lora      X.lora_B * X.lora_scale, a constant, alpha / r                                      (…,N)
--   X           X.base + X.lora
--
-- Of an embedding, x are ids and A (K,r) is a table: X.lora_A looks rows up. The model with these rows stores A and
-- B alone: llm_param_share gives it the frozen parameters of the model that it was made of.

CREATE FUNCTION _llm_lora_modules(model text)
    RETURNS TABLE (module text, node text, op text, input text, weight text, k jsonb, n jsonb, transposed boolean)
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE m.name WHEN 'logits' THEN 'lm_head' ELSE regexp_replace(w.name, '\.weight$', '') END,
        coalesce(b.name, m.name), m.op, m.inputs[1], w.name,
        w.attrs #> CASE WHEN t.transposed THEN '{shape,1}' ELSE '{shape,0}' END::text[],
        w.attrs #> CASE WHEN t.transposed THEN '{shape,0}' ELSE '{shape,1}' END::text[], t.transposed
    FROM @extschema@.llm_graph AS w
    JOIN @extschema@.llm_graph AS m ON m.model = w.model AND m.inputs[2] = w.name AND m.op IN ('matmul', 'embedding')
    CROSS JOIN LATERAL (SELECT coalesce((m.attrs ->> 'transpose_b')::boolean, false)) AS t (transposed)
    LEFT JOIN (@extschema@.llm_graph AS b JOIN @extschema@.llm_graph AS bias
            ON bias.model = b.model AND bias.name = b.inputs[2] AND bias.op = 'param')
        ON b.model = w.model AND b.op = 'add' AND b.inputs[1] = m.name
    WHERE w.model = _llm_lora_modules.model AND w.op = 'param' AND cardinality(w.shape) = 2
    ORDER BY m.id
$$;
COMMENT ON FUNCTION _llm_lora_modules(text) IS
    'What LoRA can be added to: each product with a weight matrix and each embedding; the node is that of the bias '
    'where there is one. The product that makes the logits is lm_head';

CREATE VIEW llm_lora WITH (security_invoker = true) AS
    SELECT b.model, m.module, b.shape[2]::int AS rank, (c.attrs ->> 'value')::float8 * b.shape[2]::int AS alpha,
        coalesce((d.attrs ->> 'p')::float8, 0) AS dropout, s.name AS node, p.inputs[2] AS weight,
        p.op = 'embedding' AS embeds, coalesce((p.attrs ->> 'transpose_b')::boolean, false) AS transposed,
        (c.attrs ->> 'value')::float8 AS scale
    FROM llm_graph AS b
    CROSS JOIN LATERAL (SELECT regexp_replace(b.name, '\.lora_B\.weight$', '')) AS m (module)
    JOIN llm_graph AS c ON c.model = b.model AND c.name = m.module || '.lora_scale' AND c.op = 'constant'
    JOIN llm_graph AS s ON s.model = b.model AND s.op = 'add' AND s.inputs[2] = m.module || '.lora'
    JOIN llm_graph AS x ON x.model = b.model AND x.name = s.inputs[1]
    JOIN llm_graph AS p ON p.model = b.model
        AND p.name = CASE x.op WHEN 'add' THEN x.inputs[1] ELSE x.name END AND p.op IN ('matmul', 'embedding')
    LEFT JOIN llm_graph AS d ON d.model = b.model AND d.name = m.module || '.lora_drop'
    WHERE b.op = 'param' AND b.name LIKE '%.lora\_B.weight';
COMMENT ON VIEW llm_lora IS
    'A module with LoRA, as the model''s graph says: rank, alpha and dropout, the node to which scale * B A x is '
    'added, the frozen weight';
COMMENT ON COLUMN llm_lora.scale IS 'alpha / rank, the value of the node MODULE.lora_scale';

CREATE FUNCTION _llm_lora_fork(model text, target text, modules jsonb, own text[] DEFAULT '{}') RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    -- A role that may not change the model's rows may not share them either; it gets copies.
    shares CONSTANT boolean := NOT row_security_active('@extschema@.llm_param');
    tied text;
    missing text;
BEGIN
    PERFORM @extschema@._llm_check_model(model);
    IF NOT EXISTS (SELECT FROM @extschema@.llm_graph AS g WHERE g.model = model) THEN
        RAISE EXCEPTION 'model "%" has neither graph nor weights', left(model, 100) USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model, count(*) FROM llm_param GROUP BY model lists those with weights.';
    END IF;
    SELECT string_agg(l.module, ', ') INTO missing
        FROM (SELECT module FROM @extschema@.llm_lora AS l WHERE l.model = model ORDER BY module LIMIT 3) AS l;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'model "%" has LoRA already (%)', left(model, 100), missing USING ERRCODE = 'duplicate_object',
            HINT = format('Begin with the model it was made of, or with a merged copy: llm_lora_merge(%L).', model);
    END IF;
    SELECT string_agg(format('"%s"', left(w.module, 100)), ', ') INTO missing
        FROM jsonb_to_recordset(modules) AS w (module text)
        WHERE NOT EXISTS (SELECT FROM @extschema@._llm_lora_modules(model) AS x WHERE x.module = w.module);
    IF missing IS NOT NULL OR jsonb_array_length(modules) = 0 THEN
        RAISE EXCEPTION 'model "%" has no module %', left(model, 100), coalesce(missing, 'that is asked for')
            USING ERRCODE = 'undefined_object', HINT = 'Its modules are ' || (SELECT string_agg(DISTINCT
                regexp_replace(x.module, '^h\.\d+\.', ''), ', ') FROM @extschema@._llm_lora_modules(model) AS x) || '.';
    END IF;
    -- A head that is the embedding's table, one of which changes, is a parameter of its own from now on.
    SELECT head.weight INTO tied FROM @extschema@._llm_lora_modules(model) AS head
        JOIN @extschema@._llm_lora_modules(model) AS table_ ON table_.weight = head.weight AND table_.op = 'embedding'
        WHERE head.module = 'lm_head' AND (head.weight = ANY(own) OR 'lm_head.weight' = ANY(own)
            OR EXISTS (SELECT FROM jsonb_to_recordset(modules) AS w (module text)
                WHERE w.module IN ('lm_head', table_.module)));
    INSERT INTO @extschema@.llm_model_config
        (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options, recipe)
        SELECT target, n_layer, n_head, d_model, d_ff, n_positions, vocab, coalesce(tokenizer, model),
            CASE WHEN tied IS NULL THEN options ELSE options || '{"tied_head": false}' END, recipe
        FROM @extschema@.llm_model_config AS c WHERE c.model = model
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model "%" already exists', left(target, 100) USING ERRCODE = 'duplicate_object',
            HINT = 'Give the new model another name, or delete the old one from llm_model_config.';
    END IF;

    INSERT INTO @extschema@.llm_graph (model, name, op, inputs, attrs)
    WITH base AS (
        SELECT g.id, 0 AS place, g.name, g.op, g.attrs,
            CASE g.name WHEN 'logits' THEN array_replace(g.inputs, tied, 'lm_head.weight') ELSE g.inputs END AS inputs
        FROM @extschema@.llm_graph AS g WHERE g.model = model
        UNION ALL
        SELECT g.id, 1, 'lm_head.weight', g.op, g.attrs, g.inputs
        FROM @extschema@.llm_graph AS g WHERE g.model = model AND g.name = tied
    ),
    module AS (
        SELECT g.id, x.*, w.rank, w.scale, coalesce(w.dropout, 0) AS dropout, x.op = 'embedding' AS embeds,
            CASE WHEN x.op = 'matmul' AND w.dropout > 0 THEN x.module || '.lora_drop' ELSE x.input END AS read,
            sqrt(3 * (SELECT s.shape[CASE WHEN x.transposed THEN 2 ELSE 1 END] FROM @extschema@.llm_param_shapes(model)
                AS s WHERE s.name = x.weight)::float8) AS spread
        FROM jsonb_to_recordset(modules) AS w (module text, rank int, scale float8, dropout float8)
        JOIN @extschema@._llm_lora_modules(model) AS x USING (module)
        JOIN @extschema@.llm_graph AS g ON g.model = model AND g.name = x.node
    )
    SELECT target, row.name, row.op, row.inputs, row.attrs
    FROM (
        SELECT base.id, place, base.name || CASE WHEN module.node IS NULL THEN '' ELSE '.base' END, base.op,
            base.inputs, CASE WHEN base.op = 'param' THEN base.attrs || jsonb_build_object('trainable',
                base.name = ANY(own) AND base.name NOT IN (SELECT m.module || '.weight' FROM module AS m))
                ELSE base.attrs END
        FROM base LEFT JOIN module ON module.node = base.name
        UNION ALL
        SELECT m.id, piece.*
        FROM module AS m, LATERAL (VALUES
            -- PEFT's initial values: of a product A has the variance 1 / (3 K) and B is 0, of an embedding A is 0
            (2, module || '.lora_A.weight', 'param', '{}'::text[], CASE WHEN embeds
                THEN jsonb_build_object('shape', jsonb_build_array(k, rank), 'init', 'zeros')
                ELSE jsonb_build_object('shape', jsonb_build_array(rank, k), 'init', 'normal', 'std', 1 / spread) END),
            (3, module || '.lora_B.weight', 'param', '{}', jsonb_build_object('shape', jsonb_build_array(n, rank))
                || CASE WHEN embeds THEN '{"init": "normal", "std": 1}' ELSE '{"init": "zeros"}' END::jsonb),
            (4, module || '.lora_scale', 'constant', '{}', jsonb_build_object('value', scale)),
            (5, module || '.lora_drop', 'dropout', ARRAY[input], jsonb_build_object('p', dropout)),
            (6, module || '.lora_A', op, ARRAY[read, module || '.lora_A.weight'],
                CASE WHEN embeds THEN '{}' ELSE '{"transpose_b": true}' END::jsonb),
            (7, module || '.lora_B', 'matmul', ARRAY[module || '.lora_A', module || '.lora_B.weight'],
                '{"transpose_b": true}'),
            (8, module || '.lora', 'mul', ARRAY[module || '.lora_B', module || '.lora_scale'], '{}'),
            (9, node, 'add', ARRAY[node || '.base', module || '.lora'], '{}')) AS piece
        WHERE piece.column1 <> 5 OR read <> input
    ) AS row (id, place, name, op, inputs, attrs)
    ORDER BY row.id, row.place;

    WITH param AS (
        SELECT p.name, coalesce(s.source_model, model) AS source_model,
            coalesce(s.source_name, stored.name) AS source_name
        FROM @extschema@.llm_graph AS p
        CROSS JOIN LATERAL (SELECT CASE WHEN p.name = 'lm_head.weight' AND tied IS NOT NULL THEN tied ELSE p.name END)
            AS stored (name)
        JOIN @extschema@.llm_graph AS g ON g.model = model AND g.name = stored.name AND g.op = 'param'
        LEFT JOIN @extschema@.llm_param_share AS s ON s.target_model = model AND s.target_name = stored.name
        WHERE p.model = target AND p.op = 'param' AND NOT p.name = ANY(own)
    ),
    shared AS (
        INSERT INTO @extschema@.llm_param_share (target_model, target_name, source_model, source_name)
        SELECT target, p.name, p.source_model, p.source_name FROM param AS p WHERE shares
    ),
    copied AS (
        INSERT INTO @extschema@.llm_param (model, name, data)
        SELECT target, p.name, old.data FROM param AS p JOIN @extschema@.llm_param AS old
            ON old.model = p.source_model AND old.name = p.source_name WHERE NOT shares
    )
    SELECT string_agg(format('"%s"', name), ', ') INTO missing FROM (SELECT p.name FROM param AS p
        WHERE NOT EXISTS (SELECT FROM @extschema@.llm_param AS old
            WHERE old.model = p.source_model AND old.name = p.source_name AND old.data IS NOT NULL)
        ORDER BY p.name LIMIT 5) AS p;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'model "%" has no weights for %', left(model, 100), missing USING ERRCODE = 'undefined_object',
            HINT = format('llm_init_model(%L, seed) gives it random weights.', left(model, 100));
    END IF;
END $$;
COMMENT ON FUNCTION _llm_lora_fork(text, text, jsonb, text[]) IS
    'Makes target of a model, with LoRA in modules ([{"module": "h.0.attn.c_attn", "rank": 8, "scale": 2}]) and '
    'everything else frozen; values of A, B and of the parameters in own, which are trained, are left to the caller';

CREATE FUNCTION llm_lora_add(model text, target text DEFAULT NULL, rank int DEFAULT 8, alpha float8 DEFAULT 16,
    targets text[] DEFAULT '{c_attn}', dropout float8 DEFAULT 0, seed bigint DEFAULT 0) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made text := coalesce(target, model || '-lora');
    modules jsonb := '[]';
    wanted text;
    found_ jsonb;
BEGIN
    IF model IS NULL OR rank IS NULL OR alpha IS NULL OR targets IS NULL OR dropout IS NULL OR seed IS NULL
        OR array_position(targets, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'model, rank, alpha, targets, dropout and seed must not be NULL'
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF rank < 1 OR NOT abs(alpha) <= 1e30 OR NOT (dropout >= 0 AND dropout < 1) THEN
        RAISE EXCEPTION 'rank is %, alpha %, dropout %', rank, alpha, dropout USING ERRCODE = 'invalid_parameter_value',
            HINT = 'The rank is at least 1, alpha a number, dropout a probability less than 1.';
    END IF;
    PERFORM @extschema@._llm_check_model(model);
    FOREACH wanted IN ARRAY targets LOOP
        SELECT jsonb_agg(jsonb_build_object('module', x.module, 'rank', rank, 'scale', alpha / rank,
            'dropout', dropout)) INTO found_
            FROM @extschema@._llm_lora_modules(model) AS x
            WHERE x.module = wanted OR right(x.module, length(wanted) + 1) = '.' || wanted
                OR wanted = 'all-linear' AND x.op = 'matmul' AND x.module <> 'lm_head';
        -- without a match, the name itself: _llm_lora_fork says that the model has no such module
        modules := modules || coalesce(found_, jsonb_build_array(jsonb_build_object('module', wanted)));
    END LOOP;
    PERFORM @extschema@._llm_lora_fork(model, made, (SELECT coalesce(jsonb_agg(DISTINCT m), '[]') FROM
        jsonb_array_elements(modules) AS m));
    INSERT INTO @extschema@.llm_param (model, name, data)
        SELECT made, s.name, @extschema@._llm_init_tensor(s.name, s.shape, s.init, s.std, seed)
        FROM @extschema@.llm_param_shapes(made) AS s
        JOIN @extschema@.llm_graph AS g ON g.model = made AND g.name = s.name
        WHERE s.name ~ '\.lora_[AB]\.weight$' AND NOT g.attrs ? 'trainable';
    RETURN made;
END $$;
COMMENT ON FUNCTION llm_lora_add(text, text, int, float8, text[], float8, bigint) IS
    'Makes a copy of a model, named target (NULL: the model''s name and -lora), to train with LoRA: its weights are '
    'the model''s own rows, frozen, and beside those that targets names it has A and B of this rank, B zero, so that '
    'it computes what the model does. targets: names of modules or their ends, as c_attn or h.0.mlp.c_fc, or '
    'all-linear; alpha / rank scales the product. Returns the name';

CREATE FUNCTION llm_lora_merge(model text, target text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET pg_llm.autograd = off AS $$
#variable_conflict use_variable
DECLARE
    made text := coalesce(target, model || '-merged');
    missing text;
    other record;
BEGIN
    PERFORM @extschema@._llm_check_model(model);
    IF NOT EXISTS (SELECT FROM @extschema@.llm_lora AS l WHERE l.model = model) THEN
        RAISE EXCEPTION 'model "%" has no LoRA to merge', left(model, 100) USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model, module FROM llm_lora lists the modules that have; llm_lora_add(model) makes some.';
    END IF;
    -- Merged, the frozen weight and the node without LoRA are gone, so nothing else may read them.
    SELECT l.module, o.name INTO other FROM @extschema@.llm_lora AS l
        JOIN @extschema@.llm_graph AS s ON s.model = model AND s.name = l.node
        JOIN @extschema@.llm_graph AS x ON x.model = model AND x.name = s.inputs[1]
        JOIN @extschema@.llm_graph AS o ON o.model = model AND ((x.name = ANY (o.inputs) AND o.name <> s.name)
            OR (l.weight = ANY (o.inputs) AND o.name <> CASE x.op WHEN 'add' THEN x.inputs[1] ELSE x.name END)
            OR (x.op = 'add' AND x.inputs[1] = ANY (o.inputs) AND o.name <> x.name))
        WHERE l.model = model ORDER BY o.id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'module "%" cannot be merged: node "%" reads its weights without LoRA',
            other.module, other.name USING ERRCODE = 'feature_not_supported',
            HINT = 'Let that node read the sum with LoRA, or a copy of the weights under another name.';
    END IF;
    INSERT INTO @extschema@.llm_model_config
        (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options, recipe)
        SELECT made, n_layer, n_head, d_model, d_ff, n_positions, vocab, coalesce(tokenizer, model), options, recipe
        FROM @extschema@.llm_model_config AS c WHERE c.model = model
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model "%" already exists', left(made, 100) USING ERRCODE = 'duplicate_object',
            HINT = 'Give the merged model another name, llm_lora_merge(model, name), or delete the old one from '
            'llm_model_config.';
    END IF;
    INSERT INTO @extschema@.llm_graph (model, name, op, inputs, attrs)
        SELECT made, coalesce(l.node, g.name), g.op, g.inputs,
            g.attrs - CASE g.op WHEN 'param' THEN 'trainable' ELSE '' END
        FROM @extschema@.llm_graph AS g
        LEFT JOIN (@extschema@.llm_lora AS l JOIN @extschema@.llm_graph AS s ON s.model = l.model AND s.name = l.node)
            ON l.model = g.model AND g.name = s.inputs[1]
        WHERE g.model = model AND NOT EXISTS (SELECT FROM @extschema@.llm_lora AS x
            WHERE x.model = g.model AND (g.name = x.node OR g.name ~ '\.lora(_[AB](\.weight)?|_scale|_drop)?$'
                AND g.name ^@ (x.module || '.lora')))
        ORDER BY g.id;
    INSERT INTO @extschema@.llm_param (model, name, data)
        SELECT made, g.name, CASE WHEN l.module IS NULL THEN p.data
            WHEN l.embeds THEN p.data OPERATOR(@extschema@.+) ((a.data OPERATOR(@extschema@.@)
                @extschema@.transpose(b.data)) OPERATOR(@extschema@.*) l.scale)
            WHEN l.transposed THEN p.data OPERATOR(@extschema@.+) ((b.data OPERATOR(@extschema@.@) a.data)
                OPERATOR(@extschema@.*) l.scale)
            ELSE p.data OPERATOR(@extschema@.+) (@extschema@.transpose(b.data OPERATOR(@extschema@.@) a.data)
                OPERATOR(@extschema@.*) l.scale) END
        FROM @extschema@.llm_graph AS g
        LEFT JOIN @extschema@.llm_lora AS l ON l.model = model AND l.weight = g.name
        LEFT JOIN @extschema@.llm_param AS a ON a.model = model AND a.name = l.module || '.lora_A.weight'
        LEFT JOIN @extschema@.llm_param AS b ON b.model = model AND b.name = l.module || '.lora_B.weight'
        LEFT JOIN @extschema@.llm_param_share AS s ON s.target_model = model AND s.target_name = g.name
        LEFT JOIN @extschema@.llm_param AS p
            ON p.model = coalesce(s.source_model, model) AND p.name = coalesce(s.source_name, g.name)
        WHERE g.model = made AND g.op = 'param'
        ORDER BY g.id;
    SELECT string_agg(format('"%s"', name), ', ') INTO missing FROM (SELECT p.name FROM @extschema@.llm_param AS p
        WHERE p.model = made AND p.data IS NULL ORDER BY p.name LIMIT 5) AS p;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'model "%" has no weights for %', left(model, 100), missing USING ERRCODE = 'undefined_object';
    END IF;
    RETURN made;
END $$;
COMMENT ON FUNCTION llm_lora_merge(text, text) IS
    'Makes a model without LoRA of one with it, named target (NULL: the model''s name and -merged), with rows of its '
    'own for all weights: W + transpose(B @ A) * scale, computed in this order, where a module has LoRA; the rest is '
    'copied, and nothing is frozen. Closes the session''s run. Returns the name';
