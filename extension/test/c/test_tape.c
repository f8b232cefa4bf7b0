/*
 * Traced runs and the backward pass over given values: the bits of untraced runs and of the executor's own
 * backward pass, on every instruction set and number of threads.
 */
#include "levels.h"

#include "engine/tape.h"
#include "graph_text.h"

#define B 2
#define T 7
#define V 13

static uint64_t state = 5;

typedef struct Case
{
	TestModel m;
	float **plain;
	int32_t tokens[B * T], positions[T], targets[B * T];
	LlmInput in[3];
	int loss;
} Case;

static void
open_case(Case *c, const char *attention, bool training)
{
	char *text = gpt2_text(2, attention, "gelu", "");
	LlmError err;

	tm_parse(&c->m, text, 12, V, 9, 20);
	free(text);
	CHECK_OK(llm_graph_check(&c->m.model.graph, &err), err);
	c->m.model.training = training;
	c->plain = tm_weights(&c->m, 3, 0.5f);
	if (training) /* a tape has no panels */
		tm_flatten(&c->m);
	for (int i = 0; i < B * T; i++)
	{
		c->tokens[i] = test_random(&state) % V;
		c->targets[i] = i == 3 ? -100 : (int) (test_random(&state) % V);
	}
	for (int i = 0; i < T; i++)
		c->positions[i] = i;
	c->in[0] = (LlmInput){.name = "tokens", .ndim = 2, .dims = {B, T}, .integers = c->tokens};
	c->in[1] = (LlmInput){.name = "positions", .ndim = 1, .dims = {T}, .integers = c->positions};
	c->in[2] = (LlmInput){.name = "targets", .ndim = 2, .dims = {B, T}, .integers = c->targets};
	c->loss = llm_graph_find(&c->m.model.graph, "loss");
}

static float **
new_grads(const LlmGraph *g, const LlmTraced *traced, bool params_only)
{
	float **grads = calloc(g->count, sizeof(float *));

	for (int i = 0; i < g->count; i++)
		if (g->nodes[i].op == LLM_OP_PARAM || (!params_only && g->nodes[i].op != LLM_OP_INPUT))
			grads[i] = calloc(traced[i].value.numel + 1, sizeof(float));
	return grads;
}

static void
free_grads(const LlmGraph *g, float **grads)
{
	for (int i = 0; i < g->count; i++)
		free(grads[i]);
	free(grads);
}

/* A row of probabilities sums to 1 and is the softmax of its scores; masked elements are 0. */
static void
check_attention(const LlmTraced *heads)
{
	const float *s = heads->scores.floats, *p = heads->probs.floats;

	CHECK(heads->probs.ndim == 4 && heads->probs.numel == (size_t) B * 3 * T * T);
	CHECK(heads->probs.dims[1] == 3 && heads->probs.dims[2] == T && heads->probs.dims[3] == T);
	for (size_t row = 0; row < heads->probs.numel / T; row++, s += T, p += T)
	{
		double sum = 0, all = 0;

		for (int k = 0; k < T; k++)
		{
			sum += p[k];
			all += exp(s[k]);
			CHECK((k <= (int) row % T) == isfinite(s[k]));
			CHECK(k <= (int) row % T || p[k] == 0);
		}
		CHECK(fabs(sum - 1) < 1e-6);
		for (int k = 0; k < T; k++)
			CHECK(fabs(p[k] - exp(s[k]) / all) < 1e-6);
	}
}

