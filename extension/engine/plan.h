/* Inside of the executor: shared by plan.c, execute.c, run_op.c, run_*.c, backprop*.c and tape.c only. */
#ifndef LLM_PLAN_H
#define LLM_PLAN_H

#include "engine/execute.h"
#include "engine/ops.h"
#include "kernels/random.h"

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
/* The way back over the values in the slots, to grads as llm_tape_backward says (backprop.c). */
extern LlmCode llm_walk_back(LlmExec *exec, float *const *grads, LlmError *err);
/* Does an op's rule read the values of the node's inputs, or the node's own? */
extern bool llm_rule_reads_inputs(LlmOp op);
extern bool llm_rule_reads_result(LlmOp op);
/* Computes a node whose inputs are there (run_op.c). */
extern LlmCode llm_run_op(LlmExec *exec, int node, LlmError *err);

/* Marks the slots that gradients flow to (backprop.c). */
extern void llm_mark_wanted(LlmExec *exec);
/* Marks the logits that this run leaves to their loss; the loss of a node, such or not (run_loss.c). */
extern void llm_plan_losses(LlmExec *exec);
extern LlmCode llm_run_loss(LlmExec *exec, int node, LlmError *err);

/* Marks the nodes that this run computes in one go; such a chain, at the place of its last node (fuse.c). */
extern void llm_plan_chains(LlmExec *exec);
extern LlmCode llm_run_chain(LlmExec *exec, int last, LlmError *err);

/* A node's dimensions, without memory for it. */
extern LlmCode llm_run_shape(LlmExec *exec, int node, LlmError *err);
/* Memory for a node's result, of the inferred shape; T is 1 where only the last row is wanted. */
extern LlmCode llm_run_result(LlmExec *exec, int node, LlmError *err);
/* Attention of a node (run_attention.c); and an end to the memory that it keeps for the next one. */
extern LlmCode llm_run_attention(LlmExec *exec, int node, const LlmValue *qkv, LlmError *err);
/* An op that reduces, moves or joins elements; its result is allocated (run_view.c). */
extern LlmCode llm_run_view(LlmExec *exec, int node, const LlmValue *x, LlmError *err);
/* to = from, a value of x's shape, with an axis and the last one exchanged. */
extern LlmCode llm_swap_with_last(const LlmValue *x, int axis, const float *from, float *to, LlmError *err);
/* Softmax over an axis that is not the last. */
extern LlmCode llm_softmax_along(LlmExec *exec, const LlmValue *x, int axis, float *out, LlmError *err);

/* The probability a node drops with in this run, by its attribute key or the run's own; and its stream. */
extern float llm_dropout_of(const LlmExec *exec, int node, const char *key, LlmStream *stream);
/* What a node's attributes say of attention over qkv; head_mask has room for LLM_MAX_HEADS. */
extern void llm_attention_of(
	const LlmExec *exec, int node, const LlmValue *qkv, LlmAttention *a, float *head_mask);
/* The function of an elementwise node with one input. */
extern LlmUnary llm_unary_of(const LlmNode *node);

#endif
