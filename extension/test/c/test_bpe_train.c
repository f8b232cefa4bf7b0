/*
 * Training a tokenizer: comparison with a plain reference that counts everything again for each merge;
 * special tokens; stops and lack of memory.
 */
#include "test.h"

#include "formats/bpe_train.h"

#define LONGEST 4000
#define MERGES 400

static TestMemory memory;
static LlmAllocator allocator;
static LlmError err;

/* ---- the plain reference: one text, every piece by itself, no counts kept ---- */

static uint32_t symbols[LONGEST];
static bool starts[LONGEST + 1]; /* a piece starts here */
static size_t symbol_count;
static struct
{
	char bytes[LLM_BPE_LONGEST];
	size_t size;
} tokens[256 + MERGES];

static uint32_t
byte_token(unsigned char byte)
{
	for (uint32_t i = 0; i < 256; i++)
		if ((unsigned char) tokens[i].bytes[0] == byte)
			return i;
	return 256;
}

/* Counts each pair in the text; returns the most frequent one, with the smallest ids among equals. */
static size_t
most_frequent(uint32_t *left, uint32_t *right)
{
	size_t best = 0;

	for (size_t i = 0; i + 1 < symbol_count; i++)
	{
		size_t count = 0;

		if (starts[i + 1] || tokens[symbols[i]].size + tokens[symbols[i + 1]].size > LLM_BPE_LONGEST)
			continue;
		for (size_t j = 0; j + 1 < symbol_count; j++)
			count += !starts[j + 1] && symbols[j] == symbols[i] && symbols[j + 1] == symbols[i + 1];
		if (count > best ||
			(count == best && (symbols[i] < *left || (symbols[i] == *left && symbols[i + 1] < *right))))
		{
			best = count;
			*left = symbols[i];
			*right = symbols[i + 1];
		}
	}
	return best;
}

static void
replace(uint32_t left, uint32_t right, uint32_t result)
{
	size_t kept = 0;

	for (size_t i = 0; i < symbol_count; kept++)
	{
		bool pair = i + 1 < symbol_count && !starts[i + 1] && symbols[i] == left && symbols[i + 1] == right;

		starts[kept] = starts[i];
		symbols[kept] = pair ? result : symbols[i];
		i += pair ? 2 : 1;
	}
	symbol_count = kept;
}

/* Checks the merges learned from a text with known pieces, one by one. */
static void
check_learned(const LlmBpeLearned *learned, const char *text, size_t size, size_t vocab_size)
{
	size_t made = 256, merges = 0;

	for (size_t i = 0; i < 256; i++)
	{
		CHECK(learned->tokens[i].size == 1);
		tokens[i].bytes[0] = (char) learned->bytes[learned->tokens[i].at];
		tokens[i].size = 1;
	}
	memset(starts, 0, sizeof(starts));
	for (size_t at = 0; at < size; at = llm_bpe_piece_end(text, size, at, NULL))
		starts[at] = true;
	symbol_count = size;
	for (size_t i = 0; i < size; i++)
		symbols[i] = byte_token((unsigned char) text[i]);
	for (; made < vocab_size; merges++)
	{
		uint32_t left = 0, right = 0, result;

		if (most_frequent(&left, &right) < 2)
			break;
		tokens[made].size = tokens[left].size + tokens[right].size;
		memcpy(tokens[made].bytes, tokens[left].bytes, tokens[left].size);
		memcpy(tokens[made].bytes + tokens[left].size, tokens[right].bytes, tokens[right].size);
		for (size_t i = 0; i < made; i++) /* not made before from other halves */
			CHECK(tokens[i].size != tokens[made].size ||
				  memcmp(tokens[i].bytes, tokens[made].bytes, tokens[made].size) != 0);
		result = (uint32_t) made++;
		replace(left, right, result);
		CHECK(merges < learned->merge_count);
		CHECK(learned->merges[merges].left == left && learned->merges[merges].right == right);
		CHECK(learned->tokens[result].size == tokens[result].size &&
			  memcmp(learned->bytes + learned->tokens[result].at, tokens[result].bytes,
				  tokens[result].size) == 0);
	}
	CHECK(merges == learned->merge_count && made == learned->token_count);
}

static LlmCode
learn(const char *text, size_t size, size_t vocab_size, const LlmStop *stop, LlmBpeLearned *learned)
{
	LlmBpePieces *pieces = llm_bpe_pieces_new(&allocator, &err);
	LlmCode code;

	if (pieces == NULL)
		return err.code;
	if ((code = llm_bpe_pieces_add(pieces, text, size, stop, &err)) == LLM_OK)
		code = llm_bpe_learn(pieces, vocab_size, learned, stop, &err);
	llm_bpe_pieces_free(pieces);
	return code;
}

