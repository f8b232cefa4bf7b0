/*
 * The loss in chunks of rows: the same bits, forward and backward, as over logits held as a whole, on every
 * instruction set and number of threads; and failures on the way change nothing.
 */
#include <math.h>

#include "engine/tape.h"
#include "engine/train.h"
#include "graph_text.h"
#include "levels.h"

#define C 19
#define V 301
#define P 8

/* The graph up to the logits; the head's weight follows, then targets and the loss. */
static const char body[] =
	"tokens input - shape=[B,T] dtype=int\nwte param - shape=[V,C]\nx0 embedding tokens,wte\n"
	"w param - shape=[C,C]\nx1 matmul x0,w\nx2 tanh x1\nx add x0,x2\n";
static const char tied[] = "logits matmul x,wte transpose_b=true\n";
static const char untied[] = "head param - shape=[C,V]\nlogits matmul x,head\n";
static const char transposed[] = "head param - shape=[V,C]\nlogits matmul x,head transpose_b=true\n";
static const char loss_of[] = "targets input - shape=[B,T] dtype=int\nloss cross_entropy logits,targets\n";

typedef struct Setup
{
	TestModel m;
	int loss, logits;
	size_t numel; /* of all parameters */
} Setup;

static void
open_setup(Setup *s, const char *head, const char *rest, bool flat)
{
	char text[2000];
	LlmGraph *g = &s->m.model.graph;
	LlmError err;

	snprintf(text, sizeof(text), "%s%s%s%s", body, head, loss_of, rest);
	tm_parse(&s->m, text, C, V, P, C);
	CHECK_OK(llm_graph_check(g, &err), err);
	s->m.model.training = true;
	tm_weights(&s->m, 5, 0.3f);
	if (flat)
		tm_flatten(&s->m);
	s->loss = llm_graph_find(g, *rest ? "result" : "loss");
	s->logits = llm_graph_find(g, "logits");
	s->numel = 0;
	for (int i = 0; i < g->count; i++)
		s->numel += s->m.model.weights[i].numel;
}

typedef struct Batch
{
	int32_t ids[2][600];
	LlmInput in[2];
} Batch;

/* left_out: one target in this many is ignored; 1: all of them, 0: none */
static void
make_batch(Batch *t, int B, int T, int left_out, uint64_t seed)
{
	static const char *const names[] = {"tokens", "targets"};

	CHECK(B * T <= 600);
	for (int i = 0; i < 2; i++)
	{
		t->in[i] = (LlmInput){.name = names[i], .ndim = 2, .dims = {B, T}, .integers = t->ids[i]};
		for (int j = 0; j < B * T; j++)
			t->ids[i][j] = (int) (test_random(&seed) % V);
	}
	for (int j = 1; left_out && j < B * T; j++) /* one target counts at least */
		if (test_random(&seed) % left_out == 0)
			t->ids[1][j] = -100;
}

/* How a run computes its logits. */
typedef enum Mode
{
	WHOLE,  /* the gradients' arrays are unknown before the run */
	CHUNKS, /* they are known */
	TRACED
} Mode;

static float weight = 1; /* of each micro-batch in training */

/* Loss, then gradients, of micro-batches of 1 .. n sequences; counts contains the memory used. */
static float *
gradients(const Setup *s, Batch *batches, int n, Mode mode, TestMemory *counted)
{
	const LlmGraph *g = &s->m.model.graph;
	LlmAllocator memory = test_allocator(counted);
	float *out = odd_output(n + s->numel), *at = out + n, **grads = calloc(g->count, sizeof(float *));
	LlmExec *exec;
	LlmError err;

	for (int i = 0; i < g->count; i++)
		if (g->nodes[i].op == LLM_OP_PARAM)
			grads[i] = calloc(llm_weight_floats(&s->m.model.weights[i]), sizeof(float));
	CHECK_OK(llm_exec_open(&s->m.model, s->loss, false, 0, &memory, &exec, &err), err);
	for (int i = 0; i < n; i++)
	{
		LlmValue value;
		LlmTraced logits;

		if (mode == TRACED)
			llm_exec_trace(exec);
		else
		{
			llm_exec_train(exec, &(LlmDropout){.p = 0}, mode == CHUNKS ? grads : NULL);
			llm_exec_weigh(exec, weight);
		}
		CHECK_OK(llm_exec_run(exec, batches[i].in, 2, &value, &err), err);
		CHECK(value.numel == 1);
		out[i] = value.floats[0];
		llm_exec_traced(exec, s->logits, &logits);
		CHECK(logits.value.numel == (size_t) batches[i].in[0].dims[0] * batches[i].in[0].dims[1] * V);
		CHECK((logits.value.floats == NULL) == (mode == CHUNKS));
		CHECK_OK(llm_exec_backward(exec, grads, &err), err);
	}
	llm_exec_close(exec);
	CHECK(counted->held == 0);
	for (int i = 0; i < g->count; i++)
		if (grads[i])
		{
			CHECK_OK(llm_weight_unpack(&s->m.model, i, grads[i], at, &err), err);
			at += s->m.model.weights[i].numel;
			free(grads[i]);
		}
	free(grads);
	return out;
}

