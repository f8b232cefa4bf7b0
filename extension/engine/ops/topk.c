/*
 * The k largest elements along the last axis, in descending order, the lowest index first among equals; a NaN
 * counts as the largest. The attribute output chooses their values, their indices, or a mask of the input's
 * shape. The gradient flows to the chosen elements of the values; indices and masks have none.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/ops/direct.h"
#include "engine/ops/op.h"
#include "engine/pool.h"
#include "engine/rows.h"

/* Indices beyond are not exact in float32. */
#define EXACT (1 << 24)

/* ---- the largest elements of rows ---- */

/* True if element a is chosen before element b. */
static bool
before(const float *x, int a, int b)
{
	bool a_nan = isnan(x[a]), b_nan = isnan(x[b]);

	if (a_nan || b_nan)
		return a_nan && (!b_nan || a < b);
	return x[a] > x[b] || (x[a] == x[b] && a < b);
}

/* Restores a heap whose root is the element that would be chosen last, after heap[at] was replaced. */
static void
sift_down(const float *x, int32_t *heap, int n, int at)
{
	int32_t moving = heap[at];

	for (int child; (child = 2 * at + 1) < n; at = child)
	{
		if (child + 1 < n && before(x, heap[child], heap[child + 1]))
			child++;
		if (!before(x, moving, heap[child]))
			break;
		heap[at] = heap[child];
	}
	heap[at] = moving;
}

typedef struct Top
{
	int n, k;
	const float *x;
	int32_t *chosen;
} Top;

/* Keeps the best k of the elements seen so far in a heap, then sorts it. */
static void
top_task(void *context, size_t row, int worker)
{
	const Top *t = context;
	const float *x = t->x + row * t->n;
	int32_t *heap = t->chosen + row * t->k;

	for (int i = 0; i < t->k; i++)
		heap[i] = i;
	for (int i = t->k / 2 - 1; i >= 0; i--)
		sift_down(x, heap, t->k, i);
	for (int i = t->k; i < t->n; i++)
	{
		if (i % LLM_POLL_ELEMENTS == 0 && llm_pool_stopping(worker))
			return;
		if (!before(x, i, heap[0]))
			continue;
		heap[0] = i;
		sift_down(x, heap, t->k, 0);
	}
	for (int left = t->k - 1; left > 0; left--)
	{
		int32_t last = heap[0];

		if (left % LLM_POLL_ELEMENTS == 0 && llm_pool_stopping(worker))
			return;
		heap[0] = heap[left];
		heap[left] = last;
		sift_down(x, heap, left, 0);
	}
}

LlmCode
llm_topk(size_t rows, int n, int k, const float *x, int32_t *chosen, LlmError *err)
{
	Top t = {n, k, x, chosen};

	return k == 0 ? LLM_OK : llm_each_row(rows, n, top_task, &t, err);
}

typedef struct Output
{
	LlmTopk kind;
	int n, k;
	const float *x;
	const int32_t *chosen;
	float *out;
} Output;

static void
output_task(void *context, size_t row, int worker)
{
	const Output *o = context;
	const float *x = o->x + row * o->n;
	const int32_t *chosen = o->chosen + row * o->k;
	float *out = o->out + row * (o->kind == LLM_TOPK_MASK ? o->n : o->k);

	if (o->kind == LLM_TOPK_MASK)
		llm_row_zero(worker, o->n, out);
	for (int i = 0; i < o->k; i++)
		if (o->kind == LLM_TOPK_MASK)
			out[chosen[i]] = 1;
		else
			out[i] = o->kind == LLM_TOPK_VALUES ? x[chosen[i]] : (float) chosen[i];
}

LlmCode
llm_topk_output(
	LlmTopk kind, size_t rows, int n, int k, const float *x, const int32_t *chosen, float *out, LlmError *err)
{
	Output o = {kind, n, k, x, chosen, out};

	return llm_each_row(rows, n, output_task, &o, err);
}

/* ---- the operation ---- */

static const char *const outputs[] = {"values", "indices", "mask"};

LlmTopk
llm_topk_kind(const char *text)
{
	int kind = 0;

	while (kind < LLM_TOPK_KINDS && strcmp(text, outputs[kind]) != 0)
		kind++;
	return (LlmTopk) kind;
}

static LlmTopk
kind_of(const LlmNode *node)
{
	const LlmAttr *output = llm_attr(node, "output");

	return output && output->text ? llm_topk_kind(output->text) : LLM_TOPK_VALUES;
}

