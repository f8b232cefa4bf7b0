/*
 * The rules of broadcast.h that concern shapes alone, and their error messages.
 */
#include "engine/broadcast.h"

#include <stdio.h>
#include <string.h>

LlmShapeText
llm_shape_text(int ndim, const int *dims)
{
	LlmShapeText text;
	char *end = text.s;

	*end++ = '(';
	for (int i = 0; i < ndim && i < LLM_MAX_DIMS; i++)
		end += sprintf(end, i ? ",%d" : "%d", dims[i]);
	strcpy(end, ")");
	return text;
}

/* Length of the axis at position i from the end; missing leading axes count as 1. */
static int
from_end(int ndim, const int *dims, int i)
{
	return i < ndim ? dims[ndim - 1 - i] : 1;
}

/*
 * Computes the common shape of the axes before the last `skip`. Returns -1 if it exists, else the position
 * from the end that does not fit.
 */
static int
common_shape(int a_ndim, const int *a, int b_ndim, const int *b, int skip, int ndim, int *out)
{
	for (int i = skip; i < ndim; i++)
	{
		int x = from_end(a_ndim, a, i), y = from_end(b_ndim, b, i);

		if (x != y && x != 1 && y != 1)
			return i;
		out[ndim - 1 - i] = x == 1 ? y : x;
	}
	return -1;
}

LlmCode
llm_broadcast_shape(const char *op, const char *sign, int a_ndim, const int *a, int b_ndim, const int *b,
	int *out_ndim, int *out, LlmError *err)
{
	int ndim = a_ndim > b_ndim ? a_ndim : b_ndim;
	int bad = common_shape(a_ndim, a, b_ndim, b, 0, ndim, out);

	*out_ndim = ndim;
	if (bad < 0)
		return LLM_OK;
	llm_fail(err, LLM_SHAPE, "%s: %s %s %s: lengths %d and %d of axis %d differ and neither is 1", op,
		llm_shape_text(a_ndim, a).s, sign, llm_shape_text(b_ndim, b).s, from_end(a_ndim, a, bad),
		from_end(b_ndim, b, bad), -1 - bad);
	return llm_hint(err,
		"Shapes are aligned at their last axis (axis -1); an axis of length 1 is repeated as "
		"often as needed. reshape() can add one.");
}

LlmCode
llm_matmul_shape(const char *op, int a_ndim, const int *a, int b_ndim, const int *b, int *out_ndim, int *out,
	LlmError *err)
{
	int ndim = a_ndim > b_ndim ? a_ndim : b_ndim, bad, k, inner;
	char shapes[2 * sizeof(LlmShapeText) + 4];

	snprintf(shapes, sizeof(shapes), "%s @ %s", llm_shape_text(a_ndim, a).s, llm_shape_text(b_ndim, b).s);
	if (a_ndim == 0 || b_ndim == 0)
	{
		llm_fail(err, LLM_SHAPE, "%s: %s: a scalar has no axis to sum over", op, shapes);
		return llm_hint(err, "Use * to multiply by a number.");
	}
	k = a[a_ndim - 1];
	inner = b[b_ndim == 1 ? 0 : b_ndim - 2];
	if (k != inner)
	{
		bool turned = b_ndim == 2 && k == b[1];

		llm_fail(err, LLM_SHAPE, "%s: %s: inner dimensions %d and %d differ", op, shapes, k, inner);
		return llm_hint(err, "%sPostgreSQL reads x @ w + b as x @ (w + b): write (x @ w) + b.",
			turned ? "x @ transpose(w) would fit. "
				   : "The last axis of a must be as long as the one before last of b. ");
	}
	bad = common_shape(a_ndim, a, b_ndim, b, 2, ndim, out);
	if (bad >= 0)
	{
		llm_fail(err, LLM_SHAPE, "%s: %s: lengths %d and %d of leading axis %d differ and neither is 1", op,
			shapes, from_end(a_ndim, a, bad), from_end(b_ndim, b, bad), -1 - bad);
		return llm_hint(
			err, "All axes but the last two are a batch: each pair is equal or one of them is 1.");
	}
	*out_ndim = ndim < 2 ? 0 : ndim - 2;
	if (a_ndim > 1)
		out[(*out_ndim)++] = a[a_ndim - 2];
	if (b_ndim > 1)
		out[(*out_ndim)++] = b[b_ndim - 1];
	return LLM_OK;
}

LlmCode
llm_axis(const char *op, int ndim, const int *dims, int axis, int *out, LlmError *err)
{
	*out = axis < 0 ? axis + ndim : axis;
	if (*out >= 0 && *out < ndim)
		return LLM_OK;
	if (ndim == 0)
		return llm_fail(err, LLM_SHAPE, "%s: a scalar has no axis %d", op, axis);
	llm_fail(err, LLM_SHAPE, "%s: shape %s has no axis %d", op, llm_shape_text(ndim, dims).s, axis);
	return llm_hint(err, "Axes count from 0 to %d, or from -1 (the last) to %d.", ndim - 1, -ndim);
}
