"""python -m pg_llm is pg-llm."""

from pg_llm.cli import main

main()
