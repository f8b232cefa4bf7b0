/*
 * libFuzzer: bytes become a graph of a few nodes (ops, inputs, attributes, shapes), inputs for it and a way
 * to run it. What the checks accept must run, give what the plain executor gives, whole or in two pieces, and
 * leave no memory behind, also when memory ends or the caller stops it on the way.
 */
#include "levels.h"

#include "graph_text.h"
#include "reference_graph.h"

#define MAX_INPUTS 12

typedef struct Bytes
{
	const uint8_t *at, *end;
} Bytes;

static unsigned
pick(Bytes *b, unsigned n) /* 0 … n-1; 0 when the bytes are used up */
{
	return b->at < b->end ? *b->at++ % n : 0;
}

#define PICK(b, ...)                                                                                         \
	(((const char *const[]){                                                                                 \
		__VA_ARGS__})[pick(b, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))])

static size_t
write_dims(Bytes *b, char *out, const char *const *names, unsigned n_names)
{
	size_t at = sprintf(out, "shape=[");
	unsigned n = pick(b, 32);

	n = n < 4 ? n : n < 30 ? 2 + n % 2 : n % 9;
	for (unsigned i = 0; i < n; i++)
		at += sprintf(out + at, "%s%s", i ? "," : "", names[pick(b, n_names)]);
	return at + sprintf(out + at, "]");
}

static size_t
write_attrs(Bytes *b, char *out, LlmOp op)
{
	static const char *const dims[] = {"B", "T", "C", "T", "B", "3*C", "V", "1", "2", "F", "6", "0", "2*T",
		"X", "4*X", "2147483647", "99999*C", "7*7", "-1", "nan"};
	static const char *const sizes[] = {"C", "V", "3*C", "F", "C", "1", "6", "2", "2*F", "0", "T", "nan"};
	size_t at = 0;

	switch (op)
	{
		case LLM_OP_INPUT:
			at = write_dims(b, out, dims, pick(b, 8) ? 10 : 20);
			return at + sprintf(out + at, "%s",
							PICK(b, "", " dtype=int", " dtype=float", " dtype=int", "", " dtype=2"));
		case LLM_OP_PARAM:
			return write_dims(b, out, sizes, pick(b, 8) ? 8 : 12);
		case LLM_OP_MATMUL:
			return sprintf(
				out, "%s", PICK(b, "", "transpose_b=true", "transpose_b=false", "transpose_b=null"));
		case LLM_OP_GELU:
			return sprintf(
				out, "%s", PICK(b, "", "approximate=none", "approximate=tanh", "approximate=null"));
		case LLM_OP_LAYERNORM:
			return sprintf(out, "%s", PICK(b, "", "eps=0", "eps=1e30", "eps=nan", "eps=1e-5"));
		case LLM_OP_DROPOUT:
			return sprintf(out, "%s", PICK(b, "", "p=0.5", "p=1", "q=1"));
		case LLM_OP_SUM:
		case LLM_OP_MEAN:
		case LLM_OP_MAX:
		case LLM_OP_MIN:
		case LLM_OP_VAR:
		case LLM_OP_NORM:
		case LLM_OP_SOFTMAX:
		case LLM_OP_CONCAT:
			return sprintf(
				out, "%s", PICK(b, "", "axis=-1", "axis=0", "axis=1", "axis=-2", "axis=2", "axis=nan"));
		case LLM_OP_RESHAPE:
			return sprintf(out, "%s",
				PICK(b, "shape=[B,T,-1]", "shape=[B,T,2,-1]", "shape=[-1]", "shape=[T,-1]", "shape=[B,-1,T]",
					"shape=[2,-1]", "shape=[T,C]", "shape=[B,T,C,1]", "shape=[]", "shape=[T,B,C]"));
		case LLM_OP_TRANSPOSE:
			return sprintf(out, "%s",
				PICK(b, "", "axes=[0,1]", "axes=[1,0]", "axes=[1,0,2]", "axes=[2,-2,0]", "axes=[0,2,1,3]",
					"axes=[]"));
		case LLM_OP_SLICE:
			return sprintf(out, "starts=%s",
				PICK(b, "[0,0,1] stops=[null,null,3]", "[0] stops=[1]", "[] stops=[]",
					"[0,0,-2] stops=[null,null,null]", "[0,-1] stops=[null,null]", "[0,1] stops=[null,3]",
					"[-1] stops=[null]", "[0,0,0,1] stops=[null,null,null,2]"));
		case LLM_OP_ATTENTION:
			return sprintf(out, "n_head=%s %s %s %s %s",
				PICK(b, "2", "1", "3", "6", "0", "4096", "1e9", "nan"),
				PICK(b, "", "causal=false", "causal=true", "causal=null"),
				PICK(b, "", "window=1", "window=3", "window=40", "window=2147483647", "window=0"),
				PICK(b, "", "scale=-2", "scale=0", "scale=1e30", "scale=null", "scale=nan"),
				PICK(b, "", "head_mask=[1,0]", "head_mask=[0.5]", "head_mask=[1,1,-1]", "head_mask=null",
					"head_mask=[]"));
		default:
			out[0] = 0;
			return 0;
	}
}

