/*
 * The table of contents of a ZIP archive (APPNOTE 6.3): stored and deflated members, ZIP64.
 */
#ifndef LLM_FORMATS_ZIP_H
#define LLM_FORMATS_ZIP_H

#include "formats/stream.h"

#define LLM_ZIP_END_SIZE 22
#define LLM_ZIP64_LOCATOR_SIZE 20
#define LLM_ZIP64_END_SIZE 56
#define LLM_ZIP_CENTRAL_SIZE 46
#define LLM_ZIP_LOCAL_SIZE 30
#define LLM_ZIP_END 0x06054b50u
#define LLM_ZIP64_LOCATOR 0x07064b50u
#define LLM_ZIP64_END 0x06064b50u
#define LLM_ZIP_CENTRAL 0x02014b50u
#define LLM_ZIP_LOCAL 0x04034b50u
#define LLM_ZIP64_EXTRA 1
#define LLM_ZIP_STORED 0
#define LLM_ZIP_DEFLATED 8

typedef struct LlmZip
{
	const LlmSource *source;
	const LlmAllocator *allocator;
	unsigned char *directory; /* the central directory as in the file */
	size_t size, at;
	uint64_t directory_offset;
	uint64_t count, next; /* number of members, and index of the next */
} LlmZip;

typedef struct LlmZipMember
{
	const char *name; /* in the directory: valid UTF-8 without NULs, not terminated */
	size_t name_length;
	LlmExtent extent;
} LlmZipMember;

extern LlmCode llm_zip_open(
	LlmZip *zip, const LlmSource *source, const LlmAllocator *allocator, LlmError *err);
extern void llm_zip_close(LlmZip *zip);
/* Reads the next of the zip->count members, and checks its extent against the file. */
extern LlmCode llm_zip_next(LlmZip *zip, LlmZipMember *member, LlmError *err);

#endif
