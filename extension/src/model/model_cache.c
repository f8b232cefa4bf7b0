/*
 * A copy is valid exactly when its version is the one that the statement's own snapshot sees: hand-made
 * UPDATEs, rollbacks and REPEATABLE READ need no further care. Copies in use are pinned, outdated ones go
 * with their last pin.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "src/model/graph_rows.h"
#include "src/model/model_cache.h"
#include "src/model/model_load.h"
#include "src/pg_llm.h"
#include "src/model/shared_weights.h"
#include "src/model/version.h"
#include "src/base/visible.h"

static LoadedModel *models = NULL;
static uint64 clock_of_uses = 0;

static void
ModelFree(LoadedModel *m)
{
	if (m->shared.map)
		SharedRelease(&m->shared);
	else
		for (int i = 0; m->model.weights && i < m->model.graph.count; i++)
			llm_weight_free(&m->model, i, LlmSessionAllocator());
	MemoryContextDelete(m->context);
}

static void
ModelForget(LoadedModel *m)
{
	LoadedModel **at = &models;

	while (*at && *at != m)
		at = &(*at)->next;
	if (*at)
		*at = m->next;
	m->outdated = true;
	if (m->pins == 0)
		ModelFree(m);
}

/* So many mapped copies, each with a file held open, are kept by a session. */
#define MAPPED_MAX 32

/* Gives up the one unused longest of the private or of the mapped ones. */
static bool
Evict(bool mapped)
{
	LoadedModel *oldest = NULL;

	for (LoadedModel *m = models; m; m = m->next)
		if (m->pins == 0 && (m->shared.map != NULL) == mapped && (oldest == NULL || m->used < oldest->used))
			oldest = m;
	if (oldest)
		ModelForget(oldest);
	return oldest != NULL;
}

bool
ModelEvict(void)
{
	return Evict(false);
}

static void
MakeRoom(void)
{
	int mapped = 0;

	for (const LoadedModel *m = models; m; m = m->next)
		mapped += m->shared.map != NULL;
	if (mapped >= MAPPED_MAX)
		Evict(true);
}

/* The copy that all sessions share; false where this one is to have its own. */
static bool
MapWeights(LoadedModel *m)
{
	m->alone = LlmChanging() || !pg_llm_share_weights;
	return VisibleAll(VISIBLE_MODEL) && SharedWeights(&m->model, m->name, m->version, &m->shared);
}

static LoadedModel *
ModelLoad(const char *name, int64 version, bool training)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_llm model", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	LoadedModel *m = palloc0(sizeof(LoadedModel));

	m->name = pstrdup(name);
	m->version = version;
	m->epoch = LlmEpoch();
	m->visible = VisibleRows(VISIBLE_MODEL, name);
	m->context = context;
	m->model.training = training;
	PG_TRY();
	{
		m->model.graph = *GraphRead(name, true);
		if (m->model.graph.count == 0)
			ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no model \"%s\" to run", name),
					errhint("SELECT model, count(*) FROM llm_param GROUP BY model lists those with weights; "
							"llm_init_model('%s', seed) makes random ones.",
						name)));
		m->model.weights = palloc0(sizeof(LlmWeight) * m->model.graph.count);
		MemoryContextSwitchTo(caller);
		if (training || !MapWeights(m))
			ModelLoadWeights(&m->model, name, NULL, NULL);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		ModelFree(m);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return m;
}

/* ---- use ---- */

/* False: loading anew decides what this role gets, or that it gets nothing. */
static bool
MayUse(const LoadedModel *m)
{
	return (m->shared.map == NULL || pg_llm_share_weights) &&
		   VisibleStill(VISIBLE_MODEL, m->name, &m->visible);
}

/* Is it a private copy for a reason that no longer holds? */
static bool
Shareable(const LoadedModel *m)
{
	return m->alone && !LlmChanging() && pg_llm_share_weights;
}

static void
Unpin(void *arg)
{
	LoadedModel *m = arg;

	if (--m->pins == 0 && m->outdated)
		ModelFree(m);
}

static LoadedModel *
ModelPin(LoadedModel *m, MemoryContext pin)
{
	MemoryContextCallback *callback = MemoryContextAlloc(pin, sizeof(MemoryContextCallback));

	m->pins++;
	callback->func = Unpin;
	callback->arg = m;
	MemoryContextRegisterResetCallback(pin, callback);
	return m;
}

LoadedModel *
ModelOf(const char *name, MemoryContext pin)
{
	int64 version = LlmModelVersion(name);
	LoadedModel *m = models;

	while (m && strcmp(m->name, name) != 0)
		m = m->next;
	if (m && (version == 0 || m->version != version || m->epoch != LlmEpoch() || Shareable(m) || !MayUse(m)))
	{
		ModelForget(m);
		m = NULL;
	}
	if (m == NULL)
	{
		MakeRoom();
		m = ModelLoad(name, version, false);
		m->next = models;
		models = m;
	}
	m->used = ++clock_of_uses;
	return ModelPin(m, pin);
}

LoadedModel *
ModelForTraining(const char *name, MemoryContext pin)
{
	LoadedModel *m = ModelLoad(name, 0, true);

	m->outdated = true; /* nobody else's */
	return ModelPin(m, pin);
}
