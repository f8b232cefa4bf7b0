/*
 * A few nodes, given as text, whose gradients are checked: by the engine on every instruction set and number
 * of threads, over a tape of the same values, and by differences in float64.
 */
#ifndef GRADIENT_CASE_H
#define GRADIENT_CASE_H

#include "levels.h"

#include "double_graph.h"
#include "engine/tape.h"
#include "graph_text.h"

static uint64_t state = 77;
static const char *what; /* the case, for messages */

typedef struct Case
{
	TestModel m;
	float **plain; /* values of params */
	float **inputs;
	int32_t **ids;
	LlmInput in[8];
	int n_in, loss;
} Case;

static inline void
fail(const char *why, const LlmNode *node, size_t at, double want, double got)
{
	fprintf(stderr, "FAIL %s%s of %s at %zu: %.9g, expected %.9g\n", what, why, node->name, at, got, want);
	exit(1);
}

/* y's shape as a list, to make a constant of that shape. */
static inline void
shape_of_y(const char *text, char *shape, size_t size)
{
	TestModel m;
	LlmError err;
	int y;

	tm_parse(&m, text, 6, 9, 20, 12);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	y = llm_graph_find(&m.model.graph, "y");
	llm_shape_print(m.model.graph.nodes[y].ndim, m.model.graph.nodes[y].shape, shape, size);
	tm_free(&m);
}

/* Leaves whose names begin with p are from 0.5 to 2 (logarithms, divisors); the others from -1 to 1. */
static inline void
leaf_values(const char *name, size_t n, float *x)
{
	for (size_t i = 0; i < n; i++)
	{
		x[i] = test_uniform(&state);
		if (name[0] == 'p')
			x[i] = 1.25f + 0.75f * x[i];
	}
}

/* Nodes up to y; the loss is the sum of y times a constant of its shape. */
static inline void
open_case(Case *c, const char *lines)
{
	char text[4096], shape[200];
	LlmGraph *g;
	LlmError err;

	what = lines;
	*c = (Case){.n_in = 0};
	g = &c->m.model.graph;
	shape_of_y(lines, shape, sizeof(shape));
	shape[strlen(shape) - 1] = 0;
	snprintf(text, sizeof(text), "%sk_ input - shape=[%s]\nyk_ mul y,k_\nloss sum yk_\n", lines, shape + 1);
	tm_parse(&c->m, text, 6, 9, 20, 12);
	CHECK_OK(llm_graph_check(g, &err), err);
	c->m.model.training = true;
	c->plain = calloc(g->count, sizeof(float *));
	c->inputs = calloc(g->count, sizeof(float *));
	c->ids = calloc(g->count, sizeof(int32_t *));
	c->loss = llm_graph_find(g, "loss");
	for (int i = 0; i < g->count; i++)
	{
		const LlmNode *node = &g->nodes[i];
		DblValue v = dbl_new(g, node);
		LlmInput *in = &c->in[c->n_in];

		if (node->op == LLM_OP_PARAM)
		{
			c->plain[i] = calloc(v.numel + 1, sizeof(float));
			leaf_values(node->name, v.numel, c->plain[i]);
			CHECK_OK(llm_weight_load(&c->m.model, i, c->plain[i], &c->m.memory, &err), err);
		}
		if (node->op == LLM_OP_INPUT)
		{
			*in = (LlmInput){.name = node->name, .ndim = v.ndim};
			memcpy(in->dims, v.dims, sizeof(in->dims));
			c->inputs[i] = calloc(v.numel + 1, sizeof(float));
			c->ids[i] = calloc(v.numel + 1, sizeof(int32_t));
			leaf_values(node->name, v.numel, c->inputs[i]);
			for (size_t j = 0; j < v.numel; j++) /* names beginning with t: targets, some ignored */
				c->ids[i][j] = node->name[0] == 't' && j % 3 == 1 ? -100 : (int) (test_random(&state) % 3);
			if (node->integers)
				in->integers = c->ids[i];
			else
				in->floats = c->inputs[i];
			c->n_in++;
		}
		free(v.x);
	}
	tm_flatten(&c->m); /* a tape has no panels */
}

static inline void
close_case(Case *c)
{
	for (int i = 0; i < c->m.model.graph.count; i++)
	{
		free(c->plain[i]);
		free(c->inputs[i]);
		free(c->ids[i]);
	}
	free(c->plain);
	free(c->inputs);
	free(c->ids);
	tm_free(&c->m);
}

/*
 * Gradients of a traced run, of a tape of the run's values, and of training: the same bits. Every node's
 * values are stored in `value`.
 */
