-- Readable views of the tape. Their computations are never recorded, whether or not autograd is on.

CREATE FUNCTION llm_tensor_stats(t tensor, OUT numel bigint, OUT mean real, OUT sd real, OUT norm real,
    OUT largest real, OUT dead float8) RETURNS record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_tensor_stats(tensor) IS
    'Elements, their mean, standard deviation, Euclidean norm, largest magnitude, and the fraction that is exactly '
    '0; never recorded';

CREATE FUNCTION _llm_attention_rows(probs tensor, head int, causal boolean, tokens text[], OUT batch int,
    OUT query int, OUT query_token text, OUT key int, OUT key_token text, OUT weight real) RETURNS SETOF record
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_attention_rows';
COMMENT ON FUNCTION _llm_attention_rows(tensor, int, boolean, text[]) IS
    'One head of probabilities (B,NH,T,T) as rows; causal: keys up to the query; tokens: the texts of the B*T '
    'tokens or NULL';

-- The label of a tensor: its name, the value of a scalar, or its operation and number.
CREATE FUNCTION llm_tensor_label(name text, op text, id bigint, data tensor) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(name, CASE WHEN op IS NULL AND @extschema@.ndim(data) = 0 THEN data::text END,
        coalesce(op, 'constant') || ' ' || id % 1000000);
COMMENT ON FUNCTION llm_tensor_label(text, text, bigint, tensor) IS
    'The label of a tensor in views: its name, the value of a scalar, or its operation and number';

CREATE VIEW llm_tape_named WITH (security_invoker = true) AS
    SELECT t.run, t.id, t.op, llm_tensor_label(r.name, t.op, t.id, NULL) AS name,
        ARRAY(SELECT llm_tensor_label(i.name, made.op, i.id, i.data)
            FROM unnest(t.inputs) WITH ORDINALITY AS input(id, n)
            JOIN llm_tensor_rt AS i ON i.id = input.id
            LEFT JOIN llm_tape AS made ON made.id = i.id ORDER BY input.n) AS inputs,
        r.shape, (t.extra ->> 'microseconds')::float8 AS microseconds, (t.extra ->> 'flops')::bigint AS flops,
        (t.extra ->> 'bytes')::bigint AS bytes
    FROM llm_tape AS t JOIN llm_tensor_rt AS r ON r.id = t.id;
COMMENT ON VIEW llm_tape_named IS
    'An executed operation, with names in place of ids: its inputs, the shape of its output, its cost';

CREATE VIEW llm_op_cost WITH (security_invoker = true) AS
    SELECT run, op, count(*) AS calls, round(sum(microseconds)::numeric, 1)::float8 AS microseconds,
        sum(microseconds) / nullif(sum(sum(microseconds)) OVER (PARTITION BY run), 0) AS share,
        sum(flops) AS flops, sum(flops) / nullif(sum(microseconds), 0) / 1000 AS gflops
    FROM (SELECT t.run, t.op, (t.extra ->> 'microseconds')::float8 AS microseconds,
            (t.extra ->> 'flops')::float8 AS flops
        FROM llm_tape AS t) AS t
    GROUP BY run, op;
COMMENT ON VIEW llm_op_cost IS
    'What a run spent on each kind of operation: calls, time and its share of the run, floating-point operations, '
    'GFLOP/s';

CREATE VIEW llm_activation WITH (security_invoker = true) AS
    SELECT t.run, r.id, llm_tensor_label(r.name, t.op, r.id, NULL) AS name, t.op, r.shape, s.mean, s.sd, s.dead
    FROM llm_tape AS t CROSS JOIN LATERAL unnest(t.outputs) AS made(id) JOIN llm_tensor_rt AS r ON r.id = made.id
    CROSS JOIN LATERAL llm_tensor_stats(r.data) AS s;
COMMENT ON VIEW llm_activation IS
    'A tensor that a run computed: mean and standard deviation of its elements, and dead, the fraction that is '
    'exactly 0';

CREATE VIEW llm_gradient WITH (security_invoker = true) AS
    SELECT r.run, coalesce(m.model, run.model) AS model, llm_tensor_label(r.name, t.op, r.id, r.data) AS name, g.numel,
        g.norm, w.norm AS weight_norm, g.norm / nullif(w.norm, 0) AS ratio, g.largest
    FROM llm_tensor_rt AS r
    JOIN llm_run AS run ON run.run = r.run
    LEFT JOIN llm_tape AS t ON t.id = r.id
    LEFT JOIN llm_tensor_map AS m ON m.id = r.id
    LEFT JOIN llm_param_share AS s ON r.data IS NULL AND s.target_model = m.model AND s.target_name = m.name
    LEFT JOIN llm_param AS p ON r.data IS NULL AND p.model = coalesce(s.source_model, m.model)
        AND p.name = coalesce(s.source_name, m.name)
    CROSS JOIN LATERAL llm_tensor_stats(r.grad) AS g
    LEFT JOIN LATERAL llm_tensor_stats(coalesce(r.data, p.data)) AS w ON true
    WHERE r.grad IS NOT NULL;
COMMENT ON VIEW llm_gradient IS
    'A tensor of a run that has a gradient, activations included: norm of the gradient and of the tensor, their '
    'ratio, the largest magnitude';

CREATE VIEW llm_param_gradient WITH (security_invoker = true) AS
    SELECT p.model, p.name, g.numel, g.norm, w.norm AS weight_norm, g.norm / nullif(w.norm, 0) AS ratio, g.largest
    FROM llm_param AS p CROSS JOIN LATERAL llm_tensor_stats(p.grad) AS g
    LEFT JOIN LATERAL llm_tensor_stats(p.data) AS w ON true
    WHERE p.grad IS NOT NULL;
COMMENT ON VIEW llm_param_gradient IS
    'A parameter with a gradient in llm_param.grad: norm of the gradient and of the weights, their ratio, the '
    'largest magnitude';

CREATE VIEW llm_attention_map WITH (security_invoker = true) AS
    SELECT t.run, a.batch, coalesce(substring(t.node FROM '^h\.([0-9]{1,6})\.')::int, place.n) AS layer, heads.head,
        a.query, a.query_token, a.key, a.key_token, a.weight
    FROM llm_tape AS t
    JOIN llm_tensor_rt AS probs ON probs.id = t.outputs[3]
    CROSS JOIN LATERAL (SELECT count(*)::int AS n FROM llm_tape AS o
        WHERE o.run = t.run AND o.op = 'attention' AND o.id < t.id) AS place
    LEFT JOIN LATERAL (
        SELECT array_agg(CASE WHEN v.token_id IS NOT NULL THEN llm_decode(ARRAY[v.token_id], t.extra ->> 'model') END
            ORDER BY e.idx) AS texts
        FROM llm_tensor_rt AS tokens
        CROSS JOIN LATERAL tensor_rows(tokens.data) AS e
        LEFT JOIN llm_bpe_vocab AS v
            ON v.model = llm_tokenizer(t.extra ->> 'model') AND v.token_id = e.value::int
        WHERE tokens.id = (t.extra ->> 'tokens')::bigint) AS words ON true
    CROSS JOIN LATERAL generate_series(0, probs.shape[2] - 1) AS heads(head)
    CROSS JOIN LATERAL _llm_attention_rows(probs.data, heads.head,
        coalesce((t.extra #>> '{attrs,causal}')::boolean, true), words.texts) AS a
    WHERE t.op = 'attention';
COMMENT ON VIEW llm_attention_map IS
    'How much a query position attends to a key position, in each layer and head of a run, with the tokens there; '
    'positions, layers and heads count from 0';
