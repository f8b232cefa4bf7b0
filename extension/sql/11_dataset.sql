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

CREATE TABLE llm_dataset (
    id      bigint PRIMARY KEY DEFAULT nextval('llm_dataset_id_seq'),
    dataset text COLLATE "C" NOT NULL DEFAULT 'default' CHECK (dataset <> ''),
    tokens  int[] NOT NULL,
    target  int[] NOT NULL,
    -- Comparisons with a NULL element are NULL, which a plain CHECK accepts.
    CONSTRAINT llm_dataset_tokens CHECK ((array_ndims(tokens) = 1) IS TRUE AND (0 <= ALL (tokens)) IS TRUE),
    CONSTRAINT llm_dataset_target CHECK ((array_ndims(target) = 1) IS TRUE AND array_position(target, NULL) IS NULL),
    CONSTRAINT llm_dataset_equal_length CHECK (cardinality(tokens) = cardinality(target))
);
ALTER SEQUENCE llm_dataset_id_seq OWNED BY llm_dataset.id;
CREATE INDEX llm_dataset_dataset_id_idx ON llm_dataset (dataset, id);
COMMENT ON TABLE llm_dataset IS 'A training sequence: tokens (T) and, for each, the token that follows';
COMMENT ON COLUMN llm_dataset.dataset IS
    'The name by which training selects its sequences, default where a model has none of its own; those of '
    'name-validation are held out';
COMMENT ON COLUMN llm_dataset.target IS 'The token that follows each of tokens; negative: left out of the loss';

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
