/* libFuzzer: any bytes as JSON. */
#include "test.h"

#include "formats/json.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TestMemory memory;
	LlmAllocator allocator = test_allocator(&memory);
	LlmJson json;
	LlmError err;

	llm_json_open(&json, "f", data, size, &allocator);
	while (llm_json_next(&json, &err) == LLM_OK && json.token != LLM_JSON_END)
		CHECK(json.start < size && json.depth <= LLM_JSON_DEPTH);
	llm_json_close(&json);
	CHECK(memory.held == 0);
	return 0;
}
