/*
 * out (B,C,…) = (x - mean) / sqrt(var + eps) * gamma + beta, with mean and variance over the channels of a
 * group and all their pixels (Wu & He, 2018). The elements of a group are side by side, so its statistics are
 * those of a row of layernorm; gamma and beta are one number for a channel's pixels.
 */
#include "engine/ops/op.h"

#include <math.h>

#include "engine/broadcast.h"
#include "engine/image.h"
#include "engine/ops/direct.h"
#include "engine/partition.h"
#include "engine/pool.h"
#include "engine/rows.h"

static LlmCode
refuse_groups(int groups, int channels, LlmError *err)
{
	return llm_fail(err, LLM_SHAPE, "groupnorm: %d groups do not divide %d channels", groups, channels);
}

LlmCode
llm_infer_groupnorm(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int groups;

	if (!llm_attr_whole(node, "groups", 1, &groups))
		return llm_attr_refuse(node, "groups", "a whole number from 1 up", err);
	if (x->ndim < 2)
		return llm_infer_refuse(node, x, NULL, "the input must be (B,C,...)", err);
	for (int i = 1; i < 3; i++)
	{
		const LlmNode *w = llm_input_of(graph, node, i);

		if (w->ndim != 1 || !llm_dim_same(graph, &x->shape[1], &w->shape[0]))
			return llm_infer_refuse(node, x, w, "gamma and beta must have one element for each channel", err);
	}
	if (!llm_dim_divide(graph, &x->shape[1], groups, &(LlmDim){0}))
		return llm_infer_refuse(node, x, NULL, "the groups do not divide the channels", err);
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_groupnorm_shape(int ndim, const int *x, int g_ndim, const int *gamma, int b_ndim, const int *beta,
	int groups, LlmError *err)
{
	if (ndim < 2)
		return llm_fail(
			err, LLM_SHAPE, "groupnorm: x has shape %s, (B,C,...) is required", llm_shape_text(ndim, x).s);
	if (groups < 1 || x[1] % groups != 0)
		return refuse_groups(groups, x[1], err);
	if (g_ndim == 1 && gamma[0] == x[1] && b_ndim == 1 && beta[0] == x[1])
		return LLM_OK;
	return llm_fail(err, LLM_SHAPE,
		"groupnorm: gamma has shape %s and beta %s, the channels of x %s require (%d)",
		llm_shape_text(g_ndim, gamma).s, llm_shape_text(b_ndim, beta).s, llm_shape_text(ndim, x).s, x[1]);
}

/* ---- groups ---- */

typedef struct Norm
{
	int groups, within; /* of an image; channels of a group */
	size_t pixels;      /* of a channel */
	const float *x, *gamma, *beta, *dy;
	float eps;
	float *out, *dx;
	double *sums; /* (B,C,2): each channel's sum of dy, and of dy times the normalised x */
} Norm;

/* Pieces of a channel's pixels, whole chunks, with a poll for a stop between them. */
#define EACH_PIECE(w, worker)                                                                                \
	size_t at = 0, n = llm_min((w)->pixels, LLM_CHUNK);                                                      \
	at < (w)->pixels && !llm_pool_stopping(worker);                                                          \
	at += n, n = llm_min((w)->pixels - at, LLM_CHUNK)

/* Mean and 1 / sqrt(var + eps) of a group. */
static void
statistics(const Norm *w, int worker, const float *x, float *mean, float *r)
{
	size_t n = w->within * w->pixels;

	*mean = (float) (llm_row_sum(worker, n, x) / n);
	*r = 1.0f / sqrtf((float) (llm_row_sum_squares(worker, n, x, *mean) / n) + w->eps);
}

static void
forward_task(void *context, size_t group, int worker)
{
	const Norm *w = context;
	size_t at_group = group * w->within * w->pixels;
	const float *x = w->x + at_group;
	float *out = w->out + at_group, mean, r;

	statistics(w, worker, x, &mean, &r);
	for (int c = 0; c < w->within; c++, x += w->pixels, out += w->pixels)
	{
		size_t channel = group % w->groups * w->within + c;
		float scale = r * w->gamma[channel];

		for (EACH_PIECE(w, worker))
		{
			llm_kernels->binary(LLM_SUB, n, x + at, 1, &mean, 0, out + at);
			llm_kernels->binary(LLM_MUL, n, out + at, 1, &scale, 0, out + at);
			llm_kernels->binary(LLM_ADD, n, out + at, 1, w->beta + channel, 0, out + at);
		}
	}
}

static size_t
pixels_of(int ndim, const int *dims)
{
	size_t pixels = 1;

	for (int i = 2; i < ndim; i++)
		pixels *= dims[i];
	return pixels;
}

LlmCode
llm_groupnorm(int ndim, const int *dims, int groups, const float *x, const float *gamma, const float *beta,
	float eps, float *out, LlmError *err)
{
	Norm w = {.groups = groups,
		.within = dims[1] / groups,
		.pixels = pixels_of(ndim, dims),
		.x = x,
		.gamma = gamma,
		.beta = beta,
		.eps = eps,
		.out = out};

	if (w.within == 0 || w.pixels == 0)
		return LLM_OK;
	return llm_each_row((size_t) dims[0] * groups, w.within * w.pixels, forward_task, &w, err);
}

/* ---- gradients ---- */

static void
fill(size_t n, float value, float *to)
{
	for (size_t i = 0; i < n; i++)
		to[i] = value;
}

/*
 * The layernorm kernels with one gamma for all pixels of a channel. With m = (x - mean) r and d = dy gamma:
 * dx = (d - mean(d) - m mean(d m)) r
 */
static void
backward_task(void *context, size_t group, int worker)
{
	const Norm *w = context;
	size_t at_group = group * w->within * w->pixels, chunk = llm_min(w->pixels, LLM_CHUNK);
	const float *x = w->x + at_group, *dy = w->dy + at_group;
	const float *gamma = w->gamma + group % w->groups * w->within;
	double *sums = w->sums + 2 * group * w->within, total[2] = {0, 0}, all = (double) w->within * w->pixels;
	float *dx = w->dx + at_group, factor[LLM_CHUNK], mean, r;

	statistics(w, worker, x, &mean, &r);
	fill(chunk, 1, factor);
	for (int c = 0; c < w->within; c++)
	{
		for (EACH_PIECE(w, worker))
			llm_kernels->layernorm_sums(
				n, mean, r, x + c * w->pixels + at, factor, dy + c * w->pixels + at, sums + 2 * c);
		total[0] += sums[2 * c] * gamma[c];
		total[1] += sums[2 * c + 1] * gamma[c];
	}
	for (int c = 0; c < w->within; c++, x += w->pixels, dy += w->pixels, dx += w->pixels)
	{
		fill(chunk, gamma[c], factor);
		for (EACH_PIECE(w, worker))
			llm_kernels->layernorm_dx(n, mean, r, (float) (total[0] / all), (float) (total[1] / all), x + at,
				factor, dy + at, dx + at);
	}
}

/* dgamma and dbeta (C) += the channel's sums over the images, in order, in float64. */
static void
add_parameters(int B, int C, const double *sums, float *dgamma, float *dbeta)
{
	for (int c = 0; c < C; c++)
	{
		double gamma = 0, beta = 0;

		for (int b = 0; b < B; b++)
		{
			beta += sums[2 * ((size_t) b * C + c)];
			gamma += sums[2 * ((size_t) b * C + c) + 1];
		}
		dgamma[c] += (float) gamma;
		dbeta[c] += (float) beta;
	}
}

LlmCode
llm_groupnorm_backward(int ndim, const int *dims, int groups, const float *x, const float *gamma, float eps,
	const float *dy, float *dx, float *dgamma, float *dbeta, const LlmAllocator *memory, LlmError *err)
{
	int B = dims[0], C = dims[1];
	Norm w = {.groups = groups,
		.within = C / groups,
		.pixels = pixels_of(ndim, dims),
		.x = x,
		.gamma = gamma,
		.eps = eps,
		.dy = dy,
		.dx = dx};
	size_t n = 2 * (size_t) B * C;
	LlmCode code;

	if (n == 0 || w.pixels == 0)
		return LLM_OK;
	w.sums = memory->alloc(memory->context, n * sizeof(double));
	if (w.sums == NULL)
		return llm_fail(
			err, LLM_NO_MEMORY, "groupnorm: no memory for the sums of %d channels of %d images", C, B);
	for (size_t i = 0; i < n; i++)
		w.sums[i] = 0;
	code = llm_each_row((size_t) B * groups, w.within * w.pixels, backward_task, &w, err);
	if (code == LLM_OK)
		add_parameters(B, C, w.sums, dgamma, dbeta);
	memory->release(memory->context, w.sums, n * sizeof(double));
	return code;
}

/* ---- a node ---- */

static float
eps_of(const LlmNode *node)
{
	return (float) llm_attr_number(node, "eps", 1e-5);
}

/* The groups, which must divide the channels of this run. */
static LlmCode
groups_of(const LlmNode *node, const LlmValue *x, int *groups, LlmError *err)
{
	*groups = (int) llm_attr_number(node, "groups", 1);
	return x->dims[1] % *groups == 0 ? LLM_OK : refuse_groups(*groups, x->dims[1], err);
}

LlmCode
llm_forward_groupnorm(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int groups;
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = groups_of(node, &in[0], &groups, err);
	return code == LLM_OK ? llm_groupnorm(in[0].ndim, in[0].dims, groups, in[0].floats, in[1].floats,
								in[2].floats, eps_of(node), llm_result_of(exec, index), err)
						  : code;
}

LlmCode
llm_backward_groupnorm(Back *b, LlmError *err)
{
	Buffer *buffers[3];
	float *to[3];
	int groups;
	LlmCode code = llm_back_open_all(b, 3, to, buffers, err);

	if (code == LLM_OK)
		code = groups_of(b->node, &b->in[0], &groups, err);
	if (code == LLM_OK)
		code = llm_groupnorm_backward(b->in[0].ndim, b->in[0].dims, groups, b->in[0].floats, b->in[1].floats,
			eps_of(b->node), b->dy, to[0], to[1], to[2], b->exec->memory, err);
	return llm_back_close_all(b, 3, buffers, code, err);
}
