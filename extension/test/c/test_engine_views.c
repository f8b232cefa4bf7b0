/*
 * Ops that reduce, move or join elements as nodes of a graph: every node compared with the plain executor;
 * whole sequences, last rows and sequences in pieces agree if the graph can continue.
 */
#include "levels.h"

#include "graph_text.h"
#include "reference_graph.h"

#define INPUTS "x input - shape=[B,T,C]\ny input - shape=[T,C]\n"

typedef struct Data
{
	int B, T;
	float *x, *y;
} Data;

/* Positions from … from+T-1 as inputs; those of x are stored in `part`. */
static void
inputs_of(const Data *d, int from, int T, float *part, LlmInput in[2])
{
	for (int b = 0; b < d->B; b++)
		memcpy(part + b * T * 6, d->x + (b * d->T + from) * 6, T * 6 * sizeof(float));
	in[0] = (LlmInput){.name = "x", .ndim = 3, .dims = {d->B, T, 6}, .floats = part};
	in[1] = (LlmInput){.name = "y", .ndim = 2, .dims = {T, 6}, .floats = d->y + from * 6};
}

/* The axis of positions; -1 if there is none, or more than one: the whole value is then compared. */
static int
axis_of_T(const LlmNode *node)
{
	int axis = -1;

	for (int i = 0; i < node->ndim; i++)
		if (strcmp(node->shape[i].name, "T") == 0)
			axis = axis == -1 && node->shape[i].times == 1 ? i : -2;
	return axis < 0 ? -1 : axis;
}

/* got holds positions from … from+T-1 of want. */
static void
check_part(const LlmNode *node, const RefValue *want, const LlmValue *got, int from, int T)
{
	int axis = axis_of_T(node);
	size_t outer = 1, inner = 1, all = axis < 0 ? 1 : want->dims[axis];

	for (int i = 0; i < want->ndim; i++)
		*(i < axis ? &outer : &inner) *= i == axis ? 1 : want->dims[i];
	T = axis < 0 ? 1 : T;
	from = axis < 0 ? 0 : from;
	CHECK(got->ndim == want->ndim && got->numel == outer * T * inner);
	for (size_t o = 0; o < outer; o++)
		for (size_t i = 0; i < T * inner; i++)
			if (bits_of(got->floats[o * T * inner + i]) !=
				bits_of(want->floats[(o * all + from) * inner + i]))
			{
				fprintf(stderr, "FAIL %s: element %zu\n", node->name, o * T * inner + i);
				exit(1);
			}
}

/* Runs the sequence in pieces of this length, each a continuation if the graph can continue; else whole. */
static void
in_pieces(TestModel *m, int target, const Data *d, const RefValue *want, int piece, bool last_only)
{
	const LlmNode *node = &m->model.graph.nodes[target];
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	float *part = malloc(d->B * d->T * 6 * sizeof(float) + 1);
	LlmExec *exec;
	LlmError err;

	CHECK_OK(llm_exec_open(&m->model, target, last_only, d->T, &memory, &exec, &err), err);
	if (!llm_exec_continues(exec))
		piece = d->T;
	for (int from = 0; from < d->T; from += piece)
	{
		int T = d->T - from < piece ? d->T - from : piece;
		LlmInput in[2];
		LlmValue value;

		inputs_of(d, from, T, part, in);
		CHECK_OK(llm_exec_run(exec, in, 2, &value, &err), err);
		if (last_only)
			check_part(node, want, &value, from + T - 1, 1);
		else
			check_part(node, want, &value, from, T);
	}
	llm_exec_close(exec);
	CHECK(counted.held == 0);
	free(part);
}

static void
graph_case(const char *lines, int B, int T, const char *continues)
{
	static uint64_t state = 4;
	Data d = {B, T, odd_random(&state, B * T * 6), odd_random(&state, T * 6)};
	float *part = malloc(B * T * 6 * sizeof(float) + 1), **weights;
	LlmInput in[2];
	TestModel m;
	LlmError err;

	tm_parse(&m, lines, 6, 11, 20, 8);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	weights = tm_weights(&m, 8, 1);
	inputs_of(&d, 0, T, part, in);
	for (int i = 0; i < m.model.graph.count; i++)
	{
		LlmNode *node = &m.model.graph.nodes[i];
		RefValue *want;

		if (node->op == LLM_OP_PARAM || node->op == LLM_OP_INPUT)
			continue;
		want = ref_graph(&m.model.graph, i, weights, in, 2);
		EACH_LEVEL(isa, threads)
		{
			in_pieces(&m, i, &d, &want[i], T, false);
			in_pieces(&m, i, &d, &want[i], 1, false);
			in_pieces(&m, i, &d, &want[i], 2, true);
			if (i == m.model.graph.count - 1)
			{
				TestMemory counted;
				LlmAllocator memory = test_allocator(&counted);
				LlmExec *exec;

				CHECK_OK(llm_exec_open(&m.model, i, false, T, &memory, &exec, &err), err);
				if (llm_exec_continues(exec) != (*continues == 'y'))
				{
					fprintf(stderr, "FAIL %s: continues\n", lines);
					exit(1);
				}
				llm_exec_close(exec);
			}
		}
		ref_free(&m.model.graph, want);
	}
	free(part);
	odd_free(d.x);
	odd_free(d.y);
	tm_free(&m);
}

