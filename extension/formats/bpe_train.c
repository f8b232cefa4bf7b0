/*
 * The training loop: take the most frequent pair (bpe_pairs.c), create its token, and replace it in the words
 * that contain it.
 */
#include "formats/bpe_learner.h"

#include "formats/unicode.h"

/* Symbols visited between two polls: well below a millisecond. */
#define STRIDE 65536

void *
llm_bpe_append(BpeLearner *l, BpeArray *array, size_t entry)
{
	if (!llm_bpe_reserve(l->allocator, array, array->size + entry))
		return NULL;
	array->size += entry;
	return array->data + array->size - entry;
}

LlmCode
llm_bpe_poll(BpeLearner *l, size_t steps)
{
	if ((l->steps += steps) < STRIDE)
		return LLM_OK;
	l->steps = 0;
	if (l->stop == NULL || !l->stop->requested(l->stop->context))
		return LLM_OK;
	return llm_fail(l->err, LLM_CANCELED, "canceled after %zu merges",
		l->merges.size / sizeof(struct LlmBpeLearnedMerge));
}

/* ---- tokens ---- */

static struct LlmBpeLearnedToken *
token_at(const BpeLearner *l, uint32_t token)
{
	return (struct LlmBpeLearnedToken *) l->tokens.data + token;
}

/* Creates a token from the last `size` bytes of l->bytes. */
static LlmCode
make_token(BpeLearner *l, size_t size)
{
	struct LlmBpeLearnedToken *made = llm_bpe_append(l, &l->tokens, sizeof(*made));

	if (made == NULL)
		return llm_bpe_train_no_memory(l->err);
	*made = (struct LlmBpeLearnedToken){l->bytes.size - size, size};
	return LLM_OK;
}

/* Creates tokens 0 to 255, in the order of their text forms' characters, as in GPT-2. */
static LlmCode
make_bytes(BpeLearner *l, uint32_t token_of[256])
{
	for (uint32_t wanted = 0, token = 0; token < 256; wanted++)
		for (int b = 0; b < 256; b++)
		{
			unsigned char byte = (unsigned char) b, form[4];
			size_t length = llm_bpe_to_text(&byte, 1, (char *) form);
			char *room;
			LlmCode code;

			if (llm_utf8_read(form, length).code_point != wanted)
				continue;
			if ((room = llm_bpe_append(l, &l->bytes, 1)) == NULL)
				return llm_bpe_train_no_memory(l->err);
			*room = (char) b;
			if ((code = make_token(l, 1)) != LLM_OK)
				return code;
			token_of[b] = token++;
		}
	return LLM_OK;
}

/* ---- the loop ---- */

static LlmCode
split_words(BpeLearner *l, const LlmBpePieces *pieces, const uint32_t token_of[256])
{
	const BpePiece *all = (const BpePiece *) pieces->pieces.data;
	size_t count = llm_bpe_pieces_count(pieces);
	LlmCode code = LLM_OK;

	if (!llm_bpe_reserve(l->allocator, &l->words, count * sizeof(BpeWordTokens)) ||
		!llm_bpe_reserve(l->allocator, &l->symbols, pieces->bytes.size * sizeof(uint32_t)))
		return llm_bpe_train_no_memory(l->err);
	for (size_t i = 0; code == LLM_OK && i < count; i++)
	{
		const unsigned char *bytes = (const unsigned char *) pieces->bytes.data + all[i].at;
		uint32_t *symbols = (uint32_t *) l->symbols.data + all[i].at;

		((BpeWordTokens *) l->words.data)[i] = (BpeWordTokens){all[i].count, all[i].at, all[i].size};
		for (size_t n = 0; code == LLM_OK && n < all[i].size; n++)
		{
			symbols[n] = token_of[bytes[n]];
			if (n > 0)
				code = llm_bpe_add_count(l, symbols[n - 1], symbols[n], (uint32_t) i, all[i].count, 0);
			if (code == LLM_OK)
				code = llm_bpe_poll(l, 1);
		}
	}
	return code == LLM_OK ? llm_bpe_push_grown(l) : code;
}

/* Replaces the pair in one word, from left to right, and counts its new adjacent pairs; round starts at 1. */
static LlmCode
merge_word(BpeLearner *l, uint32_t index, struct LlmBpeLearnedMerge m, uint32_t round)
{
	BpeWordTokens *word = (BpeWordTokens *) l->words.data + index;
	uint32_t *symbols = (uint32_t *) l->symbols.data + word->at, kept = 0;
	uint32_t result = 255 + round;
	LlmCode code = llm_bpe_poll(l, word->size);

	for (uint32_t i = 0; code == LLM_OK && i < word->size; kept++)
	{
		if (symbols[i] != m.left || i + 1 >= word->size || symbols[i + 1] != m.right)
		{
			symbols[kept] = symbols[i++];
			if (kept % STRIDE == STRIDE - 1) /* a word may have a hundred million letters */
				code = llm_bpe_poll(l, STRIDE);
			continue;
		}
		llm_bpe_take_count(l, m.left, m.right, word->count);
		if (kept > 0)
		{
			llm_bpe_take_count(l, symbols[kept - 1], m.left, word->count);
			code = llm_bpe_add_count(l, symbols[kept - 1], result, index, word->count, round);
		}
		if (code == LLM_OK && i + 2 < word->size)
		{
			llm_bpe_take_count(l, m.right, symbols[i + 2], word->count);
			code = llm_bpe_add_count(l, result, symbols[i + 2], index, word->count, round);
		}
		symbols[kept] = result;
		i += 2;
	}
	word->size = kept;
	return code;
}

