/*
 * The executor compared with the plain one, and with itself: a full forward pass, a decode from the cache
 * and every split of the sequence between them give the same bits, on every instruction set and number of
 * threads.
 */
#include "levels.h"

#include "graph_text.h"
#include "reference_graph.h"

typedef struct Text
{
	int B, T;
	int32_t *tokens, *positions, *targets;
} Text;

static Text
random_text(uint64_t *state, int B, int T, int V)
{
	Text t = {B, T, malloc(4 * B * T + 1), malloc(4 * T + 1), malloc(4 * B * T + 1)};

	for (int i = 0; i < B * T; i++)
	{
		t.tokens[i] = test_random(state) % V;
		t.targets[i] = test_random(state) % 5 ? (int) (test_random(state) % V) : -100;
	}
	for (int i = 0; i < T; i++)
		t.positions[i] = i;
	return t;
}

static void
free_text(Text *t)
{
	free(t->tokens);
	free(t->positions);
	free(t->targets);
}

/* Positions from … from+T-1 of sequences first … first+B-1 as inputs; the copies are stored in `part`. */
static void
inputs_of(const Text *t, int first, int B, int from, int T, int32_t *part, LlmInput in[3])
{
	for (int b = 0; b < B; b++)
	{
		memcpy(part + b * T, t->tokens + (first + b) * t->T + from, 4 * T);
		memcpy(part + (B + b) * T, t->targets + (first + b) * t->T + from, 4 * T);
	}
	in[0] = (LlmInput){.name = "tokens", .ndim = 2, .dims = {B, T}, .integers = part};
	in[1] = (LlmInput){.name = "positions", .ndim = 1, .dims = {T}, .integers = t->positions + from};
	in[2] = (LlmInput){.name = "targets", .ndim = 2, .dims = {B, T}, .integers = part + B * T};
}

static void
check_value(const char *what, const RefValue *want, const LlmValue *got)
{
	float *copy;

	if (got->ndim != want->ndim || memcmp(got->dims, want->dims, got->ndim * sizeof(int)) != 0)
	{
		fprintf(stderr, "FAIL %s: another shape\n", what);
		exit(1);
	}
	CHECK(got->numel == want->numel);
	copy = odd_output(want->numel);
	memcpy(copy, got->floats, want->numel * sizeof(float));
	check_bits(what, want->numel, want->floats, copy);
}

static void
run_once(TestModel *m, int target, const LlmInput *in, int n, const RefValue *want)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmExec *exec;
	LlmValue value;
	LlmError err;

	CHECK_OK(llm_exec_open(&m->model, target, false, 0, &memory, &exec, &err), err);
	for (int again = 0; again < 2 && (again == 0 || !llm_exec_continues(exec)); again++)
	{
		CHECK_OK(llm_exec_run(exec, in, n, &value, &err), err);
		check_value(m->model.graph.nodes[target].name, want, &value);
	}
	llm_exec_close(exec);
	CHECK(counted.held == 0);
}

static int
node(const TestModel *m, const char *name)
{
	int index = llm_graph_find(&m->model.graph, name);

	CHECK(index >= 0);
	return index;
}

/* Every node of a GPT-2 as target, each against the reference. */
static void
every_node(void)
{
	char *text = gpt2_text(2, "n_head=3", "gelu", "");
	uint64_t state = 1;
	TestModel m;
	LlmError err;
	float **weights;
	int32_t part[100];
	LlmInput in[3];

	tm_parse(&m, text, 12, 41, 30, 20);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	weights = tm_weights(&m, 5, 0.5f);
	for (int T = 1; T < 20; T += 7)
	{
		Text t = random_text(&state, 2, T, 41);
		RefValue *want;

		inputs_of(&t, 0, 2, 0, T, part, in);
		want = ref_graph(&m.model.graph, node(&m, "loss"), weights, in, 3);
		EACH_LEVEL(isa, threads)
		for (int i = 0; i < m.model.graph.count; i++)
			if (m.model.graph.nodes[i].op != LLM_OP_PARAM && m.model.graph.nodes[i].op != LLM_OP_INPUT)
				run_once(&m, i, in, 3, &want[i]);
		ref_free(&m.model.graph, want);
		free_text(&t);
	}
	tm_free(&m);
	free(text);
}

