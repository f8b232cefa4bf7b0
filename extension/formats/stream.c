#include "formats/stream.h"

#include "formats/crc32.h"
#include "formats/inflate.h"

struct LlmStream
{
	const LlmSource *source;
	const LlmAllocator *allocator;
	const char *name;
	LlmExtent extent;
	uint64_t at;    /* stored bytes read from the source */
	uint64_t given; /* bytes returned to the caller */
	LlmInflate *inflate;
	LlmCrc32 crc;
};

LlmCode
llm_source_poll(const LlmSource *source, LlmError *err)
{
	if (source->stop == NULL || !source->stop->requested(source->stop->context))
		return LLM_OK;
	return llm_fail(err, LLM_CANCELED, "%s: canceled", source->name);
}

static LlmCode
fill(void *context, void *buffer, size_t capacity, size_t *size, LlmError *err)
{
	LlmStream *stream = context;
	uint64_t left = stream->extent.stored - stream->at;
	LlmCode code;

	*size = capacity < left ? capacity : (size_t) left;
	if (*size == 0)
		return LLM_OK;
	code =
		stream->source->read(stream->source->context, stream->extent.offset + stream->at, buffer, *size, err);
	stream->at += *size;
	return code;
}

LlmCode
llm_stream_open(LlmStream **stream, const LlmSource *source, const LlmExtent *extent, const char *name,
	const LlmAllocator *allocator, LlmError *err)
{
	LlmStream *s = allocator->alloc(allocator->context, sizeof(LlmStream));

	*stream = NULL;
	if (s == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory to read %s", source->name, name);
	s->source = source;
	s->allocator = allocator;
	s->name = name;
	s->extent = *extent;
	s->at = s->given = 0;
	s->inflate = NULL;
	if (extent->checked)
		llm_crc32_init(&s->crc);
	if (extent->deflated)
	{
		s->inflate = allocator->alloc(allocator->context, sizeof(LlmInflate));
		if (s->inflate == NULL)
		{
			llm_stream_close(s);
			return llm_fail(err, LLM_NO_MEMORY, "%s: no memory to decompress %s", source->name, name);
		}
		llm_inflate_init(s->inflate);
		s->inflate->fill = fill;
		s->inflate->context = s;
		s->inflate->name = name;
	}
	*stream = s;
	return LLM_OK;
}

LlmCode
llm_stream_read(LlmStream *stream, void *buffer, size_t size, LlmError *err)
{
	size_t got = 0;
	LlmCode code;

	if (stream->inflate != NULL)
		code = llm_inflate_read(stream->inflate, buffer, size, &got, err);
	else
		code = fill(stream, buffer, size, &got, err);
	if (code != LLM_OK)
		return code;
	stream->given += got;
	if (got < size)
		return llm_fail(err, LLM_FORMAT, "%s: %s ends after %llu bytes, but declares %llu",
			stream->source->name, stream->name, (unsigned long long) stream->given,
			(unsigned long long) stream->extent.size);
	if (stream->extent.checked)
		llm_crc32_add(&stream->crc, buffer, size);
	return LLM_OK;
}

LlmCode
llm_stream_finish(LlmStream *stream, LlmError *err)
{
	size_t more = 0;
	char byte;
	LlmCode code;

	if (stream->inflate != NULL)
	{
		if ((code = llm_inflate_read(stream->inflate, &byte, 1, &more, err)) != LLM_OK)
			return code;
		more += llm_inflate_unused(stream->inflate);
	}
	if (more > 0 || stream->at < stream->extent.stored)
		return llm_fail(err, LLM_FORMAT, "%s: %s continues after the %llu bytes that it declares",
			stream->source->name, stream->name, (unsigned long long) stream->extent.size);
	if (stream->extent.checked && stream->crc.value != stream->extent.crc32)
		return llm_fail(err, LLM_FORMAT, "%s: %s is damaged: its checksum is %08x, expected %08x",
			stream->source->name, stream->name, stream->crc.value, stream->extent.crc32);
	return LLM_OK;
}

void
llm_stream_close(LlmStream *stream)
{
	const LlmAllocator *allocator;

	if (stream == NULL)
		return;
	allocator = stream->allocator;
	if (stream->inflate != NULL)
		allocator->release(allocator->context, stream->inflate, sizeof(LlmInflate));
	allocator->release(allocator->context, stream, sizeof(LlmStream));
}
