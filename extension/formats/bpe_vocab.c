/*
 * Building a tokenizer: tokens ordered by id, the hash table of merges, and the initial symbols of single
 * bytes and characters.
 */
#include "formats/bpe_internal.h"

#include <stdlib.h>
#include <string.h>

#include "formats/unicode.h"

static LlmCode
no_memory(const LlmBpe *bpe, LlmError *err)
{
	llm_fail(err, LLM_NO_MEMORY, "no memory for tokenizer \"%s\" of %zu tokens", bpe->name, bpe->token_count);
	return llm_hint(err, "Raise pg_llm.memory_limit.");
}

bool
llm_bpe_new_words(LlmBpe *bpe, LlmError *err)
{
	bpe->words = llm_bpe_new_table(bpe, BPE_WORD_BITS + 1, sizeof(BpeWord), 0);
	if (bpe->words == NULL)
		no_memory(bpe, err);
	return bpe->words != NULL;
}

LlmBpe *
llm_bpe_new(const LlmAllocator *allocator, const char *name, LlmError *err)
{
	LlmBpe *bpe = allocator->alloc(allocator->context, sizeof(LlmBpe));

	if (bpe == NULL)
	{
		llm_fail(err, LLM_NO_MEMORY, "no memory for a tokenizer");
		return NULL;
	}
	memset(bpe, 0, sizeof(*bpe));
	bpe->allocator = allocator;
	memcpy(bpe->name, llm_bpe_quote(name, strlen(name)).text, sizeof(bpe->name));
	return bpe;
}

void
llm_bpe_free(LlmBpe *bpe)
{
	if (bpe == NULL)
		return;
	if (!bpe->borrowed)
	{
		llm_bpe_release(bpe->allocator, &bpe->token_array);
		llm_bpe_release(bpe->allocator, &bpe->text);
		llm_bpe_release(bpe->allocator, &bpe->bytes);
		llm_bpe_release(bpe->allocator, &bpe->marked);
		llm_bpe_release(bpe->allocator, &bpe->scratch);
		llm_bpe_release_table(bpe, bpe->pairs, bpe->pair_bits, sizeof(BpePair));
		llm_bpe_release_table(bpe, bpe->chars, bpe->char_bits, sizeof(BpeChar));
		llm_bpe_release_table(bpe, bpe->text_table, bpe->text_bits, sizeof(uint32_t));
		llm_bpe_release_table(bpe, bpe->whole, bpe->whole_bits, sizeof(uint32_t));
	}
	llm_bpe_release_table(bpe, bpe->words, BPE_WORD_BITS + 1, sizeof(BpeWord));
	bpe->allocator->release(bpe->allocator->context, bpe, sizeof(LlmBpe));
}

LlmCode
llm_bpe_add_token(LlmBpe *bpe, int32_t id, const char *text, size_t text_size, const char *bytes, size_t size,
	LlmError *err)
{
	BpeToken *token;

	if (id < 0)
		return llm_fail(err, LLM_RANGE, "token \"%s\" has id %d; ids start at 0",
			llm_bpe_quote(text, text_size).text, (int) id);
	if (text_size > UINT32_MAX - bpe->text.size || size > UINT32_MAX - bpe->bytes.size)
		return llm_fail(err, LLM_LIMIT, "the tokens of \"%s\" take more than 4 GB", bpe->name);
	if (!llm_bpe_reserve(bpe->allocator, &bpe->text, bpe->text.size + text_size) ||
		!llm_bpe_reserve(bpe->allocator, &bpe->bytes, bpe->bytes.size + size) ||
		!llm_bpe_reserve(bpe->allocator, &bpe->token_array, bpe->token_array.size + sizeof(BpeToken)))
		return no_memory(bpe, err);
	bpe->tokens = (BpeToken *) bpe->token_array.data;
	token = &bpe->tokens[bpe->token_count++];
	*token = (BpeToken){id, (uint32_t) bpe->text.size, (uint32_t) text_size, (uint32_t) bpe->bytes.size,
		(uint32_t) size, false, false, false};
	if (text_size > 0)
		memcpy(bpe->text.data + bpe->text.size, text, text_size);
	if (size > 0)
		memcpy(bpe->bytes.data + bpe->bytes.size, bytes, size);
	bpe->text.size += text_size;
	bpe->bytes.size += size;
	bpe->token_array.size += sizeof(BpeToken);
	return LLM_OK;
}

