-- The tokenizer, with small vocabularies made here: files, rows, errors, versions.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
\set VERBOSITY default

-- GPT-2's pattern: contractions, one space in front, runs of a class, trailing space.
SELECT string_agg(piece, '|' ORDER BY position) FROM llm_pretokenize('Hello  world, it''s 2 o''clock...  ');
SELECT string_agg(piece, '|' ORDER BY position) FROM llm_pretokenize(E'déjà vu½ 中文!\n\n \tx  ');
SELECT count(*) FROM llm_pretokenize('');
SELECT count(*) FROM llm_pretokenize(NULL);

-- A byte-level vocabulary with gaps in its ids, and merges with CRLF, a version line and blank lines.
CREATE FUNCTION load_toy(model text, truncate boolean DEFAULT false) RETURNS int LANGUAGE sql AS $$
    SELECT pg_llm_load_bpe(
        convert_to('{"h": 0, "e": 1, "l": 2, "o": 3, "\u0120": 4, "he": 10, "ll": 11, "llo": 12, "hello": 13, '
            '"\u0120hello": 14, "lo": 15, "\u00c3": 20, "\u00a9": 21, "<|endoftext|>": 99}', 'UTF8'),
        convert_to(E'#version: 0.2\r\nh e\r\n\r\nl l\nll o\nhe llo\n\u0120 hello\nl o', 'UTF8'), model, truncate)
$$;
SELECT load_toy('toy');
SELECT token_id, token, bytes, rank FROM llm_bpe_vocab WHERE model = 'toy' ORDER BY token_id;
SELECT rank, left_token, right_token FROM llm_bpe_merges WHERE model = 'toy' ORDER BY rank;
SELECT llm_encode('hello hello', 'toy'), llm_encode('', 'toy'), llm_encode('helo', 'toy'), llm_encode('é', 'toy');
SELECT * FROM llm_bpe_steps(' hello', 'toy');
SELECT * FROM llm_bpe_steps('', 'toy');
SELECT * FROM llm_tokenize('hello helo', 'toy');

-- Special tokens only on request.
SELECT llm_encode('he<|endoftext|>lo', 'toy', true);
SELECT llm_encode('he<|endoftext|>lo', 'toy');

-- Decoding: broken UTF-8 is U+FFFD, the bytes themselves are exact.
SELECT llm_decode('{13,14,99}', 'toy'), llm_decode('{}', 'toy') = '' AS empty;
SELECT llm_decode('{20,21,20,3}', 'toy'), llm_decode_bytes('{20,21,20,3}', 'toy');
SELECT llm_token_text(20, 'toy'), llm_token_text(14, 'toy');
SELECT llm_decode('{13,5}', 'toy');
SELECT llm_decode('{13,-1}', 'toy');
SELECT llm_decode('{13,NULL}', 'toy');
SELECT llm_decode('{{13},{14}}', 'toy');
SELECT llm_encode(NULL, 'toy') IS NULL AND llm_decode(NULL, 'toy') IS NULL AS strict;

-- Text that the vocabulary lacks, and a word of two pieces.
SELECT llm_encode('hello wello', 'toy');
SELECT llm_encode('hé日', 'toy');
SELECT * FROM llm_bpe_steps('he llo', 'toy');
SELECT llm_encode('hello', 'nobody');

-- A model names its tokenizer; a tokenizer's own name works too.
SELECT llm_encode('hello');
INSERT INTO llm_model_config (model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer)
VALUES ('toy-model', 1, 1, 4, 16, 8, 100, 'toy');
SELECT llm_encode('hello', 'toy-model');
SET pg_llm.default_model = 'toy-model';
SELECT llm_encode('hello'), llm_decode('{13}'), llm_token_text(13), (SELECT count(*) FROM llm_bpe_steps('hello'));
RESET pg_llm.default_model;

-- Existing rows stay unless truncate is set.
SELECT load_toy('toy');
SELECT load_toy('toy', true);
SELECT load_toy('');

-- Plain characters, without merges: recognised by a space or a character beyond Latin-1.
SELECT pg_llm_load_bpe(convert_to('{" ": 0, "a": 1, "é": 2, "日": 3, "\n": 4}', 'UTF8'), NULL, 'plain');
SELECT token_id, token, bytes, rank FROM llm_bpe_vocab WHERE model = 'plain' ORDER BY token_id;
SELECT llm_encode(E'aé 日\na', 'plain'), llm_decode('{3,2,0,1}', 'plain');
SELECT llm_encode('abé', 'plain');

