/*
 * Training steps: the same bits, weights and moments, whether weights are in panels or row-major, on every
 * instruction set and number of threads; two nodes that are one parameter; and the sums and copies that
 * these need.
 */
#include <math.h>

#include "engine/parallel.h"
#include "engine/train.h"
#include "graph_text.h"
#include "levels.h"

#define V 61
#define C 33
#define T 9
#define STEPS 3

/* ---- panels and row-major elements ---- */

static void
panels_case(int K, int N)
{
	uint64_t state = K * 1009 + N;
	size_t n = (size_t) K * N;
	float *b = odd_random(&state, n), *panels = calloc(llm_packed_floats(K, N) + 1, sizeof(float));

	EACH_LEVEL(isa, threads)
	for (int transposed = 0; transposed < 2; transposed++)
	{
		float *got = odd_output(n);
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		double want = llm_kernels->sum_squares(n, b, 0), sum;
		LlmError err;

		CHECK_OK(llm_pack(K, N, b, transposed, panels, &err), err);
		CHECK_OK(llm_panels_read(K, N, panels, transposed, got, &err), err);
		check_bits("unpack", n, b, got);
		CHECK_OK(llm_sum_squares_panels(K, N, panels, transposed, &sum, &memory, &err), err);
		CHECK(memcmp(&sum, &want, sizeof(sum)) == 0);
		CHECK_OK(llm_sum_squares(n, b, 0, &sum, &memory, &err), err);
		CHECK(memcmp(&sum, &want, sizeof(sum)) == 0 && counted.held == 0);
	}
	odd_free(b);
	free(panels);
}

/* ---- steps ---- */

/*
 * A tied head; a head of its own; a weight that two products read in both ways; one that an op reads
 * row-major.
 */
static const char *const graphs[] = {
	"t input - shape=[B,T] dtype=int\nwte param - shape=[V,C]\nx0 embedding t,wte\n"
	"w param - shape=[C,F]\nb param - shape=[F]\nx1 matmul x0,w\nx2 add x1,b\nx3 gelu x2\n"
	"o param - shape=[F,C]\nx4 matmul x3,o\nx add x0,x4\nlogits matmul x,wte transpose_b=true\n",
	"t input - shape=[B,T] dtype=int\nwte param - shape=[V,C]\nx0 embedding t,wte\n"
	"w param - shape=[C,C]\nx1 matmul x0,w\nx2 matmul x1,w transpose_b=true\nx add x0,x2\n"
	"head param - shape=[C,V]\nlogits matmul x,head\n",
	"t input - shape=[B,T] dtype=int\nwte param - shape=[V,C]\nx0 embedding t,wte\n"
	"w param - shape=[C,C]\nx1 matmul x0,w\nx2 matmul x1,w\nw2 mul w,w\nx3 matmul x2,w2\nx add x0,x3\n"
	"lm_head param - shape=[V,C]\nlogits matmul x,lm_head transpose_b=true\n",
};

static void
open_model(TestModel *m, const char *text, bool flat)
{
	char all[2000];
	LlmError err;

	snprintf(
		all, sizeof(all), "%starget input - shape=[B,T] dtype=int\nloss cross_entropy logits,target\n", text);
	tm_parse(m, all, C, V, T, 40);
	CHECK_OK(llm_graph_check(&m->model.graph, &err), err);
	m->model.training = true;
	tm_weights(m, 5, 0.4f);
	if (flat)
		tm_flatten(m);
}

/* All parameters, then their moments, after some steps; tie: lm_head and wte are one. */
static float *
after_steps(TestModel *m, bool tie, size_t *n)
{
	static const LlmHyper hyper = {
		.lr = 0.02, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .clip = 0.5};
	LlmGraph *g = &m->model.graph;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	uint64_t state = 9;
	float *out, *at;
	LlmTrainer *t;
	LlmError err;

	*n = 2 * STEPS;
	for (int i = 0; i < g->count; i++)
		*n += 3 * m->model.weights[i].numel;
	at = out = odd_output(*n);
	CHECK_OK(llm_trainer_open(&m->model, llm_graph_find(g, "loss"), &memory, &t, &err), err);
	if (tie)
		CHECK_OK(llm_trainer_tie(t, llm_graph_find(g, "lm_head"), llm_graph_find(g, "wte"), &m->memory, &err),
			err);
	for (int step = 1; step <= STEPS; step++)
	{
		float loss = 0;
		double norm;

		for (int micro = 0; micro < 2; micro++)
		{
			int32_t ids[2][4 * T];
			LlmInput in[2] = {{.name = "t", .ndim = 2, .dims = {4, T}, .integers = ids[0]},
				{.name = "target", .ndim = 2, .dims = {4, T}, .integers = ids[1]}};

			for (int i = 0; i < 2 * 4 * T; i++)
				ids[i % 2][i / 2] = (int) (test_random(&state) % V);
			CHECK_OK(llm_trainer_gradients(t, in, 2, &(LlmDropout){.p = 0}, 1, &loss, &err), err);
		}
		CHECK_OK(llm_trainer_update(t, &hyper, step, 2, &norm, &err), err);
		*at++ = loss;
		*at++ = (float) norm;
	}
	for (int i = 0; i < g->count; i++)
	{
		const float *all[] = {llm_weight_data(&m->model.weights[i]), t->m[i], t->v[i]};

		for (int j = 0; g->nodes[i].op == LLM_OP_PARAM && j < 3; j++)
		{
			CHECK_OK(llm_weight_unpack(&m->model, i, all[j], at, &err), err);
			at += m->model.weights[i].numel;
		}
	}
	CHECK(at == out + *n);
	llm_trainer_close(t);
	CHECK(counted.held == 0);
	return out;
}

