/* Errors: codes, hints, and text that does not fit. */
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
	return 0;
}
