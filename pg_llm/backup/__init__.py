"""pg-llm backup and pg-llm restore: a database as one file."""
