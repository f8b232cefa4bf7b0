/*
 * Converts rows of the tape to a graph with values. Rows may have been changed by hand: none is trusted
 * before ids, operations and shapes have been checked against one another.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "src/base/attributes.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tape/autograd.h"
#include "src/tape/tape.h"

/* Operations that depend on no leaf are left out: their results are constants. */
static SpiQuery read_ops = {
	.text = "SELECT t.id, t.op, t.inputs, t.outputs, coalesce(t.extra -> 'attrs', '{}'), t.extra ? 'backprop'"
			" FROM %s.llm_tape AS t JOIN %s.llm_tensor_rt AS r USING (id) WHERE t.run = $1 AND t.id <= $2"
			" AND r.requires_grad ORDER BY t.id",
	.nargs = 2,
	.types = {INT8OID, INT8OID},
	.columns = "lsLLjb?"};
static SpiQuery read_tensors = {
	.text = "SELECT r.id, r.name, coalesce(r.data, p.data), r.requires_grad, m.model,"
			" r.data IS NULL AND m.version IS DISTINCT FROM %s._llm_tensor_version(p.data),"
			" CASE WHEN NOT m.accumulated THEN r.grad END"
			" FROM %s.llm_tensor_rt AS r LEFT JOIN %s.llm_tensor_map AS m USING (id)"
			" LEFT JOIN %s.llm_param_share AS s"
			" ON r.data IS NULL AND s.target_model = m.model AND s.target_name = m.name"
			" LEFT JOIN %s.llm_param AS p ON r.data IS NULL AND p.model = coalesce(s.source_model, m.model)"
			" AND p.name = coalesce(s.source_name, m.name) WHERE r.run = $1 AND r.id <= $2 ORDER BY r.id",
	.nargs = 2,
	.types = {INT8OID, INT8OID},
	.columns = "ls?t?bs?bt?"};

/* State while a backward pass's operations are read from the tables. */
typedef struct Reading
{
	Backward *pass;
	MemoryContext context; /* of the pass: SPI's own context is freed earlier */
	int numbers;           /* the target's number */
	int *row;              /* by number: the row of the operation that produced it, or -1 */
	int *shown;            /* by number: the row that produced it as an additional result, or -1 */
	int *node;             /* by number: its node, or -1 if it is not needed */
} Reading;

static int
NumberOf(const Reading *r, int64 id)
{
	int64 number = id - r->pass->run * TAPE_RUN_SIZE;

	return number >= 1 && number <= r->numbers ? (int) number : -1;
}

static int64 *
IdArray(Datum datum, int *n)
{
	ArrayType *array = (ArrayType *) DetoastWhole(datum);

	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return array_contains_nulls(array) ? NULL : (int64 *) ARR_DATA_PTR(array);
}

/* ---- the tensors needed ---- */

static void
IndexRows(Reading *r)
{
	TupleDesc desc = SPI_tuptable->tupdesc;
	bool null;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int64 id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], desc, 1, &null));
		int n, number = NumberOf(r, id);
		int64 *outputs = IdArray(SPI_getbinval(SPI_tuptable->vals[i], desc, 4, &null), &n);

		if (number < 0 || outputs == NULL)
			TapeBroken(id, "has ids that are not its run's");
		r->row[number] = (int) i;
		for (int j = 0; j < n; j++)
			if (NumberOf(r, outputs[j]) > 0 && outputs[j] != id)
				r->shown[NumberOf(r, outputs[j])] = (int) i;
		if (id == r->pass->target)
			r->pass->again = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], desc, 6, &null));
	}
}

static void
ShownOnly(int64 id)
{
	ereport(
		ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				   errmsg("no gradient flows through tensor %lld", (long long) id),
				   errdetail("It shows what an operation did inside; the operation's value is its first "
							 "output."),
				   errhint("SELECT op, outputs FROM llm_tape WHERE %lld = ANY (outputs).", (long long) id)));
}

/* A tensor's id is smaller than those of the tensors made from it, so that one descending pass finds all that
 * lead to the target. */
