"""The embedded PostgreSQL, or the server of PG_LLM_DSN, and its databases."""
