/*
 * out (…,T,n_head*HS) = x with each head's channels turned by the positions (T) or (…,T): see rotary.h.
 */
#include "engine/rotary.h"

#include <math.h>
#include <stdio.h>

#include "engine/ops/op.h"

/* True if the attribute, where present, is a whole number; its range is the table's (attrs.c). */
static bool
is_whole(const LlmNode *node, const char *key)
{
	double given = llm_attr_number(node, key, 0);

	return given == floor(given);
}

/* Either none of Llama 3's three numbers, or all of them with a factor. */
static LlmCode
check_scaling(const LlmNode *node, LlmError *err)
{
	static const char *const keys[] = {
		"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"};
	int given = 0;

	for (int i = 1; i < 4; i++)
		given += llm_attr(node, keys[i]) != NULL;
	if (given == 0)
		return LLM_OK;
	for (int i = 0; i < 4; i++)
		if (llm_attr(node, keys[i]) == NULL)
		{
			llm_fail(
				err, LLM_INVALID, "node \"%s\": the attribute %s of rope is missing", node->name, keys[i]);
			return llm_hint(err, "Llama 3's scaling has four numbers: factor, low_freq_factor, "
								 "high_freq_factor, original_max_position_embeddings.");
		}
	if (llm_attr_number(node, "high_freq_factor", 0) > llm_attr_number(node, "low_freq_factor", 0))
		return LLM_OK;
	return llm_attr_refuse(node, "high_freq_factor", "larger than low_freq_factor", err);
}

/* Positions are those of the axis before the last, and of as many axes before it as they have. */
static bool
positions_fit(const LlmGraph *graph, const LlmNode *x, const LlmNode *positions)
{
	if (positions->ndim < 1 || positions->ndim > x->ndim - 1)
		return false;
	for (int i = 1; i <= positions->ndim; i++)
		if (!llm_dim_same(graph, &x->shape[x->ndim - 1 - i], &positions->shape[positions->ndim - i]))
			return false;
	return true;
}

static LlmCode
check_channels(const LlmGraph *graph, const LlmNode *node, const LlmNode *x, LlmError *err)
{
	int64_t channels = llm_dim_value(&x->shape[x->ndim - 1], &graph->sizes);
	int64_t heads = (int64_t) llm_attr_number(node, "n_head", 1), size = channels / heads;
	int64_t dims = (int64_t) llm_attr_number(node, "dims", (double) size);
	char why[120];

	if (channels < 0)
		snprintf(why, sizeof(why), "the size of %s is not known", x->shape[x->ndim - 1].name);
	else if (channels % heads != 0)
		snprintf(why, sizeof(why), "%lld channels do not divide into %lld heads", (long long) channels,
			(long long) heads);
	else if (dims > size)
		snprintf(why, sizeof(why), "%lld channels cannot be turned in a head of %lld", (long long) dims,
			(long long) size);
	else if (dims % 2 != 0)
		snprintf(why, sizeof(why), "%lld channels do not make pairs", (long long) dims);
	else
		return LLM_OK;
	llm_infer_refuse(node, x, NULL, why, err);
	return llm_hint(err,
		"n_head heads lie side by side in the last dimension; dims, an even number, says how "
		"many channels of each are turned.");
}

LlmCode
llm_infer_rope(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *positions = llm_input_of(graph, node, 1);

	if (!is_whole(node, "n_head"))
		return llm_attr_refuse(node, "n_head", "a whole number of heads", err);
	if (!is_whole(node, "dims"))
		return llm_attr_refuse(node, "dims", "a whole number of channels", err);
	if (check_scaling(node, err) != LLM_OK)
		return err->code;
	if (!positions->integers)
		return llm_infer_refuse(
			node, x, positions, "positions must be whole numbers (an input node of dtype int)", err);
	if (!positions_fit(graph, x, positions))
		return llm_infer_refuse(node, x, positions, "x must be (…,T,channels), positions (T) or (…,T)", err);
	if (check_channels(graph, node, x, err) != LLM_OK)
		return err->code;
	return llm_infer_same(graph, node, err);
}

/* Each row is turned on its own; the channels are no positions. */
bool
llm_rows_rope(const LlmExec *exec, const LlmNode *node, int t)
{
	int from = llm_t_axis_of(exec, node, 1);

	if (t == node->ndim - 1 || from < -1)
		return false;
	return from == -1 || node->ndim - 1 - t == exec->model->graph.nodes[node->inputs[1]].ndim - from;
}

static LlmRotary
rotary_of(const LlmNode *node, const LlmValue *x)
{
	LlmRotary r = {.NH = (int) llm_attr_number(node, "n_head", 1)};

	r.HS = x->dims[x->ndim - 1] / r.NH;
	r.dims = (int) llm_attr_number(node, "dims", r.HS);
	r.interleaved = llm_attr_number(node, "interleaved", 0) != 0;
	r.theta = llm_attr_number(node, "theta", 10000);
	r.scaling.factor = llm_attr_number(node, "factor", 1);
	r.scaling.low_freq_factor = llm_attr_number(node, "low_freq_factor", 0);
	r.scaling.high_freq_factor = llm_attr_number(node, "high_freq_factor", 0);
	r.scaling.original_max_position_embeddings = llm_attr_number(node, "original_max_position_embeddings", 0);
	return r;
}

static LlmCode
turn(const LlmExec *exec, const LlmNode *node, const LlmValue *x, const LlmValue *positions, bool backwards,
	const float *from, float *to, LlmError *err)
{
	LlmRotary r = rotary_of(node, x);
	size_t channels = x->dims[x->ndim - 1];

	return llm_rotary(&r, channels ? x->numel / channels : 0, positions->integers, positions->numel,
		backwards, from, to, exec->memory, err);
}

LlmCode
llm_forward_rope(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	LlmCode code = llm_run_result_over(exec, index, 0, in, err);

	if (code != LLM_OK)
		return code;
	return turn(exec, &exec->model->graph.nodes[index], in, in + 1, false, in->floats,
		llm_result_of(exec, index), err);
}

static LlmCode
rope_dx(Back *b, float *dx, LlmError *err)
{
	return turn(b->exec, b->node, b->out, &b->in[1], true, b->dy, dx, err);
}

LlmCode
llm_backward_rope(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, rope_dx, err);
}
