/*
 * Products fused with the nodes that follow them: the rule that selects the nodes, and that the bits are
 * those of the nodes computed one by one, in the plain executor and in a timed run of this one.
 */
#include "levels.h"

#include "engine/plan.h"
#include "engine/tape.h"
#include "engine/timing.h"
#include "graph_text.h"
#include "reference_graph.h"

typedef struct Case
{
	TestModel m;
	float **weights, *x, *y;
	LlmInput in[3];
} Case;

#define INPUTS                                                                                               \
	"x input - shape=[B,T,C]\ny input - shape=[T,C]\ncolumn input - shape=[T,1]\nw param - shape=[C,C]\n"    \
	"b param - shape=[C]\nup param - shape=[C,F]\nc param - shape=[F]\ndown param - shape=[F,C]\n"           \
	"s param - shape=[]\nt param - shape=[1,1]\nr param - shape=[1,C]\n"

static void
open_case(Case *c, const char *lines, int B, int T, bool training)
{
	char text[4096];
	uint64_t state = 12;
	LlmError err;

	snprintf(text, sizeof(text), INPUTS "%s", lines);
	tm_parse(&c->m, text, 37, 11, 20, 70);
	CHECK_OK(llm_graph_check(&c->m.model.graph, &err), err);
	c->m.model.training = training;
	c->weights = tm_weights(&c->m, 8, 1);
	c->x = odd_random(&state, (size_t) B * T * 37);
	c->y = odd_random(&state, (size_t) T * 37);
	c->in[0] = (LlmInput){.name = "x", .ndim = 3, .dims = {B, T, 37}, .floats = c->x};
	c->in[1] = (LlmInput){.name = "y", .ndim = 2, .dims = {T, 37}, .floats = c->y};
	c->in[2] = (LlmInput){.name = "column", .ndim = 2, .dims = {T, 1}, .floats = c->y};
}

static void
close_case(Case *c)
{
	tm_free(&c->m);
	odd_free(c->x);
	odd_free(c->y);
}

/* The chains of a run, "first>next>last" in the order in which they begin. */
static void
check_chains(const LlmExec *exec, const char *lines, const char *want)
{
	const LlmGraph *g = &exec->model->graph;
	char got[400] = "";

	for (int i = 0; i < g->count; i++)
	{
		if (exec->slots[i].next == 0 || exec->slots[i].fused)
			continue;
		sprintf(got + strlen(got), "%s%s", *got ? " " : "", g->nodes[i].name);
		for (int at = i; exec->slots[at].next; at = exec->slots[at].next - 1)
		{
			CHECK(exec->slots[at].buffer == NULL && exec->slots[at].value.floats == NULL);
			sprintf(got + strlen(got), ">%s", g->nodes[exec->slots[at].next - 1].name);
		}
	}
	if (strcmp(got, want) == 0)
		return;
	fprintf(stderr, "FAIL %s: fused \"%s\", expected \"%s\"\n", lines, got, want);
	exit(1);
}

/*
 * Runs the graph's last node; chains (NULL: not checked) are those of a run with all rows. A dropout mask,
 * which the plain executor lacks, is taken from the run whose nodes are computed one by one.
 */
static void
run_case(const char *lines, const char *chains, int B, int T, bool last_only)
{
	Case c;
	const LlmGraph *g = &c.m.model.graph;
	RefValue *want;
	int target;

	open_case(&c, lines, B, T, false);
	target = g->count - 1;
	want = ref_graph(g, target, c.weights, c.in, 3);
	EACH_LEVEL(isa, threads)
	for (int timed = 1; timed >= 0; timed--)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		const RefValue *w = &want[target];
		size_t width = w->dims[w->ndim - 1];
		LlmExec *exec;
		LlmValue value;
		LlmError err;

		CHECK_OK(llm_exec_open(&c.m.model, target, last_only, T, &memory, &exec, &err), err);
		if (timed)
			llm_exec_time(exec);
		CHECK_OK(llm_exec_run(exec, c.in, 3, &value, &err), err);
		if (chains)
			check_chains(exec, lines, timed ? "" : chains);
		CHECK(value.numel == (last_only ? B * width : w->numel));
		if (timed && strstr(lines, "seed"))
			memcpy(w->floats, value.floats, value.numel * sizeof(float));
		for (int b = 0; b < B && last_only; b++)
			for (size_t n = 0; n < width; n++)
				CHECK(bits_of(value.floats[b * width + n]) ==
					  bits_of(w->floats[(size_t) (b * T + T - 1) * width + n]));
		for (size_t n = 0; n < value.numel && !last_only; n++)
			CHECK(bits_of(value.floats[n]) == bits_of(w->floats[n]));
		llm_exec_close(exec);
		CHECK(counted.held == 0);
	}
	ref_free(g, want);
	close_case(&c);
}

