/*
 * The text form of tensors: shapes, numbers, and errors; truncated and damaged texts are never read past
 * their end.
 */
#include "test.h"

#include <math.h>

#include "formats/tensor_text.h"

/* Shape and elements of a valid text, as "(2,3) 1 2 3 4 5 6"; "!" if it is refused. */
static const char *
read_text(const char *text)
{
	static char out[1000];
	LlmError err = {0};
	int ndim, dims[LLM_MAX_DIMS];
	char *end = out;
	size_t n = 1;
	float *x;

	if (llm_tensor_text_shape(text, NULL, &ndim, dims, &err) != LLM_OK)
		return "!";
	end += sprintf(end, "(");
	for (int i = 0; i < ndim; i++)
	{
		end += sprintf(end, i ? ",%d" : "%d", dims[i]);
		n *= dims[i];
	}
	end += sprintf(end, ")");
	x = malloc(n * sizeof(float) + 1); /* exactly this size: the sanitizer detects a write past it */
	if (llm_tensor_text_values(text, NULL, n, x, &err) != LLM_OK)
		out[0] = '!', out[1] = '\0';
	else
		for (size_t i = 0; i < n && end < out + 900; i++)
			end += sprintf(end, " %g", x[i]);
	free(x);
	return out;
}

#define READS(text, expected) CHECK(strcmp(read_text(text), expected) == 0)

static void
mutations(void)
{
	static const char alphabet[] = "[],.-+einfNaN 0123456789tensor()";
	uint64_t state = 1;

	for (int round = 0; round < 20000; round++)
	{
		size_t length = test_random(&state) % 40;
		char *text = malloc(length + 1);

		for (size_t i = 0; i < length; i++)
			text[i] = alphabet[test_random(&state) % (sizeof(alphabet) - 1)];
		if (round % 2 && length > 16)
			memcpy(text, "[[1,2],[3,4]],[5", 16);
		text[length] = '\0';
		read_text(text);
		free(text);
	}
}

/* ---- stopping ---- */

static int polls_left;

static bool
stop_at_poll(void *context)
{
	return polls_left-- == 0;
}

/* Long texts of every kind end at each poll with a cancel, and not with an error about the truncated text. */
static void
stops(void)
{
	static const char *const parts[] = {" ", "1", "1,", "[],", "[ ],", "1 , "};
	LlmStop stop = {stop_at_poll, NULL};
	size_t length = 300000;

	for (int i = 0; i < 6; i++)
	{
		size_t part = strlen(parts[i]), numbers = i == 0 || i == 1 ? 1 : length + 1;
		char *text = malloc(length * part + 20), *end = text;
		float *x = malloc(numbers * sizeof(float));
		int ndim, dims[LLM_MAX_DIMS], polls;
		LlmError err = {0};
		LlmCode code;

		if (i > 1)
			*end++ = '[';
		for (size_t n = 0; n < length; n++, end += part)
			memcpy(end, parts[i], part);
		strcpy(end, i == 0 ? "1" : i == 1 ? "" : i < 3 || i == 5 ? "1]" : "[]]");
		for (polls = 0; polls == 0 || code != LLM_OK; polls++)
		{
			polls_left = polls;
			code = llm_tensor_text_shape(text, &stop, &ndim, dims, &err);
			CHECK(code == (polls_left < 0 ? LLM_CANCELED : LLM_OK));
		}
		CHECK(polls > 3);
		for (polls = 0; i != 3 && i != 4 && i != 1 && (polls == 0 || code != LLM_OK); polls++)
		{
			polls_left = polls;
			code = llm_tensor_text_values(text, &stop, numbers, x, &err);
			CHECK(code == (polls_left < 0 ? LLM_CANCELED : LLM_OK));
		}
		free(text);
		free(x);
	}
}

int
main(void)
{
	LlmError err = {0};
	int ndim, dims[LLM_MAX_DIMS];
	float x[8];

	READS("3", "() 3");
	READS(" [ [1 , 2 ], [3,4] ] ", "(2,2) 1 2 3 4");
	READS("[]", "(0)");
	READS("[[],[]]", "(2,0)");
	READS("[[[]]]", "(1,1,0)");
	READS("tensor(0,3) []", "(0,3)");
	READS("Tensor( 2 , 0 )[ ]", "(2,0)");
	READS("[NaN,nan,inf,-INF,+Infinity,-0,.5,5.,1e-60,+7]", "(10) nan nan inf -inf inf -0 0.5 5 0 7");
	READS("[[[[[[[[1]]]]]]]]", "(1,1,1,1,1,1,1,1) 1");
	for (const char **bad = (const char *[]){"", " ", "[", "]", "[[1],[2]", "[1,]", "[,1]", "[1]]", "[1] 2",
			 "1 2", "1,2", "[1 2]", "[1,[2]]", "[[1],2]", "[[1],[2,3]]", "[[],[1]]", "[[],1]", "0x10",
			 "[nan(1)]", "[-nan]", "[infin]", "[1e]", "[--1]", "[1e39]", "[1.2.3]", "tensor",
			 "tensor(2,3) []", "tensor() []", "tensor(0,-1) []", "tensor(0,99999999999) []", "tensor(0) [1]",
			 "tensor(0) [] x", "tensor(0,1,1,1,1,1,1,1,1) []", "[[[[[[[[[1]]]]]]]]]", "[1(2]", NULL};
		 *bad; bad++)
		CHECK(read_text(*bad)[0] == '!');

	CHECK_FAILS(
		llm_tensor_text_shape("[[1,2],[3]]", NULL, &ndim, dims, &err), LLM_FORMAT, "has 1 values", err);
	CHECK_FAILS(llm_tensor_text_shape("[[[[[[[[[", NULL, &ndim, dims, &err), LLM_LIMIT, "8 deep", err);
	CHECK_FAILS(llm_tensor_text_values("1e39", NULL, 1, x, &err), LLM_RANGE, "1e39", err);

	stops();
	mutations();
	return 0;
}
