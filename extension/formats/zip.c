/*
 * Reads a ZIP archive's directory. Only the central directory is trusted; of the local headers only the
 * length of their names is used, to find the start of the data.
 */
#include "formats/zip.h"

#include <string.h>

#include "formats/file_kind.h"
#include "formats/utf8.h"

#define MAX_COMMENT 65535
#define MAX_DIRECTORY (64u << 20)
#define UNKNOWN16 0xffffu
#define UNKNOWN32 0xffffffffu

static LlmCode
damaged(const LlmSource *source, const char *what, LlmError *err)
{
	return llm_fail(err, LLM_FORMAT, "%s: not a valid npz (ZIP) file: %s", source->name, what);
}

/* Finds the directory from the end record's 64-bit form. */
static LlmCode
read_zip64_end(LlmZip *zip, uint64_t end_offset, uint64_t *size, LlmError *err)
{
	const LlmSource *source = zip->source;
	unsigned char locator[LLM_ZIP64_LOCATOR_SIZE], end[LLM_ZIP64_END_SIZE];
	uint64_t offset;
	LlmCode code;

	if (end_offset < sizeof(locator))
		return damaged(source, "no ZIP64 locator", err);
	code = source->read(source->context, end_offset - sizeof(locator), locator, sizeof(locator), err);
	if (code != LLM_OK)
		return code;
	offset = llm_load_le64(locator + 8);
	if (llm_load_le(locator, 4) != LLM_ZIP64_LOCATOR || offset > end_offset - sizeof(locator) ||
		end_offset - sizeof(locator) - offset < sizeof(end))
		return damaged(source, "its ZIP64 locator leads nowhere", err);
	if ((code = source->read(source->context, offset, end, sizeof(end), err)) != LLM_OK)
		return code;
	if (llm_load_le(end, 4) != LLM_ZIP64_END || llm_load_le(end + 16, 4) != 0 ||
		llm_load_le(end + 20, 4) != 0)
		return damaged(source, "its ZIP64 end record is not one", err);
	zip->count = llm_load_le64(end + 32);
	*size = llm_load_le64(end + 40);
	zip->directory_offset = llm_load_le64(end + 48);
	return LLM_OK;
}

/* Finds the end record, which is last in the file, before a comment of up to 65535 bytes. */
static LlmCode
find_end(
	LlmZip *zip, unsigned char *tail, size_t tail_size, uint64_t *size, uint64_t *end_offset, LlmError *err)
{
	const LlmSource *source = zip->source;

	for (size_t at = tail_size - LLM_ZIP_END_SIZE + 1; at-- > 0;)
	{
		const unsigned char *end = tail + at;

		if (llm_load_le(end, 4) != LLM_ZIP_END ||
			at + LLM_ZIP_END_SIZE + llm_load_le(end + 20, 2) != tail_size)
			continue;
		*end_offset = source->size - tail_size + at;
		zip->count = llm_load_le(end + 10, 2);
		*size = llm_load_le(end + 12, 4);
		zip->directory_offset = llm_load_le(end + 16, 4);
		if (zip->count == UNKNOWN16 || *size == UNKNOWN32 || zip->directory_offset == UNKNOWN32)
			return read_zip64_end(zip, *end_offset, size, err);
		if (llm_load_le(end + 4, 4) != 0)
			return damaged(source, "it is one part of several", err);
		return LLM_OK;
	}
	damaged(source, "no end of its directory", err);
	return llm_hint_kind(
		source, "The file may be cut short, or of another format (pg_llm_import_safetensors).", err);
}

