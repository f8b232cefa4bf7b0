-- The documented tables. Names sort and compare by bytes (COLLATE "C") everywhere.

CREATE TABLE llm_model_config (
    model       text COLLATE "C" PRIMARY KEY CHECK (octet_length(model) BETWEEN 1 AND 1000),
    n_layer     int NOT NULL CHECK (n_layer >= 0),
    n_head      int NOT NULL CHECK (n_head > 0),
    d_model     int NOT NULL CHECK (d_model > 0),
    d_ff        int NOT NULL CHECK (d_ff > 0),
    n_positions int NOT NULL CHECK (n_positions > 0),
    vocab       int NOT NULL CHECK (vocab > 0),
    tokenizer   text COLLATE "C",
    options     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(options) = 'object'),
    recipe      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(recipe) = 'object'),
    CHECK (options ? 'head_dim' OR d_model % greatest(n_head, 1) = 0)
);
COMMENT ON TABLE llm_model_config IS 'A model: its dimensions, architecture options, tokenizer and training defaults';
COMMENT ON COLUMN llm_model_config.d_ff IS 'Width of the MLP''s hidden layer; left out: 4 * d_model';
COMMENT ON COLUMN llm_model_config.tokenizer IS
    'Whose llm_bpe_vocab rows the model uses if there are none under its own name';
COMMENT ON COLUMN llm_model_config.options IS
    'Architecture options: architecture (gpt2, or another of llm_architecture), activation (gelu_tanh, gelu_erf, '
    'relu, silu, tanh, sigmoid, quick_gelu), attention_layers (a list of "global" and "local", repeated over the '
    'layers), window_size (how many keys a position of a local layer sees), head_dim (d_model / n_head if absent), '
    'layer_norm_epsilon, tied_head, eos_token_id, scale_attn_weights, scale_attn_by_inverse_layer_idx; bias or '
    'qkv_bias false: all biases, or those of queries, keys and values, are zero and stay so; experts: each MLP is a '
    'mixture of so many, experts_per_token (2) of which compute a token, and training adds balance_loss (0.01) times '
    'how unevenly they are chosen; separate_heads: queries, keys and values of each head have weights of their own, '
    'h.0.attn.head.0.q.weight for example; recompute (true, or a list of layers from 0): training computes the values '
    'within these layers again in the backward pass instead of keeping them';
COMMENT ON COLUMN llm_model_config.recipe IS 'Training defaults of this model, by the argument names of llm_train';

INSERT INTO llm_model_config (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options) VALUES
    ('gpt2-small',  12, 12,  768, 3072, 1024, 50257, 'gpt2', '{"eos_token_id": 50256}'),
    ('gpt2-medium', 24, 16, 1024, 4096, 1024, 50257, 'gpt2', '{"eos_token_id": 50256}'),
    ('gpt2-large',  36, 20, 1280, 5120, 1024, 50257, 'gpt2', '{"eos_token_id": 50256}'),
    ('gpt2-xl',     48, 25, 1600, 6400, 1024, 50257, 'gpt2', '{"eos_token_id": 50256}');

-- GPT-3 as published (Brown et al., 2020, table 2.1 and appendix B). Dense and locally banded attention alternate; the
-- paper does not give the width of the bands: 256 is GPT-Neo's. For gpt3-xl it prints 24 heads of 128, of which only
-- 16 make its 2048 channels and 1.3 billion parameters; the heads of gpt3-13b make 5120 of 5140 channels.
INSERT INTO llm_model_config (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options, recipe)
    SELECT model, n_layer, n_head, d_model, 4 * d_model, 2048, 50257, 'gpt2',
        '{"eos_token_id": 50256, "attention_layers": ["global", "local"], "window_size": 256}'::jsonb
            || CASE WHEN n_head * head_dim <> d_model THEN jsonb_build_object('head_dim', head_dim) ELSE '{}' END,
        jsonb_build_object('lr_max', lr, 'min_lr', lr / 10, 'beta2', 0.95, 'wd', 0.1, 'grad_clip', 1)
    FROM (VALUES
        ('gpt3-small', 12, 12,   768,  64, 6.0e-4), ('gpt3-medium', 24, 16, 1024,  64, 3.0e-4),
        ('gpt3-large', 24, 16,  1536,  96, 2.5e-4), ('gpt3-xl',     24, 16, 2048, 128, 2.0e-4),
        ('gpt3-2.7b',  32, 32,  2560,  80, 1.6e-4), ('gpt3-6.7b',   32, 32, 4096, 128, 1.2e-4),
        ('gpt3-13b',   40, 40,  5140, 128, 1.0e-4), ('gpt3-175b',   96, 96, 12288, 128, 0.6e-4)
    ) AS published (model, n_layer, n_head, d_model, head_dim, lr);

