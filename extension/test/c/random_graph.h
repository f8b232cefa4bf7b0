/*
 * Turns a fuzzer's bytes into a graph of a few nodes (ops, inputs, attributes, shapes) and inputs for it.
 */
#ifndef RANDOM_GRAPH_H
#define RANDOM_GRAPH_H

#include "graph_text.h"

#define MAX_INPUTS 12

typedef struct Bytes
{
	const uint8_t *at, *end;
} Bytes;

static inline unsigned
pick(Bytes *b, unsigned n) /* 0 … n-1; 0 when the bytes are used up */
{
	return b->at < b->end ? *b->at++ % n : 0;
}

#define PICK(b, ...)                                                                                         \
	(((const char *const[]){                                                                                 \
		__VA_ARGS__})[pick(b, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))])

static inline size_t
write_dims(Bytes *b, char *out, const char *const *names, unsigned n_names)
{
	size_t at = sprintf(out, "shape=[");
	unsigned n = pick(b, 32);

	n = n < 4 ? n : n < 30 ? 2 + n % 2 : n % 9;
	for (unsigned i = 0; i < n; i++)
		at += sprintf(out + at, "%s%s", i ? "," : "", names[pick(b, n_names)]);
	return at + sprintf(out + at, "]");
}

static inline size_t
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
			at = write_dims(b, out, sizes, pick(b, 8) ? 8 : 12);
			return at + sprintf(out + at, "%s",
							PICK(b, "", " trainable=true", " trainable=false", " trainable=null", "",
								" trainable=1"));
		case LLM_OP_CONSTANT:
			return sprintf(out, "value=%s",
				PICK(b, "0.5", "[1,2]", "[[1,2,3,4,5,6]]", "[[1],[2]]", "[]", "[[],[]]", "[1,[2]]",
					"[[1,2],[3]]", "nan", "inf", "x", "[true]", "null", "[[[[[[[[[1]]]]]]]]]", "1e300",
					"-0"));
		case LLM_OP_MATMUL:
			return sprintf(
				out, "%s", PICK(b, "", "transpose_b=true", "transpose_b=false", "transpose_b=null"));
		case LLM_OP_GELU:
			return sprintf(
				out, "%s", PICK(b, "", "approximate=none", "approximate=tanh", "approximate=null"));
		case LLM_OP_LAYERNORM:
		case LLM_OP_RMSNORM:
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
		case LLM_OP_LOG_SOFTMAX:
		case LLM_OP_CONCAT:
		case LLM_OP_CUMSUM:
			return sprintf(
				out, "%s", PICK(b, "", "axis=-1", "axis=0", "axis=1", "axis=-2", "axis=2", "axis=nan"));
		case LLM_OP_CLAMP:
			return sprintf(out, "%s",
				PICK(b, "", "min=-0.5", "max=0.5", "min=0 max=0.25", "min=null max=null", "min=1 max=0",
					"min=nan"));
		case LLM_OP_NORMAL:
			at = write_dims(b, out, dims, pick(b, 8) ? 10 : 20);
			return at + sprintf(out + at, "%s",
							PICK(b, "", " std=0.5", " mean=2", " seed='7", " seed=7", " std=-1"));
		case LLM_OP_UNIFORM:
		case LLM_OP_RANDINT:
			at = write_dims(b, out, dims, pick(b, 8) ? 10 : 20);
			return at +
				   sprintf(out + at, "%s",
					   PICK(b, "", " high=6", " low=-3 high=2", " high=6 seed='7", " low=2", " high=0.5"));
		case LLM_OP_TOPK:
			return sprintf(out, "k=%s %s", PICK(b, "1", "2", "3", "6", "9", "0", "1.5", "null"),
				PICK(b, "", "output=values", "output=indices", "output=mask", "output=null", "output=x"));
		case LLM_OP_ONE_HOT:
		case LLM_OP_SCATTER_ROWS:
			return sprintf(
				out, "size=%s", PICK(b, "6", "V", "C", "T", "9", "0", "B", "null", "2147483647", "X"));
		case LLM_OP_POW:
			return sprintf(out, "exponent=%s",
				PICK(b, "2", "3", "0.5", "-1", "0", "1", "1.5", "-64", "65", "null", "nan"));
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
					"[-1] stops=[null]", "[0,0,0,1] stops=[null,null,null,2]",
					"[0,0,1] stops=[null,null,null] steps=[1,1,2]", "[0] stops=[null] steps=[3]",
					"[0,0] stops=[null,null] steps=[1,2]", "[0] stops=[1] steps=[0]"));
		case LLM_OP_ROPE:
			return sprintf(out, "n_head=%s %s %s %s %s", PICK(b, "1", "3", "2", "6", "0", "1.5"),
				PICK(b, "", "interleaved=true", "interleaved=null"),
				PICK(b, "", "dims=2", "dims=4", "dims=6", "dims=3", "dims=1e9", "dims=null"),
				PICK(b, "", "theta=1e6", "theta=1", "theta=0", "theta=1e30", "theta=1e-30"),
				PICK(b, "", "factor=4", "factor=0", "low_freq_factor=1",
					"factor=8 low_freq_factor=1 high_freq_factor=4 original_max_position_embeddings=8",
					"factor=8 low_freq_factor=4 high_freq_factor=4 original_max_position_embeddings=8"));
		case LLM_OP_CONV2D:
			return sprintf(out, "%s %s %s", PICK(b, "", "stride=2", "stride=3", "stride=0", "stride=1e9"),
				PICK(b, "padding=1", "", "padding=[0,1,2,0]", "padding=3", "padding=[1]", "padding=-1"),
				PICK(b, "", "groups=3", "groups=2", "groups=6", "groups=nan"));
		case LLM_OP_GROUPNORM:
			return sprintf(out, "%s %s", PICK(b, "", "groups=2", "groups=6", "groups=5", "groups=0.5"),
				PICK(b, "", "eps=0", "eps=1e-3", "eps=nan"));
		case LLM_OP_UPSAMPLE:
		case LLM_OP_AVGPOOL:
			return sprintf(
				out, "%s", PICK(b, "", "factor=2", "factor=3", "factor=1", "factor=0", "factor=2e9"));
		case LLM_OP_ATTENTION:
			return sprintf(out, "n_head=%s %s %s %s %s %s %s %s",
				PICK(b, "2", "1", "3", "6", "0", "4096", "1e9", "nan"),
				PICK(b, "", "causal=false", "causal=true", "causal=null"),
				PICK(b, "", "window=1", "window=3", "window=20", "window=2147483647", "window=0"),
				PICK(b, "", "n_kv_head=1", "n_kv_head=2", "n_kv_head=3", "n_kv_head=null", "n_kv_head=0.5"),
				PICK(b, "", "", "slopes=[0.5,0.25]", "slopes=[1]", "slopes=[0.5,-1,2]", "slopes=[nan]"),
				PICK(b, "", "", "pattern=strided stride=4", "pattern=fixed stride=3",
					"pattern=fixed stride=4 summary=2", "pattern=strided", "pattern=other stride=2",
					"pattern=fixed stride=2 summary=3"),
				PICK(b, "", "scale=-2", "scale=0", "scale=1e30", "scale=null", "scale=nan"),
				PICK(b, "", "head_mask=[1,0]", "head_mask=[0.5]", "head_mask=[1,1,-1]", "head_mask=null",
					"head_mask=[]"));
		default:
			out[0] = 0;
			return 0;
	}
}

