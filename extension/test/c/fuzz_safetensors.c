/* libFuzzer: any bytes as a safetensors file. */
#include "test.h"

#include "memory_file.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TestMemory memory;
	LlmAllocator allocator = test_allocator(&memory);
	MemoryFile file = {(unsigned char *) data, size};
	LlmError err;

	read_everything(llm_safetensors_open, &file, &allocator, &err);
	CHECK(memory.held == 0);
	return 0;
}
