/*
 * AdamW's update of a parameter from its gradient and moments.
 */
#ifndef LLM_OPTIMIZER_H
#define LLM_OPTIMIZER_H

#include "kernels/simd.h"

/*
 * AdamW with decoupled decay (Loshchilov & Hutter, 2019): scalars were rounded once from float64.
 * keep = 1 - lr wd, rate = lr / (1 - beta1^t), root = sqrt(1 - beta2^t).
 */
static void
adamw(size_t n, float *w, const float *g, float *m, float *v, const LlmAdamW *h)
{
	vf b1 = v_set(h->beta1), c1 = v_set(h->one_minus_beta1), b2 = v_set(h->beta2),
	   c2 = v_set(h->one_minus_beta2);
	vf keep = v_set(h->keep), rate = v_set(h->rate), root = v_set(h->root), eps = v_set(h->eps);
	vf clip = v_set(h->grad_scale);

	for (size_t i = 0; i < n; i += LLM_W)
	{
		int k = (int) (n - i < LLM_W ? n - i : LLM_W);
		vf d = v_load_n(g + i, k) * clip;
		vf mm = v_fma(b1, v_load_n(m + i, k), c1 * d), vv = v_fma(b2, v_load_n(v + i, k), c2 * d * d);

		v_store_n(m + i, mm, k);
		v_store_n(v + i, vv, k);
		v_store_n(w + i, v_fma(-rate, mm / (v_sqrt(vv) / root + eps), v_load_n(w + i, k) * keep), k);
	}
}

#endif