/* The loss without gradients: the logits are computed in chunks and never held as a whole. */
static void
forward(const Setup *s, Batch *batch, float want, const float *first)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmExec *exec;
	LlmValue value;
	LlmTraced logits;
	LlmError err;

	CHECK_OK(llm_exec_open(&s->m.model, s->loss, false, 0, &memory, &exec, &err), err);
	CHECK_OK(llm_exec_run(exec, batch->in, 2, &value, &err), err);
	CHECK(bits_of(value.floats[0]) == bits_of(want) && bits_of(want) == bits_of(*first));
	llm_exec_traced(exec, s->logits, &logits);
	CHECK(logits.value.floats == NULL);
	llm_exec_close(exec);
	CHECK(counted.held == 0);
}

static void
same_bits(const char *what, const char *head, Batch *batches, int n)
{
	Setup s, flat;
	float *first = NULL;

	open_setup(&s, head, "", false);
	open_setup(&flat, head, "", true);
	EACH_LEVEL(isa, threads)
	{
		TestMemory memory;
		float *want = gradients(&flat, batches, n, WHOLE, &memory);

		if (first == NULL)
			first = gradients(&flat, batches, n, TRACED, &memory);
		check_bits(what, n + s.numel, first, gradients(&flat, batches, n, CHUNKS, &memory));
		check_bits(what, n + s.numel, first, gradients(&s, batches, n, CHUNKS, &memory));
		check_bits(what, n + s.numel, first, gradients(&s, batches, n, WHOLE, &memory));
		for (int i = 0; i < n; i++)
			forward(&s, &batches[i], want[i], &first[i]);
		check_bits(what, n + s.numel, first, want);
	}
	odd_free(first);
	tm_free(&s.m);
	tm_free(&flat.m);
}

static void
every_head_and_size(void)
{
	static const int sizes[][2] = {{1, 1}, {1, 127}, {1, 128}, {1, 129}, {3, 97}, {2, 256}, {5, 103}};
	static const char *const heads[] = {tied, untied, transposed};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (int head = 0; head < 3; head++)
		{
			Batch batch;

			make_batch(&batch, sizes[i][0], sizes[i][1], (int) (i + head) % 4 + 1, i);
			same_bits("a loss in chunks", heads[head], &batch, 1);
		}
}

/* The second sequence's contribution to the head's gradient is added after all of the first's. */
static void
accumulated(void)
{
	Batch batches[3];

	for (int left_out = 0; left_out < 3; left_out++)
	{
		make_batch(&batches[0], 2, 150, left_out, 1);
		make_batch(&batches[1], 1, 7, left_out, 2);
		make_batch(&batches[2], 1, 260, left_out, 3);
		same_bits("accumulated gradients", tied, batches, 3);
		same_bits("accumulated gradients", untied, batches, 3);
	}
}

