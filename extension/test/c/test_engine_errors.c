/*
 * Failures of a run: wrong inputs, no memory at every single allocation, a stop at every poll, graphs that
 * cannot continue. Nothing may leak or crash, and the next run must not be affected.
 */
#include "levels.h"

#include "engine/sample.h"
#include "graph_text.h"
#include "reference_graph.h"

#define B 2
#define T 7
#define V 37

static TestModel gpt;
static int32_t tokens[B * T], positions[T], targets[B * T];
static RefValue *want;

static int
node(const TestModel *m, const char *name)
{
	int index = llm_graph_find(&m->model.graph, name);

	CHECK(index >= 0);
	return index;
}

/* Positions from … from+n-1 of the first sequence as inputs. */
static void
piece(int from, int n, LlmInput in[3])
{
	in[0] = (LlmInput){.name = "tokens", .ndim = 2, .dims = {1, n}, .integers = tokens + from};
	in[1] = (LlmInput){.name = "positions", .ndim = 1, .dims = {n}, .integers = positions + from};
	in[2] = (LlmInput){.name = "targets", .ndim = 2, .dims = {1, n}, .integers = targets + from};
}

static void
make_gpt(void)
{
	char *text = gpt2_text(2, "n_head=2", "gelu", "");
	uint64_t state = 4;
	LlmInput in[3];
	LlmError err;
	float **weights;

	tm_parse(&gpt, text, 8, V, 30, 12);
	CHECK_OK(llm_graph_check(&gpt.model.graph, &err), err);
	weights = tm_weights(&gpt, 11, 1);
	for (int i = 0; i < B * T; i++)
	{
		tokens[i] = test_random(&state) % V;
		targets[i] = test_random(&state) % V;
		positions[i % T] = i % T;
	}
	piece(0, T, in);
	want = ref_graph(&gpt.model.graph, node(&gpt, "loss"), weights, in, 3);
	free(text);
}

/* Opens, runs a prefill of 4 and a decode of 3, up to the last row; returns the first error. */
static LlmCode
whole_run(const LlmAllocator *memory, LlmExec **exec, LlmError *err)
{
	LlmInput in[3];
	LlmValue value;
	LlmCode code = llm_exec_open(&gpt.model, node(&gpt, "logits"), true, T, memory, exec, err);

	for (int from = 0; code == LLM_OK && from < T; from += from ? 1 : 4)
	{
		piece(from, from ? 1 : 4, in);
		code = llm_exec_run(*exec, in, 2, &value, err);
	}
	if (code == LLM_OK)
		CHECK(memcmp(value.floats, want[node(&gpt, "logits")].floats + (T - 1) * V, V * sizeof(float)) == 0);
	return code;
}

static void
no_memory_anywhere(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmExec *exec = NULL;
	LlmError err;
	LlmCode code = LLM_NO_MEMORY;
	long n;

	for (n = 0; code != LLM_OK; n++)
	{
		counted.fail_after = n;
		memset(&err, 0, sizeof(err));
		code = whole_run(&memory, &exec, &err);
		CHECK(code == err.code && (code == LLM_OK || code == LLM_NO_MEMORY));
		CHECK(code == LLM_OK || strstr(err.message, "no memory") != NULL);
		llm_exec_close(exec);
		CHECK(counted.held == 0);
	}
	CHECK(n > 20);

	/* one run fails, the next run of the same plan succeeds */
	for (n = 0, code = LLM_NO_MEMORY; code != LLM_OK; n++)
	{
		LlmInput in[3];
		LlmValue value;

		counted.fail_after = -1;
		CHECK_OK(llm_exec_open(&gpt.model, node(&gpt, "loss"), false, T, &memory, &exec, &err), err);
		counted.fail_after = n;
		piece(0, T, in);
		code = llm_exec_run(exec, in, 3, &value, &err);
		counted.fail_after = -1;
		CHECK_OK(llm_exec_run(exec, in, 3, &value, &err), err);
		CHECK(value.numel == 1 && value.floats[0] == want[node(&gpt, "loss")].floats[0]);
		llm_exec_close(exec);
		CHECK(counted.held == 0);
	}
}

