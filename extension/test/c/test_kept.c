/*
 * What training keeps for the backward pass: with nodes that are computed again, whichever they are, loss and
 * gradients have the same bits, dropout and random nodes included, and less memory is needed.
 */
#include "levels.h"

#include <math.h>

#include "engine/quantized.h"
#include "engine/train.h"
#include "graph_text.h"

#define B 2
#define T 24
#define V 53
#define C 24
#define P 30
#define F 96
#define LAYERS 8

static int32_t tokens[B * T], positions[T], targets[B * T];
static const LlmInput in[] = {{.name = "tokens", .ndim = 2, .dims = {B, T}, .integers = tokens},
	{.name = "targets", .ndim = 2, .dims = {B, T}, .integers = targets},
	{.name = "positions", .ndim = 1, .dims = {T}, .integers = positions}};

/* A mixture of experts, of which the chosen ones depend on the values, beside noise and a gate. */
static const char *const mixture =
	"tokens input - shape=[B,T] dtype=int\nwte param - shape=[V,C]\nx0 embedding tokens,wte\n"
	"noise normal - shape=[B,T,C] std=0.1\nx1 add x0,noise\ng param - shape=[C]\nx2 rmsnorm x1,g\n"
	"gate param - shape=[C,4]\nscores matmul x2,gate\nbest topk scores k=2\n"
	"chosen topk scores k=2 output=indices\nshares softmax best\nw1 param - shape=[4,C,F]\n"
	"up expert_matmul x2,chosen,w1\nact silu up\nw2 param - shape=[4,F,C]\n"
	"down expert_matmul act,chosen,w2\nweights reshape shares shape=[B,T,2,1]\nweighted mul down,weights\n"
	"mlp sum weighted axis=2\nx3 add x1,mlp\nhalf constant - value=0.05\nbig greater x3,half\n"
	"x4 where big,x3,mlp\nx5 max x4 axis=1\nx6 reshape x5 shape=[B,1,C]\nx7 add x4,x6\nx8 exp x7\nx9 div "
	"x7,x8\n"
	"x10 dropout x9 p=0.2\nx11 cumsum x10 axis=1\nhead param - shape=[C,V]\nlogits matmul x11,head\n"
	"targets input - shape=[B,T] dtype=int\nloss cross_entropy logits,targets\n";

static void
open_model(TestModel *m, const char *text)
{
	LlmError err;

	tm_parse(m, text, C, V, P, F);
	CHECK_OK(llm_graph_check(&m->model.graph, &err), err);
	m->model.training = true;
	tm_weights(m, 5, 0.3f);
}

/* Loss and gradients, and the most memory that the executor held. */
static float *
one_step(TestModel *m, const LlmKeeping *keeping, size_t *n, size_t *peak)
{
	const LlmGraph *g = &m->model.graph;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmDropout dropout = {.p = 0.1f, .seed = 11, .step = 3, .micro_batch = 1};
	float **grads = calloc(g->count, sizeof(float *)), *out, *at;
	LlmValue loss;
	LlmExec *exec;
	LlmError err;

	*n = 1;
	for (int i = 0; i < g->count; i++)
		*n += g->nodes[i].op == LLM_OP_PARAM ? llm_weight_floats(&m->model.weights[i]) : 0;
	out = odd_output(*n);
	at = out + 1;
	for (int i = 0; i < g->count; i++)
		if (g->nodes[i].op == LLM_OP_PARAM)
		{
			grads[i] = at;
			at += llm_weight_floats(&m->model.weights[i]);
		}
	memset(out, 0, *n * sizeof(float));
	CHECK_OK(llm_exec_open(&m->model, llm_graph_find(g, "loss"), false, 0, &memory, &exec, &err), err);
	llm_exec_train(exec, &dropout, grads);
	llm_exec_keep(exec, keeping);
	CHECK_OK(llm_exec_run(exec, in, 3, &loss, &err), err);
	out[0] = loss.floats[0];
	CHECK_OK(llm_exec_backward(exec, grads, &err), err);
	CHECK_FAILS(llm_exec_backward(exec, grads, &err), LLM_INVALID, "no run kept the values", err);
	llm_exec_close(exec);
	CHECK(counted.held == 0);
	*peak = counted.peak;
	free(grads);
	return out;
}

/* Which nodes are marked: random ones for any other number. */
#define NONE 0
#define ALL UINT64_MAX
#define LAYERS_ONLY (UINT64_MAX - 1)

/* The bits of `want` again, with some nodes marked; returns the peak. */
static size_t
again(const char *text, const float *want, bool recompute, uint64_t marks)
{
	TestModel m;
	size_t n, peak;
	float *got;

	open_model(&m, text);
	for (int i = 0; i < m.model.graph.count; i++)
		if (marks == ALL ||
			(marks == LAYERS_ONLY && strncmp(m.model.graph.nodes[i].name, "h", 1) == 0 &&
				strchr(m.model.graph.nodes[i].name, '.')) ||
			(marks != NONE && marks < LAYERS_ONLY && test_random(&marks) % 3))
			tm_recompute(&m, i);
	got = one_step(&m, &(LlmKeeping){.recompute = recompute}, &n, &peak);
	check_bits("computed again", n, want, got);
	tm_free(&m);
	return peak;
}

