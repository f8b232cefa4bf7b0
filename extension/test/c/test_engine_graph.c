/*
 * The graph: the shape rule of every op, and the errors, each of which names the node and the mismatch.
 */
#include "graph_text.h"

#include <math.h>

#define APART "q input - shape=[B,T,F]\nk input - shape=[B,T,8]\nu neg k\n"
#define ROPE "i input - shape=[T] dtype=int\ny rope x,i "
#define INPUTS                                                                                               \
	"ids input - shape=[B,T] dtype=int\nx input - shape=[B,T,C]\nv param - shape=[C]\nw param - "            \
	"shape=[C,F]\n"

/* The node y, the last one of the text, must have this shape. */
static void
shape_is(const char *lines, const char *expected)
{
	char text[2048], shape[300];
	TestModel m;
	LlmError err;
	int y;

	snprintf(text, sizeof(text), INPUTS "%s", lines);
	tm_parse(&m, text, 12, 41, 30, 24);
	CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
	y = llm_graph_find(&m.model.graph, "y");
	CHECK(y >= 0);
	llm_shape_print(m.model.graph.nodes[y].ndim, m.model.graph.nodes[y].shape, shape, sizeof(shape));
	if (strcmp(shape, expected) != 0)
	{
		fprintf(stderr, "FAIL %s: shape is %s, not %s\n", lines, shape, expected);
		exit(1);
	}
	tm_free(&m);
}

/* The text must be refused with all of these words, in message or hint. */
static void
refused(const char *lines, LlmCode code, const char *words)
{
	char text[4096], said[1100], word[100];
	TestModel m;
	LlmError err = {0};
	LlmCode got;

	snprintf(text, sizeof(text), INPUTS "%s", lines);
	tm_parse(&m, text, 12, 41, 30, 24);
	got = llm_graph_check(&m.model.graph, &err);
	snprintf(said, sizeof(said), "%s | %s", err.message, err.hint);
	for (const char *at = words; got == code && *at; at += *at == ';')
	{
		size_t length = strcspn(at, ";");

		snprintf(word, sizeof(word), "%.*s", (int) length, at);
		if (strstr(said, word) == NULL)
			break;
		at += length;
		words = *at ? at + 1 : at;
	}
	if (got != code || *words)
	{
		fprintf(stderr, "FAIL %s: code %d \"%s\", expected %d with \"%s\"\n", lines, (int) got, said,
			(int) code, words);
		exit(1);
	}
	tm_free(&m);
}

