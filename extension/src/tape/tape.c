/*
 * The session's run: opened by the first recorded operation; closed when recording is switched off, by a
 * backward pass, and by the abort of a transaction that wrote to it.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/acl.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "engine/tape.h"
#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/tape/tape.h"

bool pg_llm_autograd = false;

static TapeRun session;
static instr_time started;

/* ---- opening and closing ---- */

static void
Forget(void)
{
	session.run = 0;
	session.key = 0;
	session.count = 0;
	session.wrote = 0;
}

static void
AutogradAssign(bool newval, void *extra)
{
	if (!newval)
		Forget();
}

/* Its last rows were rolled back: later operations belong to a new run. */
static void
TransactionEnds(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		session.wrote = 0;
	else if ((event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE) && session.wrote > 0)
		Forget();
}

static void
SubtransactionEnds(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (session.wrote < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		Forget();
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		session.wrote = level - 1;
}

void
TapeInit(void)
{
	DefineCustomBoolVariable("pg_llm.autograd", "Operations on tensors are recorded in llm_tape.",
		"llm_backward and llm_backprop compute gradients from what was recorded. llm_autograd_mode shows it "
		"as a table.",
		&pg_llm_autograd, false, PGC_USERSET, 0, NULL, AutogradAssign, NULL);
	RegisterXactCallback(TransactionEnds, NULL);
	RegisterSubXactCallback(SubtransactionEnds, NULL);
}

/* Raises these errors before anything is written, with messages that explain them. */
static void
CheckMayRecord(void)
{
	static const char *const tables[] = {"llm_run", "llm_tape", "llm_tensor_rt", "llm_tensor_map"};
	AclMode all = ACL_SELECT | ACL_INSERT | ACL_UPDATE;

	if (XactReadOnly || RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
						   errmsg("a read-only transaction cannot record operations on tensors"),
						   errhint("Switch recording off with SET pg_llm.autograd = off, or start the "
								   "transaction READ WRITE.")));
	if (IsInParallelMode())
		ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
						   errmsg("operations on tensors cannot be recorded during a parallel query"),
						   errhint("SET max_parallel_workers_per_gather = 0, or pg_llm.autograd = off.")));
	for (int i = 0; i < lengthof(tables); i++)
	{
		Oid table = get_relname_relid(tables[i], ExtensionNamespace());

		if (!OidIsValid(table) || pg_class_aclmask(table, GetUserId(), all, ACLMASK_ALL) != all)
			ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
							   errmsg("role \"%s\" may not write \"%s\", where operations are recorded",
								   GetUserNameFromId(GetUserId(), false), tables[i]),
							   errhint("SET pg_llm.autograd = off, or have the owner GRANT SELECT, INSERT, "
									   "UPDATE, DELETE ON llm_run, llm_tape, llm_tensor_rt, llm_tensor_map "
									   "and USAGE ON SEQUENCE llm_run_seq.")));
	}
}

TapeRun *
TapeCurrent(void)
{
	return session.run != 0 && session.extension == TensorTypeOid() ? &session : NULL;
}

TapeRun *
TapeOpen(const char *kind, const char *model, Datum tokens)
{
	if (TapeCurrent())
		return &session;
	CheckMayRecord();
	Forget();
	session.context = TopMemoryContext;
	TapeWriteRun(&session, kind, model, tokens, true);
	return &session;
}

TapeRun *
TapeNew(const char *kind, const char *model, Datum tokens)
{
	TapeRun *run = palloc0(sizeof(TapeRun));

	CheckMayRecord();
	run->context = CurrentMemoryContext;
	TapeWriteRun(run, kind, model, tokens, false);
	return run;
}

void
TapeClose(int64 run)
{
	TapeWriteClosed(run);
	if (session.run == run)
		Forget();
}

void
TapeAbandon(void)
{
	Forget();
}

/* ---- recording ---- */

void
TapeStart(void)
{
	INSTR_TIME_SET_CURRENT(started);
}

uint32
TapeKnown(const Tensor *t)
{
	TapeRun *run = TapeCurrent();

	return run && t->tape_run == run->key && t->tape_id >= 1 && t->tape_id <= run->count ? t->tape_id : 0;
}

uint32
TapeNumber(const Tensor *t)
{
	TapeRun *run = TapeOpen("expression", NULL, (Datum) 0);
	uint32 number = TapeKnown(t);

	if (number == 0)
	{
		instr_time before, after;

		INSTR_TIME_SET_CURRENT(before);
		number = TapeNext(run);
		TapeWriteTensor(run, number, NULL, t->ndim, t->dims, t, false);
		INSTR_TIME_SET_CURRENT(after);
		INSTR_TIME_SUBTRACT(after, before);
		INSTR_TIME_ADD(started, after); /* the time spent writing is not part of the operation */
	}
	return number;
}

uint32
TapeIntegers(const char *what, int ndim, const int *dims, const int32 *numbers)
{
	Tensor *t = TensorNew(ndim, dims);
	int64 n = TensorNumel(t);

	for (int64 i = 0; i < n; i++)
	{
		LLM_POLL(i);
		if (numbers[i] > 16777216)
			ereport(
				ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("%s: %d cannot be recorded: beyond 16777216 not every whole number is a "
								  "float32",
							   what, numbers[i])));
		TENSOR_DATA(t)[i] = (float) numbers[i];
	}
	return TapeNumber(t);
}

