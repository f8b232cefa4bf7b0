/*
 * Every gradient rule compared with differences of the formulas in float64, over shapes that are odd,
 * broadcast, empty or a single number; the same bits on every instruction set and number of threads, and
 * over a tape of the same values.
 */
#include "gradient_case.h"

static void
elementwise_rules(void)
{
	each("neg;exp;tanh;relu;gelu", "x param - shape=[3,5]\ny % x\n");
	each("neg;exp;tanh;relu;gelu", "x param - shape=[]\ny % x\n");
	each("sigmoid;silu;sin;cos", "x param - shape=[3,5]\ny % x\n");
	each("sigmoid;silu;sin;cos", "x param - shape=[0,5]\nx9 add x,x\ny % x9\n");
	each("sin;cos", "x param - shape=[7]\nk constant - value=9\nbig mul x,k\ny % big\n");
	each("0.5;[1,2,3,4];[[1],[-2],[3]]", "x param - shape=[3,4]\nk constant - value=%\ny mul x,k\n");
	each("log;sqrt;exp", "p param - shape=[17]\ny % p\n");
	each("tanh;none", "x param - shape=[2,9]\nx3 add x,x\ny gelu x3 approximate=%\n");
	each("exp;gelu", "x param - shape=[0,4]\ny % x\n");
	for (const char *ops = "add;sub;mul;div"; *ops; ops += strcspn(ops, ";") + (strchr(ops, ';') != NULL))
	{
		static const char *const shapes[][2] = {{"2,3,4", "2,3,4"}, {"2,3,4", "4"}, {"2,3,4", "3,1"},
			{"2,1,4", "3,1"}, {"1", "2,3"}, {"", "2,3"}, {"2,3", ""}, {"2,3,1", "2,1,5"}, {"0,3", "3"},
			{"0,3", "1"}, {"3", "0,3"}, {"70,3", "70,1"}, {"1,7", "300,7"}, {"2,1,3,1", "4,1,5"}, {"", ""}};

		for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
		{
			char text[300];

			snprintf(text, sizeof(text), "x param - shape=[%s]\np param - shape=[%s]\ny %.*s x,p\n",
				shapes[i][0], shapes[i][1], (int) strcspn(ops, ";"), ops);
			rule(text);
			snprintf(text, sizeof(text),
				"x param - shape=[%s]\np param - shape=[%s]\na neg x\nb neg p\ny %.*s a,b\n", shapes[i][0],
				shapes[i][1], (int) strcspn(ops, ";"), ops); /* gradients of values, not of leaves */
			rule(text);
			snprintf(text, sizeof(text), "x param - shape=[%s]\np input - shape=[%s]\ny %.*s x,p\n",
				shapes[i][0], shapes[i][1], (int) strcspn(ops, ";"), ops);
			rule(text);
		}
	}
	each("add;sub;mul;div", "p param - shape=[3]\ny % p,p\n");
}

static void
matmul_rules(void)
{
	static const char *const shapes[][3] = {{"3,4", "4,5", ""}, {"3,4", "5,4", "t"}, {"4", "4,3", ""},
		{"4", "3,4", "t"}, {"2,3,4", "4", ""}, {"4", "4", ""}, {"2,3,4", "4,5", ""}, {"2,3,4", "5,4", "t"},
		{"2,3,4", "2,4,5", ""}, {"2,3,4", "2,5,4", "t"}, {"2,1,3,4", "5,4,2", ""}, {"2,1,3,4", "5,2,4", "t"},
		{"5,4", "3,4,2", ""}, {"5,4", "3,2,4", "t"}, {"1,3,4", "2,4,5", ""}, {"2,3,4", "1,4,5", ""},
		{"3,2,3,4", "2,4,5", ""}, {"4", "2,4,3", ""}, {"2,3,0", "0,5", ""}, {"0,4", "4,5", ""},
		{"3,4", "4,0", ""}, {"0,3,4", "0,4,2", ""}, {"3,4", "0,4,2", ""}, {"140,3", "3,2", ""},
		{"2,150", "150,33", ""}, {"1,1", "1,1", ""}};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
		for (int leaf = 0; leaf < 3; leaf++)
		{
			char text[300];

			snprintf(text, sizeof(text),
				"a %s - shape=[%s]\nb %s - shape=[%s]\ny matmul a,b transpose_b=%s\n",
				leaf == 1 ? "input" : "param", shapes[i][0], leaf == 2 ? "input" : "param", shapes[i][1],
				*shapes[i][2] ? "true" : "false");
			rule(text);
		}
	rule("a param - shape=[4,3]\ny matmul a,a transpose_b=true\n");
	rule("a param - shape=[4,4]\ny matmul a,a\n");
}

