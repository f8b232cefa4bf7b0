/*
 * libFuzzer: the first byte selects the meaning of the rest: a vocab.json, a merges.txt, or text to encode.
 * The encoding must be that of the plain rule, and the bytes of its tokens must be the text.
 */
#include "toy_bpe.h"

static TestMemory memory;

static void
fuzz_vocab(const LlmAllocator *allocator, const char *data, size_t size)
{
	LlmError err;
	LlmBpe *bpe = llm_bpe_new(allocator, "fuzz", &err);

	if (llm_bpe_read_vocab(bpe, "vocab.json", data, size, NULL, &err) == LLM_OK)
		llm_bpe_finish(bpe, &err);
	llm_bpe_free(bpe);
}

static void
fuzz_merges(const LlmAllocator *allocator, const char *data, size_t size)
{
	static const char vocab[] = "{\"a\":0,\"b\":1,\"ab\":2,\"aba\":3,\"\\u0120\":4,\"\\u0120a\":5}";
	LlmError err;
	LlmBpe *bpe = llm_bpe_new(allocator, "fuzz", &err);
	LlmBpeMergeFile merges = llm_bpe_merge_file("merges.txt", data, size);

	CHECK_OK(llm_bpe_read_vocab(bpe, "vocab.json", vocab, sizeof(vocab) - 1, NULL, &err), err);
	while (llm_bpe_next_merge(&merges, &err) == LLM_OK && merges.left != NULL &&
		   llm_bpe_add_merge(bpe, merges.rank, merges.left, merges.left_size, merges.right, merges.right_size,
			   &err) == LLM_OK)
		;
	llm_bpe_free(bpe);
}

static void
fuzz_text(const LlmAllocator *allocator, uint64_t seed, const char *text, size_t size)
{
	LlmError err;
	LlmBpe *bpe = toy_bpe(allocator, 2 * seed + 1, 300, &err);
	LlmBpeIds ids = {.allocator = allocator};
	uint32_t *symbols = malloc(size * sizeof(uint32_t) + 1);
	size_t done = 0, count;
	LlmBpeMerge merge;

	CHECK_OK(llm_bpe_encode(bpe, text, size, seed % 2, &ids, NULL, &err), err);
	for (size_t at = 0, end; at < size; at = end)
	{
		end = llm_bpe_piece_end(text, size, at, NULL);
		CHECK(end > at && end <= size);
		CHECK_OK(llm_bpe_symbols(bpe, text + at, end - at, symbols, &count, &err), err);
		while (llm_bpe_merge_once(bpe, symbols, &count, &merge))
			;
		for (size_t i = 0, from = at; i < count; i++)
		{
			LlmBpeToken token = llm_bpe_token(bpe, symbols[i]);

			CHECK(done < ids.count && ids.ids[done++] == token.id);
			CHECK(token.size <= end - from && memcmp(token.bytes, text + from, token.size) == 0);
			from += token.size;
		}
	}
	CHECK(done == ids.count);
	llm_bpe_ids_free(&ids);
	llm_bpe_free(bpe);
	free(symbols);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	LlmAllocator allocator = test_allocator(&memory);
	const char *rest = (const char *) data + 1;

	if (size == 0)
		return 0;
	if (data[0] % 3 == 0)
		fuzz_vocab(&allocator, rest, size - 1);
	else if (data[0] % 3 == 1)
		fuzz_merges(&allocator, rest, size - 1);
	else
		fuzz_text(&allocator, data[0] / 3, rest, size - 1 < 4096 ? size - 1 : 4096);
	CHECK(memory.held == 0);
	return 0;
}