static LlmCode
merge_pair(BpeLearner *l, uint64_t key)
{
	struct LlmBpeLearnedMerge merge = {(uint32_t) (key >> 32), (uint32_t) key}, *kept;
	const struct LlmBpeLearnedToken left = *token_at(l, merge.left), right = *token_at(l, merge.right);
	uint32_t round = (uint32_t) (l->merges.size / sizeof(merge)) + 1;
	size_t at = l->bytes.size;
	LlmCode code;

	if (!llm_bpe_reserve(l->allocator, &l->bytes, at + left.size + right.size))
		return llm_bpe_train_no_memory(l->err);
	memcpy(l->bytes.data + at, l->bytes.data + left.at, left.size);
	memcpy(l->bytes.data + at + left.size, l->bytes.data + right.at, right.size);
	l->bytes.size += left.size + right.size;
	if ((code = make_token(l, left.size + right.size)) != LLM_OK)
		return code;
	if ((kept = llm_bpe_append(l, &l->merges, sizeof(merge))) == NULL)
		return llm_bpe_train_no_memory(l->err);
	*kept = merge;
	l->learned->merge_count = round;
	/* Places may be added in the meantime, but to other pairs: the result is longer than either half. */
	for (uint32_t place = llm_bpe_find_pair(l, key)->places; code == LLM_OK && place != LLM_BPE_NONE;
		 place = ((BpePlace *) l->places.data)[place].next)
		code = merge_word(l, ((BpePlace *) l->places.data)[place].word, merge, round);
	return code == LLM_OK ? llm_bpe_push_grown(l) : code;
}

static LlmCode
learn(BpeLearner *l, const LlmBpePieces *pieces, size_t vocab_size)
{
	uint32_t token_of[256];
	uint64_t key;
	bool found = true;
	LlmCode code;

	if (!llm_bpe_grow_pairs(l))
		return llm_bpe_train_no_memory(l->err);
	if ((code = make_bytes(l, token_of)) == LLM_OK)
		code = split_words(l, pieces, token_of);
	while (code == LLM_OK && l->tokens.size / sizeof(struct LlmBpeLearnedToken) < vocab_size)
	{
		if ((code = llm_bpe_best_pair(l, &key, &found)) != LLM_OK || !found)
			break;
		code = merge_pair(l, key);
	}
	return code;
}

LlmCode
llm_bpe_learn(
	const LlmBpePieces *pieces, size_t vocab_size, LlmBpeLearned *learned, const LlmStop *stop, LlmError *err)
{
	BpeLearner l = {pieces->allocator, stop, err, .pair_bits = 11, .learned = learned};
	BpeArray *scratch[] = {&l.symbols, &l.words, &l.places, &l.heap, &l.grown, &l.pairs};
	BpeArray *results[] = {&l.tokens, &l.merges, &l.bytes};
	LlmCode code;

	learned->merge_count = 0;
	code = learn(&l, pieces, vocab_size);
	for (size_t i = 0; i < sizeof(scratch) / sizeof(scratch[0]); i++)
		llm_bpe_release(l.allocator, scratch[i]);
	*learned = (LlmBpeLearned){.token_count = l.tokens.size / sizeof(struct LlmBpeLearnedToken),
		.merge_count = l.merges.size / sizeof(struct LlmBpeLearnedMerge),
		.tokens = (struct LlmBpeLearnedToken *) l.tokens.data,
		.merges = (struct LlmBpeLearnedMerge *) l.merges.data,
		.bytes = (const unsigned char *) l.bytes.data,
		.allocator = l.allocator};
	for (int i = 0; i < 3; i++)
	{
		learned->memory[i] = results[i]->data;
		learned->memory_size[i] = results[i]->capacity;
	}
	if (code != LLM_OK)
		llm_bpe_learned_free(learned);
	return code;
}

void
llm_bpe_learned_free(LlmBpeLearned *learned)
{
	for (int i = 0; i < 3; i++)
		if (learned->memory[i] != NULL)
			learned->allocator->release(
				learned->allocator->context, learned->memory[i], learned->memory_size[i]);
	*learned = (LlmBpeLearned){0};
}
