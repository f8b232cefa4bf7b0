#include "formats/tensor_file.h"

#include <stdlib.h>
#include <string.h>

/* Raw bytes converted at a time: small enough for the cache, large enough that the reads are few. */
#define PIECE 131072

/* A hostile file may have hundreds of thousands of names: they share blocks of this size. */
#define NAME_CHUNK 65536

typedef struct LlmNameChunk
{
	struct LlmNameChunk *next;
	size_t size, used;
	char bytes[];
} LlmNameChunk;

void
llm_tensor_file_init(LlmTensorFile *file, const LlmSource *source, const LlmAllocator *allocator)
{
	memset(file, 0, sizeof(*file));
	file->source = *source;
	file->allocator = allocator;
}

void
llm_tensor_file_close(LlmTensorFile *file)
{
	const LlmAllocator *a = file->allocator;

	for (LlmNameChunk *chunk = file->names, *next; chunk != NULL; chunk = next)
	{
		next = chunk->next;
		a->release(a->context, chunk, chunk->size);
	}
	if (file->entries != NULL)
		a->release(a->context, file->entries, file->capacity * sizeof(LlmTensorEntry));
	if (file->config != NULL)
		a->release(a->context, file->config, file->config_size + 1);
	file->names = NULL;
	file->entries = NULL;
	file->config = NULL;
	file->count = file->capacity = 0;
}

static LlmCode
grow(LlmTensorFile *file, LlmError *err)
{
	const LlmAllocator *a = file->allocator;
	size_t capacity = file->capacity > 0 ? file->capacity * 2 : 64;
	LlmTensorEntry *entries = a->alloc(a->context, capacity * sizeof(LlmTensorEntry));

	if (entries == NULL)
		return llm_fail(
			err, LLM_NO_MEMORY, "%s: no memory for the names of %zu tensors", file->source.name, capacity);
	if (file->entries != NULL)
	{
		memcpy(entries, file->entries, file->count * sizeof(LlmTensorEntry));
		a->release(a->context, file->entries, file->capacity * sizeof(LlmTensorEntry));
	}
	file->entries = entries;
	file->capacity = capacity;
	return LLM_OK;
}

/* Copies the name into the newest block, or into a new one. */
static const char *
copy_name(LlmTensorFile *file, const char *name, size_t length)
{
	LlmNameChunk *chunk = file->names;
	char *copy;

	if (chunk == NULL || chunk->size - chunk->used < length + 1)
	{
		size_t size = sizeof(LlmNameChunk) + (length < NAME_CHUNK ? NAME_CHUNK : length + 1);

		chunk = file->allocator->alloc(file->allocator->context, size);
		if (chunk == NULL)
			return NULL;
		*chunk = (LlmNameChunk){.next = file->names, .size = size, .used = sizeof(LlmNameChunk)};
		file->names = chunk;
	}
	copy = (char *) chunk + chunk->used;
	memcpy(copy, name, length);
	copy[length] = '\0';
	chunk->used += length + 1;
	return copy;
}