static int
MarkNeeded(Reading *r)
{
	TupleDesc desc = SPI_tuptable->tupdesc;
	int count = 0;
	bool null;

	r->node[r->numbers] = 0;
	for (int number = r->numbers; number >= 1; number--)
	{
		HeapTuple row;
		int64 id = r->pass->run * TAPE_RUN_SIZE + number, *inputs;
		int n;

		if (r->node[number] < 0)
			continue;
		count++;
		if (r->row[number] < 0)
		{
			if (r->shown[number] >= 0)
				ShownOnly(id);
			continue;
		}
		row = SPI_tuptable->vals[r->row[number]];
		inputs = IdArray(SPI_getbinval(row, desc, 3, &null), &n);
		for (int i = 0; inputs && i < n; i++)
		{
			int input = NumberOf(r, inputs[i]);

			if (input < 0 || input >= number)
				TapeBroken(id, "reads a tensor that was not made before it");
			r->node[input] = 0;
		}
		CHECK_FOR_INTERRUPTS();
	}
	return count;
}

/* ---- nodes ---- */

static LlmAttr
DimensionList(const Tensor *t)
{
	return TapeAttrInts("shape", t->ndim, t->dims);
}

static void
MakeOp(Reading *r, LlmNode *node, HeapTuple row, TupleDesc desc)
{
	bool null;
	char *op = SPI_getvalue(row, desc, 2);
	int64 *inputs;

	node->op = llm_op_find(op);
	if (node->op == LLM_OP_COUNT || node->op == LLM_OP_INPUT || node->op == LLM_OP_PARAM)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						   errmsg("row %s of the tape: there is no operation \"%s\"", node->name, op),
						   errhint("SELECT op, formula FROM llm_op lists them.")));
	inputs = IdArray(SPI_getbinval(row, desc, 3, &null), &node->n_inputs);
	if (inputs == NULL)
		TapeBroken(pg_strtoint64(node->name), "reads NULL");
	node->input_names = palloc(sizeof(char *) * Max(1, node->n_inputs));
	node->inputs = palloc(sizeof(int) * Max(1, node->n_inputs));
	for (int i = 0; i < node->n_inputs; i++)
		node->input_names[i] = psprintf("%lld", (long long) inputs[i]);
	GraphReadAttrs(DatumGetJsonbP(SPI_getbinval(row, desc, 5, &null)), node);
}

static void
MakeNodes(Reading *r, int count)
{
	Backward *p = r->pass;
	int n = 0;

	p->graph.count = count;
	p->graph.nodes = palloc0(sizeof(LlmNode) * count);
	p->graph.order = palloc(sizeof(int) * count);
	p->graph.by_name = palloc(sizeof(int) * count);
	p->ids = palloc(sizeof(int64) * count);
	p->values = palloc0(sizeof(LlmValue) * count);
	p->wanted = palloc0(sizeof(bool) * count);
	p->grads = palloc0(sizeof(float *) * count);
	p->names = palloc0(sizeof(char *) * count);
	p->models = palloc0(sizeof(char *) * count);
	p->waiting = palloc0(sizeof(Tensor *) * count);
	for (int number = 1; number <= r->numbers; number++)
	{
		if (r->node[number] < 0)
			continue;
		r->node[number] = n;
		p->ids[n] = p->run * TAPE_RUN_SIZE + number;
		p->graph.nodes[n].name = psprintf("%lld", (long long) p->ids[n]);
		if (r->row[number] >= 0)
			MakeOp(r, &p->graph.nodes[n], SPI_tuptable->vals[r->row[number]], SPI_tuptable->tupdesc);
		n++;
	}
}