/* The cost of computing `out`; zeros if the executor has no such op. */
static void
Count(TapeOp *row, const Tensor *out, const Tensor *first, int64 read)
{
	LlmNode node = *row->attrs;
	LlmValue x = {.ndim = first ? first->ndim : 0}, y = {.ndim = out->ndim, .numel = TensorNumel(out)};
	int64_t flops, bytes;

	node.op = llm_op_find(row->op);
	if (node.op == LLM_OP_COUNT)
		return;
	if (first)
	{
		memcpy(x.dims, first->dims, sizeof(int) * first->ndim);
		x.numel = TensorNumel(first);
	}
	memcpy(y.dims, out->dims, sizeof(int) * out->ndim);
	llm_op_cost(&node, first ? &x : NULL, read, &y, &flops, &bytes);
	row->flops = flops;
	row->bytes = bytes;
}

/* shown: further results of the op; NULL for every op but attention */
static void
Record(TapeOp *row, Tensor *out, const Tensor *first, int64 read, const LlmTraced *shown)
{
	TapeRun *run = TapeOpen("expression", NULL, (Datum) 0);
	uint32 number = TapeNext(run);
	bool wanted = false;
	instr_time end;

	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, started);
	row->microseconds = INSTR_TIME_GET_DOUBLE(end) * 1e6;
	row->outputs = &number;
	row->n_outputs = 1;
	Count(row, out, first, read);
	for (int i = 0; i < row->n_inputs; i++)
		wanted |= TapeWanted(run, row->inputs[i]);
	out->tape_run = run->key;
	out->tape_id = number;
	TapeWriteTensor(run, number, NULL, out->ndim, out->dims, out, wanted);
	if (shown)
		row->outputs = TapeWriteHeads(run, row->op, number, shown, &row->n_outputs);
	TapeWriteOp(run, row);
}

void
TapeRecordNumbers(Tensor *out, const char *op, int n, const uint32 *inputs, const Tensor *first, int64 read,
	int n_attrs, const LlmAttr *attrs)
{
	LlmNode node = {.n_attrs = n_attrs, .attrs = (LlmAttr *) attrs};
	TapeOp row = {.op = op, .n_inputs = n, .inputs = inputs, .attrs = &node};

	Record(&row, out, first, read, NULL);
}

void
TapeRecordShown(Tensor *heads, const Tensor *qkv, const LlmTraced *traced, int n_attrs, const LlmAttr *attrs)
{
	uint32 number = TapeNumber(qkv);
	LlmNode node = {.n_attrs = n_attrs, .attrs = (LlmAttr *) attrs};
	TapeOp row = {.op = "attention", .n_inputs = 1, .inputs = &number, .attrs = &node};

	Record(&row, heads, qkv, TensorNumel(qkv), traced);
}

void
TapeRecord(Tensor *out, const char *op, int n, Tensor *const *inputs, int n_attrs, const LlmAttr *attrs)
{
	uint32 *numbers = palloc(sizeof(uint32) * Max(1, n));
	int64 read = 0;

	for (int i = 0; i < n; i++)
	{
		numbers[i] = TapeNumber(inputs[i]);
		read += TensorNumel(inputs[i]);
	}
	TapeRecordNumbers(out, op, n, numbers, n > 0 ? inputs[0] : NULL, read, n_attrs, attrs);
	pfree(numbers);
}

LlmAttr
TapeAttr(const char *key, double number)
{
	return (LlmAttr){.key = key, .kind = LLM_ATTR_NUMBER, .number = number};
}

LlmAttr
TapeAttrFloat(const char *key, float number)
{
	return TapeAttr(key, DatumGetFloat8(DirectFunctionCall1(
							 float8in, DirectFunctionCall1(float4out, Float4GetDatum(number)))));
}

LlmAttr
TapeAttrBool(const char *key, bool value)
{
	return (LlmAttr){.key = key, .kind = LLM_ATTR_BOOL, .number = value};
}

LlmAttr
TapeAttrInts(const char *key, int n, const int *numbers)
{
	LlmAttr attr = {.key = key, .kind = LLM_ATTR_LIST, .count = n};

	attr.items = palloc0(sizeof(LlmAttr) * Max(1, n));
	for (int i = 0; i < n; i++)
		attr.items[i] = (LlmAttr){.kind = LLM_ATTR_NUMBER, .number = numbers[i]};
	return attr;
}

/* ---- SQL ---- */

PG_FUNCTION_INFO_V1(llm_autograd);
Datum
llm_autograd(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(pg_llm_autograd);
}

PG_FUNCTION_INFO_V1(llm_open_run);
Datum
llm_open_run(PG_FUNCTION_ARGS)
{
	TapeRun *run = TapeCurrent();

	if (run == NULL)
		PG_RETURN_NULL();
	PG_RETURN_INT64(run->run);
}

PG_FUNCTION_INFO_V1(llm_own_run);
Datum
llm_own_run(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(PG_GETARG_INT32(0) == MyProcPid && PG_GETARG_TIMESTAMPTZ(1) >= MyStartTimestamp);
}

/* INSTEAD OF trigger: an update of the view's row changes the setting. */
PG_FUNCTION_INFO_V1(llm_set_autograd_mode);
Datum
llm_set_autograd_mode(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple row;
	bool null = false, flag = false;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						   errmsg("this function is for the trigger of llm_autograd_mode")));
	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
	if (!TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		flag = DatumGetBool(heap_getattr(row, 1, trigger->tg_relation->rd_att, &null));
	if (null)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("flag is NULL"),
						   errhint("UPDATE llm_autograd_mode SET flag = true records; false does not.")));
	if (!flag && TapeCurrent() && !XactReadOnly)
		TapeWriteClosed(session.run);
	set_config_option(
		"pg_llm.autograd", flag ? "on" : "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
	return PointerGetDatum(row);
}
