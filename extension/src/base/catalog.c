/*
 * Finds the extension's schema and type through the extension's own row in pg_extension.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "src/base/build.h"
#include "src/base/catalog.h"

static Oid cached_namespace = InvalidOid;
static Oid cached_tensor_type = InvalidOid;

/* DROP EXTENSION drops the type, which invalidates the cached OIDs. */
static void
ForgetOids(Datum arg, int cacheid, uint32 hashvalue)
{
	cached_namespace = cached_tensor_type = InvalidOid;
}

static Oid
ExtensionSchema(void)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("pg_llm"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum version = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);

		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
		CheckVersion(TextDatumGetCString(version));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

Oid
ExtensionNamespace(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(TYPEOID, ForgetOids, (Datum) 0);
		registered = true;
	}
	if (!OidIsValid(cached_namespace))
		cached_namespace = ExtensionSchema();
	if (!OidIsValid(cached_namespace))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension pg_llm is not in this database"),
						   errhint("Run CREATE EXTENSION pg_llm.")));
	return cached_namespace;
}

const char *
ExtensionSchemaName(void)
{
	return quote_identifier(get_namespace_name(ExtensionNamespace()));
}

Oid
TensorTypeOid(void)
{
	if (!OidIsValid(cached_tensor_type))
		cached_tensor_type = GetSysCacheOid2(
			TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("tensor"), ObjectIdGetDatum(ExtensionNamespace()));
	if (!OidIsValid(cached_tensor_type))
		ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("type tensor is missing from extension pg_llm")));
	return cached_tensor_type;
}

const char *
DatabaseOption(void)
{
	return psprintf("--database %s", get_database_name(MyDatabaseId));
}