static void
same_bits(const char *text, bool saves)
{
	LlmKeeping all = {0};
	TestModel m;
	size_t n, peak;
	float *want;

	llm_set_isa(LLM_ISA_SCALAR);
	llm_pool_configure(1, NULL);
	open_model(&m, text);
	want = one_step(&m, &all, &n, &peak);
	EACH_LEVEL(isa, threads)
	{
		size_t passages = again(text, want, true, NONE), layers = again(text, want, false, LAYERS_ONLY);

		again(text, want, false, ALL);
		CHECK(!saves || (4 * passages < 3 * peak && 4 * layers < 3 * peak));
	}
	for (uint64_t marks = 1; marks <= 60; marks++)
		again(text, want, marks % 2, marks);
	odd_free(want);
	tm_free(&m);
}

/* The nearest bf16 by its definition: of the two neighbours, the nearer one, or the even one. */
static void
rounding(void)
{
	uint64_t state = 8;
	float special[] = {
		0, -0.0f, 1, 1e-40f, -1e-45f, 3.3e38f, INFINITY, -INFINITY, NAN, 1.00390625f, 1.01171875f};

	for (int i = 0; i < 200000; i++)
	{
		uint32_t bits = (uint32_t) test_random(&state), low, high;
		float x, down, up, back;
		uint16_t got;

		memcpy(&x, &bits, sizeof(x));
		if (i < (int) (sizeof(special) / sizeof(*special)))
			x = special[i];
		llm_bf16_round(1, &x, &got);
		llm_bf16_widen(1, &got, &back);
		if (isnan(x) || isinf(x))
		{
			CHECK(isnan(x) ? isnan(back) : back == x);
			continue;
		}
		memcpy(&bits, &x, sizeof(x));
		low = bits & 0xffff0000u;
		high = low + 0x10000u;
		memcpy(&down, &low, sizeof(x));
		memcpy(&up, &high, sizeof(x));
		if (isinf(up)) /* as if the exponents went on */
			CHECK(back == down || ((bits & 0xffffu) >= 0x8000u && back == up));
		else if (fabs((double) x - down) == fabs((double) up - x))
			CHECK(back == (low & 0x10000u ? up : down));
		else
			CHECK(back == (fabs((double) x - down) < fabs((double) up - x) ? down : up));
	}
}

/*
 * Kept in bf16: the loss has the same bits, gradients are near those of float32 and have the same bits on
 * every level, with or without values that are computed again; less memory is needed.
 */
static void
in_bf16(const char *text, bool recompute, bool saves)
{
	LlmKeeping all = {0}, bf16 = {.bf16 = true, .recompute = recompute};
	float *want, *first = NULL;
	TestModel m;
	size_t n, peak, less;
	double apart = 0, size = 0;

	open_model(&m, text);
	want = one_step(&m, &all, &n, &peak);
	EACH_LEVEL(isa, threads)
	{
		float *got = one_step(&m, &bf16, &n, &less);

		if (first)
			check_bits("in bf16", n, first, got);
		else
			first = got;
	}
	CHECK(memcmp(want, first, sizeof(float)) == 0);
	for (size_t i = 1; i < n; i++)
	{
		apart += ((double) want[i] - first[i]) * ((double) want[i] - first[i]);
		size += (double) want[i] * want[i];
	}
	CHECK(apart > 0 && apart <= 1e-4 * size);
	CHECK(!saves || 5 * less < 4 * peak);
	odd_free(want);
	odd_free(first);
	tm_free(&m);
}

/* Memory refused at every allocation: the run or the backward pass says so, and nothing leaks. */
static void
refused_memory(const char *text)
{
	TestModel m;
	LlmError err;
	LlmCode code = LLM_NO_MEMORY;

	open_model(&m, text);
	for (long after = 0; code != LLM_OK; after++)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmTrainer *t = NULL;
		float loss;

		counted.fail_after = after;
		code = llm_trainer_open(&m.model, llm_graph_find(&m.model.graph, "loss"), &memory, &t, &err);
		if (code == LLM_OK)
		{
			t->keeping = (LlmKeeping){.recompute = true, .bf16 = true};
			code = llm_trainer_gradients(t, in, 3, &(LlmDropout){.p = 0.1f}, 1, &loss, &err);
			llm_trainer_close(t);
		}
		CHECK(counted.held == 0);
		CHECK(code == LLM_OK || code == LLM_NO_MEMORY);
	}
	tm_free(&m);
}

int
main(void)
{
	char *gpt2 = gpt2_text(LAYERS, "n_head=4", "gelu", "approximate=tanh");
	uint64_t state = 4;

	for (int i = 0; i < B * T; i++)
	{
		tokens[i] = (int) (test_random(&state) % V);
		targets[i] = i % 7 == 3 ? -1 : (int) (test_random(&state) % V);
		positions[i % T] = i % T;
	}
	same_bits(gpt2, true);
	same_bits(mixture, false);
	rounding();
	in_bf16(gpt2, false, true);
	in_bf16(gpt2, true, true);
	in_bf16(mixture, false, false);
	in_bf16(mixture, true, false);
	refused_memory(gpt2);
	free(gpt2);
	return 0;
}
