#include "formats/npz.h"

#include <string.h>

#include "formats/npy.h"
#include "formats/zip.h"

#define DATE 0x21 /* 1980-01-01, the earliest date: the same tensors give the same bytes on any day */
#define VERSION_PLAIN 20
#define VERSION_ZIP64 45
#define UTF8_NAME 0x0800
/* Bytes checksummed between two polls. */
#define PIECE ((size_t) 1 << 18)

void
llm_npz_writer_init(LlmNpzWriter *writer, const LlmSink *sink, const LlmAllocator *allocator)
{
	memset(writer, 0, sizeof(*writer));
	writer->sink = sink;
	writer->allocator = allocator;
	writer->wide_from = UINT32_MAX;
	llm_crc32_init(&writer->crc);
}

void
llm_npz_writer_close(LlmNpzWriter *writer)
{
	if (writer->directory != NULL)
		writer->allocator->release(writer->allocator->context, writer->directory, writer->directory_capacity);
	writer->directory = NULL;
}

static LlmCode
put(LlmNpzWriter *writer, const void *bytes, size_t size, LlmError *err)
{
	writer->at += size;
	return writer->sink->write(writer->sink->context, bytes, size, err);
}

/* Makes room for size more bytes of directory. */
static LlmCode
grow_directory(LlmNpzWriter *writer, size_t size, LlmError *err)
{
	const LlmAllocator *a = writer->allocator;
	size_t capacity = writer->directory_capacity > 0 ? writer->directory_capacity : 16384;
	unsigned char *directory;

	if (writer->directory_capacity - writer->directory_size >= size)
		return LLM_OK;
	while (capacity - writer->directory_size < size)
		capacity *= 2;
	directory = a->alloc(a->context, capacity);
	if (directory == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for the directory of an npz file");
	if (writer->directory != NULL)
		memcpy(directory, writer->directory, writer->directory_size);
	llm_npz_writer_close(writer);
	writer->directory = directory;
	writer->directory_capacity = capacity;
	return LLM_OK;
}

typedef struct Member
{
	const char *name;
	size_t name_length;
	uint64_t size, offset;
	uint32_t crc;
	bool wide_size, wide_offset;
} Member;

/* Writes the fields common to the local and the central header, from "version needed" on. */
static unsigned char *
common_fields(unsigned char *p, const Member *m, size_t extra)
{
	uint64_t size = m->wide_size ? UINT32_MAX : m->size;

	p = llm_store_le(p, m->wide_size || m->wide_offset ? VERSION_ZIP64 : VERSION_PLAIN, 2);
	p = llm_store_le(p, UTF8_NAME, 2);
	p = llm_store_le(p, LLM_ZIP_STORED, 2);
	p = llm_store_le(p, 0, 2); /* midnight */
	p = llm_store_le(p, DATE, 2);
	p = llm_store_le(p, m->crc, 4);
	p = llm_store_le(p, size, 4); /* compressed */
	p = llm_store_le(p, size, 4);
	p = llm_store_le(p, m->name_length, 2);
	return llm_store_le(p, extra, 2);
}

static unsigned char *
zip64_field(unsigned char *p, const Member *m, bool offset)
{
	size_t length = (m->wide_size ? 16 : 0) + (offset ? 8 : 0);

	if (length == 0)
		return p;
	p = llm_store_le(p, LLM_ZIP64_EXTRA, 2);
	p = llm_store_le(p, length, 2);
	if (m->wide_size)
		p = llm_store_le(llm_store_le(p, m->size, 8), m->size, 8);
	return offset ? llm_store_le(p, m->offset, 8) : p;
}

static LlmCode
write_local(LlmNpzWriter *writer, const Member *m, LlmError *err)
{
	unsigned char header[LLM_ZIP_LOCAL_SIZE], field[28], *p;
	size_t extra = (size_t) (zip64_field(field, m, false) - field);
	LlmCode code;

	p = llm_store_le(header, LLM_ZIP_LOCAL, 4);
	common_fields(p, m, extra);
	if ((code = put(writer, header, sizeof(header), err)) != LLM_OK ||
		(code = put(writer, m->name, m->name_length, err)) != LLM_OK)
		return code;
	return put(writer, field, extra, err);
}

static LlmCode
add_central(LlmNpzWriter *writer, const Member *m, LlmError *err)
{
	unsigned char field[28], *p;
	size_t extra = (size_t) (zip64_field(field, m, m->wide_offset) - field);
	LlmCode code = grow_directory(writer, LLM_ZIP_CENTRAL_SIZE + m->name_length + extra, err);

	if (code != LLM_OK)
		return code;
	p = writer->directory + writer->directory_size;
	p = llm_store_le(p, LLM_ZIP_CENTRAL, 4);
	p = llm_store_le(p, VERSION_ZIP64, 2); /* made by */
	p = common_fields(p, m, extra);
	p = llm_store_le(p, 0, 2); /* comment */
	p = llm_store_le(p, 0, 2); /* disk */
	p = llm_store_le(p, 0, 2); /* internal attributes */
	p = llm_store_le(p, 0, 4); /* external attributes */
	p = llm_store_le(p, m->wide_offset ? UINT32_MAX : m->offset, 4);
	memcpy(p, m->name, m->name_length);
	memcpy(p + m->name_length, field, extra);
	writer->directory_size += LLM_ZIP_CENTRAL_SIZE + m->name_length + extra;
	writer->count++;
	return LLM_OK;
}

/* Writes one member whose bytes are head followed by body. */
static LlmCode
write_parts(LlmNpzWriter *writer, const char *name, const void *head, size_t head_size, const void *body,
	size_t body_size, LlmError *err)
{
	Member member = {.name = name,
		.name_length = strlen(name),
		.size = (uint64_t) head_size + body_size,
		.offset = writer->at};
	LlmCode code;

	if (member.name_length > UINT16_MAX)
		return llm_fail(
			err, LLM_LIMIT, "a name of %zu bytes does not fit into an npz file", member.name_length);
	member.wide_size = member.size >= writer->wide_from;
	member.wide_offset = member.offset >= writer->wide_from;
	writer->crc.value = 0;
	llm_crc32_add(&writer->crc, head, head_size);
	for (size_t at = 0; at < body_size; at += PIECE)
	{
		if (writer->stop != NULL && writer->stop->requested(writer->stop->context))
			return llm_fail(err, LLM_CANCELED, "canceled while writing \"%s\"", name);
		llm_crc32_add(
			&writer->crc, (const char *) body + at, body_size - at < PIECE ? body_size - at : PIECE);
	}
	member.crc = writer->crc.value;
	if ((code = write_local(writer, &member, err)) != LLM_OK ||
		(code = put(writer, head, head_size, err)) != LLM_OK ||
		(code = put(writer, body, body_size, err)) != LLM_OK)
		return code;
	return add_central(writer, &member, err);
}

LlmCode
llm_npz_write_member(LlmNpzWriter *writer, const char *name, const void *bytes, size_t size, LlmError *err)
{
	return write_parts(writer, name, NULL, 0, bytes, size, err);
}

LlmCode
llm_npz_write_tensor(
	LlmNpzWriter *writer, const char *name, int ndim, const int *dims, const float *values, LlmError *err)
{
	const LlmAllocator *a = writer->allocator;
	char header[LLM_NPY_MAX_HEADER], *member;
	size_t size = llm_npy_write_header(header, ndim, dims), length = strlen(name), numel = 1;
	LlmCode code;

	for (int i = 0; i < ndim; i++)
		numel *= (size_t) dims[i];
	member = a->alloc(a->context, length + 5);
	if (member == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for a tensor's name");
	memcpy(member, name, length);
	memcpy(member + length, ".npy", 5);
	code = write_parts(writer, member, header, size, values, numel * sizeof(float), err);
	a->release(a->context, member, length + 5);
	return code;
}

LlmCode
llm_npz_finish(LlmNpzWriter *writer, LlmError *err)
{
	unsigned char tail[LLM_ZIP64_END_SIZE + LLM_ZIP64_LOCATOR_SIZE + LLM_ZIP_END_SIZE], *p = tail;
	uint64_t offset = writer->at, size = writer->directory_size, count = writer->count;
	bool wide_offset = offset >= writer->wide_from, wide_size = size >= writer->wide_from,
		 wide_count = count >= UINT16_MAX;
	LlmCode code = put(writer, writer->directory, writer->directory_size, err);

	if (code != LLM_OK)
		return code;
	if (wide_offset || wide_size || wide_count)
	{
		p = llm_store_le(p, LLM_ZIP64_END, 4);
		p = llm_store_le(p, LLM_ZIP64_END_SIZE - 12, 8); /* of the rest of this record */
		p = llm_store_le(p, VERSION_ZIP64, 2);
		p = llm_store_le(p, VERSION_ZIP64, 2);
		p = llm_store_le(p, 0, 4); /* this disk */
		p = llm_store_le(p, 0, 4); /* the directory's disk */
		p = llm_store_le(p, count, 8);
		p = llm_store_le(p, count, 8);
		p = llm_store_le(p, size, 8);
		p = llm_store_le(p, offset, 8);
		p = llm_store_le(p, LLM_ZIP64_LOCATOR, 4);
		p = llm_store_le(p, 0, 4);
		p = llm_store_le(p, offset + size, 8);
		p = llm_store_le(p, 1, 4); /* disks */
	}
	p = llm_store_le(p, LLM_ZIP_END, 4);
	p = llm_store_le(p, 0, 4); /* disks */
	p = llm_store_le(p, wide_count ? UINT16_MAX : count, 2);
	p = llm_store_le(p, wide_count ? UINT16_MAX : count, 2);
	p = llm_store_le(p, wide_size ? UINT32_MAX : size, 4);
	p = llm_store_le(p, wide_offset ? UINT32_MAX : offset, 4);
	p = llm_store_le(p, 0, 2); /* comment */
	return put(writer, tail, (size_t) (p - tail), err);
}
