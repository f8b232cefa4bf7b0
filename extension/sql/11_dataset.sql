-- Training data: a tokenizer trained on text, and text as rows of tokens.

CREATE FUNCTION llm_bpe_train(corpus text, vocab_size int, model text, specials text[] DEFAULT '{<|endoftext|>}',
    truncate boolean DEFAULT false) RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_bpe_train(text, int, text, text[], boolean) IS
    'Trains a byte-level tokenizer on the texts of a query (corpus: ''SELECT body FROM documents''): 256 bytes, then '
    'repeatedly the most frequent pair (the lowest ids among equals), then the special tokens; returns the number of '
    'tokens. truncate replaces a tokenizer of that name';

-- Two lookups, because one condition with OR would read the whole vocabulary.
CREATE FUNCTION llm_end_token(model text DEFAULT @extschema@.llm_default_model()) RETURNS int
    LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    (SELECT v.token_id FROM @extschema@.llm_bpe_vocab AS v
        JOIN @extschema@.llm_model_config AS c ON v.token_id = (c.options ->> 'eos_token_id')::int
        WHERE c.model = llm_end_token.model AND v.model = @extschema@.llm_tokenizer(llm_end_token.model)),
    (SELECT v.token_id FROM @extschema@.llm_bpe_vocab AS v
        WHERE v.model = @extschema@.llm_tokenizer(llm_end_token.model) AND v.token = '<|endoftext|>'));
COMMENT ON FUNCTION llm_end_token(text) IS
    'The token that ends a text: the model''s option eos_token_id, else its tokenizer''s <|endoftext|>; NULL where '
    'there is neither';

CREATE SEQUENCE llm_dataset_id_seq;
COMMENT ON SEQUENCE llm_dataset_id_seq IS 'Source of llm_dataset.id';

-- Named tensors are two arrays of the row, as llm_eval takes them, and not rows of a table of their own: one row is
-- then one example, with one set of privileges, policies and triggers, and a row of tokens costs nothing more.
CREATE TABLE llm_dataset (
    id      bigint PRIMARY KEY DEFAULT nextval('llm_dataset_id_seq'),
    dataset text COLLATE "C" NOT NULL DEFAULT 'default' CHECK (dataset <> ''),
    tokens  int[],
    target  int[],
    names   text[] COLLATE "C",
    tensors tensor[],
    -- Comparisons with a NULL element are NULL, which a plain CHECK accepts.
    CONSTRAINT llm_dataset_tokens CHECK (tokens IS NULL
        OR (array_ndims(tokens) = 1) IS TRUE AND (0 <= ALL (tokens)) IS TRUE),
    CONSTRAINT llm_dataset_target CHECK (target IS NULL
        OR (array_ndims(target) = 1) IS TRUE AND array_position(target, NULL) IS NULL),
    CONSTRAINT llm_dataset_equal_length CHECK (cardinality(tokens) = cardinality(target)),
    CONSTRAINT llm_dataset_names CHECK (names IS NULL AND tensors IS NULL
        OR (array_ndims(names) = 1 AND array_ndims(tensors) = 1 AND cardinality(names) = cardinality(tensors)) IS TRUE
        AND array_position(names, NULL) IS NULL AND array_position(tensors, NULL) IS NULL),
    CONSTRAINT llm_dataset_example CHECK (CASE WHEN names IS NULL THEN tokens IS NOT NULL AND target IS NOT NULL
        ELSE tokens IS NOT NULL OR target IS NULL END)
);
ALTER SEQUENCE llm_dataset_id_seq OWNED BY llm_dataset.id;
CREATE INDEX llm_dataset_dataset_id_idx ON llm_dataset (dataset, id);
COMMENT ON TABLE llm_dataset IS
    'A training example: tokens (T) and, for each, the token that follows; or, beside them or in their place, named '
    'tensors';
COMMENT ON COLUMN llm_dataset.dataset IS
    'The name by which training selects its sequences, default where a model has none of its own; those of '
    'name-validation are held out';
COMMENT ON COLUMN llm_dataset.target IS 'The token that follows each of tokens; negative: left out of the loss';
COMMENT ON COLUMN llm_dataset.names IS
    'Inputs of the graph that tensors are for; tokens and target are for the inputs tokens and targets';
COMMENT ON COLUMN llm_dataset.tensors IS
    'One for each of names, in the shape of the input without its first dimension B, along which the rows of a batch '
    'are stacked; whole numbers where the input has dtype int. An input without B is one row''s as it is, and '
    'batch_size is 1';

CREATE VIEW llm_dataset_tensor WITH (security_invoker = true) AS
    SELECT d.id, d.dataset, t.name, shape(t.data) AS shape, t.data
    FROM llm_dataset AS d CROSS JOIN LATERAL unnest(d.names, d.tensors) AS t (name, data);
COMMENT ON VIEW llm_dataset_tensor IS 'Named tensors of training examples, one row each';

SELECT pg_catalog.pg_extension_config_dump('llm_dataset', '');
SELECT pg_catalog.pg_extension_config_dump('llm_dataset_id_seq', '');

CREATE FUNCTION llm_dataset_load(dataset text, corpus text, model text DEFAULT @extschema@.llm_default_model(),
    block_size int DEFAULT NULL, overlap int DEFAULT 0, validation float8 DEFAULT 0, truncate boolean DEFAULT false,
    special boolean DEFAULT false, OUT documents bigint, OUT tokens bigint, OUT rows bigint, OUT validation_rows bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_dataset_load(text, text, text, int, int, float8, boolean, boolean) IS
    'Encodes the texts of a query (corpus: ''SELECT body FROM documents'') into rows of llm_dataset: tokens '
    '(block_size; NULL: the model''s n_positions) and targets shifted by one, texts joined, with the end token after '
    'each, the last row padded with target -1. overlap: tokens that a row repeats from the one before, as context '
    'only, so that each token is a target once; validation: '
    'the fraction of rows, spread evenly, that are stored as dataset-validation; truncate deletes both first; special: '
    'the text of a special token becomes that token';
