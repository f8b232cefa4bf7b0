-- The tokenizer: GPT-2's byte-level byte pair encoding over llm_bpe_vocab and llm_bpe_merges.

CREATE FUNCTION pg_llm_load_bpe_vocab(path text, model text, truncate boolean DEFAULT false) RETURNS int
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_load_bpe_vocab(text, text, boolean) IS
    'Reads a vocab.json on the server ({"token": id, ...}) into llm_bpe_vocab; returns the number of tokens. '
    'truncate first deletes the tokenizer''s old tokens and merges';

CREATE FUNCTION pg_llm_load_bpe_merges(path text, model text, truncate boolean DEFAULT false) RETURNS int
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_load_bpe_merges(text, text, boolean) IS
    'Reads a merges.txt on the server (one merge a line, the lowest rank first) into llm_bpe_merges; returns the '
    'number of merges. truncate first deletes the tokenizer''s old merges';

CREATE FUNCTION pg_llm_load_bpe(vocab bytea, merges bytea, model text, truncate boolean DEFAULT false) RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_load_bpe(bytea, bytea, text, boolean) IS
    'Loads a tokenizer from the contents of its two files, sent by the client (merges NULL: none, as for plain '
    'characters); returns the number of tokens. truncate replaces a tokenizer of that name';

CREATE FUNCTION llm_encode(text text, model text DEFAULT @extschema@.llm_default_model(),
    special boolean DEFAULT false) RETURNS int[]
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_encode(text, text, boolean) IS
    'Text to token ids, int[] (T), with the model''s tokenizer; special: the text <|endoftext|> becomes that one '
    'token';

CREATE FUNCTION llm_decode(tokens int[], model text DEFAULT @extschema@.llm_default_model()) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_decode(int[], text) IS
    'Token ids (T) to text; bytes that are no UTF-8, and NUL, become U+FFFD';

CREATE FUNCTION llm_decode_bytes(tokens int[], model text DEFAULT @extschema@.llm_default_model()) RETURNS bytea
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_decode_bytes(int[], text) IS 'Token ids (T) to exactly the bytes they stand for';

CREATE FUNCTION llm_token_text(token_id int, model text DEFAULT @extschema@.llm_default_model()) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_token_text(int, text) IS
    'A token in readable form: its text, with control characters and bytes that are no UTF-8 written \n, \t or \xhh';

CREATE FUNCTION llm_pretokenize(text text, OUT "position" int, OUT piece text) RETURNS SETOF record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 100 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_pretokenize(text) IS
    'The pieces into which GPT-2''s pattern splits text, in order, position from 1; merges never cross pieces';

CREATE FUNCTION llm_bpe_steps(word text, model text DEFAULT @extschema@.llm_default_model(), OUT step int,
    OUT rank int, OUT left_token text, OUT right_token text, OUT tokens text[]) RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 10 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_bpe_steps(text, text) IS
    'The merges that one piece goes through, lowest rank first, and the tokens after each; step 0 is its bytes';

CREATE FUNCTION llm_tokenize(text text, model text DEFAULT @extschema@.llm_default_model(), OUT "position" int,
    OUT piece text, OUT token_id int, OUT token text) RETURNS SETOF record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT (row_number() OVER (ORDER BY p.position, t.n))::int, p.piece, t.token_id,
        @extschema@.llm_token_text(t.token_id, llm_tokenize.model)
    FROM @extschema@.llm_pretokenize(llm_tokenize.text) AS p,
        unnest(@extschema@.llm_encode(p.piece, llm_tokenize.model)) WITH ORDINALITY AS t(token_id, n)
    ORDER BY 1;
END;
COMMENT ON FUNCTION llm_tokenize(text, text) IS
    'The tokens of a text as rows: position from 1, the piece it came from, id, and the token in readable form';
