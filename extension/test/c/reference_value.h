/*
 * Values of the plain executor, with elements addressed by index.
 */
#ifndef REFERENCE_VALUE_H
#define REFERENCE_VALUE_H

#include "engine/execute.h"
#include "reference.h"

typedef struct RefValue
{
	int ndim, dims[LLM_MAX_DIMS];
	size_t numel;
	float *floats;
	const int32_t *integers;
} RefValue;

static inline RefValue
ref_value(int ndim, const int *dims)
{
	RefValue v = {.ndim = ndim, .numel = 1};

	for (int i = 0; i < ndim; i++)
		v.numel *= v.dims[i] = dims[i];
	v.floats = malloc(v.numel * sizeof(float) + 1);
	return v;
}

/* The index of the element at `place`, and the inverse. */
static inline void
ref_index(const RefValue *v, size_t place, int *index)
{
	for (int i = v->ndim - 1; i >= 0; i--)
	{
		index[i] = place % v->dims[i];
		place /= v->dims[i];
	}
}

static inline size_t
ref_place(const RefValue *v, const int *index)
{
	size_t place = 0;

	for (int i = 0; i < v->ndim; i++)
		place = place * v->dims[i] + index[i];
	return place;
}

#endif