static void
layouts_agree(const char *text, bool tie)
{
	float *first = NULL;

	EACH_LEVEL(isa, threads)
	for (int flat = 0; flat < 2; flat++)
	{
		TestModel m;
		size_t n;
		float *got;

		open_model(&m, text, flat);
		got = after_steps(&m, tie, &n);
		if (first)
			check_bits("training", n, first, got);
		else
			first = got;
		tm_free(&m);
	}
	odd_free(first);
}

/*
 * What is kept in panels is stored once: weight, gradient and moments of the tied head need four times its
 * panels.
 */
static void
kept_once(void)
{
	TestModel m;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmTrainer *t;
	LlmError err;
	int wte;

	open_model(&m, graphs[0], false);
	wte = llm_graph_find(&m.model.graph, "wte");
	CHECK(m.model.weights[wte].plain == NULL && m.model.weights[wte].transposed);
	CHECK(llm_weight_floats(&m.model.weights[wte]) == llm_packed_floats(C, V));
	CHECK_OK(llm_trainer_open(&m.model, llm_graph_find(&m.model.graph, "loss"), &memory, &t, &err), err);
	for (int i = 0; i < m.model.graph.count; i++)
		if (t->grad[i])
			CHECK((size_t) (t->m[i] - t->grad[i]) == t->floats);
	llm_trainer_close(t);
	tm_free(&m);
}

/* Two nodes of one row: they stay equal, and their moments are the same. */
static void
tied(void)
{
	TestModel m;
	size_t n;
	LlmWeight *wte, *head;
	float *panels;
	LlmError err;

	layouts_agree(graphs[2], true);
	open_model(&m, graphs[2], false);
	odd_free(after_steps(&m, true, &n));
	wte = &m.model.weights[llm_graph_find(&m.model.graph, "wte")];
	head = &m.model.weights[llm_graph_find(&m.model.graph, "lm_head")];
	CHECK(memcmp(wte->plain, head->plain, wte->numel * sizeof(float)) == 0);
	panels = calloc(llm_packed_floats(C, V), sizeof(float));
	CHECK_OK(llm_pack(C, V, head->plain, true, panels, &err), err);
	CHECK(memcmp(panels, head->panels, head->panels_bytes) == 0);
	free(panels);
	tm_free(&m);
}

/* The text with one more attribute for a parameter, or (NULL) for all of them. */
static void
freeze(const char *text, const char *name, char *out, size_t size)
{
	size_t at = 0, length = name ? strlen(name) : 0;

	while (*text)
	{
		size_t line = strcspn(text, "\n");
		bool param = strstr(text, " param ") && strstr(text, " param ") < text + line;
		bool frozen = param && (name == NULL || (strncmp(text, name, length) == 0 && text[length] == ' '));

		at += snprintf(out + at, size - at, "%.*s%s\n", (int) line, text, frozen ? " trainable=false" : "");
		text += line + 1;
	}
}

/* One step; returns the gradients' norm. */
static double
one_step(LlmTrainer *t, bool update)
{
	static const LlmHyper hyper = {.lr = 0.02, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};
	int32_t ids[2][4 * T];
	LlmInput in[2] = {{.name = "t", .ndim = 2, .dims = {4, T}, .integers = ids[0]},
		{.name = "target", .ndim = 2, .dims = {4, T}, .integers = ids[1]}};
	uint64_t state = 3;
	double norm = 0;
	float loss;
	LlmError err;

	for (int i = 0; i < 2 * 4 * T; i++)
		ids[i % 2][i / 2] = (int) (test_random(&state) % V);
	CHECK_OK(llm_trainer_gradients(t, in, 2, &(LlmDropout){.p = 0}, 1, &loss, &err), err);
	if (update)
		CHECK_OK(llm_trainer_update(t, &hyper, 1, 1, &norm, &err), err);
	return norm;
}

