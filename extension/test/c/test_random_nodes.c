/*
 * Random nodes of a graph: their values depend on seed, step, micro-batch and name alone, on every
 * instruction set and number of threads; a seed of their own makes them the same in every run.
 */
#include "levels.h"

#include "engine/execute.h"
#include "engine/ops/direct.h"
#include "graph_text.h"

#define N 20003

static float first[N], again[N];

/* Values of the node named a; dropout NULL: not in training. */
static void
run(const char *text, const LlmDropout *dropout, float *out)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	TestModel m;
	LlmExec *exec;
	LlmValue value;
	LlmError err;

	tm_parse(&m, text, 6, 9, 20, 12);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	CHECK_OK(
		llm_exec_open(&m.model, llm_graph_find(&m.model.graph, "a"), false, 0, &memory, &exec, &err), err);
	if (dropout)
		llm_exec_train(exec, dropout, NULL);
	CHECK_OK(llm_exec_run(exec, NULL, 0, &value, &err), err);
	CHECK(value.numel == N);
	memcpy(out, value.floats, sizeof(first));
	llm_exec_close(exec);
	CHECK(counted.held == 0);
	tm_free(&m);
}

static bool
same(void)
{
	return memcmp(first, again, sizeof(first)) == 0;
}

static void
keys(const char *lines, const char *seeded, const char *renamed)
{
	static const LlmDropout others[] = {{.seed = 6, .step = 3, .micro_batch = 1},
		{.seed = 5, .step = 4, .micro_batch = 1}, {.seed = 5, .step = 3}};
	LlmDropout key = {.seed = 5, .step = 3, .micro_batch = 1};

	run(lines, &key, first);
	EACH_LEVEL(isa, threads)
	{
		run(lines, &key, again);
		CHECK(same());
	}
	for (int i = 0; i < 3; i++)
	{
		run(lines, &others[i], again);
		CHECK(!same());
	}
	run(renamed, &key, again);
	CHECK(!same());
	llm_random_seed = 5; /* outside of training: step and micro-batch 0 */
	run(lines, &(LlmDropout){.seed = 5}, first);
	run(lines, NULL, again);
	CHECK(same());
	llm_random_seed = 0;
	run(lines, NULL, again);
	CHECK(!same());
	run(seeded, &key, first);
	run(seeded, NULL, again);
	CHECK(same());
}

/* T is that of an input that nothing reads: without tokens there is no last row. */
static void
no_last_row(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmInput tokens = {.name = "tokens", .ndim = 2, .dims = {2, 0}, .integers = (const int32_t[]){0}};
	TestModel m;
	LlmExec *exec;
	LlmValue value;
	LlmError err;

	tm_parse(&m, "tokens input - shape=[B,T] dtype='int\na normal - shape=[B,T,3]\n", 6, 9, 20, 12);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	CHECK_OK(llm_exec_open(&m.model, 1, true, 0, &memory, &exec, &err), err);
	CHECK(llm_exec_run(exec, &tokens, 1, &value, &err) == LLM_SHAPE);
	tokens.dims[1] = 1;
	CHECK_OK(llm_exec_run(exec, &tokens, 1, &value, &err), err);
	CHECK(value.numel == 6);
	llm_exec_close(exec);
	CHECK(counted.held == 0);
	tm_free(&m);
}

static void
ranges(void)
{
	LlmStream stream = llm_stream(1, "x", 0, 0);
	LlmError err;

	CHECK_OK(llm_uniform_fill(&stream, -3, 2, N, first, &err), err);
	for (int i = 0; i < N; i++)
		CHECK(first[i] >= -3 && first[i] < 2);
	CHECK_OK(llm_uniform_fill(&stream, 1, nextafterf(1, 2), N, first, &err), err);
	for (int i = 0; i < N; i++) /* no float lies between */
		CHECK(first[i] == 1);
	CHECK_OK(llm_randint_fill(&stream, -2, 3, N, first, &err), err);
	for (int i = 0; i < N; i++)
		CHECK(first[i] >= -2 && first[i] < 3 && first[i] == floorf(first[i]));
}

int
main(void)
{
	keys("a normal - shape=[20003]\n", "a normal - shape=[20003] seed='9\n",
		"b normal - shape=[20003]\na clamp b\n");
	keys("a uniform - shape=[20003] low=-1\n", "a uniform - shape=[20003] seed='9\n",
		"b uniform - shape=[20003] low=-1\na clamp b\n");
	keys("a randint - shape=[20003] high=50\n", "a randint - shape=[20003] high=50 seed='9\n",
		"b randint - shape=[20003] high=50\na clamp b\n");
	ranges();
	no_last_row();
	return 0;
}