static void
no_memory_for_weights(void)
{
	char *text = gpt2_text(1, "n_head=2", "gelu", "");
	TestModel m;
	LlmError err;
	float *data = calloc(8 * V, sizeof(float));

	tm_parse(&m, text, 8, V, 30, 12);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	for (int i = 0; i < m.model.graph.count; i++)
		if (m.model.graph.nodes[i].op == LLM_OP_PARAM)
		{
			int n = 0;

			for (m.counted.fail_after = 0; llm_weight_load(&m.model, i, data, &m.memory, &err) != LLM_OK;
				 m.counted.fail_after = ++n)
			{
				CHECK(err.code == LLM_NO_MEMORY && strstr(err.message, m.model.graph.nodes[i].name) != NULL);
				llm_weight_free(&m.model, i, &m.memory);
			}
			CHECK(n >= 1);
		}
	tm_free(&m);
	free(text);
	free(data);
}

/* ---- stops ---- */

static int polls_left;
static bool stopped;

static bool
stop_at_poll(void)
{
	stopped |= polls_left-- == 0;
	return stopped;
}

static void
stop_at_every_poll(void)
{
	for (int threads = 1; threads <= 2; threads++)
		for (int polls = 0, done = false; !done; polls++)
		{
			TestMemory counted;
			LlmAllocator memory = test_allocator(&counted);
			LlmExec *exec;
			LlmInput in[3];
			LlmValue value;
			LlmError err = {0};
			LlmCode code;

			llm_pool_configure(threads, stop_at_poll);
			polls_left = polls;
			stopped = false;
			CHECK_OK(llm_exec_open(&gpt.model, node(&gpt, "logits"), true, T, &memory, &exec, &err), err);
			piece(0, 4, in);
			code = llm_exec_run(exec, in, 2, &value, &err);
			if (code == LLM_OK)
			{
				piece(4, 3, in);
				code = llm_exec_run(exec, in, 2, &value, &err);
			}
			CHECK(code == (stopped ? LLM_CANCELED : LLM_OK) && code == err.code);
			done = !stopped;
			/* the next run succeeds, wherever the last one was stopped */
			llm_pool_configure(threads, NULL);
			while (llm_exec_length(exec) < T)
			{
				piece(llm_exec_length(exec), llm_exec_length(exec) ? 3 : 4, in);
				CHECK_OK(llm_exec_run(exec, in, 2, &value, &err), err);
			}
			CHECK(memcmp(value.floats, want[node(&gpt, "logits")].floats + (T - 1) * V, V * sizeof(float)) ==
				  0);
			llm_exec_close(exec);
			CHECK(counted.held == 0);
		}
}

/* ---- inputs ---- */

