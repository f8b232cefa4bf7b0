/*
 * A model's weights as one file: the plain and the packed form of each parameter, in the order of the graph's
 * nodes, each on a page of its own. Where they lie follows from the graph, so makers and users need no table.
 */
#include "postgres.h"

#include "engine/ops.h"
#include "src/model_load.h"
#include "src/pg_llm.h"
#include "src/shared_weights.h"

/* Smaller models are loaded in the time that making a file takes. */
#define LEAST ((Size) 1 << 20)

/* Where a node's two forms begin, from the start of the data. */
typedef struct Place
{
	Size plain, panels;
} Place;

/*
 * What packing makes of a small matrix, in both forms: sessions that run another build of the extension, with
 * another layout, have other copies.
 */
static uint64
LayoutMark(void)
{
	enum
	{
		K = 9,
		N = LLM_PANEL + 7
	};
	static uint64 mark = 0;
	float b[K * N], panels[2][K * 2 * LLM_PANEL];
	LlmError err;

	if (mark != 0)
		return mark;
	for (int i = 0; i < K * N; i++)
		b[i] = i + 1;
	if (llm_packed_floats(K, N) != lengthof(panels[0]))
		elog(ERROR, "pg_llm: a packed (%d,%d) matrix has %zu floats", K, N, llm_packed_floats(K, N));
	LLM_CHECK(llm_pack(K, N, b, false, panels[0], &err), &err);
	LLM_CHECK(llm_pack(K, N, b, true, panels[1], &err), &err);
	mark = SharedHash(panels, sizeof(panels)) | 1;
	return mark;
}

/* Sets the weights' sizes; the data's size in all, 0 where it is nothing to share. */
static Size
Arrange(LlmModel *model, Place *places)
{
	Size at = 0;

	for (int i = 0; i < model->graph.count; i++)
	{
		LlmWeight *w = &model->weights[i];

		if (model->graph.nodes[i].op != LLM_OP_PARAM)
			continue;
		llm_weight_layout(model, i);
		if (w->numel < 1 || w->numel > ((Size) 1 << 40))
			return 0; /* too large to be true; loading says so */
		places[i].plain = at;
		at += SHARED_ALIGN(w->plain_bytes);
		places[i].panels = at;
		at += SHARED_ALIGN(w->panels_bytes);
	}
	return at;
}

typedef struct Filling
{
	const char *name;
	LlmModel *model;
	const Place *places;
	SharedFile *file;
} Filling;

static bool
WriteWeight(LlmModel *model, int node, void *context)
{
	Filling *f = context;
	LlmWeight *w = &model->weights[node];
	bool done = (!w->plain || SharedWrite(f->file, f->places[node].plain, w->plain, w->plain_bytes)) &&
				(!w->panels || SharedWrite(f->file, f->places[node].panels, w->panels, w->panels_bytes));

	llm_weight_free(model, node, LlmSessionAllocator());
	return done;
}

static bool
Fill(SharedFile *file, void *context)
{
	Filling *f = context;

	f->file = file;
	return ModelLoadWeights(f->model, f->name, WriteWeight, f);
}

static void
Point(LlmModel *model, const Place *places, const char *data)
{
	for (int i = 0; i < model->graph.count; i++)
	{
		LlmWeight *w = &model->weights[i];

		if (model->graph.nodes[i].op != LLM_OP_PARAM)
			continue;
		llm_weight_layout(model, i);
		w->plain = w->plain_bytes ? (float *) (data + places[i].plain) : NULL;
		w->panels = w->panels_bytes ? (float *) (data + places[i].panels) : NULL;
	}
}

bool
SharedWeights(LlmModel *model, const char *name, int64 version, SharedCopy *copy)
{
	Place *places;
	Filling filling;
	SharedKey key;
	bool shared;
	Size size;

	if (!SharedKeyOf(SHARED_MODEL, name, version, LayoutMark(), &key))
		return false;
	places = palloc0(sizeof(Place) * model->graph.count);
	size = Arrange(model, places);
	filling = (Filling){name, model, places};
	shared = size >= LEAST && SharedGet(&key, size, Fill, &filling, copy);
	if (shared)
		Point(model, places, copy->data);
	else
		memset(model->weights, 0, sizeof(LlmWeight) * model->graph.count);
	pfree(places);
	return shared;
}
