"""What a token is drawn from: temperature, then top-k, then top-p, as pg_llm_sample does it."""

from __future__ import annotations

import numpy as np


def sampled(probabilities, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Probabilities (V), best first, as they are drawn from: 0 for tokens left out; their sum is 1.

    temperature 0 is greedy. top_k None or 0, and top_p None or 1, keep every token.
    """
    p = np.asarray(probabilities, np.float64)
    if temperature <= 0:
        return np.eye(1, len(p))[0]
    with np.errstate(divide="ignore"):
        weights = np.exp((np.log(p) - np.log(p[0])) / temperature)
    if top_k:
        weights[top_k:] = 0
    if top_p is not None and top_p < 1:
        before = np.concatenate([[0.0], np.cumsum(weights)[:-1]])
        out = before >= top_p * weights.sum()
        out[0] = False
        weights[out] = 0
    return weights / weights.sum()
