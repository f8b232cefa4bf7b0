/*
 * Running a plan: binds the inputs, computes the nodes in order and recycles each buffer after its last
 * reader.
 */
#include <string.h>
#include <time.h>

#include "engine/ops/op.h"

static LlmCode
bind_input(LlmExec *exec, int index, const LlmInput *inputs, int n_inputs, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmValue *value = &exec->slots[index].value;
	const LlmInput *in = NULL;
	char shape[160];

	for (int i = 0; i < n_inputs; i++)
		if (strcmp(inputs[i].name, node->name) == 0)
			in = &inputs[i];
	llm_shape_print(node->ndim, node->shape, shape, sizeof(shape));
	if (in == NULL)
		return llm_fail(
			err, LLM_MISSING, "the graph needs the input \"%s\" %s, which was not given", node->name, shape);
	if (node->integers != (in->integers != NULL))
		return llm_fail(err, LLM_INVALID, "input \"%s\" must be %s", node->name,
			node->integers ? "whole numbers" : "a tensor of floats");
	if (in->ndim != node->ndim)
		return llm_fail(
			err, LLM_SHAPE, "input \"%s\" has %d dimensions, the graph says %s", node->name, in->ndim, shape);
	*value = (LlmValue){.ndim = in->ndim, .numel = 1, .floats = in->floats, .integers = in->integers};
	for (int i = 0; i < in->ndim; i++)
	{
		const LlmDim *dim = &node->shape[i];
		int64_t known = llm_dim_value(dim, &exec->sizes);

		value->dims[i] = in->dims[i];
		value->numel *= in->dims[i];
		if (known == in->dims[i])
			continue;
		/* the first input that has a named dimension sets its size */
		if (known < 0 && dim->times > 0 && in->dims[i] % dim->times == 0 &&
			llm_sizes_set(&exec->sizes, dim->name, in->dims[i] / dim->times))
			continue;
		if (known < 0)
			return llm_fail(err, LLM_SHAPE, "input \"%s\": dimension %d is %d where the graph says %s",
				node->name, i + 1, in->dims[i], shape);
		return llm_fail(err, LLM_SHAPE, "input \"%s\": dimension %d is %d where the graph says %s, here %lld",
			node->name, i + 1, in->dims[i], shape, (long long) known);
	}
	return LLM_OK;
}

/* Inputs that the target does not read give sizes to names that nothing else does: those of random values. */
static void
size_unknown_names(LlmExec *exec, const LlmInput *inputs, int n_inputs)
{
	const LlmGraph *graph = &exec->model->graph;

	for (int i = 0; i < n_inputs; i++)
	{
		int index = llm_graph_find(graph, inputs[i].name);
		const LlmNode *node = &graph->nodes[index < 0 ? 0 : index];

		if (index < 0 || exec->slots[index].rows != ROWS_NONE || node->ndim != inputs[i].ndim)
			continue;
		for (int d = 0; d < node->ndim; d++)
		{
			const LlmDim *dim = &node->shape[d];

			if (llm_dim_value(dim, &exec->sizes) < 0 && dim->times > 0 && inputs[i].dims[d] % dim->times == 0)
				llm_sizes_set(&exec->sizes, dim->name, inputs[i].dims[d] / dim->times);
		}
	}
}

/* Rows of an input or a parameter are not computed, so all of them are present. */
static LlmCode
bind_leaves(LlmExec *exec, const LlmInput *inputs, int n_inputs, LlmError *err)
{
	const LlmGraph *graph = &exec->model->graph;

	exec->sizes = graph->sizes;
	for (int i = 0; i < graph->count; i++)
	{
		Slot *slot = &exec->slots[i];

		if (slot->rows == ROWS_NONE)
			continue;
		slot->waiting = slot->readers;
		if (graph->nodes[i].op == LLM_OP_INPUT)
		{
			LlmCode code = bind_input(exec, i, inputs, n_inputs, err);

			if (code != LLM_OK)
				return code;
			slot->rows = ROWS_ALL;
		}
		else if (graph->nodes[i].op == LLM_OP_PARAM)
		{
			const LlmWeight *w = &exec->model->weights[i];

			slot->value = (LlmValue){.ndim = graph->nodes[i].ndim, .numel = w->numel, .floats = w->plain};
			for (int j = 0; j < slot->value.ndim; j++)
				slot->value.dims[j] = (int) llm_dim_value(&graph->nodes[i].shape[j], &graph->sizes);
		}
	}
	return LLM_OK;
}