/* Queries, keys and values apart: fewer heads of keys, another sequence, biases of every shape. */
static void
grouped_attention(void)
{
#define APART "q param - shape=[2,5,18]\nk param - shape=[2,5,6]\nv param - shape=[2,5,6]\n"
	each(";causal=false;window=2;window=3 causal=false;scale=-0.3;head_mask=[1,0,-0.5];slopes=[0.5,0.25,-1];"
		 "slopes=[0.5,0,1] causal=false;pattern=strided stride=2;pattern=fixed stride=2;"
		 "pattern=fixed stride=3 summary=2 causal=false;pattern=strided stride=3 causal=false window=4",
		APART "y attention q,k,v n_head=3 n_kv_head=1 %\n");
	each("5,5;3,5,5;1,5,5;2,3,5,5;1,3,5,5;2,1,5,5;2,1,1,5;1,5;9,7;3,8,8;2,1,6,6;1,7",
		APART "b param - shape=[%]\ny attention q,k,v,b n_head=3 n_kv_head=1 head_mask=[1,-2,0.5]\n");
	each("5,5;2,1,1,5;9,7",
		APART "b param - shape=[%]\ny attention q,k,v,b n_head=3 n_kv_head=1 causal=false "
			  "slopes=[0.5,0.25,1]\n");
	rule("q param - shape=[4,12]\nk input - shape=[4,6]\nv param - shape=[4,6]\ny attention q,k,v n_head=4 "
		 "n_kv_head=2\n");
	rule("q input - shape=[4,12]\nk param - shape=[4,6]\nb param - shape=[4,4]\ny attention q,k,k,b n_head=4 "
		 "n_kv_head=2\n");
	rule("x param - shape=[2,6,4]\ny attention x,x,x n_head=2\n");
	each("0;1;3;131", "q param - shape=[2,5,6]\nk param - shape=[2,%,6]\nv param - shape=[2,%,6]\n"
					  "y attention q,k,v n_head=2 causal=false\n");
	rule("q param - shape=[2,5,6]\nk param - shape=[2,4,3]\nb param - shape=[2,5,4]\n"
		 "y attention q,k,k,b n_head=2 n_kv_head=1 causal=false\n");
	each("window=17", "q param - shape=[131,6]\nk param - shape=[131,3]\nv param - shape=[131,3]\n"
					  "y attention q,k,v n_head=2 n_kv_head=1 %\n");
	rule("q param - shape=[0,6]\nk param - shape=[0,3]\nb param - shape=[0,0]\ny attention q,k,k,b n_head=2 "
		 "n_kv_head=1\n");
}

