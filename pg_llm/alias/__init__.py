"""pg_llm_client: the client under a name of its own, so that `from pg_llm_client import PGLLMClient` works."""

from pg_llm.client import PGLLMClient

__all__ = ["PGLLMClient"]
