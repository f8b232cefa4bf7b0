/*
 * out (…,H/F,W/F) = the means of windows of F x F pixels of x (…,H,W), side by side; rows and columns that
 * fill no window are left out. dx spreads each gradient evenly over its window.
 */
#include "engine/ops/op.h"

#include "engine/image.h"
#include "engine/ops/direct.h"

LlmCode
llm_infer_avgpool(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int factor;

	if (!llm_attr_whole(node, "factor", 2, &factor))
		return llm_attr_refuse(node, "factor", "a whole number from 1 up", err);
	if (x->ndim < 2)
		return llm_infer_refuse(node, x, NULL, "an image has at least a height and a width", err);
	llm_infer_copy_shape(node, x);
	for (int i = x->ndim - 2; i < x->ndim; i++)
		if (!llm_dim_window(graph, &x->shape[i], factor, 0, factor, &node->shape[i]))
			return llm_infer_refuse(
				node, x, NULL, "height and width must be at least the factor, or multiples of it", err);
	return LLM_OK;
}

static LlmCode
scaling_of(const LlmNode *node, const LlmValue *x, LlmScaling *s, LlmError *err)
{
	int dims[LLM_MAX_DIMS];

	return llm_scaling(
		"avgpool", x->ndim, x->dims, (int) llm_attr_number(node, "factor", 2), false, s, dims, err);
}

float
llm_window_share(const LlmScaling *s)
{
	return (float) (1.0 / ((double) s->factor * s->factor));
}

LlmCode
llm_forward_avgpool(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	LlmScaling s;
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = scaling_of(&exec->model->graph.nodes[index], x, &s, err);
	return code == LLM_OK
			   ? llm_sum_windows(&s, llm_window_share(&s), x->floats, llm_result_of(exec, index), err)
			   : code;
}

static LlmCode
avgpool_dx(Back *b, float *dx, LlmError *err)
{
	LlmScaling s;
	LlmCode code = scaling_of(b->node, &b->in[0], &s, err);

	return code == LLM_OK ? llm_repeat_pixels(&s, llm_window_share(&s), b->dy, dx, err) : code;
}

LlmCode
llm_backward_avgpool(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, avgpool_dx, err);
}