void
llm_bpe_mark(LlmBpe *bpe, bool special)
{
	BpeToken *token = &bpe->tokens[bpe->token_count - 1];

	token->marked = token->size > 0;
	token->special = special;
}

LlmCode
llm_bpe_set_rules(LlmBpe *bpe, const LlmBpeRules *rules, LlmError *err)
{
	bpe->nfc = rules->nfc;
	bpe->whole_bits = rules->whole ? 1 : 0; /* llm_bpe_finish makes the table */
	if (llm_bpe_find_pattern(rules->pattern, &bpe->pattern))
		return LLM_OK;
	llm_fail(err, LLM_INVALID, "tokenizer \"%s\" has the pattern \"%s\"", bpe->name,
		llm_bpe_quote(rules->pattern, strlen(rules->pattern)).text);
	return llm_hint(err, "Patterns are " LLM_BPE_PATTERNS ".");
}

LlmBpeRules
llm_bpe_rules(const LlmBpe *bpe)
{
	return (LlmBpeRules){llm_bpe_pattern_name(bpe->pattern), bpe->whole != NULL, bpe->nfc};
}

static int
by_id(const void *a, const void *b)
{
	int32_t x = ((const BpeToken *) a)->id, y = ((const BpeToken *) b)->id;

	return x < y ? -1 : x > y;
}

/* The entry of a text form in text_table, or the free entry where it would be inserted. */
static uint32_t *
find_text(const LlmBpe *bpe, const char *text, size_t size)
{
	size_t mask = ((size_t) 1 << bpe->text_bits) - 1;

	for (size_t at = llm_bpe_hash(text, size) >> (64 - bpe->text_bits);; at = (at + 1) & mask)
	{
		uint32_t symbol = bpe->text_table[at];

		if (symbol == LLM_BPE_NONE || (bpe->tokens[symbol].text_size == size &&
										  memcmp(bpe->text.data + bpe->tokens[symbol].text, text, size) == 0))
			return &bpe->text_table[at];
	}
}

/* After the last token: numbers the tokens by id and builds the hash table of merges. */
static LlmCode
index_tokens(LlmBpe *bpe, LlmError *err)
{
	bool sorted = true;

	for (size_t i = 1; i < bpe->token_count && sorted; i++)
		sorted = bpe->tokens[i - 1].id < bpe->tokens[i].id;
	if (!sorted)
		qsort(bpe->tokens, bpe->token_count, sizeof(BpeToken), by_id);
	if (!llm_bpe_reserve(bpe->allocator, &bpe->text, 1) ||
		!llm_bpe_reserve(bpe->allocator, &bpe->bytes, bpe->bytes.size + LLM_BPE_SLACK))
		return no_memory(bpe, err);
	bpe->text_bits = llm_bpe_table_bits(bpe->token_count);
	if ((bpe->text_table = llm_bpe_new_table(bpe, bpe->text_bits, sizeof(uint32_t), 0xff)) == NULL)
		return no_memory(bpe, err);
	for (size_t i = 0; i < bpe->token_count; i++)
	{
		const BpeToken *token = &bpe->tokens[i];
		const char *text = bpe->text.data + token->text;
		uint32_t *place = find_text(bpe, text, token->text_size);

		if (i > 0 && bpe->tokens[i - 1].id == token->id)
			return llm_fail(err, LLM_INVALID, "tokens \"%s\" and \"%s\" have the same id %d",
				llm_bpe_quote(bpe->text.data + token[-1].text, token[-1].text_size).text,
				llm_bpe_quote(text, token->text_size).text, (int) token->id);
		if (*place != LLM_BPE_NONE)
			return llm_fail(err, LLM_INVALID, "token \"%s\" has two ids, %d and %d",
				llm_bpe_quote(text, token->text_size).text, (int) bpe->tokens[*place].id, (int) token->id);
		*place = (uint32_t) i;
	}
	return LLM_OK;
}

