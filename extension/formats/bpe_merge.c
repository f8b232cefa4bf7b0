/*
 * Merging a piece: among all adjacent pairs, the one whose merge has the lowest rank (the leftmost if several
 * have it) is replaced by one symbol, until no pair has a merge.
 *
 * llm_bpe_merge_once is the plain definition. llm_bpe_merge_all gives the same result: for a short piece with
 * an array that is scanned for the smallest rank, for a long one (a megabyte of letters is one piece) with a
 * linked list and a heap in O(n log n).
 */
#include "formats/bpe_internal.h"

#include <string.h>

#include "formats/unicode.h"

/* For longer pieces the heap is faster. */
#define SHORT_PIECE 48
/* Heap operations between two polls: well below a millisecond. */
#define STRIDE 4096

bool
llm_bpe_merge_once(const LlmBpe *bpe, uint32_t *symbols, size_t *count, LlmBpeMerge *merge)
{
	uint64_t best = LLM_BPE_NO_PAIR;
	size_t at = 0;

	for (size_t i = 0; i + 1 < *count; i++)
	{
		uint64_t pair = llm_bpe_pair(bpe, symbols[i], symbols[i + 1]);

		if (pair < best)
		{
			best = pair;
			at = i;
		}
	}
	if (best == LLM_BPE_NO_PAIR)
		return false;
	*merge = (LlmBpeMerge){(int32_t) (best >> 32), symbols[at], symbols[at + 1], (uint32_t) best, at};
	symbols[at] = merge->result;
	memmove(symbols + at + 1, symbols + at + 2, (*count - at - 2) * sizeof(uint32_t));
	--*count;
	return true;
}

/* pairs[i] is the merge of symbols i and i + 1; after a merge only its two neighbours are looked up again. */
static size_t
merge_short(const LlmBpe *bpe, uint32_t *symbols, size_t count)
{
	uint64_t pairs[SHORT_PIECE];

	for (size_t i = 0; i + 1 < count; i++)
		pairs[i] = llm_bpe_pair(bpe, symbols[i], symbols[i + 1]);
	for (; count > 1; count--)
	{
		uint64_t best = pairs[0];
		size_t at = 0;

		for (size_t i = 1; i + 1 < count; i++)
			if (pairs[i] < best)
			{
				best = pairs[i];
				at = i;
			}
		if (best == LLM_BPE_NO_PAIR)
			break;
		symbols[at] = (uint32_t) best;
		for (size_t i = at + 1; i + 1 < count; i++)
		{
			symbols[i] = symbols[i + 1];
			pairs[i - 1] = pairs[i];
		}
		if (at > 0)
			pairs[at - 1] = llm_bpe_pair(bpe, symbols[at - 1], symbols[at]);
		if (at + 2 < count)
			pairs[at] = llm_bpe_pair(bpe, symbols[at], symbols[at + 1]);
	}
	return count;
}

/*
 * A long piece. A place is the index of a symbol in the original piece; a merge removes its right symbol from
 * the list. The heap contains rank << 32 | place; an entry is stale, and skipped, if its place no longer has
 * a pair of that rank.
 */
typedef struct LongPiece
{
	uint32_t *symbols;
	uint64_t *pairs; /* rank << 32 | result of the symbol at this place and the next, or NO_PAIR */
	uint64_t *heap;
	uint32_t *next, *previous;
	size_t heap_size;
} LongPiece;

static void
sift_down(uint64_t *heap, size_t size, size_t at)
{
	uint64_t moving = heap[at];

	for (size_t child; (child = 2 * at + 1) < size; at = child)
	{
		if (child + 1 < size && heap[child + 1] < heap[child])
			child++;
		if (moving <= heap[child])
			break;
		heap[at] = heap[child];
	}
	heap[at] = moving;
}

static void
heap_push(LongPiece *piece, uint64_t entry)
{
	size_t at = piece->heap_size++;

	for (size_t parent; at > 0 && entry < piece->heap[parent = (at - 1) / 2]; at = parent)
		piece->heap[at] = piece->heap[parent];
	piece->heap[at] = entry;
}

