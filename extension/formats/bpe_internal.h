/* Internal to the bpe_*.c files; see bpe.h. */
#ifndef LLM_FORMATS_BPE_INTERNAL_H
#define LLM_FORMATS_BPE_INTERNAL_H

#include <string.h>

#include "formats/bpe.h"

#define LLM_BPE_NONE UINT32_MAX
#define LLM_BPE_NO_PAIR UINT64_MAX

/* A token as stored, with the offsets of its text form and bytes. */
typedef struct BpeToken
{
	int32_t id;
	uint32_t text, text_size;
	uint32_t bytes, size;
	bool merged;          /* produced by a merge */
	bool marked, special; /* found in texts as it is; if special, only on request */
} BpeToken;

/* An entry of the hash table of merges. */
typedef struct BpePair
{
	uint64_t key;   /* left symbol << 32 | right symbol; LLM_BPE_NO_PAIR if the entry is free */
	uint64_t value; /* rank << 32 | resulting symbol: the smallest value is the merge to do first */
} BpePair;

/* A single-character token, for vocabularies that lack some bytes. */
typedef struct BpeChar
{
	uint32_t code_point; /* LLM_BPE_NONE: free */
	uint32_t symbol;
} BpeChar;

/*
 * The word cache: pieces of up to 16 bytes, with the up to 3 tokens that they encode to. Each piece maps to
 * one cache line of two entries, the more recent one first; a new piece evicts the older one. So the cache
 * needs no maintenance, and text in any language fills it with its own words.
 */
#define BPE_WORD_BYTES 16
#define BPE_WORD_TOKENS 3
#define BPE_WORD_BITS 15
typedef struct BpeWord
{
	uint64_t key[2];
	int32_t ids[BPE_WORD_TOKENS];
	uint16_t size;
	uint16_t count; /* 0: free */
} BpeWord;

/* The bytes with which the texts that are looked for begin. */
typedef struct BpeStarts
{
	bool is[256];
	int count;
	unsigned char last; /* if it is the only one, memchr finds it */
} BpeStarts;

static inline void
llm_bpe_add_start(BpeStarts *starts, unsigned char byte)
{
	starts->count += !starts->is[byte];
	starts->is[byte] = true;
	starts->last = byte;
}

/* The next of them from byte at on; size if there is none. */
static inline size_t
llm_bpe_next_start(const BpeStarts *starts, const unsigned char *text, size_t size, size_t at)
{
	if (starts->count == 1)
	{
		const unsigned char *found = memchr(text + at, starts->last, size - at);

		return found != NULL ? (size_t) (found - text) : size;
	}
	while (at < size && !starts->is[text[at]])
		at++;
	return at;
}

/* A growing array. */
typedef struct BpeArray
{
	char *data;
	size_t size, capacity; /* bytes */
} BpeArray;

struct LlmBpe
{
	const LlmAllocator *allocator;
	char name[72];

	BpeToken *tokens; /* by symbol */
	size_t token_count;
	BpePair *pairs;
	unsigned pair_bits;
	size_t pair_count;
	uint32_t byte_symbol[256]; /* LLM_BPE_NONE: no such token */
	BpeChar *chars;            /* NULL: every byte is a token */
	unsigned char_bits;
	BpeWord *words;

	BpeArray token_array; /* owns tokens */
	BpeArray text, bytes;
	BpeArray marked; /* symbols of the tokens that are found in texts as they are */
	BpeStarts starts;
	bool always; /* some of them without a request */
	int pattern; /* index in bpe_scan.c */
	bool nfc;
	uint32_t *whole; /* hash of bytes to symbol, 1 << whole_bits of them; NULL unless LlmBpeRules.whole */
	unsigned whole_bits;
	BpeArray scratch;

	bool borrowed; /* everything but the word cache is in a block owned by the caller (bpe_image.c) */

	/* While building. */
	uint32_t *text_table; /* hash of text forms to symbol */
	unsigned text_bits;
};

/* Finds a pattern's index by its name (0 is GPT-2's), and its name; false if there is none. */
extern bool llm_bpe_find_pattern(const char *name, int *pattern);
extern const char *llm_bpe_pattern_name(int pattern);
/* The names of all patterns, for messages. */
#define LLM_BPE_PATTERNS "gpt2, gpt2_digit, gpt2_digits, cl100k, qwen2"

/* The token that is exactly these bytes, in a tokenizer with a table `whole`; LLM_BPE_NONE if there is none.
 */
extern uint32_t llm_bpe_whole_token(const LlmBpe *bpe, const unsigned char *bytes, size_t size);
/* Sets what follows from the marked tokens. */
extern void llm_bpe_index_marked(LlmBpe *bpe);

/* Allocates an empty word cache; false if there is no memory. */
extern bool llm_bpe_new_words(LlmBpe *bpe, LlmError *err);

/* Grows an array to a capacity of at least size bytes, keeping its contents. False if there is no memory. */
extern bool llm_bpe_reserve(const LlmAllocator *allocator, BpeArray *array, size_t size);
extern void llm_bpe_release(const LlmAllocator *allocator, BpeArray *array);

/* A hash table of 1 << bits entries with every byte set to fill. NULL if there is no memory. */
extern void *llm_bpe_new_table(LlmBpe *bpe, unsigned bits, size_t entry, int fill);
extern void llm_bpe_release_table(LlmBpe *bpe, void *table, unsigned bits, size_t entry);
/* The bits for which a table of count entries is at most half full. */
extern unsigned llm_bpe_table_bits(size_t count);

/* The initial symbols of bytes from..to of text; all of text is passed to give the position of an error. */
extern LlmCode llm_bpe_start(const LlmBpe *bpe, const unsigned char *text, size_t size, size_t from,
	size_t to, uint32_t *symbols, size_t *count, LlmError *err);

/* Applies all merges; the remaining symbols overwrite the input. */
extern LlmCode llm_bpe_merge_all(
	LlmBpe *bpe, uint32_t *symbols, size_t *count, const LlmStop *stop, LlmError *err);

/* The hash of a pair: the high bits of the product depend on both symbols. */
static inline size_t
llm_bpe_pair_place(uint64_t key, unsigned bits)
{
	return (size_t) (key * UINT64_C(0x9e3779b97f4a7c15) >> (64 - bits));
}

/* rank << 32 | result, or LLM_BPE_NO_PAIR. */
static inline uint64_t
llm_bpe_pair(const LlmBpe *bpe, uint32_t left, uint32_t right)
{
	uint64_t key = (uint64_t) left << 32 | right;
	size_t mask = ((size_t) 1 << bpe->pair_bits) - 1;

	for (size_t at = llm_bpe_pair_place(key, bpe->pair_bits);; at = (at + 1) & mask)
	{
		if (bpe->pairs[at].key == key)
			return bpe->pairs[at].value;
		if (bpe->pairs[at].key == LLM_BPE_NO_PAIR)
			return LLM_BPE_NO_PAIR;
	}
}

/* A text form, shortened for messages. */
typedef struct BpeQuote
{
	char text[72];
} BpeQuote;
extern BpeQuote llm_bpe_quote(const char *text, size_t size);

/* A hash of a short text, eight bytes at a time; its high bits are the well mixed ones. */
static inline uint64_t
llm_bpe_hash(const char *text, size_t size)
{
	uint64_t hash = size, word;

	for (; size >= 8; text += 8, size -= 8)
	{
		memcpy(&word, text, 8);
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 32;
	}
	word = 0;
	memcpy(&word, text, size);
	return (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
}

#endif