static void
layer_rules(void)
{
	each("7;3,5;2,3,4;1,1;0,3;3,0", "x param - shape=[%]\ny softmax x\n");
	each("0;1;2;-2", "x param - shape=[3,4,5]\ny softmax x axis=%\n");
	rule("x param - shape=[1,4]\ny softmax x axis=0\n");
	rule("x param - shape=[0,4]\ny softmax x axis=0\n");
	each("7;3,5;2,3,4;1,1;0,3;3,0;2,300", "x param - shape=[%]\ny log_softmax x\n");
	each("0;1;2;-2", "x param - shape=[3,4,5]\ny log_softmax x axis=%\n");
	each("3,5;5;2,3,5;0,5", "x param - shape=[%]\ng param - shape=[5]\ny rmsnorm x,g\n");
	rule("x param - shape=[4,1]\ng param - shape=[1]\ny rmsnorm x,g eps=0.5\n");
	rule("x param - shape=[3,0]\ng param - shape=[0]\ny rmsnorm x,g\n");
	rule("x input - shape=[140,3]\ng param - shape=[3]\ny rmsnorm x,g eps=0.1\n");
	rule("x param - shape=[2,3]\ng input - shape=[3]\ny rmsnorm x,g\n");
	each("3,5;5;2,3,5;0,5",
		"x param - shape=[%]\ng param - shape=[5]\nb param - shape=[5]\ny layernorm x,g,b\n");
	rule("x param - shape=[4,1]\ng param - shape=[1]\nb param - shape=[1]\ny layernorm x,g,b eps=0.5\n");
	rule("x input - shape=[140,3]\ng param - shape=[3]\nb param - shape=[3]\ny layernorm x,g,b eps=0.1\n");
	rule("x param - shape=[2,3]\ng input - shape=[3]\nb input - shape=[3]\ny layernorm x,g,b\n");
	each("n_head=3;n_head=1;n_head=6;n_head=2 causal=false;n_head=2 window=2;n_head=3 window=3 causal=false;"
		 "n_head=3 head_mask=[1,0,-0.5];n_head=2 scale=-0.3",
		"x param - shape=[2,5,18]\ny attention x %\n");
	rule("x param - shape=[7,12]\ny attention x n_head=2\n");
	grouped_attention();
	rule("x param - shape=[0,12]\ny attention x n_head=2\n");
	rule("x param - shape=[131,6]\ny attention x n_head=2\n");
	each("n_head=3;n_head=3 interleaved=true;n_head=1;n_head=3 dims=4;n_head=3 dims=2 interleaved=true;"
		 "n_head=3 theta=100 factor=4;n_head=1 theta=500 factor=8 low_freq_factor=1 high_freq_factor=4 "
		 "original_max_position_embeddings=20",
		"x param - shape=[2,5,18]\ni input - shape=[5] dtype=int\ny rope x,i %\n");
	each("5;2,5", "p param - shape=[2,5,6]\nx mul p,p\ni input - shape=[%] dtype=int\ny rope x,i\n");
	rule("x param - shape=[7,4]\ni input - shape=[7] dtype=int\ny rope x,i\n");
	rule("x param - shape=[0,4]\ni input - shape=[0] dtype=int\ny rope x,i\n");
	rule("x param - shape=[3,0]\ni input - shape=[3] dtype=int\ny rope x,i n_head=2\n");
	each("0.3;0;1", "x param - shape=[5,7]\ny dropout x p=% seed='12345678901234567890\n");
	rule("x param - shape=[4]\ny dropout x p=0.5\n"); /* dropout is applied in training only */
	rule("x param - shape=[4,7]\nt input - shape=[4] dtype=int\ny cross_entropy x,t\n");
	rule("x param - shape=[2,3,5]\nt input - shape=[2,3] dtype=int\ny cross_entropy x,t\n");
	rule("x param - shape=[5]\ni input - shape=[] dtype=int\ny cross_entropy x,i\n");
	rule("x param - shape=[0,5]\ni input - shape=[0] dtype=int\ny cross_entropy x,i\n");
	each("4,7;2,3,5;5;0,5;3,300", "x param - shape=[%]\np param - shape=[%]\ny cross_entropy x,p\n");
	rule("x param - shape=[4,7]\np input - shape=[4,7]\nz neg x\ny cross_entropy z,p\n");
	rule("x param - shape=[4,7]\ns softmax x\ny cross_entropy x,s\n");
	each("4,7;;5000;70,300", "x param - shape=[%]\nz param - shape=[%]\ny mse x,z\n");
	rule("x param - shape=[4,7]\nk input - shape=[4,7]\nz neg x\ny mse k,z\n");
	rule("x param - shape=[4]\ny mse x,x\n");
	rule("i input - shape=[2,4] dtype=int\nw param - shape=[3,5]\ny embedding i,w\n");
	rule("i input - shape=[] dtype=int\nw param - shape=[3,70]\ny embedding i,w\n");
	rule("i input - shape=[0] dtype=int\nw param - shape=[3,5]\ny embedding i,w\n");
}

