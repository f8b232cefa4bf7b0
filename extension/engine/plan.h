/* Internal to the executor: included by this folder and ops/ only. */
#ifndef LLM_PLAN_H
#define LLM_PLAN_H

#include "engine/execute.h"
#include "engine/parallel.h"
#include "kernels/random.h"

/* The most inputs that an operation with a fixed number of them has. */
#define LLM_MAX_INPUTS 4

/* Memory of a value; returned to the free list once nothing refers to it. */
typedef struct Buffer
{
	struct Buffer *next;
	int refs;
	bool lent; /* the memory belongs to the caller */
	size_t bytes;
	float *data;
} Buffer;

typedef enum Rows
{
	ROWS_NONE, /* no node reads it */
	ROWS_LAST, /* only the last position is read */
	ROWS_ALL
} Rows;

/* The executor's state of one node. */
typedef struct Slot
{
	Rows rows;
	int t_axis;  /* axis of the dimension T, or -1 */
	int readers; /* nodes that read it; the caller counts as one */
	int waiting; /* readers that have not read it yet in this run */
	LlmValue value;
	Buffer *buffer; /* NULL: a parameter or an input */
	int reader;     /* any node that reads it */
	bool fused;     /* fused with the node before it in a chain (fuse.c) */
	int next;       /* 1 + the node fused after this one (fuse.c); 0: none */
	int head;       /* 1 + the product that begins the chain ending here; 0: none */
	LlmKvCache *cache;
	Buffer *grad;    /* gradient of the value, during the backward pass */
	bool wanted;     /* it depends on a trained parameter, so it needs a gradient */
	bool used;       /* in training: the backward pass reads the value, or computes others from it again */
	bool again;      /* used, but computed again in the backward pass (kept.c) */
	bool stays;      /* computed again, it stays until its own gradient rule was applied */
	bool due;        /* about to be computed again */
	bool passage;    /* every later value that needs a gradient comes from this one alone */
	bool exact;      /* its value selects: it must not be rounded */
	Buffer *rounded; /* the value, kept in bf16, for as long as `buffer` is NULL */
	int again_readers, last; /* readers that are computed again; the place of the last reader in the order */
	bool in_chunks; /* logits never held as a whole in this run: their loss computes them in chunks of rows */
	Buffer *dx;     /* of such logits: the gradient of the product's input, for the backward pass */
	Buffer *scores, *probs; /* of attention in a traced run; both have the shape of `seen` */
	LlmValue seen;
	double microseconds; /* time to compute it, in a timed run */
} Slot;

struct LlmExec
{
	const LlmModel *model;
	const LlmAllocator *memory;
	int target, capacity, past;
	bool continues, last_only;
	bool keep;       /* keep every value that the backward pass reads */
	bool training;   /* dropout is applied */
	bool tracing;    /* keep every value, and attention's scores and probabilities */
	bool timing;     /* measure the time of each op */
	bool going_back; /* the backward pass computes values again */
	LlmKeeping keeping;
	LlmDropout dropout;
	float dtarget;       /* in training: the gradient of the target, 1 unless weighted */
	float *const *grads; /* where the backward pass accumulates; NULL: not known before the run */
	Slot *slots;
	LlmSizes sizes;
	Buffer *free_buffers;
	Buffer *scratch; /* gathered last rows of the current node's inputs, as a list */
	LlmPlace place;  /* where the target's value goes; NULL: anywhere */
	void *place_context;
	bool canonical; /* every NaN of the target is canonical already */
};

extern Buffer *llm_buffer_take(LlmExec *exec, size_t floats, LlmError *err);
/* The target's value, in the caller's memory if the caller provides it. */
extern Buffer *llm_buffer_place(LlmExec *exec, const LlmValue *value, LlmError *err);
/* Freed once the current node is computed. */
extern Buffer *llm_scratch_take(LlmExec *exec, size_t floats, LlmError *err);
extern void llm_buffer_drop(LlmExec *exec, Buffer *buffer);
/* Returns free buffers to the allocator. */
extern void llm_buffers_release(LlmExec *exec);
extern void llm_exec_drop_scratch(LlmExec *exec);
extern void llm_exec_drop_cache(LlmExec *exec, int node);
/* The value of input i as the node reads it: all rows, or the last one. */
extern LlmCode llm_exec_input(LlmExec *exec, int node, int i, LlmValue *value, LlmError *err);
/* Replaces a value by its last position along axis. */
extern LlmCode llm_last_row(LlmExec *exec, int axis, LlmValue *value, LlmError *err);
/* Sets a node's dimensions without allocating memory for the value. */
extern LlmCode llm_run_shape(LlmExec *exec, int node, LlmError *err);
/* Allocates a node's result, of the inferred shape; T is 1 if only the last row is needed. */
extern LlmCode llm_run_result(LlmExec *exec, int node, LlmError *err);
/* The same, in place if possible: the result then reuses the memory of input i, whose value is `input`. */
extern LlmCode llm_run_result_over(LlmExec *exec, int node, int i, const LlmValue *input, LlmError *err);
extern float *llm_result_of(LlmExec *exec, int node);

/* Computes a node, or the chain that ends with it, then frees the values that nothing will read again. */
extern LlmCode llm_run_node(LlmExec *exec, int index, LlmError *err);
/* Frees a node's value. */
extern void llm_exec_let_go(LlmExec *exec, int node);

/* Decides which values of a training run are kept for the backward pass (kept.c). */
extern void llm_plan_kept(LlmExec *exec);
/* True if a value that the forward pass has read for the last time must stay. */
extern bool llm_is_held(const LlmExec *exec, int node);
/* Rounds a kept value to bf16 after its last reader, if the run keeps values that way. */
extern LlmCode llm_put_away(LlmExec *exec, int node, LlmError *err);
/* Before the gradient rule of the node at this place of the order: the values that it reads are made. */
extern LlmCode llm_bring_back(LlmExec *exec, int place, LlmError *err);

/* Marks the slots that need a gradient. */
extern void llm_mark_wanted(LlmExec *exec);
/* The backward pass over the values in the slots, into grads as llm_tape_backward describes (backprop.c). */
extern LlmCode llm_backward_pass(LlmExec *exec, float *const *grads, LlmError *err);
/* Marks the logits that are computed by their loss in this run (ops/cross_entropy.c). */
extern void llm_plan_losses(LlmExec *exec);
/*
 * llm_plan_chains marks the nodes that this run fuses; llm_run_chain computes the chain that ends with
 * node `last` (fuse.c).
 */
extern void llm_plan_chains(LlmExec *exec);
extern LlmCode llm_run_chain(LlmExec *exec, int last, LlmError *err);

#endif