/*
 * A frozen parameter keeps its bits and has neither gradient nor moments. The others' gradients are those of
 * a training run that trains it, too, whose norm is larger.
 */
static void
frozen_case(const char *text, const char *name)
{
	char frozen[2000];
	TestModel all, rest;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmTrainer *a, *r;
	float *before;
	LlmError err;
	int node, loss;

	freeze(text, name, frozen, sizeof(frozen));
	open_model(&all, text, false);
	open_model(&rest, frozen, false);
	node = llm_graph_find(&rest.model.graph, name);
	loss = llm_graph_find(&rest.model.graph, "loss");
	CHECK_OK(llm_trainer_open(&all.model, loss, &memory, &a, &err), err);
	CHECK_OK(llm_trainer_open(&rest.model, loss, &memory, &r, &err), err);
	CHECK(r->grad[node] == NULL && r->m[node] == NULL && r->v[node] == NULL);
	CHECK(r->floats == a->floats - llm_weight_floats(&all.model.weights[node]));
	one_step(a, false);
	one_step(r, false);
	for (int i = 0; i < rest.model.graph.count; i++)
		if (r->grad[i])
			CHECK(memcmp(a->grad[i], r->grad[i], llm_weight_floats(&rest.model.weights[i]) * sizeof(float)) ==
				  0);
	before = calloc(rest.model.weights[node].numel, sizeof(float));
	CHECK_OK(llm_weight_read(&rest.model, node, before, &err), err);
	CHECK(one_step(r, true) < one_step(a, true));
	for (int i = 0; i < rest.model.graph.count; i++)
	{
		size_t n = rest.model.weights[i].numel;
		float *now = calloc(n + 1, sizeof(float)), *then = calloc(n + 1, sizeof(float));

		if (rest.model.graph.nodes[i].op == LLM_OP_PARAM)
		{
			CHECK_OK(llm_weight_read(&rest.model, i, now, &err), err);
			CHECK_OK(llm_weight_read(&all.model, i, then, &err), err);
			CHECK(i != node || memcmp(now, before, n * sizeof(float)) == 0);
			CHECK(i != node || memcmp(now, then, n * sizeof(float)) != 0);
		}
		free(now);
		free(then);
	}
	free(before);
	llm_trainer_close(a);
	llm_trainer_close(r);
	CHECK(counted.held == 0);
	tm_free(&all);
	tm_free(&rest);
}

static void
frozen_parameters(void)
{
	char text[2000];
	TestModel m;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmTrainer *t;
	LlmError err;
	int loss;

	frozen_case(graphs[0], "wte");
	frozen_case(graphs[0], "w");
	frozen_case(graphs[0], "b");
	frozen_case(graphs[1], "w");
	frozen_case(graphs[1], "head");
	frozen_case(graphs[2], "lm_head");
	freeze(graphs[0], NULL, text, sizeof(text));
	open_model(&m, text, false);
	loss = llm_graph_find(&m.model.graph, "loss");
	CHECK_FAILS(
		llm_trainer_open(&m.model, loss, &memory, &t, &err), LLM_INVALID, "no parameter to train", err);
	CHECK(counted.held == 0 && strstr(err.hint, "trainable"));
	tm_free(&m);
	/* a node that shares a frozen parameter is frozen */
	for (int i = 0; i < 2; i++)
	{
		freeze(graphs[2], i ? "wte" : "lm_head", text, sizeof(text));
		open_model(&m, text, false);
		loss = llm_graph_find(&m.model.graph, "loss");
		CHECK_OK(llm_trainer_open(&m.model, loss, &memory, &t, &err), err);
		CHECK_OK(llm_trainer_tie(t, llm_graph_find(&m.model.graph, "lm_head"),
					 llm_graph_find(&m.model.graph, "wte"), &m.memory, &err),
			err);
		CHECK(t->grad[llm_graph_find(&m.model.graph, "wte")] == NULL);
		CHECK(t->grad[llm_graph_find(&m.model.graph, "lm_head")] == NULL);
		CHECK(one_step(t, true) > 0);
		llm_trainer_close(t);
		tm_free(&m);
	}
}

int
main(void)
{
	static const int sizes[][2] = {
		{1, 1}, {5, 31}, {32, 32}, {33, 65}, {70, 100}, {3, 5000}, {5000, 3}, {130, 1100}, {0, 4}, {4, 0}};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		panels_case(sizes[i][0], sizes[i][1]);
	for (int i = 0; i < 3; i++)
		layouts_agree(graphs[i], false);
	kept_once();
	tied();
	frozen_parameters();
	return 0;
}
