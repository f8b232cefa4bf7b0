/*
 * libFuzzer: bytes become a graph of a few nodes (ops, inputs, attributes, shapes), inputs for it and a way
 * to run it. A graph that passes the checks must run, give the result of the plain executor, whole or in two
 * pieces, and leak no memory, also if an allocation fails or the caller stops it on the way.
 */
#include "levels.h"

#include "random_graph.h"
#include "reference_graph.h"

/* Positions from … from+T-1 of each input. */
static Inputs
cut_inputs(const Inputs *all, int from, int T)
{
	Inputs part = *all;

	for (int i = 0; i < all->n; i++)
	{
		LlmInput *in = &part.in[i];
		int axis = all->t_axis[i], whole = axis < 0 ? 0 : in->dims[axis];
		size_t outer = axis < 0 ? 1 : count(axis, in->dims);
		size_t inner = axis < 0 ? count(in->ndim, in->dims) : count(in->ndim - axis - 1, in->dims + axis + 1);
		size_t run = axis < 0 ? inner : T * inner;

		if (axis >= 0)
			in->dims[axis] = T;
		part.data[i] = malloc(outer * run * 4 + 4);
		for (size_t o = 0; o < outer; o++)
			memcpy((char *) part.data[i] + o * run * 4,
				(const char *) all->data[i] + (axis < 0 ? 0 : (o * whole + from) * inner) * 4, run * 4);
		if (in->integers)
			in->integers = part.data[i];
		else
			in->floats = part.data[i];
	}
	return part;
}

/* ---- running ---- */

static int polls_left = -1;

static bool
stop_at_poll(void)
{
	return polls_left >= 0 && polls_left-- == 0;
}

/* got must be positions from … from+T-1 of want (along axis, if it has one). */
static void
check_rows(const char *text, const RefValue *want, const LlmValue *got, int axis, int from, int T)
{
	size_t outer = 1, inner = want->numel, whole = 1;

	if (axis >= 0)
	{
		outer = count(axis, want->dims);
		inner = count(want->ndim - axis - 1, want->dims + axis + 1);
		whole = want->dims[axis];
	}
	else
		from = 0, T = 1;
	CHECK(got->ndim == want->ndim && got->numel == outer * T * inner);
	for (int d = 0; d < got->ndim; d++)
		CHECK(got->dims[d] == (d == axis ? T : want->dims[d]));
	for (size_t o = 0; o < outer; o++)
		for (size_t i = 0; i < T * inner; i++)
		{
			float expected = want->floats[(o * whole + from) * inner + i],
				  value = got->floats[o * T * inner + i];

			if (bits_of(expected) != bits_of(value) ||
				(value != value && memcmp(&value, "\0\0\xc0\x7f", 4) != 0))
			{
				fprintf(stderr, "%s\n%s: element %zu is %a, the reference says %a\n", text, llm_kernels->name,
					i, value, expected);
				abort();
			}
		}
}

static void
run(Bytes *b, TestModel *m, const char *text, float **weights, const Inputs *inputs, int target)
{
	const LlmNode *node = &m->model.graph.nodes[target];
	int axis = -1, T = 0, from = 0;
	bool last_only = pick(b, 2), read = false, known = false, *needed = ref_needed(&m->model.graph, target);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	RefValue *want = NULL;
	LlmExec *exec;
	LlmError err;

	for (int d = 0; d < node->ndim; d++)
		if (strcmp(node->shape[d].name, "T") == 0)
			axis = axis == -1 && node->shape[d].times == 1 ? d : -2;
	for (int i = 0; i < inputs->n; i++)
		if (inputs->t_axis[i] >= 0 && needed[llm_graph_find(&m->model.graph, inputs->in[i].name)])
		{
			T = inputs->in[i].dims[inputs->t_axis[i]];
			read = known = true;
		}
	for (int i = 0; i < inputs->n && !read; i++) /* random values need a size, but read no input */
		if (inputs->t_axis[i] >= 0)
		{
			T = inputs->in[i].dims[inputs->t_axis[i]];
			known = true;
		}
	free(needed);
	if (!known && axis != -1) /* T is known from a multiple only, which is not cut into pieces */
		return;
	llm_set_isa((LlmIsa) pick(b, LLM_ISA_COUNT));
	llm_pool_configure(1 + pick(b, 3), stop_at_poll);
	polls_left = (int) pick(b, 64) - 50;
	counted.fail_after = (long) pick(b, 128) - 100;
	if (counted.fail_after < 0)
		counted.fail_after = -1;
	if (llm_exec_open(&m->model, target, last_only, pick(b, 2) * 140, &memory, &exec, &err) != LLM_OK)
	{
		polls_left = -1;
		CHECK(err.code == LLM_NO_MEMORY && counted.held == 0);
		return;
	}
	for (int runs = 0; runs < 4 && (from < T || runs < 2); runs++)
	{
		int length = llm_exec_continues(exec) && T > from ? 1 + (int) pick(b, T - from) : T - from;
		Inputs part = cut_inputs(inputs, from, length);
		LlmValue value;
		LlmCode code = llm_exec_run(exec, part.in, part.n, &value, &err);

		CHECK(code == LLM_OK || (code == err.code && err.message[0] != 0));
		CHECK(code == LLM_OK || code == LLM_RANGE || code == LLM_SHAPE || code == LLM_LIMIT ||
			  code == LLM_NO_MEMORY || code == LLM_CANCELED);
		if (code == LLM_OK)
		{
			if (value.integers == NULL && want == NULL)
				want = ref_graph(&m->model.graph, target, weights, inputs->in, inputs->n);
			if (value.integers == NULL && last_only && axis >= 0)
				check_rows(text, &want[target], &value, axis, from + length - 1, 1);
			else if (value.integers == NULL)
				check_rows(text, &want[target], &value, axis < 0 ? -1 : axis, from, length);
			from = llm_exec_continues(exec) ? from + length : 0;
			if (llm_exec_continues(exec) && read)
				CHECK(llm_exec_length(exec) == from);
		}
		else if (code != LLM_NO_MEMORY && code != LLM_CANCELED)
			runs = 4;
		counted.fail_after = -1; /* only once: the next run of the same piece must succeed */
		polls_left = -1;
		free_inputs(&part);
		if (code == LLM_OK && from >= T)
			break;
	}
	llm_exec_close(exec);
	CHECK(counted.held == 0);
	polls_left = -1;
	if (want)
		ref_free(&m->model.graph, want);
}

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Bytes b = {data, data + size};
	Inputs inputs = {0};
	char text[4096];
	TestModel m;
	LlmError err;

	write_graph(&b, text);
	tm_parse(&m, text, 6, 9, 20, 12);
	if (llm_graph_check(&m.model.graph, &err) == LLM_OK)
	{
		int target = pick(&b, 4) ? m.model.graph.count - 1 : (int) pick(&b, m.model.graph.count);
		bool small = make_inputs(&b, &m.model.graph, &inputs);

		if (small && is_small(&m.model.graph))
		{
			float **weights = tm_weights(&m, 3, 1);

			run(&b, &m, text, weights, &inputs, target);
		}
	}
	free_inputs(&inputs);
	tm_free(&m);
	return 0;
}