/* The usual beginnings, so that embeddings, layernorms and attention find what they need. */
static const char *const preludes[] = {"",
	"n0 input - shape=[B,T] dtype=int\nn1 param - shape=[V,C]\nn2 embedding n0,n1\nn3 param - "
	"shape=[C,3*C]\nn4 param - "
	"shape=[C]\n",
	"n0 input - shape=[B,T,C]\nn1 param - shape=[C,3*C]\nn2 matmul n0,n1\nn3 attention n2 n_head=2\nn4 input "
	"- shape=[B,T] "
	"dtype=int\n",
	"n0 input - shape=[B,T,3*C]\nn1 input - shape=[T,C]\nn2 input - shape=[B,T] dtype=int\nn3 param - "
	"shape=[C]\nn4 param "
	"- shape=[V,C]\n"};

static bool
fits(const char *text)
{
	TestModel m;
	LlmError err;
	bool ok;

	tm_parse(&m, text, 6, 9, 20, 12);
	ok = llm_graph_check(&m.model.graph, &err) == LLM_OK;
	tm_free(&m);
	return ok;
}

/* Lines of text. A node that does not fit is mostly tried again with other inputs, so that many graphs pass.
 */
static void
write_graph(Bytes *b, char *text)
{
	unsigned prelude = pick(b, 4), first = prelude ? 5 : 0, n = first + 1 + pick(b, 9),
			 stubborn = pick(b, 16);
	char *end = text + sprintf(text, "%s", preludes[prelude]);

	for (unsigned i = first; i < n; i++)
	{
		LlmOp op =
			i < 3 && pick(b, 8) ? (pick(b, 3) ? LLM_OP_INPUT : LLM_OP_PARAM) : (LlmOp) pick(b, LLM_OP_COUNT);
		int least, most;
		char *out;

		llm_op_arity(op, &least, &most);
		least += most == INT32_MAX ? (int) pick(b, 5) : 0;
		for (int tries = 0; tries == 0 || (tries < 12 && b->at < b->end && stubborn && !fits(text)); tries++)
		{
			out = end + sprintf(end, "n%u %s ", i, llm_op_name(op));
			if (least == 0)
				out += sprintf(out, "-");
			for (int j = 0; j < least; j++)
				out += sprintf(
					out, "%sn%u", j ? "," : "", stubborn || pick(b, 8) ? pick(b, i ? i : 1) : pick(b, n + 1));
			out += sprintf(out, " ");
			out += write_attrs(b, out, op);
			out += sprintf(out, "\n");
		}
		if (stubborn && !fits(text)) /* left out: a number stands in, so that the names go on */
			out = end + sprintf(end, "n%u param - shape=[%s]\n", i, PICK(b, "", "1", "C", "C,C"));
		end = out;
	}
}

/* ---- inputs ---- */

