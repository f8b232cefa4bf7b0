/*
 * Arithmetic of SQL expressions: + - * / with broadcasting, @, and functions of each element.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/broadcast.h"
#include "engine/parallel.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

static Tensor *
Binary(LlmBinary op, const char *name, const char *sign, Datum left, Datum right)
{
	Tensor *a = DatumGetTensorShape(left), *b = DatumGetTensorShape(right), *out;
	LlmError err = {0};
	int dims[LLM_MAX_DIMS];
	int ndim;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_broadcast_shape(name, sign, a->ndim, a->dims, b->ndim, b->dims, &ndim, dims, &err), &err);
	a = DatumGetTensorRest(left, a);
	b = DatumGetTensorRest(right, b);
	out = TensorNew(ndim, dims);
	LLM_CHECK(llm_broadcast_binary(op, a->ndim, a->dims, TENSOR_DATA(a), b->ndim, b->dims, TENSOR_DATA(b),
				  TENSOR_DATA(out), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
		TapeRecord(out, name, 2, (Tensor *[]){a, b}, 0, NULL);
	return out;
}

/*
 * Each operator in three forms: between tensors, and with a number on either side, which is rounded to
 * float32 first.
 */
#define BINARY(name, op, sign)                                                                               \
	PG_FUNCTION_INFO_V1(tensor_##name);                                                                      \
	PG_FUNCTION_INFO_V1(tensor_##name##_number);                                                             \
	PG_FUNCTION_INFO_V1(number_##name##_tensor);                                                             \
	Datum tensor_##name(PG_FUNCTION_ARGS)                                                                    \
	{                                                                                                        \
		PG_RETURN_TENSOR(Binary(op, #name, sign, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)));                   \
	}                                                                                                        \
	Datum tensor_##name##_number(PG_FUNCTION_ARGS)                                                           \
	{                                                                                                        \
		Tensor *b = TensorFromNumber(PG_GETARG_FLOAT8(1));                                                   \
		PG_RETURN_TENSOR(Binary(op, #name, sign, PG_GETARG_DATUM(0), PointerGetDatum(b)));                   \
	}                                                                                                        \
	Datum number_##name##_tensor(PG_FUNCTION_ARGS)                                                           \
	{                                                                                                        \
		Tensor *a = TensorFromNumber(PG_GETARG_FLOAT8(0));                                                   \
		PG_RETURN_TENSOR(Binary(op, #name, sign, PointerGetDatum(a), PG_GETARG_DATUM(1)));                   \
	}

BINARY(add, LLM_ADD, "+")
BINARY(sub, LLM_SUB, "-")
BINARY(mul, LLM_MUL, "*")
BINARY(div, LLM_DIV, "/")

Tensor *
TensorUnary(LlmUnary f, const char *name, Tensor *x)
{
	LlmError err = {0};
	Tensor *out = TensorNew(x->ndim, x->dims);

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_unary(f, TensorNumel(x), TENSOR_DATA(x), TENSOR_DATA(out), &err), &err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
		TapeRecord(out, name, 1, &x, 0, NULL);
	return out;
}

#define UNARY(name, f)                                                                                       \
	PG_FUNCTION_INFO_V1(tensor_##name);                                                                      \
	Datum tensor_##name(PG_FUNCTION_ARGS)                                                                    \
	{                                                                                                        \
		PG_RETURN_TENSOR(TensorUnary(f, #name, PG_GETARG_TENSOR(0)));                                        \
	}

UNARY(neg, LLM_NEG)
UNARY(exp, LLM_EXP)
UNARY(log, LLM_LOG)
UNARY(tanh, LLM_TANH)
UNARY(sqrt, LLM_SQRT)
UNARY(relu, LLM_RELU)
UNARY(sin, LLM_SIN)
UNARY(cos, LLM_COS)

PG_FUNCTION_INFO_V1(tensor_matmul);

/* out (…,M,N) = a (…,M,K) @ b (…,K,N) */
Datum
tensor_matmul(PG_FUNCTION_ARGS)
{
	Tensor *a = PG_GETARG_TENSOR_SHAPE(0);
	Tensor *b = PG_GETARG_TENSOR_SHAPE(1);
	LlmError err = {0};
	int dims[LLM_MAX_DIMS];
	int ndim;
	Tensor *out;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_matmul_shape("matmul", a->ndim, a->dims, b->ndim, b->dims, &ndim, dims, &err), &err);
	a = PG_GETARG_TENSOR_REST(0, a);
	b = PG_GETARG_TENSOR_REST(1, b);
	out = TensorNew(ndim, dims);
	LLM_CHECK(llm_broadcast_matmul(a->ndim, a->dims, TENSOR_DATA(a), b->ndim, b->dims, TENSOR_DATA(b),
				  TENSOR_DATA(out), ContextAllocator(), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
		TapeRecord(out, "matmul", 2, (Tensor *[]){a, b}, 0, NULL);
	PG_RETURN_TENSOR(out);
}