LlmCode
llm_topk_check(const char *what, int64_t n, double k, LlmTopk kind, LlmError *err)
{
	if (k > n)
	{
		llm_fail(
			err, LLM_SHAPE, "%s: k is %.0f, but the last axis has %lld elements", what, k, (long long) n);
		return llm_hint(err, "k is at most the number of elements to choose from.");
	}
	if (kind == LLM_TOPK_INDICES && n > EXACT)
		return llm_fail(err, LLM_LIMIT, "%s: an index beyond %d is not exact in float32", what, EXACT);
	return LLM_OK;
}

LlmCode
llm_infer_topk(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	double k = llm_attr_number(node, "k", 0);
	char what[100];
	int64_t n;

	if (!(k >= 1 && k == floor(k)))
		return llm_attr_refuse(node, "k", "a whole number from 1 up", err);
	if (kind_of(node) == LLM_TOPK_KINDS)
		return llm_attr_refuse(node, "output", "\"values\", \"indices\" or \"mask\"", err);
	if (x->ndim == 0)
		return llm_infer_refuse(node, x, NULL, "a scalar has no axis", err);
	n = llm_dim_value(&x->shape[x->ndim - 1], &graph->sizes);
	snprintf(what, sizeof(what), "node \"%.80s\"", node->name);
	if (n >= 0 && llm_topk_check(what, n, k, kind_of(node), err) != LLM_OK)
		return err->code;
	llm_infer_copy_shape(node, x);
	if (kind_of(node) != LLM_TOPK_MASK)
		node->shape[node->ndim - 1] = (LlmDim){.times = (int64_t) k};
	return LLM_OK;
}

bool
llm_rows_topk(const LlmExec *exec, const LlmNode *node, int t)
{
	return t < node->ndim - 1 && llm_t_axis_of(exec, node, 0) == t;
}

/* The indices chosen from x, (rows,k), in a buffer; NULL: err says why. */
static Buffer *
choose(LlmExec *exec, const LlmNode *node, const LlmValue *x, size_t rows, int k, LlmError *err)
{
	int n = x->dims[x->ndim - 1];
	char what[100];
	Buffer *chosen;

	snprintf(what, sizeof(what), "node \"%.80s\"", node->name);
	if (llm_topk_check(what, n, k, kind_of(node), err) != LLM_OK)
		return NULL;
	chosen = llm_buffer_take(exec, rows * k, err);
	if (chosen == NULL || llm_topk(rows, n, k, x->floats, (int32_t *) chosen->data, err) == LLM_OK)
		return chosen;
	llm_buffer_drop(exec, chosen);
	return NULL;
}

LlmCode
llm_forward_topk(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int n = x->dims[x->ndim - 1], k = (int) llm_attr_number(node, "k", 1);
	size_t rows = n ? x->numel / n : 0;
	LlmCode code = llm_run_result(exec, index, err);
	Buffer *chosen;

	if (code != LLM_OK)
		return code;
	chosen = choose(exec, node, x, rows, k, err);
	if (chosen == NULL)
		return err->code;
	code = llm_topk_output(
		kind_of(node), rows, n, k, x->floats, (int32_t *) chosen->data, llm_result_of(exec, index), err);
	llm_buffer_drop(exec, chosen);
	return code;
}

/* Writes dy of the chosen elements into zeros. */
static LlmCode
topk_dx(Back *b, float *dx, LlmError *err)
{
	const LlmValue *x = &b->in[0];
	int n = x->dims[x->ndim - 1], k = b->out->dims[b->out->ndim - 1];
	size_t rows = n ? x->numel / n : 0;
	Buffer *chosen;
	LlmCode code = llm_fill(x->numel, 0, dx, err);

	if (code != LLM_OK)
		return code;
	chosen = choose(b->exec, b->node, x, rows, k, err);
	if (chosen == NULL)
		return err->code;
	for (size_t i = 0; code == LLM_OK && i < rows * k; i++)
	{
		if (i % LLM_POLL_ELEMENTS == 0)
			code = llm_poll(err);
		dx[i / k * n + ((int32_t *) chosen->data)[i]] = b->dy[i];
	}
	llm_buffer_drop(b->exec, chosen);
	return code;
}

LlmCode
llm_backward_topk(Back *b, LlmError *err)
{
	return kind_of(b->node) == LLM_TOPK_VALUES ? llm_back_write(b, 0, topk_dx, err) : LLM_OK;
}