static void
view_rules(void)
{
	static const char reduce[] = "sum;mean;max;min;var;norm";

	each(reduce, "x param - shape=[3,4,5]\ny % x\n");
	each(reduce, "x param - shape=[3,4,5]\ny % x axis=0\n");
	each(reduce, "x param - shape=[3,4,5]\ny % x axis=1\n");
	each(reduce, "x param - shape=[3,4,5]\ny % x axis=-1\n");
	each(reduce, "p param - shape=[]\ny % p\n");
	each(reduce, "p param - shape=[1,3]\ny % p axis=0\n");
	each(reduce, "x param - shape=[0,3]\ny % x axis=1\n");
	each("sum;norm", "x param - shape=[0,3]\ny % x axis=0\n");
	each("sum;mean;var;max", "x param - shape=[5000]\ny % x\n");
	each("mean;min", "x param - shape=[70,300]\ny % x axis=0\n");
	each("12;3,4;-1,2;2,2,3,1;4,-1", "x param - shape=[2,6]\ny reshape x shape=[%]\n");
	rule("x param - shape=[]\ny reshape x shape=[1,1]\n");
	rule("x param - shape=[0,2]\ny reshape x shape=[5,0]\n");
	each(";axes=[0,1,2];axes=[2,0,1];axes=[1,-1,0]", "x param - shape=[2,3,4]\ny transpose x %\n");
	rule("x param - shape=[3]\ny transpose x\n");
	rule("x param - shape=[]\ny transpose x\n");
	rule("x param - shape=[3,0]\ny transpose x\n");
	each("[1] stops=[3];[0,1] stops=[null,3];[0,0,2] stops=[4,3,4];[-2,0,-3] stops=[-1,1,null];[2] "
		 "stops=[2];[] "
		 "stops=[]",
		"x param - shape=[4,3,5]\ny slice x starts=%\n");
	rule("x param - shape=[7]\ny slice x starts=[2] stops=[5]\n");
	rule("x param - shape=[]\ny slice x starts=[] stops=[]\n");
	each("0;1;-1",
		"x param - shape=[2,3,2]\nz param - shape=[2,3,2]\nk input - shape=[2,3,2]\ny concat x,k,z axis=%\n");
	rule("x param - shape=[2,3]\nz param - shape=[4,3]\ny concat x,z,x\n");
	rule("x param - shape=[3]\nk input - shape=[3]\ny stack x,k,x,x,x\n");
	rule("x param - shape=[]\ny stack x\n");
	rule("x param - shape=[2,3]\nz param - shape=[2,3]\ny total x,z,x\n");
	rule("x param - shape=[2,3]\ny total x\n");
	each("ones_like;zeros_like", "x param - shape=[2,3]\nz % x\ny add x,z\n");
	each("ones_like;zeros_like", "x param - shape=[2,3]\ny % x\n");
}

