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

CREATE FUNCTION _llm_is_special(v llm_bpe_vocab) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v.special OR (v.rank IS NULL AND v.token LIKE '<|_%|>');
COMMENT ON FUNCTION _llm_is_special(llm_bpe_vocab) IS 'Whether a token is found in texts only on request';

-- What a tokenizer.json may name as its pre_tokenizer, in the words of _llm_tokenizer_splits.
CREATE FUNCTION _llm_tokenizer_patterns() RETURNS TABLE (pattern text, splits text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    VALUES ('gpt2', 'ByteLevel'),
        ('gpt2', $r$Split "'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", $r$
            || 'ByteLevel without a pattern'),
        ('gpt2_digit', 'Digits one by one, ByteLevel'),
        ('gpt2_digits', 'Digits, ByteLevel'),
        ('cl100k', $r$Split "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|$r$
            || $r$ ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", ByteLevel without a pattern$r$),
        ('qwen2', $r$Split "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|$r$
            || $r$ ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", ByteLevel without a pattern$r$)
$$;
COMMENT ON FUNCTION _llm_tokenizer_patterns() IS
    'The patterns of llm_bpe_config, and what a tokenizer.json names as its pre_tokenizer for each';

CREATE FUNCTION _llm_tokenizer_splits(pre_tokenizer jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(coalesce(step ->> 'type', step::text) || CASE step ->> 'type'
            WHEN 'ByteLevel' THEN CASE WHEN step -> 'use_regex' = 'false' THEN ' without a pattern' ELSE '' END
                || CASE WHEN step -> 'add_prefix_space' = 'true' THEN ' with add_prefix_space' ELSE '' END
            WHEN 'Digits' THEN CASE WHEN step -> 'individual_digits' = 'true' THEN ' one by one' ELSE '' END
            -- the patterns match every character, so that it is the same whether matches or what is between them go
            WHEN 'Split' THEN format(' "%s"', coalesce(step #>> '{pattern,Regex}', step ->> 'pattern'))
                || CASE WHEN (step ->> 'behavior', step -> 'invert') IN (('Isolated', 'false'), ('Removed', 'true'))
                    THEN '' ELSE format(' %s, invert %s', step ->> 'behavior', step ->> 'invert') END
            ELSE '' END, ', ' ORDER BY n)
    FROM jsonb_array_elements(CASE pre_tokenizer ->> 'type' WHEN 'Sequence' THEN pre_tokenizer -> 'pretokenizers'
        ELSE CASE WHEN pre_tokenizer IS NULL THEN '[]' ELSE jsonb_build_array(pre_tokenizer) END END)
        WITH ORDINALITY AS steps (step, n)
$$;
COMMENT ON FUNCTION _llm_tokenizer_splits(jsonb) IS 'The steps of a tokenizer.json''s pre_tokenizer in words';

CREATE FUNCTION _llm_tokenizer_config(file jsonb) RETURNS llm_bpe_config
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    model jsonb := CASE jsonb_typeof(file -> 'model') WHEN 'object' THEN file -> 'model' ELSE '{}' END;
    steps text := @extschema@._llm_tokenizer_splits(nullif(file -> 'pre_tokenizer', 'null'));
    normalizer jsonb := nullif(file -> 'normalizer', 'null');
    unknown text := (SELECT min(format('%s %s', key, value)) FROM jsonb_each(model)
        WHERE (key IN ('continuing_subword_prefix', 'end_of_word_suffix') AND value NOT IN ('null', '""'))
            OR (key = 'byte_fallback' AND value <> 'false') OR (key = 'dropout' AND value NOT IN ('null', '0', '0.0')));
    result @extschema@.llm_bpe_config;
BEGIN
    IF coalesce(model ->> 'type', 'BPE') <> 'BPE' THEN
        unknown := 'a model of type ' || (model ->> 'type');
    ELSIF jsonb_typeof(model -> 'vocab') IS DISTINCT FROM 'object'
        OR jsonb_typeof(model -> 'merges') IS DISTINCT FROM 'array' THEN
        unknown := 'no model with a vocabulary and merges';
    END IF;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'tokenizer.json has %', unknown USING ERRCODE = 'feature_not_supported',
            HINT = 'Expected is byte-level byte pair encoding, as GPT-2 has it.';
    END IF;
    IF normalizer ->> 'type' = 'Sequence' AND jsonb_array_length(normalizer -> 'normalizers') < 2 THEN
        normalizer := normalizer #> '{normalizers,0}';
    END IF;
    IF normalizer ->> 'type' <> 'NFC' THEN
        RAISE EXCEPTION 'tokenizer.json has the normalizer %', coalesce((SELECT string_agg(n ->> 'type', ', ')
                FROM jsonb_array_elements(normalizer -> 'normalizers') AS n), normalizer ->> 'type')
            USING ERRCODE = 'feature_not_supported', HINT = 'Expected is none, or NFC.';
    END IF;
    result.normalizer := normalizer ->> 'type';
    result.ignore_merges := coalesce((model ->> 'ignore_merges')::boolean, false);
    SELECT p.pattern INTO result.pattern FROM @extschema@._llm_tokenizer_patterns() AS p
        WHERE p.splits = steps;
    IF steps IS NULL AND jsonb_array_length(model -> 'merges') = 0 THEN
        result.pattern := 'gpt2'; -- characters: nothing is merged, whatever the pieces are
    ELSIF result.pattern IS NULL THEN
        RAISE EXCEPTION 'tokenizer.json has the pre_tokenizer %', coalesce(steps, 'null')
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Expected is one of: ' || (SELECT string_agg(p.splits, '; ')
                      FROM @extschema@._llm_tokenizer_patterns() AS p) || '.';
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION _llm_tokenizer_config(jsonb) IS
    'How the tokenizer of a tokenizer.json differs from GPT-2''s; refuses what llm_encode cannot do';

CREATE FUNCTION _llm_tokenizer_vocab(file jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    vocab jsonb := file #> '{model,vocab}';
    strange text;
BEGIN
    IF jsonb_typeof(file -> 'pre_tokenizer') IS DISTINCT FROM 'object' THEN -- characters, written as themselves
        RETURN (SELECT jsonb_object_agg(@extschema@._llm_bpe_text(convert_to(key, 'UTF8')), value)
                FROM jsonb_each(vocab));
    END IF;
    -- The text forms of bytes are ! to ~, U+00A1 to U+00FF without the soft hyphen, and U+0100 to U+0143.
    vocab := vocab - ARRAY(SELECT t ->> 'content' FROM jsonb_array_elements(file -> 'added_tokens') AS t
        WHERE t ->> 'content' COLLATE "C" ~ '^[^!-~\u00a1-\u00ac\u00ae-\u0143]$');
    SELECT key INTO strange FROM jsonb_object_keys(vocab) AS key
        WHERE key COLLATE "C" ~ '^[^!-~\u00a1-\u00ac\u00ae-\u0143]$' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'tokenizer.json has the token "%", and its pre_tokenizer makes no such character', strange
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A byte-level vocabulary writes each byte as one of 256 characters, a space as Ġ.';
    END IF;
    RETURN vocab;
END
$$;
COMMENT ON FUNCTION _llm_tokenizer_vocab(jsonb) IS
    'The vocabulary of a tokenizer.json in GPT-2''s text form, without added tokens that have none';

CREATE FUNCTION _llm_tokenizer_added(added_tokens jsonb, special_tokens_map jsonb, tokenizer_config jsonb)
    RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    -- a special token is its text, or an object with its text as content; additional ones are in a list
    WITH named (value) AS (
        SELECT item FROM jsonb_each(coalesce(tokenizer_config, '{}') || coalesce(special_tokens_map, '{}'))
            AS e (key, value),
            jsonb_array_elements(CASE jsonb_typeof(e.value) WHEN 'array' THEN e.value
                ELSE jsonb_build_array(e.value) END) AS item
        WHERE e.key ~ '_tokens?$'
    ), specials (content) AS (
        SELECT coalesce(value ->> 'content', value #>> '{}') FROM named
        WHERE jsonb_typeof(value) IN ('string', 'object')
    ), listed AS (
        SELECT value || jsonb_build_object('id', key::int) AS token
        FROM jsonb_each(tokenizer_config -> 'added_tokens_decoder')
        UNION ALL
        SELECT jsonb_build_object('id', value, 'content', key) FROM jsonb_each(added_tokens)
    ), added AS (
        SELECT DISTINCT ON (token ->> 'content') token || jsonb_build_object('special',
            token -> 'special' = 'true' OR token ->> 'content' IN (SELECT content FROM specials)) AS token
        FROM listed ORDER BY token ->> 'content', token ? 'special' DESC
    )
    SELECT jsonb_agg(token) FROM (
        SELECT token FROM added
        UNION ALL -- without an id: that of the vocabulary
        SELECT DISTINCT jsonb_build_object('content', content, 'special', true) FROM specials
        WHERE content NOT IN (SELECT token ->> 'content' FROM added)) AS every
$$;
COMMENT ON FUNCTION _llm_tokenizer_added(jsonb, jsonb, jsonb) IS
    'The tokens that a tokenizer''s files name beside its vocabulary, as tokenizer.json lists its added_tokens';

CREATE FUNCTION _llm_add_tokens(model text, added jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    a record;
    old @extschema@.llm_bpe_vocab;
BEGIN
    FOR a IN SELECT t.* FROM jsonb_to_recordset(added)
        AS t (id int, content text, special boolean, single_word boolean, lstrip boolean, rstrip boolean)
        WHERE t.content <> ''
    LOOP
        IF a.single_word OR a.lstrip OR a.rstrip THEN
            RAISE EXCEPTION 'added token "%" has %', a.content, CASE WHEN a.single_word THEN 'single_word'
                    WHEN a.lstrip THEN 'lstrip' ELSE 'rstrip' END USING ERRCODE = 'feature_not_supported',
                HINT = 'llm_encode finds added tokens wherever their text is, without the spaces beside it. Set it '
                    'to false in the file if that is right for your texts.';
        END IF;
        SELECT v.* INTO old FROM @extschema@.llm_bpe_vocab AS v WHERE v.model = model AND v.token = a.content;
        IF NOT FOUND AND a.id IS NULL THEN
            RAISE WARNING 'special token "%" has no id in any file, and is left out', a.content;
        ELSIF NOT FOUND THEN
            SELECT v.* INTO old FROM @extschema@.llm_bpe_vocab AS v WHERE v.model = model AND v.token_id = a.id;
            IF FOUND THEN
                RAISE EXCEPTION 'added token "%" has id %, and so has token "%"', a.content, a.id, old.token
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
            INSERT INTO @extschema@.llm_bpe_vocab (model, token_id, token, bytes, added, special)
                VALUES (model, a.id, a.content, convert_to(a.content, 'UTF8'), true, coalesce(a.special, false));
        ELSIF old.token_id <> a.id THEN
            RAISE EXCEPTION 'token "%" has two ids, % in the vocabulary and % as an added token', a.content,
                old.token_id, a.id USING ERRCODE = 'invalid_parameter_value';
        ELSIF old.bytes <> convert_to(a.content, 'UTF8') AND (old.rank IS NOT NULL OR length(old.bytes) = 1) THEN
            RAISE EXCEPTION 'added token "%" is another text to the vocabulary, "%"', a.content,
                @extschema@.llm_decode(ARRAY[old.token_id], model) USING ERRCODE = 'invalid_parameter_value';
        ELSE
            UPDATE @extschema@.llm_bpe_vocab AS v
                SET added = true, special = coalesce(a.special, false), bytes = convert_to(a.content, 'UTF8')
                WHERE v.model = model AND v.token_id = old.token_id;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _llm_add_tokens(text, jsonb) IS
    'Adds tokens, or marks those that there are: [{"id", "content", "special"}]; one without an id must be there';

CREATE FUNCTION _llm_tokenizer_digest(model text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT md5(concat_ws(',',
        (SELECT md5(string_agg(row(v.token_id, v.bytes, v.rank, v.added OR @extschema@._llm_is_special(v),
            @extschema@._llm_is_special(v))::text, ',' ORDER BY v.token_id))
            FROM @extschema@.llm_bpe_vocab AS v WHERE v.model = _llm_tokenizer_digest.model),
        (SELECT md5(string_agg(row(m.left_token, m.right_token)::text, ',' ORDER BY m.rank))
            FROM @extschema@.llm_bpe_merges AS m WHERE m.model = _llm_tokenizer_digest.model),
        (SELECT row(c.pattern, c.ignore_merges, c.normalizer)::text
            FROM @extschema@.llm_bpe_config AS c WHERE c.model = _llm_tokenizer_digest.model)))
$$;
COMMENT ON FUNCTION _llm_tokenizer_digest(text) IS 'A value that two tokenizers share if they encode and decode alike';

CREATE FUNCTION pg_llm_load_tokenizer(names text[], files text[], model text, truncate boolean DEFAULT false)
    RETURNS int
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    given jsonb := (SELECT coalesce(jsonb_object_agg(n, f), '{}')
        FROM unnest(names, files) AS t (n, f) WHERE f IS NOT NULL);
    vocab text := coalesce(given ->> 'vocab.json', given ->> 'encoder.json');
    merges text := coalesce(given ->> 'merges.txt', given ->> 'vocab.bpe');
    file jsonb;
    config @extschema@.llm_bpe_config;
    named CONSTANT jsonb := @extschema@._llm_tokenizer_added((given ->> 'added_tokens.json')::jsonb,
        (given ->> 'special_tokens_map.json')::jsonb, (given ->> 'tokenizer_config.json')::jsonb);
    added jsonb;
    there CONSTANT bigint := (SELECT count(*) FROM @extschema@.llm_bpe_vocab AS v WHERE v.model = model);
    before CONSTANT text := CASE WHEN NOT truncate THEN @extschema@._llm_tokenizer_digest(model) END;
BEGIN
    IF given ? 'tokenizer.json' THEN
        file := given ->> 'tokenizer.json';
        config := @extschema@._llm_tokenizer_config(file);
        vocab := @extschema@._llm_tokenizer_vocab(file);
        SELECT '#version: 0.2' || E'\n' || string_agg(CASE jsonb_typeof(m) WHEN 'array' THEN
                coalesce(m ->> 0, '') || ' ' || coalesce(m ->> 1, '') || coalesce(' ' || (m ->> 2), '')
                ELSE m #>> '{}' END, E'\n' ORDER BY n) INTO merges
            FROM jsonb_array_elements(file #> '{model,merges}') WITH ORDINALITY AS t (m, n);
        -- transformers adds those that tokenizer.json does not have
        SELECT coalesce(file -> 'added_tokens', '[]') || coalesce(jsonb_agg(t ORDER BY t -> 'id'), '[]')
            INTO added FROM jsonb_array_elements(named) AS t
            WHERE t ? 'id' AND NOT vocab::jsonb ? (t ->> 'content')
                AND (file -> 'added_tokens' @> jsonb_build_array(jsonb_build_object('content', t -> 'content')))
                    IS NOT TRUE;
    ELSIF vocab IS NULL THEN
        RAISE EXCEPTION 'there is no tokenizer.json and no vocab.json' USING ERRCODE = 'undefined_file',
            HINT = 'A tokenizer is a tokenizer.json, or vocab.json and merges.txt (encoder.json and vocab.bpe).';
    ELSE
        added := named;
    END IF;
    PERFORM @extschema@.pg_llm_load_bpe(convert_to(vocab, 'UTF8'), convert_to(merges, 'UTF8'), model,
        truncate OR there > 0);
    IF config.pattern <> 'gpt2' OR config.ignore_merges OR config.normalizer IS NOT NULL THEN
        config.model := model;
        INSERT INTO @extschema@.llm_bpe_config SELECT config.*;
    END IF;
    PERFORM @extschema@._llm_add_tokens(model, added);
    PERFORM @extschema@.llm_encode('', model); -- which checks that it is consistent
    IF there > 0 AND NOT truncate AND before <> @extschema@._llm_tokenizer_digest(model) THEN
        RAISE EXCEPTION 'tokenizer "%" already has % tokens', model, there USING ERRCODE = 'duplicate_object',
            HINT = 'Replace them with truncate => true, or load under another name.';
    END IF;
    RETURN (SELECT count(*) FROM @extschema@.llm_bpe_vocab AS v WHERE v.model = model);
END
$$;
COMMENT ON FUNCTION pg_llm_load_tokenizer(text[], text[], text, boolean) IS
    'Loads a tokenizer from the contents of its files, sent by the client: tokenizer.json, or vocab.json and '
    'merges.txt with added_tokens.json, special_tokens_map.json and tokenizer_config.json; returns the number of '
    'tokens. truncate replaces another tokenizer of that name';

-- What load_model calls for the files beside the weights, in its transaction.
CREATE FUNCTION _llm_import_tokenizer(names text[], files text[], model text, OUT tokenizer text, OUT tokens int,
    OUT reason text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    used CONSTANT text := @extschema@.llm_tokenizer(model);
    before CONSTANT text := @extschema@._llm_tokenizer_digest(used);
BEGIN
    BEGIN
        tokens := @extschema@.pg_llm_load_tokenizer(names, files, model, true);
        tokenizer := model;
        IF before = @extschema@._llm_tokenizer_digest(model) THEN -- nothing to load
            tokenizer := used;
            RAISE EXCEPTION USING ERRCODE = 'PL001';
        ELSIF used = model THEN
            reason := format('model "%s" keeps the tokenizer of its name, which differs from the one beside the '
                'weights', model);
            RAISE EXCEPTION USING ERRCODE = 'PL001';
        END IF;
    EXCEPTION
        WHEN SQLSTATE 'PL001' THEN NULL;
        WHEN feature_not_supported OR invalid_parameter_value OR insufficient_privilege THEN
            reason := format('the tokenizer beside the weights of model "%s" was not loaded: %s', model, sqlerrm);
    END;
    IF reason IS NOT NULL THEN
        tokenizer := @extschema@.llm_tokenizer(model);
        tokens := NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION _llm_import_tokenizer(text[], text[], text) IS
    'Loads the tokenizer of a model from the contents of its files, unless the model uses the same one already; '
    'returns the tokenizer that the model uses, how many tokens the files have, and why they were not loaded';

CREATE FUNCTION _llm_server_text(path text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'llm_server_text';
COMMENT ON FUNCTION _llm_server_text(text) IS 'The text of a file on the server; NULL if there is none';

CREATE FUNCTION _llm_tokenizer_names() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '{tokenizer.json,vocab.json,encoder.json,merges.txt,vocab.bpe,added_tokens.json,special_tokens_map.json,'
        'tokenizer_config.json}'::text[];
COMMENT ON FUNCTION _llm_tokenizer_names() IS 'The files of a folder that pg_llm_load_tokenizer reads';

CREATE FUNCTION pg_llm_load_tokenizer(path text, model text, truncate boolean DEFAULT false) RETURNS int
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT @extschema@.pg_llm_load_tokenizer(array_agg(f.name), array_agg(@extschema@._llm_server_text(f.path)), model,
        truncate)
    FROM (SELECT 'tokenizer.json', path WHERE path ~ '\.json$'
          UNION ALL SELECT n, path || '/' || n FROM unnest(@extschema@._llm_tokenizer_names()) AS n
          WHERE path !~ '\.json$') AS f (name, path)
$$;
COMMENT ON FUNCTION pg_llm_load_tokenizer(text, text, boolean) IS
    'Loads a tokenizer from a folder of the server, or from its tokenizer.json; returns the number of tokens. truncate '
    'replaces a tokenizer of that name';

CREATE FUNCTION llm_tokenizer_files(model text DEFAULT @extschema@.llm_default_model(), OUT name text, OUT content text)
    RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH tokens AS MATERIALIZED (
        SELECT v.token_id, v.bytes, v.added OR @extschema@._llm_is_special(v) AS is_added,
            @extschema@._llm_is_special(v) AS is_special, v.token
        FROM @extschema@.llm_bpe_vocab AS v WHERE v.model = @extschema@.llm_tokenizer(llm_tokenizer_files.model)
    ), merges AS MATERIALIZED (
        SELECT m.rank, m.left_token, m.right_token FROM @extschema@.llm_bpe_merges AS m
        WHERE m.model = @extschema@.llm_tokenizer(llm_tokenizer_files.model)
    ), config AS (
        SELECT c.* FROM @extschema@.llm_bpe_config AS c
        WHERE c.model = @extschema@.llm_tokenizer(llm_tokenizer_files.model)
    ), characters (plain) AS ( -- a vocabulary that lacks bytes and merges nothing
        SELECT NOT EXISTS (SELECT FROM merges)
            AND (SELECT count(DISTINCT t.bytes) < 256 FROM tokens AS t WHERE length(t.bytes) = 1)
    ), vocab (content) AS (
        SELECT json_object_agg(CASE WHEN is_added OR plain THEN convert_from(bytes, 'UTF8') ELSE token END, token_id
            ORDER BY token_id)
        FROM tokens, characters HAVING count(*) > 0
    )
    SELECT 'tokenizer.json', json_build_object('version', '1.0', 'truncation', NULL, 'padding', NULL,
        'added_tokens', coalesce((SELECT json_agg(json_build_object('id', token_id,
            'content', convert_from(bytes, 'UTF8'), 'single_word', false, 'lstrip', false, 'rstrip', false,
            'normalized', NOT is_special, 'special', is_special) ORDER BY token_id) FROM tokens WHERE is_added), '[]'),
        'normalizer', (SELECT json_build_object('type', normalizer) FROM config WHERE normalizer IS NOT NULL),
        'pre_tokenizer', CASE WHEN NOT plain THEN (
            SELECT json_build_object('type', 'Sequence', 'pretokenizers', json_agg(step.item ORDER BY step.n))
            FROM @extschema@._llm_tokenizer_patterns() AS p,
                unnest(regexp_split_to_array(p.splits, ', (?=ByteLevel)')) WITH ORDINALITY AS s (split, n),
                LATERAL (SELECT s.n, CASE substring(s.split, '^\w+')
                    WHEN 'ByteLevel' THEN json_build_object('type', 'ByteLevel', 'add_prefix_space', false,
                        'trim_offsets', true, 'use_regex', s.split = 'ByteLevel')
                    WHEN 'Digits' THEN json_build_object('type', 'Digits', 'individual_digits', s.split <> 'Digits')
                    ELSE json_build_object('type', 'Split', 'pattern', json_build_object('Regex',
                        substring(s.split, '^Split "(.*)"$')), 'behavior', 'Isolated', 'invert', false) END)
                    AS step (n, item)
            WHERE p.splits = (SELECT min(o.splits) FROM @extschema@._llm_tokenizer_patterns() AS o
                WHERE o.pattern = coalesce((SELECT pattern FROM config), 'gpt2'))) END,
        'post_processor', NULL,
        'decoder', CASE WHEN plain THEN '{"type": "Fuse"}'::json ELSE
            '{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}' END,
        'model', json_build_object('type', 'BPE', 'dropout', NULL, 'unk_token', NULL, 'continuing_subword_prefix', NULL,
            'end_of_word_suffix', NULL, 'fuse_unk', false, 'byte_fallback', false,
            'ignore_merges', coalesce((SELECT ignore_merges FROM config), false), 'vocab', vocab.content,
            'merges', coalesce((SELECT json_agg(json_build_array(left_token, right_token) ORDER BY rank) FROM merges),
                '[]'))
        )::text
    FROM vocab, characters
    UNION ALL
    SELECT 'vocab.json', vocab.content::text FROM vocab
    UNION ALL
    SELECT 'merges.txt', E'#version: 0.2\n' || coalesce((SELECT string_agg(left_token || ' ' || right_token || E'\n', ''
        ORDER BY rank) FROM merges), '') FROM vocab
$$;
COMMENT ON FUNCTION llm_tokenizer_files(text) IS
    'The tokenizer of a model as files that other programs load: tokenizer.json, vocab.json and merges.txt';

CREATE FUNCTION pg_llm_export_tokenizer(path text, model text) RETURNS int
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_export_tokenizer(text, text) IS
    'Writes a model''s tokenizer into an existing folder of the server: tokenizer.json, vocab.json and merges.txt; '
    'returns the number of files';

CREATE FUNCTION llm_encode(text text, model text DEFAULT @extschema@.llm_default_model(),
    special boolean DEFAULT false) RETURNS int[]
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_encode(text, text, boolean) IS
    'Text to token ids, int[] (T), with the model''s tokenizer; special: the text of a special token, such as '
    '<|endoftext|>, becomes that one token';

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

CREATE FUNCTION llm_pretokenize(text text, model text, OUT "position" int, OUT piece text) RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 100 AS 'MODULE_PATHNAME', 'llm_pretokenize_model';
COMMENT ON FUNCTION llm_pretokenize(text, text) IS
    'The pieces into which the model''s tokenizer splits text: by its pattern, tokens that were added apart';

CREATE FUNCTION _llm_bpe_text(bytes bytea) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_bpe_text';
COMMENT ON FUNCTION _llm_bpe_text(bytea) IS 'GPT-2''s text form of bytes, in which a space is Ġ';

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
    FROM @extschema@.llm_pretokenize(llm_tokenize.text, llm_tokenize.model) AS p,
        unnest(@extschema@.llm_encode(p.piece, llm_tokenize.model)) WITH ORDINALITY AS t(token_id, n)
    ORDER BY 1;
END;
COMMENT ON FUNCTION llm_tokenize(text, text) IS
    'The tokens of a text as rows: position from 1, the piece it came from, id, and the token in readable form';
