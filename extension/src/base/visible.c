#include "src/base/visible.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "src/base/catalog.h"
#include "src/base/spi.h"

/* Within one version of a model, a row's place (ctid) identifies the row. */
#define PLACES(rows)                                                                                         \
	"SELECT count(*), coalesce(bit_xor(pg_catalog.hashtidextended(place, n)), 0) FROM (" rows                \
	") AS r (place, n)"

typedef struct Kind
{
	const char *tables[5];
	SpiQuery places;
} Kind;

static Kind kinds[] = {
	[VISIBLE_MODEL] = {{"llm_model_config", "llm_graph", "llm_param", "llm_param_share"},
		{PLACES("SELECT ctid, 1 FROM %s.llm_model_config WHERE model = $1"
				" UNION ALL SELECT ctid, 2 FROM %s.llm_graph WHERE model = $1"
				" UNION ALL SELECT ctid, 3 FROM %s.llm_param_share WHERE target_model = $1"
				" UNION ALL SELECT ctid, 4 FROM %s.llm_param WHERE model = $1 OR (model, name) IN (SELECT"
				" source_model, source_name FROM %s.llm_param_share WHERE target_model = $1)"),
			1, {TEXTOID}, .columns = "ll", .one = true}},
	[VISIBLE_TOKENIZER] = {{"llm_bpe_vocab", "llm_bpe_merges", "llm_bpe_config"},
		{PLACES("SELECT ctid, 1 FROM %s.llm_bpe_vocab WHERE model = $1"
				" UNION ALL SELECT ctid, 2 FROM %s.llm_bpe_merges WHERE model = $1"
				" UNION ALL SELECT ctid, 3 FROM %s.llm_bpe_config WHERE model = $1"),
			1, {TEXTOID}, .columns = "ll", .one = true}}};

static bool
MayRead(const char *table)
{
	Oid id = get_relname_relid(table, ExtensionNamespace());

	return OidIsValid(id) && pg_class_aclcheck(id, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

void
VisibleCheckRights(VisibleKind kind)
{
	for (const char **table = kinds[kind].tables; *table; table++)
	{
		if (!OidIsValid(get_relname_relid(*table, ExtensionNamespace())))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
							   errmsg("table %s is missing from extension pg_llm", *table)));
		if (!MayRead(*table))
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, *table);
	}
}

/* The strictest row security among the tables: none, none in this environment, or enabled. */
static int
RowSecurity(VisibleKind kind)
{
	int strongest = RLS_NONE;

	for (const char **table = kinds[kind].tables; *table; table++)
	{
		int one = check_enable_rls(get_relname_relid(*table, ExtensionNamespace()), InvalidOid, true);

		if (one == RLS_ENABLED || strongest == RLS_NONE)
			strongest = one;
	}
	return strongest;
}

static bool
MayReadTables(VisibleKind kind)
{
	for (const char **table = kinds[kind].tables; *table; table++)
		if (!MayRead(*table))
			return false;
	return true;
}

/* Number of changes of tables, roles and memberships of which this session has been notified. */
static uint64 catalog_changes = 0;

static void
CatalogChanged(Datum arg, int cacheid, uint32 hashvalue)
{
	catalog_changes++;
}

static void
WatchCatalog(void)
{
	if (catalog_changes > 0)
		return;
	catalog_changes = 1;
	CacheRegisterSyscacheCallback(RELOID, CatalogChanged, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, CatalogChanged, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, CatalogChanged, (Datum) 0);
}

/* Called for each row of a query over many rows: the result is cached until something that it depends on
 * changes. */
bool
VisibleAll(VisibleKind kind)
{
	static struct
	{
		uint64 catalog_changes;
		Oid user;
		bool row_security, all;
	} last[lengthof(kinds)];

	WatchCatalog();
	if (last[kind].catalog_changes != catalog_changes || last[kind].user != GetUserId() ||
		last[kind].row_security != row_security)
	{
		uint64 before = catalog_changes; /* the lookups may process notifications of changes */

		last[kind].all = MayReadTables(kind) && RowSecurity(kind) != RLS_ENABLED;
		last[kind].catalog_changes = before;
		last[kind].user = GetUserId();
		last[kind].row_security = row_security;
	}
	return last[kind].all;
}

Visible
VisibleRows(VisibleKind kind, const char *name)
{
	Visible now = {.user = GetUserId(), .limited = RowSecurity(kind) == RLS_ENABLED};
	Datum value = CStringGetTextDatum(name);
	bool null;

	if (!now.limited)
		return now;
	SPI_connect();
	SpiRun(&kinds[kind].places, &value, NULL, true, 1);
	now.count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	now.places = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
	SPI_finish();
	return now;
}

bool
VisibleStill(VisibleKind kind, const char *name, const Visible *then)
{
	int security;
	Visible now;

	if (!MayReadTables(kind))
		return false;
	security = RowSecurity(kind);
	if (then->limited != (security == RLS_ENABLED))
		return false;
	if (!then->limited)
		return then->user == GetUserId() || security == RLS_NONE;
	now = VisibleRows(kind, name);
	return now.count == then->count && now.places == then->places;
}
