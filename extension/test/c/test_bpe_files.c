/* vocab.json and merges.txt: valid, invalid and damaged files. */
#include "test.h"

#include "formats/bpe.h"

static TestMemory memory;
static LlmAllocator allocator;
static LlmError err;

static LlmCode
read_vocab(const char *json, size_t size)
{
	LlmBpe *bpe = llm_bpe_new(&allocator, "toy", &err);
	LlmCode code = llm_bpe_read_vocab(bpe, "vocab.json", json, size, NULL, &err);

	if (code == LLM_OK)
		code = llm_bpe_finish(bpe, &err);
	llm_bpe_free(bpe);
	CHECK(memory.held == 0);
	return code;
}

static void
test_vocab_file(void)
{
	static const struct
	{
		const char *json, *error;
		LlmCode code;
	} cases[] = {{"", "the end of the text", LLM_FORMAT}, {"[]", "expected an object", LLM_FORMAT},
		{"{\"a\":0", "end of the text", LLM_FORMAT}, {"{\"a\":0}}", "nothing after", LLM_FORMAT},
		{"{\"a\":-1}", "has id -1; ids are whole numbers", LLM_FORMAT},
		{"{\"a\":1.5}", "has id 1.5", LLM_FORMAT}, {"{\"a\":2147483648}", "has id 2147483648", LLM_FORMAT},
		{"{\"a\":1e400}", "has id inf", LLM_FORMAT},
		{"{\"a\":99999999999999999999999}", "has id 9", LLM_FORMAT},
		{"{\"version\":\"1.0\",\"model\":{}}", "has a string where its id should be", LLM_FORMAT},
		{"{\"a\":{\"b\":1}}", "has an object", LLM_FORMAT}, {"{\"\\ud800\":1}", "surrogate", LLM_FORMAT},
		{"{\"a\xff\":1}", "UTF-8", LLM_FORMAT},
		{"{\"a\":1,\"a\":2}", "token \"a\" has two ids, 1 and 2", LLM_INVALID},
		{"{\"a\":1,\"b\":1}", "\"a\" and \"b\" have the same id 1", LLM_INVALID},
		{"{\"a\\u0000 b\":1}", "NUL", LLM_FORMAT}, {"{\"a\":}", "a value", LLM_FORMAT}};
	static const char *const good[] = {
		"{}", " {\"\":0} ", "{\"\\u0000\":1}", "\xef\xbb\xbf{\"\\u0120a\":5,\"\\ud83d\\ude42\":0}"};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		CHECK_FAILS(read_vocab(cases[i].json, strlen(cases[i].json)), cases[i].code, cases[i].error, err);
	CHECK(strstr(err.message, "vocab.json") != NULL);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		CHECK_OK(read_vocab(good[i], strlen(good[i])), err);
}

/* Reads merges into the vocabulary a, b, ab, abb. */
static LlmCode
read_merges(const char *text, size_t size, int *count)
{
	static const char json[] = "{\"a\":0,\"b\":1,\"ab\":2,\"abb\":3}";
	LlmBpe *bpe = llm_bpe_new(&allocator, "toy", &err);
	LlmBpeMergeFile merges = llm_bpe_merge_file("merges.txt", text, size);
	LlmCode code = llm_bpe_read_vocab(bpe, "vocab.json", json, strlen(json), NULL, &err);

	*count = 0;
	while (code == LLM_OK && (code = llm_bpe_next_merge(&merges, &err)) == LLM_OK && merges.left != NULL)
	{
		CHECK(merges.rank == (*count)++);
		code = llm_bpe_add_merge(
			bpe, merges.rank, merges.left, merges.left_size, merges.right, merges.right_size, &err);
	}
	llm_bpe_free(bpe);
	CHECK(memory.held == 0);
	return code;
}

static void
test_merge_file(void)
{
	static const char *const good[] = {"", "#version: 0.2\n", "a b\nab b",
		"#version: 0.2\r\na b\r\n\r\nab b\r\n", "\n\na b\n\nab b\n\n", "\xef\xbb\xbf#version\na b\nab b\n"};
	static const char *const bad[][2] = {{"ab\n", "merges.txt: line 1: expected two tokens"},
		{"a  b", "line 1"}, {"a b\n b", "line 2"}, {"a b c", "line 1"},
		{"a b\n#version: 2", "needs token \"#version:\""}, {"a ", "line 1"}, {"a \xff", "line 1"},
		{"b a", "merge 0 (\"b\" + \"a\") needs token \"ba\", which tokenizer \"toy\" lacks"},
		{"c a", "needs token \"c\""},
		{"a b\nab b\na b", "\"a\" + \"b\" is a merge twice, of rank 0 and of rank 2"}};
	int count;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
	{
		CHECK_OK(read_merges(good[i], strlen(good[i]), &count), err);
		CHECK(count == (i < 2 ? 0 : 2));
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		LlmCode code = read_merges(bad[i][0], strlen(bad[i][0]), &count);

		CHECK(code != LLM_OK && strstr(err.message, bad[i][1]) != NULL);
	}
	CHECK(read_merges("a b\0c", 5, &count) == LLM_FORMAT);
}

/* Files with random bytes changed: the result is an error or a tokenizer. */
static void
test_damaged_files(void)
{
	static const char vocab[] =
		"{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120a\":3,\"\\ud83d\\ude42\":14,\"abb\":1000}";
	static const char merges[] = "#version: 0.2\na b\nab b\n\r\n";
	uint64_t random = 11;

	for (int round = 0; round < 20000; round++)
	{
		char text[sizeof(vocab)];
		bool json = round % 2;
		size_t size = json ? sizeof(vocab) - 1 : sizeof(merges) - 1;
		int count;

		memcpy(text, json ? vocab : merges, size);
		for (int i = 0; i <= round % 3; i++)
			text[test_random(&random) % size] = "\"\\{}:,0-9ua \n\0\x80\xc4\xff#"[test_random(&random) % 19];
		if (test_random(&random) % 4 == 0)
			size = test_random(&random) % size;
		if (json)
			read_vocab(text, size);
		else
			read_merges(text, size, &count);
	}
}

static bool
stop_at_once(void *context)
{
	return true;
}

static void
test_stop(void)
{
	LlmStop stop = {stop_at_once, NULL};
	char *json = malloc(1 << 20), *end = json;
	LlmBpe *bpe = llm_bpe_new(&allocator, "toy", &err);

	for (int i = 0; i < 20000; i++)
		end += sprintf(end, "%c\"%d\": %d", i == 0 ? '{' : ',', i, i);
	*end++ = '}';
	CHECK_FAILS(llm_bpe_read_vocab(bpe, "vocab.json", json, (size_t) (end - json), &stop, &err), LLM_CANCELED,
		"canceled at byte", err);
	llm_bpe_free(bpe);
	free(json);
	CHECK(memory.held == 0);
}

int
main(void)
{
	allocator = test_allocator(&memory);
	test_vocab_file();
	test_merge_file();
	test_damaged_files();
	test_stop();
	return 0;
}
