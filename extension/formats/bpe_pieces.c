/*
 * Counts the distinct pieces of the training texts. A megabyte of text has some ten thousand, so training
 * works on little data, however long the texts are.
 */
#include "formats/bpe_pieces.h"

/* Bytes counted between two polls: well below a millisecond. */
#define STRIDE ((size_t) 1 << 16)

typedef struct BpeSpecial
{
	size_t at, size;
} BpeSpecial;

LlmCode
llm_bpe_train_no_memory(LlmError *err)
{
	llm_fail(err, LLM_NO_MEMORY, "no memory to count so many different words");
	return llm_hint(err, "Train on fewer texts, or raise pg_llm.memory_limit.");
}

static uint32_t *
new_table(const LlmAllocator *allocator, unsigned bits)
{
	uint32_t *table = allocator->alloc(allocator->context, sizeof(uint32_t) << bits);

	if (table != NULL)
		memset(table, 0xff, sizeof(uint32_t) << bits);
	return table;
}

LlmBpePieces *
llm_bpe_pieces_new(const LlmAllocator *allocator, LlmError *err)
{
	LlmBpePieces *pieces = allocator->alloc(allocator->context, sizeof(LlmBpePieces));

	if (pieces != NULL)
	{
		*pieces = (LlmBpePieces){.allocator = allocator, .bits = 12};
		if ((pieces->table = new_table(allocator, pieces->bits)) != NULL)
			return pieces;
		llm_bpe_pieces_free(pieces);
	}
	llm_bpe_train_no_memory(err);
	return NULL;
}

void
llm_bpe_pieces_free(LlmBpePieces *pieces)
{
	const LlmAllocator *allocator = pieces->allocator;

	llm_bpe_release(allocator, &pieces->bytes);
	llm_bpe_release(allocator, &pieces->pieces);
	llm_bpe_release(allocator, &pieces->specials);
	llm_bpe_release(allocator, &pieces->special_bytes);
	if (pieces->table != NULL)
		allocator->release(allocator->context, pieces->table, sizeof(uint32_t) << pieces->bits);
	allocator->release(allocator->context, pieces, sizeof(LlmBpePieces));
}

size_t
llm_bpe_pieces_count(const LlmBpePieces *pieces)
{
	return pieces->pieces.size / sizeof(BpePiece);
}

LlmCode
llm_bpe_pieces_special(LlmBpePieces *pieces, const char *text, size_t size, LlmError *err)
{
	BpeSpecial special = {pieces->special_bytes.size, size};

	if (!llm_bpe_reserve(pieces->allocator, &pieces->special_bytes, special.at + size) ||
		!llm_bpe_reserve(pieces->allocator, &pieces->specials, pieces->specials.size + sizeof(special)))
		return llm_bpe_train_no_memory(err);
	memcpy(pieces->special_bytes.data + special.at, text, size);
	memcpy(pieces->specials.data + pieces->specials.size, &special, sizeof(special));
	pieces->special_bytes.size += size;
	llm_bpe_add_start(&pieces->starts, (unsigned char) text[0]);
	pieces->specials.size += sizeof(special);
	return LLM_OK;
}

/* Finds the start and length of the next special token from byte at on; size and 0 if there is none. */
static LlmCode
find_special(const LlmBpePieces *pieces, const char *text, size_t size, size_t at, size_t *start,
	size_t *length, const LlmStop *stop, LlmError *err)
{
	const BpeSpecial *specials = (const BpeSpecial *) pieces->specials.data;
	size_t count = pieces->specials.size / sizeof(BpeSpecial), compared = 0;

	*length = 0;
	for (; count > 0; at++)
	{
		if ((at = llm_bpe_next_start(&pieces->starts, (const unsigned char *) text, size, at)) == size)
			break;
		for (size_t i = 0; i < count; i++)
			if (specials[i].size > *length && specials[i].size <= size - at &&
				memcmp(text + at, pieces->special_bytes.data + specials[i].at, specials[i].size) == 0)
				*length = specials[i].size;
		*start = at;
		if (*length > 0)
			return LLM_OK;
		if ((compared += count) < STRIDE)
			continue;
		compared = 0;
		if (stop != NULL && stop->requested(stop->context))
			return llm_fail(err, LLM_CANCELED, "canceled at byte %zu of %zu", at, size);
	}
	*start = size;
	return LLM_OK;
}

