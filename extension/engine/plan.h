/* Inside of the executor: shared by this folder and ops/ only. */
#ifndef LLM_PLAN_H
#define LLM_PLAN_H

#include "engine/execute.h"
#include "engine/ops.h"
#include "kernels/random.h"

/* Inputs of an operation that takes a fixed number of them. */
#define LLM_MOST_INPUTS 3

/* Memory of a value; goes back to the free list when nobody refers to it. */
typedef struct Buffer
{
	struct Buffer *next;
	int refs;
	bool lent; /* the memory is the caller's */
	size_t bytes;
	float *data;
} Buffer;

typedef enum Rows
{
	ROWS_NONE, /* nobody reads it */
	ROWS_LAST, /* only the last position is read */
	ROWS_ALL
} Rows;

/* What the executor knows of one node. */
typedef struct Slot
{
	Rows rows;
	int t_axis;  /* axis of the dimension T, or -1 */
	int readers; /* nodes that read it, the caller included */
	int waiting; /* readers still to come in this run */
	LlmValue value;
	Buffer *buffer; /* NULL: a parameter or an input */
	int reader;     /* one that does */
	bool taken;     /* it takes the value of one over in one go (fuse.c) */
	int then;       /* the node that takes the value over in one go, plus 1 (fuse.c); 0: none */
	int head;       /* the product where such a chain begins that ends here, plus 1; 0: none */
	LlmKvCache *cache;
	Buffer *grad;           /* of the value, while walking back */
	bool wanted;            /* it leads to a parameter, so gradients flow to it */
	bool in_chunks;         /* logits that are never whole in this run: their loss makes them, rows by rows */
	Buffer *dx;             /* of such logits: the gradient of what they are made of, for the way back */
	Buffer *scores, *probs; /* of attention in a traced run; both of the shape seen */
	LlmValue seen;
	double microseconds; /* what computing it took, in a timed run */
} Slot;

struct LlmExec
{
	const LlmModel *model;
	const LlmAllocator *memory;
	int target, capacity, past;
	bool continues, last_only;
	bool keep;     /* every value that the way back reads stays */
	bool training; /* dropout drops */
	bool tracing;  /* every value stays, attention keeps scores and probabilities */
	bool timing;   /* each op's time is taken */
	LlmDropout dropout;
	float *const *grads; /* what the way back will add to; NULL: not known before the run */
	Slot *slots;
	LlmSizes sizes;
	Buffer *free_buffers;
	Buffer *scratch; /* gathered last rows of the inputs of the node being computed, one after the other */
	LlmPlace place;  /* of the target's value; NULL: anywhere */
	void *place_context;
	bool canonical; /* the target's NaN are the one NaN already */
};

extern Buffer *llm_buffer_take(LlmExec *exec, size_t floats, LlmError *err);
/* For the target's value, where the caller wants it. */
extern Buffer *llm_buffer_place(LlmExec *exec, const LlmValue *value, LlmError *err);
/* Goes when the node being computed is done. */
extern Buffer *llm_scratch_take(LlmExec *exec, size_t floats, LlmError *err);
extern void llm_buffer_drop(LlmExec *exec, Buffer *buffer);
/* Free ones go back to the allocator. */
extern void llm_buffers_release(LlmExec *exec);
extern void llm_exec_drop_scratch(LlmExec *exec);
extern void llm_exec_drop_cache(LlmExec *exec, int node);
/* The value of input i as the node needs it: all rows or the last one. */
extern LlmCode llm_exec_input(LlmExec *exec, int node, int i, LlmValue *value, LlmError *err);
/* The last position of a value with earlier ones along axis. */
extern LlmCode llm_last_row(LlmExec *exec, int axis, LlmValue *value, LlmError *err);
/* A node's dimensions, without memory for it. */
extern LlmCode llm_run_shape(LlmExec *exec, int node, LlmError *err);
/* Memory for a node's result, of the inferred shape; T is 1 where only the last row is wanted. */
extern LlmCode llm_run_result(LlmExec *exec, int node, LlmError *err);
/* The same; the result takes over the memory of input i, whose value is given, where it may. */
extern LlmCode llm_run_result_over(LlmExec *exec, int node, int i, const LlmValue *input, LlmError *err);
extern float *llm_result_of(LlmExec *exec, int node);

/* Marks the slots that gradients flow to. */
extern void llm_mark_wanted(LlmExec *exec);
/* The way back over the values in the slots, to grads as llm_tape_backward says (backprop.c). */
extern LlmCode llm_walk_back(LlmExec *exec, float *const *grads, LlmError *err);
/* Marks the logits that this run leaves to their loss (ops/cross_entropy.c). */
extern void llm_plan_losses(LlmExec *exec);
/* Marks the nodes that this run computes in one go; such a chain, at the place of its last node (fuse.c). */
extern void llm_plan_chains(LlmExec *exec);
extern LlmCode llm_run_chain(LlmExec *exec, int last, LlmError *err);

#endif
