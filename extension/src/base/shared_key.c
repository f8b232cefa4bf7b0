/*
 * What a shared copy contains. Each state of a model has its own version number, and the transaction that
 * wrote the number identifies the history of the database. The weights are identified by the versions of the
 * model and of the models whose parameters it uses, as one snapshot sees them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "src/base/catalog.h"
#include "src/base/changes.h"
#include "src/base/settings.h"
#include "src/base/shared_copy.h"
#include "src/base/spi.h"

static SpiQuery read_own = {.text = "SELECT model, version, xmin FROM %s.llm_model_version WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "slx"};
static SpiQuery read_sources = {
	.text = "SELECT model, version, xmin FROM %s.llm_model_version WHERE model = $1 OR model IN"
			" (SELECT source_model FROM %s.llm_param_share WHERE target_model = $1) ORDER BY model",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "slx"};

/* NULL if it is not a committed version, or not the given one (0 means any). */
static char *
Identity(SharedKind kind, const char *model, int64 version, uint64 layout)
{
	Datum value = CStringGetTextDatum(model);
	bool null, found = false, committed = true;
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%c %u %016llx", kind, TensorTypeOid(), (unsigned long long) layout);
	SPI_connect();
	SpiRun(kind == SHARED_MODEL ? &read_sources : &read_own, &value, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		char *name = SpiField(i, 1);
		int64 number = DatumGetInt64(SPI_getbinval(row, desc, 2, &null));
		TransactionId writer = DatumGetTransactionId(SPI_getbinval(row, desc, 3, &null));

		found |= strcmp(name, model) == 0 && (version == 0 || version == number);
		committed &= !TransactionIdIsCurrentTransactionId(writer);
		appendStringInfo(
			&text, "\n%zu %s %lld %u", strlen(name), name, (long long) number, (unsigned) writer);
	}
	SPI_finish();
	return found && committed ? text.data : NULL;
}

bool
SharedKeyOf(SharedKind kind, const char *model, int64 version, uint64 layout, SharedKey *key)
{
	/* during a command, rows may hold a state that no version number identifies */
	if (!pg_llm_share_weights || version == 0 || ChangePending() || !IsUnderPostmaster)
		return false;
	key->model = model;
	key->layout = layout;
	key->identity = Identity(kind, model, version, layout);
	if (key->identity == NULL)
		return false;
	key->file = (SharedName){.run = SharedRun(),
		.database = MyDatabaseId,
		.kind = kind,
		.name = SharedHash(model, strlen(model)),
		.version = version,
		.identity = SharedHash(key->identity, strlen(key->identity))};
	return true;
}

bool
SharedKeyIsLatest(const SharedKey *key)
{
	char *now;

	if (IsInParallelMode()) /* no snapshot may be taken there */
		return false;
	PushActiveSnapshot(GetLatestSnapshot());
	now = Identity(key->file.kind, key->model, 0, key->layout);
	PopActiveSnapshot();
	return now != NULL && strcmp(now, key->identity) == 0;
}