static void
shape_rules(void)
{
	shape_is("y input - shape=[]\n", "()");
	shape_is("y input - shape=[B,4*C,7,2*T,null_1]\n", "(B,4*C,7,2*T,null_1)");
	shape_is("y param - shape=[V,3*C,0] init=normal std=0.02\n", "(V,3*C,0)");
	shape_is("y embedding ids,w\n", "(B,T,F)");
	shape_is("s input - shape=[] dtype=int\ny embedding s,w\n", "(F)");
	shape_is("y matmul x,w\n", "(B,T,F)");
	shape_is("y matmul w,w transpose_b=true\n", "(C,C)");
	shape_is("y matmul x,x transpose_b=true\n", "(B,T,T)");
	shape_is("k param - shape=[12,5]\ny matmul x,k transpose_b=null\n", "(B,T,5)"); /* C is 12 */
	shape_is("k param - shape=[2*V,2*C]\nz param - shape=[24,V]\ny matmul k,z\n", "(2*V,V)");
	shape_is("y matmul x,v\n", "(B,T)"); /* a 1-D operand is a column, or a row */
	shape_is("y matmul v,w\n", "(F)");
	shape_is("y matmul v,v\n", "()");
	shape_is("q param - shape=[C,C]\ny matmul q,x transpose_b=true\n", "(B,C,T)");
	shape_is("q input - shape=[B,1,T,C]\nk input - shape=[7,C,T]\ny matmul q,k\n", "(B,7,T,T)");
	shape_is("y add x,v\n", "(B,T,C)");
	shape_is("y sub v,x\n", "(B,T,C)");
	shape_is("k input - shape=[T,1]\ny mul k,v\n", "(T,C)");
	shape_is("k input - shape=[1,T,1]\nz input - shape=[B,1,1]\ny div k,z\n", "(B,T,1)");
	shape_is("s param - shape=[]\ny add s,s\n", "()");
	for (int op = LLM_OP_NEG; op <= LLM_OP_RELU; op++)
	{
		char line[64];

		snprintf(line, sizeof(line), "y %s x\n", llm_op_name((LlmOp) op));
		shape_is(line, "(B,T,C)");
	}
	for (int op = LLM_OP_SIGMOID; op <= LLM_OP_LOG_SOFTMAX; op++)
	{
		char line[64];

		snprintf(line, sizeof(line), "y %s x\n", llm_op_name((LlmOp) op));
		shape_is(line, "(B,T,C)");
	}
	shape_is("y greater x,v\n", "(B,T,C)");
	shape_is("y where v,v,x\n", "(B,T,C)");
	shape_is("y where x,v,v\n", "(B,T,C)");
	shape_is("y stop_gradient x\n", "(B,T,C)");
	shape_is("y clamp x min=0\n", "(B,T,C)");
	shape_is("y clamp x min=0.5 max=0.5\n", "(B,T,C)");
	shape_is("y abs x\n", "(B,T,C)");
	shape_is("y pow x exponent=-2\n", "(B,T,C)");
	shape_is("y cumsum x axis=1\n", "(B,T,C)");
	shape_is("y cross_entropy x,x\n", "()");
	shape_is("y mse x,x\n", "()");
	shape_is("y normal - shape=[B,3*C,2]\n", "(B,3*C,2)");
	shape_is("y uniform - shape=[] low=-1 high=0\n", "()");
	shape_is("y randint - shape=[B] high=1000 seed='18446744073709551615\n", "(B)");
	shape_is("y topk x k=12\n", "(B,T,12)"); /* C is 12 */
	shape_is("y topk x k=2 output=indices\n", "(B,T,2)");
	shape_is("y topk x k=2 output=mask\n", "(B,T,C)");
	shape_is("y one_hot ids size=V\n", "(B,T,V)");
	shape_is("y one_hot x size=5\n", "(B,T,C,5)");
	shape_is("y gather_rows w,ids\n", "(B,T,F)");
	shape_is("y gather_rows v,x\n", "(B,T,C)");
	shape_is("y scatter_rows x,ids size=2*C\n", "(2*C,C)");
	shape_is("y scatter_rows x,x size=7\n", "(7)");
	shape_is("e param - shape=[3,C,F]\ni input - shape=[B,T,2]\ny expert_matmul x,i,e\n", "(B,T,2,F)");
	shape_is("e param - shape=[3,C,F]\ny expert_matmul x,ids,e\n", "(B,T,F)");
	shape_is("y rmsnorm x,v eps=0\n", "(B,T,C)");
	shape_is("y log_softmax x axis=1\n", "(B,T,C)");
	shape_is("y constant - value=-0.5\n", "()");
	shape_is("y constant - value=[1,2,3]\n", "(3)");
	shape_is("y constant - value=[[[1],[2]],[[3],[4]]]\n", "(2,2,1)");
	shape_is("y constant - value=[[],[]]\n", "(2,0)");
	shape_is("y constant - value=[[[[[[[[7]]]]]]]]\n", "(1,1,1,1,1,1,1,1)");
	shape_is("k constant - value=[1,2,3,4,5,6,7,8,9,10,11,12]\ny mul x,k\n", "(B,T,C)"); /* C is 12 */
	shape_is("p param - shape=[C] trainable=false\ny add x,p\n", "(B,T,C)");
	shape_is("y gelu x\n", "(B,T,C)");
	shape_is("y gelu x approximate=none\n", "(B,T,C)");
	shape_is("y gelu x approximate=null\n", "(B,T,C)");
	shape_is("y softmax ids2\nids2 neg v\n", "(C)");
	shape_is("y layernorm x,v,v eps=0\n", "(B,T,C)");
	shape_is("y dropout x p=0.1\n", "(B,T,C)");
	shape_is("q input - shape=[B,T,3*C]\ny attention q n_head=3 window=5 causal=false scale=-1 "
			 "head_mask=[1,0,-2.5]\n",
		"(B,T,C)");
	shape_is("q input - shape=[B,T,36]\ny attention q n_head=1 window=null head_mask=null scale=null\n",
		"(B,T,12)");
	shape_is("q input - shape=[B,T,F]\ny attention q n_head=2\n", "(B,T,8)"); /* F is 24 */
	shape_is("i input - shape=[T] dtype=int\ny rope x,i\n", "(B,T,C)");
	shape_is("i input - shape=[B,T] dtype=int\ny rope x,i n_head=3 dims=2 interleaved=true theta=500000 "
			 "factor=8 low_freq_factor=1 high_freq_factor=4 original_max_position_embeddings=8192\n",
		"(B,T,C)");
	shape_is("i input - shape=[C] dtype=int\ny rope w,i n_head=12\n", "(C,F)");
	shape_is("y cross_entropy x,ids\n", "()");
	shape_is("y cross_entropy v,s\ns input - shape=[] dtype=int\n", "()"); /* rows in any order */
	shape_is("q input - shape=[T,3*C]\ny attention q n_head=3\n", "(T,C)");
	shape_is(APART "y attention q,k,u n_head=6 n_kv_head=2\n", "(B,T,F)");
	shape_is(APART "y attention q,q,q n_head=6\n", "(B,T,F)");
	shape_is(APART
		"b param - shape=[P,P]\ny attention q,k,u,b n_head=6 n_kv_head=2 window=30 slopes=[1,1,1,1,1,1] "
		"pattern=fixed stride=8 summary=2\n",
		"(B,T,F)");
	shape_is(APART "b input - shape=[B,1,1,T]\ny attention q,k,u,b n_head=6 n_kv_head=2 causal=false\n",
		"(B,T,F)");
	shape_is(APART "b input - shape=[6,T,T]\ny attention q,k,u,b n_head=6 n_kv_head=2\n", "(B,T,F)");
	shape_is("m input - shape=[B,S,4]\ny attention x,m,m n_head=3 n_kv_head=1 causal=false\n", "(B,T,C)");
	shape_is(
		"q input - shape=[T,F]\nk input - shape=[T,8]\ny attention q,k,k n_head=6 n_kv_head=2\n", "(T,F)");
	shape_is("y softmax x axis=0\n", "(B,T,C)");
	shape_is(
		"i input - shape=[B,C,4*S,S]\nk param - shape=[7,C,3,3]\ny conv2d i,k padding=1\n", "(B,7,4*S,S)");
	shape_is("i input - shape=[B,C,4*S,2*S]\nk param - shape=[7,C,3,3]\nb param - shape=[7]\ny conv2d i,k,b "
			 "padding=1 stride=2\n",
		"(B,7,2*S,S)");
	shape_is("i input - shape=[B,C,9,8]\nk param - shape=[6,4,2,3]\ny conv2d i,k groups=3 stride=3 "
			 "padding=[0,1,2,0]\n",
		"(B,6,3,3)");
	shape_is("i input - shape=[B,C,S,S]\ny groupnorm i,v,v groups=4 eps=0\n", "(B,C,S,S)");
	shape_is("i input - shape=[B,C,S,7]\ny upsample i factor=3\n", "(B,C,3*S,21)");
	shape_is("i input - shape=[B,C,6*S,7]\ny avgpool i factor=3\n", "(B,C,2*S,2)");
	shape_is("y slice x starts=[0,0,1] stops=[null,null,null] steps=[1,1,2]\n", "(B,T,6)"); /* C is 12 */
	shape_is("i input - shape=[B,2*T]\ny slice i starts=[0,0] stops=[null,null] steps=[1,2]\n", "(B,T)");
	shape_is("y dropout x p=1 seed='18446744073709551615\n", "(B,T,C)");
}