/* NaN and infinite values give the same results. */
static void
not_numbers(void)
{
	for (int i = 0; i < 2; i++)
	{
		static const float odd[] = {INFINITY, NAN};
		Setup s;
		Batch batch;
		TestMemory memory;
		float *want;
		LlmError err;

		make_batch(&batch, 1, 200, 3, 4);
		open_setup(&s, untied, "", true);
		for (int node = 0; node < s.m.model.graph.count; node++)
			if (strcmp(s.m.model.graph.nodes[node].name, "head") == 0)
			{
				s.m.model.weights[node].plain[17] = odd[i];
				CHECK_OK(llm_weight_repack(&s.m.model, node, &err), err);
			}
		want = gradients(&s, &batch, 1, WHOLE, &memory);
		check_bits("no numbers", 1 + s.numel, want, gradients(&s, &batch, 1, CHUNKS, &memory));
		odd_free(want);
		tm_free(&s.m);
	}
}

/* Logits with another reader, or a loss that is not the target, are not computed in chunks. */
static void
left_whole(void)
{
	static const char *const rest[] = {
		"half input - shape=[]\nresult mul loss,half\n", "s sum logits\nresult add loss,s\n"};
	Batch batch;

	make_batch(&batch, 2, 70, 3, 9);
	for (int i = 0; i < 2; i++)
	{
		Setup s;
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmInput in[3] = {batch.in[0], batch.in[1], {.name = "half", .floats = (const float[]){0.5f}}};
		float *grads[20] = {0};
		LlmExec *exec;
		LlmValue value;
		LlmTraced logits;
		LlmError err;

		open_setup(&s, tied, rest[i], true);
		CHECK(s.m.model.graph.count <= 20);
		for (int node = 0; node < s.m.model.graph.count; node++)
			if (s.m.model.weights[node].numel)
				grads[node] = odd_floats(s.m.model.weights[node].numel);
		CHECK_OK(llm_exec_open(&s.m.model, s.loss, false, 0, &memory, &exec, &err), err);
		llm_exec_train(exec, &(LlmDropout){.p = 0}, grads);
		CHECK_OK(llm_exec_run(exec, in, 3, &value, &err), err);
		llm_exec_traced(exec, s.logits, &logits);
		CHECK(logits.value.floats != NULL);
		CHECK_OK(llm_exec_backward(exec, grads, &err), err);
		llm_exec_close(exec);
		for (int node = 0; node < s.m.model.graph.count; node++)
			if (grads[node])
				odd_free(grads[node]);
		tm_free(&s.m);
	}
}

/* ---- memory and errors ---- */

/* 512 rows: whole logits and their gradients need four times the memory of a chunk of both. */
static void
takes_a_chunk(void)
{
	Setup s;
	Batch batch;
	TestMemory whole, chunks;
	size_t logits = 512 * V * sizeof(float);

	make_batch(&batch, 1, 512, 0, 6);
	open_setup(&s, tied, "", false);
	llm_pool_configure(2, NULL);
	odd_free(gradients(&s, &batch, 1, WHOLE, &whole));
	odd_free(gradients(&s, &batch, 1, CHUNKS, &chunks));
	CHECK(whole.peak - chunks.peak > logits * 4 / 3);
	tm_free(&s.m);
}

/* A power of two changes no bit of the mantissa. */
static void
half_the_weight_is_half_the_gradient(void)
{
	TestMemory memory;
	Setup s;
	Batch batch;

	make_batch(&batch, 2, 40, 4, 8);
	open_setup(&s, tied, "", false);
	for (Mode mode = WHOLE; mode <= CHUNKS; mode++)
	{
		float *one = gradients(&s, &batch, 1, mode, &memory), *half;

		weight = 0.5F;
		half = gradients(&s, &batch, 1, mode, &memory);
		weight = 1;
		CHECK(bits_of(one[0]) == bits_of(half[0]));
		for (size_t i = 1; i <= s.numel; i++)
			CHECK(bits_of(half[i]) == bits_of(one[i] * 0.5F));
		odd_free(one);
		odd_free(half);
	}
	tm_free(&s.m);
}

static bool stopped;
static long polls_left;

static bool
stop_at_poll(void)
{
	stopped |= polls_left-- == 0;
	return stopped;
}

/* One step by a trainer; if it fails with `code`, nothing may have changed. */
static LlmCode
step(LlmTrainer *t, Batch *batch, float *loss, LlmError *err)
{
	static const LlmHyper hyper = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};
	double norm;
	LlmCode code = llm_trainer_gradients(t, batch->in, 2, &(LlmDropout){.p = 0}, 1, loss, err);

	return code == LLM_OK ? llm_trainer_update(t, &hyper, 1, 1, &norm, err) : code;
}

