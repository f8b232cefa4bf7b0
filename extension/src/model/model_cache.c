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

/* argument: a bool, true if the model is for training; NULL means false */
static void
Load(VersionedCopy *copy, bool may_share, void *argument)
{
	LoadedModel *m = (LoadedModel *) copy;
	MemoryContext caller = MemoryContextSwitchTo(copy->context);

	m->name = copy->name;
	m->model.training = argument && *(bool *) argument;
	m->model.graph = *GraphRead(m->name, true);
	if (m->model.graph.count == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no model \"%s\" to run", m->name),
						   errhint("SELECT model, count(*) FROM llm_param GROUP BY model lists those with "
								   "weights; llm_init_model('%s', seed) makes random ones.",
							   m->name)));
	m->model.weights = palloc0(sizeof(LlmWeight) * m->model.graph.count);
	MemoryContextSwitchTo(caller);
	if (!may_share || !SharedWeights(&m->model, m->name, copy->version, &copy->shared))
		ModelLoadWeights(&m->model, m->name, NULL, NULL);
}

static const VersionedCache models = {
	.rows = VISIBLE_MODEL, .size = sizeof(LoadedModel), .load = Load, .release = Release};

LoadedModel *
ModelOf(const char *name, MemoryContext pin)
{
	return (LoadedModel *) VersionedGet(&models, name, NULL, pin);
}

LoadedModel *
ModelForTraining(const char *name, MemoryContext pin)
{
	bool training = true;

	return (LoadedModel *) VersionedLoad(&models, name, &training, pin);
}