static void
image_rules(void)
{
	static const char weights[] =
		"x param - shape=[2,3,5,4]\nw param - shape=[4,3,3,2]\nb param - shape=[4]\n";
	static const char how[] = ";padding=1;stride=2;stride=2 padding=1;stride=3 padding=2;padding=[0,1,2,0];"
							  "stride=2 padding=[0,1,0,1];stride=5 padding=4";
	char text[400];

	snprintf(text, sizeof(text), "%sy conv2d x,w,b %%\n", weights);
	each(how, text);
	each("x,w;x,w padding=2", "x input - shape=[2,3,3,3]\nw param - shape=[5,3,3,3]\ny conv2d %\n");
	each("1;2;4",
		"x param - shape=[2,4,5,3]\nw input - shape=[8,1,2,2]\nv param - shape=[8,2,2,2]\nu param - "
		"shape=[8,4,2,2]\na conv2d x,w groups=4\nb conv2d x,v groups=2 stride=2 padding=1\nc conv2d x,u\n"
		"d add a,c\ne slice d starts=[0,0,0,0] stops=[2,%,3,2]\nf slice b starts=[0,0,0,0] "
		"stops=[2,%,3,2]\ny mul e,f\n");
	rule("x param - shape=[2,130,3,3]\nw param - shape=[2,130,2,3]\ny conv2d x,w padding=1\n");
	rule("x param - shape=[3,1,9,9]\nw param - shape=[35,1,3,3]\ny conv2d x,w padding=1\n"); /* 243 pixels */
	rule("x param - shape=[1,1,1,1]\nw param - shape=[1,1,1,1]\ny conv2d x,w\n");
	rule("x param - shape=[0,3,4,4]\nw param - shape=[2,3,3,3]\nb param - shape=[2]\ny conv2d x,w,b\n");
	rule("x param - shape=[2,0,4,4]\nw param - shape=[2,0,3,3]\nb param - shape=[2]\ny conv2d x,w,b\n");
	rule("x param - shape=[2,3,4,4]\nw param - shape=[0,3,3,3]\nb param - shape=[0]\ny conv2d x,w,b\n");
	rule("x param - shape=[2,3,0,4]\nw param - shape=[2,3,1,1]\ny conv2d x,w padding=1 stride=2\n");
	each("1;2;3;6 eps=0.1",
		"x param - shape=[2,6,3,5]\ng param - shape=[6]\nb param - shape=[6]\ny groupnorm x,g,b "
		"groups=%\n");
	each("3,12;2,12,1;0,12,3;2,12,0;1,12,5,1,2;1,12,30,40",
		"x param - shape=[%]\ng param - shape=[12]\nb param - shape=[12]\ny groupnorm x,g,b groups=3\n");
	rule("x param - shape=[2,4,3]\ng input - shape=[4]\nb input - shape=[4]\ny groupnorm x,g,b groups=2\n");
	rule("x input - shape=[2,4,3]\ng param - shape=[4]\nb param - shape=[4]\ny groupnorm x,g,b groups=2\n");
	rule("x param - shape=[2,0,3]\ng param - shape=[0]\nb param - shape=[0]\ny groupnorm x,g,b groups=3\n");
	each("upsample;avgpool", "x param - shape=[2,3,7,5]\ny % x\n");
	each("upsample;avgpool", "x param - shape=[3,4]\ny % x factor=3\n");
	each("upsample;avgpool", "x param - shape=[0,2,2]\ny % x\n");
	each(
		"[0,1] stops=[null,null] steps=[2,2];[0,0,1] stops=[4,3,5] steps=[1,2,3];[-3] stops=[null] steps=[5]",
		"x param - shape=[4,3,5]\ny slice x starts=%\n");
}

