/*
 * Models in a few lines of text, for tests and the fuzzer. A line is a node as its row in llm_graph:
 *
 *     name op input,input attribute=value …        ("-" for no inputs)
 *
 * A value is a number (nan and inf too), true, false, null, a [list,of,values], or otherwise a text; 'x is a
 * text whatever x is.
 */
#ifndef GRAPH_TEXT_H
#define GRAPH_TEXT_H

#include "engine/execute.h"
#include "test.h"

typedef struct TestModel
{
	LlmModel model;
	LlmAllocator memory; /* of the weights */
	TestMemory counted;
	void **blocks;
	int n_blocks, room;
} TestModel;

static inline void *
tm_alloc(TestModel *m, size_t size)
{
	if (m->n_blocks == m->room)
		m->blocks = realloc(m->blocks, (m->room = 2 * m->room + 64) * sizeof(void *));
	return m->blocks[m->n_blocks++] = calloc(1, size + 1);
}

static inline char *
tm_string(TestModel *m, const char *from, size_t length)
{
	return memcpy(tm_alloc(m, length), from, length);
}

/* One value; returns its end: before a blank, a comma, a bracket or the end of the text. */
static inline const char *
tm_value(TestModel *m, const char *text, LlmAttr *attr)
{
	size_t length = strcspn(text, " ,]");
	char *word = tm_string(m, text, length), *rest;

	attr->number = strtod(word, &rest);
	if (*word == '\'')
	{
		attr->kind = LLM_ATTR_TEXT;
		attr->text = word + 1;
	}
	else if (*word && *rest == 0)
		attr->kind = LLM_ATTR_NUMBER;
	else if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0)
	{
		attr->kind = LLM_ATTR_BOOL;
		attr->number = *word == 't';
	}
	else if (strcmp(word, "null") != 0)
	{
		attr->kind = LLM_ATTR_TEXT;
		attr->text = word;
	}
	return text + length;
}

/* A list, whose items may be lists. */
static inline const char *
tm_list(TestModel *m, const char *text, LlmAttr *attr)
{
	attr->kind = LLM_ATTR_LIST;
	attr->items = tm_alloc(m, strlen(text) * sizeof(LlmAttr));
	for (text++; *text && *text != ']' && *text != ' '; text += *text == ',')
		text = (*text == '[' ? tm_list : tm_value)(m, text, &attr->items[attr->count++]);
	return text + (*text == ']');
}

static inline const char *
tm_attr(TestModel *m, const char *text, LlmAttr *attr)
{
	size_t length = strcspn(text, "= ");

	attr->key = tm_string(m, text, length);
	text += length + (text[length] == '=');
	if (*text != '[')
		return tm_value(m, text, attr);
	return tm_list(m, text, attr);
}

static inline const char *
tm_node(TestModel *m, const char *text, LlmNode *node)
{
	const char *next = text + strcspn(text, "\n");
	const char *line = text = tm_string(m, text, next - text);
	char op[64];
	int used = 0, name;

	sscanf(text, "%*s%n %63s %n", &name, op, &used);
	CHECK(used > 0);
	node->name = tm_string(m, text, name);
	node->op = llm_op_find(op);
	CHECK(node->op != LLM_OP_COUNT);
	text += used;
	node->input_names = tm_alloc(m, strlen(line) * sizeof(char *));
	for (; *text && *text != ' '; text += *text == ',')
	{
		size_t length = strcspn(text, " ,");

		if (*text != '-')
			node->input_names[node->n_inputs++] = tm_string(m, text, length);
		text += length;
	}
	node->inputs = tm_alloc(m, node->n_inputs * sizeof(int));
	node->attrs = tm_alloc(m, (strlen(line) / 2 + 1) * sizeof(LlmAttr));
	while (*(text += strspn(text, " ")))
		text = tm_attr(m, text, &node->attrs[node->n_attrs++]);
	return next + (*next == '\n');
}

/* Nodes from text, unchecked; sizes: C, V, P, F. */
static inline void
tm_parse(TestModel *m, const char *text, int64_t C, int64_t V, int64_t P, int64_t F)
{
	static const char *const names[] = {"C", "V", "P", "F"};
	int64_t values[] = {C, V, P, F};
	LlmGraph *g = &m->model.graph;
	int lines = 1;

	*m = (TestModel){.room = 0};
	m->memory = test_allocator(&m->counted);
	for (int i = 0; i < 4; i++)
		llm_sizes_set(&g->sizes, names[i], values[i]);
	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	g->nodes = tm_alloc(m, lines * sizeof(LlmNode));
	g->order = tm_alloc(m, lines * sizeof(int));
	g->by_name = tm_alloc(m, lines * sizeof(int));
	m->model.weights = tm_alloc(m, lines * sizeof(LlmWeight));
	while (*text)
		text = tm_node(m, text, &g->nodes[g->count++]);
}

static inline void
tm_free(TestModel *m)
{
	for (int i = 0; i < m->model.graph.count; i++)
		llm_weight_free(&m->model, i, &m->memory);
	CHECK(m->counted.held == 0);
	while (m->n_blocks > 0)
		free(m->blocks[--m->n_blocks]);
	free(m->blocks);
}

