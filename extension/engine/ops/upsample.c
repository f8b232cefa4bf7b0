/*
 * out (…,F*H,F*W) = x (…,H,W) with every pixel repeated F times in both directions (nearest neighbour); dx
 * sums the gradients of the repetitions.
 */
#include "engine/ops/op.h"

#include "engine/image.h"
#include "engine/ops/direct.h"

LlmCode
llm_infer_upsample(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int factor;

	if (!llm_attr_whole(node, "factor", 2, &factor))
		return llm_attr_refuse(node, "factor", "a whole number from 1 up", err);
	if (x->ndim < 2)
		return llm_infer_refuse(node, x, NULL, "an image has at least a height and a width", err);
	llm_infer_copy_shape(node, x);
	for (int i = x->ndim - 2; i < x->ndim; i++)
		if (!llm_dim_multiply(graph, &x->shape[i], factor, &node->shape[i]))
			return llm_infer_refuse(node, x, NULL, "the result would be too large", err);
	return LLM_OK;
}

LlmCode
llm_scaling(
	const char *op, int ndim, const int *dims, int factor, bool up, LlmScaling *s, int *out, LlmError *err)
{
	const int *size = dims + ndim - 2;

	if (ndim < 2)
		return llm_fail(err, LLM_SHAPE, "%s: an image has at least a height and a width", op);
	if (factor < 1)
		return llm_fail(err, LLM_INVALID, "%s: the factor must be at least 1, not %d", op, factor);
	if (up ? (int64_t) size[0] * factor > INT32_MAX || (int64_t) size[1] * factor > INT32_MAX
		   : size[0] < factor || size[1] < factor)
		return llm_fail(err, LLM_SHAPE, "%s: a factor of %d does not fit an image of %d x %d", op, factor,
			size[0], size[1]);
	*s = up ? (LlmScaling){1, size[0] * factor, size[1] * factor, size[0], size[1], factor}
			: (LlmScaling){1, size[0], size[1], size[0] / factor, size[1] / factor, factor};
	for (int i = 0; i < ndim - 2; i++)
		s->planes *= out[i] = dims[i];
	out[ndim - 2] = up ? s->H : s->h;
	out[ndim - 1] = up ? s->W : s->w;
	return LLM_OK;
}

static LlmCode
scaling_of(const LlmNode *node, const LlmValue *x, LlmScaling *s, LlmError *err)
{
	int dims[LLM_MAX_DIMS];

	return llm_scaling(
		"upsample", x->ndim, x->dims, (int) llm_attr_number(node, "factor", 2), true, s, dims, err);
}

LlmCode
llm_forward_upsample(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	LlmScaling s;
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = scaling_of(&exec->model->graph.nodes[index], x, &s, err);
	return code == LLM_OK ? llm_repeat_pixels(&s, 1, x->floats, llm_result_of(exec, index), err) : code;
}

static LlmCode
upsample_dx(Back *b, float *dx, LlmError *err)
{
	LlmScaling s;
	LlmCode code = scaling_of(b->node, &b->in[0], &s, err);

	return code == LLM_OK ? llm_sum_windows(&s, 1, b->dy, dx, err) : code;
}

LlmCode
llm_backward_upsample(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, upsample_dx, err);
}