static BpePair *
find_pair(const LlmBpe *bpe, BpePair *pairs, unsigned bits, uint64_t key)
{
	size_t mask = ((size_t) 1 << bits) - 1, at = llm_bpe_pair_place(key, bits);

	while (pairs[at].key != LLM_BPE_NO_PAIR && pairs[at].key != key)
		at = (at + 1) & mask;
	return &pairs[at];
}

static bool
grow_pairs(LlmBpe *bpe)
{
	unsigned bits = bpe->pairs == NULL ? 4 : bpe->pair_bits + 1;
	BpePair *grown = llm_bpe_new_table(bpe, bits, sizeof(BpePair), 0xff);

	if (grown == NULL)
		return false;
	for (size_t i = 0; bpe->pairs != NULL && i < (size_t) 1 << bpe->pair_bits; i++)
		if (bpe->pairs[i].key != LLM_BPE_NO_PAIR)
			*find_pair(bpe, grown, bits, bpe->pairs[i].key) = bpe->pairs[i];
	llm_bpe_release_table(bpe, bpe->pairs, bpe->pair_bits, sizeof(BpePair));
	bpe->pairs = grown;
	bpe->pair_bits = bits;
	return true;
}

static LlmCode
no_such_token(const LlmBpe *bpe, int32_t rank, BpeQuote left, BpeQuote right, BpeQuote missing, LlmError *err)
{
	llm_fail(err, LLM_INVALID, "merge %d (\"%s\" + \"%s\") needs token \"%s\", which tokenizer \"%s\" lacks",
		(int) rank, left.text, right.text, missing.text, bpe->name);
	return llm_hint(err, "Both halves of a merge and their concatenation must be in the vocabulary: load the "
						 "vocabulary and the merges of the same tokenizer.");
}

LlmCode
llm_bpe_add_merge(LlmBpe *bpe, int32_t rank, const char *left, size_t left_size, const char *right,
	size_t right_size, LlmError *err)
{
	const char *parts[3] = {left, right};
	size_t sizes[3] = {left_size, right_size, left_size + right_size};
	const BpeToken *t[3];
	uint32_t symbol[3];
	LlmCode code;
	BpePair *pair;

	if (bpe->text_table == NULL && (code = index_tokens(bpe, err)) != LLM_OK)
		return code;
	if (rank < 0)
		return llm_fail(err, LLM_RANGE, "merge rank %d; ranks start at 0", (int) rank);
	if (!llm_bpe_reserve(bpe->allocator, &bpe->scratch, sizes[2] + 1) ||
		(2 * (bpe->pair_count + 1) > (bpe->pairs ? (size_t) 1 << bpe->pair_bits : 0) && !grow_pairs(bpe)))
		return no_memory(bpe, err);
	parts[2] = memcpy(bpe->scratch.data, left, left_size);
	memcpy(bpe->scratch.data + left_size, right, right_size);
	for (int i = 0; i < 3; i++)
	{
		if ((symbol[i] = *find_text(bpe, parts[i], sizes[i])) == LLM_BPE_NONE)
			return no_such_token(bpe, rank, llm_bpe_quote(left, left_size), llm_bpe_quote(right, right_size),
				llm_bpe_quote(parts[i], sizes[i]), err);
		t[i] = &bpe->tokens[symbol[i]];
	}
	if (t[2]->size != t[0]->size + t[1]->size ||
		memcmp(bpe->bytes.data + t[2]->bytes, bpe->bytes.data + t[0]->bytes, t[0]->size) != 0 ||
		memcmp(bpe->bytes.data + t[2]->bytes + t[0]->size, bpe->bytes.data + t[1]->bytes, t[1]->size) != 0)
	{
		llm_fail(err, LLM_INVALID,
			"merge %d makes token \"%s\", whose bytes are not those of \"%s\" and \"%s\"", (int) rank,
			llm_bpe_quote(parts[2], sizes[2]).text, llm_bpe_quote(left, left_size).text,
			llm_bpe_quote(right, right_size).text);
		return llm_hint(err, "Compare their rows' bytes in llm_bpe_vocab.");
	}
	pair = find_pair(bpe, bpe->pairs, bpe->pair_bits, (uint64_t) symbol[0] << 32 | symbol[1]);
	if (pair->key != LLM_BPE_NO_PAIR)
		return llm_fail(err, LLM_INVALID, "\"%s\" + \"%s\" is a merge twice, of rank %d and of rank %d",
			llm_bpe_quote(left, left_size).text, llm_bpe_quote(right, right_size).text,
			(int) (pair->value >> 32), (int) rank);
	*pair = (BpePair){(uint64_t) symbol[0] << 32 | symbol[1], (uint64_t) rank << 32 | symbol[2]};
	bpe->pair_count++;
	bpe->tokens[symbol[2]].merged = true;
	return LLM_OK;
}