CREATE FUNCTION _llm_fill_config() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.d_ff := coalesce(NEW.d_ff, 4 * NEW.d_model::bigint);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION _llm_fill_config() IS 'Trigger: a model''s d_ff is 4 * d_model where it is left out';
REVOKE EXECUTE ON FUNCTION _llm_fill_config() FROM PUBLIC;
CREATE TRIGGER llm_fill_config BEFORE INSERT ON llm_model_config
    FOR EACH ROW WHEN (NEW.d_ff IS NULL) EXECUTE FUNCTION _llm_fill_config();

CREATE SEQUENCE llm_version_seq;
COMMENT ON SEQUENCE llm_version_seq IS 'Source of model version numbers';

CREATE TABLE llm_model_version (
    model   text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL
);
COMMENT ON TABLE llm_model_version IS 'A model''s version number, raised by every change to what it reads';

CREATE TABLE llm_op (
    op         text COLLATE "C" PRIMARY KEY,
    min_inputs int NOT NULL,
    max_inputs int,
    shape_rule text NOT NULL,
    formula    text NOT NULL,
    gradient   text NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE llm_op IS 'An operation the executor knows: arity, shape rule, formula and gradient as LaTeX';

CREATE SEQUENCE llm_graph_id_seq;
COMMENT ON SEQUENCE llm_graph_id_seq IS 'Order in which nodes were added';

CREATE TABLE llm_graph (
    model  text COLLATE "C" NOT NULL,
    id     bigint NOT NULL DEFAULT nextval('llm_graph_id_seq'),
    name   text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 1000),
    op     text COLLATE "C" NOT NULL,
    inputs text[] COLLATE "C" NOT NULL DEFAULT '{}',
    attrs  jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attrs) = 'object'),
    shape  text[] COLLATE "C",
    PRIMARY KEY (model, name),
    -- this makes pg_dump restore configs before graphs, whose check needs them
    FOREIGN KEY (model) REFERENCES llm_model_config ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE llm_graph IS 'A node of a model''s architecture; the executor runs what these rows say';
COMMENT ON COLUMN llm_graph.id IS 'Order in which nodes were added; breaks ties in the execution order';
COMMENT ON COLUMN llm_graph.attrs IS
    'By the names that llm_op.attributes lists; besides, all but input and param take "recompute": true: training does '
    'not keep the value for the backward pass, which computes it again, to the same bits';
COMMENT ON COLUMN llm_graph.shape IS
    'Inferred from the other columns when the row is written: B batch, T time, C channels, V vocabulary, F '
    'feed-forward, P positions';
ALTER SEQUENCE llm_graph_id_seq OWNED BY llm_graph.id;

CREATE TABLE llm_param (
    model text COLLATE "C" NOT NULL,
    name  text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 1000),
    data  tensor,
    grad  tensor,
    m     tensor,
    v     tensor,
    step  bigint NOT NULL DEFAULT 0 CHECK (step >= 0),
    PRIMARY KEY (model, name),
    FOREIGN KEY (model) REFERENCES llm_model_config ON UPDATE CASCADE ON DELETE CASCADE
) -- A training loop rewrites every row each second: vacuum must not be throttled.
WITH (autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE llm_param IS
    'A parameter: its value, gradient and AdamW moments; weights are stored here and nowhere else';

CREATE TABLE llm_param_share (
    target_model text COLLATE "C" NOT NULL,
    target_name  text COLLATE "C" NOT NULL,
    source_model text COLLATE "C" NOT NULL,
    source_name  text COLLATE "C" NOT NULL,
    PRIMARY KEY (target_model, target_name),
    FOREIGN KEY (target_model) REFERENCES llm_model_config (model) ON UPDATE CASCADE ON DELETE CASCADE,
    FOREIGN KEY (source_model) REFERENCES llm_model_config (model) ON UPDATE CASCADE,
    CHECK ((target_model, target_name) <> (source_model, source_name))
);
COMMENT ON TABLE llm_param_share IS
    'A parameter that uses the storage of another one: all of it, because the executor reads a parameter as one '
    'tensor; single rows of an embedding table cannot be shared';

CREATE VIEW llm_param_resolved WITH (security_invoker = true) AS
    SELECT p.model, p.name, p.data, p.grad, p.m, p.v, p.step FROM llm_param AS p
    UNION ALL
    SELECT s.target_model, s.target_name, p.data, p.grad, p.m, p.v, p.step
    FROM llm_param_share AS s JOIN llm_param AS p ON (p.model, p.name) = (s.source_model, s.source_name);
COMMENT ON VIEW llm_param_resolved IS
    'Each parameter of each model with the values that it uses: its own, or those of the parameter that it shares';

CREATE FUNCTION _llm_row(t tensor, i integer) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_row';
COMMENT ON FUNCTION _llm_row(tensor, integer) IS
    'Row i of the first axis, counted from 0: (N,...) becomes (...). Only that row is read, and nothing is recorded';

CREATE VIEW llm_param_row WITH (security_invoker = true) AS
    SELECT p.model, p.name, r.token_id, CASE WHEN t.by_row THEN _llm_row(p.data, r.token_id) ELSE p.data END AS data,
        CASE WHEN t.by_row THEN _llm_row(p.grad, r.token_id) ELSE p.grad END AS grad,
        CASE WHEN t.by_row THEN _llm_row(p.m, r.token_id) ELSE p.m END AS m,
        CASE WHEN t.by_row THEN _llm_row(p.v, r.token_id) ELSE p.v END AS v, p.step
    FROM llm_param_resolved AS p
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM llm_graph AS g
        WHERE g.model = p.model AND g.op = 'embedding' AND g.inputs[2] = p.name)) AS t (by_row)
    CROSS JOIN LATERAL generate_series(0, CASE WHEN t.by_row THEN (shape(p.data))[1] - 1 ELSE 0 END) AS r (token_id);
