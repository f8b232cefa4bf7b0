/*
 * The backward pass: visits the nodes in reverse order and applies each op's gradient rule, from the
 * gradient of its value to the gradients of its inputs.
 */
#include "engine/ops/op.h"

/*
 * Logits computed in chunks by their loss, which also made their gradient: only passes it on to the
 * product's input.
 */
static LlmCode
back_chunks(Back *b, Slot *slot, LlmError *err)
{
	Buffer *dx = slot->dx;

	slot->dx = NULL;
	return dx ? llm_back_close(b, 0, dx, LLM_OK, err) : LLM_OK;
}

static LlmCode
back_node(LlmExec *exec, float *const *grads, int place, LlmError *err)
{
	int index = exec->model->graph.order[place];
	Back b = {.exec = exec, .grads = grads, .node = &exec->model->graph.nodes[index], .index = index};
	Slot *slot = &exec->slots[index];
	LlmCode code = LLM_OK;

	if (slot->in_chunks)
		return back_chunks(&b, slot, err);
	if (slot->grad == NULL)
		return LLM_OK;
	if (grads[index]) /* all readers were visited: the gradient is complete */
		code = llm_copy(slot->value.numel, slot->grad->data, grads[index], err);
	if (code == LLM_OK)
		code = llm_bring_back(exec, place, err);
	for (int i = 0; i < b.node->n_inputs && i < LLM_MAX_INPUTS; i++)
		b.in[i] = exec->slots[b.node->inputs[i]].value;
	b.out = &slot->value;
	b.dy = slot->grad->data;
	if (code == LLM_OK)
		code = llm_op_rules[b.node->op].backward(&b, err);
	llm_buffer_drop(exec, slot->grad);
	slot->grad = NULL;
	return code;
}

LlmCode
llm_backward_pass(LlmExec *exec, float *const *grads, LlmError *err)
{
	const LlmGraph *graph = &exec->model->graph;
	Slot *target = &exec->slots[exec->target];
	LlmCode code = LLM_OK;

	if (target->value.numel != 1)
	{
		llm_fail(err, LLM_INVALID, "gradients are those of a scalar: node \"%s\" has %zu elements",
			graph->nodes[exec->target].name, target->value.numel);
		return llm_hint(err, "A loss such as cross_entropy is a scalar.");
	}
	llm_mark_wanted(exec);
	if (!target->wanted)
		return LLM_OK;
	target->grad = llm_buffer_take(exec, 1, err);
	if (target->grad == NULL)
		return err->code;
	target->grad->data[0] = exec->dtarget;
	for (int i = graph->count - 1; code == LLM_OK && i >= 0; i--)
	{
		if (exec->slots[graph->order[i]].rows == ROWS_NONE)
			continue;
		code = back_node(exec, grads, i, err);
		if (!exec->tracing) /* no rule still to come reads this value */
			llm_exec_let_go(exec, graph->order[i]);
	}
	for (int i = 0; i < graph->count; i++) /* left over after an error */
	{
		llm_buffer_drop(exec, exec->slots[i].grad);
		exec->slots[i].grad = NULL;
	}
	return code;
}

LlmCode
llm_exec_backward(LlmExec *exec, float *const *grads, LlmError *err)
{
	if (!exec->keep || exec->slots[exec->target].buffer == NULL)
		return llm_fail(err, LLM_INVALID, "node \"%s\": no run kept the values that the backward pass reads",
			exec->model->graph.nodes[exec->target].name);
	if (exec->grads && exec->grads != grads)
		return llm_fail(err, LLM_INVALID, "node \"%s\": the run was given other arrays for its gradients",
			exec->model->graph.nodes[exec->target].name);
	return llm_backward_pass(exec, grads, err);
}
