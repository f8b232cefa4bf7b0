/*
 * See tape.h.
 */
#include "engine/tape.h"

#include <string.h>

#include "engine/plan.h"

void
llm_exec_trace(LlmExec *exec)
{
	llm_exec_train(exec, &(LlmDropout){.p = 0});
	exec->training = false;
	exec->tracing = true;
}

/* Pairs of query and key that attention looks at, per head. */
static int64_t
pairs(const LlmNode *node, int64_t T)
{
	int64_t window = (int64_t) llm_attr_number(node, "window", 0), seen = 0;

	if (window == 0 || window > T)
		window = T;
	if (llm_attr_number(node, "causal", 1) == 0) /* the window then ends at the query, what follows is seen */
		return T * T - (T - window) * (T - window + 1) / 2;
	seen = window * (window + 1) / 2;
	return seen + (T - window) * window;
}

/* Operations per element of the value, as the usual formulas count them. */
static int64_t
per_element(const LlmNode *node)
{
	switch (node->op)
	{
		case LLM_OP_EMBEDDING:
			return 0;
		case LLM_OP_GELU:
			return 10; /* a cubic, a tanh, a product */
		case LLM_OP_LAYERNORM:
			return 8; /* mean, variance, scale and shift */
		case LLM_OP_SOFTMAX:
			return 4; /* maximum, exponential, sum, quotient */
		default:
			return 1;
	}
}

void
llm_op_cost(const LlmNode *node, const LlmValue *first, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	const LlmValue *x = first ? first : value;
	int64_t T;

	if (node->op == LLM_OP_EMBEDDING) /* of the table only the rows that it gathers */
		read = x->numel + value->numel;
	*bytes = (int64_t) ((read + value->numel) * sizeof(float));
	switch (node->op)
	{
		case LLM_OP_INPUT:
		case LLM_OP_PARAM:
			*flops = *bytes = 0;
			break;
		case LLM_OP_MATMUL:
			*flops = 2 * (int64_t) value->numel * (x->ndim ? x->dims[x->ndim - 1] : 1);
			break;
		case LLM_OP_ATTENTION: /* q k^T and p v, and the softmax between them */
			T = x->ndim < 2 ? 0 : x->dims[x->ndim - 2];
			*flops = T == 0 ? 0 : pairs(node, T) * 4 * ((int64_t) value->numel / T);
			*flops += pairs(node, T) * 4 * (int64_t) llm_attr_number(node, "n_head", 1) *
					  (x->ndim > 2 ? x->dims[0] : 1);
			break;
		case LLM_OP_CROSS_ENTROPY:
			*flops = 4 * (int64_t) x->numel;
			break;
		default:
			*flops = per_element(node) * (int64_t) value->numel;
	}
}

void
llm_exec_traced(const LlmExec *exec, int node, LlmTraced *out)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const Slot *slot = &exec->slots[node];
	size_t read = 0;

	*out = (LlmTraced){.ran = slot->rows != ROWS_NONE};
	if (!out->ran)
		return;
	out->value = slot->value;
	out->microseconds = slot->microseconds;
	for (int i = 0; i < n->n_inputs; i++)
		read += exec->slots[n->inputs[i]].value.numel;
	llm_op_cost(n, n->n_inputs > 0 ? &exec->slots[n->inputs[0]].value : NULL, read, &slot->value, &out->flops,
		&out->bytes);
	if (slot->scores == NULL)
		return;
	out->scores = slot->seen;
	out->probs = slot->seen;
	out->scores.floats = slot->scores->data;
	out->probs.floats = slot->probs->data;
}

LlmCode
llm_tape_backward(const LlmGraph *graph, const LlmValue *values, int target, const LlmDropout *dropout,
	float *const *grads, const LlmAllocator *memory, LlmError *err)
{
	LlmModel model = {.graph = *graph};
	LlmExec *exec = memory->alloc(memory->context, sizeof(LlmExec));
	LlmCode code;

	if (exec == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory to walk back over %d operations", graph->count);
	*exec = (LlmExec){.model = &model, .memory = memory, .target = target, .keep = true};
	if (dropout)
	{
		exec->training = true;
		exec->dropout = *dropout;
	}
	exec->slots = memory->alloc(memory->context, graph->count * sizeof(Slot));
	if (exec->slots == NULL)
	{
		llm_exec_close(exec);
		return llm_fail(err, LLM_NO_MEMORY, "no memory to walk back over %d operations", graph->count);
	}
	memset(exec->slots, 0, graph->count * sizeof(Slot));
	for (int i = 0; i < graph->count; i++)
	{
		exec->slots[i].rows = ROWS_ALL;
		exec->slots[i].value = values[i];
	}
	code = llm_walk_back(exec, grads, err);
	llm_exec_close(exec);
	return code;
}
