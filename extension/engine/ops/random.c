/*
 * normal, uniform, randint: random values, functions of (seed, step, micro-batch, node, element) alone. In
 * training the first three are the step's, as for dropout; otherwise the seed is llm_random_seed. With the
 * attribute seed they are the numbers that the SQL function of that seed gives, in every run.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/ops/direct.h"
#include "engine/ops/op.h"
#include "engine/pool.h"
#include "engine/sql_layers.h"

/* Whole numbers beyond are not exact in float32. */
#define EXACT (1 << 24)

int llm_random_seed = 0;

/* ---- uniform numbers ---- */

typedef struct Draw
{
	const LlmStream *stream;
	bool whole;
	double low, high;
	size_t n;
	float *out;
} Draw;

static float
draw(const Draw *d, size_t element)
{
	double x = llm_uniform(d->stream, element) * (d->high - d->low);
	float y = (float) (d->low + (d->whole ? floor(x) : x));

	return y < d->high ? y : nextafterf((float) d->high, (float) d->low); /* float32 may round up */
}

static void
draw_task(void *context, int task, int worker)
{
	const Draw *d = context;
	size_t at = (size_t) task * LLM_TASK, end = at + LLM_TASK < d->n ? at + LLM_TASK : d->n;

	(void) worker;
	for (; at < end; at++)
		d->out[at] = draw(d, at);
}

static LlmCode
run(Draw *d, LlmError *err)
{
	return llm_parallel((int) ((d->n + LLM_TASK - 1) / LLM_TASK), draw_task, d, err);
}

LlmCode
llm_uniform_fill(const LlmStream *stream, float low, float high, size_t n, float *out, LlmError *err)
{
	return run(&(Draw){stream, false, low, high, n, out}, err);
}

LlmCode
llm_randint_fill(const LlmStream *stream, int low, int high, size_t n, float *out, LlmError *err)
{
	return run(&(Draw){stream, true, low, high, n, out}, err);
}

LlmCode
llm_randint_check(const char *what, double low, double high, LlmError *err)
{
	if (low == floor(low) && high == floor(high) && low < high && low >= -EXACT && high <= EXACT)
		return LLM_OK;
	llm_fail(err, LLM_INVALID, "%s: low is %.9g and high is %.9g", what, low, high);
	return llm_hint(err,
		"They are whole numbers, low below high, at most %d in size; high itself does not occur.", EXACT);
}

/* ---- shapes ---- */

static LlmCode
infer_random(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *seed = llm_attr(node, "seed");

	if (seed && !llm_is_seed(seed))
		return llm_attr_refuse(node, "seed", "the text of a whole number from 0 up", err);
	return llm_infer_declared(graph, node, err);
}

LlmCode
llm_infer_normal(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	return infer_random(graph, node, err);
}

LlmCode
llm_infer_uniform(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	if (!((float) llm_attr_number(node, "low", 0) < (float) llm_attr_number(node, "high", 1)))
		return llm_attr_refuse(node, "high", "greater than low", err);
	return infer_random(graph, node, err);
}

LlmCode
llm_infer_randint(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	char what[100];

	snprintf(what, sizeof(what), "node \"%.80s\"", node->name);
	if (llm_attr(node, "high") == NULL)
		return llm_attr_refuse(node, "high", "a whole number, the first that does not occur", err);
	if (llm_randint_check(what, llm_attr_number(node, "low", 0), llm_attr_number(node, "high", 0), err) !=
		LLM_OK)
		return err->code;
	return infer_random(graph, node, err);
}

/* Elements are counted from the first position on. */
bool
llm_rows_random(const LlmExec *exec, const LlmNode *node, int t)
{
	return t == -1;
}

/* ---- values ---- */

static LlmStream
stream_of(const LlmExec *exec, const LlmNode *node)
{
	const LlmAttr *seed = llm_attr(node, "seed");

	if (seed) /* the SQL function of normal is randn */
		return llm_stream(strtoull(seed->text, NULL, 10),
			node->op == LLM_OP_NORMAL ? "randn" : llm_op_name(node->op), 0, 0);
	return llm_stream(exec->dropout.seed, node->name, exec->dropout.step, exec->dropout.micro_batch);
}

LlmCode
llm_forward_normal(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmStream stream = stream_of(exec, node);
	float mean = (float) llm_attr_number(node, "mean", 0);
	LlmCode code = llm_run_result(exec, index, err);
	size_t n = exec->slots[index].value.numel;
	float *out;

	if (code != LLM_OK)
		return code;
	out = llm_result_of(exec, index);
	code = llm_normal_fill(&stream, (float) llm_attr_number(node, "std", 1), n, out, err);
	if (code == LLM_OK && mean != 0)
		code = llm_binary(LLM_ADD, 1, n, out, true, true, &mean, false, false, out, err);
	return code;
}

LlmCode
llm_forward_uniform(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmStream stream = stream_of(exec, node);
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK)
		return code;
	return llm_uniform_fill(&stream, (float) llm_attr_number(node, "low", 0),
		(float) llm_attr_number(node, "high", 1), exec->slots[index].value.numel, llm_result_of(exec, index),
		err);
}

LlmCode
llm_forward_randint(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmStream stream = stream_of(exec, node);
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK)
		return code;
	return llm_randint_fill(&stream, (int) llm_attr_number(node, "low", 0),
		(int) llm_attr_number(node, "high", 1), exec->slots[index].value.numel, llm_result_of(exec, index),
		err);
}