static void
wrong_inputs(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	int32_t bad[T] = {0, 1, V, 3};
	float floats[T] = {0};
	LlmExec *exec;
	LlmInput in[3];
	LlmValue value;
	LlmError err;

	CHECK_OK(llm_exec_open(&gpt.model, node(&gpt, "loss"), false, T, &memory, &exec, &err), err);
#define REFUSED(code, text) CHECK_FAILS(llm_exec_run(exec, in, 3, &value, &err), code, text, err)
	piece(0, T, in);
	in[0].name = "token";
	REFUSED(LLM_MISSING, "needs the input \"tokens\" (B,T)");
	piece(0, T, in);
	in[0].ndim = 1;
	REFUSED(LLM_SHAPE, "\"tokens\" has 1 dimensions, the graph says (B,T)");
	piece(0, T, in);
	in[0].integers = NULL;
	in[0].floats = floats;
	REFUSED(LLM_INVALID, "\"tokens\" must be whole numbers");
	piece(0, T, in);
	in[1].dims[0] = T - 1;
	REFUSED(LLM_SHAPE, "\"positions\": dimension 1 is 6 where the graph says (T), here 7");
	piece(0, T, in);
	in[2].dims[1] = T - 1;
	REFUSED(LLM_SHAPE, "\"targets\": dimension 2 is 6");
	piece(0, T, in);
	in[0].integers = bad;
	REFUSED(LLM_RANGE, "number 37 at place 3 of \"tokens\" is outside the table's 37 rows");
	bad[2] = -1;
	REFUSED(LLM_RANGE, "number -1");
	bad[2] = INT32_MIN;
	REFUSED(LLM_RANGE, "number -2147483648");
	bad[2] = 30;
	in[0].integers = tokens;
	in[1].integers = bad;
	REFUSED(LLM_RANGE, "number 30 at place 3 of \"positions\"");
	piece(0, T, in);
	bad[2] = V;
	in[2].integers = bad;
	REFUSED(LLM_RANGE, "target 37 at place 3 is outside the vocabulary of 37");
	bad[2] = INT32_MIN; /* ignored by the loss, like every negative target */
	CHECK_OK(llm_exec_run(exec, in, 3, &value, &err), err);
	for (int i = 0; i < T; i++)
		bad[i] = -100;
	REFUSED(LLM_INVALID, "none of the 7 targets counts in the loss");
	piece(0, T, in);
	CHECK_OK(llm_exec_run(exec, in, 3, &value, &err), err);
	CHECK(value.floats[0] == want[node(&gpt, "loss")].floats[0] && !llm_exec_continues(exec));
	llm_exec_close(exec);

	/* no tokens at all, more than the cache holds, another batch size after the first run */
	CHECK_OK(llm_exec_open(&gpt.model, node(&gpt, "logits"), true, T, &memory, &exec, &err), err);
	piece(0, 0, in);
	REFUSED(LLM_SHAPE, "no tokens");
	piece(0, 5, in);
	CHECK_OK(llm_exec_run(exec, in, 2, &value, &err), err);
	piece(2, 3, in);
	REFUSED(LLM_LIMIT, "3 positions after 5 do not fit a cache of 1 sequences and 7");
	in[0].dims[0] = 2;
	in[0].dims[1] = in[1].dims[0] = 1;
	REFUSED(LLM_LIMIT, "2 sequences");
	piece(5, 2, in);
	CHECK_OK(llm_exec_run(exec, in, 2, &value, &err), err);
	CHECK(memcmp(value.floats, want[node(&gpt, "logits")].floats + (T - 1) * V, V * sizeof(float)) == 0);
	llm_exec_close(exec);
	CHECK_OK(llm_exec_open(&gpt.model, node(&gpt, "logits"), false, T, &memory, &exec, &err), err);
	piece(0, 0, in);
	CHECK_OK(llm_exec_run(exec, in, 2, &value, &err), err);
	CHECK(value.numel == 0 && value.ndim == 3 && value.dims[1] == 0);
	llm_exec_close(exec);
	CHECK(counted.held == 0);
}

/* The first input with a named dimension determines its size; 2*T determines half of it. */
static void
multiples(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	LlmInput in[2] = {{.name = "x", .ndim = 1, .dims = {6}, .floats = x},
		{.name = "y", .ndim = 1, .dims = {3}, .floats = x}};
	TestModel m;
	LlmExec *exec;
	LlmValue value;
	LlmError err;

	tm_parse(&m,
		"x input - shape=[2*T]\ny input - shape=[T]\na neg x\nb input - shape=[1]\nc add y,y\nd mul b,a\ne "
		"mul b,c\n",
		1, 1, 1, 1);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	CHECK_OK(llm_exec_open(&m.model, node(&m, "a"), false, 0, &memory, &exec, &err), err);
	CHECK(!llm_exec_continues(exec));
	CHECK_OK(llm_exec_run(exec, in, 2, &value, &err), err);
	CHECK(value.numel == 6 && value.floats[5] == -6);
	in[0].dims[0] = 7;
	CHECK_FAILS(llm_exec_run(exec, in, 2, &value, &err), LLM_SHAPE,
		"dimension 1 is 7 where the graph says (2*T)", err);
	llm_exec_close(exec);
	tm_free(&m);
}

/* ---- graphs that must start over with each sequence ---- */