static void
test_against_the_reference(void)
{
	static const char alphabets[][12] = {"a", "ab", "ab ", "abcd  ", "aab'l .1\xc3\xa9\xff"};
	static char text[LONGEST];
	uint64_t random = 7;
	LlmBpeLearned learned;

	for (int round = 0; round < 60; round++)
	{
		const char *alphabet = alphabets[round % 5];
		size_t size = test_random(&random) % (round < 50 ? 120 : 700), letters = strlen(alphabet);
		size_t vocab_size = 256 + test_random(&random) % 80;

		for (size_t i = 0; i < size; i++)
			text[i] = alphabet[test_random(&random) % letters];
		CHECK_OK(learn(text, size, vocab_size, NULL, &learned), err);
		check_learned(&learned, text, size, vocab_size);
		llm_bpe_learned_free(&learned);
		CHECK(memory.held == 0);
	}
}

static void
test_order_and_parts(void)
{
	static const char *const words[] = {"the cat ", "sat on ", "the mat.", " the cat sat", "", "on"};
	LlmBpePieces *forward = llm_bpe_pieces_new(&allocator, &err);
	LlmBpePieces *backward = llm_bpe_pieces_new(&allocator, &err);
	LlmBpeLearned a, b;

	for (int i = 0; i < 6; i++)
	{
		CHECK_OK(llm_bpe_pieces_add(forward, words[i], strlen(words[i]), NULL, &err), err);
		CHECK_OK(llm_bpe_pieces_add(backward, words[5 - i], strlen(words[5 - i]), NULL, &err), err);
	}
	CHECK(llm_bpe_pieces_count(forward) == llm_bpe_pieces_count(backward));
	CHECK_OK(llm_bpe_learn(forward, 300, &a, NULL, &err), err);
	CHECK_OK(llm_bpe_learn(backward, 300, &b, NULL, &err), err);
	CHECK(a.merge_count == b.merge_count && a.merge_count > 3);
	CHECK(memcmp(a.merges, b.merges, a.merge_count * sizeof(a.merges[0])) == 0);
	llm_bpe_learned_free(&a);
	llm_bpe_learned_free(&b);
	llm_bpe_pieces_free(forward);
	llm_bpe_pieces_free(backward);
	CHECK(memory.held == 0);
}

/* Nothing is learned from a special token, and it ends the piece before it. */
static void
test_specials(void)
{
	static const char text[] = "one<|end|>one <|end|><|end|><|en<|end|>|>one";
	LlmBpePieces *pieces = llm_bpe_pieces_new(&allocator, &err);
	LlmBpeLearned learned;

	CHECK_OK(llm_bpe_pieces_special(pieces, "<|en", 4, &err), err);
	CHECK_OK(llm_bpe_pieces_special(pieces, "<|end|>", 7, &err), err);
	CHECK_OK(llm_bpe_pieces_add(pieces, text, strlen(text), NULL, &err), err);
	CHECK(llm_bpe_pieces_count(pieces) == 3); /* one, a space, |> */
	CHECK_OK(llm_bpe_learn(pieces, 1000, &learned, NULL, &err), err);
	CHECK(learned.token_count == 258); /* "on" or "ne", then "one" */
	llm_bpe_learned_free(&learned);
	llm_bpe_pieces_free(pieces);
	CHECK(memory.held == 0);
}

static bool
stop_after(void *context)
{
	return --*(int *) context < 0;
}

static void
test_stops_and_memory(void)
{
	size_t size = 400000;
	char *text = malloc(size);
	uint64_t random = 3;
	LlmBpeLearned learned;
	int polls, said_no = 0, canceled = 0;

	for (size_t i = 0; i < size; i++) /* one piece: no space, only letters */
		text[i] = (char) ('a' + test_random(&random) % 7);
	for (polls = 0; polls < 40; polls += 3)
	{
		int left = polls;
		LlmStop stop = {stop_after, &left};

		CHECK_FAILS(learn(text, size, 600, &stop, &learned), LLM_CANCELED, "canceled", err);
		CHECK(memory.held == 0);
		canceled++;
	}
	for (size_t i = 0; i < 3000; i++)
		text[i] = " abcdefgh"[test_random(&random) % 9];
	for (long n = 0;; n++)
	{
		LlmCode code;

		memory.fail_after = n;
		code = learn(text, 3000, 500, NULL, &learned);
		if (code == LLM_OK)
			break;
		CHECK(code == LLM_NO_MEMORY && err.hint[0] != '\0' && memory.held == 0);
		said_no++;
	}
	memory.fail_after = -1;
	llm_bpe_learned_free(&learned);
	CHECK(canceled > 10 && said_no > 15 && memory.held == 0);
	free(text);
}

int
main(void)
{
	allocator = test_allocator(&memory);
	test_against_the_reference();
	test_order_and_parts();
	test_specials();
	test_stops_and_memory();
	return 0;
}
