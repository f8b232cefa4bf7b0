-- make also appends this file to each update script.

CREATE OR REPLACE FUNCTION _llm_build() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '@LLM_BUILD@';
COMMENT ON FUNCTION _llm_build() IS 'The build that this database''s objects are of; _llm_check_build compares it';