/* Collects tokens of one character, for the characters whose bytes are not all tokens. */
static bool
index_characters(LlmBpe *bpe)
{
	bpe->char_bits = llm_bpe_table_bits(bpe->token_count);
	if ((bpe->chars = llm_bpe_new_table(bpe, bpe->char_bits, sizeof(BpeChar), 0xff)) == NULL)
		return false;
	for (size_t i = 0; i < bpe->token_count; i++)
	{
		const BpeToken *token = &bpe->tokens[i];
		LlmChar c = {0};
		size_t at;

		if (token->size > 0)
			c = llm_utf8_read((unsigned char *) bpe->bytes.data + token->bytes, token->size);
		if (!c.valid || (uint32_t) c.length != token->size)
			continue;
		at = llm_bpe_pair_place(c.code_point, bpe->char_bits);
		while (bpe->chars[at].code_point != LLM_BPE_NONE && bpe->chars[at].code_point != c.code_point)
			at = (at + 1) & (((size_t) 1 << bpe->char_bits) - 1);
		if (bpe->chars[at].code_point == LLM_BPE_NONE)
			bpe->chars[at] = (BpeChar){c.code_point, (uint32_t) i};
	}
	return true;
}

static bool
add_marked(LlmBpe *bpe, uint32_t symbol)
{
	if (!llm_bpe_reserve(bpe->allocator, &bpe->marked, bpe->marked.size + sizeof(symbol)))
		return false;
	memcpy(bpe->marked.data + bpe->marked.size, &symbol, sizeof(symbol));
	bpe->marked.size += sizeof(symbol);
	return true;
}

void
llm_bpe_index_marked(LlmBpe *bpe)
{
	const uint32_t *marked = (const uint32_t *) bpe->marked.data;

	for (size_t i = 0; i < bpe->marked.size / sizeof(uint32_t); i++)
	{
		const BpeToken *token = &bpe->tokens[marked[i]];

		llm_bpe_add_start(&bpe->starts, (unsigned char) bpe->bytes.data[token->bytes]);
		bpe->always |= !token->special;
	}
}

/* The entry of a token's bytes in the table `whole`, or the free entry where it would be inserted. */
static uint32_t *
find_whole(const LlmBpe *bpe, const char *bytes, size_t size)
{
	size_t mask = ((size_t) 1 << bpe->whole_bits) - 1;

	for (size_t at = llm_bpe_hash(bytes, size) >> (64 - bpe->whole_bits);; at = (at + 1) & mask)
	{
		uint32_t symbol = bpe->whole[at];

		if (symbol == LLM_BPE_NONE ||
			(bpe->tokens[symbol].size == size &&
				memcmp(bpe->bytes.data + bpe->tokens[symbol].bytes, bytes, size) == 0))
			return &bpe->whole[at];
	}
}

