/*
 * The session's models; versioned_cache.h says when a copy is valid.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "src/base/memory.h"
#include "src/model/graph_rows.h"
#include "src/model/model_cache.h"
#include "src/model/model_load.h"
#include "src/model/shared_weights.h"

static void
Release(VersionedCopy *copy)
{
	LoadedModel *m = (LoadedModel *) copy;

	if (copy->shared.map)
		return;
	for (int i = 0; m->model.weights && i < m->model.graph.count; i++)
		llm_weight_free(&m->model, i, SessionAllocator());
}

typedef struct Loading
{
	bool training;
	ModelCheck check; /* called before the weights are read; may be NULL */
	void *argument;
} Loading;

/* argument: a Loading, whose check is NULL once it was called */
static void
Load(VersionedCopy *copy, bool may_share, void *argument)
{
	LoadedModel *m = (LoadedModel *) copy;
	Loading *loading = argument;
	MemoryContext caller = MemoryContextSwitchTo(copy->context);

	m->name = copy->name;
	m->model.training = loading->training;
	m->model.graph = *GraphRead(m->name, true);
	if (m->model.graph.count == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no model \"%s\" to run", m->name),
						   errhint("SELECT model, count(*) FROM llm_param GROUP BY model lists those with "
								   "weights; llm_init_model('%s', seed) makes random ones.",
							   m->name)));
	m->model.weights = palloc0(sizeof(LlmWeight) * m->model.graph.count);
	MemoryContextSwitchTo(caller);
	if (loading->check)
		loading->check(m, loading->argument);
	loading->check = NULL;
	if (!may_share || !SharedWeights(&m->model, m->name, copy->version, &copy->shared))
		ModelLoadWeights(&m->model, m->name, NULL, NULL);
}

static const VersionedCache models = {
	.rows = VISIBLE_MODEL, .size = sizeof(LoadedModel), .load = Load, .release = Release};

LoadedModel *
ModelOf(const char *name, MemoryContext pin)
{
	return ModelChecked(name, NULL, NULL, pin);
}

LoadedModel *
ModelChecked(const char *name, ModelCheck check, void *argument, MemoryContext pin)
{
	Loading loading = {.check = check, .argument = argument};
	LoadedModel *m = (LoadedModel *) VersionedGet(&models, name, &loading, pin);

	if (loading.check)
		check(m, argument);
	return m;
}

LoadedModel *
ModelForTraining(const char *name, MemoryContext pin)
{
	return (LoadedModel *) VersionedLoad(&models, name, &(Loading){.training = true}, pin);
}