/* Training: values that the backward pass reads are kept, and gradients have the bits of a traced run's. */
static void
train_case(const char *lines, const char *chains)
{
	Case c;
	const LlmGraph *g = &c.m.model.graph;
	char text[2000];

	snprintf(text, sizeof(text), "%sloss mean %s\n", lines, "z");
	open_case(&c, text, 2, 5, true);
	EACH_LEVEL(isa, threads)
	{
		float **grads[2];

		for (int traced = 0; traced < 2; traced++)
		{
			TestMemory counted;
			LlmAllocator memory = test_allocator(&counted);
			LlmExec *exec;
			LlmValue value;
			LlmError err;

			grads[traced] = calloc(g->count, sizeof(float *));
			for (int i = 0; i < g->count; i++)
				if (g->nodes[i].op == LLM_OP_PARAM)
					grads[traced][i] = calloc(llm_weight_floats(&c.m.model.weights[i]), sizeof(float));
			CHECK_OK(llm_exec_open(&c.m.model, g->count - 1, false, 0, &memory, &exec, &err), err);
			if (traced)
				llm_exec_trace(exec);
			else
				llm_exec_train(exec, &(LlmDropout){.p = 0}, grads[0]);
			CHECK_OK(llm_exec_run(exec, c.in, 3, &value, &err), err);
			check_chains(exec, lines, traced ? "" : chains);
			CHECK_OK(llm_exec_backward(exec, grads[traced], &err), err);
			llm_exec_close(exec);
			CHECK(counted.held == 0);
		}
		for (int i = 0; i < g->count; i++)
			if (grads[0][i])
				CHECK(memcmp(grads[0][i], grads[1][i],
						  llm_weight_floats(&c.m.model.weights[i]) * sizeof(float)) == 0);
		for (int traced = 0; traced < 2; traced++)
		{
			for (int i = 0; i < g->count; i++)
				free(grads[traced][i]);
			free(grads[traced]);
		}
	}
	close_case(&c);
}