static inline float **
engine_gradients(Case *c, float **values)
{
	const LlmGraph *g = &c->m.model.graph;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	float **grads = calloc(g->count, sizeof(float *)), **taped = calloc(g->count, sizeof(float *));
	LlmValue *seen = calloc(g->count, sizeof(LlmValue)), result;
	LlmExec *exec;
	LlmError err;

	CHECK_OK(llm_exec_open(&c->m.model, c->loss, false, 0, &memory, &exec, &err), err);
	llm_exec_trace(exec);
	CHECK_OK(llm_exec_run(exec, c->in, c->n_in, &result, &err), err);
	for (int i = 0; i < g->count; i++)
	{
		LlmTraced t;

		llm_exec_traced(exec, i, &t);
		if (!t.ran)
			t.value = (LlmValue){.ndim = -1};
		seen[i] = t.value;
		if (values && t.value.floats)
		{
			values[i] = calloc(t.value.numel + 1, sizeof(float));
			memcpy(values[i], t.value.floats, t.value.numel * sizeof(float));
		}
		if (g->nodes[i].op == LLM_OP_PARAM)
		{
			grads[i] = odd_floats(t.value.numel);
			taped[i] = odd_floats(t.value.numel);
		}
	}
	CHECK_OK(llm_exec_backward(exec, grads, &err), err);
	CHECK_OK(llm_tape_backward(g, seen, c->loss, NULL, taped, &memory, &err), err);
	for (int i = 0; i < g->count; i++)
		if (grads[i])
		{
			CHECK(memcmp(grads[i], taped[i], seen[i].numel * sizeof(float)) == 0);
			memset(taped[i], 0, seen[i].numel * sizeof(float));
		}
	/* training keeps fewer values, then fewer still, then none; dropout is not tested here */
	for (int round = 0; round < 3; round++)
	{
		if (round == 2)
			tm_recompute(&c->m, -1);
		llm_exec_train(exec, &(LlmDropout){.p = 0}, taped);
		llm_exec_keep(exec, &(LlmKeeping){.recompute = round == 1});
		CHECK_OK(llm_exec_run(exec, c->in, c->n_in, &result, &err), err);
		CHECK_OK(llm_exec_backward(exec, taped, &err), err);
		for (int i = 0; i < g->count; i++)
			if (grads[i])
			{
				CHECK(strstr(what, "dropout") ||
					  memcmp(grads[i], taped[i], seen[i].numel * sizeof(float)) == 0);
				memset(taped[i], 0, seen[i].numel * sizeof(float));
			}
	}
	for (int i = 0; i < g->count; i++)
		if (taped[i])
			odd_free(taped[i]);
	llm_exec_close(exec);
	CHECK(counted.held == 0);
	free(seen);
	free(taped);
	return grads;
}

static inline DblValue *
double_values(const Case *c)
{
	const LlmGraph *g = &c->m.model.graph;
	DblValue *values = calloc(g->count, sizeof(DblValue));

	for (int i = 0; i < g->count; i++)
	{
		const float *from = c->plain[i] ? c->plain[i] : c->inputs[i];

		values[i] = dbl_new(g, &g->nodes[i]);
		values[i].ids = c->ids[i];
		for (size_t j = 0; from && j < values[i].numel; j++)
			values[i].x[j] = from[j];
	}
	dbl_graph(g, values);
	return values;
}

/* (L(x + h) - L(x - h)) / 2h, to the fourth order */
static inline double
difference(const Case *c, DblValue *values, int leaf, size_t at)
{
	static const double steps[] = {-2, -1, 1, 2}, weights[] = {1, -8, 8, -1};
	double x = values[leaf].x[at], h = 1e-4, sum = 0;

	for (int i = 0; i < 4; i++)
	{
		values[leaf].x[at] = x + steps[i] * h;
		dbl_graph(&c->m.model.graph, values);
		sum += weights[i] * values[c->loss].x[0];
	}
	values[leaf].x[at] = x;
	return sum / (12 * h);
}

static inline void
check_values(const Case *c, const DblValue *want, float *const *got)
{
	const LlmGraph *g = &c->m.model.graph;

	for (int i = 0; i < g->count; i++)
		for (size_t j = 0; got[i] && j < want[i].numel; j++)
			if (!(fabs(got[i][j] - want[i].x[j]) <= 1e-5 * (1 + fabs(want[i].x[j]))))
				fail(": value", &g->nodes[i], j, want[i].x[j], got[i][j]);
}

/* All elements of a small leaf, some of a large one; errors are relative to the leaf's largest gradient. */
static inline void
check_gradients(const Case *c, DblValue *values, float *const *grads)
{
	const LlmGraph *g = &c->m.model.graph;

	for (int i = 0; i < g->count; i++)
	{
		size_t n = grads[i] ? values[i].numel : 0, step = n > 60 ? n / 30 | 1 : 1;
		double largest = 0;

		for (size_t j = 0; j < n; j++)
			largest = fmax(largest, fabs(grads[i][j]));
		for (size_t j = 0; j < n; j += step)
		{
			double want = difference(c, values, i, j);

			if (!(fabs(grads[i][j] - want) <= 5e-6 * largest + 1e-7))
				fail(": gradient", &g->nodes[i], j, want, grads[i][j]);
		}
	}
}

static inline void
rule(const char *lines)
{
	Case c;
	const LlmGraph *g;
	float **first = NULL, **values;
	DblValue *exact;

	open_case(&c, lines);
	g = &c.m.model.graph;
	values = calloc(g->count, sizeof(float *));
	EACH_LEVEL(isa, threads)
	{
		float **grads = engine_gradients(&c, first ? NULL : values);

		if (first == NULL)
		{
			first = grads;
			continue;
		}
		for (int i = 0; i < g->count; i++)
			if (grads[i])
			{
				check_bits(lines, c.m.model.weights[i].numel, first[i],
					memcpy(odd_output(c.m.model.weights[i].numel), grads[i],
						c.m.model.weights[i].numel * sizeof(float)));
				odd_free(grads[i]);
			}
		free(grads);
	}
	exact = double_values(&c);
	check_values(&c, exact, values);
	check_gradients(&c, exact, first);
	for (int i = 0; i < g->count; i++)
	{
		free(exact[i].x);
		free(values[i]);
		if (first[i])
			odd_free(first[i]);
	}
	free(exact);
	free(values);
	free(first);
	close_case(&c);
}

/* The text with every % replaced by each word of a list. */
static inline void
each(const char *words, const char *lines)
{
	while (*words)
	{
		size_t length = strcspn(words, ";"), at = 0;
		char text[3000];

		for (const char *s = lines; *s; s++)
			if (*s == '%')
				at += snprintf(text + at, sizeof(text) - at, "%.*s", (int) length, words);
			else
				text[at++] = *s;
		text[at] = 0;
		rule(text);
		words += length + (words[length] == ';');
	}
}

#endif
