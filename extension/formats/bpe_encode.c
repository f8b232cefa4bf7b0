/*
 * Decodes ids to text, and encodes text to ids: cuts it into pieces, looks each up in the word cache, and
 * merges those that are not cached.
 */
#include "formats/bpe_internal.h"

#include <string.h>

/* Bytes encoded between two polls: well below a millisecond, if no piece is long. */
#define STRIDE ((size_t) 1 << 15)
/* Pieces up to this length are merged on the stack. */
#define STACK_SYMBOLS 256

void
llm_bpe_ids_free(LlmBpeIds *ids)
{
	if (ids->owned)
		ids->allocator->release(ids->allocator->context, ids->ids, ids->capacity * sizeof(int32_t));
	*ids = (LlmBpeIds){.allocator = ids->allocator};
}

static LlmCode
grow_ids(LlmBpeIds *out, size_t more, LlmError *err)
{
	size_t capacity = out->capacity + out->capacity / 2 + more;
	int32_t *ids = out->allocator->alloc(out->allocator->context, capacity * sizeof(int32_t));

	if (ids == NULL)
	{
		llm_fail(err, LLM_NO_MEMORY, "no memory for more than %zu tokens", out->count);
		return llm_hint(err, "Encode shorter texts, or raise pg_llm.memory_limit.");
	}
	if (out->count > 0)
		memcpy(ids, out->ids, out->count * sizeof(int32_t));
	if (out->owned)
		out->allocator->release(out->allocator->context, out->ids, out->capacity * sizeof(int32_t));
	out->ids = ids;
	out->capacity = capacity;
	out->owned = true;
	return LLM_OK;
}

static inline LlmCode
reserve_ids(LlmBpeIds *out, size_t more, LlmError *err)
{
	return out->capacity - out->count >= more ? LLM_OK : grow_ids(out, more, err);
}

/* Loads a piece of 1 to 16 bytes, padded with zeros. */
static inline void
word_key(const unsigned char *text, size_t size, size_t at, size_t length, uint64_t key[2])
{
	static const unsigned char keep[32] = {[0 ... 15] = 0xff};
	uint64_t mask[2];

	if (size - at >= BPE_WORD_BYTES)
	{
		memcpy(key, text + at, BPE_WORD_BYTES);
		memcpy(mask, keep + BPE_WORD_BYTES - length, BPE_WORD_BYTES);
		key[0] &= mask[0];
		key[1] &= mask[1];
	}
	else
	{
		key[0] = key[1] = 0;
		memcpy(key, text + at, length);
	}
}

/* The cache line for a piece: two entries. */
static inline BpeWord *
word_place(const LlmBpe *bpe, const uint64_t key[2])
{
	uint64_t hash = key[0] * UINT64_C(0x9e3779b97f4a7c15) ^ key[1] * UINT64_C(0xc2b2ae3d27d4eb4f);

	hash ^= hash >> 32;
	hash *= UINT64_C(0x94d049bb133111eb);
	return &bpe->words[hash >> (64 - BPE_WORD_BITS) << 1];
}

static inline bool
word_is(const BpeWord *word, const uint64_t key[2], size_t length)
{
	return word->key[0] == key[0] && word->key[1] == key[1] && word->size == length && word->count != 0;
}