LlmCode
llm_zip_open(LlmZip *zip, const LlmSource *source, const LlmAllocator *allocator, LlmError *err)
{
	size_t tail_size = source->size < MAX_COMMENT + LLM_ZIP_END_SIZE ? (size_t) source->size
																	 : MAX_COMMENT + LLM_ZIP_END_SIZE;
	uint64_t size = 0, end_offset = 0;
	unsigned char *tail;
	LlmCode code;

	memset(zip, 0, sizeof(*zip));
	zip->source = source;
	zip->allocator = allocator;
	if (tail_size < LLM_ZIP_END_SIZE)
		return damaged(source, "too short", err);
	tail = allocator->alloc(allocator->context, tail_size);
	if (tail == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory to find its directory", source->name);
	code = source->read(source->context, source->size - tail_size, tail, tail_size, err);
	if (code == LLM_OK)
		code = find_end(zip, tail, tail_size, &size, &end_offset, err);
	allocator->release(allocator->context, tail, tail_size);
	if (code != LLM_OK)
		return code;

	if (zip->directory_offset > end_offset || size > end_offset - zip->directory_offset)
		return damaged(source, "its directory lies outside the file", err);
	if (size > MAX_DIRECTORY || zip->count > size / LLM_ZIP_CENTRAL_SIZE)
		return damaged(source, "its directory has an impossible size", err);
	zip->size = (size_t) size;
	zip->directory = allocator->alloc(allocator->context, zip->size + 1);
	if (zip->directory == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory for its directory", source->name);
	code = source->read(source->context, zip->directory_offset, zip->directory, zip->size, err);
	if (code != LLM_OK)
		llm_zip_close(zip);
	return code;
}

void
llm_zip_close(LlmZip *zip)
{
	if (zip->directory != NULL)
		zip->allocator->release(zip->allocator->context, zip->directory, zip->size + 1);
	zip->directory = NULL;
}

/* Reads the sizes and the offset that the fixed part declares to be in the ZIP64 field. */
static bool
read_zip64_extra(const unsigned char *extra, size_t size, LlmExtent *extent)
{
	uint64_t *wide[] = {&extent->size, &extent->stored, &extent->offset};

	while (size >= 4)
	{
		size_t length = llm_load_le(extra + 2, 2);
		const unsigned char *field = extra + 4;

		if (length > size - 4)
			return false;
		if (llm_load_le(extra, 2) == LLM_ZIP64_EXTRA)
		{
			for (int i = 0; i < 3; i++)
			{
				if (*wide[i] != UNKNOWN32)
					continue;
				if (length < 8)
					return false;
				*wide[i] = llm_load_le64(field);
				field += 8;
				length -= 8;
			}
			return true;
		}
		extra += 4 + length;
		size -= 4 + length;
	}
	return extent->size != UNKNOWN32 && extent->stored != UNKNOWN32 && extent->offset != UNKNOWN32;
}

/* Changes extent->offset from the local header's to the data's, and checks that the data fit before the
 * directory. */
static LlmCode
find_data(LlmZip *zip, LlmExtent *extent, LlmError *err)
{
	const LlmSource *source = zip->source;
	unsigned char local[LLM_ZIP_LOCAL_SIZE];
	uint64_t limit = zip->directory_offset, skip;
	LlmCode code;

	if (extent->offset > limit || limit - extent->offset < sizeof(local))
		return damaged(source, "a member lies outside the file", err);
	if ((code = source->read(source->context, extent->offset, local, sizeof(local), err)) != LLM_OK)
		return code;
	if (llm_load_le(local, 4) != LLM_ZIP_LOCAL)
		return damaged(source, "a member has no header", err);
	skip = sizeof(local) + llm_load_le(local + 26, 2) + llm_load_le(local + 28, 2);
	if (skip > limit - extent->offset || extent->stored > limit - extent->offset - skip)
		return damaged(source, "a member lies outside the file", err);
	extent->offset += skip;
	return LLM_OK;
}

static LlmCode
check_name(LlmZip *zip, const LlmZipMember *member, LlmError *err)
{
	for (size_t at = 0; at < member->name_length;)
	{
		size_t length = llm_utf8_length(member->name + at, member->name_length - at);

		if (length == 0 || member->name[at] == '\0')
			return damaged(zip->source, "a member's name is not UTF-8", err);
		at += length;
	}
	return member->name_length > 0 ? LLM_OK : damaged(zip->source, "a member without a name", err);
}

LlmCode
llm_zip_next(LlmZip *zip, LlmZipMember *member, LlmError *err)
{
	const unsigned char *entry = zip->directory + zip->at;
	LlmExtent *extent = &member->extent;
	size_t left = zip->size - zip->at, name, extra, comment;
	uint32_t flags, method;
	LlmCode code;

	if (left < LLM_ZIP_CENTRAL_SIZE || llm_load_le(entry, 4) != LLM_ZIP_CENTRAL)
		return damaged(zip->source, "its directory ends early", err);
	flags = llm_load_le(entry + 8, 2);
	method = llm_load_le(entry + 10, 2);
	name = llm_load_le(entry + 28, 2);
	extra = llm_load_le(entry + 30, 2);
	comment = llm_load_le(entry + 32, 2);
	if (name + extra + comment > left - LLM_ZIP_CENTRAL_SIZE)
		return damaged(zip->source, "its directory ends early", err);
	member->name = (const char *) entry + LLM_ZIP_CENTRAL_SIZE;
	member->name_length = name;
	*extent = (LlmExtent){.offset = llm_load_le(entry + 42, 4),
		.stored = llm_load_le(entry + 20, 4),
		.size = llm_load_le(entry + 24, 4),
		.deflated = method == LLM_ZIP_DEFLATED,
		.checked = true,
		.crc32 = llm_load_le(entry + 16, 4)};
	zip->at += LLM_ZIP_CENTRAL_SIZE + name + extra + comment;
	zip->next++;

	if ((code = check_name(zip, member, err)) != LLM_OK)
		return code;
	if ((flags & 0x2041) != 0)
		return llm_fail(
			err, LLM_FORMAT, "%s: member \"%.*s\" is encrypted", zip->source->name, (int) name, member->name);
	if (method != LLM_ZIP_STORED && method != LLM_ZIP_DEFLATED)
		return llm_fail(err, LLM_FORMAT,
			"%s: member \"%.*s\" is compressed by method %u; only stored (0) and deflate (8) are read",
			zip->source->name, (int) name, member->name, method);
	if (!read_zip64_extra(entry + LLM_ZIP_CENTRAL_SIZE + name, extra, extent))
		return damaged(zip->source, "a member's ZIP64 field is too short", err);
	if (!extent->deflated && extent->stored != extent->size)
		return damaged(zip->source, "a stored member has two sizes", err);
	return find_data(zip, extent, err);
}