static void
a_loss_needs_a_target(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmTrainer *t;
	LlmError err;
	Batch batch;
	Setup s;
	float loss;

	make_batch(&batch, 2, 3, 0, 8);
	for (int i = 0; i < 6; i++)
		batch.ids[1][i] = -1 - i;
	open_setup(&s, tied, "", false);
	CHECK_OK(llm_trainer_open(&s.m.model, s.loss, &memory, &t, &err), err);
	CHECK_FAILS(step(t, &batch, &loss, &err), LLM_INVALID, "none of the 6 targets counts", err);
	batch.ids[1][5] = 0;
	CHECK_OK(step(t, &batch, &loss, &err), err);
	CHECK(loss > 0);
	llm_trainer_close(t);
	tm_free(&s.m);
}

/* A step after any number of failed ones gives the same result. */
static void
failures_leave_no_trace(void)
{
	Setup s;
	Batch batch, wrong;
	LlmError err;
	float want = 0, *weights[2] = {0};
	bool done = false;

	make_batch(&batch, 3, 50, 4, 8);
	wrong = batch;
	wrong.in[1].integers = wrong.ids[1];
	wrong.in[0].integers = wrong.ids[0];
	wrong.ids[1][149] = V;
	llm_pool_configure(2, NULL);
	for (long polls = -1; !done; polls += polls < 20 ? 1 : 7)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmTrainer *t;
		float loss = 0;
		bool first = polls < 0;
		LlmCode code;

		open_setup(&s, tied, "", false);
		CHECK_OK(llm_trainer_open(&s.m.model, s.loss, &memory, &t, &err), err);
		if (!first)
		{
			CHECK_FAILS(step(t, &wrong, &loss, &err), LLM_RANGE, "outside the vocabulary", err);
			polls_left = polls;
			stopped = false;
			llm_pool_configure(2, stop_at_poll);
			code = llm_trainer_gradients(t, batch.in, 2, &(LlmDropout){.p = 0}, 1, &loss, &err);
			CHECK(code == (stopped ? LLM_CANCELED : LLM_OK));
			done = !stopped;
			llm_pool_configure(2, NULL);
		}
		if (first || !done)
		{
			CHECK_OK(step(t, &batch, &loss, &err), err);
			if (first)
				want = loss;
			CHECK(bits_of(loss) == bits_of(want));
			for (int i = 0, j = 0; i < s.m.model.graph.count; i++)
			{
				const LlmWeight *w = &s.m.model.weights[i];
				size_t bytes = llm_weight_floats(w) * sizeof(float);

				if (bytes == 0)
					continue;
				if (first)
					weights[j] = memcpy(malloc(bytes), llm_weight_data(w), bytes);
				CHECK(memcmp(weights[j++], llm_weight_data(w), bytes) == 0);
			}
		}
		llm_trainer_close(t);
		CHECK(counted.held == 0);
		tm_free(&s.m);
	}
	free(weights[0]);
	free(weights[1]);
}

/* If any allocation fails, all memory is freed. */
static void
memory_runs_out(void)
{
	LlmCode code = LLM_NO_MEMORY;
	Batch batch;
	Setup s;

	make_batch(&batch, 2, 100, 4, 8);
	open_setup(&s, untied, "", false);
	for (long after = 0; code != LLM_OK; after++)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmTrainer *t;
		float loss;
		LlmError err;

		counted.fail_after = after;
		code = llm_trainer_open(&s.m.model, s.loss, &memory, &t, &err);
		if (code == LLM_OK)
			code = llm_trainer_gradients(t, batch.in, 2, &(LlmDropout){.p = 0}, 1, &loss, &err);
		llm_trainer_close(t);
		CHECK(counted.held == 0 && (code == LLM_OK || code == LLM_NO_MEMORY));
	}
	tm_free(&s.m);
}

int
main(void)
{
	every_head_and_size();
	accumulated();
	not_numbers();
	left_whole();
	takes_a_chunk();
	half_the_weight_is_half_the_gradient();
	a_loss_needs_a_target();
	failures_leave_no_trace();
	memory_runs_out();
	return 0;
}
