/*
 * A model's architecture: the nodes stored as rows of llm_graph, checked and sorted into execution order,
 * with every shape inferred from named dimensions. The executor knows no model but this.
 */
#ifndef LLM_GRAPH_H
#define LLM_GRAPH_H

#include "common/base.h"
#include "engine/op_facts.h"

#define LLM_MAX_NODES 20000
#define LLM_MAX_HEADS 4096
#define LLM_DIM_NAME 16

/* times * name, or just `times` when name is "". */
typedef struct LlmDim
{
	int64_t times;
	char name[LLM_DIM_NAME];
} LlmDim;

/*
 * The sizes that names stand for: C, V, P, F come from the model's config; B, T and others when inputs are
 * bound.
 */
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
	double number; /* a BOOL is 0 or 1 */
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
	bool integers; /* an input of integers */
	int walk;      /* while the graph is sorted: the next input to visit, or one of these */
#define LLM_NOT_REACHED (-1)
#define LLM_IN_ORDER (-2)
	int ndim;
	LlmDim shape[LLM_MAX_DIMS];
} LlmNode;

typedef struct LlmGraph
{
	int count;
	LlmNode *nodes; /* in the order they were added */
	int *order;     /* execution order: inputs first, otherwise in the order they were added */
	int *by_name;   /* indices sorted by name */
	LlmSizes sizes; /* from the config */
} LlmGraph;

/*
 * Resolves input names, sorts the nodes and infers every shape. The caller has filled nodes (name, op,
 * input_names, attrs) and sizes, and has allocated nodes[i].inputs (n_inputs ints each), order and by_name
 * (count ints each).
 */
extern LlmCode llm_graph_check(LlmGraph *graph, LlmError *err);
/* Index of a node by name, or -1. */
extern int llm_graph_find(const LlmGraph *graph, const char *name);

/* NULL if the attribute is absent or null: both mean the default. */
extern const LlmAttr *llm_attr(const LlmNode *node, const char *key);
extern double llm_attr_number(const LlmNode *node, const char *key, double otherwise);
/* *out = an attribute that must be a whole number, `otherwise` if it is absent; false if it is none. */
extern bool llm_attr_whole(const LlmNode *node, const char *key, int otherwise, int *out);
/* True for a parameter, unless its attribute `trainable` says that it is frozen. */
extern bool llm_is_trainable(const LlmNode *node);
/* True if the attribute `recompute` says that training does not keep the node's value (execute.h). */
extern bool llm_recomputes(const LlmNode *node);
/*
 * Reads the integers of a list attribute, at most LLM_MAX_DIMS. Returns how many there are, or -1 if the
 * attribute is absent or not such a list. A null stands for LLM_TO_END.
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
/* The size that a dimension stands for, or -1 if its name has none yet. */
extern int64_t llm_dim_value(const LlmDim *dim, const LlmSizes *sizes);
extern bool llm_sizes_set(LlmSizes *sizes, const char *name, int64_t value);

/* Applies the shape rule of the node's op to its inputs' shapes, which must be known; fills node->shape. */
extern LlmCode llm_infer(const LlmGraph *graph, LlmNode *node, LlmError *err);

#endif
