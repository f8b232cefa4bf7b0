/*
 * libFuzzer: a graph that passes the checks has a backward pass, in the executor and over a tape of its
 * values, with the same bits; an edited tape is processed or refused, within its values. No memory leaks.
 */
#include "levels.h"

#include "engine/tape.h"
#include "random_graph.h"

/* Changes one detail of the tape. */
static void
edit(Bytes *b, LlmGraph *g, LlmValue *values, LlmAttr *attr)
{
	static const char *const keys[] = {"axis", "eps", "n_head", "p", "window", "transpose_b", "causal"};
	int i = (int) pick(b, g->count);
	LlmNode *node = &g->nodes[i];

	switch (pick(b, 7))
	{
		case 0:
			if (node->n_inputs > 0)
				node->inputs[pick(b, node->n_inputs)] = (int) pick(b, g->count + 2) - 1;
			break;
		case 1:
			node->n_inputs -= node->n_inputs > 0;
			break;
		case 2:
			values[i].ndim = (int) pick(b, LLM_MAX_DIMS + 1);
			break;
		case 3:
			values[i].dims[pick(b, LLM_MAX_DIMS)] = (int) pick(b, 20);
			break;
		case 4:
			node->op = (LlmOp) pick(b, LLM_OP_COUNT);
			break;
		case 5:
			*attr =
				(LlmAttr){.key = keys[pick(b, 7)], .kind = LLM_ATTR_NUMBER, .number = (int) pick(b, 9) - 2};
			node->attrs = attr;
			node->n_attrs = 1;
			break;
		default:
			g->order[pick(b, g->count)] = (int) pick(b, g->count);
	}
}

static void
walk(Bytes *b, TestModel *m, LlmExec *exec, const LlmAllocator *memory, TestMemory *counted)
{
	LlmGraph *g = &m->model.graph;
	LlmValue *values = calloc(g->count, sizeof(LlmValue));
	float **grads = calloc(g->count, sizeof(float *)), **taped = calloc(g->count, sizeof(float *));
	int loss = llm_graph_find(g, "loss");
	size_t held = counted->held;
	LlmAttr attr;
	LlmError err;

	for (int i = 0; i < g->count; i++)
	{
		LlmTraced t;

		llm_exec_traced(exec, i, &t);
		if (!t.ran) /* replaced by a leaf without elements */
			t.value = (LlmValue){.ndim = 1, .floats = (const float *) values};
		values[i] = t.value;
		taped[i] = calloc(t.value.numel + 1, sizeof(float));
		if (g->nodes[i].op == LLM_OP_PARAM)
			grads[i] = calloc(m->model.weights[i].numel + 1, sizeof(float));
		if (!t.ran && g->nodes[i].op != LLM_OP_PARAM)
			g->nodes[i].op = LLM_OP_INPUT;
		if (!t.ran)
			g->nodes[i].n_inputs = 0;
	}
	CHECK_OK(llm_exec_backward(exec, grads, &err), err);
	CHECK_OK(llm_tape_backward(g, values, loss, NULL, taped, memory, &err), err);
	for (int i = 0; i < g->count; i++)
		if (grads[i])
			CHECK(memcmp(grads[i], taped[i], values[i].numel * sizeof(float)) == 0);
	for (int edits = 1 + (int) pick(b, 3); edits > 0; edits--)
		edit(b, g, values, &attr);
	held = counted->held;
	llm_tape_backward(g, values, loss, NULL, taped, memory, &err);
	CHECK(counted->held == held);
	for (int i = 0; i < g->count; i++)
	{
		free(grads[i]);
		free(taped[i]);
	}
	free(grads);
	free(taped);
	free(values);
}

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Bytes b = {data, data + size};
	Inputs inputs = {0};
	char text[4500], *end;
	TestModel m;
	LlmError err;
	int last = -1;

	write_graph(&b, text);
	for (end = text; *end; end++)
		last += *end == '\n';
	sprintf(end, "loss sum n%d\n", last);
	tm_parse(&m, text, 6, 9, 20, 12);
	if (llm_graph_check(&m.model.graph, &err) == LLM_OK && make_inputs(&b, &m.model.graph, &inputs) &&
		is_small(&m.model.graph))
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmExec *exec;
		LlmValue value;

		m.model.training = true;
		tm_weights(&m, 3, 1);
		tm_flatten(&m);
		llm_set_isa((LlmIsa) pick(&b, LLM_ISA_COUNT));
		llm_pool_configure(1 + pick(&b, 3), NULL);
		CHECK_OK(llm_exec_open(&m.model, m.model.graph.count - 1, false, 0, &memory, &exec, &err), err);
		llm_exec_trace(exec);
		if (llm_exec_run(exec, inputs.in, inputs.n, &value, &err) == LLM_OK)
			walk(&b, &m, exec, &memory, &counted);
		llm_exec_close(exec);
		CHECK(counted.held == 0);
	}
	free_inputs(&inputs);
	tm_free(&m);
	return 0;
}