void
llm_exec_let_go(LlmExec *exec, int node)
{
	Slot *slot = &exec->slots[node];

	if (slot->buffer)
		slot->value.floats = NULL;
	llm_buffer_drop(exec, slot->buffer);
	slot->buffer = NULL;
	llm_buffer_drop(exec, slot->scores);
	llm_buffer_drop(exec, slot->probs);
	llm_buffer_drop(exec, slot->dx);
	llm_buffer_drop(exec, slot->rounded);
	slot->scores = slot->probs = slot->dx = slot->rounded = NULL;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec * 1e6 + (double) t.tv_nsec / 1e3;
}

/*
 * A node has read its inputs: frees those that no other node will read, or keeps them for the backward pass.
 * Logits in chunks read their inputs together with the loss.
 */
static LlmCode
done_reading(LlmExec *exec, const LlmNode *node, LlmError *err)
{
	LlmCode code = LLM_OK;

	for (int i = 0; code == LLM_OK && i < node->n_inputs; i++)
	{
		int input = node->inputs[i];

		if (exec->slots[input].in_chunks)
			code = done_reading(exec, &exec->model->graph.nodes[input], err);
		if (code != LLM_OK || --exec->slots[input].waiting > 0)
			continue;
		if (llm_is_held(exec, input))
			code = llm_put_away(exec, input, err);
		else
			llm_exec_let_go(exec, input);
	}
	return code;
}

/* The node, or the whole chain that ends with it, has read its inputs. */
static LlmCode
done_with(LlmExec *exec, int index, LlmError *err)
{
	int at = exec->slots[index].head ? exec->slots[index].head - 1 : index;
	LlmCode code = LLM_OK;

	for (; code == LLM_OK && at != index; at = exec->slots[at].next - 1)
		code = done_reading(exec, &exec->model->graph.nodes[at], err);
	return code == LLM_OK ? done_reading(exec, &exec->model->graph.nodes[index], err) : code;
}

/* An op with any number of inputs reads them one by one itself. */
static LlmCode
run_op(LlmExec *exec, int index, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmValue in[LLM_MAX_INPUTS] = {0};

	for (int i = 0; i < node->n_inputs && llm_op_facts[node->op].most <= LLM_MAX_INPUTS; i++)
		if (llm_exec_input(exec, index, i, &in[i], err) != LLM_OK)
			return err->code;
	return llm_op_rules[node->op].forward(exec, index, in, err);
}

static LlmCode
compute(LlmExec *exec, int index, LlmError *err)
{
	const Slot *slot = &exec->slots[index];

	if (slot->in_chunks)
		return llm_run_shape(exec, index, err);
	return slot->head ? llm_run_chain(exec, index, err) : run_op(exec, index, err);
}

LlmCode
llm_run_node(LlmExec *exec, int index, LlmError *err)
{
	double start = exec->timing ? now() : 0;
	LlmCode code = compute(exec, index, err);

	if (exec->timing)
		exec->slots[index].microseconds = now() - start;
	llm_exec_drop_scratch(exec);
	if (code == LLM_OK && !exec->slots[index].in_chunks)
		code = done_with(exec, index, err);
	return code;
}

/* Computes the nodes in order; frees each value after its last reader. */
static LlmCode
run_nodes(LlmExec *exec, LlmError *err)
{
	const LlmGraph *graph = &exec->model->graph;

	for (int i = 0; i < graph->count; i++)
	{
		int index = graph->order[i];
		const LlmNode *node = &graph->nodes[index];

		if (exec->slots[index].rows == ROWS_NONE || node->op == LLM_OP_INPUT || node->op == LLM_OP_PARAM)
			continue;
		if (exec->slots[index].next) /* computed with the last node of its chain */
			continue;
		if (llm_run_node(exec, index, err) != LLM_OK)
			return err->code;
	}
	return LLM_OK;
}

