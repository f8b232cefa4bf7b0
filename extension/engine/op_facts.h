/*
 * The facts of every operation, in one table that all code that plans, checks, fuses, counts or
 * differentiates operations uses. Every column must be filled, and no other code in the engine decides for
 * an operation that it does not know. The last five columns name the operation's rules, which are functions
 * in ops/.
 */
#ifndef LLM_OP_FACTS_H
#define LLM_OP_FACTS_H

#include <stdbool.h>
#include <stdint.h>

#define LLM_ANY_NUMBER INT32_MAX
#define LLM_NO_IDS (-1)

/* The values that the gradient rule reads, besides the gradient with respect to the node's value. */
typedef enum LlmGradientReads
{
	LLM_NO_GRADIENT, /* there is no gradient rule */
	LLM_READS_NEITHER,
	LLM_READS_INPUTS,
	LLM_SELECTS_BY_INPUTS, /* reads them and compares: near values could select others */
	LLM_READS_BOTH,        /* the inputs and the value */
	LLM_SELECTS_BY_BOTH
} LlmGradientReads;

/* The positions of its input that a position of the value depends on, if rows can be computed one by one. */
typedef enum LlmReach
{
	LLM_OWN_ROW,
	LLM_EARLIER_ROWS /* of which keys and values are cached */
} LlmReach;

/* How an operation is fused with the matrix product before it, element by element (fuse.c). */
typedef enum LlmFuses
{
	LLM_FUSES_NOT,
	LLM_FUSES_UNARY,
	LLM_FUSES_BINARY,
	LLM_FUSES_PASSING /* if it is the identity in this run */
} LlmFuses;

/*
 * OP(id, name, fewest inputs, most inputs, attributes, the input of integers,
 *    what the gradient reads, reach, operations per element of the value, of the first input, how it fuses,
 *    its kernel (LlmUnary, LlmBinary or LlmReduction; 0: its file calls its own),
 *    rules: shape, rows, forward, backward, cost)
 */