/* Random weights, the same for the same seed; kept in `plain` (one per node) for the reference. */
static inline float **
tm_weights(TestModel *m, uint64_t seed, float size)
{
	LlmGraph *g = &m->model.graph;
	float **plain = tm_alloc(m, g->count * sizeof(float *));
	LlmError err;

	for (int i = 0; i < g->count; i++)
		if (g->nodes[i].op == LLM_OP_PARAM)
		{
			size_t n = llm_param_numel(g, i);

			plain[i] = tm_alloc(m, n * sizeof(float));
			for (size_t j = 0; j < n; j++)
				plain[i][j] = test_uniform(&seed) * size;
			CHECK_OK(llm_weight_load(&m->model, i, plain[i], &m->memory, &err), err);
		}
	return plain;
}

/* Makes every weight row-major, too, and gradients row-major. */
static inline void
tm_flatten(TestModel *m)
{
	LlmError err;

	for (int i = 0; i < m->model.graph.count; i++)
		if (m->model.graph.nodes[i].op == LLM_OP_PARAM)
			CHECK_OK(llm_weight_flatten(&m->model, i, &m->memory, &err), err);
}

/* Gives a node, or (-1) each node that is no leaf, the attribute recompute; there must be none yet. */
static inline void
tm_recompute(TestModel *m, int index)
{
	for (int i = 0; i < m->model.graph.count; i++)
	{
		LlmNode *node = &m->model.graph.nodes[i];
		LlmAttr *attrs;

		if ((index >= 0 && i != index) || node->op == LLM_OP_INPUT || node->op == LLM_OP_PARAM)
			continue;
		attrs = tm_alloc(m, (node->n_attrs + 1) * sizeof(LlmAttr));
		memcpy(attrs, node->attrs, node->n_attrs * sizeof(LlmAttr));
		attrs[node->n_attrs++] = (LlmAttr){.key = "recompute", .kind = LLM_ATTR_BOOL, .number = 1};
		node->attrs = attrs;
	}
}

/* Nodes of a GPT-2 of L layers, as llm_gpt2_graph writes them. */
static inline char *
gpt2_text(int L, const char *attention, const char *act, const char *act_attrs)
{
	size_t size = 4096 + 4096 * L, at;
	char *s = malloc(size), x[32] = "drop";

	at = sprintf(s, "tokens input - shape=[B,T] dtype=int\npositions input - shape=[T] dtype=int\n"
					"wte.weight param - shape=[V,C]\nwpe.weight param - shape=[P,C]\n"
					"wte embedding tokens,wte.weight\nwpe embedding positions,wpe.weight\n"
					"embd add wte,wpe\ndrop dropout embd p=0.1\n");
	for (int i = 0; i < L; i++)
	{
#define LINE(...) at += snprintf(s + at, size - at, __VA_ARGS__)
		LINE("h%d.ln_1.w param - shape=[C]\nh%d.ln_1.b param - shape=[C]\n", i, i);
		LINE("h%d.ln_1 layernorm %s,h%d.ln_1.w,h%d.ln_1.b eps=1e-5\n", i, x, i, i);
		LINE("h%d.qkv.w param - shape=[C,3*C]\nh%d.qkv.b param - shape=[3*C]\n", i, i);
		LINE("h%d.qkv.mm matmul h%d.ln_1,h%d.qkv.w\nh%d.qkv add h%d.qkv.mm,h%d.qkv.b\n", i, i, i, i, i, i);
		LINE("h%d.heads attention h%d.qkv %s\n", i, i, attention);
		LINE("h%d.proj.w param - shape=[C,C]\nh%d.proj.b param - shape=[C]\n", i, i);
		LINE("h%d.proj.mm matmul h%d.heads,h%d.proj.w\nh%d.proj add h%d.proj.mm,h%d.proj.b\n", i, i, i, i, i,
			i);
		LINE("h%d.drop dropout h%d.proj\nh%d.res add %s,h%d.drop\n", i, i, i, x, i);
		LINE("h%d.ln_2.w param - shape=[C]\nh%d.ln_2.b param - shape=[C]\n", i, i);
		LINE("h%d.ln_2 layernorm h%d.res,h%d.ln_2.w,h%d.ln_2.b\n", i, i, i, i);
		LINE("h%d.fc.w param - shape=[C,F]\nh%d.fc.b param - shape=[F]\n", i, i);
		LINE("h%d.fc.mm matmul h%d.ln_2,h%d.fc.w\nh%d.fc add h%d.fc.mm,h%d.fc.b\n", i, i, i, i, i, i);
		LINE("h%d.act %s h%d.fc %s\n", i, act, i, act_attrs);
		LINE("h%d.out.w param - shape=[F,C]\nh%d.out.b param - shape=[C]\n", i, i);
		LINE("h%d.out.mm matmul h%d.act,h%d.out.w\nh%d.out add h%d.out.mm,h%d.out.b\n", i, i, i, i, i, i);
		LINE("h%d.out.drop dropout h%d.out\nh%d add h%d.res,h%d.out.drop\n", i, i, i, i, i);
		snprintf(x, sizeof(x), "h%d", i);
	}
	LINE("ln_f.w param - shape=[C]\nln_f.b param - shape=[C]\nln_f layernorm %s,ln_f.w,ln_f.b\n", x);
	LINE("logits matmul ln_f,wte.weight transpose_b=true\ntargets input - shape=[B,T] dtype=int\n"
		 "loss cross_entropy logits,targets\n");
#undef LINE
	return s;
}

#endif
