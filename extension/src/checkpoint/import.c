/*
 * Import from a path. SQL decides what the file must hold (_llm_import_begin); this file turns its tensors
 * into rows, one at a time.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/catalog.h"
#include "src/base/memory.h"
#include "src/base/progress.h"
#include "src/base/spi.h"
#include "src/checkpoint/import_checkpoint.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_import_safetensors);
PG_FUNCTION_INFO_V1(pg_llm_import_npz);

typedef struct ImportRow
{
	char *name;
	const CheckpointTensor *tensor;
	bool is_transposed; /* in the file */
	int ndim;
	int dims[LLM_MAX_DIMS];
} ImportRow;

/*
 * Registers or checks the model and returns which tensor becomes which row; palloc'd in the caller's context.
 */
static ImportRow *
BeginImport(
	const char *model, const Checkpoint *checkpoint, bool ignore_surplus, MemoryContext context, int *count)
{
	static SpiQuery begin = {"SELECT name, position, shape, is_transposed "
							 "FROM %s._llm_import_begin($1, $2::jsonb, $3::jsonb, $4, $5)",
		5, {TEXTOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID}, .columns = "siIb"};
	Datum args[5] = {CStringGetTextDatum(model), CStringGetTextDatum(CheckpointTensorsJson(checkpoint)),
		checkpoint->config ? CStringGetTextDatum(checkpoint->config) : (Datum) 0,
		BoolGetDatum(CheckpointHeadIsWte(checkpoint)), BoolGetDatum(ignore_surplus)};
	ImportRow *rows;

	SpiRun(&begin, args, checkpoint->config ? "     " : "  n  ", false, 0);
	*count = (int) SPI_processed;
	rows = MemoryContextAlloc(context, sizeof(ImportRow) * (Size) (*count + 1));
	for (int i = 0; i < *count; i++)
	{
		bool isnull;
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		int position = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));

		rows[i].name = MemoryContextStrdup(context, SPI_getvalue(tuple, desc, 1));
		rows[i].tensor = &checkpoint->tensors[position - 1];
		rows[i].ndim = ShapeFromArray(SPI_getbinval(tuple, desc, 3, &isnull), rows[i].dims);
		rows[i].is_transposed = DatumGetBool(SPI_getbinval(tuple, desc, 4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return rows;
}

/* Reads one tensor and inserts its row. */
static int64
ImportTensor(const char *model, const ImportRow *row)
{
	static SpiQuery insert = {"INSERT INTO %s.llm_param (model, name, data) VALUES ($1, $2, $3)", 3,
		{TEXTOID, TEXTOID}, .one = true};
	Tensor *tensor = TensorNew(row->ndim, row->dims);
	Datum args[3] = {CStringGetTextDatum(model), CStringGetTextDatum(row->name), PointerGetDatum(tensor)};

	insert.types[2] = TensorTypeOid();
	ReserveMemory(VARSIZE(tensor)); /* for the row formed from it */
	CheckpointRead(row->tensor, row->is_transposed, TENSOR_DATA(tensor));
	SpiRun(&insert, args, NULL, false, 0);
	return TensorNumel(tensor);
}

static Datum
Import(FunctionCallInfo fcinfo, const CheckpointFormat *format)
{
	MemoryContext one = AllocSetContextCreate(CurrentMemoryContext, "pg_llm import", ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = CurrentMemoryContext;
	Checkpoint checkpoint;
	Progress *progress;
	ImportRow *rows;
	Datum result[2];
	int64 parameters = 0;
	int count;
	char *path, *model;

	ServerFileAllow(false);
	path = ServerFilePath(PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0), PG_ARGISNULL(0));
	model = PG_ARGISNULL(1) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	progress = ProgressBegin(CurrentMemoryContext, "import", model, "tensor", 0);
	ProgressPhaseIs(progress, PROGRESS_LOADING);
	CheckpointOpen(&checkpoint, path, format);

	SPI_connect();
	rows = BeginImport(model, &checkpoint, !PG_ARGISNULL(2) && PG_GETARG_BOOL(2), outer, &count);
	ProgressRange(progress, 0, count);
	for (int i = 0; i < count; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(one);

		CHECK_FOR_INTERRUPTS();
		parameters += ImportTensor(model, &rows[i]);
		MemoryContextSwitchTo(spi);
		MemoryContextReset(one);
		ProgressStep(progress, i + 1, 0);
	}
	SPI_finish();
	ProgressEnd(progress);
	result[0] = Int32GetDatum(count);
	result[1] = Int64GetDatum(parameters);
	return RowResult(fcinfo, result, NULL);
}

Datum
pg_llm_import_safetensors(PG_FUNCTION_ARGS)
{
	return Import(fcinfo, &CheckpointSafetensors);
}

Datum
pg_llm_import_npz(PG_FUNCTION_ARGS)
{
	return Import(fcinfo, &CheckpointNpz);
}