/* clang-format off */
#define LLM_OPS(OP) \
	OP(INPUT, "input", 0, 0, "shape dtype", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		input, always, leaf, none, leaf) \
	OP(PARAM, "param", 0, 0, "shape init std trainable", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		param, always, leaf, none, leaf) \
	OP(CONSTANT, "constant", 0, 0, "value", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		constant, always, constant, none, counted) \
	OP(EMBEDDING, "embedding", 2, 2, "", 0, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		embedding, embedding, embedding, embedding, embedding) \
	OP(MATMUL, "matmul", 2, 2, "transpose_b", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		matmul, matmul, matmul, matmul, matmul) \
	OP(ADD, "add", 2, 2, "", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 1, 0, LLM_FUSES_BINARY, LLM_ADD, \
		binary, aligned, binary, add, counted) \
	OP(SUB, "sub", 2, 2, "", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 1, 0, LLM_FUSES_BINARY, LLM_SUB, \
		binary, aligned, binary, sub, counted) \
	OP(MUL, "mul", 2, 2, "", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 1, 0, LLM_FUSES_BINARY, LLM_MUL, \
		binary, aligned, binary, mul, counted) \
	OP(DIV, "div", 2, 2, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_BINARY, LLM_DIV, \
		binary, aligned, binary, div, counted) \
	OP(NEG, "neg", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_NEG, \
		same, aligned, unary, unary, counted) \
	OP(EXP, "exp", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_EXP, \
		same, aligned, unary, unary, counted) \
	OP(LOG, "log", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_LOG, \
		same, aligned, unary, unary, counted) \
	OP(SQRT, "sqrt", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_SQRT, \
		same, aligned, unary, unary, counted) \
	OP(TANH, "tanh", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_TANH, \
		same, aligned, unary, unary, counted) \
	OP(RELU, "relu", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_RELU, \
		same, aligned, unary, unary, counted) \
	OP(GELU, "gelu", 1, 1, "approximate", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 10, 0, LLM_FUSES_UNARY, LLM_GELU_TANH, \
		gelu, aligned, unary, unary, counted) \
	OP(SIGMOID, "sigmoid", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 3, 0, LLM_FUSES_UNARY, LLM_SIGMOID, \
		same, aligned, unary, unary, counted) \
	OP(SILU, "silu", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 4, 0, LLM_FUSES_UNARY, LLM_SILU, \
		same, aligned, unary, unary, counted) \
	OP(SIN, "sin", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_SIN, \
		same, aligned, unary, unary, counted) \
	OP(COS, "cos", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_COS, \
		same, aligned, unary, unary, counted) \
	OP(SOFTMAX, "softmax", 1, 1, "axis", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 4, 0, LLM_FUSES_NOT, 0, \
		along_axis, along_axis, softmax, softmax, counted) \
	OP(LOG_SOFTMAX, "log_softmax", 1, 1, "axis", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 4, 0, LLM_FUSES_NOT, 0, \
		along_axis, along_axis, log_softmax, log_softmax, counted) \
	OP(LAYERNORM, "layernorm", 3, 3, "eps", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 8, 0, LLM_FUSES_NOT, 0, \
		layernorm, last_axis, layernorm, layernorm, counted) \
	OP(RMSNORM, "rmsnorm", 2, 2, "eps", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 5, 0, LLM_FUSES_NOT, 0, \
		rmsnorm, last_axis, rmsnorm, rmsnorm, counted) \
	OP(ATTENTION, "attention", 1, 4, \
		"n_head n_kv_head causal window scale slopes pattern stride summary head_mask dropout", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_EARLIER_ROWS, 0, 0, LLM_FUSES_NOT, 0, \
		attention, attention, attention, attention, attention) \
	OP(ROPE, "rope", 2, 2, "n_head theta dims interleaved factor low_freq_factor high_freq_factor " \
		"original_max_position_embeddings", 1, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 3, 0, LLM_FUSES_NOT, 0, \
		rope, rope, rope, rope, counted) \
	OP(DROPOUT, "dropout", 1, 1, "p seed", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_PASSING, 0, \
		dropout, dropout, dropout, dropout, counted) \
	OP(CROSS_ENTROPY, "cross_entropy", 2, 2, "", 1, \
		LLM_READS_BOTH, LLM_OWN_ROW, 0, 4, LLM_FUSES_NOT, 0, \
		cross_entropy, never, cross_entropy, cross_entropy, counted) \
	OP(GREATER, "greater", 2, 2, "", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 1, 0, LLM_FUSES_BINARY, LLM_GREATER, \
		binary, aligned, binary, none, counted) \
	OP(WHERE, "where", 3, 3, "", LLM_NO_IDS, \
		LLM_SELECTS_BY_INPUTS, LLM_OWN_ROW, 1, 0, LLM_FUSES_NOT, 0, \
		where, aligned, where, where, counted) \
	OP(STOP_GRADIENT, "stop_gradient", 1, 1, "", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		same, aligned, passing, none, counted) \
	OP(CLAMP, "clamp", 1, 1, "min max", LLM_NO_IDS, \
		LLM_SELECTS_BY_INPUTS, LLM_OWN_ROW, 2, 0, LLM_FUSES_NOT, 0, \
		clamp, aligned, clamp, clamp, counted) \
	OP(ABS, "abs", 1, 1, "", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 1, 0, LLM_FUSES_UNARY, LLM_ABS, \
		same, aligned, unary, unary, counted) \
	OP(POW, "pow", 1, 1, "exponent", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 3, 0, LLM_FUSES_NOT, 0, \
		pow, aligned, pow, pow, counted) \
	OP(CUMSUM, "cumsum", 1, 1, "axis", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 1, 0, LLM_FUSES_NOT, 0, \
		along_axis, along_axis, cumsum, cumsum, counted) \
	OP(TOPK, "topk", 1, 1, "k output", LLM_NO_IDS, \
		LLM_SELECTS_BY_INPUTS, LLM_OWN_ROW, 0, 1, LLM_FUSES_NOT, 0, \
		topk, topk, topk, topk, counted) \
	OP(ONE_HOT, "one_hot", 1, 1, "size", 0, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		one_hot, one_hot, one_hot, none, counted) \
	OP(GATHER_ROWS, "gather_rows", 2, 2, "", 1, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		gather_rows, gather_rows, gather_rows, gather_rows, gather_rows) \
	OP(SCATTER_ROWS, "scatter_rows", 2, 2, "size", 1, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 0, 1, LLM_FUSES_NOT, 0, \
		scatter_rows, scatter_rows, scatter_rows, scatter_rows, counted) \
	OP(EXPERT_MATMUL, "expert_matmul", 3, 3, "", 1, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		expert_matmul, expert_matmul, expert_matmul, expert_matmul, matmul) \
	OP(MSE, "mse", 2, 2, "", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 0, 3, LLM_FUSES_NOT, 0, \
		mse, never, mse, mse, counted) \
	OP(NORMAL, "normal", 0, 0, "shape mean std seed", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 10, 0, LLM_FUSES_NOT, 0, \
		normal, random, normal, none, counted) \
	OP(UNIFORM, "uniform", 0, 0, "shape low high seed", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 2, 0, LLM_FUSES_NOT, 0, \
		uniform, random, uniform, none, counted) \
	OP(RANDINT, "randint", 0, 0, "shape low high seed", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 2, 0, LLM_FUSES_NOT, 0, \
		randint, random, randint, none, counted) \
	OP(SUM, "sum", 1, 1, "axis", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 0, 1, LLM_FUSES_NOT, LLM_REDUCE_SUM, \
		reduce, reduce, reduce, reduce, counted) \
	OP(MEAN, "mean", 1, 1, "axis", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 0, 1, LLM_FUSES_NOT, LLM_REDUCE_MEAN, \
		reduce, reduce, reduce, reduce, counted) \
	OP(MAX, "max", 1, 1, "axis", LLM_NO_IDS, \
		LLM_SELECTS_BY_BOTH, LLM_OWN_ROW, 0, 1, LLM_FUSES_NOT, LLM_REDUCE_MAX, \
		reduce, reduce, reduce, reduce, counted) \
	OP(MIN, "min", 1, 1, "axis", LLM_NO_IDS, \
		LLM_SELECTS_BY_BOTH, LLM_OWN_ROW, 0, 1, LLM_FUSES_NOT, LLM_REDUCE_MIN, \
		reduce, reduce, reduce, reduce, counted) \
	OP(VAR, "var", 1, 1, "axis", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 0, 4, LLM_FUSES_NOT, LLM_REDUCE_VAR, \
		reduce, reduce, reduce, reduce, counted) \
	OP(NORM, "norm", 1, 1, "axis", LLM_NO_IDS, \
		LLM_READS_BOTH, LLM_OWN_ROW, 0, 2, LLM_FUSES_NOT, LLM_REDUCE_NORM, \
		reduce, reduce, reduce, reduce, counted) \
	OP(RESHAPE, "reshape", 1, 1, "shape", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		reshape, reshape, reshape, reshape, counted) \
	OP(TRANSPOSE, "transpose", 1, 1, "axes", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		transpose, transpose, transpose, transpose, counted) \
	OP(SLICE, "slice", 1, 1, "starts stops steps", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		slice, slice, slice, slice, counted) \
	OP(CONCAT, "concat", 1, LLM_ANY_NUMBER, "axis", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		concat, aligned, concat, concat, counted) \
	OP(STACK, "stack", 1, LLM_ANY_NUMBER, "", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		stack, aligned, concat, concat, counted) \
	OP(TOTAL, "total", 1, LLM_ANY_NUMBER, "", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		total, aligned, total, total, total) \
	OP(ONES_LIKE, "ones_like", 1, 1, "", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		same, aligned, ones_like, none, counted) \
	OP(ZEROS_LIKE, "zeros_like", 1, 1, "", LLM_NO_IDS, \
		LLM_NO_GRADIENT, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		same, aligned, zeros_like, none, counted) \
	OP(CONV2D, "conv2d", 2, 3, "stride padding groups", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		conv2d, never, conv2d, conv2d, conv2d) \
	OP(GROUPNORM, "groupnorm", 3, 3, "groups eps", LLM_NO_IDS, \
		LLM_READS_INPUTS, LLM_OWN_ROW, 8, 0, LLM_FUSES_NOT, 0, \
		groupnorm, never, groupnorm, groupnorm, counted) \
	OP(UPSAMPLE, "upsample", 1, 1, "factor", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 0, LLM_FUSES_NOT, 0, \
		upsample, never, rescale, rescale, counted) \
	OP(AVGPOOL, "avgpool", 1, 1, "factor", LLM_NO_IDS, \
		LLM_READS_NEITHER, LLM_OWN_ROW, 0, 1, LLM_FUSES_NOT, 0, \
		avgpool, never, rescale, rescale, counted)
/* clang-format on */

typedef enum LlmOp
{
#define OP(id, ...) LLM_OP_##id,
	LLM_OPS(OP)
#undef OP
		LLM_OP_COUNT
} LlmOp;

typedef struct LlmOpFacts
{
	const char *name;
	int least, most;        /* inputs */
	const char *attributes; /* their names, separated by blanks */
	int ids;                /* index of the input of integers, or LLM_NO_IDS */
	LlmGradientReads gradient;
	LlmReach reach;
	int per_value, per_input; /* operations per element of the value, of the first input */
	LlmFuses fuses;
	int kernel;
} LlmOpFacts;

extern const LlmOpFacts llm_op_facts[LLM_OP_COUNT];

/* The op with this name, or LLM_OP_COUNT. */
extern LlmOp llm_op_find(const char *name);
extern const char *llm_op_name(LlmOp op);

#endif