static uint64_t
heap_pop(LongPiece *piece)
{
	uint64_t top = piece->heap[0];

	piece->heap[0] = piece->heap[--piece->heap_size];
	if (piece->heap_size > 1)
		sift_down(piece->heap, piece->heap_size, 0);
	return top;
}

static void
look_up(const LlmBpe *bpe, LongPiece *piece, uint32_t place, size_t end)
{
	uint32_t next = piece->next[place];
	uint64_t pair =
		next < end ? llm_bpe_pair(bpe, piece->symbols[place], piece->symbols[next]) : LLM_BPE_NO_PAIR;

	piece->pairs[place] = pair;
	if (pair != LLM_BPE_NO_PAIR)
		heap_push(piece, (pair & ~(uint64_t) UINT32_MAX) | place);
}

static bool
stopped(const LlmStop *stop, size_t step)
{
	return step % STRIDE == 0 && stop != NULL && stop->requested(stop->context);
}

/* Returns false if the stop function requested a stop. */
static bool
merge_list(const LlmBpe *bpe, LongPiece *piece, size_t count, const LlmStop *stop)
{
	for (size_t i = 0; i < count; i++)
	{
		if (stopped(stop, i))
			return false;
		piece->next[i] = (uint32_t) i + 1;
		piece->previous[i] = (uint32_t) i - 1;
		look_up(bpe, piece, (uint32_t) i, count);
	}
	for (size_t step = 0; piece->heap_size > 0; step++)
	{
		uint64_t entry = heap_pop(piece), pair;
		uint32_t place = (uint32_t) entry, taken;

		if (stopped(stop, step))
			return false;
		pair = piece->pairs[place];
		if (pair == LLM_BPE_NO_PAIR || pair >> 32 != entry >> 32)
			continue;
		taken = piece->next[place];
		piece->symbols[place] = (uint32_t) pair;
		piece->next[place] = piece->next[taken];
		piece->pairs[taken] = LLM_BPE_NO_PAIR;
		if (piece->next[place] < count)
			piece->previous[piece->next[place]] = place;
		look_up(bpe, piece, place, count);
		if (place > 0)
			look_up(bpe, piece, piece->previous[place], count);
	}
	return true;
}

static LlmCode
merge_long(LlmBpe *bpe, uint32_t *symbols, size_t *count, const LlmStop *stop, LlmError *err)
{
	/* A merge pops one entry and pushes at most two: the heap never exceeds twice the number of symbols. */
	size_t n = *count, size = n * (3 * sizeof(uint64_t) + 2 * sizeof(uint32_t)), kept = 0;
	char *memory = bpe->allocator->alloc(bpe->allocator->context, size);
	LongPiece piece = {.symbols = symbols};
	bool done;

	if (memory == NULL)
	{
		llm_fail(err, LLM_NO_MEMORY, "merging one piece of %zu symbols needs %zu MB", n, size >> 20);
		return llm_hint(err, "Spaces, digits and punctuation end a piece: cut the text, or raise "
							 "pg_llm.memory_limit.");
	}
	piece.pairs = (uint64_t *) memory;
	piece.heap = piece.pairs + n;
	piece.next = (uint32_t *) (piece.heap + 2 * n);
	piece.previous = piece.next + n;
	done = merge_list(bpe, &piece, n, stop);
	for (size_t place = 0; done && place < n; place = piece.next[place])
		symbols[kept++] = symbols[place];
	bpe->allocator->release(bpe->allocator->context, memory, size);
	if (!done)
		return llm_fail(err, LLM_CANCELED, "canceled while merging a piece of %zu symbols", n);
	*count = kept;
	return LLM_OK;
}