/* The caller's result: the last row if only that was wanted, with canonical NaNs. */
static LlmCode
finish(LlmExec *exec, LlmValue *result, LlmError *err)
{
	Slot *target = &exec->slots[exec->target];
	int axis = target->t_axis;

	*result = target->value;
	if (target->buffer && !exec->canonical &&
		llm_canonicalize(result->numel, target->buffer->data, err) != LLM_OK)
		return err->code;
	if (result->floats == NULL && result->integers == NULL) /* a parameter kept in packed panels only */
	{
		Buffer *plain = llm_scratch_take(exec, result->numel, err);

		if (plain == NULL || llm_weight_read(exec->model, exec->target, plain->data, err) != LLM_OK)
			return err->code;
		result->floats = plain->data;
	}
	if (exec->last_only && axis >= 0 && result->dims[axis] != 1)
		return llm_last_row(exec, axis, result, err);
	return LLM_OK;
}

LlmCode
llm_exec_run(LlmExec *exec, const LlmInput *inputs, int n_inputs, LlmValue *result, LlmError *err)
{
	LlmDim T = {1, "T"};
	LlmCode code;
	int64_t length;

	for (int i = 0; i < exec->model->graph.count; i++) /* of the previous run */
		if (exec->keep || i == exec->target)
			llm_exec_let_go(exec, i);
	llm_exec_drop_scratch(exec);
	code = bind_leaves(exec, inputs, n_inputs, err);
	length = llm_dim_value(&T, &exec->sizes);
	if (code == LLM_OK)
		size_unknown_names(exec, inputs, n_inputs);
	if (code == LLM_OK && exec->last_only && llm_dim_value(&T, &exec->sizes) == 0)
		code = llm_fail(err, LLM_SHAPE, "a sequence of no tokens has no last one");
	if (code == LLM_OK)
	{
		llm_plan_losses(exec);
		llm_plan_chains(exec);
		if (exec->keep)
		{
			llm_mark_wanted(exec);
			llm_plan_kept(exec);
		}
		code = run_nodes(exec, err);
	}
	if (code == LLM_OK)
		code = finish(exec, result, err);
	if (code == LLM_OK)
	{
		if (llm_exec_continues(exec) && length > 0)
			exec->past += (int) length;
		return LLM_OK;
	}
	for (int i = 0; i < exec->model->graph.count; i++)
		llm_exec_let_go(exec, i);
	return code;
}

void
llm_exec_release(LlmExec *exec)
{
	for (int i = 0; i < exec->model->graph.count; i++)
		llm_exec_let_go(exec, i);
	llm_exec_drop_scratch(exec);
	llm_buffers_release(exec);
}

void
llm_exec_place(LlmExec *exec, LlmPlace place, void *context)
{
	exec->place = place;
	exec->place_context = context;
}

void
llm_exec_draw(LlmExec *exec, const LlmDropout *key)
{
	exec->dropout = *key;
}

void
llm_exec_train(LlmExec *exec, const LlmDropout *dropout, float *const *grads)
{
	exec->keep = exec->training = true;
	exec->tracing = exec->timing = false;
	exec->grads = grads;
	exec->dropout = *dropout;
	exec->dtarget = 1;
	exec->keeping = (LlmKeeping){0};
	exec->past = exec->capacity = 0;
	exec->continues = false;
}

void
llm_exec_keep(LlmExec *exec, const LlmKeeping *keeping)
{
	exec->keeping = *keeping;
}

void
llm_exec_weigh(LlmExec *exec, float weight)
{
	exec->dtarget = weight;
}

LlmCode
llm_exec_reorder(LlmExec *exec, const int *rows, int B, LlmError *err)
{
	for (int i = 0; i < exec->model->graph.count; i++)
	{
		LlmKvCache *old = exec->slots[i].cache, new;
		LlmCode code;

		if (old == NULL)
			continue;
		code = llm_kv_create(&new, B, old->NH, old->HS, old->capacity, exec->memory, err);
		if (code != LLM_OK)
			return code;
		new.length = old->length;
		for (int b = 0; code == LLM_OK && b < B; b++)
			code = llm_kv_copy_row(&new, b, old, rows[b], err);
		llm_kv_free(code == LLM_OK ? old : &new, exec->memory);
		if (code != LLM_OK)
			return code;
		*old = new;
	}
	return LLM_OK;
}