-- Malformed files: the error says where.
CREATE FUNCTION load_bad(vocab text, merges text DEFAULT NULL) RETURNS int LANGUAGE sql AS $$
    SELECT pg_llm_load_bpe(convert_to(vocab, 'UTF8'), convert_to(merges, 'UTF8'), 'bad')
$$;
SELECT load_bad('{"a": 0');
SELECT load_bad('{"a": -1}');
SELECT load_bad('{"a": 3000000000}');
SELECT load_bad('{"a": 0, "b": 0}');
SELECT load_bad('{"a": 0, "a": 1}');
SELECT load_bad('{"version": "1.0", "model": {}}');
SELECT load_bad('{}');
SELECT load_bad('{"a": 0, "b": 1}', 'a b');
SELECT load_bad('{"a": 0, "b": 1, "ab": 2}', E'a b\na b');
SELECT load_bad('{"a": 0, "b": 1, "ab": 2}', E'#version: 0.2\nab');
SELECT pg_llm_load_bpe('{"a": 0}', NULL, NULL);
SELECT count(*) FROM llm_bpe_vocab WHERE model = 'bad';

-- Each change of the rows takes effect at once, and so does its rollback.
SELECT llm_encode('hello', 'toy');
BEGIN;
DELETE FROM llm_bpe_merges WHERE model = 'toy' AND left_token = 'he' AND right_token = 'llo';
SELECT llm_encode('hello', 'toy');
SAVEPOINT s;
TRUNCATE llm_bpe_merges;
SELECT llm_encode('hello', 'toy');
ROLLBACK TO s;
SELECT llm_encode('hello', 'toy');
ROLLBACK;
SELECT llm_encode('hello', 'toy');
-- The same expression in one statement's loop, around a change that is rolled back.
DO $$
DECLARE
    before int[];
    inside int[];
    seen text := '';
BEGIN
    FOR i IN 1..3 LOOP
        BEGIN
            IF i = 2 THEN
                UPDATE llm_bpe_merges SET rank = rank + 100 WHERE model = 'toy' AND right_token = 'e';
                DELETE FROM llm_bpe_merges WHERE model = 'toy' AND right_token = 'e';
            END IF;
            inside := llm_encode('he', 'toy');
            RAISE EXCEPTION USING ERRCODE = 'P0001';
        EXCEPTION WHEN raise_exception THEN
            before := llm_encode('he', 'toy');
            seen := seen || format('%s %s; ', inside, before);
        END;
    END LOOP;
    RAISE NOTICE '%', seen;
END $$;
-- Inconsistent rows are refused, and work once they are corrected.
UPDATE llm_bpe_vocab SET bytes = 'HE' WHERE model = 'toy' AND token = 'he';
SELECT llm_encode('hello', 'toy');
UPDATE llm_bpe_vocab SET bytes = 'he' WHERE model = 'toy' AND token = 'he';
SELECT llm_encode('hello', 'toy');

-- Privileges: a cached tokenizer does not bypass them, and files on the server are for pg_read_server_files.
CREATE ROLE regress_llm_learner;
GRANT SELECT ON llm_model_config, llm_model_version, llm_bpe_vocab TO regress_llm_learner;
REVOKE SELECT ON llm_bpe_merges FROM PUBLIC;
SELECT llm_encode('hello', 'toy');
SET ROLE regress_llm_learner;
SELECT llm_encode('hello', 'toy');
RESET ROLE;
GRANT SELECT ON llm_bpe_merges TO regress_llm_learner;
SET ROLE regress_llm_learner;
SELECT llm_encode('hello', 'toy');
SELECT load_toy('mine');
SELECT pg_llm_load_bpe_vocab('/no/such/vocab.json', 'mine');
RESET ROLE;
SELECT pg_llm_load_bpe_vocab('/no/such/vocab.json', 'mine');
SELECT pg_llm_load_bpe_merges('/', 'mine');
REVOKE ALL ON llm_model_config, llm_model_version, llm_bpe_vocab, llm_bpe_merges FROM regress_llm_learner;
DROP ROLE regress_llm_learner;

DROP FUNCTION load_toy;
DROP FUNCTION load_bad;
DELETE FROM llm_model_config WHERE model = 'toy-model';
DELETE FROM llm_bpe_vocab WHERE model IN ('toy', 'plain');
DELETE FROM llm_bpe_merges WHERE model = 'toy';
SELECT llm_encode('hello', 'toy');
