/*
 * out (B,OC,OH,OW) = x (B,C,H,W) * weight (OC,C/groups,KH,KW) + bias (OC): convolution of images. Every
 * output reads neighbours along two axes, so no row is computed alone; the bias is added as its sums are
 * complete.
 */
#include "engine/ops/op.h"

#include "engine/convolution.h"
#include "engine/gradients.h"
#include "engine/image.h"

static const char *const expected_pad =
	"a whole number from 0 to 65536, or a list of four: above, below, left and right";

/* The attribute padding: one number for all sides, or four. */
static bool
pad_of(const LlmNode *node, int *pad)
{
	const LlmAttr *attr = llm_attr(node, "padding");
	int n = 4;

	for (int i = 0; i < 4; i++)
		pad[i] = 0;
	if (attr == NULL)
		return true;
	if (attr->kind == LLM_ATTR_LIST)
		n = llm_attr_integers(node, "padding", pad);
	else if (!llm_attr_whole(node, "padding", 0, pad))
		return false;
	else
		pad[1] = pad[2] = pad[3] = pad[0];
	for (int i = 0; i < 4; i++)
		if (n != 4 || pad[i] < 0 || pad[i] > LLM_MAX_PADDING)
			return false;
	return true;
}

static LlmCode
how_of(const LlmNode *node, LlmConvHow *how, LlmError *err)
{
	if (!llm_attr_whole(node, "stride", 1, &how->stride))
		return llm_attr_refuse(node, "stride", "a whole number from 1 up", err);
	if (!llm_attr_whole(node, "groups", 1, &how->groups))
		return llm_attr_refuse(node, "groups", "a whole number from 1 up", err);
	return pad_of(node, how->pad) ? LLM_OK : llm_attr_refuse(node, "padding", expected_pad, err);
}

/* Do the weight's channels fit the image's in these groups? */
static LlmCode
check_channels(const LlmGraph *graph, const LlmNode *node, int groups, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *w = llm_input_of(graph, node, 1);
	LlmDim within;

	if (!llm_dim_divide(graph, &x->shape[1], groups, &within) ||
		!llm_dim_divide(graph, &w->shape[0], groups, &(LlmDim){0}))
		return llm_infer_refuse(node, x, w, "the groups do not divide the channels", err);
	if (llm_dim_same(graph, &within, &w->shape[1]))
		return LLM_OK;
	llm_infer_refuse(node, x, w, "the channels differ", err);
	return llm_hint(err, "A weight is (OC,C/groups,KH,KW) for an image (B,C,H,W).");
}

LlmCode
llm_infer_conv2d(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *w = llm_input_of(graph, node, 1);
	const LlmNode *b = node->n_inputs > 2 ? llm_input_of(graph, node, 2) : NULL;
	LlmConvHow how;

	if (how_of(node, &how, err) != LLM_OK)
		return err->code;
	if (x->ndim != 4 || w->ndim != 4)
		return llm_infer_refuse(
			node, x, w, "the image must be (B,C,H,W), the weight (OC,C/groups,KH,KW)", err);
	if (check_channels(graph, node, how.groups, err) != LLM_OK)
		return err->code;
	if (b && (b->ndim != 1 || !llm_dim_same(graph, &b->shape[0], &w->shape[0])))
		return llm_infer_refuse(node, w, b, "the bias must have one element for each output channel", err);
	node->ndim = 4;
	node->shape[0] = x->shape[0];
	node->shape[1] = w->shape[0];
	for (int i = 0; i < 2; i++)
	{
		int64_t k = llm_dim_value(&w->shape[2 + i], &graph->sizes);

		if (k < 1 || k > INT32_MAX)
			return llm_infer_refuse(
				node, x, w, "the weight's height and width must be known, at least 1", err);
		if (!llm_dim_window(graph, &x->shape[2 + i], k, (int64_t) how.pad[2 * i] + how.pad[2 * i + 1],
				how.stride, &node->shape[2 + i]))
			return llm_infer_refuse(node, x, w,
				"the weight must fit into the padded image, and the result's height and width be known", err);
	}
	return LLM_OK;
}

/* The sizes of this run. */
static LlmCode
conv_of(const LlmNode *node, const LlmValue *in, LlmConv *c, LlmError *err)
{
	const int *bias = node->n_inputs > 2 ? in[2].dims : NULL;
	LlmConvHow how;

	if (how_of(node, &how, err) != LLM_OK)
		return err->code;
	return llm_conv_shape(
		in[0].ndim, in[0].dims, in[1].ndim, in[1].dims, bias ? in[2].ndim : 0, bias, &how, c, err);
}

LlmCode
llm_forward_conv2d(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmConv c;
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = conv_of(node, in, &c, err);
	if (code != LLM_OK)
		return code;
	return llm_conv(&c, in[0].floats, in[1].floats, node->n_inputs > 2 ? in[2].floats : NULL,
		llm_result_of(exec, index), exec->memory, err);
}

static LlmCode
conv2d_dx(Back *b, float *dx, LlmError *err)
{
	LlmConv c;
	LlmCode code = conv_of(b->node, b->in, &c, err);

	return code == LLM_OK ? llm_conv_dx(&c, b->in[1].floats, b->dy, dx, b->exec->memory, err) : code;
}

/* Adds to the gradient of input i, the weight or the bias. */
static LlmCode
back_parameter(Back *b, int i, const LlmConv *c, LlmError *err)
{
	Buffer *buffer;
	LlmCode code;
	float *to;

	if (i >= b->node->n_inputs || !llm_back_wants(b, i))
		return LLM_OK;
	to = llm_back_open(b, i, false, &buffer, err);
	if (to == NULL)
		return err->code;
	code = i == 1 ? llm_conv_dw(c, b->in[0].floats, b->dy, to, b->exec->memory, err)
				  : llm_conv_db(c, b->dy, to, err);
	return llm_back_close(b, i, buffer, code, err);
}

LlmCode
llm_backward_conv2d(Back *b, LlmError *err)
{
	LlmConv c;
	LlmCode code = conv_of(b->node, b->in, &c, err);

	if (code == LLM_OK)
		code = back_parameter(b, 1, &c, err);
	if (code == LLM_OK)
		code = back_parameter(b, 2, &c, err);
	return code == LLM_OK ? llm_back_write(b, 0, conv2d_dx, err) : code;
}

/* Twice the elements of the weight for each pixel. */
void
llm_cost_conv2d(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	int64_t image = (int64_t) x->numel, weights = (int64_t) read - image;

	if (node->n_inputs > 2)
		weights -= value->dims[1];
	*flops = 2 * weights * (value->dims[1] ? (int64_t) value->numel / value->dims[1] : 0);
	*bytes = (int64_t) ((read + value->numel) * sizeof(float));
}