/* Rows from … from+T-1 of a value (B,all,width). */
static RefValue
rows_of(const RefValue *v, int from, int T)
{
	size_t width = v->dims[2];
	RefValue out = ref_value(3, (int[]){v->dims[0], T, v->dims[2]});

	for (int b = 0; b < v->dims[0]; b++)
		memcpy(out.floats + b * T * width, v->floats + (b * v->dims[1] + from) * width,
			T * width * sizeof(float));
	return out;
}

/*
 * Runs the sequence in the given pieces through one executor; the pieces' rows, or their last ones, must
 * equal those of the whole.
 */
static void
in_pieces(TestModel *m, const Text *t, const RefValue *want, const int *pieces, bool last_only, int32_t *part)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmExec *exec;
	LlmError err;
	int done = 0;

	CHECK_OK(llm_exec_open(&m->model, node(m, "logits"), last_only, t->T, &memory, &exec, &err), err);
	CHECK(llm_exec_continues(exec));
	for (int i = 0; done < t->T; i++)
	{
		int T = pieces[i] < t->T - done ? pieces[i] : t->T - done;
		RefValue rows = last_only ? rows_of(want, done + T - 1, 1) : rows_of(want, done, T);
		LlmInput in[3];
		LlmValue value;

		inputs_of(t, 0, t->B, done, T, part, in);
		CHECK_OK(llm_exec_run(exec, in, 2, &value, &err), err);
		check_value("pieces", &rows, &value);
		free(rows.floats);
		done += T;
		CHECK(llm_exec_length(exec) == done);
	}
	llm_exec_close(exec);
	CHECK(counted.held == 0);
}

/*
 * Short sequences split in every way; long ones around the multiples of 16, 42 and 128 that the kernels use.
 */
static void
pieces(const char *attention, int max)
{
	static const int cuts[][9] = {{300}, {1, 299}, {127, 1, 1, 171}, {128, 1, 127, 44},
		{41, 1, 42, 1, 43, 300}, {200, 1, 1, 1, 1, 1, 1, 1, 200}, {15, 16, 17, 31, 32, 33, 64, 65, 300}};
	char *text = gpt2_text(2, attention, "gelu", "approximate=none");
	uint64_t state = 2;
	TestModel m;
	LlmError err;
	float **weights;
	int32_t *part = malloc(4 * 4 * 300);
	LlmInput in[3];

	tm_parse(&m, text, 10, 37, 300, 9);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	weights = tm_weights(&m, 6, 0.7f);
	for (int T = 1; T <= max; T = T < 6 ? T + 1 : max)
	{
		Text t = random_text(&state, 2, T, 37);
		RefValue *want, *logits;

		inputs_of(&t, 0, 2, 0, T, part, in);
		want = ref_graph(&m.model.graph, node(&m, "logits"), weights, in, 2);
		logits = &want[node(&m, "logits")];
		EACH_LEVEL(isa, threads)
		{
			if (T <= 6)
				for (int cut = 0; cut < 1 << (T - 1); cut++)
				{
					int sizes[7] = {1}, n = 0;

					for (int i = 0; i < T - 1; i++)
						cut >> i & 1 ? (sizes[++n] = 1) : sizes[n]++;
					in_pieces(&m, &t, logits, sizes, false, part);
					in_pieces(&m, &t, logits, sizes, true, part);
				}
			else
				for (size_t i = threads - 1; i < sizeof(cuts) / sizeof(*cuts); i += 2)
					in_pieces(&m, &t, logits, cuts[i], i % 2, part);
		}
		ref_free(&m.model.graph, want);
		free_text(&t);
		if (T == max)
			break;
	}
	tm_free(&m);
	free(text);
	free(part);
}

