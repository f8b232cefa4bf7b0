/* A timed run: the bits of any other, and for each op the operations and bytes of its formula. */
#include "levels.h"

#include "engine/timing.h"
#include "graph_text.h"

#define T 7
#define V 13
#define NH 3
#define HS 4
#define C (NH * HS)

static const LlmNode *
find(const LlmExec *exec, const LlmGraph *g, const char *name, LlmTiming *out)
{
	int i = llm_graph_find(g, name);

	llm_exec_timing(exec, i, out);
	CHECK(out->ran && out->microseconds >= 0 && out->bytes > 0);
	return &g->nodes[i];
}

/* Pairs of the last `queries` of `keys` positions, counted one by one. */
static void
check_pairs(const LlmNode *node, int window, bool causal)
{
	for (int keys = 0; keys < 12; keys++)
		for (int queries = causal ? 0 : keys; queries <= keys; queries++)
		{
			int count = 0;

			for (int q = keys - queries; q < keys; q++)
				for (int k = 0; k < keys; k++)
					count += (!causal || k <= q) && (window == 0 || k > q - window);
			CHECK(llm_attention_pairs(node, queries, keys) == count);
		}
}

static void
pairs_case(const char *attention, int window, bool causal)
{
	TestModel m;
	char *text = gpt2_text(1, attention, "gelu", "");
	LlmError err;

	tm_parse(&m, text, C, V, 9, 20);
	free(text);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	check_pairs(&m.model.graph.nodes[llm_graph_find(&m.model.graph, "h0.heads")], window, causal);
	tm_free(&m);
}

/* Positions from … to-1 of the sequence as the graph's inputs. */
static void
run(LlmExec *exec, const int32_t *tokens, const int32_t *positions, int from, int to, LlmValue *value)
{
	LlmInput in[2] = {{.name = "tokens", .ndim = 2, .dims = {1, to - from}, .integers = tokens + from},
		{.name = "positions", .ndim = 1, .dims = {to - from}, .integers = positions + from}};
	LlmError err;

	CHECK_OK(llm_exec_run(exec, in, 2, value, &err), err);
}

static void
costs_case(void)
{
	TestModel m;
	char *text = gpt2_text(2, "n_head=3", "gelu", "");
	LlmGraph *g = &m.model.graph;
	int32_t tokens[T] = {1, 5, 2, 12, 0, 7, 7}, positions[T] = {0, 1, 2, 3, 4, 5, 6};
	LlmAllocator memory;
	TestMemory counted;
	LlmExec *plain, *timed;
	LlmValue a, b;
	LlmTiming t;
	LlmError err;
	int target;

	tm_parse(&m, text, C, V, 9, 20);
	free(text);
	CHECK_OK(llm_graph_check(g, &err), err);
	tm_weights(&m, 3, 0.5f);
	target = llm_graph_find(g, "logits");
	memory = test_allocator(&counted);
	CHECK_OK(llm_exec_open(&m.model, target, true, T, &memory, &plain, &err), err);
	CHECK_OK(llm_exec_open(&m.model, target, true, T, &memory, &timed, &err), err);
	llm_exec_time(timed);
	for (int step = 0; step < 2; step++)
	{
		int from = step ? T - 1 : 0, to = step ? T : T - 1, rows = to - from;

		run(plain, tokens, positions, from, to, &a);
		run(timed, tokens, positions, from, to, &b);
		CHECK(a.numel == V && memcmp(a.floats, b.floats, V * sizeof(float)) == 0);
		find(timed, g, "h0.qkv.mm", &t);
		CHECK(t.flops == 2 * rows * C * 3 * C && t.bytes == 4 * (rows * C + C * 3 * C + rows * 3 * C));
		find(timed, g, "logits", &t); /* of the last position alone */
		CHECK(t.flops == 2 * C * V && t.bytes == 4 * (C + C * V + V));
		find(timed, g, "h0.heads", &t);
		CHECK(t.flops == NH * (step ? T : (T - 1) * T / 2) * (4 * HS + 4));
		CHECK(t.bytes == 4 * (rows * 3 * C + 2 * to * C + rows * C));
		llm_exec_timing(timed, llm_graph_find(g, "wte"), &t);
		CHECK(t.flops == 0);
		llm_exec_timing(timed, llm_graph_find(g, "tokens"), &t);
		CHECK(!t.ran); /* nothing is computed for an input */
		llm_exec_timing(timed, llm_graph_find(g, "loss"), &t);
		CHECK(!t.ran); /* the logits do not depend on it */
	}
	llm_exec_close(plain);
	llm_exec_close(timed);
	CHECK(counted.held == 0);
	tm_free(&m);
}

int
main(void)
{
	pairs_case("n_head=3", 0, true);
	pairs_case("n_head=3 window=1", 1, true);
	pairs_case("n_head=3 window=4", 4, true);
	pairs_case("n_head=3 causal=false", 0, false);
	pairs_case("n_head=3 causal=false window=3", 3, false);
	costs_case();
	return 0;
}
