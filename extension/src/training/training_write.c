/*
 * Writes weights and moments back to llm_param. Writing is slow compared with a step, so it is done once per
 * call, or at each commit.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tensor/tensor.h"
#include "src/training/training.h"

/* Several large columns in one UPDATE would exceed the 1 GB limit of a row in memory. */
#define TOGETHER ((Size) 256 << 20)

static SpiQuery write_all = {
	.text = "UPDATE %s.llm_param SET data = $3, m = $4, v = $5, step = $6 WHERE model = $1 AND name = $2",
	.nargs = 6};
static SpiQuery write_data = {
	.text = "UPDATE %s.llm_param SET data = $3, step = $4 WHERE model = $1 AND name = $2", .nargs = 4};
static SpiQuery write_m = {
	.text = "UPDATE %s.llm_param SET m = $3 WHERE model = $1 AND name = $2", .nargs = 3};
static SpiQuery write_v = {
	.text = "UPDATE %s.llm_param SET v = $3 WHERE model = $1 AND name = $2", .nargs = 3};

static Datum
ValueOf(const Training *tr, int node, const float *from)
{
	const LlmNode *n = &tr->m->model.graph.nodes[node];
	int dims[LLM_MAX_DIMS];
	Tensor *t;
	LlmError err;

	for (int i = 0; i < n->ndim; i++)
		dims[i] = (int) llm_dim_value(&n->shape[i], &tr->m->model.graph.sizes);
	t = TensorNew(n->ndim, dims);
	LLM_CHECK(llm_weight_unpack(&tr->m->model, node, from, TENSOR_DATA(t), &err), &err);
	TensorCanonicalize(t);
	return PointerGetDatum(t);
}

/*
 * values: model, name, then `tensors` tensors, then possibly the step. The row exists, because it is locked.
 */
static void
Write(SpiQuery *query, Datum *values, int tensors)
{
	Size size = 0;

	for (int i = 0; i < query->nargs; i++)
	{
		query->types[i] = i < 2 ? TEXTOID : i < 2 + tensors ? TensorTypeOid() : INT8OID;
		if (i >= 2 && i < 2 + tensors)
			size += VARSIZE(DatumGetPointer(values[i]));
	}
	ReserveMemory(size); /* for the row formed from them */
	SpiRun(query, values, NULL, false, 0);
	if (SPI_processed != 1)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						   errmsg("parameter \"%s\" of model \"%s\" could not be written",
							   TextDatumGetCString(values[1]), TextDatumGetCString(values[0])),
						   errhint("A row security policy or a rule on llm_param hides it from this role.")));
}

static void
WriteNode(Training *tr, int node)
{
	const float *data = llm_weight_data(&tr->m->model.weights[node]);
	const LlmTrainer *t = tr->trainer;
	Datum values[6] = {CStringGetTextDatum(tr->store_model[node]), CStringGetTextDatum(tr->store_name[node])};
	Datum step = Int64GetDatum(tr->step + t->offset[node]);

	values[2] = ValueOf(tr, node, data);
	if (tr->m->model.weights[node].numel <= TOGETHER / (3 * sizeof(float)))
	{
		values[3] = ValueOf(tr, node, t->m[node]);
		values[4] = ValueOf(tr, node, t->v[node]);
		values[5] = step;
		Write(&write_all, values, 3);
		return;
	}
	values[3] = step;
	Write(&write_data, values, 1);
	pfree(DatumGetPointer(values[2]));
	values[2] = ValueOf(tr, node, t->m[node]);
	Write(&write_m, values, 1);
	pfree(DatumGetPointer(values[2]));
	values[2] = ValueOf(tr, node, t->v[node]);
	Write(&write_v, values, 1);
}

void
TrainingWrite(Training *tr)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "training write", ALLOCSET_DEFAULT_SIZES);

	llm_exec_release(tr->trainer->exec); /* rows are written from copies of the largest tensors */
	SPI_connect();
	for (int i = 0; i < tr->m->model.graph.count; i++)
		if (tr->trainer->grad[i] && tr->trainer->owner[i] == i)
		{
			MemoryContext caller = MemoryContextSwitchTo(context);

			WriteNode(tr, i);
			MemoryContextSwitchTo(caller);
			MemoryContextReset(context);
			CHECK_FOR_INTERRUPTS();
		}
	SPI_finish();
	MemoryContextDelete(context);
}