/* A batch equals its sequences one by one, and beams continue from their parents. */
static void
batches_and_beams(void)
{
	char *text = gpt2_text(1, "n_head=2", "relu", "");
	uint64_t state = 3;
	TestModel m;
	LlmError err;
	Text t = random_text(&state, 3, 9, 37);
	int32_t part[60], swapped[27];
	static const int parents[] = {2, 0, 0, 1};

	tm_parse(&m, text, 10, 37, 20, 40);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	tm_weights(&m, 7, 0.7f);
	EACH_LEVEL(isa, threads)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		LlmExec *all, *one;
		LlmValue value, alone;
		LlmInput in[3];

		CHECK_OK(llm_exec_open(&m.model, node(&m, "logits"), true, 9, &memory, &all, &err), err);
		inputs_of(&t, 0, 3, 0, 6, part, in);
		CHECK_OK(llm_exec_run(all, in, 2, &value, &err), err);
		for (int b = 0; b < 3; b++)
		{
			CHECK_OK(llm_exec_open(&m.model, node(&m, "logits"), true, 9, &memory, &one, &err), err);
			inputs_of(&t, b, 1, 0, 6, part, in);
			CHECK_OK(llm_exec_run(one, in, 2, &alone, &err), err);
			CHECK(memcmp(alone.floats, value.floats + b * 37, 37 * sizeof(float)) == 0);
			llm_exec_close(one);
		}
		/* four beams from three sequences; each continues with a token of its own */
		CHECK_OK(llm_exec_reorder(all, parents, 4, &err), err);
		for (int b = 0; b < 4; b++)
			swapped[b] = 5 * b;
		in[0] = (LlmInput){.name = "tokens", .ndim = 2, .dims = {4, 1}, .integers = swapped};
		in[1] = (LlmInput){.name = "positions", .ndim = 1, .dims = {1}, .integers = t.positions + 6};
		CHECK_OK(llm_exec_run(all, in, 2, &value, &err), err);
		for (int b = 0; b < 4; b++)
		{
			memcpy(swapped, t.tokens + parents[b] * 9, 6 * 4);
			swapped[6] = 5 * b;
			CHECK_OK(llm_exec_open(&m.model, node(&m, "logits"), true, 9, &memory, &one, &err), err);
			in[0] = (LlmInput){.name = "tokens", .ndim = 2, .dims = {1, 7}, .integers = swapped};
			in[1] = (LlmInput){.name = "positions", .ndim = 1, .dims = {7}, .integers = t.positions};
			CHECK_OK(llm_exec_run(one, in, 2, &alone, &err), err);
			CHECK(memcmp(alone.floats, value.floats + b * 37, 37 * sizeof(float)) == 0);
			llm_exec_close(one);
		}
		llm_exec_close(all);
		CHECK(counted.held == 0);
	}
	free_text(&t);
	tm_free(&m);
	free(text);
}

/* ---- graphs of other kinds ---- */

/*
 * Every node of a graph over floats x (B,T,C), y (T,C), ids (B,T) and parameters, compared with the
 * reference: all rows and, if the graph can continue, the last row and the sequence in pieces, too.
 */
