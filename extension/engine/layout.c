/*
 * See layout.h. Every function here is one strided copy into a contiguous result; a transposition copies
 * small tiles, so that neither side touches a new cache line with every element.
 */
#include "engine/layout.h"

#include <string.h>

#include "engine/broadcast.h"
#include "engine/parallel.h"
#include "engine/partition.h"
#include "engine/pool.h"

#define TILE 32
#define LONG_TILE 4096

/* out (dims, contiguous) = x read with these strides. */
typedef struct Copy
{
	int ndim;
	int64_t dims[LLM_MAX_DIMS], strides[LLM_MAX_DIMS], out_strides[LLM_MAX_DIMS];
	int unit;      /* the axis of stride 1: tiles cover it and the last axis; if it is the last: plain rows */
	int64_t cells; /* pairs of index tuples outside the tile */
	int64_t unit_tiles, last_tiles, per_task;
	int64_t tile, long_tile;
	const float *x;
	float *out;
} Copy;

/* Drops axes of length 1 and merges neighbours that are contiguous in x. */
static void
add_axis(Copy *c, int64_t length, int64_t stride)
{
	if (length == 1)
		return;
	if (c->ndim > 0 && c->strides[c->ndim - 1] == stride * length)
	{
		c->dims[c->ndim - 1] *= length;
		c->strides[c->ndim - 1] = stride;
		return;
	}
	c->dims[c->ndim] = length;
	c->strides[c->ndim++] = stride;
}

static void
copy_tile(const Copy *c, int64_t cell, int64_t unit_from, int64_t last_from)
{
	int last = c->ndim - 1;
	int64_t x_at = 0, out_at = 0, stride = c->strides[last], out_stride = c->out_strides[c->unit];
	int64_t unit_to = unit_from + c->tile, last_to = last_from + c->long_tile;

	for (int i = last - 1; i >= 0; i--)
	{
		if (i == c->unit)
			continue;
		x_at += cell % c->dims[i] * c->strides[i];
		out_at += cell % c->dims[i] * c->out_strides[i];
		cell /= c->dims[i];
	}
	last_to = last_to < c->dims[last] ? last_to : c->dims[last];
	if (c->unit == last)
	{
		if (stride == 1)
			memcpy(
				c->out + out_at + last_from, c->x + x_at + last_from, (last_to - last_from) * sizeof(float));
		else
			for (int64_t j = last_from; j < last_to; j++)
				c->out[out_at + j] = c->x[x_at + j * stride];
		return;
	}
	unit_to = unit_to < c->dims[c->unit] ? unit_to : c->dims[c->unit];
	for (int64_t block = last_from; block < last_to; block += TILE)
		for (int64_t i = unit_from; i < unit_to; i++)
			for (int64_t j = block; j < block + TILE && j < last_to; j++)
				c->out[out_at + i * out_stride + j] = c->x[x_at + i + j * stride];
}

static void
copy_task(void *context, int task, int worker)
{
	const Copy *c = context;
	int64_t tiles = c->unit_tiles * c->last_tiles, all = c->cells * tiles;
	int64_t from = task * c->per_task, to = from + c->per_task < all ? from + c->per_task : all;

	(void) worker;
	for (int64_t i = from; i < to; i++)
		copy_tile(c, i / tiles, i % tiles / c->last_tiles * c->tile, i % c->last_tiles * c->long_tile);
}