static void
starts_over(const char *lines)
{
	char text[1000];
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	uint64_t state = 5;
	float *x = odd_random(&state, 3 * 60 * 6), **weights;
	TestModel m;
	LlmExec *exec;
	LlmError err;
	const LlmDim *shape;
	size_t peak = 0;

	snprintf(text, sizeof(text), "x input - shape=[B,T,C]\n%s", lines);
	tm_parse(&m, text, 6, 5, 30, 12);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	weights = tm_weights(&m, 3, 1);
	shape = m.model.graph.nodes[node(&m, "y")].shape;
	for (int last_only = 0; last_only < 2; last_only++)
	{
		CHECK_OK(llm_exec_open(&m.model, node(&m, "y"), last_only, 10, &memory, &exec, &err), err);
		CHECK(!llm_exec_continues(exec));
		for (int run = 1; run <= 60; run++) /* growing sequences, changing batch sizes */
		{
			LlmInput in = {.name = "x", .ndim = 3, .dims = {1 + run % 3, run, 6}, .floats = x};
			RefValue *values = ref_graph(&m.model.graph, node(&m, "y"), weights, &in, 1),
					 *y = &values[node(&m, "y")];
			LlmValue value;

			CHECK_OK(llm_exec_run(exec, &in, 1, &value, &err), err);
			CHECK(llm_exec_length(exec) == 0);
			if (!last_only)
				CHECK(value.numel == y->numel &&
					  memcmp(value.floats, y->floats, y->numel * sizeof(float)) == 0);
			for (int b = 0; last_only && strcmp(shape[2].name, "T") != 0 && b < y->dims[0]; b++)
			{
				int width = y->dims[2];

				CHECK(value.dims[1] == 1 && value.numel == (size_t) y->dims[0] * width);
				CHECK(memcmp(value.floats + b * width, y->floats + (b * run + run - 1) * width, 4 * width) ==
					  0);
			}
			ref_free(&m.model.graph, values);
		}
		peak = counted.peak > peak ? counted.peak : peak;
		llm_exec_close(exec);
		CHECK(counted.held == 0);
	}
	/* the memory of the longest sequence, not of all of them together */
	CHECK(peak < 6 * 3 * 60 * 60 * sizeof(float));
	tm_free(&m);
	odd_free(x);
}

/* Any NaN in the inputs: the result has the canonical NaN. */
static void
one_nan(void)
{
	static const uint32_t bits[] = {0x7f800001u, 0xffc00000u, 0x7fc12345u, 0xffffffffu};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	TestModel m;
	LlmError err;
	float x[4];
	LlmInput in = {.name = "x", .ndim = 1, .dims = {4}, .floats = x};

	memcpy(x, bits, sizeof(x));
	tm_parse(&m,
		"x input - shape=[N]\na add x,x\nb neg x\nc sub x,a\nd dropout b\ne softmax x\nf gelu x\ng sqrt b\nh "
		"relu x\n",
		1, 1, 1, 1);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	EACH_ISA(isa)
	for (int i = 1; i < m.model.graph.count; i++)
	{
		LlmExec *exec;
		LlmValue value;

		CHECK_OK(llm_exec_open(&m.model, i, false, 0, &memory, &exec, &err), err);
		CHECK_OK(llm_exec_run(exec, &in, 1, &value, &err), err);
		for (int j = 0; j < 4; j++)
			CHECK(memcmp(value.floats + j, "\0\0\xc0\x7f", 4) == 0);
		llm_exec_close(exec);
	}
	tm_free(&m);
}

int
main(void)
{
	make_gpt();
	no_memory_anywhere();
	no_memory_for_weights();
	stop_at_every_poll();
	wrong_inputs();
	multiples();
	starts_over(
		"s matmul x,x transpose_b=true\np softmax s\ny matmul p,x\n"); /* attention from ops, not causal */
	starts_over("w param - shape=[C,3*C]\nq matmul x,w\ny attention q n_head=2 causal=false\n");
	starts_over("w param - shape=[C,3*C]\nq matmul x,w\ny attention q n_head=3 causal=false window=9\n");
	starts_over("s matmul x,x transpose_b=true\ny softmax s\n");
	starts_over("s matmul x,x transpose_b=true\nt neg s\nu matmul t,s transpose_b=true\ny matmul u,x\n");
	one_nan();
	ref_free(&gpt.model.graph, want);
	tm_free(&gpt);
	return 0;
}