COMMENT ON VIEW llm_param_row IS
    'Parameters with one row for each row of an embedding table: token_id is the token (wte) or the position (wpe), '
    'and only rows that are asked for are read. Other parameters are one row with token_id 0';

CREATE TABLE llm_bpe_vocab (
    model    text COLLATE "C" NOT NULL,
    token_id int NOT NULL CHECK (token_id >= 0),
    token    text COLLATE "C" NOT NULL,
    bytes    bytea NOT NULL,
    rank     int,
    added    boolean NOT NULL DEFAULT false,
    special  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (model, token_id),
    UNIQUE (model, token)
);
COMMENT ON TABLE llm_bpe_vocab IS
    'A token: id, GPT-2 text form, the bytes it stands for, and the rank of the merge that makes it (NULL: a single '
    'byte or a special token)';
COMMENT ON COLUMN llm_bpe_vocab.added IS
    'Found in a text as it is, before merges: a token that was added to a tokenizer. Its token is its plain text';
COMMENT ON COLUMN llm_bpe_vocab.special IS
    'The same, but only where special => true asks for it; so is a token of the form <|…|> that no merge makes';

CREATE TABLE llm_bpe_merges (
    model       text COLLATE "C" NOT NULL,
    rank        int NOT NULL CHECK (rank >= 0),
    left_token  text COLLATE "C" NOT NULL,
    right_token text COLLATE "C" NOT NULL,
    PRIMARY KEY (model, rank)
);
COMMENT ON TABLE llm_bpe_merges IS
    'A merge: the adjacent pair left_token, right_token becomes one token; the lowest rank is applied first';

CREATE TABLE llm_bpe_config (
    model         text COLLATE "C" PRIMARY KEY,
    pattern       text COLLATE "C" NOT NULL DEFAULT 'gpt2'
        CHECK (pattern IN ('gpt2', 'gpt2_digit', 'gpt2_digits', 'cl100k', 'qwen2')),
    ignore_merges boolean NOT NULL DEFAULT false,
    normalizer    text COLLATE "C" CHECK (normalizer = 'NFC')
);
COMMENT ON TABLE llm_bpe_config IS
    'How a tokenizer differs from GPT-2''s apart from its tokens and merges; most have no row here';
COMMENT ON COLUMN llm_bpe_config.pattern IS
    'The pattern that cuts text into pieces: GPT-2''s, the same with each digit or run of digits apart, that of GPT-4 '
    'and Llama 3, or that of Qwen 2';
COMMENT ON COLUMN llm_bpe_config.ignore_merges IS
    'A piece that is a token is encoded as that token, whatever merges would make of it';
COMMENT ON COLUMN llm_bpe_config.normalizer IS 'The Unicode normal form that texts are brought to first; NULL: none';

-- Without these calls, pg_dump would omit all weights.
SELECT pg_catalog.pg_extension_config_dump('llm_model_config',
    $$WHERE model NOT IN ('gpt2-small', 'gpt2-medium', 'gpt2-large', 'gpt2-xl', 'gpt3-small', 'gpt3-medium',
        'gpt3-large', 'gpt3-xl', 'gpt3-2.7b', 'gpt3-6.7b', 'gpt3-13b', 'gpt3-175b')$$);
-- llm_model_version is left out: triggers create its rows again as the other rows are restored.
SELECT pg_catalog.pg_extension_config_dump('llm_graph', '');
SELECT pg_catalog.pg_extension_config_dump('llm_graph_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llm_param', '');
SELECT pg_catalog.pg_extension_config_dump('llm_param_share', '');
SELECT pg_catalog.pg_extension_config_dump('llm_bpe_vocab', '');
SELECT pg_catalog.pg_extension_config_dump('llm_bpe_merges', '');
SELECT pg_catalog.pg_extension_config_dump('llm_bpe_config', '');