int
main(void)
{
	static const struct
	{
		const char *lines, *continues; /* of the last node */
	} graphs[] = {
		/* a norm from single ops: each position by itself */
		{INPUTS "m0 mean x axis=-1\nm reshape m0 shape=[B,T,1]\nd sub x,m\nv0 var x axis=2\nv reshape v0 "
				"shape=[B,T,1]\ns sqrt v\nn div d,s\n",
			"y"},
		/* heads from single ops, and halves of channels swapped as in rotary embeddings */
		{INPUTS
			"h reshape x shape=[B,T,2,3]\nt transpose h axes=[0,2,1,3]\nb transpose t axes=[0,2,1,3]\n"
			"f reshape b shape=[B,T,-1]\nl slice f starts=[0,0,0] stops=[null,null,3]\nr slice f "
			"starts=[0,0,3] stops=[null,null,null]\nq neg r\ny2 slice y starts=[0,1] stops=[null,4]\nk add "
			"l,y2\nc concat q,k,l,r,q axis=2\nz total c,c,c\nu stack z,z,c,z\no max u axis=3\np min u "
			"axis=0\n",
			"y"},
		{INPUTS "s sum x axis=0\nn norm s axis=1\no ones_like n\nz zeros_like s\nsm softmax x axis=0\ng "
				"softmax x\n"
				"a add sm,g\nb sum a axis=0\nc mul b,z\n",
			"y"},
		{INPUTS "w param - shape=[C]\na matmul x,w\nb reshape a shape=[B,T,1]\nc mul b,x\nk param - "
				"shape=[7,6,2]\nr reshape c shape=[B,1,T,C]\np matmul r,k\nv slice p starts=[0,-2] "
				"stops=[null,-1]\nd matmul y,k\n",
			"y"},
		{INPUTS "q param - shape=[C,18]\nm matmul y,q\nh attention m n_head=3\n", "y"},
		{INPUTS
			"w param - shape=[C]\nn rmsnorm x,w\ng silu n\ns sigmoid x\nk constant - "
			"value=[1,2,3,4,-5,0.5]\na mul s,k\nb sin a\nc cos a\nd add b,c\ne mul d,g\nl log_softmax e\n",
			"y"},
		{INPUTS "w param - shape=[C]\ng greater x,w\nc where g,x,w\ns cumsum c\nl clamp s min=-1 max=0.5\n"
				"a abs l\np pow a exponent=1.5\nf stop_gradient p\n",
			"y"},
		{INPUTS
			"g param - shape=[C,3]\nu param - shape=[3,C,8]\nd param - shape=[3,8,C]\nv param - shape=[3,8]\n"
			"s matmul x,g\nt topk s k=2\ni topk s k=2 output=indices\nw softmax t\nh expert_matmul x,i,u\n"
			"b gather_rows v,i\nf add h,b\na gelu f\no expert_matmul a,i,d\nw1 reshape w shape=[B,T,2,1]\n"
			"m mul o,w1\nz sum m axis=2\nr topk s k=1 output=mask\nn sum r axis=2\nn1 reshape n "
			"shape=[B,T,1]\nq mul z,n1\n",
			"y"},
		{INPUTS "r normal - shape=[C] std=0.1\nu uniform - shape=[1]\ns mul x,u\na add s,r\n", "y"},
		/* over positions: each run starts over */
		{INPUTS "r normal - shape=[T,C]\na add x,r\n", "n"},
		{INPUTS "t transpose x\nk topk t k=1\n", "n"},
		{INPUTS "c constant - value=[0,1]\nt transpose x axes=[1,0,2]\ng gather_rows t,c\n", "n"},
		{INPUTS "s cumsum x axis=1\n", "n"},
		{INPUTS "l log_softmax x axis=1\n", "n"},
		{INPUTS "t transpose x\nl log_softmax t\n", "n"},
		{INPUTS "t transpose x\nm mean y axis=1\nn rmsnorm t,m\n", "n"},
		{INPUTS "t transpose x\nm mean y axis=1\nn layernorm t,m,m\n", "n"},
		{INPUTS "m mean x axis=1\n", "n"},
		{INPUTS "m max x\n", "n"},
		{INPUTS "m softmax x axis=1\n", "n"},
		{INPUTS "l slice x starts=[0,-1] stops=[null,null]\n", "n"},
		{INPUTS "t transpose y\ns matmul y,t\np softmax s\no matmul p,y\n", "n"},
		{INPUTS "r reshape x shape=[T,B,C]\n", "n"},
		{INPUTS "c concat x,x axis=1\n", "n"},
		{INPUTS "r reshape y shape=[-1]\n", "n"},
	};

	for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
	{
		graph_case(graphs[i].lines, 2, 5, graphs[i].continues);
		graph_case(graphs[i].lines, 1, 3, graphs[i].continues);
	}
	return 0;
}