static void
select_rules(void)
{
	static const char *const shapes[][3] = {{"2,3,4", "2,3,4", "2,3,4"}, {"3,1", "2,3,4", "4"},
		{"", "5", "3,5"}, {"5", "", ""}, {"0,3", "3", "1"}, {"300,7", "7", "1,7"}, {"2,1,4", "3,1", ""}};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
		for (int leaf = 0; leaf < 3; leaf++)
		{
			char text[300];

			snprintf(text, sizeof(text),
				"c param - shape=[%s]\nk constant - value=0.1\ng greater c,k\na %s - shape=[%s]\nb %s - "
				"shape=[%s]\ny where g,a,b\n",
				shapes[i][0], leaf == 1 ? "input" : "param", shapes[i][1], leaf == 2 ? "input" : "param",
				shapes[i][2]);
			rule(text);
		}
	rule("a param - shape=[4,5]\ny where a,a,a\n");
	rule("a param - shape=[4,5]\nb param - shape=[5]\ny greater a,b\n");
	each("3,5;;0,4;70000", "x param - shape=[%]\ny clamp x min=-0.4 max=0.3\n");
	each("min=0.1;max=-0.2;;min=null max=0;min=0.25 max=0.25", "x param - shape=[7]\ny clamp x %\n");
	each("3,5;;0,4", "x param - shape=[%]\ny abs x\n");
	each("0;1;2;3;7;64;-1;-2;0.5;1.5;2.5;-0.3;0.1", "p param - shape=[3,5]\ny pow p exponent=%\n");
	each("0;1;2;3;5", "x param - shape=[5000]\ny pow x exponent=%\n");
	each("2;0.5", "x param - shape=[0]\ny pow x exponent=%\n");
	each("7;3,5;1;0,3;3,0;2,300", "x param - shape=[%]\ny cumsum x\n");
	each("0;1;2;-2", "x param - shape=[3,4,5]\nz neg x\ny cumsum z axis=%\n");
	/* the gradient of x flows through the factor that is not stopped */
	rule("x param - shape=[3,4]\ne exp x\nk constant - value=0\nz mul e,k\ns stop_gradient z\ny add s,x\n");
}

/* The elements of a row that topk orders lie more than a difference's step apart. */
static void
row_rules(void)
{
	each("1;2;5", "x param - shape=[4,5]\nk constant - value=[0,3,-3,9,6]\nz sub k,x\ny topk z k=%\n");
	each("values;indices;mask",
		"x param - shape=[2,3,7]\nk constant - value=[9,-3,0,3,-6,6,12]\nz add x,k\ny topk z k=3 output=%\n");
	rule("x param - shape=[9]\nk constant - value=[9,-3,0,3,-6,6,12,-9,15]\nz add x,k\ny topk z k=9\n");
	rule("x param - shape=[0,3]\ny topk x k=2\n");
	rule("i input - shape=[2,3] dtype=int\nx param - shape=[3]\nh one_hot i size=3\ny mul h,x\n");
	rule("i input - shape=[] dtype=int\nx param - shape=[4]\nh one_hot i size=4\ny mul h,x\n");
	rule("i input - shape=[2,4] dtype=int\nx param - shape=[3,5]\nz neg x\ny gather_rows z,i\n");
	rule("i input - shape=[7] dtype=int\nx param - shape=[3]\ny gather_rows x,i\n");
	rule("i input - shape=[] dtype=int\nx param - shape=[3,2,70]\ny gather_rows x,i\n");
	rule("i input - shape=[0] dtype=int\nx param - shape=[3,5]\ny gather_rows x,i\n");
	rule("i input - shape=[200] dtype=int\nx param - shape=[3,5]\ny gather_rows x,i\n");
	rule("i constant - value=[2,0,2]\nx param - shape=[3,5]\ny gather_rows x,i\n");
	rule("i input - shape=[5] dtype=int\nx param - shape=[5,3]\nz neg x\ny scatter_rows z,i size=4\n");
	rule("i input - shape=[2,4] dtype=int\nx param - shape=[2,4]\ny scatter_rows x,i size=3\n");
	rule("i input - shape=[] dtype=int\nx param - shape=[2,7]\ny scatter_rows x,i size=5\n");
	rule("i input - shape=[0] dtype=int\nx param - shape=[0,3]\ny scatter_rows x,i size=2\n");
	each("normal;uniform", "n % - shape=[5,4] seed='7\nx param - shape=[4]\ny mul n,x\n");
	rule("x param - shape=[3,4]\nt randint - shape=[2,7] high=3\ny gather_rows x,t\n");
	rule("x param - shape=[5,4]\nk constant - value=[0,6,-3,3]\nz add x,k\nt topk z k=2 output=indices\n"
		 "v topk z k=2\ny scatter_rows v,t size=4\n");
}