static void
ReadOps(Reading *r)
{
	Datum values[2] = {Int64GetDatum(r->pass->run), Int64GetDatum(r->pass->target)};
	MemoryContext spi;
	int count;

	SpiRun(&read_ops, values, NULL, false, 0);
	ReserveMemory(3 * sizeof(int) * ((Size) r->numbers + 1)); /* as do the rows */
	spi = MemoryContextSwitchTo(r->context);
	r->row = palloc(sizeof(int) * (r->numbers + 1));
	r->shown = palloc(sizeof(int) * (r->numbers + 1));
	r->node = palloc(sizeof(int) * (r->numbers + 1));
	memset(r->row, -1, sizeof(int) * (r->numbers + 1));
	memset(r->shown, -1, sizeof(int) * (r->numbers + 1));
	memset(r->node, -1, sizeof(int) * (r->numbers + 1));
	IndexRows(r);
	count = MarkNeeded(r);
	if (count > LLM_MAX_NODES)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("%d tensors lead to tensor %lld; a backward pass covers at most %d", count,
							   (long long) r->pass->target, LLM_MAX_NODES),
						   errhint("Work on larger tensors, or call llm_backward more often.")));
	MakeNodes(r, count);
	MemoryContextSwitchTo(spi);
	SPI_freetuptable(SPI_tuptable);
}

/* ---- values ---- */

static void
MakeValue(LlmValue *v, const Tensor *t)
{
	v->ndim = t->ndim;
	memcpy(v->dims, t->dims, sizeof(int) * t->ndim);
	v->numel = TensorNumel(t);
	v->floats = TENSOR_DATA(t);
}

static void
MakeLeaf(LlmNode *node, const Tensor *t, bool requires_grad)
{
	node->op = requires_grad ? LLM_OP_PARAM : LLM_OP_INPUT;
	node->attrs = palloc0(sizeof(LlmAttr) * 2);
	node->attrs[node->n_attrs++] = DimensionList(t);
}

static char *
Column(HeapTuple row, TupleDesc desc, int column)
{
	bool null;
	Datum value = SPI_getbinval(row, desc, column, &null);

	return null ? NULL : TextDatumGetCString(value);
}

/* Returns a copy that outlives the row. */
static Tensor *
CopyTensor(Datum datum)
{
	Tensor *t = DatumGetTensor(datum);

	return (Pointer) t == DatumGetPointer(datum) ? TensorCopy(t) : t;
}

/* A model's dimension names stood for numbers, those of the value t, when it was executed. */
static void
ResolveNames(LlmNode *node, const Tensor *t)
{
	LlmAttr attr;

	if (node->op == LLM_OP_RESHAPE)
		attr = DimensionList(t);
	else if (node->op == LLM_OP_ONE_HOT && t->ndim > 0)
		attr = TapeAttr("size", t->dims[t->ndim - 1]);
	else if (node->op == LLM_OP_SCATTER_ROWS && t->ndim > 0)
		attr = TapeAttr("size", t->dims[0]);
	else
		return;
	node->attrs = palloc(sizeof(LlmAttr));
	node->attrs[0] = attr;
	node->n_attrs = 1;
}

static void
TakeTensor(Reading *r, HeapTuple row, TupleDesc desc)
{
	Backward *p = r->pass;
	bool null;
	int64 id = DatumGetInt64(SPI_getbinval(row, desc, 1, &null));
	int number = NumberOf(r, id), node = number > 0 ? r->node[number] : -1;
	Datum data;
	Tensor *t;

	if (node < 0)
		return;
	if (p->values[node].floats) /* a primary key was dropped, of the tape or of llm_param */
		TapeBroken(id, "has two rows");
	p->names[node] = Column(row, desc, 2);
	p->models[node] = Column(row, desc, 5);
	if (DatumGetBool(SPI_getbinval(row, desc, 6, &null)) && p->models[node])
		ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("parameter \"%s\" of model \"%s\" has changed since run %lld", p->names[node],
					p->models[node], (long long) p->run),
				errhint("Gradients belong to the weights that made the loss: run the forward pass again, "
						"then llm_backprop.")));
	data = SPI_getbinval(row, desc, 3, &null);
	if (null)
		TapeBroken(id, "has a tensor without data");
	t = CopyTensor(data);
	MakeValue(&p->values[node], t);
	if (r->row[number] >= 0)
		ResolveNames(&p->graph.nodes[node], t);
	if (r->row[number] < 0 && p->names[node] == NULL && DatumGetBool(SPI_getbinval(row, desc, 4, &null)))
		TapeBroken(id, "is missing: no operation made this tensor, and it is no leaf");
	if (r->row[number] < 0)
		MakeLeaf(&p->graph.nodes[node], t, DatumGetBool(SPI_getbinval(row, desc, 4, &null)));
	data = SPI_getbinval(row, desc, 7, &null);
	if (!null)
		p->waiting[node] = CopyTensor(data);
}