uint32_t
llm_bpe_whole_token(const LlmBpe *bpe, const unsigned char *bytes, size_t size)
{
	return *find_whole(bpe, (const char *) bytes, size);
}

/* Marked tokens are left out: they are found, or not to be found, before there are pieces. */
static bool
index_whole(LlmBpe *bpe)
{
	bpe->whole_bits = llm_bpe_table_bits(bpe->token_count);
	if ((bpe->whole = llm_bpe_new_table(bpe, bpe->whole_bits, sizeof(uint32_t), 0xff)) == NULL)
		return false;
	for (size_t i = 0; i < bpe->token_count; i++)
	{
		const BpeToken *token = &bpe->tokens[i];
		uint32_t *place = find_whole(bpe, bpe->bytes.data + token->bytes, token->size);

		if (!token->special && *place == LLM_BPE_NONE)
			*place = (uint32_t) i;
	}
	return true;
}

LlmCode
llm_bpe_finish(LlmBpe *bpe, LlmError *err)
{
	bool every_byte = true;
	LlmCode code;

	if (bpe->text_table == NULL && (code = index_tokens(bpe, err)) != LLM_OK)
		return code;
	llm_bpe_release_table(bpe, bpe->text_table, bpe->text_bits, sizeof(uint32_t));
	bpe->text_table = NULL;
	memset(bpe->byte_symbol, 0xff, sizeof(bpe->byte_symbol));
	for (size_t i = bpe->token_count; i-- > 0;) /* backwards, so that the lowest id among equals remains */
	{
		BpeToken *token = &bpe->tokens[i];
		const char *bytes = bpe->bytes.data + token->bytes;

		if (!token->marked && !token->merged && token->size > 4 && memcmp(bytes, "<|", 2) == 0 &&
			memcmp(bytes + token->size - 2, "|>", 2) == 0)
			token->marked = token->special = true;
		if (token->size == 1 &&
			(!token->marked || bpe->byte_symbol[(unsigned char) bytes[0]] == LLM_BPE_NONE))
			bpe->byte_symbol[(unsigned char) bytes[0]] = (uint32_t) i;
		if (token->marked && !add_marked(bpe, (uint32_t) i))
			return no_memory(bpe, err);
	}
	llm_bpe_index_marked(bpe);
	for (int i = 0; i < 256; i++)
		every_byte &= bpe->byte_symbol[i] != LLM_BPE_NONE;
	if ((!every_byte && !index_characters(bpe)) || (bpe->pairs == NULL && !grow_pairs(bpe)) ||
		(bpe->whole_bits > 0 && !index_whole(bpe)))
		return no_memory(bpe, err);
	return llm_bpe_new_words(bpe, err) ? LLM_OK : err->code;
}

const char *
llm_bpe_name(const LlmBpe *bpe)
{
	return bpe->name;
}

size_t
llm_bpe_count(const LlmBpe *bpe)
{
	return bpe->token_count;
}

LlmBpeToken
llm_bpe_token(const LlmBpe *bpe, uint32_t symbol)
{
	const BpeToken *t = &bpe->tokens[symbol];

	return (LlmBpeToken){t->id, bpe->text.data + t->text, t->text_size,
		(const unsigned char *) bpe->bytes.data + t->bytes, t->size, t->special};
}

bool
llm_bpe_find(const LlmBpe *bpe, int32_t id, uint32_t *symbol)
{
	size_t low = 0, high = bpe->token_count;

	if (id >= 0 && (size_t) id < high && bpe->tokens[id].id == id) /* no gaps below: the usual case */
	{
		*symbol = (uint32_t) id;
		return true;
	}
	while (low < high)
	{
		size_t middle = low + (high - low) / 2;

		if (bpe->tokens[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	*symbol = (uint32_t) low;
	return low < bpe->token_count && bpe->tokens[low].id == id;
}