static void
trace_case(bool training)
{
	Case c;
	LlmGraph *g = &c.m.model.graph;
	int ran = 0;

	open_case(&c, "n_head=3 dropout=0.5", training);
	EACH_LEVEL(isa, threads)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmExec *plain, *traced;
		LlmValue a, b;
		LlmError err;
		int64_t flops = 0;

		CHECK_OK(llm_exec_open(&c.m.model, c.loss, false, 0, &memory, &plain, &err), err);
		CHECK_OK(llm_exec_run(plain, c.in, 3, &a, &err), err);
		CHECK_OK(llm_exec_open(&c.m.model, c.loss, false, 0, &memory, &traced, &err), err);
		llm_exec_trace(traced);
		for (int again = 0; again < 2; again++)
		{
			CHECK_OK(llm_exec_run(traced, c.in, 3, &b, &err), err);
			CHECK(bits_of(a.floats[0]) == bits_of(b.floats[0]));
		}
		ran = 0;
		for (int i = 0; i < g->count; i++)
		{
			LlmTraced t;

			llm_exec_traced(traced, i, &t);
			ran += t.ran;
			flops += t.flops;
			CHECK(t.ran && t.microseconds >= 0);
			CHECK((t.scores.numel > 0) == (g->nodes[i].op == LLM_OP_ATTENTION));
			if (g->nodes[i].op == LLM_OP_ATTENTION)
				check_attention(&t);
			if (strcmp(g->nodes[i].name, "h0.qkv.mm") == 0)
				CHECK(t.flops == 2 * B * T * 12 * 36 && t.bytes == 4 * (B * T * 12 + 12 * 36 + B * T * 36));
			if (strcmp(g->nodes[i].name, "h0.heads") == 0)
				CHECK(t.flops == B * (T * (T + 1) / 2) * (4 * 12 + 4 * 3));
			if (strcmp(g->nodes[i].name, "wte") == 0)
				CHECK(t.flops == 0 && t.bytes == 4 * (B * T + 2 * B * T * 12));
		}
		CHECK(ran == g->count && flops > 0);
		llm_exec_close(plain);
		llm_exec_close(traced);
		CHECK(counted.held == 0);
	}
	tm_free(&c.m);
}

/* A backward pass over the traced values gives the gradients of training, bit for bit; every node's too. */
static void
backward_case(void)
{
	Case c;
	LlmGraph *g = &c.m.model.graph;
	float **first = NULL;

	open_case(&c, "n_head=3", true);
	EACH_LEVEL(isa, threads)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmTraced *traced = calloc(g->count, sizeof(LlmTraced));
		LlmValue *values = calloc(g->count, sizeof(LlmValue)), value;
		float **want, **got;
		LlmExec *exec;
		LlmError err;

		CHECK_OK(llm_exec_open(&c.m.model, c.loss, false, 0, &memory, &exec, &err), err);
		llm_exec_trace(exec);
		CHECK_OK(llm_exec_run(exec, c.in, 3, &value, &err), err);
		for (int i = 0; i < g->count; i++)
		{
			llm_exec_traced(exec, i, &traced[i]);
			values[i] = traced[i].value;
		}
		want = new_grads(g, traced, true);
		got = new_grads(g, traced, false);
		CHECK_OK(llm_exec_backward(exec, want, &err), err);
		CHECK_OK(llm_tape_backward(g, values, c.loss, NULL, got, &memory, &err), err);
		CHECK(got[c.loss][0] == 1);
		for (int i = 0; i < g->count; i++)
		{
			size_t bytes = values[i].numel * sizeof(float);

			CHECK(want[i] == NULL || memcmp(want[i], got[i], bytes) == 0);
			CHECK(first == NULL || got[i] == NULL || memcmp(first[i], got[i], bytes) == 0);
		}
		if (first == NULL)
			first = got;
		else
			free_grads(g, got);
		free_grads(g, want);
		free(traced);
		free(values);
		llm_exec_close(exec);
		CHECK(counted.held == 0);
	}
	free_grads(g, first);
	tm_free(&c.m);
}

