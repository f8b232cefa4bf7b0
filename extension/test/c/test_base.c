/* Errors: codes, hints, and text that does not fit. */
#include <math.h>

#include "test.h"

int
main(void)
{
	LlmError err;
	char text[600];

	CHECK(llm_fail(&err, LLM_SHAPE, "(%d,%d)", 2, 3) == LLM_SHAPE && strcmp(err.message, "(2,3)") == 0);
	CHECK(err.hint[0] == '\0' && llm_hint(&err, "reshape") == LLM_SHAPE && strcmp(err.hint, "reshape") == 0);

	/* 508 bytes of two-byte characters and one more byte in front: the cut must not halve one. */
	text[0] = 'a';
	for (int i = 1; i + 1 < (int) sizeof(text) - 1; i += 2)
		memcpy(text + i, "\xc3\xa9", 2);
	text[sizeof(text) - 1] = '\0';
	for (int skip = 0; skip < 2; skip++)
	{
		llm_fail(&err, LLM_INVALID, "%s", text + skip);
		size_t length = strlen(err.message);
		CHECK(length < sizeof(err.message) && strcmp(err.message + length - 3, "...") == 0);
		CHECK((unsigned char) err.message[length - 4] == 0xa9);
	}

	static const struct
	{
		double x;
		const char *text;
	} decimals[] = {{1, "1"}, {0.1, "0.1"}, {0.1f, "0.1"}, {1.0000001f, "1.0000001"},
		{1.0000001, "1.0000001"}, {1 + 0x1p-52, "1.0000000000000002"}, {-1e8, "-1e+08"}, {1e300, "1e+300"},
		{NAN, "NaN"}, {INFINITY, "Infinity"}, {-INFINITY, "-Infinity"}};

	for (size_t i = 0; i < sizeof(decimals) / sizeof(*decimals); i++)
		CHECK(strcmp(llm_decimal(decimals[i].x, text), decimals[i].text) == 0);
	return 0;
}