/* A row for all experts, and a row for each; several rows of one expert, none of another. */
static void
expert_rules(void)
{
	static const char *const shapes[][3] = {{"2,3,4", "2,3,2", "3,4,5"}, {"2,3,2,4", "2,3,2", "3,4,5"},
		{"4", "2", "3,4,70"}, {"6,130", "6,1", "4,130,3"}, {"150,3", "150,2", "3,3,2"},
		{"0,4", "0,2", "3,4,5"}, {"3,4", "3,2", "3,4,0"}, {"3,0", "3,2", "3,0,4"}, {"5,1,4", "5,1", "3,4,1"}};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
		for (int leaf = 0; leaf < 3; leaf++)
		{
			char text[300];

			snprintf(text, sizeof(text),
				"x %s - shape=[%s]\ni input - shape=[%s] dtype=int\nw %s - shape=[%s]\n"
				"y expert_matmul x,i,w\n",
				leaf == 1 ? "input" : "param", shapes[i][0], shapes[i][1], leaf == 2 ? "input" : "param",
				shapes[i][2]);
			rule(text);
		}
	/* a mixture of experts whose gate learns through the weights of the chosen alone */
	rule("x param - shape=[5,4]\ng param - shape=[4,3]\nu param - shape=[3,4,6]\nd param - shape=[3,6,4]\n"
		 "s matmul x,g\nt topk s k=2\ni topk s k=2 output=indices\np softmax t\nh expert_matmul x,i,u\n"
		 "a silu h\no expert_matmul a,i,d\np1 reshape p shape=[5,2,1]\nm mul o,p1\ny sum m axis=1\n");
}

/* No gradient flows through stop_gradient. */
static void
stopped(void)
{
	Case c;
	float **grads;

	open_case(&c, "x param - shape=[3]\ns stop_gradient x\ny mul s,x\n");
	grads = engine_gradients(&c, NULL);
	for (int i = 0; i < 3; i++)
		CHECK(grads[0][i] == c.plain[0][i] * c.inputs[3][i]);
	odd_free(grads[0]);
	free(grads);
	close_case(&c);
}

/* Expressions that a learner might write: each reads a value several times. */
static void
expressions(void)
{
	rule("x param - shape=[4,6]\nm0 mean x axis=1\nm reshape m0 shape=[4,1]\nd sub x,m\nv0 var x axis=1\n"
		 "v reshape v0 shape=[4,1]\ne input - shape=[]\npe mul e,e\nve add v,pe\ns sqrt ve\ny div d,s\n");
	rule("x input - shape=[5,4]\nw param - shape=[4,3]\nb param - shape=[3]\nt input - shape=[5,3]\nh matmul "
		 "x,w\n"
		 "z add h,b\nd sub z,t\nq mul d,d\ny mean q\n");
	rule("x param - shape=[5,4]\nwq param - shape=[4,4]\nwk param - shape=[4,4]\nwv param - shape=[4,4]\n"
		 "q0 matmul x,wq\nk0 matmul x,wk\nv0 matmul x,wv\nq1 reshape q0 shape=[5,2,2]\nk1 reshape k0 "
		 "shape=[5,2,2]\nv1 reshape v0 shape=[5,2,2]\nq transpose q1 axes=[1,0,2]\nk transpose k1 "
		 "axes=[1,2,0]\n"
		 "v transpose v1 axes=[1,0,2]\ns matmul q,k\np softmax s\no matmul p,v\no1 transpose o axes=[1,0,2]\n"
		 "y reshape o1 shape=[5,4]\n");
	rule(
		"x param - shape=[2,3]\nw param - shape=[3]\na add x,w\nb neg a\nc sub b,x\nd exp c\ne add d,c\nf "
		"add e,w\n"
		"g relu f\nh neg g\nm mul h,x\nn sub m,w\ns softmax n\nt add s,w\nu add t,t\nv div u,t\ny add v,w\n");
	rule("x param - shape=[3]\na exp x\nb mul a,a\nc add a,b\nd tanh c\ny mul d,a\n");
	rule("x param - shape=[4]\na reshape x shape=[2,2]\nb reshape x shape=[4]\nc reshape a shape=[4]\nd add "
		 "c,b\n"
		 "e total d,x,c\ny mul e,b\n");
	rule("x param - shape=[6]\na slice x starts=[0] stops=[4]\nb slice x starts=[2] stops=[6]\ny mul a,b\n");
}

