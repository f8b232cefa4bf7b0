/*
 * llm_backward and llm_backprop: read the tape, run the backward pass over it and write the gradients.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "engine/parallel.h"
#include "src/base/arguments.h"
#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tape/autograd.h"
#include "src/tape/tape.h"

/* Locks the run's row while rows of the run are written, so that llm_prune_autograd_state skips it. */
static SpiQuery run_of_key = {
	.text = "SELECT run, %s._llm_own_run(pid, started), who, pid FROM %s.llm_run WHERE key = $1"
			" FOR KEY SHARE",
	.nargs = 1,
	.types = {INT4OID},
	.columns = "lbni"};
static SpiQuery run_of_op = {
	.text = "SELECT r.run, %s._llm_own_run(r.pid, r.started), r.who, r.pid FROM %s.llm_tape AS t"
			" JOIN %s.llm_run AS r USING (run) WHERE t.id = $1 FOR KEY SHARE OF r",
	.nargs = 1,
	.types = {INT8OID},
	.columns = "lbni"};
static SpiQuery any_op = {.text = "SELECT max(id) FROM %s.llm_tape", .columns = "l?", .one = true};
static SpiQuery write_grad = {.text = "UPDATE %s.llm_tensor_rt SET grad = $2 WHERE id = $1",
	.nargs = 2,
	.types = {INT8OID, InvalidOid},
	.one = true};
static SpiQuery write_waiting = {
	.text = "UPDATE %s.llm_tensor_map SET accumulated = $2 WHERE id = $1 AND accumulated <> $2",
	.nargs = 2,
	.types = {INT8OID, BOOLOID}};
static SpiQuery write_done = {
	.text = "UPDATE %s.llm_tape SET extra = extra || '{\"backprop\": true}' WHERE id = $1",
	.nargs = 1,
	.types = {INT8OID}};

/* ---- the backward pass ---- */

void
BackwardRun(Backward *p)
{
	LlmAllocator *memory = ContextAllocator();
	LlmError err = {0};

	for (int i = 0; i < p->graph.count; i++)
	{
		Size size = p->values[i].numel * sizeof(float);

		if (!p->wanted[i])
			continue;
		p->grads[i] = memory->alloc(memory->context, Max(size, 1));
		if (p->grads[i] == NULL)
		{
			llm_fail(&err, LLM_NO_MEMORY, "no memory for %zu MB of gradients", size >> 20);
			RaiseError(&err);
		}
		LLM_CHECK(llm_fill(p->values[i].numel, 0, p->grads[i], &err), &err);
	}
	LLM_CHECK(
		llm_tape_backward(&p->graph, p->values, p->graph.count - 1, NULL, p->grads, memory, &err), &err);
}

static Tensor *
GradientOf(const Backward *p, int node)
{
	const LlmValue *v = &p->values[node];
	Tensor *t = TensorNew(v->ndim, v->dims);

	CopyMemory(TENSOR_DATA(t), p->grads[node], v->numel * sizeof(float));
	TensorCanonicalize(t);
	return t;
}

/*
 * llm_backprop accumulates a parameter's gradients of several scalars until llm_accumulate_grads consumes
 * them; a second call for the same scalar adds nothing. Every other tensor holds the gradient of the scalar
 * of the last backward pass. llm_backward returns its gradients: it neither changes nor adds to those waiting
 * for llm_accumulate_grads.
 */
static void
WriteGradient(Backward *p, int node, bool wait)
{
	Tensor *t = GradientOf(p, node);
	const Tensor *waiting = p->waiting[node];
	LlmError err;
	Datum values[2] = {Int64GetDatum(p->ids[node]), PointerGetDatum(t)};

	if (waiting && (p->again || !wait))
		return;
	if (waiting && TensorNumel(waiting) == TensorNumel(t))
		LLM_CHECK(llm_binary(LLM_ADD, 1, TensorNumel(t), TENSOR_DATA(waiting), true, true, TENSOR_DATA(t),
					  true, true, TENSOR_DATA(t), &err),
			&err);
	write_grad.types[1] = TensorTypeOid();
	SpiRun(&write_grad, values, NULL, false, 0);
	values[1] = BoolGetDatum(!wait);
	if (p->models[node])
		SpiRun(&write_waiting, values, NULL, false, 0);
	pfree(t);
}

int64
BackwardWrite(Backward *p, bool wait)
{
	Datum target = Int64GetDatum(p->target);
	int64 n = 0;

	SPI_connect();
	for (int i = 0; i < p->graph.count; i++)
		if (p->wanted[i])
		{
			CHECK_FOR_INTERRUPTS();
			WriteGradient(p, i, wait);
			n++;
		}
	if (wait)
		SpiRun(&write_done, &target, NULL, false, 0);
	SPI_finish();
	return n;
}

/* ---- access to the run ---- */

/* The run that the last query found; 0 if it found none. Call inside SPI. */
static int64
OwnRun(void)
{
	bool null;
	HeapTuple row;
	TupleDesc desc;
	int64 run;

	if (SPI_processed == 0)
		return 0;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	run = DatumGetInt64(SPI_getbinval(row, desc, 1, &null));
	if (!DatumGetBool(SPI_getbinval(row, desc, 2, &null)))
		ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("run %lld was recorded by another session, process %s of %s", (long long) run,
					SPI_getvalue(row, desc, 4), SPI_getvalue(row, desc, 3)),
				errhint("Gradients are computed by the session that ran the forward pass: run it here, "
						"with autograd on.")));
	return run;
}