typedef struct Inputs
{
	int n;
	LlmInput in[MAX_INPUTS];
	int t_axis[MAX_INPUTS]; /* of the dimension T, or -1 */
	void *data[MAX_INPUTS];
} Inputs;

static size_t
count(int ndim, const int *dims)
{
	size_t n = 1;

	for (int i = 0; i < ndim; i++)
		n *= dims[i];
	return n;
}

/* Values for every input node, of the sizes that the names stand for; false when they would be too large. */
static bool
make_inputs(Bytes *b, const LlmGraph *g, Inputs *inputs)
{
	static const int lengths[] = {3, 1, 2, 5, 0, 45, 7, 130};
	LlmSizes sizes = g->sizes;
	uint64_t state = pick(b, 256);

	llm_sizes_set(&sizes, "B", (int[]){2, 1, 0, 3}[pick(b, 4)]);
	llm_sizes_set(&sizes, "T", lengths[pick(b, 8)]);
	llm_sizes_set(&sizes, "X", 2);
	for (int i = 0; i < g->count; i++)
	{
		const LlmNode *node = &g->nodes[i];
		LlmInput *in = &inputs->in[inputs->n];
		size_t n = 1;

		if (node->op != LLM_OP_INPUT)
			continue;
		*in = (LlmInput){.name = node->name, .ndim = node->ndim};
		inputs->t_axis[inputs->n] = -1;
		for (int d = 0; d < node->ndim; d++)
		{
			int64_t size = llm_dim_value(&node->shape[d], &sizes);

			if (size < 0 || size > 1000)
				return false;
			in->dims[d] = (int) size;
			if (strcmp(node->shape[d].name, "T") == 0 && node->shape[d].times == 1)
				inputs->t_axis[inputs->n] = d;
		}
		n = count(in->ndim, in->dims);
		if (n > 3000)
			return false;
		inputs->data[inputs->n++] = malloc(n * 4 + 4);
		if (node->integers)
			in->integers = in->floats ? NULL : inputs->data[inputs->n - 1];
		else
			in->floats = inputs->data[inputs->n - 1];
		for (size_t j = 0; j < n; j++)
			if (node->integers)
				((int32_t *) inputs->data[inputs->n - 1])[j] =
					pick(b, 100) == 99 ? -7 : (int) (test_random(&state) % 6);
			else
				((float *) inputs->data[inputs->n - 1])[j] = test_uniform(&state) * 2;
	}
	return true;
}

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

static void
free_inputs(Inputs *inputs)
{
	for (int i = 0; i < inputs->n; i++)
		free(inputs->data[i]);
}

/* ---- running ---- */

static int polls_left = -1;

static bool
stop_at_poll(void)
{
	return polls_left >= 0 && polls_left-- == 0;
}

/* got must be positions from … from+T-1 (along axis, if there is one) of want. */
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
	bool last_only = pick(b, 2), *needed = ref_needed(&m->model.graph, target);
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
			T = inputs->in[i].dims[inputs->t_axis[i]];
	free(needed);
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
			if (llm_exec_continues(exec))
				CHECK(llm_exec_length(exec) == from);
		}
		else if (code != LLM_NO_MEMORY && code != LLM_CANCELED)
			runs = 4;
		counted.fail_after = -1; /* once is enough: the next run of the same piece must do */
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

		for (int i = 0; i < m.model.graph.count; i++)
		{
			int64_t numel = 1;

			for (int d = 0; d < m.model.graph.nodes[i].ndim; d++)
			{
				int64_t length = llm_dim_value(&m.model.graph.nodes[i].shape[d], &m.model.graph.sizes);

				numel *= length < 0 ? 140 : length;
				small &= numel >= 0 && numel < 4000000;
				numel = numel > 4000000 ? 4000000 : numel;
			}
		}
		if (small)
		{
			float **weights = tm_weights(&m, 3, 1);

			run(&b, &m, text, weights, &inputs, target);
		}
	}
	free_inputs(&inputs);
	tm_free(&m);
	return 0;
}