static LlmCode
run_copy(Copy *c, LlmError *err)
{
	int64_t stride = 1, size;

	if (c->ndim == 0)
	{
		c->out[0] = c->x[0];
		return LLM_OK;
	}
	c->unit = c->ndim - 1;
	c->cells = 1;
	for (int i = c->ndim - 1; i >= 0; i--)
	{
		c->out_strides[i] = stride;
		stride *= c->dims[i];
		if (c->strides[i] == 1)
			c->unit = i;
	}
	for (int i = 0; i < c->ndim - 1; i++)
		c->cells *= i == c->unit ? 1 : c->dims[i];
	c->tile = c->unit == c->ndim - 1 ? c->dims[c->unit] : TILE;
	c->unit_tiles = (c->dims[c->unit] + c->tile - 1) / c->tile;
	c->long_tile = c->unit == c->ndim - 1 ? LLM_TASK : LONG_TILE;
	c->last_tiles = (c->dims[c->ndim - 1] + c->long_tile - 1) / c->long_tile;
	size = (c->dims[c->ndim - 1] < c->long_tile ? c->dims[c->ndim - 1] : c->long_tile) *
		   (c->unit == c->ndim - 1 ? 1 : c->tile);
	c->per_task = size < LLM_TASK ? LLM_TASK / size : 1;
	return llm_parallel((int) ((c->cells * c->unit_tiles * c->last_tiles + c->per_task - 1) / c->per_task),
		copy_task, c, err);
}

static bool
has_elements(int ndim, const int *dims)
{
	for (int i = 0; i < ndim; i++)
		if (dims[i] == 0)
			return false;
	return true;
}

static void
strides_of(int ndim, const int *dims, int64_t *strides)
{
	int64_t stride = 1;

	for (int i = ndim - 1; i >= 0; i--)
	{
		strides[i] = stride;
		stride *= dims[i];
	}
}

LlmCode
llm_permute_shape(int ndim, const int *dims, int n_axes, const int *axes, int *order, int *out, LlmError *err)
{
	bool used[LLM_MAX_DIMS] = {false};

	for (int i = 0; i < ndim; i++)
		order[i] = i;
	if (axes == NULL && ndim >= 2)
	{
		order[ndim - 1] = ndim - 2;
		order[ndim - 2] = ndim - 1;
	}
	if (axes && n_axes != ndim)
		return llm_fail(err, LLM_SHAPE, "transpose: shape %s has %d axes, but %d are listed",
			llm_shape_text(ndim, dims).s, ndim, n_axes);
	for (int i = 0; i < ndim; i++)
	{
		if (axes && llm_axis("transpose", ndim, dims, axes[i], &order[i], err) != LLM_OK)
			return err->code;
		if (used[order[i]])
		{
			llm_fail(err, LLM_SHAPE, "transpose: axis %d is listed twice", order[i]);
			return llm_hint(err, "List each axis of %s once.", llm_shape_text(ndim, dims).s);
		}
		used[order[i]] = true;
		out[i] = dims[order[i]];
	}
	return LLM_OK;
}

LlmCode
llm_permute(int ndim, const int *dims, const int *order, const float *x, float *out, LlmError *err)
{
	Copy c = {.x = x, .out = out};
	int64_t strides[LLM_MAX_DIMS];

	if (!has_elements(ndim, dims))
		return LLM_OK;
	strides_of(ndim, dims, strides);
	for (int i = 0; i < ndim; i++)
		add_axis(&c, dims[order[i]], strides[order[i]]);
	return run_copy(&c, err);
}

LlmCode
llm_slice_shape(
	int ndim, const int *dims, int n, int *starts, int *stops, const int *steps, int *out, LlmError *err)
{
	if (n > ndim)
		return llm_fail(err, LLM_SHAPE, "slice: shape %s has %d axes, but %d ranges are given",
			llm_shape_text(ndim, dims).s, ndim, n);
	for (int i = 0; i < n && steps; i++)
		if (steps[i] < 1)
			return llm_fail(err, LLM_INVALID, "slice: a step must be at least 1, not %d", steps[i]);
	for (int i = 0; i < ndim; i++)
	{
		int start = i < n ? starts[i] : 0, stop = i < n ? stops[i] : dims[i];

		start += start < 0 ? dims[i] : 0;
		stop += stop < 0 ? dims[i] : 0;
		if (start < 0 || stop > dims[i] || start > stop)
		{
			llm_fail(err, LLM_SHAPE, "slice: %d to %d is not within axis %d of shape %s", starts[i], stops[i],
				i, llm_shape_text(ndim, dims).s);
			return llm_hint(err,
				"Positions count from 0; the second is the first one left out, at most %d; negative ones "
				"count from "
				"the end.",
				dims[i]);
		}
		out[i] = llm_ceil_div(stop - start, i < n && steps ? steps[i] : 1);
		if (i < n)
		{
			starts[i] = start;
			stops[i] = stop;
		}
	}
	return LLM_OK;
}

