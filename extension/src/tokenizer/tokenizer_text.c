/*
 * Text conversion for tokenizers: from the server's encoding to UTF-8 and back.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "formats/unicode.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tokenizer/tokenizer.h"

/* Returns the text itself if the server's encoding is UTF-8. *length receives the result's length. */
static char *
ToUtf8(const char *text, Size size, Size *length)
{
	char *utf8;

	if (GetDatabaseEncoding() != PG_UTF8)
		ReserveMemory(size * MAX_CONVERSION_GROWTH);
	utf8 = pg_server_to_any(text, (int) size, PG_UTF8);
	*length = utf8 == text ? size : strlen(utf8);
	return utf8;
}

char *
TokenizerUtf8(text *input, Size *size)
{
	return ToUtf8(VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input), size);
}

int32 *
TokenizerEncodeUtf8(LlmBpe *bpe, const char *utf8, Size size, bool special, Size *count)
{
	/* Room for one token per three bytes, which is more than English and most code need. */
	Size room;
	LlmBpeIds ids = {.allocator = ContextAllocator()};
	LlmError err;

	utf8 = TokenizerNormal(bpe, utf8, &size);
	ids.capacity = room = 256 + size / 3;
	ReserveMemory(room * sizeof(int32));
	ids.ids = palloc_extended(room * sizeof(int32), MCXT_ALLOC_HUGE);
	LLM_CHECK(llm_bpe_encode(bpe, utf8, size, special, &ids, &CancelStop, &err), &err);
	*count = ids.count;
	return ids.ids;
}

int32 *
TokenizerEncode(LlmBpe *bpe, const char *text, Size size, bool special, Size *count)
{
	char *utf8 = ToUtf8(text, size, &size);

	return TokenizerEncodeUtf8(bpe, utf8, size, special, count);
}

void
TokenizerNoticeSpecial(const LlmBpe *bpe, const char *text, Size size)
{
	const char *utf8 = ToUtf8(text, size, &size);
	LlmBpeToken token = {0};
	uint32_t symbol;
	LlmError err;

	for (size_t at = 0; !token.special; at += token.size)
	{
		LLM_CHECK(llm_bpe_find_marked(bpe, utf8, size, true, at, &at, &symbol, &CancelStop, &err), &err);
		if (at == size)
			return;
		token = llm_bpe_token(bpe, symbol);
	}
	ereport(NOTICE, (errmsg("the prompt contains \"%s\" as text, not as the special token %d",
						 text_to_cstring(TokenizerText((const char *) token.bytes, token.size)), token.id),
						errhint("special => true makes it the token.")));
}

void
TokenizerNoToken(const LlmBpe *bpe, int32 id, Size position)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					   errmsg("token id %d at position %zu is no token of tokenizer \"%s\"", id, position,
						   llm_bpe_name(bpe)),
					   errdetail("Its vocabulary has %zu tokens, ids up to %d.", llm_bpe_count(bpe),
						   llm_bpe_token(bpe, llm_bpe_count(bpe) - 1).id),
					   errhint("Decode with the tokenizer that made the ids.")));
}

void
TokenizerTooLong(void)
{
	ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					   errmsg("the decoded text is longer than the 1 GB that one value holds"),
					   errhint("Decode slices of the array.")));
}

void
TokenizerAppend(const LlmBpe *bpe, int32 id, Size position, StringInfo bytes)
{
	uint32 symbol;
	LlmBpeToken token;

	if (!llm_bpe_find(bpe, id, &symbol))
		TokenizerNoToken(bpe, id, position);
	token = llm_bpe_token(bpe, symbol);
	if (token.size > MaxAllocSize - 1 - (Size) bytes->len)
		TokenizerTooLong();
	appendBinaryStringInfo(bytes, (const char *) token.bytes, (int) token.size);
}

/* The number of bytes from `at` on to process together: a long text is split at character boundaries. */
static Size
ChunkOf(const char *bytes, Size at, Size size)
{
	Size chunk = Min(LLM_POLL_BYTES, size - at);

	CHECK_FOR_INTERRUPTS();
	return at + chunk < size ? chunk - llm_utf8_unfinished((const unsigned char *) bytes + at, chunk) : chunk;
}

bool
TokenizerIsText(const char *bytes, Size size)
{
	bool good = true;

	for (Size at = 0, chunk; at < size && good; at += chunk)
	{
		chunk = ChunkOf(bytes, at, size);
		good = llm_utf8_is_text((const unsigned char *) bytes + at, chunk);
	}
	return good;
}

/* llm_utf8_repair in chunks, so that a cancel interrupts it. */
static Size
Repair(const char *bytes, Size size, char *out)
{
	Size length = 0;

	for (Size at = 0, chunk; at < size; at += chunk)
	{
		chunk = ChunkOf(bytes, at, size);
		length += llm_utf8_repair((const unsigned char *) bytes + at, chunk, out ? out + length : NULL);
	}
	return length;
}

/* Converts UTF-8 to the server's encoding; a character missing from it becomes '?', because decoding must
 * always return text. */
static text *
ToServer(char *utf8, Size size)
{
	int encoding = GetDatabaseEncoding();
	Oid conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	StringInfoData out;

	if (!OidIsValid(conversion))
		return cstring_to_text(pg_any_to_server(utf8, (int) size, PG_UTF8));
	initStringInfo(&out);
	for (Size at = 0; at < size;)
	{
		Size chunk = Min(size - at, 65536), done;
		char *converted;

		CHECK_FOR_INTERRUPTS();
		while (at + chunk < size && ((unsigned char) utf8[at + chunk] & 0xc0) == 0x80)
			chunk--;
		converted = palloc(chunk * MAX_CONVERSION_GROWTH + 1);
		done =
			(Size) pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding, (unsigned char *) utf8 + at,
				(int) chunk, (unsigned char *) converted, (int) (chunk * MAX_CONVERSION_GROWTH + 1), true);
		appendStringInfoString(&out, converted);
		pfree(converted);
		at += done;
		if (done < chunk)
		{
			appendStringInfoChar(&out, '?');
			at += (Size) pg_utf_mblen((unsigned char *) utf8 + at);
		}
	}
	return cstring_to_text_with_len(out.data, out.len);
}

text *
TokenizerText(const char *bytes, Size size)
{
	Size length = Repair(bytes, size, NULL);
	text *result;

	if (length > MaxAllocSize - VARHDRSZ)
		TokenizerTooLong();
	ReserveResult(length, LLM_BYTES_SHOWN * length);
	result = palloc(length + VARHDRSZ);
	SET_VARSIZE(result, length + VARHDRSZ);
	Repair(bytes, size, VARDATA(result));
	if (GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII)
		return ToServer(VARDATA(result), length);
	return result;
}
