/*
 * A model's weights as one file: a table with an entry for each of the graph's nodes, then the plain and the
 * packed form of each parameter, each page-aligned.
 */
#include "postgres.h"

#include "engine/quantized.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/model/model_load.h"
#include "src/model/shared_weights.h"

/* Loading a smaller model takes no longer than making a file. */
#define MIN_SHARED ((Size) 1 << 20)

/* Offsets of a node's two forms from the start of the data. */
typedef struct Place
{
	Size plain, panels;
	LlmFormat format; /* of the panels: it depends on the elements, and so does the panels' size */
} Place;

#define TABLE(model) SHARED_ALIGN(sizeof(Place) * (model)->graph.count)

/*
 * A fingerprint of the packed layout: hashes of a small matrix packed in every format. Sessions that use
 * another build of the extension, with another layout, get separate copies.
 */
static uint64
LayoutMark(void)
{
	enum
	{
		K = 9,
		N = LLM_PANEL + 7
	};
	static uint64 done = 0;
	uint64 mark = sizeof(Place);
	float b[K * N];
	LlmError err;

	if (done != 0)
		return done;
	for (int i = 0; i < K * N; i++)
		b[i] = i % 200 - 100;
	for (LlmFormat format = LLM_FLOAT32; format < LLM_FORMAT_COUNT; format++)
		for (int transposed = 0; transposed < 2; transposed++)
		{
			Size size = llm_format_bytes(format, K, N);
			char *panels = palloc0(size);

			if (format != LLM_FLOAT32)
				LLM_CHECK(llm_quantize(format, K, N, transposed, b, b, &err), &err);
			LLM_CHECK(llm_compact(format, K, N, transposed, b, panels, &err), &err);
			mark = (mark << 1 | mark >> 63) ^ SharedHash(panels, size);
			pfree(panels);
		}
	return done = mark | 1;
}

/* An upper bound of the data's size; 0 if the weights cannot be shared. */
static Size
MostBytes(LlmModel *model)
{
	Size at = TABLE(model);

	for (int i = 0; i < model->graph.count; i++)
	{
		LlmWeight *w = &model->weights[i];

		if (model->graph.nodes[i].op != LLM_OP_PARAM)
			continue;
		llm_weight_layout(model, i, LLM_FLOAT32);
		if (w->numel < 1 || w->numel > ((Size) 1 << 40))
			return 0; /* implausibly large; loading reports it */
		at += SHARED_ALIGN(w->plain_bytes) + SHARED_ALIGN(w->panels_bytes);
	}
	return at;
}

typedef struct Filling
{
	const char *name;
	LlmModel *model;
	Place *places;
	Size end;
	SharedFile *file;
} Filling;

/* Appends data at the file's end; *at receives its offset. */
static bool
Append(Filling *f, const void *data, Size size, Size *at)
{
	*at = f->end;
	f->end += SHARED_ALIGN(size);
	return data == NULL || SharedWrite(f->file, *at, data, size);
}

static bool
WriteWeight(LlmModel *model, int node, void *context)
{
	Filling *f = context;
	LlmWeight *w = &model->weights[node];
	Place *place = &f->places[node];
	bool done;

	place->format = w->format;
	done = Append(f, w->plain, w->plain_bytes, &place->plain) &&
		   Append(f, w->panels, w->panels_bytes, &place->panels);
	llm_weight_free(model, node, SessionAllocator());
	return done;
}

static bool
Fill(SharedFile *file, void *context)
{
	Filling *f = context;

	f->file = file;
	f->end = TABLE(f->model);
	return ModelLoadWeights(f->model, f->name, WriteWeight, f) &&
		   SharedWrite(file, 0, f->places, sizeof(Place) * f->model->graph.count);
}

static void
Point(LlmModel *model, const char *data)
{
	const Place *places = (const Place *) data;

	for (int i = 0; i < model->graph.count; i++)
	{
		LlmWeight *w = &model->weights[i];

		if (model->graph.nodes[i].op != LLM_OP_PARAM)
			continue;
		llm_weight_layout(model, i, places[i].format);
		w->plain = w->plain_bytes ? (float *) (data + places[i].plain) : NULL;
		w->panels = w->panels_bytes ? (void *) (data + places[i].panels) : NULL;
	}
}

bool
SharedWeights(LlmModel *model, const char *name, int64 version, SharedCopy *copy)
{
	Filling filling = {.name = name, .model = model};
	SharedKey key;
	bool shared;
	Size size;

	if (!SharedKeyOf(SHARED_MODEL, name, version, LayoutMark(), &key))
		return false;
	filling.places = palloc0(TABLE(model));
	size = MostBytes(model);
	shared = size >= MIN_SHARED && SharedGet(&key, size, Fill, &filling, copy);
	if (shared)
		Point(model, copy->data);
	else
		memset(model->weights, 0, sizeof(LlmWeight) * model->graph.count);
	pfree(filling.places);
	return shared;
}
