/*
 * In training, drops each element with probability p and divides the others by 1 - p (Srivastava et al.,
 * 2014); otherwise the value is unchanged.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/ops/op.h"
#include "engine/sql_layers.h"

bool
llm_is_seed(const LlmAttr *attr)
{
	return attr->text && strspn(attr->text, "0123456789") == strlen(attr->text) &&
		   strlen(attr->text) - 1 < 20;
}

LlmCode
llm_infer_dropout(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *seed = llm_attr(node, "seed");
	double p = llm_attr_number(node, "p", 0);

	if (seed && !llm_is_seed(seed))
		return llm_attr_refuse(node, "seed", "the text of a whole number from 0 up", err);
	if (!(p >= 0 && (p < 1 || seed)))
		return llm_attr_refuse(node, "p", "a probability from 0 up to, not including, 1", err);
	return llm_infer_same(graph, node, err);
}

/* The mask of a seed counts elements from the first position on. */
bool
llm_rows_dropout(const LlmExec *exec, const LlmNode *node, int t)
{
	return llm_t_axis_of(exec, node, 0) == -1 || llm_attr(node, "seed") == NULL;
}

float
llm_dropout_of(const LlmExec *exec, int index, const char *key, LlmStream *stream)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmAttr *seed = llm_attr(node, "seed");

	if (seed) /* the mask of pg_llm_dropout with that seed, in training or not */
	{
		*stream = llm_stream(strtoull(seed->text, NULL, 10), "dropout", 0, 0);
		return (float) llm_attr_number(node, key, 0);
	}
	if (!exec->training)
		return 0;
	*stream = llm_stream(exec->dropout.seed, node->name, exec->dropout.step, exec->dropout.micro_batch);
	return (float) llm_attr_number(node, key, exec->dropout.p);
}

/* Drops elements in training only, unless the node has a seed of its own. */
LlmCode
llm_forward_dropout(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	LlmStream stream;
	float p = llm_dropout_of(exec, index, "p", &stream);
	LlmCode code;

	if (p == 0)
		return llm_forward_passing(exec, index, x, err);
	code = llm_run_result(exec, index, err);
	return code == LLM_OK
			   ? llm_dropout(&stream, p, true, x->numel, x->floats, llm_result_of(exec, index), err)
			   : code;
}

static LlmCode
dropout_dx(Back *b, float *dx, LlmError *err)
{
	LlmStream stream;
	float p = llm_dropout_of(b->exec, b->index, "p", &stream);

	return llm_dropout(&stream, p, true, b->in[0].numel, b->dy, dx, err);
}

LlmCode
llm_backward_dropout(Back *b, LlmError *err)
{
	LlmStream stream;

	return llm_dropout_of(b->exec, b->index, "p", &stream) > 0 ? llm_back_write(b, 0, dropout_dx, err)
															   : llm_back_add(b, 0, b->dy, err);
}
