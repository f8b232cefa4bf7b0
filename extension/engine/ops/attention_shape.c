/*
 * The shape rule of attention, and its attributes: see attention.c.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/ops/attention.h"

static LlmCode
check_whole(const LlmNode *node, const char *key, const char *expected, LlmError *err)
{
	double given = llm_attr_number(node, key, 1);

	return given == floor(given) ? LLM_OK : llm_attr_refuse(node, key, expected, err);
}

/* A list with one number per head, where present. */
static LlmCode
check_per_head(const LlmNode *node, const char *key, int heads, LlmError *err)
{
	const LlmAttr *list = llm_attr(node, key);
	bool fits = list == NULL || list->count == heads;

	for (int i = 0; fits && list && i < list->count; i++)
		fits = list->items[i].kind == LLM_ATTR_NUMBER && fabs(list->items[i].number) <= 1e30;
	return fits ? LLM_OK : llm_attr_refuse(node, key, "a list with one number per head", err);
}

static LlmCode
check_window(const LlmGraph *graph, const LlmNode *node, LlmError *err)
{
	int64_t context = llm_dim_value(&(LlmDim){1, "P"}, &graph->sizes);
	double window = llm_attr_number(node, "window", 0);

	if (check_whole(node, "window", "a whole number of keys, or null", err) != LLM_OK)
		return err->code;
	if (context < 0 || window <= context)
		return LLM_OK;
	llm_fail(err, LLM_INVALID,
		"node \"%s\": a window of %.0f keys is larger than the context of %lld positions", node->name, window,
		(long long) context);
	return llm_hint(err, "Without a window, or with null, a position attends to all earlier ones.");
}

static LlmCode
check_pattern(const LlmNode *node, LlmError *err)
{
	const LlmAttr *pattern = llm_attr(node, "pattern"), *stride = llm_attr(node, "stride");

	if (pattern && strcmp(pattern->text, "strided") != 0 && strcmp(pattern->text, "fixed") != 0)
		return llm_attr_refuse(node, "pattern", "\"strided\", \"fixed\" or null", err);
	if ((pattern == NULL) != (stride == NULL))
		return llm_fail(err, LLM_INVALID,
			"node \"%s\": the attributes pattern and stride of attention belong together", node->name);
	if (check_whole(node, "stride", "a whole number of keys", err) != LLM_OK)
		return err->code;
	if (check_whole(node, "summary", "a whole number of keys", err) != LLM_OK)
		return err->code;
	if (llm_attr_number(node, "summary", 1) > llm_attr_number(node, "stride", 1))
		return llm_attr_refuse(node, "summary", "a number of keys up to stride", err);
	return LLM_OK;
}

static LlmCode
check_attributes(const LlmGraph *graph, const LlmNode *node, LlmError *err)
{
	double heads = llm_attr_number(node, "n_head", 0), kv = llm_attr_number(node, "n_kv_head", heads);
	char divisor[60];
	LlmCode code;

	if (!(heads >= 1 && heads <= LLM_MAX_HEADS && heads == floor(heads)))
		return llm_attr_refuse(node, "n_head", "a whole number of heads", err);
	snprintf(divisor, sizeof(divisor), "a divisor of n_head, %.0f", heads);
	if (kv != floor(kv) || fmod(heads, kv) != 0)
		return llm_attr_refuse(node, "n_kv_head", divisor, err);
	code = check_window(graph, node, err);
	if (code == LLM_OK)
		code = check_pattern(node, err);
	if (code == LLM_OK)
		code = check_per_head(node, "head_mask", (int) heads, err);
	if (code == LLM_OK)
		code = check_per_head(node, "slopes", (int) heads, err);
	return code;
}

/* qkv (B,T,3*C) -> (B,T,C) */
static LlmCode
infer_side_by_side(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int heads = (int) llm_attr_number(node, "n_head", 0);
	LlmDim *last;
	int64_t channels;
	char why[100];

	if (llm_attr_number(node, "n_kv_head", heads) != heads)
		return llm_attr_refuse(node, "n_kv_head", "n_head unless q, k and v are separate inputs", err);
	if (x->ndim != 3 && x->ndim != 2)
		return llm_infer_refuse(node, x, NULL,
			"the input must be (B,T,3*C) or (T,3*C): queries, keys and values side by side", err);
	llm_infer_copy_shape(node, x);
	last = &node->shape[node->ndim - 1];
	channels = llm_dim_value(last, &graph->sizes);
	if (last->times % 3 == 0)
		last->times /= 3;
	else if (channels >= 0 && channels % 3 == 0)
		*last = (LlmDim){.times = channels / 3};
	else
		return llm_infer_refuse(
			node, x, NULL, "the last dimension must be three times the model's width", err);
	channels = llm_dim_value(last, &graph->sizes);
	if (channels >= 0 && channels % heads == 0)
		return LLM_OK;
	if (channels < 0)
		snprintf(why, sizeof(why), "the size of %s is not known", last->name);
	else
		snprintf(why, sizeof(why), "%lld channels do not divide into %d heads", (long long) channels, heads);
	return llm_infer_refuse(node, x, NULL, why, err);
}

