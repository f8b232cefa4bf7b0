/*
 * Fusion by rule: a product whose value has a single reader (adding a bias, say), whose value again has a
 * single reader (GELU, or adding the residual stream), and so on, are computed together, each block of the
 * product while it is in the cache; the intermediate values are never written. The rule knows nodes and
 * shapes but no names, so a learner's own graph profits as well. Each fused step gives the same bits as its
 * op computed alone.
 *
 * A traced or timed run computes each node by itself, because it reports on each of them.
 */
#include "engine/ops/op.h"

#include <string.h>

/* The most fused steps of a chain; those of common models have two or three. */
#define MAX_STEPS 8

/* ---- which nodes can be fused ---- */

static bool
same_dim(const LlmDim *a, const LlmDim *b)
{
	return a->times == b->times && strcmp(a->name, b->name) == 0;
}

static bool
is_one(const LlmDim *dim)
{
	return dim->times == 1 && dim->name[0] == '\0';
}

static bool
same_shape(const LlmNode *a, const LlmNode *b)
{
	for (int i = 0; i < a->ndim && a->ndim == b->ndim; i++)
		if (!same_dim(&a->shape[i], &b->shape[i]))
			return false;
	return a->ndim == b->ndim;
}

/* True if the same elements apply to every row of a value: one for each column, or one for all. */
static bool
fits_rows(const LlmNode *other, const LlmNode *value)
{
	for (int i = 0; i < other->ndim - 1; i++)
		if (!is_one(&other->shape[i]))
			return false;
	return other->ndim == 0 || (other->ndim <= value->ndim && (is_one(&other->shape[other->ndim - 1]) ||
																  same_dim(&other->shape[other->ndim - 1],
																	  &value->shape[value->ndim - 1])));
}

/* Dropout that is the identity in this run. */
static bool
passes(const LlmExec *exec, int node)
{
	LlmStream stream;

	return llm_op_facts[exec->model->graph.nodes[node].op].fuses == LLM_FUSES_PASSING &&
		   llm_dropout_of(exec, node, "p", &stream) == 0;
}

/* Of a node with two inputs, the one that is not the product. */
static int
other_input(const LlmNode *node, int from)
{
	return node->inputs[node->inputs[0] == from ? 1 : 0];
}

/* Can `node`, the only reader of `from`, be fused with it element by element? */
static bool
follows(const LlmExec *exec, int from, int node)
{
	const LlmGraph *graph = &exec->model->graph;
	const LlmNode *n = &graph->nodes[node], *value = &graph->nodes[from], *other;
	const LlmOpFacts *facts = &llm_op_facts[n->op];
	const Slot *slot = &exec->slots[from];

	if (exec->slots[node].fused || exec->slots[node].rows != slot->rows || !same_shape(n, value))
		return false;
	if (passes(exec, node))
		return true;
	if (facts->fuses == LLM_FUSES_UNARY) /* its gradient kernel loads the input, used or not */
		return !exec->keep;
	if (exec->keep && facts->gradient >= LLM_READS_INPUTS)
		return false;
	if (facts->fuses != LLM_FUSES_BINARY)
		return false;
	other = &graph->nodes[other_input(n, from)];
	if (other->integers)
		return false;
	return same_shape(other, value) || (slot->t_axis != value->ndim - 1 && fits_rows(other, value));
}

/* Products with a packed weight use the kernel that applies fused steps. */
static bool
begins(const LlmExec *exec, int node)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const LlmWeight *w;
	const LlmValue *b;

	if (n->op != LLM_OP_MATMUL || exec->slots[node].rows == ROWS_NONE || exec->slots[node].in_chunks)
		return false;
	w = &exec->model->weights[n->inputs[1]];
	b = &exec->slots[n->inputs[1]].value;
	return w->panels && w->transposed == (llm_attr_number(n, "transpose_b", 0) != 0) && b->ndim == 2 &&
		   b->dims[w->transposed ? 1 : 0] > 0;
}

/* ---- the chains ---- */

/*
 * Extends a chain from a product as long as each value has one reader and the backward pass does not need
 * it.
 */
