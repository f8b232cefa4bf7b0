/*
 * A file's bytes as the parsers see them: a source that is read at offsets, and a stream over one extent of
 * it, which may be compressed and checksummed. Files are never memory-mapped: one that shrinks while it is
 * read causes an error, not a signal.
 */
#ifndef LLM_FORMATS_STREAM_H
#define LLM_FORMATS_STREAM_H

#include "common/base.h"

typedef struct LlmSource
{
	/* Reads exactly size bytes at offset, within [0, size of the source), or fails. */
	LlmCode (*read)(void *context, uint64_t offset, void *buffer, size_t size, LlmError *err);
	void *context;
	uint64_t size;
	const char *name;    /* prefix of every message: the path as the user gave it */
	const LlmStop *stop; /* NULL: never */
} LlmSource;

/* LLM_CANCELED if the source's stop function requests it. */
extern LlmCode llm_source_poll(const LlmSource *source, LlmError *err);

typedef struct LlmSink
{
	/* Appends size bytes, or fails. */
	LlmCode (*write)(void *context, const void *bytes, size_t size, LlmError *err);
	void *context;
} LlmSink;

/* A contiguous part of a source. */
typedef struct LlmExtent
{
	uint64_t offset;
	uint64_t stored; /* bytes in the source */
	uint64_t size;   /* bytes when decompressed */
	bool deflated;
	bool checked; /* crc32 is known */
	uint32_t crc32;
} LlmExtent;

typedef struct LlmStream LlmStream;

/* name (of a member, for example) and source must outlive the stream. *stream is NULL on failure. */
extern LlmCode llm_stream_open(LlmStream **stream, const LlmSource *source, const LlmExtent *extent,
	const char *name, const LlmAllocator *allocator, LlmError *err);
/* Reads exactly size bytes or fails: the caller knows the size. */
extern LlmCode llm_stream_read(LlmStream *stream, void *buffer, size_t size, LlmError *err);
/* After the last byte: checks the checksum, and that nothing is left over. */
extern LlmCode llm_stream_finish(LlmStream *stream, LlmError *err);
/* Closes the stream, which may be NULL. */
extern void llm_stream_close(LlmStream *stream);

/* Little-endian numbers of file headers. */
static inline uint32_t
llm_load_le(const void *bytes, int width)
{
	const unsigned char *p = (const unsigned char *) bytes;
	uint32_t value = 0;

	for (int i = width - 1; i >= 0; i--)
		value = value << 8 | p[i];
	return value;
}

static inline uint64_t
llm_load_le64(const void *bytes)
{
	return llm_load_le(bytes, 4) | (uint64_t) llm_load_le((const char *) bytes + 4, 4) << 32;
}

/* Writes width bytes; returns the byte after them. */
static inline unsigned char *
llm_store_le(unsigned char *p, uint64_t value, int width)
{
	for (int i = 0; i < width; i++)
		*p++ = (unsigned char) (value >> (8 * i));
	return p;
}

#endif