/* Typical first nodes, so that embeddings, layernorms and attention find the inputs that they need. */
static const char *const preludes[] = {"",
	"n0 input - shape=[B,T] dtype=int\nn1 param - shape=[V,C]\nn2 embedding n0,n1\nn3 param - "
	"shape=[C,3*C]\nn4 param - "
	"shape=[C]\n",
	"n0 input - shape=[B,T,C]\nn1 param - shape=[C,3*C]\nn2 matmul n0,n1\nn3 attention n2 n_head=2\nn4 input "
	"- shape=[B,T] "
	"dtype=int\n",
	"n0 input - shape=[B,T,C]\nn1 param - shape=[C,6]\nn2 matmul n0,n1\nn3 attention n0,n2,n2 n_head=2\nn4 "
	"param - shape=[140,140]\n",
	"n0 input - shape=[B,T,3*C]\nn1 input - shape=[T,C]\nn2 input - shape=[B,T] dtype=int\nn3 param - "
	"shape=[C]\nn4 param "
	"- shape=[V,C]\n",
	"n0 input - shape=[B,C,4*X,X]\nn1 param - shape=[F,2,3,1]\nn2 param - shape=[C]\nn3 input - "
	"shape=[T,C,5,7]\nn4 param - shape=[V,C,2,3]\n"};

static inline bool
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

/*
 * Lines of text. A node that does not fit is usually tried again with other inputs, so that many graphs
 * pass.
 */
static inline void
write_graph(Bytes *b, char *text)
{
	unsigned prelude = pick(b, 5), first = prelude ? 5 : 0, n = first + 1 + pick(b, 9),
			 stubborn = pick(b, 16);
	char *end = text + sprintf(text, "%s", preludes[prelude]);

	for (unsigned i = first; i < n; i++)
	{
		LlmOp op =
			i < 3 && pick(b, 8) ? (pick(b, 3) ? LLM_OP_INPUT : LLM_OP_PARAM) : (LlmOp) pick(b, LLM_OP_COUNT);
		int least, most;
		char *out;

		least = llm_op_facts[op].least;
		most = llm_op_facts[op].most;
		least += most == INT32_MAX ? (int) pick(b, 5) : most > least ? (int) pick(b, most - least + 1) : 0;
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
		if (stubborn && !fits(text)) /* a constant takes its place, so that its name exists */
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

static inline size_t
count(int ndim, const int *dims)
{
	size_t n = 1;

	for (int i = 0; i < ndim; i++)
		n *= dims[i];
	return n;
}

/* Values for every input node, of the sizes that the names stand for; false if they would be too large. */
static inline bool
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

static inline void
free_inputs(Inputs *inputs)
{
	for (int i = 0; i < inputs->n; i++)
		free(inputs->data[i]);
}

/*
 * True if every value is small enough to be computed many times a second. Names without a size count as 140.
 */
static inline bool
is_small(const LlmGraph *g)
{
	for (int i = 0; i < g->count; i++)
	{
		int64_t numel = 1;

		for (int d = 0; d < g->nodes[i].ndim; d++)
		{
			int64_t length = llm_dim_value(&g->nodes[i].shape[d], &g->sizes);

			numel *= length < 0 ? 140 : length;
			if (numel < 0 || numel > 4000000)
				return false;
		}
	}
	return true;
}

#endif