/* Among equals, the gradient flows to the first; that of a norm of zeros is zero. */
static void
ties(void)
{
	static const float x[6] = {2, 5, 5, -1, -1, 5};
	static const float want[][6] = {{0, 1, 0, 0, 0, 0}, {0, 0, 0, 1, 0, 0}};
	float zeros[6] = {0};

	for (int i = 0; i < 3; i++)
	{
		Case c;
		float **grads;

		open_case(&c, i == 0   ? "x param - shape=[6]\ny max x\n"
					  : i == 1 ? "x param - shape=[6]\ny min x\n"
							   : "x param - shape=[6]\ny norm x\n");
		memcpy(c.m.model.weights[0].plain, i == 2 ? zeros : x, sizeof(x));
		c.inputs[2][0] = 1;
		grads = engine_gradients(&c, NULL);
		CHECK(memcmp(grads[0], i == 2 ? zeros : want[i], sizeof(x)) == 0);
		odd_free(grads[0]);
		free(grads);
		close_case(&c);
	}
}

/* If any allocation fails, forward or backward, all memory is freed. */
static void
memory_runs_out(void)
{
	Case c;
	LlmCode code = LLM_NO_MEMORY;

	open_case(&c, "x param - shape=[3,4]\nw param - shape=[2,4,5]\ng param - shape=[5]\nm matmul x,w\n"
				  "l layernorm m,g,g\ns softmax l axis=1\nv var s axis=0\nd div v,g\nt transpose d\n"
				  "c concat t,t axis=1\nr slice c starts=[1] stops=[4]\nq reshape r shape=[3,6]\n"
				  "h attention q n_head=2\nk stack h,h\ny mul k,k\n");
	for (long after = 0; code != LLM_OK; after++)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		float *grads[32] = {0};
		LlmExec *exec = NULL;
		LlmValue result;
		LlmError err;

		CHECK(c.m.model.graph.count <= 32);
		for (int i = 0; i < 3; i++)
			grads[i] = calloc(c.m.model.weights[i].numel, sizeof(float));
		counted.fail_after = after;
		code = llm_exec_open(&c.m.model, c.loss, false, 0, &memory, &exec, &err);
		if (code == LLM_OK)
		{
			llm_exec_trace(exec);
			code = llm_exec_run(exec, c.in, c.n_in, &result, &err);
		}
		if (code == LLM_OK)
			code = llm_exec_backward(exec, grads, &err);
		llm_exec_close(exec);
		CHECK(counted.held == 0 && (code == LLM_OK || code == LLM_NO_MEMORY));
		for (int i = 0; i < 3; i++)
			free(grads[i]);
	}
	close_case(&c);
}

int
main(void)
{
	elementwise_rules();
	matmul_rules();
	layer_rules();
	view_rules();
	image_rules();
	select_rules();
	row_rules();
	expert_rules();
	stopped();
	expressions();
	ties();
	memory_runs_out();
	return 0;
}