/* Ops that reduce, move or join elements. */
static void
view_rules(void)
{
	for (int op = LLM_OP_SUM; op <= LLM_OP_NORM; op++)
	{
		char line[64];

		snprintf(line, sizeof(line), "y %s x\n", llm_op_name((LlmOp) op));
		shape_is(line, "()");
		snprintf(line, sizeof(line), "y %s x axis=-2\n", llm_op_name((LlmOp) op));
		shape_is(line, "(B,C)");
	}
	shape_is("y reshape x shape=[B,T,3,4]\n", "(B,T,3,4)"); /* C is 12 */
	shape_is("y reshape x shape=[T,-1,B]\n", "(T,12,B)");
	shape_is("y reshape x shape=[-1,B]\n", "(12*T,B)");
	shape_is("y reshape x shape=[2*B,T,6]\n", "(2*B,T,6)");
	shape_is("y reshape w shape=[-1]\n", "(288)");
	shape_is("s param - shape=[]\ny reshape s shape=[1,1]\n", "(1,1)");
	shape_is("s param - shape=[1]\ny reshape s shape=[]\n", "()");
	shape_is("e param - shape=[0,3]\ny reshape e shape=[3,-1]\n", "(3,0)");
	shape_is("y transpose x\n", "(B,C,T)");
	shape_is("y transpose v\n", "(C)");
	shape_is("y transpose x axes=[2,0,-2]\n", "(C,B,T)");
	shape_is("y slice x starts=[0,0,3] stops=[null,null,-2]\n", "(B,T,7)");
	shape_is("y slice x starts=[1] stops=[3]\n", "(2,T,C)"); /* B is known only at run time */
	shape_is("y slice x starts=[0,-3] stops=[null,-1]\n", "(B,2,C)");
	shape_is("y slice x starts=[0,-1] stops=[null,null]\n", "(B,1,C)");
	shape_is("y slice x starts=[] stops=[]\n", "(B,T,C)");
	shape_is("y concat x,x\n", "(2*B,T,C)");
	shape_is("u input - shape=[B,T,5]\ny concat x,u,x axis=-1\n", "(B,T,29)");
	shape_is("y stack x,x,x\n", "(3,B,T,C)");
	shape_is("y total x,x,x\n", "(B,T,C)");
	shape_is("y ones_like w\n", "(C,F)");
	shape_is("y zeros_like w\n", "(C,F)");

	refused("y sum x axis=3\n", LLM_SHAPE, "\"y\";(B,T,C);no axis 3;from 0 to 2");
	refused("y max x axis=-4\n", LLM_SHAPE, "no axis -4");
	refused("y mean x axis=0.5\n", LLM_INVALID, "axis;whole number");
	refused("s param - shape=[]\ny var s axis=0\n", LLM_SHAPE, "();no axis 0");
	refused("y softmax x axis=3\n", LLM_SHAPE, "no axis 3");
	refused("y reshape x shape=[B,T,5,3]\n", LLM_SHAPE, "(B,T,C);cannot become (B,T,5,3);as many elements");
	refused("y reshape x shape=[12,-1]\n", LLM_SHAPE, "cannot become (12,-1)"); /* B times T has no name */
	refused("y reshape x shape=[X,-1]\n", LLM_SHAPE, "cannot become (X,-1)");
	refused("y reshape w shape=[7,-1]\n", LLM_SHAPE, "cannot become (7,-1)");
	refused("y reshape w shape=[-1,-1]\n", LLM_INVALID, "shape;one of which may be -1");
	refused("y reshape w shape=[-2,144]\n", LLM_INVALID, "shape");
	refused("y reshape w\n", LLM_INVALID, "shape");
	refused("y transpose x axes=[0,1]\n", LLM_SHAPE, "(B,T,C);each axis once");
	refused("y transpose x axes=[0,1,1]\n", LLM_SHAPE, "each axis once");
	refused("y transpose x axes=[0,1,3]\n", LLM_SHAPE, "each axis once");
	refused("y slice x starts=[0,1] stops=[null,null]\n", LLM_SHAPE, "from 1 along axis 1;size of T");
	refused("y slice x starts=[0,0,3] stops=[null,null,13]\n", LLM_SHAPE, "3 to 13 is not within axis 2");
	refused("y slice x starts=[0,0,13] stops=[null,null,null]\n", LLM_SHAPE, "13 to the end");
	refused("y slice x starts=[0,5] stops=[2,4]\n", LLM_SHAPE, "5 to 4 is not within axis 1;count from 0");
	refused("y slice x starts=[0]\n", LLM_SHAPE, "starts and stops");
	refused("y slice x starts=[0,0,0,0] stops=[1,1,1,1]\n", LLM_SHAPE, "starts and stops");
	refused("y slice x starts=[null] stops=[1]\n", LLM_INVALID, "starts");
	refused(
		"y slice x starts=[0,0] stops=[null,null] steps=[1,2]\n", LLM_SHAPE, "from 0 along axis 1;size of T");
	refused("y slice x starts=[0,0] stops=[1,null] steps=[1]\n", LLM_INVALID,
		"attribute steps;one for each start");
	refused("y slice x starts=[0] stops=[1] steps=[0]\n", LLM_INVALID, "attribute steps");
	refused("y slice x starts=[0] stops=[1] steps=[null]\n", LLM_INVALID, "attribute steps");
	refused("y conv2d x,w\n", LLM_SHAPE, "(B,T,C) and w (C,F);the image must be (B,C,H,W)");
	refused("i input - shape=[B,C,S,S]\nk param - shape=[7,5,3,3]\ny conv2d i,k\n", LLM_SHAPE,
		"the channels differ;C/groups");
	refused("i input - shape=[B,C,S,S]\nk param - shape=[7,C,3,3]\ny conv2d i,k groups=5\n", LLM_SHAPE,
		"groups do not divide");
	refused("i input - shape=[B,C,S,S]\nk param - shape=[7,C,3,3]\ny conv2d i,k\n", LLM_SHAPE, "must fit");
	refused("i input - shape=[B,C,2,5]\nk param - shape=[7,C,3,3]\ny conv2d i,k\n", LLM_SHAPE, "must fit");
	refused(
		"i input - shape=[B,C,5,5]\nk input - shape=[7,C,S,3]\ny conv2d i,k\n", LLM_SHAPE, "must be known");
	refused(
		"i input - shape=[B,C,5,5]\nk param - shape=[7,C,0,3]\ny conv2d i,k\n", LLM_SHAPE, "must be known");
	refused("i input - shape=[B,C,5,5]\nk param - shape=[7,C,3,3]\ny conv2d i,k,v\n", LLM_SHAPE,
		"each output channel");
	refused("y conv2d x,w stride=1.5\n", LLM_INVALID, "attribute stride;whole number");
	refused("y conv2d x,w stride=0\n", LLM_INVALID, "attribute stride;from 1 up");
	refused("y conv2d x,w padding=[1,2]\n", LLM_INVALID, "attribute padding;above, below, left and right");
	refused("y conv2d x,w padding=-1\n", LLM_INVALID, "attribute padding");
	refused("y conv2d x,w padding=true\n", LLM_INVALID, "attribute padding");
	refused("y groupnorm v,v,v\n", LLM_SHAPE, "(C);(B,C,...)");
	refused("i input - shape=[B,C,S]\ny groupnorm i,v,v groups=5\n", LLM_SHAPE, "groups do not divide");
	refused("y groupnorm w,v,v\n", LLM_SHAPE, "(C,F) and v (C);one element for each channel");
	refused("y upsample v\n", LLM_SHAPE, "(C);a height and a width");
	refused("y upsample w factor=2147483647\n", LLM_SHAPE, "too large");
	refused("y upsample w factor=1.5\n", LLM_INVALID, "attribute factor");
	refused("y avgpool x\n", LLM_SHAPE, "at least the factor");
	refused("y avgpool w factor=13\n", LLM_SHAPE, "at least the factor");
	refused("y concat -\n", LLM_INVALID, "concat takes at least 1 input, not 0");
	refused("y concat x,w\n", LLM_SHAPE, "(B,T,C) and w (C,F);joined axis");
	refused("u input - shape=[B,5,C]\ny concat x,u axis=1\n", LLM_SHAPE, "(B,T,C) and u (B,5,C)");
	refused("y stack x,w\n", LLM_SHAPE, "must be equal");
	refused("y total v,s\ns param - shape=[]\n", LLM_SHAPE, "(C) and s ();must be equal");
	refused("i input - shape=[1,1,1,1,1,1,1,1]\ny stack i\n", LLM_SHAPE, "no room");
	refused("y cross_entropy x,v\n", LLM_SHAPE, "or probabilities of their shape");
	refused("s param - shape=[]\ny cross_entropy s,s\n", LLM_SHAPE, "or probabilities of their shape");
	refused("y mse x,v\n", LLM_SHAPE, "the same shape");
	refused("y normal -\n", LLM_INVALID, "shape of normal");
	refused("y normal - shape=[3] std=-1\n", LLM_INVALID, "std of normal");
	refused("y normal - shape=[3] seed=7\n", LLM_INVALID, "seed of normal must be the text");
	refused("y uniform - shape=[3] low=1\n", LLM_INVALID, "high of uniform must be greater than low");
	refused("y randint - shape=[3]\n", LLM_INVALID, "high of randint must be a whole number");
	refused("y randint - shape=[3] high=2.5\n", LLM_INVALID, "low is 0 and high is 2.5");
	refused("y randint - shape=[3] low=5 high=5\n", LLM_INVALID, "low is 5 and high is 5");
	refused("y randint - shape=[3] high=16777217\n", LLM_INVALID, "16777217");
	refused("y topk x\n", LLM_INVALID, "k of topk must be a whole number from 1 up");
	refused("y topk x k=1.5\n", LLM_INVALID, "k of topk must be a whole number from 1 up");
	refused("y topk x k=13\n", LLM_SHAPE, "k is 13, but the last axis has 12 elements");
	refused("y topk x k=1 output=best\n", LLM_INVALID, "\"values\", \"indices\" or \"mask\"");
	refused("s param - shape=[]\ny topk s k=1\n", LLM_SHAPE, "no axis");
	refused("y topk ids k=1\n", LLM_SHAPE, "cannot read whole numbers");
	refused("y one_hot ids\n", LLM_INVALID, "size of one_hot must be a whole number from 1 up or the name");
	refused("y one_hot ids size=0\n", LLM_INVALID, "size of one_hot");
	refused("y one_hot ids size=2.5\n", LLM_INVALID, "size of one_hot");
	refused("y one_hot ids size=C+1\n", LLM_INVALID, "size of one_hot");
	refused("y one_hot ids size=[3]\n", LLM_INVALID, "size of one_hot");
	refused("s param - shape=[]\ny gather_rows s,ids\n", LLM_SHAPE, "a scalar has no rows");
	refused("y scatter_rows v,ids size=3\n", LLM_SHAPE, "the dimensions of the ids");
	refused("y expert_matmul x,ids,w\n", LLM_SHAPE, "must be (E,K,N)");
	refused("e param - shape=[3,F,C]\ny expert_matmul x,ids,e\n", LLM_SHAPE, "the matrices' rows");
	refused("e param - shape=[3,C,F]\ny expert_matmul v,ids,e\n", LLM_SHAPE, "one row of experts");
	refused("y greater x,w\n", LLM_SHAPE, "do not broadcast");
	refused("y where x,v\n", LLM_INVALID, "where takes 3 inputs, not 2");
	refused("y where v,x,w\n", LLM_SHAPE, "where of x (B,T,C) and w (C,F);do not broadcast");
	refused("y where w,x,v\n", LLM_SHAPE, "where of w (C,F) and x (B,T,C);do not broadcast");
	refused("y stop_gradient ids\n", LLM_SHAPE, "cannot read whole numbers");
	refused("y clamp x min=1 max=0\n", LLM_INVALID, "min of clamp must be at most max");
	refused("y clamp x min=nan\n", LLM_INVALID, "min;a number, or null");
	refused("y pow x\n", LLM_INVALID, "exponent of pow must be a number");
	refused("y pow x exponent=null\n", LLM_INVALID, "exponent of pow must be a number");
	refused("y pow x exponent=1e31\n", LLM_INVALID, "exponent of pow must be a number");
	refused("y cumsum x axis=3\n", LLM_SHAPE, "no axis 3");
	refused("s param - shape=[]\ny cumsum s\n", LLM_SHAPE, "();no axis");
	refused("y rmsnorm x\n", LLM_INVALID, "rmsnorm takes 2 inputs, not 1");
	refused("y rmsnorm x,w\n", LLM_SHAPE, "(B,T,C) and w (C,F);the weight must have");
	refused("s param - shape=[]\ny log_softmax s\n", LLM_SHAPE, "();no axis");
	refused("y silu x axis=1\n", LLM_INVALID, "silu has no attribute \"axis\";recompute");
	refused("y sin ids\n", LLM_SHAPE, "sin cannot read whole numbers");
	refused("y constant -\n", LLM_INVALID, "attribute value of constant must be a number, or a list");
	refused("y constant - value=null\n", LLM_INVALID, "must be a number");
	refused("y constant - value=true\n", LLM_INVALID, "must be a number");
	refused("y constant - value='1\n", LLM_INVALID, "must be a number");
	refused("y constant - value=nan\n", LLM_INVALID, "must be a number");
	refused("y constant - value=1e39\n", LLM_INVALID, "must be a number");
	refused("y constant - value=[1,-inf]\n", LLM_INVALID, "must be a number");
	refused("y constant - value=[[1,2],[3]]\n", LLM_INVALID, "equally long");
	refused("y constant - value=[1,[2]]\n", LLM_INVALID, "equally long");
	refused("y constant - value=[[1],2]\n", LLM_INVALID, "equally long");
	refused("y constant - value=[[],[1]]\n", LLM_INVALID, "equally long");
	refused("y constant - value=[[[[[[[[[7]]]]]]]]]\n", LLM_INVALID, "8 levels");
	refused("y constant - value=1 shape=[2]\n", LLM_INVALID, "no attribute \"shape\"");
	refused("y constant x value=1\n", LLM_INVALID, "takes 0 inputs, not 1");
	refused("y param - shape=[C] trainable=0\n", LLM_INVALID, "trainable;true or false");
	refused("y param - shape=[C] trainable=no\n", LLM_INVALID, "trainable;true or false");
	refused("y input - shape=[C] trainable=false\n", LLM_INVALID, "no attribute \"trainable\"");
	refused("y input - shape=[C] recompute=true\n", LLM_INVALID, "no attribute \"recompute\"");
	refused("y param - shape=[C] recompute=true\n", LLM_INVALID, "no attribute \"recompute\"");
	refused("y silu x recompute=1\n", LLM_INVALID, "attribute recompute of silu must be true or false");
	refused("y sum ids\n", LLM_SHAPE, "sum cannot read whole numbers");
	refused("y dropout x p=0.5 seed=-1\n", LLM_INVALID, "seed");
	refused("y dropout x p=0.5 seed=7\n", LLM_INVALID, "seed"); /* a number, not a text */
}

