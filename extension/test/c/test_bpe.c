/* The tokenizer's core: pattern, merges, word cache, characters; stops and lack of memory. */
#include "test.h"

#include "formats/bpe.h"
#include "formats/unicode.h"
#include "toy_bpe.h"

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

static TestMemory memory;
static LlmAllocator allocator;
static LlmError err;

/* text must be split into these pieces, given as one string with '|' between them. */
static void
check_pieces(const char *text, size_t size, const char *expected)
{
	char got[256];
	size_t length = 0;

	for (size_t at = 0, end; at < size; at = end)
	{
		end = llm_bpe_piece_end(text, size, at, NULL);
		CHECK(end > at && end <= size);
		if (at > 0)
			got[length++] = '|';
		memcpy(got + length, text + at, end - at);
		length += end - at;
	}
	got[length] = '\0';
	if (length != strlen(expected) || memcmp(got, expected, length) != 0)
	{
		fprintf(stderr, "FAIL pieces \"%s\", expected \"%s\"\n", got, expected);
		exit(1);
	}
}

static void
test_pattern(void)
{
	static const char *const cases[][2] = {{"Hello world!", "Hello| world|!"}, {"", ""}, {" ", " "},
		{"a  b", "a| | b"}, {"a   ", "a|   "}, {"a \n b", "a| \n| b"}, {"\n\nx", "\n|\n|x"}, {"  ", "  "},
		{"I'll we've they're he'd isn't I'm it's", "I|'ll| we|'ve| they|'re| he|'d| isn|'t| I|'m| it|'s"},
		{"I'LL 'sx 'l 'v", "I|'|LL| '|sx| '|l| '|v"}, {"''s", "''|s"}, {"x='s'", "x|='|s|'"},
		{"a1b22 333", "a|1|b|22| 333"}, {"a.b,,c --d", "a|.|b|,,|c| --|d"},
		{"\xc3\xa9t\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xc2\xbd",
			"\xc3\xa9t\xc3\xa9| \xe4\xb8\xad\xe6\x96\x87| \xc2\xbd"},
		{"e\xcc\x81", "e|\xcc\x81"},                               /* a combining mark is not a letter */
		{"a\xc2\xa0 b\xe3\x80\x80", "a|\xc2\xa0| b|\xe3\x80\x80"}, /* no-break and ideographic space */
		{"x\xff\xfe y\xed\xa0\x80", "x|\xff\xfe| y|\xed\xa0\x80"}, {"a\xe4\xb8", "a|\xe4\xb8"}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		check_pieces(cases[i][0], strlen(cases[i][0]), cases[i][1]);
}

static void
check_repair(const char *bytes, size_t size, const char *expected)
{
	char out[64];
	size_t length = llm_utf8_repair((const unsigned char *) bytes, size, out);

	CHECK(length == strlen(expected) && memcmp(out, expected, length) == 0);
	CHECK(llm_utf8_repair((const unsigned char *) bytes, size, NULL) == length);
	CHECK(llm_utf8_is_text((const unsigned char *) bytes, size) ==
		  (length == size && memcmp(bytes, out, size) == 0));
}

#define FFFD "\xef\xbf\xbd"
static void
test_utf8(void)
{
	static const char *const unfinished[] = {"", "\xc3", "\xe4\xb8", "\xf0\x9f\x99"};

	check_repair("", 0, "");
	check_repair("a\0b", 3, "a" FFFD "b");
	check_repair("a\xe4\xb8z", 4, "a" FFFD "z");
	check_repair("\xed\xa0\x80", 3, FFFD FFFD FFFD);          /* a surrogate */
	check_repair("\xf0\x80\x80", 3, FFFD FFFD FFFD);          /* overlong */
	check_repair("\xf4\x90\x80\x80", 4, FFFD FFFD FFFD FFFD); /* past U+10FFFF */
	check_repair("\xf0\x9f\x99\xf0\x9f\x99\x82", 7, FFFD "\xf0\x9f\x99\x82");
	check_repair("\xc0\x80\xff", 3, FFFD FFFD FFFD);
	for (size_t i = 0; i < 20; i++) /* one byte that is not ASCII, in each of the positions read at once */
	{
		char text[21] = "abcdefghijklmnopqrst", expected[32];

		text[i] = i % 2 ? '\0' : '\x80';
		memcpy(expected, text, i);
		strcpy(expected + i, FFFD);
		strcat(expected, &"abcdefghijklmnopqrst"[i + 1]);
		check_repair(text, 20, expected);
	}
	check_repair("abcdefgh\x7f\x01", 10, "abcdefgh\x7f\x01");
	for (size_t i = 0; i < 4; i++)
	{
		char text[8] = "a";

		strcat(text, unfinished[i]);
		CHECK(llm_utf8_unfinished((unsigned char *) text, 1 + i) == i);
	}
	CHECK(llm_utf8_unfinished((const unsigned char *) "\xe4\xb8\xad", 3) == 0);
	CHECK(llm_utf8_unfinished((const unsigned char *) "\x80\x80\x80\x80", 4) == 0);
	CHECK(llm_utf8_unfinished((const unsigned char *) "\xed\xa0", 2) == 0); /* can never be a character */
	for (uint32_t c = 0; c < 0x110400; c++)
		CHECK(llm_unicode_class(c) >= LLM_CHAR_OTHER && llm_unicode_class(c) <= LLM_CHAR_SPACE);
	CHECK(llm_unicode_class('a') == LLM_CHAR_LETTER && llm_unicode_class(0x2460) == LLM_CHAR_NUMBER);
	CHECK(llm_unicode_class(0x3000) == LLM_CHAR_SPACE && llm_unicode_class(UINT32_MAX) == LLM_CHAR_OTHER);
}

/* Maps each byte to its text form, and back. */
static void
test_text_form(void)
{
	unsigned char bytes[256], back[512];
	char text[512];
	size_t size, length;

	for (int i = 0; i < 256; i++)
		bytes[i] = (unsigned char) i;
	size = llm_bpe_to_text(bytes, 256, text);
	CHECK(size == 256 + 68 + 94 && llm_bpe_from_text(text, size, back, &length)); /* 94 are ASCII */
	CHECK(length == 256 && memcmp(bytes, back, 256) == 0);
	CHECK(llm_bpe_to_text((const unsigned char *) " \n", 2, text) == 4 &&
		  memcmp(text, "\xc4\xa0\xc4\x8a", 4) == 0);
	CHECK(!llm_bpe_from_text(" ", 1, back, &length) && !llm_bpe_from_text("\xe4\xb8\xad", 3, back, &length));
	CHECK(!llm_bpe_from_text("\xc2\xad", 2, back, &length) && !llm_bpe_from_text("\xff", 1, back, &length));
}

/*
 * Encoding must match the plain rule, for short and long pieces, twice (first merged, then from the cache).
 */
static void
check_against_plain(LlmBpe *bpe, const char *text, size_t size)
{
	static uint32_t symbols[4096];
	int32_t room[16];
	LlmBpeMerge merge;

	for (int pass = 0; pass < 2; pass++)
	{
		LlmBpeIds ids = {room, 0, 16, false, &allocator};
		size_t at = 0, done = 0;

		CHECK_OK(llm_bpe_encode(bpe, text, size, false, &ids, NULL, &err), err);
		while (at < size)
		{
			size_t end = llm_bpe_piece_end(text, size, at, NULL), count;

			CHECK_OK(llm_bpe_symbols(bpe, text + at, end - at, symbols, &count, &err), err);
			while (llm_bpe_merge_once(bpe, symbols, &count, &merge))
				;
			for (size_t i = 0; i < count; i++, done++)
				CHECK(done < ids.count && ids.ids[done] == llm_bpe_token(bpe, symbols[i]).id);
			at = end;
		}
		CHECK(done == ids.count);
		llm_bpe_ids_free(&ids);
	}
}

static void
test_merges(void)
{
	uint64_t random = 7;
	char text[2000];

	for (int round = 0; round < 40; round++)
	{
		LlmBpe *bpe = toy_bpe(&allocator, round, 5 + round * 20, &err);

		CHECK(bpe != NULL);
		for (int i = 0; i < 60; i++)
		{
			size_t size = test_random(&random) % (i % 10 == 0 ? sizeof(text) : 60);

			for (size_t k = 0; k < size; k++)
				text[k] = "abcde abc\n,\xc3\xa9"[test_random(&random) % (round % 2 ? 13 : 5)];
			check_against_plain(bpe, text, size);
		}
		llm_bpe_free(bpe);
	}
	CHECK(memory.held == 0);
}

/* An entry of the word cache must not match another piece: zeros at the end, the same first 16 bytes. */
static void
test_word_cache(void)
{
	LlmBpe *bpe = toy_bpe(&allocator, 1, 50, &err);
	static const char zeros[20] = "", same[] = "aaaaaaaaaaaaaaaaaaaa";

	for (int pass = 0; pass < 2; pass++)
		for (size_t size = 0; size <= 20; size++)
		{
			check_against_plain(bpe, zeros, size);
			check_against_plain(bpe, same, size);
		}
	llm_bpe_free(bpe);
}

/* Words that differ in their second half only, so many that some share a slot of the cache. */
static void
test_word_places(void)
{
	LlmBpe *bpe = llm_bpe_new(&allocator, "toy", &err);
	char word[] = "aaaaaaaa..";

	for (int i = 0; i < 52; i++)
		CHECK_OK(llm_bpe_add_token(bpe, i, &letters[i], 1, &letters[i], 1, &err), err);
	for (int size = 2; size <= 8; size *= 2)
		CHECK_OK(llm_bpe_add_token(bpe, 100 + size, word, size, word, size, &err), err);
	for (int size = 1; size <= 4; size *= 2)
		CHECK_OK(llm_bpe_add_merge(bpe, size, word, size, word, size, &err), err);
	CHECK_OK(llm_bpe_finish(bpe, &err), err);
	for (int i = 0; i < 52 * 52; i++)
	{
		word[8] = letters[i % 52];
		word[9] = letters[i / 52];
		check_against_plain(bpe, word, 10);
	}
	llm_bpe_free(bpe);
}

static LlmCode
encode(LlmBpe *bpe, const char *text, bool special, LlmBpeIds *ids)
{
	*ids = (LlmBpeIds){.allocator = &allocator};
	return llm_bpe_encode(bpe, text, strlen(text), special, ids, NULL, &err);
}

static LlmBpe *
from_json(const char *json)
{
	LlmBpe *bpe = llm_bpe_new(&allocator, "toy", &err);

	CHECK(bpe != NULL);
	CHECK_OK(llm_bpe_read_vocab(bpe, "vocab.json", json, strlen(json), NULL, &err), err);
	CHECK_OK(llm_bpe_finish(bpe, &err), err);
	return bpe;
}

static void
test_special(void)
{
	LlmBpe *bpe = from_json("{\"<\":1,\"|\":2,\">\":3,\"e\":4,\"<|e|>\":9,\"<|e|><|e|>\":6,\"<||\":5}");
	LlmBpeIds ids;

	CHECK_OK(encode(bpe, "e<|e|>e<|e|><|e|><|e|>", true, &ids), err);
	CHECK(ids.count == 5 && ids.ids[0] == 4 && ids.ids[1] == 9 && ids.ids[3] == 6 && ids.ids[4] == 9);
	llm_bpe_ids_free(&ids);
	CHECK_OK(encode(bpe, "<|e|>", false, &ids), err);
	CHECK(ids.count == 5 && ids.ids[0] == 1);
	llm_bpe_ids_free(&ids);
	CHECK_OK(encode(bpe, "<|e|<", true, &ids), err);
	CHECK(ids.count == 5 && ids.ids[4] == 1);
	llm_bpe_ids_free(&ids);
	llm_bpe_free(bpe);
}

/* Plain characters, ids with gaps, and characters that are not a token. */
static void
test_characters(void)
{
	LlmBpe *bpe =
		from_json("{\"a\": 7, \" \": 3, \"\\n\": 2147483647, \"\xc3\xa9\": 5, \"\xe4\xb8\xad\": 4}");
	LlmBpeIds ids;
	uint32_t symbol;

	CHECK_OK(encode(bpe,
				 "a \xc3\xa9\n\xe4\xb8\xad"
				 "a",
				 false, &ids),
		err);
	CHECK(ids.count == 6 && ids.ids[0] == 7 && ids.ids[1] == 3 && ids.ids[2] == 5 &&
		  ids.ids[3] == INT32_MAX && ids.ids[4] == 4 && ids.ids[5] == 7);
	llm_bpe_ids_free(&ids);
	CHECK(
		llm_bpe_find(bpe, 5, &symbol) && memcmp(llm_bpe_token(bpe, symbol).text, "\xc3\x83\xc2\xa9", 4) == 0);
	CHECK(llm_bpe_find(bpe, INT32_MAX, &symbol) && !llm_bpe_find(bpe, 6, &symbol) &&
		  !llm_bpe_find(bpe, 0, &symbol) && !llm_bpe_find(bpe, -1, &symbol));
	CHECK_FAILS(encode(bpe, "a\xc3\xa9\xc3\xa8", false, &ids), LLM_INVALID,
		"\"\xc3\xa8\" (bytes c3 a8) at position 3 is no token of tokenizer \"toy\"", err);
	llm_bpe_ids_free(&ids);
	CHECK_FAILS(encode(bpe, "ab", false, &ids), LLM_INVALID, "\"b\" (byte 62) at position 2", err);
	llm_bpe_ids_free(&ids);
	CHECK_FAILS(encode(bpe, "\t", false, &ids), LLM_INVALID, "byte 09 at position 1", err);
	llm_bpe_ids_free(&ids);
	CHECK_FAILS(encode(bpe, "a\xff", false, &ids), LLM_INVALID, "byte ff at position 2", err);
	llm_bpe_ids_free(&ids);
	llm_bpe_free(bpe);

	/* Byte-level form: the two bytes of e-acute are written as the characters with their numbers. */
	bpe = from_json("{\"a\": 0, \"\xc3\x83\xc2\xa9\": 1, \"\xc4\xa0\": 2}");
	CHECK_OK(encode(bpe, "a \xc3\xa9", false, &ids), err);
	CHECK(ids.count == 3 && ids.ids[1] == 2 && ids.ids[2] == 1);
	llm_bpe_ids_free(&ids);
	llm_bpe_free(bpe);
}

static bool
stop_at_once(void *context)
{
	++*(int *) context;
	return true;
}

static void
test_stop(void)
{
	int polls = 0;
	LlmStop stop = {stop_at_once, &polls};
	size_t size = 3 << 20;
	char *text = malloc(size);
	LlmBpe *bpe = toy_bpe(&allocator, 1, 50, &err);

	for (int kind = 0; kind < 3; kind++) /* one long piece, many short ones, many incomplete special tokens */
	{
		LlmBpeIds ids = {.allocator = &allocator};

		for (size_t i = 0; i < size; i++)
			text[i] = kind == 2 ? '<' : kind == 1 && i % 4 == 3 ? ' ' : 'a';
		CHECK_FAILS(
			llm_bpe_encode(bpe, text, size, kind == 2, &ids, &stop, &err), LLM_CANCELED, "canceled", err);
		llm_bpe_ids_free(&ids);
	}
	CHECK(polls == 3);
	CHECK(llm_bpe_piece_end(text, size, 0, &stop) == SIZE_MAX);
	llm_bpe_free(bpe);
	free(text);
	CHECK(memory.held == 0);
}

/* Rows written by hand: bytes that differ from the text form. */
static void
test_rows(void)
{
	LlmBpe *bpe = llm_bpe_new(&allocator, "toy", &err);

	CHECK_OK(llm_bpe_add_token(bpe, 9, "ab", 2, "ax", 2, &err), err);
	CHECK_OK(llm_bpe_add_token(bpe, 1, "a", 1, "a", 1, &err), err);
	CHECK_OK(llm_bpe_add_token(bpe, 5, "b", 1, "b", 1, &err), err);
	CHECK_OK(llm_bpe_add_token(bpe, 6, "B", 1, "b", 1, &err), err); /* of equal bytes the lowest id is used */
	CHECK_FAILS(llm_bpe_add_token(bpe, -5, "c", 1, "c", 1, &err), LLM_RANGE, "has id -5", err);
	CHECK_FAILS(
		llm_bpe_add_merge(bpe, 0, "a", 1, "b", 1, &err), LLM_INVALID, "whose bytes are not those", err);
	CHECK_FAILS(llm_bpe_add_merge(bpe, -2, "a", 1, "b", 1, &err), LLM_RANGE, "rank -2", err);
	CHECK_OK(llm_bpe_finish(bpe, &err), err);
	CHECK(llm_bpe_count(bpe) == 4 && llm_bpe_token(bpe, 3).id == 9);

	LlmBpeIds found;
	int32_t ids[] = {1, 9, 5, 9, 4, 1};
	char out[7 + LLM_BPE_SLACK];
	size_t done;

	CHECK(llm_bpe_decode(bpe, ids, 4, out, &done) == 6 && done == 4 && memcmp(out, "aaxbax", 6) == 0);
	CHECK(llm_bpe_decode(bpe, ids, 4, NULL, &done) == 6 && done == 4);
	CHECK(llm_bpe_decode(bpe, ids, 6, NULL, &done) == 6 && done == 4);
	CHECK_OK(encode(bpe, "ab", false, &found), err);
	CHECK(found.count == 2 && found.ids[0] == 1 && found.ids[1] == 5);
	llm_bpe_ids_free(&found);
	llm_bpe_free(bpe);
}

/* A block of the tables, copied elsewhere and read-only, is the same tokenizer. */
static void
check_image(LlmBpe *bpe, const char *text, size_t size, bool special)
{
	size_t bytes = llm_bpe_image_size(bpe), done;
	char *block = aligned_alloc(64, bytes), decoded[2][1000 + LLM_BPE_SLACK];
	LlmBpeIds ids[2] = {{.allocator = &allocator}, {.allocator = &allocator}};
	LlmBpe *copy;

	llm_bpe_image(bpe, block);
	CHECK((copy = llm_bpe_of_image(&allocator, block, &err)) != NULL);
	CHECK(strcmp(llm_bpe_name(copy), llm_bpe_name(bpe)) == 0 && llm_bpe_count(copy) == llm_bpe_count(bpe));
	for (size_t i = 0; i < llm_bpe_count(bpe); i++)
	{
		LlmBpeToken a = llm_bpe_token(bpe, i), b = llm_bpe_token(copy, i);
		uint32_t symbol;

		CHECK(a.id == b.id && a.size == b.size && a.text_size == b.text_size && a.special == b.special);
		CHECK(memcmp(a.bytes, b.bytes, a.size) == 0 && memcmp(a.text, b.text, a.text_size) == 0);
		CHECK(llm_bpe_find(copy, a.id, &symbol) && symbol == i);
	}
	check_against_plain(copy, text, size);
	CHECK_OK(llm_bpe_encode(bpe, text, size, special, &ids[0], NULL, &err), err);
	CHECK_OK(llm_bpe_encode(copy, text, size, special, &ids[1], NULL, &err), err);
	CHECK(ids[0].count == ids[1].count);
	CHECK(size == 0 || memcmp(ids[0].ids, ids[1].ids, ids[0].count * sizeof(int32_t)) == 0);
	CHECK(llm_bpe_decode(bpe, ids[0].ids, ids[0].count, decoded[0], &done) == size);
	CHECK(llm_bpe_decode(copy, ids[1].ids, ids[1].count, decoded[1], &done) == size);
	CHECK(memcmp(decoded[0], text, size) == 0 && memcmp(decoded[1], text, size) == 0);
	llm_bpe_ids_free(&ids[0]);
	llm_bpe_ids_free(&ids[1]);
	llm_bpe_free(copy);
	free(block);
	llm_bpe_free(bpe);
}

static void
test_image(void)
{
	char text[1000];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = "aabcabdcae"[i * i % 10];
	CHECK(llm_bpe_image_layout() != 0);
	check_image(toy_bpe(&allocator, 2, 200, &err), text, sizeof(text), false);
	check_image(toy_bpe(&allocator, 3, 400, &err), text, sizeof(text), false);
	check_image(from_json("{\"<\":1,\"|\":2,\">\":3,\"e\":4,\"<|e|>\":9}"), "e<|e|>e<", 8, true);
	check_image(from_json("{\"\xc3\xa9\": 5, \"a\": 7, \" \": 0}"), "a \xc3\xa9", 4, false);
	check_image(from_json("{}"), "", 0, true);
	CHECK(memory.held == 0);
}

/* Every allocation fails once: each time an error results, and nothing leaks. */
static void
test_no_memory(void)
{
	char text[3000];
	bool done = false;

	memset(text, 'a', sizeof(text));
	for (long after = 0; !done; after++)
	{
		LlmBpeIds ids = {.allocator = &allocator};
		LlmBpe *bpe;

		memory.fail_after = after;
		memset(&err, 0, sizeof(err));
		bpe = toy_bpe(&allocator, 3, 200, &err);
		done = bpe != NULL && llm_bpe_encode(bpe, text, sizeof(text), false, &ids, NULL, &err) == LLM_OK;
		CHECK(done || err.code == LLM_NO_MEMORY);
		memory.fail_after = -1;
		llm_bpe_ids_free(&ids);
		llm_bpe_free(bpe);
		CHECK(memory.held == 0 && after < 10000);
	}
}

int
main(void)
{
	allocator = test_allocator(&memory);
	test_pattern();
	test_utf8();
	test_text_form();
	test_merges();
	test_word_cache();
	test_word_places();
	test_special();
	test_characters();
	test_stop();
	test_rows();
	test_image();
	test_no_memory();
	CHECK(memory.held == 0);
	return 0;
}
