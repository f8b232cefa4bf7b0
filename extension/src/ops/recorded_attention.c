/*
 * pg_llm_attention with recording on: the steps of the layer one after the other, each recorded as an
 * operation of its own, so that its inner values can be inspected and differentiated. The bits are those of
 * the layer computed as a whole.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/parallel.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"

extern Datum tensor_matmul(PG_FUNCTION_ARGS);
extern Datum tensor_add(PG_FUNCTION_ARGS);

/* (x @ w) + b, recorded by the operators themselves */
static Tensor *
Linear(Tensor *x, Tensor *w, Tensor *b)
{
	Datum y = DirectFunctionCall2(tensor_matmul, PointerGetDatum(x), PointerGetDatum(w));

	return (Tensor *) DatumGetPointer(DirectFunctionCall2(tensor_add, y, PointerGetDatum(b)));
}

/* Computes the heads over qkv (…,T,3*C) into heads (…,T,C); scores and probs (B,NH,T,T). */
static void
RunHeads(const LlmAttention *a, const Tensor *qkv, Tensor *heads, float *scores, float *probs)
{
	LlmAllocator *memory = ContextAllocator();
	LlmQkv in = llm_qkv_of(a, TENSOR_DATA(qkv));
	LlmKvCache cache;
	LlmError err = {0};

	LLM_CHECK(llm_kv_create(&cache, a->B, a->NH, a->HS, a->T, memory, &err), &err);
	LLM_CHECK(llm_attention(a, &in, &cache, TENSOR_DATA(heads), scores, probs, memory, &err), &err);
	llm_kv_free(&cache, memory);
}

/* The operation attention, with its scores and probabilities as additional results. */
static Tensor *
Heads(Tensor *qkv, int ndim, const int *dims, int NH, bool causal)
{
	int T = dims[ndim - 2], HS = dims[ndim - 1] / NH;
	LlmAttention a = llm_self_attention(ndim == 3 ? dims[0] : 1, T, NH, HS, causal);
	int shown[4] = {a.B, NH, T, T};
	Tensor *heads = TensorNew(ndim, dims), *scores = TensorNewZero(4, shown),
		   *probs = TensorNewZero(4, shown);
	LlmAttr attrs[2] = {TapeAttr("n_head", NH), TapeAttrBool("causal", causal)};
	LlmTraced traced = {.value = {.ndim = ndim, .numel = TensorNumel(heads), .floats = TENSOR_DATA(heads)}};

	TapeStart();
	if (traced.value.numel > 0)
		RunHeads(&a, qkv, heads, TENSOR_DATA(scores), TENSOR_DATA(probs));
	TensorCanonicalize(heads);
	memcpy(traced.value.dims, dims, sizeof(int) * ndim);
	traced.scores = (LlmValue){
		.ndim = 4, .dims = {a.B, NH, T, T}, .numel = TensorNumel(scores), .floats = TENSOR_DATA(scores)};
	traced.probs = traced.scores;
	traced.probs.floats = TENSOR_DATA(probs);
	TapeRecordShown(heads, qkv, &traced, 2, attrs);
	return heads;
}

Tensor *
RecordedAttention(Tensor *const in[5], int NH, bool causal)
{
	Tensor *x = in[0];
	Tensor *qkv = Linear(x, in[1], in[2]);

	return Linear(Heads(qkv, x->ndim, x->dims, NH, causal), in[3], in[4]);
}
