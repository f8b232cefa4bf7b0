/*
 * Records operations as rows of llm_tape and llm_tensor_rt. With pg_llm.autograd off a recording function
 * only tests one flag. Rows are written immediately: the tables are the tape, and no other is kept in memory.
 */
#ifndef LLM_SRC_TAPE_TAPE_H
#define LLM_SRC_TAPE_TAPE_H

#include "postgres.h"

#include "engine/tape.h"
#include "src/tensor/tensor.h"

/* A run to which operations are being recorded. */
typedef struct TapeRun
{
	int64 run;
	uint32 key;    /* tape_run in the headers of its tensors; 0: no run */
	uint32 count;  /* tensors so far; their numbers, tape_id, start at 1 */
	Oid extension; /* OID of the type tensor, which differs after DROP and CREATE EXTENSION */
	int wrote;     /* deepest transaction level with rows not yet merged into the level above */
	uint8 *wanted; /* one bit per tensor: does it depend on a leaf? */
	uint32 room;   /* capacity of `wanted`, in tensors */
	MemoryContext context;
} TapeRun;

#define TAPE_RUN_SIZE 1000000 /* ids reserved for each run */
#define TapeId(r, n) ((r)->run * TAPE_RUN_SIZE + (int64) (n))

/* The setting pg_llm.autograd. */
extern bool pg_llm_autograd;
extern void TapeInit(void);

/* ---- the session's run ---- */

/* The open run; opens a new one of that kind if there is none. model may be NULL, tokens 0. */
extern TapeRun *TapeOpen(const char *kind, const char *model, Datum tokens);
/* The open run or NULL. */
extern TapeRun *TapeCurrent(void);
/* A new run that does not become the session's open run. */
extern TapeRun *TapeNew(const char *kind, const char *model, Datum tokens);
/* Closes the run if it is the session's open one, and marks its row closed. */
extern void TapeClose(int64 run);
/* Closes the session's run from an error, which would undo the mark: the row stays open. */
extern void TapeAbandon(void);

/* ---- operations of SQL expressions ---- */

/* Starts the timer of the operation that the next TapeRecord writes. */
extern void TapeStart(void);
/* Writes one operation: `out`, computed from n inputs (inputs unknown to the open run become constants),
 * receives its id. */
extern void TapeRecord(
	Tensor *out, const char *op, int n, Tensor *const *inputs, int n_attrs, const LlmAttr *attrs);
/* The same with the inputs given as numbers of tensors of the open run; first: the first input, read:
 * elements of all inputs. */
extern void TapeRecordNumbers(Tensor *out, const char *op, int n, const uint32 *inputs, const Tensor *first,
	int64 read, int n_attrs, const LlmAttr *attrs);
/* The op attention applied to qkv, with the additional tensors that TapeWriteHeads writes. */
extern void TapeRecordShown(
	Tensor *heads, const Tensor *qkv, const LlmTraced *traced, int n_attrs, const LlmAttr *attrs);
/* The number of a tensor in the open run; a tensor unknown to it becomes a constant. */
extern uint32 TapeNumber(const Tensor *t);
/* The tensor's number in the open run; 0 if there is no open run or it does not know the tensor. */
extern uint32 TapeKnown(const Tensor *t);
/* Records integers (ids, targets) as a constant. */
extern uint32 TapeIntegers(const char *what, int ndim, const int *dims, const int32 *numbers);

extern LlmAttr TapeAttr(const char *key, double number);
/* Uses the shortest decimal form of the float32: 1e-05, not 9.999999747378752e-06. */
extern LlmAttr TapeAttrFloat(const char *key, float number);
extern LlmAttr TapeAttrBool(const char *key, bool value);
extern LlmAttr TapeAttrInts(const char *key, int n, const int *numbers);

/* ---- rows (tape_rows.c) ---- */

/* Attributes of an operation other than its tensors. */
typedef struct TapeOp
{
	const char *op, *node; /* node is NULL if the operation belongs to no graph */
	int n_inputs, n_outputs;
	const uint32 *inputs, *outputs;
	const LlmNode *attrs; /* its attributes; NULL: none */
	int64 flops, bytes;
	double microseconds;
	const char *model; /* of attention: whose tokens it reads, and their id; NULL and 0 if unknown */
	int64 tokens;
} TapeOp;

/* Allocates the next number; ERROR if the run is full. */
extern uint32 TapeNext(TapeRun *run);
/* name may be NULL, and so may a parameter's data. */
extern void TapeWriteTensor(TapeRun *run, uint32 number, const char *name, int ndim, const int *dims,
	const Tensor *data, bool requires_grad);
extern void TapeWriteOp(TapeRun *run, const TapeOp *op);
/* A negative token_id stands for the whole parameter. */
extern void TapeWriteMap(
	TapeRun *run, uint32 number, const char *model, const char *name, int token_id, int64 version);
extern void TapeWriteRun(TapeRun *run, const char *kind, const char *model, Datum tokens, bool open);
extern void TapeWriteClosed(int64 run);
extern bool TapeWanted(const TapeRun *run, uint32 number);
/* Marks the tensor as depending on a leaf; so is every tensor computed from it. */
extern void TapeWant(TapeRun *run, uint32 number);

/* ---- leaves (tape_leaf.c) ---- */

/* A parameter of a model as a leaf of a run. */
typedef struct TapeParam
{
	char *name;
	int ndim, dims[LLM_MAX_DIMS];
	int64 version;
	bool frozen;   /* it gets no gradient */
	uint32 number; /* 0: the run has no leaf of it with this value */
} TapeParam;

/* All parameters, ordered by name; read_only: with the statement's own snapshot, as ModelOf reads. */
extern TapeParam *TapeParams(TapeRun *run, const char *model, bool read_only, int *n);
/* The number of the parameter's leaf, which is written if the run has none. */
extern uint32 TapeParamLeaf(TapeRun *run, const char *model, TapeParam *param);

/* ---- values of the executor (tape_heads.c) ---- */

/* Writes a value as a tensor of the run; returns its number. wanted: it depends on a leaf. */
extern uint32 TapeWriteValue(TapeRun *run, const char *name, const LlmValue *value, bool wanted);
/*
 * Writes the intermediate tensors of attention for inspection: scores, probabilities and each head's output.
 * `first` is the number of attention's value, the concatenated heads; gradients flow only through it. Returns
 * all numbers, and their count in *n.
 */
extern uint32 *TapeWriteHeads(TapeRun *run, const char *name, uint32 first, const LlmTraced *traced, int *n);
/* Identifies a stored value (_llm_tensor_version). */
extern int64 TensorVersion(Datum datum);

#endif