static void
graph_case(const char *text, int B, int T)
{
	uint64_t state = 9;
	TestModel m;
	LlmError err;
	float **weights, *x = odd_random(&state, B * T * 6), *y = odd_random(&state, T * 6);
	int32_t *ids = malloc(4 * B * T + 1);
	LlmInput in[4] = {{.name = "x", .ndim = 3, .dims = {B, T, 6}, .floats = x},
		{.name = "y", .ndim = 2, .dims = {T, 6}, .floats = y},
		{.name = "ids", .ndim = 2, .dims = {B, T}, .integers = ids},
		{.name = "column", .ndim = 2, .dims = {T, 1}, .floats = y}};

	for (int i = 0; i < B * T; i++)
		ids[i] = test_random(&state) % 11;
	tm_parse(&m, text, 6, 11, 20, 8);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	weights = tm_weights(&m, 8, 1);
	for (int i = 0; i < m.model.graph.count; i++)
	{
		RefValue *want = ref_graph(&m.model.graph, i, weights, in, 4);

		if (m.model.graph.nodes[i].op != LLM_OP_PARAM)
			EACH_LEVEL(isa, threads)
		if (want[i].integers == NULL)
			run_once(&m, i, in, 4, &want[i]);
		ref_free(&m.model.graph, want);
	}
	tm_free(&m);
	odd_free(x);
	odd_free(y);
	free(ids);
}

#define INPUTS                                                                                               \
	"x input - shape=[B,T,C]\ny input - shape=[T,C]\nids input - shape=[B,T] dtype=int\n"                    \
	"column input - shape=[T,1]\n"

/* Results computed in place, values with several readers, chains of dropout. */
static void
shared_memory(void)
{
	static const char *const graphs[] = {
		INPUTS "a neg x\nb exp a\nc add b,b\nd mul c,a\ne sub d,d\nf div e,b\n",
		INPUTS "a tanh x\nd1 dropout a\nd2 dropout d1\nb exp d2\nc add a,b\nd add d1,d2\ne mul c,d\nf "
			   "softmax e\ng add f,e\n",
		INPUTS "d dropout x\na neg d\nb add d,a\nc sub x,b\n",
		INPUTS "w param - shape=[C]\nd dropout w\na neg d\nb add x,a\nc add d,d\ne mul b,c\n",
		INPUTS "a neg x\nb neg y\nc add a,b\nd add b,a\ne sub b,c\nf div c,b\ng mul d,d\n",
		INPUTS "a relu x\nb sqrt a\nc log b\nd gelu c\ne gelu d approximate=none\nf sub e,a\ng softmax f\nh "
			   "softmax g\n",
		INPUTS "w param - shape=[C,C]\na matmul x,w\nb matmul a,w\nc matmul b,w transpose_b=true\nd add "
			   "a,c\ne matmul w,w\n",
		INPUTS
		"s param - shape=[]\nt param - shape=[1]\nu param - shape=[1,1]\na mul x,s\nb add t,a\nc sub s,t\n"
		"d div c,b\ne mul column,d\nf add e,column\ng sub column,y\nh mul u,column\ni div u,u\n",
		INPUTS
		"w param - shape=[C]\nb param - shape=[C]\na layernorm x,w,b\nc layernorm a,w,b eps=0.5\nd add a,c\n",
		INPUTS "e param - shape=[V,C]\na embedding ids,e\nb add a,x\nl matmul b,e transpose_b=true\nz "
			   "cross_entropy l,ids\n",
		INPUTS "e param - shape=[V,C]\na embedding ids,e\nl matmul a,e transpose_b=true\nf param - "
			   "shape=[C,V]\nk matmul a,f\n"
			   "g embedding ids,f2\nf2 param - shape=[V,V]\nh matmul g,f2\ni matmul h,f2 transpose_b=true\nj "
			   "add i,k\n",
	};

	for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
	{
		graph_case(graphs[i], 2, 5);
		graph_case(graphs[i], 1, 1);
		graph_case(graphs[i], 3, 0);
		graph_case(graphs[i], 0, 4);
	}
}

int
main(void)
{
	every_node();
	pieces("n_head=2", 300);
	pieces("n_head=5 window=3 scale=0.7 head_mask=[1,0,-2,0.5,1e-3]", 300);
	pieces("n_head=1 window=130", 300);
	batches_and_beams();
	shared_memory();
	return 0;
}