LlmCode
llm_tensor_file_add(
	LlmTensorFile *file, const char *name, size_t length, LlmTensorEntry **entry, LlmError *err)
{
	LlmTensorEntry *new;
	LlmCode code;

	if (length == 0 || memchr(name, '\0', length) != NULL)
		return llm_fail(err, LLM_FORMAT, "%s: tensor %zu has %s", file->source.name, file->count + 1,
			length == 0 ? "an empty name" : "a zero byte in its name");
	if (file->count == file->capacity && (code = grow(file, err)) != LLM_OK)
		return code;
	new = &file->entries[file->count];
	memset(new, 0, sizeof(*new));
	new->name = copy_name(file, name, length);
	if (new->name == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory for a tensor's name", file->source.name);
	file->count++;
	*entry = new;
	return LLM_OK;
}

LlmCode
llm_tensor_count(const LlmTensorFile *file, LlmTensorEntry *entry, LlmError *err)
{
	uint64_t numel = 1, bytes;
	bool empty = false;

	for (int i = 0; i < entry->ndim; i++)
	{
		empty |= entry->dims[i] == 0;
		if (entry->dims[i] != 0 && __builtin_mul_overflow(numel, (uint64_t) entry->dims[i], &numel))
			numel = UINT64_MAX;
	}
	/* Also checked for an empty tensor, whose other dimensions must not overflow later. */
	if (__builtin_mul_overflow(numel, (uint64_t) 8, &bytes) || bytes > INT64_MAX)
		return llm_fail(err, LLM_FORMAT, "%s: tensor \"%s\" has dimensions whose product is too large",
			file->source.name, entry->name);
	entry->numel = empty ? 0 : numel;
	return LLM_OK;
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp((*(const LlmTensorEntry *const *) a)->name, (*(const LlmTensorEntry *const *) b)->name);
}

LlmCode
llm_tensor_file_check_names(const LlmTensorFile *file, LlmError *err)
{
	const LlmAllocator *a = file->allocator;
	size_t size = file->count * sizeof(LlmTensorEntry *);
	const LlmTensorEntry **sorted;
	LlmCode code = LLM_OK;

	if (file->count < 2)
		return LLM_OK;
	sorted = a->alloc(a->context, size);
	if (sorted == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory to sort the names", file->source.name);
	for (size_t i = 0; i < file->count; i++)
		sorted[i] = &file->entries[i];
	qsort(sorted, file->count, sizeof(*sorted), compare_names);
	for (size_t i = 1; i < file->count && code == LLM_OK; i++)
		if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
			code = llm_fail(
				err, LLM_FORMAT, "%s: two tensors have the name \"%s\"", file->source.name, sorted[i]->name);
	a->release(a->context, sorted, size);
	return code;
}

const LlmTensorEntry *
llm_tensor_find(const LlmTensorFile *file, const char *name)
{
	for (size_t i = 0; i < file->count; i++)
		if (strcmp(file->entries[i].name, name) == 0)
			return &file->entries[i];
	return NULL;
}

/*
 * Maps the values of a file to a row-major tensor: consecutively, or, for a file in Fortran order, each to
 * the position of its index, which counts with the first dimension fastest.
 */
typedef struct Layout
{
	int ndim;
	int64_t dims[LLM_MAX_DIMS], index[LLM_MAX_DIMS];
	uint64_t stride[LLM_MAX_DIMS];
	uint64_t at;
} Layout;

static Layout
layout_of(const LlmTensorEntry *entry)
{
	Layout layout = {.ndim = entry->fortran ? entry->ndim : 0};
	uint64_t stride = 1;

	for (int i = layout.ndim - 1; i >= 0; i--)
	{
		layout.dims[i] = entry->dims[i];
		layout.stride[i] = stride;
		stride *= (uint64_t) entry->dims[i];
	}
	return layout;
}

static void
advance(Layout *layout)
{
	for (int i = 0; i < layout->ndim; i++)
	{
		layout->at += layout->stride[i];
		if (++layout->index[i] < layout->dims[i])
			return;
		layout->at -= layout->stride[i] * (uint64_t) layout->dims[i];
		layout->index[i] = 0;
	}
}

/* Consumes values as they arrive: stores them in out, or compares them with expected. */
typedef struct Consumer
{
	Layout layout;
	float *out;
	const float *expected;
	bool differs;
} Consumer;

static void
consume(Consumer *consumer, const float *values, size_t count)
{
	Layout *layout = &consumer->layout;

	if (layout->ndim == 0)
	{
		if (consumer->out != NULL)
			memcpy(consumer->out + layout->at, values, count * sizeof(float));
		else
			consumer->differs |= memcmp(consumer->expected + layout->at, values, count * sizeof(float)) != 0;
		layout->at += count;
		return;
	}
	for (size_t i = 0; i < count; i++, advance(layout))
	{
		if (consumer->out != NULL)
			consumer->out[layout->at] = values[i];
		else
			consumer->differs |= memcmp(consumer->expected + layout->at, values + i, sizeof(float)) != 0;
	}
}

/* piece has room for PIECE raw bytes, followed by as many values as they can contain. */
static LlmCode
read_pieces(const LlmSource *source, LlmStream *stream, const LlmTensorEntry *entry, char *piece,
	Consumer *consumer, LlmError *err)
{
	size_t width = llm_dtype_size(entry->dtype);
	float *values = (float *) (piece + PIECE);
	LlmCode code;

	for (uint64_t left = entry->skip; left > 0;)
	{
		size_t size = left < PIECE ? (size_t) left : PIECE;

		if ((code = llm_stream_read(stream, piece, size, err)) != LLM_OK)
			return code;
		left -= size;
	}
	for (uint64_t left = entry->numel; left > 0;)
	{
		size_t count = left < PIECE / width ? (size_t) left : PIECE / width;

		if ((code = llm_source_poll(source, err)) != LLM_OK ||
			(code = llm_stream_read(stream, piece, count * width, err)) != LLM_OK)
			return code;
		llm_floats_from(entry->dtype, entry->swapped, piece, count, values);
		consume(consumer, values, count);
		if (consumer->differs)
			return LLM_OK; /* the answer is known */
		left -= count;
	}
	return llm_stream_finish(stream, err);
}

static LlmCode
read_values(const LlmTensorFile *file, const LlmTensorEntry *entry, Consumer *consumer, LlmError *err)
{
	const LlmAllocator *a = file->allocator;
	size_t size = PIECE + PIECE / 2 * sizeof(float);
	LlmStream *stream;
	char *piece;
	LlmCode code;

	if (entry->dtype == LLM_OTHER_DTYPE)
		return llm_fail(err, LLM_FORMAT,
			"%s: tensor \"%s\" has the type %s, which does not convert to float32", file->source.name,
			entry->name, entry->dtype_name);
	code = llm_stream_open(&stream, &file->source, &entry->extent, entry->name, a, err);
	if (code != LLM_OK)
		return code;
	piece = a->alloc(a->context, size);
	if (piece == NULL)
		code = llm_fail(err, LLM_NO_MEMORY, "%s: no memory to read \"%s\"", file->source.name, entry->name);
	else
	{
		code = read_pieces(&file->source, stream, entry, piece, consumer, err);
		a->release(a->context, piece, size);
	}
	llm_stream_close(stream);
	return code;
}

LlmCode
llm_tensor_read(const LlmTensorFile *file, const LlmTensorEntry *entry, float *out, LlmError *err)
{
	Consumer consumer = {.layout = layout_of(entry), .out = out};

	return read_values(file, entry, &consumer, err);
}

LlmCode
llm_tensor_equals(
	const LlmTensorFile *file, const LlmTensorEntry *entry, const float *values, bool *equal, LlmError *err)
{
	Consumer consumer = {.layout = layout_of(entry), .expected = values};
	LlmCode code = read_values(file, entry, &consumer, err);

	*equal = !consumer.differs;
	return code;
}
