/*
 * Recording what is computed as rows of llm_tape and llm_tensor_rt. With pg_llm.autograd off a recording
 * function does nothing more than look at one flag. Rows are written at once: the tables are the tape, and no
 * other is kept in memory.
 */
#ifndef LLM_SRC_TAPE_TAPE_H
#define LLM_SRC_TAPE_TAPE_H

#include "postgres.h"

#include "engine/tape.h"
#include "src/tensor/tensor.h"

/* A run that is being written. */
typedef struct TapeRun
{
	int64 run;
	uint32 key;    /* what the headers of its tensors hold as tape_run; 0: no run */
	uint32 count;  /* tensors so far; their numbers, tape_id, go from 1 */
	Oid extension; /* the type tensor it belongs to: another after DROP and CREATE EXTENSION */
	int wrote;     /* deepest transaction level with rows that its end has not handed to the one above */
	uint8 *wanted; /* a bit for each tensor: does a leaf lead to it? */
	uint32 room;   /* tensors that `wanted` has bits for */
	MemoryContext context;
} TapeRun;

#define TAPE_RUN_SIZE 1000000 /* ids of a run */
#define TapeId(r, n) ((r)->run * TAPE_RUN_SIZE + (int64) (n))

/* The setting pg_llm.autograd. */
extern bool pg_llm_autograd;
extern void TapeInit(void);

/* ---- the session's run ---- */

/* The open run; a new one of that kind where there is none. model may be NULL, tokens 0. */
extern TapeRun *TapeOpen(const char *kind, const char *model, Datum tokens);
/* The open run or NULL. */
extern TapeRun *TapeCurrent(void);
/* A run of its own, which is not the session's. */
extern TapeRun *TapeNew(const char *kind, const char *model, Datum tokens);
/* The run is closed, if it is the session's open one; its row says so. */
extern void TapeClose(int64 run);

/* ---- operations of SQL expressions ---- */

/* Starts the clock of the operation that the next TapeRecord writes. */
extern void TapeStart(void);
/* Writes one operation: out, made from n inputs (those that the open run does not know become constants),
 * gets its id. */
extern void TapeRecord(
	Tensor *out, const char *op, int n, Tensor *const *inputs, int n_attrs, const LlmAttr *attrs);
/* The same from numbers of tensors of the open run; first: the first of them, read: elements of them all. */
extern void TapeRecordNumbers(Tensor *out, const char *op, int n, const uint32 *inputs, const Tensor *first,
	int64 read, int n_attrs, const LlmAttr *attrs);
/* The op attention from qkv, with what TapeWriteHeads shows of it. */
extern void TapeRecordShown(
	Tensor *heads, const Tensor *qkv, const LlmTraced *traced, int n_attrs, const LlmAttr *attrs);
/* The number of a tensor in the open run; one that it does not know becomes a constant. */
extern uint32 TapeNumber(const Tensor *t);
/* The number that the open run, if there is one, knows it by; else 0. */
extern uint32 TapeKnown(const Tensor *t);
/* Whole numbers (ids, targets) as a constant. */
extern uint32 TapeIntegers(const char *what, int ndim, const int *dims, const int32 *numbers);

extern LlmAttr TapeAttr(const char *key, double number);
/* Written as short as the float32 allows: 1e-05, not 9.999999747378752e-06. */
extern LlmAttr TapeAttrFloat(const char *key, float number);
extern LlmAttr TapeAttrBool(const char *key, bool value);
extern LlmAttr TapeAttrInts(const char *key, int n, const int *numbers);

/* ---- rows (tape_rows.c) ---- */

/* What is told of an operation beside its tensors. */
typedef struct TapeOp
{
	const char *op, *node; /* node NULL: of no graph */
	int n_inputs, n_outputs;
	const uint32 *inputs, *outputs;
	const LlmNode *attrs; /* its attributes; NULL: none */
	int64 flops, bytes;
	double microseconds;
	const char *model; /* of attention: whose tokens it reads, and their id; NULL, 0: not told */
	int64 tokens;
} TapeOp;

/* The next number; ERROR when a run is full. */
extern uint32 TapeNext(TapeRun *run);
/* name may be NULL, and so may data, of a parameter. */
extern void TapeWriteTensor(TapeRun *run, uint32 number, const char *name, int ndim, const int *dims,
	const Tensor *data, bool requires_grad);
extern void TapeWriteOp(TapeRun *run, const TapeOp *op);
/* token_id negative: the whole parameter. */
extern void TapeWriteMap(
	TapeRun *run, uint32 number, const char *model, const char *name, int token_id, int64 version);
extern void TapeWriteRun(TapeRun *run, const char *kind, const char *model, Datum tokens, bool open);
extern void TapeWriteClosed(int64 run);
extern bool TapeWanted(const TapeRun *run, uint32 number);
/* What is made from this tensor is recorded as leading to a leaf. */
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

/* All parameters in the order of their names; read_only: by the statement's own snapshot, as ModelOf reads.
 */
extern TapeParam *TapeParams(TapeRun *run, const char *model, bool read_only, int *n);
/* Its leaf, written where the run has none; returns its number. */
extern uint32 TapeParamLeaf(TapeRun *run, const char *model, TapeParam *param);

/* ---- values of the executor (tape_heads.c) ---- */

/* Writes a value as a tensor of the run; returns its number. wanted: a leaf leads to it. */
extern uint32 TapeWriteValue(TapeRun *run, const char *name, const LlmValue *value, bool wanted);
/*
 * What attention made beside the heads side by side, its value, whose number is the first: scores,
 * probabilities and each head, to look at; gradients flow through the value. Returns all numbers, how many in
 * *n.
 */
extern uint32 *TapeWriteHeads(TapeRun *run, const char *name, uint32 first, const LlmTraced *traced, int *n);
/* Tells a stored value from others (_llm_tensor_version). */
extern int64 TensorVersion(Datum datum);

#endif
