/*
 * upsample: out (…,F*H,F*W) = x (…,H,W) with every pixel repeated F times in both directions (nearest
 * neighbour); dx sums the gradients of the repetitions.
 *
 * avgpool: out (…,H/F,W/F) = the means of windows of F x F pixels of x, side by side; rows and columns that
 * fill no window are left out. dx spreads each gradient evenly over its window.
 */
#include "engine/ops/op.h"

#include "engine/image.h"
#include "engine/ops/direct.h"

/* Sets out to x's shape, of which the last two dimensions are to be replaced. */
static LlmCode
start_shape(const LlmNode *x, LlmNode *node, int *factor, LlmError *err)
{
	if (!llm_attr_whole(node, "factor", 2, factor))
		return llm_attr_refuse(node, "factor", "a whole number from 1 up", err);
	if (x->ndim < 2)
		return llm_infer_refuse(node, x, NULL, "an image has at least a height and a width", err);
	llm_infer_copy_shape(node, x);
	return LLM_OK;
}

LlmCode
llm_infer_upsample(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int factor;

	if (start_shape(x, node, &factor, err) != LLM_OK)
		return err->code;
	for (int i = x->ndim - 2; i < x->ndim; i++)
		if (!llm_dim_multiply(graph, &x->shape[i], factor, &node->shape[i]))
			return llm_infer_refuse(node, x, NULL, "the result would be too large", err);
	return LLM_OK;
}

LlmCode
llm_infer_avgpool(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int factor;

	if (start_shape(x, node, &factor, err) != LLM_OK)
		return err->code;
	for (int i = x->ndim - 2; i < x->ndim; i++)
		if (!llm_dim_window(graph, &x->shape[i], factor, 0, factor, &node->shape[i]))
			return llm_infer_refuse(
				node, x, NULL, "height and width must be at least the factor, or multiples of it", err);
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

float
llm_window_share(const LlmScaling *s)
{
	return (float) (1.0 / ((double) s->factor * s->factor));
}

/* Both ways between small and large images: up repeats pixels, down sums windows, both times share. */
static LlmCode
rescale(const LlmNode *node, const LlmValue *x, bool up, const float *from, float *to, LlmError *err)
{
	bool upsamples = node->op == LLM_OP_UPSAMPLE;
	int dims[LLM_MAX_DIMS];
	LlmScaling s;
	float share;

	if (llm_scaling(llm_op_facts[node->op].name, x->ndim, x->dims, (int) llm_attr_number(node, "factor", 2),
			upsamples, &s, dims, err) != LLM_OK)
		return err->code;
	share = upsamples ? 1 : llm_window_share(&s);
	return up ? llm_repeat_pixels(&s, share, from, to, err) : llm_sum_windows(&s, share, from, to, err);
}

LlmCode
llm_forward_rescale(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK)
		return code;
	return rescale(node, x, node->op == LLM_OP_UPSAMPLE, x->floats, llm_result_of(exec, index), err);
}

static LlmCode
rescale_dx(Back *b, float *dx, LlmError *err)
{
	return rescale(b->node, &b->in[0], b->node->op != LLM_OP_UPSAMPLE, b->dy, dx, err);
}

LlmCode
llm_backward_rescale(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, rescale_dx, err);
}