LlmCode
llm_slice(int ndim, const int *dims, int n, const int *starts, const int *stops, const int *steps,
	const float *x, float *out, LlmError *err)
{
	Copy c = {.x = x, .out = out};
	int64_t strides[LLM_MAX_DIMS];

	strides_of(ndim, dims, strides);
	for (int i = 0; i < ndim; i++)
	{
		int step = i < n && steps ? steps[i] : 1;
		int64_t length = i < n ? llm_ceil_div(stops[i] - starts[i], step) : dims[i];

		if (length == 0)
			return LLM_OK;
		c.x += i < n ? starts[i] * strides[i] : 0;
		add_axis(&c, length, step * strides[i]);
	}
	return run_copy(&c, err);
}

LlmCode
llm_concat_shape(int ndim, int *dims, int axis, int k, int part_ndim, const int *part, LlmError *err)
{
	bool fits = ndim == part_ndim;

	for (int i = 0; i < ndim && fits; i++)
		fits = i == axis || dims[i] == part[i];
	if (!fits)
	{
		llm_fail(err, LLM_SHAPE, "concat: tensor %d has shape %s, the ones before it join to %s", k,
			llm_shape_text(part_ndim, part).s, llm_shape_text(ndim, dims).s);
		return llm_hint(err, "All lengths must be equal but that of the joined axis, %d.", axis);
	}
	if (__builtin_add_overflow(dims[axis], part[axis], &dims[axis]))
		return llm_fail(err, LLM_LIMIT, "concat: the joined axis would be longer than %d", INT32_MAX);
	return LLM_OK;
}

LlmCode
llm_concat_copy(int64_t outer, int64_t total, int64_t inner, int64_t at, int64_t n, const float *x,
	float *out, LlmError *err)
{
	return llm_copy_rows(outer, n * inner, x, n * inner, out + at * inner, total * inner, err);
}

LlmCode
llm_reshape_shape(int ndim, const int *dims, int out_ndim, int *out, LlmError *err)
{
	LlmShapeText wanted = llm_shape_text(out_ndim, out);
	int64_t numel = 1, rest = 1;
	int open = -1;

	for (int i = 0; i < ndim; i++)
		numel *= dims[i];
	for (int i = 0; i < out_ndim; i++)
	{
		if (out[i] < -1 || (out[i] == -1 && open >= 0))
		{
			llm_fail(err, LLM_INVALID, "reshape: %s is no shape", wanted.s);
			return llm_hint(err, "One length may be -1: it is worked out from the others.");
		}
		if (out[i] == -1)
			open = i;
		else if (__builtin_mul_overflow(rest, (int64_t) out[i], &rest))
			return llm_fail(err, LLM_LIMIT, "reshape: shape %s is too large", wanted.s);
	}
	if (open >= 0 && rest > 0 && numel % rest == 0 && numel / rest <= INT32_MAX)
	{
		out[open] = (int) (numel / rest);
		rest *= out[open];
	}
	if (rest != numel || (open >= 0 && out[open] == -1))
	{
		llm_fail(err, LLM_SHAPE, "reshape: %s with %lld elements cannot become %s",
			llm_shape_text(ndim, dims).s, (long long) numel, wanted.s);
		return llm_hint(err, "The lengths of the new shape must multiply to the number of elements.");
	}
	return LLM_OK;
}