static void
NotRecorded(void)
{
	ereport(ERROR,
		(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("this tensor was not recorded: it is a constant"),
			pg_llm_autograd
				? errhint("Mark what to differentiate by with llm_var(w, 'w') and compute the loss "
						  "from it in one run: a backward pass, switching off and a rollback end a run.")
				: errhint("Switch recording on first: UPDATE llm_autograd_mode SET flag = true.")));
}

static void
NoSuchOp(int64 id, bool null)
{
	bool empty;

	SpiRun(&any_op, NULL, NULL, false, 1);
	SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &empty);
	ereport(ERROR,
		(errcode(ERRCODE_UNDEFINED_OBJECT),
			empty  ? errmsg("the tape is empty")
			: null ? errmsg("the tape id is NULL")
				   : errmsg("there is no operation %lld on the tape", (long long) id),
			empty ? errhint("UPDATE llm_autograd_mode SET flag = true, then run the forward pass: SELECT "
							"llm_loss(model, tokens, targets).")
				  : errhint("SELECT max(id) FROM llm_tape is the last operation recorded.")));
}

/* ---- SQL ---- */

PG_FUNCTION_INFO_V1(llm_backward);
Datum
llm_backward(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Tensor *loss;
	Datum key;
	int64 run;
	Backward *p;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the loss is NULL"),
						   errhint("A NULL among the operands makes the whole expression NULL.")));
	loss = PG_GETARG_TENSOR(0);
	InitMaterializedSRF(fcinfo, 0);
	key = Int32GetDatum((int32) loss->tape_run);
	SPI_connect();
	if (loss->tape_run != 0)
		SpiRun(&run_of_key, &key, NULL, false, 1);
	run = loss->tape_run ? OwnRun() : 0;
	SPI_finish();
	if (run == 0 || loss->tape_id == 0 || loss->tape_id >= TAPE_RUN_SIZE)
		NotRecorded();
	p = BackwardRead(run, run * TAPE_RUN_SIZE + loss->tape_id);
	BackwardRun(p);
	BackwardWrite(p, false);
	TapeClose(run);
	for (int i = 0; i < p->graph.count; i++)
		if (p->graph.nodes[i].op == LLM_OP_PARAM)
		{
			Datum values[2] = {p->names[i] ? CStringGetTextDatum(p->names[i]) : (Datum) 0,
				PointerGetDatum(GradientOf(p, i))};

			tuplestore_putvalues(
				result->setResult, result->setDesc, values, (bool[]){p->names[i] == NULL, false});
		}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(llm_backprop);
Datum
llm_backprop(PG_FUNCTION_ARGS)
{
	int64 id = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0), run, n;
	char *model = NameArgument(fcinfo, 1, "model");
	Datum value = Int64GetDatum(id);
	const char *other = NULL;
	bool found = false;
	Backward *p;

	SPI_connect();
	SpiRun(&run_of_op, &value, NULL, false, 1);
	run = OwnRun();
	if (run == 0)
		NoSuchOp(id, PG_ARGISNULL(0));
	SPI_finish();
	p = BackwardRead(run, id);
	for (int i = 0; i < p->graph.count; i++)
		if (p->models[i] && strcmp(p->models[i], model) != 0)
			other = p->models[i];
		else
			found |= p->models[i] != NULL;
	if (!found)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				other ? errmsg("operation %lld is of model \"%s\", not \"%s\"", (long long) id, other, model)
					  : errmsg("no parameter of model \"%s\" leads to operation %lld", model, (long long) id),
				other ? errhint("llm_backprop(%lld, '%s') computes its gradients.", (long long) id, other)
					  : errhint("llm_backward(loss) gives the gradients of what llm_var names.")));
	BackwardRun(p);
	n = BackwardWrite(p, true);
	if (p->again)
		ereport(
			NOTICE, (errmsg("the gradients of operation %lld were computed before", (long long) id),
						errhint("llm_accumulate_grads('%s') adds its gradients to llm_param.grad.", model)));
	TapeClose(run);
	PG_RETURN_INT64(n);
}

/* grad + more; a NULL grad counts as zeros of the shape. A row `more` is added to row token_id. */
PG_FUNCTION_INFO_V1(llm_add_gradient);
Datum
llm_add_gradient(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS], ndim;
	Tensor *out, *more;
	LlmError err;
	int64 n, first = 0;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	ndim = ShapeFromArray(PG_GETARG_DATUM(1), dims);
	more = PG_GETARG_TENSOR(2);
	n = TensorNumel(more);
	out = TensorNewZero(ndim, dims);
	if (!PG_ARGISNULL(0))
	{
		Tensor *grad = PG_GETARG_TENSOR(0);

		if (TensorNumel(grad) != TensorNumel(out))
			ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					errmsg("the gradient there is %s, the parameter %s", TensorShape(grad), TensorShape(out)),
					errhint("llm_zero_grad(model) clears gradients.")));
		CopyMemory(TENSOR_DATA(out), TENSOR_DATA(grad), TensorNumel(out) * sizeof(float));
	}
	if (!PG_ARGISNULL(3))
		first = (int64) PG_GETARG_INT32(3) * n;
	if (first < 0 || first + n > TensorNumel(out) || (PG_ARGISNULL(3) && n != TensorNumel(out)))
		ereport(
			ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("a gradient of shape %s does not fit the parameter, which is %s",
						   TensorShape(more), TensorShape(out)),
					   errhint("The parameter has changed its shape since: run the forward pass again.")));
	LLM_CHECK(llm_binary(LLM_ADD, 1, n, TENSOR_DATA(out) + first, true, true, TENSOR_DATA(more), true, true,
				  TENSOR_DATA(out) + first, &err),
		&err);
	PG_RETURN_TENSOR(out);
}