static void
refusals(void)
{
	refused("y add x,nowhere\n", LLM_MISSING, "\"y\";\"nowhere\";not in the graph");
	refused("y add x,y\n", LLM_INVALID, "\"y\" depends on itself through \"y\"");
	refused("a neg b\nb exp c\nc tanh a\n", LLM_INVALID, "depends on itself");
	refused("y add x\n", LLM_INVALID, "\"y\";add takes 2 inputs, not 1");
	refused("y add x,x,x\n", LLM_INVALID, "takes 2 inputs, not 3");
	refused("y input x shape=[B]\n", LLM_INVALID, "takes 0 inputs, not 1");
	refused("y layernorm x,v\n", LLM_INVALID, "takes 3 inputs, not 2");

	refused("s param - shape=[]\ny matmul x,s\n", LLM_SHAPE, "\"y\";(B,T,C);();scalar");
	refused("y matmul w,w\n", LLM_SHAPE, "(C,F) and w (C,F);F and C differ;transpose_b");
	refused("y matmul x,w transpose_b=true\n", LLM_SHAPE, "inner dimensions C and F differ;(N,K)");
	refused("q input - shape=[2*B,T,C]\ny matmul x,q transpose_b=true\n", LLM_SHAPE,
		"(2*B,T,C);leading dimensions");
	refused("y matmul w,x transpose_b=true\n", LLM_SHAPE, "inner dimensions F and C differ");
	refused("y add x,w\n", LLM_SHAPE, "(B,T,C) and w (C,F);do not broadcast;equal or one of them 1");
	refused("t input - shape=[2*T]\nk input - shape=[T]\ny sub t,k\n", LLM_SHAPE, "(2*T) and k (T)");
	refused("y add x,ids\n", LLM_SHAPE, "add cannot read whole numbers (\"ids\")");
	refused("y embedding x,w\n", LLM_SHAPE, "whole numbers");
	refused("y embedding ids,v\n", LLM_SHAPE, "(B,T) and v (C);two dimensions");
	refused(
		"i input - shape=[1,1,1,1,1,1,1,1] dtype=int\ny embedding i,w\n", LLM_SHAPE, "too many dimensions");
	refused("s param - shape=[]\ny softmax s\n", LLM_SHAPE, "scalar");
	refused("y layernorm x,v,w\n", LLM_SHAPE, "(B,T,C) and w (C,F);last dimension");
	refused("f param - shape=[F]\ny layernorm x,v,f\n", LLM_SHAPE, "and f (F)");
	refused("s param - shape=[]\ny layernorm s,v,v\n", LLM_SHAPE, "()");
	refused("t input - shape=[T] dtype=int\ny cross_entropy x,t\n", LLM_SHAPE, "(B,T,C) and t (T);without V");
	refused("y attention x n_head=5\n", LLM_SHAPE, "(B,T,C);4 channels do not divide into 5 heads");
	refused("q input - shape=[B,T,10]\ny attention q n_head=1\n", LLM_SHAPE, "(B,T,10);three times");
	refused(
		"q input - shape=[B,T,3*X]\ny attention q n_head=1\n", LLM_SHAPE, "(B,T,3*X);size of X is not known");
	refused("y attention v n_head=1\n", LLM_SHAPE, "(C);(B,T,3*C)");
	refused(APART "y attention q,k n_head=6\n", LLM_INVALID,
		"1 input (qkv), 3 (q, k, v) or 4 (and a bias), not 2");
	refused(APART "y attention q,k,u,q,q n_head=6\n", LLM_INVALID, "attention takes 1 to 4 inputs, not 5");
	refused(APART "y attention q,k,u n_head=6\n", LLM_SHAPE,
		"(B,T,F) and k (B,T,8);6 heads of queries and 6 of keys must have the same size");
	refused(APART "y attention q,k,q n_head=6 n_kv_head=2\n", LLM_SHAPE,
		"keys and values must have the same shape");
	refused(APART "y attention q,w,w n_head=6 n_kv_head=2\n", LLM_SHAPE,
		"(B,T,n_head*HS) and (B,S,n_kv_head*HS)");
	refused("m input - shape=[B,S,4]\ny attention x,m,m n_head=3 n_kv_head=1\n", LLM_SHAPE,
		"queries and keys have different positions;causal false");
	refused("m input - shape=[B,S,4]\ny attention x,m,m n_head=3 n_kv_head=1 causal=false window=3\n",
		LLM_SHAPE, "queries and keys have different positions;no window");
	refused(APART "b input - shape=[5,T,T]\ny attention q,k,u,b n_head=6 n_kv_head=2\n", LLM_SHAPE,
		"(B,T,F) and b (5,T,T);the bias must be (T,S)");
	refused(APART "b input - shape=[T]\ny attention q,k,u,b n_head=6 n_kv_head=2\n", LLM_SHAPE,
		"and b (T);the bias must be (T,S)");

	refused("y rope x,x\n", LLM_SHAPE, "(B,T,C) and x (B,T,C);positions must be whole numbers");
	refused("i input - shape=[B] dtype=int\ny rope x,i\n", LLM_SHAPE, "(B,T,C) and i (B);(…,T,channels)");
	refused("i input - shape=[] dtype=int\ny rope x,i\n", LLM_SHAPE, "(B,T,C) and i ();(…,T,channels)");
	refused("i input - shape=[C] dtype=int\ny rope i,i\n", LLM_SHAPE, "rope cannot read whole numbers");
	refused("i input - shape=[T] dtype=int\ny rope x,i n_head=5\n", LLM_SHAPE,
		"12 channels do not divide into 5 heads");
	refused(
		"i input - shape=[T] dtype=int\ny rope x,i n_head=4\n", LLM_SHAPE, "3 channels do not make pairs");
	refused("i input - shape=[T] dtype=int\ny rope x,i n_head=3 dims=6\n", LLM_SHAPE,
		"6 channels cannot be turned in a head of 4;n_head heads lie side by side");
	refused("i input - shape=[T] dtype=int\nz input - shape=[B,T,X]\ny rope z,i\n", LLM_SHAPE,
		"size of X is not known");

	refused("y param - shape=[X]\n", LLM_SHAPE, "\"y\";size of X is not known;C, V, P, F");
	refused("y param - shape=[2000000000*C]\n", LLM_LIMIT, "too large");
	refused("y param - shape=[1e10]\n", LLM_INVALID, "whole numbers");
}