LlmCode
llm_bpe_merge_all(LlmBpe *bpe, uint32_t *symbols, size_t *count, const LlmStop *stop, LlmError *err)
{
	if (bpe->pair_count == 0 || *count < 2)
		return LLM_OK;
	if (*count > SHORT_PIECE)
		return merge_long(bpe, symbols, count, stop, err);
	*count = merge_short(bpe, symbols, *count);
	return LLM_OK;
}

static uint32_t
character_symbol(const LlmBpe *bpe, uint32_t code_point)
{
	size_t mask = ((size_t) 1 << bpe->char_bits) - 1;

	for (size_t at = llm_bpe_pair_place(code_point, bpe->char_bits);; at = (at + 1) & mask)
		if (bpe->chars[at].code_point == code_point || bpe->chars[at].code_point == LLM_BPE_NONE)
			return bpe->chars[at].symbol;
}

static LlmCode
no_symbol(const LlmBpe *bpe, const unsigned char *text, size_t size, size_t at, LlmError *err)
{
	LlmChar c = llm_utf8_read(text + at, size - at);
	size_t position = llm_utf8_count(text, at) + 1;
	char bytes[4 * 3 + 1] = "";

	for (int i = 0; i < c.length; i++)
		for (int half = 0; half < 2; half++)
			bytes[3 * i + half] = "0123456789abcdef"[text[at + i] >> (half ? 0 : 4) & 15];
	for (int i = 1; i < c.length; i++)
		bytes[3 * i - 1] = ' ';
	if (c.valid && c.code_point >= 0x20 && c.code_point != 0x7f)
		llm_fail(err, LLM_INVALID, "\"%s\" (byte%s %s) at position %zu is no token of tokenizer \"%s\"",
			llm_bpe_quote((const char *) text + at, (size_t) c.length).text, c.length > 1 ? "s" : "", bytes,
			position, bpe->name);
	else
		llm_fail(err, LLM_INVALID, "byte %s at position %zu is no token of tokenizer \"%s\"", bytes, position,
			bpe->name);
	return llm_hint(err,
		"Its vocabulary of %zu tokens lacks this character; SELECT token FROM llm_bpe_vocab "
		"WHERE model = '%s' shows what text may hold.",
		bpe->token_count, bpe->name);
}

/*
 * A character is initially its bytes. If the vocabulary lacks one of them, it is initially the token of the
 * whole character, so that vocabularies of plain characters work too.
 */
static LlmCode
symbols_by_character(const LlmBpe *bpe, const unsigned char *text, size_t size, size_t from, size_t to,
	uint32_t *symbols, size_t *count, LlmError *err)
{
	size_t n = 0;

	for (size_t at = from; at < to;)
	{
		LlmChar c = llm_utf8_read(text + at, to - at);
		uint32_t whole;
		int known = 0;

		while (known < c.length && bpe->byte_symbol[text[at + known]] != LLM_BPE_NONE)
			known++;
		if (known == c.length)
			for (int i = 0; i < c.length; i++)
				symbols[n++] = bpe->byte_symbol[text[at + i]];
		else if (c.valid && (whole = character_symbol(bpe, c.code_point)) != LLM_BPE_NONE)
			symbols[n++] = whole;
		else
			return no_symbol(bpe, text, size, at, err);
		at += (size_t) c.length;
	}
	*count = n;
	return LLM_OK;
}

LlmCode
llm_bpe_start(const LlmBpe *bpe, const unsigned char *text, size_t size, size_t from, size_t to,
	uint32_t *symbols, size_t *count, LlmError *err)
{
	if (bpe->chars != NULL)
		return symbols_by_character(bpe, text, size, from, to, symbols, count, err);
	for (size_t i = from; i < to; i++)
		symbols[i - from] = bpe->byte_symbol[text[i]];
	*count = to - from;
	return LLM_OK;
}

LlmCode
llm_bpe_symbols(
	const LlmBpe *bpe, const char *piece, size_t size, uint32_t *symbols, size_t *count, LlmError *err)
{
	return llm_bpe_start(bpe, (const unsigned char *) piece, size, 0, size, symbols, count, err);
}