static bool
grow_table(LlmBpePieces *pieces)
{
	const BpePiece *all = (const BpePiece *) pieces->pieces.data;
	unsigned bits = pieces->bits + 1;
	size_t mask = ((size_t) 1 << bits) - 1, count = llm_bpe_pieces_count(pieces);
	uint32_t *table = new_table(pieces->allocator, bits);

	if (table == NULL)
		return false;
	for (size_t i = 0; i < count; i++)
	{
		size_t at = all[i].hash >> (64 - bits);

		while (table[at] != LLM_BPE_NONE)
			at = (at + 1) & mask;
		table[at] = (uint32_t) i;
	}
	pieces->allocator->release(pieces->allocator->context, pieces->table, sizeof(uint32_t) << pieces->bits);
	pieces->table = table;
	pieces->bits = bits;
	return true;
}

/* Adds a piece seen for the first time. */
static LlmCode
add_piece(LlmBpePieces *pieces, const char *text, size_t size, uint64_t hash, uint32_t *place, LlmError *err)
{
	size_t count = llm_bpe_pieces_count(pieces);
	BpePiece piece = {1, hash, (uint32_t) pieces->bytes.size, (uint32_t) size};

	if (size > UINT32_MAX - pieces->bytes.size || count >= LLM_BPE_NONE)
		return llm_fail(err, LLM_LIMIT, "the different words of the texts take more than 4 GB");
	if (!llm_bpe_reserve(pieces->allocator, &pieces->bytes, pieces->bytes.size + size) ||
		!llm_bpe_reserve(pieces->allocator, &pieces->pieces, pieces->pieces.size + sizeof(piece)))
		return llm_bpe_train_no_memory(err);
	memcpy(pieces->bytes.data + pieces->bytes.size, text, size);
	memcpy(pieces->pieces.data + pieces->pieces.size, &piece, sizeof(piece));
	pieces->bytes.size += size;
	pieces->pieces.size += sizeof(piece);
	*place = (uint32_t) count;
	if (2 * (count + 1) > (size_t) 1 << pieces->bits && !grow_table(pieces))
		return llm_bpe_train_no_memory(err);
	return LLM_OK;
}

static LlmCode
count_piece(LlmBpePieces *pieces, const char *text, size_t size, LlmError *err)
{
	BpePiece *all = (BpePiece *) pieces->pieces.data;
	uint64_t hash = llm_bpe_hash(text, size);
	size_t mask = ((size_t) 1 << pieces->bits) - 1, at = hash >> (64 - pieces->bits);

	for (; pieces->table[at] != LLM_BPE_NONE; at = (at + 1) & mask)
	{
		BpePiece *piece = &all[pieces->table[at]];

		if (piece->hash == hash && piece->size == size &&
			memcmp(pieces->bytes.data + piece->at, text, size) == 0)
		{
			piece->count++;
			return LLM_OK;
		}
	}
	return add_piece(pieces, text, size, hash, &pieces->table[at], err);
}

LlmCode
llm_bpe_pieces_add(LlmBpePieces *pieces, const char *text, size_t size, const LlmStop *stop, LlmError *err)
{
	size_t poll = STRIDE, end, special, length;
	LlmCode code;

	for (size_t at = 0; at < size; at = special + length)
	{
		if ((code = find_special(pieces, text, size, at, &special, &length, stop, err)) != LLM_OK)
			return code;
		for (; at < special; at = end)
		{
			end = llm_bpe_piece_end(text, special, at, stop);
			if (end == SIZE_MAX || (at >= poll && stop != NULL && stop->requested(stop->context)))
				return llm_fail(err, LLM_CANCELED, "canceled at byte %zu of %zu", at, size);
			if (at >= poll)
				poll = at + STRIDE;
			if ((code = count_piece(pieces, text + at, end - at, err)) != LLM_OK)
				return code;
		}
	}
	return LLM_OK;
}