/* Attributes: unknown names, wrong kinds, numbers out of range. */
static void
hostile_attributes(void)
{
	static const char *const values[] = {"nan", "inf", "-inf", "-1", "1e300", "-1e300", "0.5", "1e-400",
		"true", "text", "[]", "[1]", "[a,b]", "[nan]", "[[", "null", "4097", "2147483648",
		"9223372036854775808", ""};
	static const char *const uses[] = {"y input - shape=%s\n", "y input - shape=[B] dtype=%s\n",
		"y param - shape=%s\n", "y param - shape=[C] init=%s\n", "y param - shape=[C] std=%s\n",
		"y matmul x,w transpose_b=%s\n", "y gelu x approximate=%s\n", "y dropout x p=%s\n",
		"y layernorm x,v,v eps=%s\n", "y attention x n_head=%s\n", "y attention x n_head=2 causal=%s\n",
		"y attention x n_head=2 window=%s\n", "y attention x n_head=2 scale=%s\n",
		"y attention x n_head=2 head_mask=%s\n", "y attention x n_head=2 head_mask=[1,%s]\n",
		"y attention x n_head=2 dropout=%s\n", "y attention x n_head=2 slopes=[1,%s]\n",
		"y attention x,x,x n_head=2 n_kv_head=%s\n", "y attention x n_head=2 pattern=%s stride=2\n",
		"y attention x n_head=2 pattern=fixed stride=%s\n",
		"y attention x n_head=2 pattern=fixed stride=9 summary=%s\n", "y sum x axis=%s\n",
		"y softmax x axis=%s\n", "y reshape x shape=%s\n", "y reshape x shape=[B,%s]\n",
		"y transpose x axes=%s\n", "y transpose x axes=[0,1,%s]\n", "y slice x starts=%s stops=[1]\n",
		"y slice x starts=[%s] stops=[1]\n", "y slice x starts=[0] stops=[%s]\n", "y concat x,x axis=%s\n",
		"y dropout x p=0.5 seed=%s\n", ROPE "n_head=%s\n", ROPE "theta=%s\n", ROPE "dims=%s\n",
		ROPE "interleaved=%s\n", ROPE "factor=%s\n",
		ROPE "factor=2 low_freq_factor=%s high_freq_factor=9 original_max_position_embeddings=9\n",
		"y input - shape=[%s]\n", "y input - shape=[B,%s,3]\n"};

	for (size_t i = 0; i < sizeof(uses) / sizeof(*uses); i++)
		for (size_t j = 0; j < sizeof(values) / sizeof(*values); j++)
		{
			char line[200], text[600];
			TestModel m;
			LlmError err = {0};
			LlmCode code;

			snprintf(line, sizeof(line), uses[i], values[j]);
			snprintf(text, sizeof(text), INPUTS "%sz neg y\n", line);
			tm_parse(&m, text, 12, 41, 30, 24);
			code = llm_graph_check(&m.model.graph, &err);
			CHECK(code == LLM_OK || (code == err.code && strstr(err.message, "\"y\"") != NULL));
			tm_free(&m);
		}
	refused("y dropout x p=1\n", LLM_INVALID, "\"y\";attribute p;not including, 1");
	refused("y dropout x p=nan\n", LLM_INVALID, "attribute p");
	refused("y layernorm x,v,v eps=-1e-9\n", LLM_INVALID, "attribute eps of layernorm must be a number >= 0");
	refused("y layernorm x,v,v eps=inf\n", LLM_INVALID, "attribute eps");
	refused("y rmsnorm x,v eps=-1e-9\n", LLM_INVALID, "attribute eps of rmsnorm must be a number >= 0");
	refused("y rmsnorm x,v eps=inf\n", LLM_INVALID, "attribute eps");
	refused("y attention x\n", LLM_INVALID, "attribute n_head");
	refused("y attention x n_head=2.5\n", LLM_INVALID, "attribute n_head");
	refused("y attention x n_head=4097\n", LLM_INVALID, "attribute n_head");
	refused("y attention x n_head=two\n", LLM_INVALID, "attribute n_head");
	refused("y attention x n_head=2 heads=2\n", LLM_INVALID,
		"no attribute \"heads\";It takes: n_head n_kv_head causal");
	refused("y attention x n_head=2 head_mask=[1,2,3]\n", LLM_INVALID, "one number per head");
	refused("y attention x n_head=2 head_mask=[1,true]\n", LLM_INVALID, "one number per head");
	refused("y attention x n_head=2 causal=yes\n", LLM_INVALID, "causal;true or false");
	refused("y attention x n_head=2 window=1.5\n", LLM_INVALID, "window");
	refused("y attention x n_head=2 window=0\n", LLM_INVALID, "window");
	refused("y attention x n_head=2 window=31\n", LLM_INVALID,
		"a window of 31 keys is larger than the context of 30 positions;Without a window");
	refused("y attention x n_head=2 n_kv_head=1\n", LLM_INVALID, "n_kv_head;unless q, k and v are separate");
	refused(
		APART "y attention q,k,u n_head=6 n_kv_head=4\n", LLM_INVALID, "n_kv_head;a divisor of n_head, 6");
	refused(
		APART "y attention q,k,u n_head=6 n_kv_head=1.5\n", LLM_INVALID, "n_kv_head;a divisor of n_head, 6");
	refused(
		APART "y attention q,k,u n_head=6 n_kv_head=12\n", LLM_INVALID, "n_kv_head;a divisor of n_head, 6");
	refused("y attention x n_head=2 slopes=[1]\n", LLM_INVALID, "slopes;one number per head");
	refused("y attention x n_head=2 pattern=strided\n", LLM_INVALID, "pattern and stride;belong together");
	refused("y attention x n_head=2 stride=4\n", LLM_INVALID, "pattern and stride;belong together");
	refused("y attention x n_head=2 pattern=dense stride=4\n", LLM_INVALID, "pattern;strided");
	refused("y attention x n_head=2 pattern=fixed stride=2.5\n", LLM_INVALID, "stride;whole number");
	refused("y attention x n_head=2 pattern=fixed stride=2 summary=3\n", LLM_INVALID, "summary;up to stride");
	refused(ROPE "n_head=1.5\n", LLM_INVALID, "attribute n_head of rope");
	refused(ROPE "dims=2.5\n", LLM_INVALID, "attribute dims of rope;whole number");
	refused(ROPE "dims=0\n", LLM_INVALID, "attribute dims of rope;even number");
	refused(ROPE "theta=0\n", LLM_INVALID, "attribute theta of rope must be a positive number");
	refused(ROPE "factor=-1\n", LLM_INVALID, "attribute factor of rope must be a positive number");
	refused(ROPE "high_freq_factor=4\n", LLM_INVALID, "attribute factor of rope is missing;four numbers");
	refused(ROPE "factor=2 low_freq_factor=1 original_max_position_embeddings=64\n", LLM_INVALID,
		"attribute high_freq_factor of rope is missing");
	refused(ROPE "factor=2 low_freq_factor=4 high_freq_factor=4 original_max_position_embeddings=64\n",
		LLM_INVALID, "attribute high_freq_factor of rope must be larger than low_freq_factor");
	refused("y matmul x,w transpose=true\n", LLM_INVALID, "no attribute \"transpose\";transpose_b");
	refused("y neg x p=1\n", LLM_INVALID, "It takes: recompute");
	refused("y gelu x approximate=fast\n", LLM_INVALID, "approximate;tanh");
	refused("y input -\n", LLM_INVALID, "attribute shape");
	refused("y input - shape=3\n", LLM_INVALID, "attribute shape");
	refused("y input - shape=[1,1,1,1,1,1,1,1,1]\n", LLM_INVALID, "at most 8");
	refused("y input - shape=[B] dtype=bool\n", LLM_INVALID, "dtype");
	refused("y input - shape=[4*4]\n", LLM_INVALID, "\"y\";\"4*4\"");
	refused("y input - shape=[C*4]\n", LLM_INVALID, "\"C*4\"");
	refused("y input - shape=[a_name_of_16_chr]\n", LLM_INVALID, "a_name_of_16_chr");
	refused("y input - shape=[-3]\n", LLM_INVALID, "shape");
	refused("y input - shape=[99999999999999999999*C]\n", LLM_INVALID, "99999999999999999999*C");
}