/* Nodes without a parameter among their inputs are skipped; a parameter read twice gets both gradients. */
static void
branches_case(void)
{
	TestModel m;
	LlmGraph *g = &m.model.graph;
	float numbers[7] = {2, 5, 10, 4, 14, 25, 350}, grad[7] = {0}, *grads[7];
	LlmValue values[7];
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	tm_parse(&m,
		"x input - shape=[1]\nw param - shape=[1]\nwx mul w,x\nxx mul x,x\nsum add wx,xx\nw2 mul w,w\n"
		"all mul sum,w2\n",
		1, 1, 1, 1);
	CHECK_OK(llm_graph_check(g, &err), err);
	for (int i = 0; i < 7; i++)
	{
		grads[i] = &grad[i];
		values[i] = (LlmValue){.ndim = 1, .dims = {1}, .numel = 1, .floats = &numbers[i]};
	}
	CHECK_OK(llm_tape_backward(g, values, 6, NULL, grads, &memory, &err), err);
	/* all = (w x + x^2) w^2: d/dw = x w^2 + (w x + x^2) 2 w = 50 + 140 */
	CHECK(grad[1] == 190 && grad[2] == 25 && grad[4] == 25 && grad[5] == 14 && grad[6] == 1);
	CHECK(grad[0] == 0 && grad[3] == 0);
	for (long after = 0, done = false; !done; after++)
	{
		LlmCode code;

		counted.fail_after = after;
		code = llm_tape_backward(g, values, 6, NULL, grads, &memory, &err);
		CHECK(counted.held == 0 && (code == LLM_OK || code == LLM_NO_MEMORY));
		done = code == LLM_OK;
	}
	tm_free(&m);
}

/*
 * Named dimensions have no sizes on a tape: the backward pass of a traced model that reshapes by them works,
 * too.
 */
static void
named_dimensions(void)
{
	float x[24] = {1, 2, 3}, *grads[6] = {0};
	LlmInput in = {.name = "x", .ndim = 3, .dims = {2, 3, 4}, .floats = x};
	LlmValue values[6], result;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmExec *exec;
	LlmError err;
	TestModel m;

	tm_parse(&m,
		"x input - shape=[B,T,C]\nw param - shape=[C]\na mul x,w\nr reshape a shape=[B,2,T,-1]\n"
		"t transpose r\ns sum t\n",
		4, 1, 1, 1);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	m.model.training = true;
	tm_weights(&m, 1, 1);
	CHECK_OK(llm_exec_open(&m.model, 5, false, 0, &memory, &exec, &err), err);
	llm_exec_trace(exec);
	CHECK_OK(llm_exec_run(exec, &in, 1, &result, &err), err);
	for (int i = 0; i < 6; i++)
	{
		LlmTraced t;

		llm_exec_traced(exec, i, &t);
		values[i] = t.value;
		grads[i] = calloc(t.value.numel, sizeof(float));
	}
	CHECK_OK(llm_tape_backward(&m.model.graph, values, 5, NULL, grads, &memory, &err), err);
	CHECK(grads[1][0] == 1 && grads[1][1] == 2 && grads[1][2] == 3 && grads[1][3] == 0 && grads[3][7] == 1);
	values[3].dims[0] = 1;
	values[3].numel = 12;
	CHECK_FAILS(llm_tape_backward(&m.model.graph, values, 5, NULL, grads, &memory, &err), LLM_SHAPE,
		"as many elements as it has, 12", err);
	for (int i = 0; i < 6; i++)
		free(grads[i]);
	llm_exec_close(exec);
	CHECK(counted.held == 0);
	tm_free(&m);
}

/* One change to a valid tape: the backward pass refuses it, with these words. */
typedef struct Edit
{
	const char *node;
	LlmCode code;
	const char *words;
	int dims[2]; /* its value's shape, if not 0 */
	int input;   /* its first input, if not 0 */
	int32_t id;  /* its first integer, if not 0 */
	bool no_value, drops_input;
	const char *attr; /* a number, 1 */
} Edit;

