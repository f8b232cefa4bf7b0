/*
 * Compatible shapes: NumPy's broadcasting, matmul's rule, axes. The plan-time checks, the executor and the
 * SQL operators all use these functions, so that they refuse the same shapes with the same messages.
 */
#ifndef LLM_BROADCAST_H
#define LLM_BROADCAST_H

#include "common/base.h"
#include "kernels/kernels.h"

typedef struct LlmShapeText
{
	char s[LLM_MAX_DIMS * 12 + 4];
} LlmShapeText;

/* "(2,3)", to be used as llm_shape_text(…).s within one expression. */
extern LlmShapeText llm_shape_text(int ndim, const int *dims);

/*
 * out = shape of a op b: aligned at the last axis, each pair of lengths equal or one of them 1. op and sign
 * name the operation in the error: add: (4,3) + (2,3): …
 */
extern LlmCode llm_broadcast_shape(const char *op, const char *sign, int a_ndim, const int *a, int b_ndim,
	const int *b, int *out_ndim, int *out, LlmError *err);
/*
 * out = shape of a @ b: (…,M,K) @ (…,K,N) = (…,M,N), the leading axes broadcast. A 1-D a is a row, a 1-D b a
 * column; the result lacks that axis.
 */
extern LlmCode llm_matmul_shape(const char *op, int a_ndim, const int *a, int b_ndim, const int *b,
	int *out_ndim, int *out, LlmError *err);
/* Converts axis, counted from 0 or, if negative, from the end, to 0 … ndim - 1. */
extern LlmCode llm_axis(const char *op, int ndim, const int *dims, int axis, int *out, LlmError *err);

/* out = a op b, broadcast; out has the shape from llm_broadcast_shape. */
extern LlmCode llm_broadcast_binary(LlmBinary op, int a_ndim, const int *a_dims, const float *a, int b_ndim,
	const int *b_dims, const float *b, float *out, LlmError *err);
/* A value of a selection. */
typedef struct LlmOperand
{
	int ndim;
	const int *dims;
	const float *data;
} LlmOperand;

/* dims = the shape of in[0] ? in[1] : in[2], broadcast. */
extern LlmCode llm_select_shape(const LlmOperand in[3], int *ndim, int *dims, LlmError *err);
/* out = in[1] where in[0] is not 0, else in[2]; out has that shape. */
extern LlmCode llm_broadcast_select(const LlmOperand in[3], float *out, LlmError *err);
/* out = a @ b, shapes as llm_matmul_shape accepts them. */
extern LlmCode llm_broadcast_matmul(int a_ndim, const int *a_dims, const float *a, int b_ndim,
	const int *b_dims, const float *b, float *out, const LlmAllocator *memory, LlmError *err);
/* The same where b is (…,N,K) when transpose_b. */
extern LlmCode llm_batched_matmul(int a_ndim, const int *a_dims, const float *a, int b_ndim,
	const int *b_dims, const float *b, bool transpose_b, float *out, const LlmAllocator *memory,
	LlmError *err);

#endif