/*
 * An error text stays within its buffer however long the names are, and consists of whole UTF-8 characters.
 */
static void
long_names(void)
{
	size_t n = 5000;
	char *name = malloc(n + 1), *text = malloc(4 * n);
	TestModel m;
	LlmError err;

	for (size_t i = 0; i + 1 < n; i += 2)
		memcpy(name + i, "\xc3\xa9", 2);
	name[n - n % 2] = 0;
	sprintf(text, "%s input - shape=[B,2]\ny matmul %s,%s\n", name, name, name);
	tm_parse(&m, text, 1, 1, 1, 1);
	CHECK(llm_graph_check(&m.model.graph, &err) == LLM_SHAPE && strlen(err.message) < sizeof(err.message));
	CHECK(strcmp(err.message + strlen(err.message) - 3, "...") == 0);
	tm_free(&m);
	free(name);
	free(text);
}

/*
 * As many nodes as allowed, in the worst order, and one more; with a quadratic algorithm this would take
 * minutes.
 */
static void
many_nodes(void)
{
	for (int extra = 0; extra < 2; extra++)
	{
		int n = LLM_MAX_NODES + extra;
		char *text = malloc(n * 40), *at = text;
		TestModel m;
		LlmError err;

		for (int i = 0; i < n - 1; i++)
			at += sprintf(at, "n%d add n%d,n%d\n", i, i + 1, i + 1);
		sprintf(at, "n%d input - shape=[B]\n", n - 1);
		tm_parse(&m, text, 1, 1, 1, 1);
		if (extra)
			CHECK_FAILS(
				llm_graph_check(&m.model.graph, &err), LLM_LIMIT, "at most 20000 nodes, not 20001", err);
		else
		{
			CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
			for (int i = 0; i < n; i++)
				CHECK(m.model.graph.order[i] == n - 1 - i);
		}
		tm_free(&m);
		free(text);
	}
}

