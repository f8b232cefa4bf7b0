/*
 * A model's architecture: nodes as the rows of llm_graph say, checked and put in order, every shape inferred
 * with named dimensions. The executor knows no model but this.
 */
#ifndef LLM_GRAPH_H
#define LLM_GRAPH_H

#include "common/base.h"
#include "engine/op_facts.h"

#define LLM_MAX_NODES 20000
#define LLM_MAX_HEADS 4096
#define LLM_DIM_NAME 16

/* times * name, or the number `times` when name is "". */
typedef struct LlmDim
{
	int64_t times;
	char name[LLM_DIM_NAME];
} LlmDim;

/* What a name stands for: C, V, P, F from the model's config; B, T and others when inputs are bound. */
typedef struct LlmSizes
{
	int count;
	char names[32][LLM_DIM_NAME];
	int64_t values[32];
} LlmSizes;

typedef enum LlmAttrKind
{
	LLM_ATTR_NULL,
	LLM_ATTR_NUMBER,
	LLM_ATTR_BOOL,
	LLM_ATTR_TEXT,
	LLM_ATTR_LIST
} LlmAttrKind;

/* One attribute of a node, or an item of a list (then key is NULL). */
typedef struct LlmAttr
{
	const char *key;
	LlmAttrKind kind;
	double number; /* of BOOL: 0 or 1 */
	const char *text;
	int count;
	struct LlmAttr *items;
} LlmAttr;

typedef struct LlmNode
{
	const char *name;
	LlmOp op;
	int n_inputs, n_attrs;
	const char **input_names;
	int *inputs; /* indices of nodes, set by llm_graph_check */
	LlmAttr *attrs;
	bool integers; /* an input of whole numbers */
	int walk;      /* while nodes are put in order: the input to come next, or one of these */
#define LLM_NOT_REACHED (-1)
#define LLM_IN_ORDER (-2)
	int ndim;
	LlmDim shape[LLM_MAX_DIMS];
} LlmNode;

typedef struct LlmGraph
{
	int count;
	LlmNode *nodes; /* in the order they were added */
	int *order;     /* execution order: inputs first, ties as added */
	int *by_name;   /* indices sorted by name */
	LlmSizes sizes; /* from the config */
} LlmGraph;

/*
 * Resolves input names, orders the nodes and infers every shape. The caller filled nodes (name, op,
 * input_names, attrs), sizes, and made room: nodes[i].inputs (n_inputs ints each), order and by_name (count
 * ints each).
 */
extern LlmCode llm_graph_check(LlmGraph *graph, LlmError *err);
/* Index of a node by name, or -1. */
extern int llm_graph_find(const LlmGraph *graph, const char *name);

/* NULL where it is not given, or given as null: both mean the default. */
extern const LlmAttr *llm_attr(const LlmNode *node, const char *key);
extern double llm_attr_number(const LlmNode *node, const char *key, double otherwise);
/* A parameter, unless its attribute trainable says that it is frozen. */
extern bool llm_is_trainable(const LlmNode *node);
/*
 * The whole numbers of a list attribute, at most LLM_MAX_DIMS: how many, or -1 when it is not given or not
 * such a list. A null stands for LLM_TO_END.
 */
#define LLM_TO_END INT32_MAX
extern int llm_attr_integers(const LlmNode *node, const char *key, int *out);
/* Are all attributes among the space-separated names, of their kind and in their range? (attrs.c) */
extern LlmCode llm_attrs_check(const LlmNode *node, const char *names, LlmError *err);
/* "node n: attribute key of op must be ..." */
extern LlmCode llm_attr_refuse(const LlmNode *node, const char *key, const char *expected, LlmError *err);

extern LlmCode llm_dim_parse(const char *text, LlmDim *dim, LlmError *err);
extern void llm_dim_print(const LlmDim *dim, char *text, size_t size);
/* "(B,T,3*C)" */
extern void llm_shape_print(int ndim, const LlmDim *shape, char *text, size_t size);
/* The number a dimension stands for, or -1 when its name has none. */
extern int64_t llm_dim_value(const LlmDim *dim, const LlmSizes *sizes);
extern bool llm_sizes_set(LlmSizes *sizes, const char *name, int64_t value);

/* Checks a node whose inputs have shapes by the facts of its op; fills node->shape. */
extern LlmCode llm_infer(const LlmGraph *graph, LlmNode *node, LlmError *err);

#endif