/* Rows of a tape can be edited by hand: whatever they contain, the backward pass stays within its values. */
static void
edited_tape(void)
{
	static const char text[] =
		"ids input - shape=[4] dtype=int\nw param - shape=[5,3]\ne embedding ids,w\n"
		"v param - shape=[3,6]\nm matmul e,v\nt input - shape=[4] dtype=int\n"
		"l cross_entropy m,t\nk input - shape=[4,6]\nmk mul m,k\ns sum mk\ny add l,s\n";
	static const Edit edits[] = {{.node = ""}, {"v", LLM_SHAPE, "inner dimensions 3 and 2 differ", {2, 6}},
		{"m", LLM_SHAPE, "its value has shape (4,7), its inputs make (4,6)", {4, 7}},
		{"k", LLM_SHAPE, "do not broadcast", {3, 6}},
		{"y", LLM_SHAPE, "its value has shape (1,1), its inputs make ()", {1, 1}},
		{"m", LLM_INVALID, "\"m\" comes before its input 1", .input = 10},
		{"m", LLM_INVALID, "comes before its input 1", .input = 4},
		{"m", LLM_INVALID, "comes before its input 1", .input = 99},
		{"m", LLM_INVALID, "comes before its input 1", .input = -1},
		{"mk", LLM_SHAPE, "mul cannot read whole numbers", .input = 5},
		{"e", LLM_SHAPE, "whole numbers", .input = 1},
		{"ids", LLM_RANGE, "5 at place 1 is outside the 5 there are", .id = 5},
		{"ids", LLM_RANGE, "-1 at place 1", .id = -1},
		{"t", LLM_RANGE, "6 at place 1 is outside the 6 there are", .id = 6},
		{"v", LLM_MISSING, "\"v\" (3,6) has no value", .no_value = true},
		{"mk", LLM_INVALID, "mul takes 2 inputs, not 1", .drops_input = true},
		{"mk", LLM_INVALID, "mul has no attribute", .attr = "axis"},
		{"s", LLM_SHAPE, "value has shape ()", .attr = "axis"}};

	for (size_t edit = 0; edit < sizeof(edits) / sizeof(*edits); edit++)
	{
		const Edit *change = &edits[edit];
		LlmAttr one = {.key = change->attr, .kind = LLM_ATTR_NUMBER, .number = 1};
		LlmValue values[11];
		float *grads[11], numbers[11][30] = {{0}};
		int32_t ids[11][4] = {{0, 1, 4, 4}, [5] = {0, -100, 5, 1}};
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		TestModel m;
		LlmError err;

		tm_parse(&m, text, 1, 1, 1, 1);
		CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
		for (int i = 0; i < 11; i++)
		{
			LlmNode *node = &m.model.graph.nodes[i];
			bool here = strcmp(node->name, change->node) == 0;
			LlmValue *value = &values[i];

			*value = (LlmValue){.ndim = node->ndim, .numel = 1};
			if (here && change->dims[0])
				value->ndim = 2;
			for (int d = 0; d < value->ndim; d++)
			{
				value->dims[d] = here && change->dims[0] ? change->dims[d] : (int) node->shape[d].times;
				value->numel *= value->dims[d];
			}
			if (node->integers)
				value->integers = ids[i];
			else if (!(here && change->no_value))
				value->floats = numbers[i];
			if (here && change->input)
				node->inputs[0] = change->input;
			if (here && change->id)
				ids[i][0] = change->id;
			if (here && change->drops_input)
				node->n_inputs--;
			if (here && change->attr)
			{
				node->attrs = &one;
				node->n_attrs = 1;
			}
			grads[i] = node->integers ? NULL : calloc(30, sizeof(float));
		}
		if (edit == 0)
			CHECK_OK(llm_tape_backward(&m.model.graph, values, 10, NULL, grads, &memory, &err), err);
		else
			CHECK_FAILS(llm_tape_backward(&m.model.graph, values, 10, NULL, grads, &memory, &err),
				change->code, change->words, err);
		CHECK_FAILS(llm_tape_backward(&m.model.graph, values, 8, NULL, grads, &memory, &err),
			edit == 0 ? LLM_INVALID : change->code, edit == 0 ? "those of a scalar" : "", err);
		CHECK(counted.held == 0);
		for (int i = 0; i < 11; i++)
			free(grads[i]);
		tm_free(&m);
	}
}

int
main(void)
{
	trace_case(false);
	trace_case(true);
	backward_case();
	branches_case();
	named_dimensions();
	edited_tape();
	return 0;
}