static void
plan_chain(LlmExec *exec, int head)
{
	int at = head;

	for (int n = 0; n < MAX_STEPS - 1; n++)
	{
		Slot *slot = &exec->slots[at];

		if (slot->readers != 1 || at == exec->target || !follows(exec, at, slot->reader) ||
			(exec->keep && llm_op_facts[exec->model->graph.nodes[at].op].gradient >= LLM_READS_BOTH))
			break;
		slot->next = slot->reader + 1;
		exec->slots[slot->reader].fused = true;
		at = slot->reader;
	}
	if (at != head || at == exec->target)
		exec->slots[at].head = head + 1;
}

void
llm_plan_chains(LlmExec *exec)
{
	const LlmGraph *graph = &exec->model->graph;

	exec->canonical = false;
	for (int i = 0; i < graph->count; i++)
	{
		exec->slots[i].head = exec->slots[i].next = 0;
		exec->slots[i].fused = false;
		for (int j = 0; j < graph->nodes[i].n_inputs && exec->slots[i].rows != ROWS_NONE; j++)
			exec->slots[graph->nodes[i].inputs[j]].reader = i;
	}
	for (int i = 0; i < graph->count && !exec->tracing && !exec->timing; i++)
		if (begins(exec, i))
			plan_chain(exec, i);
}

/* Describes what `node` does to each element of `from`; n_steps is unchanged if that is nothing. */
static LlmCode
add_step(LlmExec *exec, int from, int node, LlmStep *steps, int *n_steps, LlmError *err)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const LlmOpFacts *facts = &llm_op_facts[n->op];
	LlmStep *step = &steps[*n_steps];
	int columns = exec->slots[from].value.dims[n->ndim - 1], i;
	LlmValue other;
	LlmCode code;

	if (facts->fuses == LLM_FUSES_PASSING)
		return LLM_OK;
	++*n_steps;
	if (facts->fuses == LLM_FUSES_UNARY)
	{
		*step = (LlmStep){.kind = LLM_STEP_UNARY, .f = llm_unary_of(n)};
		return LLM_OK;
	}
	i = n->inputs[0] == from ? 1 : 0;
	code = llm_exec_input(exec, node, i, &other, err);
	if (code != LLM_OK)
		return code;
	*step =
		(LlmStep){.kind = LLM_STEP_BINARY, .op = facts->kernel, .other_first = i == 0, .other = other.floats};
	step->row_stride = same_shape(&exec->model->graph.nodes[n->inputs[i]], n) ? columns : 0;
	step->column_stride = other.ndim > 0 && other.dims[other.ndim - 1] == columns;
	return LLM_OK;
}

LlmCode
llm_run_chain(LlmExec *exec, int last, LlmError *err)
{
	int head = exec->slots[last].head - 1, n_steps = 0;
	const LlmNode *node = &exec->model->graph.nodes[head];
	const LlmWeight *w = &exec->model->weights[node->inputs[1]];
	const LlmValue *b = &exec->slots[node->inputs[1]].value;
	int K = b->dims[w->transposed ? 1 : 0], N = b->dims[w->transposed ? 0 : 1];
	LlmStep steps[MAX_STEPS];
	LlmValue a;
	LlmCode code = llm_exec_input(exec, head, 0, &a, err);

	for (int at = head; code == LLM_OK && at != last; at = exec->slots[at].next - 1)
	{
		code = llm_run_shape(exec, at, err);
		if (code == LLM_OK)
			code = add_step(exec, at, exec->slots[at].next - 1, steps, &n_steps, err);
	}
	if (code == LLM_OK)
		code = llm_run_result(exec, last, err);
	if (code != LLM_OK)
		return code;
	if (a.numel / K > INT32_MAX)
		return llm_fail(
			err, LLM_LIMIT, "node \"%s\": %zu rows are too many at once", node->name, a.numel / K);
	if (last == exec->target) /* the caller receives this value */
	{
		steps[n_steps++] = (LlmStep){.kind = LLM_STEP_CANONICALIZE};
		exec->canonical = true;
	}
	return llm_matmul_steps(w->format, (int) (a.numel / K), N, K, a.floats, K, w->panels, n_steps, steps,
		exec->slots[last].buffer->data, exec->memory, err);
}
