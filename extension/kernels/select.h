/*
 * Kernels that choose between elements: nothing is computed, so that a NaN or an infinity that is not chosen
 * leaves no trace.
 */
#ifndef LLM_SELECT_H
#define LLM_SELECT_H

#include "kernels/kernels.h"
#include "kernels/vmath.h"

static void
select_elements(size_t n, const float *c, int cs, const float *a, int as, const float *b, int bs, float *out)
{
	vf condition = v_set(n ? *c : 0), yes = v_set(n ? *a : 0), no = v_set(n ? *b : 0);

	for (size_t i = 0; i < n; i += LLM_W)
	{
		int r = (int) (n - i < LLM_W ? n - i : LLM_W);

		if (cs)
			condition = v_load_n(c + i, r);
		if (as)
			yes = v_load_n(a + i, r);
		if (bs)
			no = v_load_n(b + i, r);
		v_store_n(out + i,
			v_select(v_lt(v_set(0.0f), v_abs(condition)), yes, v_select(v_isnan(condition), yes, no)), r);
	}
}

static void
clamp(size_t n, float low, float high, const float *x, float *out)
{
	vf l = v_set(low), h = v_set(high);

	for (size_t i = 0; i < n; i += LLM_W)
	{
		int r = (int) (n - i < LLM_W ? n - i : LLM_W);
		vf a = v_load_n(x + i, r);

		v_store_n(out + i, v_select(v_lt(a, l), l, v_select(v_lt(h, a), h, a)), r);
	}
}

static void
clamp_backward(size_t n, float low, float high, const float *x, const float *dy, float *dx)
{
	vf l = v_set(low), h = v_set(high), zero = v_set(0.0f);

	for (size_t i = 0; i < n; i += LLM_W)
	{
		int r = (int) (n - i < LLM_W ? n - i : LLM_W);
		vf a = v_load_n(x + i, r), d = v_load_n(dy + i, r);

		d = v_select(v_lt(a, l), zero, v_select(v_lt(h, a), zero, d));
		v_store_n(dx + i, v_select(v_isnan(a), zero, d), r);
	}
}

#endif
