/*
 * Unicode's normal form C, to which some tokenizers bring a text first, by the functions of the server.
 */
#include "postgres.h"

#include "common/unicode_norm.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "formats/unicode.h"
#include "src/base/memory.h"
#include "src/tokenizer/tokenizer.h"

/* Bytes normalized together, or more if there is no ASCII character before which to end. */
#define CHUNK ((Size) 1 << 16)

/* The end of the chunk from `at` on. No character composes with an ASCII character after it. */
static Size
ChunkEnd(const char *utf8, Size size, Size at)
{
	Size end = Min(at + CHUNK, size);

	while (end < size && ((unsigned char) utf8[end] & 0x80) != 0)
		end++;
	return end;
}

/* The normal form of a chunk, as characters ended by 0; NULL if it has it already, or is no UTF-8. */
static pg_wchar *
NormalChars(const unsigned char *utf8, Size size)
{
	pg_wchar *chars, *normal = NULL;
	bool valid = true;
	Size n = 0;

	ReserveMemory(size * 4 * sizeof(pg_wchar)); /* as read, decomposed, composed */
	chars = palloc((size + 1) * sizeof(pg_wchar));
	for (Size at = 0; at < size && valid;)
	{
		LlmChar c = llm_utf8_read(utf8 + at, size - at);

		chars[n++] = c.code_point;
		valid = c.valid && c.code_point != 0;
		at += (Size) c.length;
	}
	chars[n] = 0;
	if (valid && unicode_is_normalized_quickcheck(UNICODE_NFC, chars) != UNICODE_NORM_QC_YES)
		normal = unicode_normalize(UNICODE_NFC, chars);
	pfree(chars);
	return normal;
}

const char *
TokenizerNormal(const LlmBpe *bpe, const char *utf8, Size *size)
{
	StringInfoData out;

	if (!llm_bpe_rules(bpe).nfc)
		return utf8;
	initStringInfo(&out);
	for (Size at = 0, end; at < *size; at = end)
	{
		pg_wchar *normal;

		CHECK_FOR_INTERRUPTS();
		end = ChunkEnd(utf8, *size, at);
		normal = NormalChars((const unsigned char *) utf8 + at, end - at);
		if (normal == NULL)
			appendBinaryStringInfo(&out, utf8 + at, (int) (end - at));
		for (pg_wchar *c = normal; c != NULL && *c != 0; c++)
		{
			unsigned char character[4];

			unicode_to_utf8(*c, character);
			appendBinaryStringInfo(&out, (char *) character, pg_utf_mblen(character));
		}
		if (normal != NULL)
			pfree(normal);
	}
	*size = (Size) out.len;
	return out.data;
}
