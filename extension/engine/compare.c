/*
 * See compare.h.
 */
#include "engine/compare.h"

#include <math.h>
#include <string.h>

/* IEEE 754's totalOrder as integers: the magnitude bits of negative numbers are inverted. */
static int32_t
order_key(const float *x)
{
	int32_t bits;

	memcpy(&bits, x, sizeof(bits));
	return bits < 0 ? bits ^ INT32_MAX : bits;
}

int
llm_compare_total(size_t n, const float *a, const float *b)
{
	for (size_t i = 0; i < n; i++)
	{
		int32_t x = order_key(a + i), y = order_key(b + i);

		if (x != y)
			return x < y ? -1 : 1;
	}
	return 0;
}

bool
llm_close(size_t n, const float *a, const float *b, double rtol, double atol)
{
	for (size_t i = 0; i < n; i++)
	{
		double x = a[i], y = b[i];

		if (x == y || (isnan(x) && isnan(y)))
			continue;
		if (isinf(x) || isinf(y) || !(fabs(x - y) <= atol + rtol * fmax(fabs(x), fabs(y))))
			return false;
	}
	return true;
}

void
llm_mask(LlmOrder order, size_t n, const float *x, float number, float *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = order == LLM_IS_LESS         ? x[i] < number
				 : order == LLM_IS_LESS_EQUAL ? x[i] <= number
				 : order == LLM_IS_GREATER    ? x[i] > number
											  : x[i] >= number;
}