static void
ReadTensors(Reading *r)
{
	Datum values[2] = {Int64GetDatum(r->pass->run), Int64GetDatum(r->pass->target)};
	Portal portal = SpiOpenLatest(&read_tensors, values);

	while (SpiFetch(&read_tensors, portal, 50))
	{
		MemoryContext spi = MemoryContextSwitchTo(r->context);

		for (uint64 i = 0; i < SPI_processed; i++)
			TakeTensor(r, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		MemoryContextSwitchTo(spi);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
}

/* ---- ids and targets ---- */

/* The node that is input i of another. */
static int
InputOf(const Reading *r, const LlmNode *node, int i)
{
	return r->node[NumberOf(r, pg_strtoint64(node->input_names[i]))];
}

/* The value as whole numbers, too; what is none becomes an id that does not exist. */
static void
MakeIntegers(LlmNode *node, LlmValue *v)
{
	int32_t *integers;

	if (v->integers || v->floats == NULL)
		return;
	ReserveMemory(sizeof(int32_t) * v->numel);
	integers = palloc(sizeof(int32_t) * Max(1, v->numel));
	for (size_t i = 0; i < v->numel; i++)
	{
		float x = v->floats[i];

		LLM_POLL(i);
		integers[i] = x >= -16777216.0f && x <= 16777216.0f ? (int32_t) x : INT_MAX;
	}
	v->integers = integers;
	if (node->op != LLM_OP_PARAM && node->op != LLM_OP_INPUT)
		return;
	node->op = LLM_OP_INPUT;
	node->attrs[node->n_attrs++] = (LlmAttr){.key = "dtype", .kind = LLM_ATTR_TEXT, .text = "int"};
}

/* The node whose value an operation reads as integers, or -1; an op whose ids may be floats checks them
 * itself. */
static int
IntegersOf(const Reading *r, const LlmNode *node)
{
	const Backward *p = r->pass;
	int i = llm_op_facts[node->op].ids;

	if (i == LLM_NO_IDS || i >= node->n_inputs)
		return -1;
	switch (node->op)
	{
		case LLM_OP_EMBEDDING:
		case LLM_OP_ROPE:
			return InputOf(r, node, i);
		case LLM_OP_CROSS_ENTROPY: /* distributions have as many dimensions as the logits */
			return p->values[InputOf(r, node, 1)].ndim < p->values[InputOf(r, node, 0)].ndim
					   ? InputOf(r, node, i)
					   : -1;
		default:
			return -1;
	}
}

/* The tape stores every value as floats. */
static void
ReadIntegers(Reading *r)
{
	Backward *p = r->pass;

	for (int i = 0; i < p->graph.count; i++)
	{
		int ids = IntegersOf(r, &p->graph.nodes[i]);

		if (ids >= 0)
			MakeIntegers(&p->graph.nodes[ids], &p->values[ids]);
	}
}

Backward *
BackwardRead(int64 run, int64 target)
{
	Reading r = {.pass = palloc0(sizeof(Backward)), .context = CurrentMemoryContext};
	const LlmValue *loss;

	r.pass->run = run;
	r.pass->target = target;
	r.numbers = (int) (target - run * TAPE_RUN_SIZE);
	SPI_connect();
	ReadOps(&r);
	ReadTensors(&r);
	SPI_finish();
	ReadIntegers(&r);
	BackwardCheck(r.pass);
	loss = &r.pass->values[r.pass->graph.count - 1];
	if (!r.pass->wanted[r.pass->graph.count - 1])
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("no leaf leads to tensor %lld: it is a constant", (long long) target),
				errhint("Mark what to differentiate by: llm_var(w, 'w'). What was recorded before "
						"a backward pass, a rollback or switching off is a constant in the next run.")));
	if (loss->numel != 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("gradients are those of a scalar; this tensor has shape %s",
							   ShapeToString(loss->ndim, loss->dims)),
						   errhint("mean(t) and tensor_sum(t) reduce a tensor to a scalar.")));
	return r.pass;
}
