/*
 * Quantization over the tensor type: llm_quantize rounds a model's weight matrices to formats of fewer bits.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "engine/quantized.h"
#include "src/base/errors.h"
#include "src/tensor/tensor.h"

/* The dimensions (K,N) of the matrix as a matmul uses it. */
static void
MatrixOf(const Tensor *t, bool transposed, int *K, int *N)
{
	if (t->ndim != 2)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("shape %s is not that of a matrix", TensorShape(t)),
						   errhint("Weights that a matmul reads are (in, out), or (out, in) transposed.")));
	*K = t->dims[transposed ? 1 : 0];
	*N = t->dims[transposed ? 0 : 1];
}

/* pg_llm_quantize(t, format, transposed) → tensor */
PG_FUNCTION_INFO_V1(pg_llm_quantize);
Datum
pg_llm_quantize(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR_SHAPE(0), *out;
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	LlmFormat format = llm_format_named(name);
	bool transposed = PG_GETARG_BOOL(2);
	LlmError err;
	int K, N;

	if (format == LLM_FORMAT_COUNT || format == LLM_FLOAT32)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("\"%s\" is not a format of weights", name),
				errhint("Formats are bf16 (16 bits) and int8 (8.25 bits, scales included).")));
	MatrixOf(t, transposed, &K, &N);
	t = PG_GETARG_TENSOR_REST(0, t);
	out = TensorNew(2, t->dims);
	LLM_CHECK(llm_quantize(format, K, N, transposed, TENSOR_DATA(t), TENSOR_DATA(out), &err), &err);
	PG_RETURN_TENSOR(out);
}

/* pg_llm_format(t, transposed) → text */
PG_FUNCTION_INFO_V1(pg_llm_format);
Datum
pg_llm_format(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR_SHAPE(0);
	bool transposed = PG_GETARG_BOOL(1);
	LlmFormat format;
	LlmError err;
	int K, N;

	MatrixOf(t, transposed, &K, &N);
	t = PG_GETARG_TENSOR_REST(0, t);
	LLM_CHECK(llm_format_of(K, N, transposed, TENSOR_DATA(t), &format, &err), &err);
	PG_RETURN_TEXT_P(cstring_to_text(llm_format_name(format)));
}
