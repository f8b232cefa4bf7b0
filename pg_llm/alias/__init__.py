"""The module pg_llm_client: `from pg_llm_client import BeamResult, PGLLMClient, StreamEvent`."""

from pg_llm.client import BeamResult, PGLLMClient, StreamEvent

__all__ = ["BeamResult", "PGLLMClient", "StreamEvent"]