/* A bias's dimension: 1, or that of q or k; the last two may also be larger numbers, a table of positions. */
static bool
bias_fits(const LlmGraph *graph, const LlmNode *bias, const LlmNode *q, const LlmNode *k, int heads)
{
	LlmDim one = {.times = 1}, head = {.times = heads};
	const LlmDim *want[4] = {
		q->ndim == 3 ? &q->shape[0] : &one, &head, &q->shape[q->ndim - 2], &k->shape[k->ndim - 2]};

	if (bias->ndim < 2 || bias->ndim > 4)
		return false;
	for (int i = 4 - bias->ndim; i < 4; i++)
	{
		const LlmDim *d = &bias->shape[i - (4 - bias->ndim)];
		bool table = i >= 2 && llm_dim_value(d, &graph->sizes) >= 0;

		if (!llm_dim_same(graph, d, want[i]) && !table && !(i < 2 && llm_dim_same(graph, d, &one)))
			return false;
	}
	return true;
}

/* k and v have as many sequences and positions as one another, and as q where they belong to it. */
static bool
keys_fit(const LlmGraph *graph, const LlmNode *q, const LlmNode *k, const LlmNode *v)
{
	if (q->ndim < 2 || q->ndim > 3 || k->ndim != q->ndim || v->ndim != q->ndim)
		return false;
	for (int i = 0; i < q->ndim; i++)
		if (!llm_dim_same(graph, &k->shape[i], &v->shape[i]))
			return false;
	return q->ndim == 2 || llm_dim_same(graph, &q->shape[0], &k->shape[0]);
}

bool
llm_attends_to_itself(const LlmGraph *graph, const LlmNode *node)
{
	const LlmNode *q = llm_input_of(graph, node, 0), *k;

	if (node->n_inputs == ATTENTION_QKV)
		return true;
	k = llm_input_of(graph, node, 1);
	return llm_dim_same(graph, &q->shape[q->ndim - 2], &k->shape[k->ndim - 2]);
}

/* Attention to another sequence has no order of positions in common with it. */
static LlmCode
check_cross(const LlmNode *node, const LlmNode *q, const LlmNode *k, LlmError *err)
{
	if (llm_attr_number(node, "causal", 1) == 0 && llm_attr(node, "window") == NULL &&
		llm_attr(node, "slopes") == NULL && llm_attr(node, "pattern") == NULL)
		return LLM_OK;
	llm_infer_refuse(node, q, k, "queries and keys have different positions", err);
	return llm_hint(
		err, "Attention to another sequence requires causal false, and no window, slopes or pattern.");
}

/* q (B,T,n_head*HS), k and v (B,S,n_kv_head*HS) -> the shape of q */
static LlmCode
infer_separate(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *q = llm_input_of(graph, node, 0), *k = llm_input_of(graph, node, 1),
				  *v = llm_input_of(graph, node, 2);
	int64_t heads = (int64_t) llm_attr_number(node, "n_head", 0), size, of_q, of_k;
	int64_t kv = (int64_t) llm_attr_number(node, "n_kv_head", (double) heads);
	char why[120];

	if (!keys_fit(graph, q, k, k))
		return llm_infer_refuse(node, q, k, "they must be (B,T,n_head*HS) and (B,S,n_kv_head*HS)", err);
	if (!keys_fit(graph, q, k, v))
		return llm_infer_refuse(node, k, v, "keys and values must have the same shape", err);
	of_q = llm_dim_value(&q->shape[q->ndim - 1], &graph->sizes);
	of_k = llm_dim_value(&k->shape[k->ndim - 1], &graph->sizes);
	size = of_q / heads;
	if (of_q < 0 || of_q % heads != 0 || of_k != size * kv)
	{
		snprintf(why, sizeof(why), "%lld heads of queries and %lld of keys must have the same size",
			(long long) heads, (long long) kv);
		return llm_infer_refuse(node, q, k, why, err);
	}
	if (!llm_attends_to_itself(graph, node) && check_cross(node, q, k, err) != LLM_OK)
		return err->code;
	if (node->n_inputs > ATTENTION_BIAS &&
		!bias_fits(graph, llm_input_of(graph, node, ATTENTION_BIAS), q, k, (int) heads))
		return llm_infer_refuse(node, q, llm_input_of(graph, node, ATTENTION_BIAS),
			"the bias must be (T,S), (n_head,T,S) or (B,n_head,T,S), where 1 stands for all of an axis", err);
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_infer_attention(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	if (node->n_inputs == 2)
		return llm_fail(err, LLM_INVALID,
			"node \"%s\": attention takes 1 input (qkv), 3 (q, k, v) or 4 (and a bias), not 2", node->name);
	if (check_attributes(graph, node, err) != LLM_OK)
		return err->code;
	return node->n_inputs == ATTENTION_QKV ? infer_side_by_side(graph, node, err)
										   : infer_separate(graph, node, err);
}
