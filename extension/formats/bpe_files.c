/*
 * The text form of bytes, and the two files in which a tokenizer is distributed.
 */
#include "formats/bpe_internal.h"

#include <string.h>

#include "formats/json.h"
#include "formats/unicode.h"
#include "formats/utf8.h"

/* Lines read between two polls: well below a millisecond. */
#define STRIDE 4096

/*
 * GPT-2 writes a byte as the Latin-1 character with its number if that character is visible, and the other
 * 68, in order (0..32, 127..160, 173), as the characters from U+0100 on.
 */
static uint32_t
byte_to_character(unsigned char byte)
{
	if (byte <= 32)
		return 0x100u + byte;
	if (byte >= 127 && byte <= 160)
		return 0x100u + 33 + (byte - 127);
	return byte == 173 ? 0x100 + 67 : byte;
}

/* The byte of a character; -1 if it is none of the 256. */
static int
character_to_byte(uint32_t c)
{
	uint32_t n = c - 0x100;

	if (c < 0x100)
		return byte_to_character((unsigned char) c) == c ? (int) c : -1;
	return n <= 32 ? (int) n : n <= 66 ? (int) (n - 33 + 127) : n == 67 ? 173 : -1;
}

size_t
llm_bpe_to_text(const unsigned char *bytes, size_t size, char *out)
{
	size_t length = 0;

	for (size_t i = 0; i < size; i++)
		length += llm_utf8_encode(byte_to_character(bytes[i]), out + length);
	return length;
}

bool
llm_bpe_from_text(const char *text, size_t size, unsigned char *out, size_t *length)
{
	*length = 0;
	for (size_t at = 0; at < size;)
	{
		LlmChar c = llm_utf8_read((const unsigned char *) text + at, size - at);
		int byte = c.valid ? character_to_byte(c.code_point) : -1;

		if (byte < 0)
			return false;
		out[(*length)++] = (unsigned char) byte;
		at += (size_t) c.length;
	}
	return true;
}

/* Reads the id of the token that was just read, and moves past it. */
static LlmCode
read_id(LlmJson *json, BpeQuote token, int32_t *id, LlmError *err)
{
	LlmCode code = llm_json_next(json, err);

	if (code != LLM_OK)
		return code;
	if (json->token == LLM_JSON_INTEGER && json->integer >= 0 && json->integer <= INT32_MAX)
	{
		*id = (int32_t) json->integer;
		return LLM_OK;
	}
	if (json->token == LLM_JSON_INTEGER || json->token == LLM_JSON_NUMBER)
		return llm_json_fail(json, err, "token \"%s\" has id %.17g; ids are whole numbers from 0 to %d",
			token.text, json->number, INT32_MAX);
	llm_json_fail(json, err, "token \"%s\" has %s where its id should be", token.text,
		llm_json_token_name(json->token));
	return llm_hint(err,
		"A vocabulary file is one object {\"token\": id, ...}; pg_llm_load_tokenizer loads a "
		"tokenizer.json.");
}

/* True if the vocabulary is one of plain characters, see bpe.h. */
static LlmCode
find_plain(LlmJson *json, bool *plain, LlmError *err)
{
	LlmCode code = llm_json_expect(json, LLM_JSON_OBJECT, err);

	*plain = false;
	while (code == LLM_OK && !*plain && (code = llm_json_next(json, err)) == LLM_OK &&
		   json->token == LLM_JSON_KEY)
	{
		LlmChar c = {0};

		if (json->length > 0)
			c = llm_utf8_read((const unsigned char *) json->text, json->length);
		*plain = c.valid && (size_t) c.length == json->length && character_to_byte(c.code_point) < 0;
		code = llm_json_skip(json, err);
	}
	return code;
}