static void
rule(void)
{
	static const struct
	{
		const char *lines, *chains, *training; /* NULL: not checked */
	} cases[] = {
		/* bias, activation, residual, in every order */
		{"m matmul x,w\nz add m,b\n", "m>z", "m>z"},
		{"m matmul x,w\nz add b,m\n", "m>z", "m>z"},
		{"m matmul x,w\na add m,b\nz gelu a\n", "m>a>z", "m>a"},
		{"m matmul x,w\nz gelu m approximate=none\n", "m>z", ""}, /* without a bias */
		{"m matmul x,w\na add m,b\nz relu a\n", "m>a>z", "m>a"},
		{"m matmul x,w\na add m,b\nz add x,a\n", "m>a>z", "m>a>z"},
		{"m matmul x,w\na add m,b\nz add a,x\n", "m>a>z", "m>a>z"},
		{"m matmul x,w\na sub b,m\nz sub x,a\n", "m>a>z", "m>a>z"},
		{"m matmul x,w\na mul m,x\nz div x,a\n", "m>a>z", ""},
		{"m matmul x,w\na div m,x\nz neg a\n", "m>a>z", ""},
		/* a layer of GPT-2 */
		{"m matmul x,up\na add m,c\ng gelu a\nn matmul g,down\nd add n,b\ne dropout d\nz add x,e\n",
			"m>a>g n>d>e>z", "m>a n>d>e>z"},
		{"m matmul x,up\na add m,c\ng gelu a\nn matmul g,up transpose_b=true\nz add n,b\n", "m>a>g",
			NULL}, /* one packed copy of a weight: the other product reads it row-major */
		/* a bias read by two; a value read by two */
		{"m matmul x,w\nn matmul x,down transpose_b=true\nz add m,b\n", "m>z", NULL},
		{"m matmul x,w\na add m,b\nn matmul a,w\nd add n,b\nz add d,a\n", "m>a n>d>z", "m>a n>d>z"},
		{"m matmul x,w\na add m,b\nz mul a,m\n", "", ""},
		{"m matmul x,w\nz mul m,m\n", "", ""},
		/* two products that meet: one is fused with the sum */
		{"m matmul x,w\nn matmul y,w\na add n,b\nz add m,x\n", "m>z", NULL},
		{"m matmul x,w\nn matmul m,w\no matmul x,w\nz add n,o\n", "n>z", "n>z"},
		/* scalars, single rows, and shapes that do not fit the rows of a product */
		{"m matmul x,w\na mul m,s\nd sub t,a\nz add d,r\n", "m>a>d>z", NULL},
		{"m matmul x,w\nz add m,y\n", "", ""},
		{"m matmul x,w\nz mul m,column\n", "", ""},
		{"m matmul y,w\nz add m,y\n", "m>z", "m>z"},
		{"m matmul y,w\nz add x,m\n", "", ""},
		{"m matmul y,w\nz add r,m\n", "m>z", "m>z"},
		/* dropout with a seed is always applied; without one, never here */
		{"m matmul x,w\na add m,b\nd dropout a p=0.5 seed='3\nz add d,x\n", "m>a", "m>a"},
		{"m matmul x,w\nd dropout m p=0.5\nz add d,x\n", "m>d>z", NULL},
		/* longer than a chain may be: the remaining nodes are computed one by one */
		{"m matmul x,w\na neg m\nd neg a\ne neg d\nf neg e\ng neg f\nh neg g\ni neg h\nj neg i\nz neg j\n",
			"m>a>d>e>f>g>h>i", ""},
		/* softmax, a reduction and a layernorm read whole rows */
		{"m matmul x,w\na add m,b\nz softmax a\n", "m>a", "m>a"},
		{"m matmul x,w\na add m,b\nz layernorm a,b,b\n", "m>a", "m>a"},
		{"m matmul w,w\nz add m,b\n", "m>z", NULL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
	{
		bool whole =
			strstr(cases[i].lines, "y") || strstr(cases[i].lines, "w,w") || strstr(cases[i].lines, "seed");

		for (int T = 1; T < 8; T += 4)
		{
			run_case(cases[i].lines, cases[i].chains, 1, T, false);
			run_case(cases[i].lines, cases[i].chains, 2, T, false);
			if (!whole)
				run_case(cases[i].lines, NULL, 2, T, true);
		}
		run_case(cases[i].lines, cases[i].chains, 0, 3, false);
		if (cases[i].training)
			train_case(cases[i].lines, cases[i].training);
	}
	run_case("m matmul x,up\na add m,c\ng gelu a\nn matmul g,down\nz add n,x\n", NULL, 3, 90, true);
	run_case("m matmul x,up\na add m,c\ng gelu a\nn matmul g,down\nz add n,x\n", "m>a>g n>z", 2, 90, false);
}

/* ---- the memory of the target's value ---- */

typedef struct Place
{
	float *data;
	size_t numel;
	int asked;
} Place;

static float *
place(void *context, const LlmValue *shape)
{
	Place *p = context;

	p->asked++;
	CHECK(shape->numel <= p->numel);
	return p->data;
}

static void
placed(const char *lines, bool there)
{
	Case c;
	LlmError err;

	open_case(&c, lines, 2, 5, false);
	EACH_LEVEL(isa, threads)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		int target = c.m.model.graph.count - 1;
		Place p = {malloc(sizeof(float) * 10 * 70), 10 * 70, 0}, none = {0};
		LlmExec *own, *exec;
		LlmValue a, b;

		CHECK_OK(llm_exec_open(&c.m.model, target, false, 5, &memory, &own, &err), err);
		CHECK_OK(llm_exec_open(&c.m.model, target, false, 0, &memory, &exec, &err), err);
		llm_exec_place(exec, place, &p);
		CHECK_OK(llm_exec_run(own, c.in, 3, &a, &err), err);
		CHECK_OK(llm_exec_run(exec, c.in, 3, &b, &err), err);
		CHECK(p.asked == there && (b.floats == p.data) == there);
		CHECK(a.numel == b.numel && memcmp(a.floats, b.floats, a.numel * sizeof(float)) == 0);
		llm_exec_place(exec, place, &none);
		none.numel = p.numel;
		if (there)
			CHECK_FAILS(llm_exec_run(exec, c.in, 3, &b, &err), LLM_NO_MEMORY, "no memory for a value", err);
		llm_exec_close(own);
		llm_exec_close(exec);
		CHECK(counted.held == 0);
		free(p.data);
	}
	close_case(&c);
}

int
main(void)
{
	rule();
	placed("m matmul x,up\n", true);
	placed("m matmul x,up\nz add m,c\n", true);
	placed("m matmul x,up\nd neg m\ne softmax d\n", true);
	placed("m matmul x,up\nd softmax m\nz exp d\n", true);
	placed("m softmax x\nd dropout m\n", false);
	return 0;
}