/*
 * Rows that are in order stay in it; others are placed after their inputs, otherwise in the order they were
 * added.
 */
/* As many numbers as a constant may have, and one more. */
static void
large_constants(void)
{
	char *text = malloc(20000);
	LlmError err;

	for (int n = 4096; n <= 4097; n++)
	{
		TestModel m;
		char *end = text + sprintf(text, "y constant - value=[");

		for (int i = 0; i < n; i++)
			end += sprintf(end, "%s%d", i ? "," : "", i % 10);
		sprintf(end, "]\n");
		tm_parse(&m, text, 12, 41, 30, 24);
		if (n == 4096)
			CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
		else
			CHECK_FAILS(llm_graph_check(&m.model.graph, &err), LLM_INVALID, "4096 numbers", err);
		tm_free(&m);
	}
	free(text);
}

static void
order(void)
{
	static const struct
	{
		const char *text;
		int order[5];
	} cases[] = {{"a input - shape=[B]\nb neg a\nc neg a\nd add b,c\ne neg d\n", {0, 1, 2, 3, 4}},
		{"e neg d\nd add b,c\nc neg a\nb neg a\na input - shape=[B]\n", {4, 3, 2, 1, 0}},
		{"d add b,c\na input - shape=[B]\ne neg a\nb neg a\nc neg e\n", {1, 3, 2, 4, 0}}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
	{
		TestModel m;
		LlmError err;

		tm_parse(&m, cases[i].text, 1, 1, 1, 1);
		CHECK_OK(llm_graph_check(&m.model.graph, &err), err);
		CHECK(memcmp(m.model.graph.order, cases[i].order, sizeof(cases[i].order)) == 0);
		for (int j = 0; j < 5; j++)
			CHECK(llm_graph_find(&m.model.graph, m.model.graph.nodes[j].name) == j);
		CHECK(llm_graph_find(&m.model.graph, "") == -1 && llm_graph_find(&m.model.graph, "f") == -1);
		tm_free(&m);
	}
}

int
main(void)
{
	TestModel empty;
	LlmError err;

	shape_rules();
	view_rules();
	refusals();
	hostile_attributes();
	long_names();
	many_nodes();
	order();
	large_constants();
	tm_parse(&empty, "", 1, 1, 1, 1);
	CHECK_OK(llm_graph_check(&empty.model.graph, &err), err);
	tm_free(&empty);
	for (int op = 0; op < LLM_OP_COUNT; op++)
		CHECK(llm_op_find(llm_op_name((LlmOp) op)) == (LlmOp) op);
	CHECK(llm_op_find("conv") == LLM_OP_COUNT && llm_op_find("") == LLM_OP_COUNT);
	return 0;
}