/* Merges bytes at..end of text and appends the ids. */
static LlmCode
encode_piece(LlmBpe *bpe, const unsigned char *text, size_t size, size_t at, size_t end, LlmBpeIds *out,
	const LlmStop *stop, LlmError *err)
{
	uint32_t stack[STACK_SYMBOLS], *symbols = stack;
	size_t length = end - at, count;
	uint32_t whole = bpe->whole != NULL ? llm_bpe_whole_token(bpe, text + at, length) : LLM_BPE_NONE;
	LlmCode code;

	if (whole != LLM_BPE_NONE)
	{
		if ((code = reserve_ids(out, 1, err)) == LLM_OK)
			out->ids[out->count++] = bpe->tokens[whole].id;
		return code;
	}
	if (length > STACK_SYMBOLS &&
		(symbols = bpe->allocator->alloc(bpe->allocator->context, length * sizeof(uint32_t))) == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory to merge a piece of %zu bytes", length);
	code = llm_bpe_start(bpe, text, size, at, end, symbols, &count, err);
	if (code == LLM_OK)
		code = llm_bpe_merge_all(bpe, symbols, &count, stop, err);
	if (code == LLM_OK)
		code = reserve_ids(out, count, err);
	for (size_t i = 0; code == LLM_OK && i < count; i++)
		out->ids[out->count++] = bpe->tokens[symbols[i]].id;
	if (symbols != stack)
		bpe->allocator->release(bpe->allocator->context, symbols, length * sizeof(uint32_t));
	return code;
}

/* Handles a piece that is not in the first entry of its cache line: uses the second entry, or merges the
 * piece and caches it. */
static LlmCode
encode_word(LlmBpe *bpe, const unsigned char *text, size_t size, size_t at, size_t end, BpeWord *place,
	const uint64_t key[2], LlmBpeIds *out, LlmError *err)
{
	size_t before = out->count, count;
	BpeWord word = place[1];
	LlmCode code;

	if (!word_is(&word, key, end - at))
	{
		if ((code = encode_piece(bpe, text, size, at, end, out, NULL, err)) != LLM_OK)
			return code;
		if ((count = out->count - before) > BPE_WORD_TOKENS)
			return LLM_OK;
		word = (BpeWord){{key[0], key[1]}, {0}, (uint16_t) (end - at), (uint16_t) count};
		memcpy(word.ids, out->ids + before, count * sizeof(int32_t));
	}
	else
	{
		memcpy(out->ids + before, word.ids, sizeof(word.ids));
		out->count += word.count;
	}
	place[1] = place[0];
	place[0] = word;
	return LLM_OK;
}

/* Encodes bytes from..to of text without looking for marked tokens: the pattern sees nothing beyond them. */
static LlmCode
encode_ordinary(LlmBpe *bpe, const unsigned char *text, size_t size, size_t from, size_t to, LlmBpeIds *out,
	const LlmStop *stop, LlmError *err)
{
	size_t poll = from + STRIDE;
	LlmCode code;

	for (size_t at = from, end; at < to; at = end)
	{
		end = bpe->pattern == 0 ? llm_bpe_piece_end((const char *) text, to, at, stop)
								: llm_bpe_own_piece_end(bpe, (const char *) text, to, at, stop);
		if (end == SIZE_MAX || (at >= poll && stop != NULL && stop->requested(stop->context)))
			return llm_fail(err, LLM_CANCELED, "canceled at byte %zu of %zu", at, size);
		if (at >= poll)
			poll = at + STRIDE;
		if (end - at <= BPE_WORD_BYTES)
		{
			uint64_t key[2];
			BpeWord *place;

			word_key(text, size, at, end - at, key);
			place = word_place(bpe, key);
			if ((code = reserve_ids(out, BPE_WORD_BYTES, err)) != LLM_OK)
				return code;
			if (word_is(place, key, end - at))
			{
				memcpy(out->ids + out->count, place->ids, sizeof(place->ids));
				out->count += place->count;
				continue;
			}
			code = encode_word(bpe, text, size, at, end, place, key, out, err);
		}
		else
			code = encode_piece(bpe, text, size, at, end, out, stop, err);
		if (code != LLM_OK)
			return code;
	}
	return LLM_OK;
}

/* The longest marked token at byte `at` of text; LLM_BPE_NONE if there is none. */
static uint32_t
marked_at(const LlmBpe *bpe, const unsigned char *text, size_t size, size_t at, bool special)
{
	const uint32_t *marked = (const uint32_t *) bpe->marked.data;
	uint32_t found = LLM_BPE_NONE;

	for (size_t i = 0; i < bpe->marked.size / sizeof(uint32_t); i++)
	{
		const BpeToken *token = &bpe->tokens[marked[i]];

		if (token->size <= size - at && (special || !token->special) &&
			memcmp(text + at, bpe->bytes.data + token->bytes, token->size) == 0 &&
			(found == LLM_BPE_NONE || token->size > bpe->tokens[found].size))
			found = marked[i];
	}
	return found;
}

LlmCode
llm_bpe_find_marked(const LlmBpe *bpe, const char *chars, size_t size, bool special, size_t at, size_t *start,
	uint32_t *symbol, const LlmStop *stop, LlmError *err)
{
	const unsigned char *text = (const unsigned char *) chars;
	size_t compared = 0;

	for (; (at = llm_bpe_next_start(&bpe->starts, text, size, at)) < size; at++)
	{
		*start = at;
		if ((*symbol = marked_at(bpe, text, size, at, special)) != LLM_BPE_NONE)
			return LLM_OK;
		compared += bpe->marked.size / sizeof(uint32_t);
		if (compared < STRIDE)
			continue;
		compared = 0;
		if (stop != NULL && stop->requested(stop->context))
			return llm_fail(err, LLM_CANCELED, "canceled at byte %zu of %zu", at, size);
	}
	*symbol = LLM_BPE_NONE;
	*start = size;
	return LLM_OK;
}

LlmCode
llm_bpe_encode(LlmBpe *bpe, const char *chars, size_t size, bool special, LlmBpeIds *out, const LlmStop *stop,
	LlmError *err)
{
	const unsigned char *text = (const unsigned char *) chars;
	uint32_t symbol = LLM_BPE_NONE;
	LlmCode code;

	for (size_t from = 0, at = size; from < size; from = at)
	{
		if (bpe->marked.size > 0 && (special || bpe->always) &&
			(code = llm_bpe_find_marked(bpe, chars, size, special, from, &at, &symbol, stop, err)) != LLM_OK)
			return code;
		if ((code = encode_ordinary(bpe, text, size, from, at, out, stop, err)) != LLM_OK)
			return code;
		if (symbol == LLM_BPE_NONE)
			break;
		if ((code = reserve_ids(out, 1, err)) != LLM_OK)
			return code;
		out->ids[out->count++] = bpe->tokens[symbol].id;
		at += bpe->tokens[symbol].size;
	}
	return LLM_OK;
}

size_t
llm_bpe_decode(const LlmBpe *bpe, const int32_t *ids, size_t count, char *out, size_t *done)
{
	size_t length = 0;
	uint32_t symbol;

	for (*done = 0; *done < count && llm_bpe_find(bpe, ids[*done], &symbol); ++*done)
	{
		const BpeToken *token = &bpe->tokens[symbol];

		if (out != NULL && token->size <= LLM_BPE_SLACK) /* a copy of constant size is cheaper */
			memcpy(out + length, bpe->bytes.data + token->bytes, LLM_BPE_SLACK);
		else if (out != NULL)
			memcpy(out + length, bpe->bytes.data + token->bytes, token->size);
		length += token->size;
	}
	return length;
}
