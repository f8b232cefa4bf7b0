"""The module pg_llm_client: `from pg_llm_client import PGLLMClient`."""

from pg_llm.client import PGLLMClient

__all__ = ["PGLLMClient"]