static LlmCode
add_token(LlmBpe *bpe, LlmJson *json, bool plain, LlmError *err)
{
	size_t size = json->length, bytes_size;
	const char *text;
	unsigned char *bytes;
	BpeQuote quote = llm_bpe_quote(json->text, size);
	int32_t id = 0;
	LlmCode code;

	/* Room for the text as read, which the parser overwrites, followed by its other form. */
	if (!llm_bpe_reserve(bpe->allocator, &bpe->scratch, 3 * size + 1))
		return llm_fail(err, LLM_NO_MEMORY, "no memory for a token of %zu bytes", size);
	memcpy(bpe->scratch.data, json->text, size);
	text = bpe->scratch.data;
	bytes = (unsigned char *) bpe->scratch.data + size;
	if ((code = read_id(json, quote, &id, err)) != LLM_OK)
		return code;
	if (plain)
		return llm_bpe_add_token(bpe, id, (char *) bytes,
			llm_bpe_to_text((const unsigned char *) text, size, (char *) bytes), text, size, err);
	if (llm_bpe_from_text(text, size, bytes, &bytes_size))
		return llm_bpe_add_token(bpe, id, text, size, (const char *) bytes, bytes_size, err);
	if (memchr(text, '\0', size) != NULL) /* SQL text cannot contain it */
		return llm_json_fail(json, err, "token %d holds a NUL character", (int) id);
	return llm_bpe_add_token(bpe, id, text, size, text, size, err);
}

LlmCode
llm_bpe_read_vocab(
	LlmBpe *bpe, const char *file, const void *data, size_t size, const LlmStop *stop, LlmError *err)
{
	LlmJson json;
	bool plain;
	LlmCode code;

	llm_json_open(&json, file, data, size, bpe->allocator);
	json.stop = stop;
	code = find_plain(&json, &plain, err);
	llm_json_close(&json);
	if (code != LLM_OK)
		return code;

	llm_json_open(&json, file, data, size, bpe->allocator);
	json.stop = stop;
	code = llm_json_expect(&json, LLM_JSON_OBJECT, err);
	while (code == LLM_OK && (code = llm_json_next(&json, err)) == LLM_OK && json.token == LLM_JSON_KEY)
		code = add_token(bpe, &json, plain, err);
	if (code == LLM_OK)
		code = llm_json_expect(&json, LLM_JSON_END, err);
	llm_json_close(&json);
	return code;
}

LlmBpeMergeFile
llm_bpe_merge_file(const char *file, const void *data, size_t size)
{
	LlmBpeMergeFile merges = {.file = file, .data = data, .size = size, .rank = -1};

	if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) /* a byte order mark, as some editors write */
		merges.at = 3;
	return merges;
}

/* One line is one merge: two tokens and one space between them. */
static bool
split_line(LlmBpeMergeFile *merges, const char *line, size_t size)
{
	const char *space = memchr(line, ' ', size);

	if (space == NULL || space == line || space == line + size - 1 ||
		memchr(space + 1, ' ', (size_t) (line + size - space - 1)) != NULL ||
		memchr(line, '\0', size) != NULL)
		return false;
	merges->left = line;
	merges->left_size = (size_t) (space - line);
	merges->right = space + 1;
	merges->right_size = size - merges->left_size - 1;
	return llm_utf8_repair((const unsigned char *) line, size, NULL) == size;
}

LlmCode
llm_bpe_next_merge(LlmBpeMergeFile *merges, LlmError *err)
{
	while (merges->at < merges->size)
	{
		const char *line = merges->data + merges->at;
		size_t left = merges->size - merges->at, size;
		const char *end = memchr(line, '\n', left);

		size = end != NULL ? (size_t) (end - line) : left;
		merges->at += size + (end != NULL);
		if (++merges->line % STRIDE == 0 && merges->stop != NULL &&
			merges->stop->requested(merges->stop->context))
			return llm_fail(err, LLM_CANCELED, "%s: canceled at line %zu", merges->file, merges->line);
		if (size > 0 && line[size - 1] == '\r')
			size--;
		if (size == 0 || (merges->line == 1 && size >= 8 && memcmp(line, "#version", 8) == 0))
			continue;
		if (!split_line(merges, line, size))
			return llm_fail(err, LLM_FORMAT,
				"%s: line %zu: expected two tokens with one space between them, found \"%s\"", merges->file,
				merges->line, llm_bpe_quote(line, size).text);
		if (merges->rank == INT32_MAX)
			return llm_fail(err, LLM_LIMIT, "%s: more than %d merges", merges->file, INT32_MAX);
		merges->rank++;
		return LLM_OK;
	}
	merges->left = NULL;
	return LLM_OK;
}
