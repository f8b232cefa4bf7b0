/* A few thousand of the fuzzer's graphs, the same ones each time. */
#include "fuzz_graph.c"

int
main(int argc, char **argv)
{
	uint64_t state = 10;
	int rounds = argc > 1 ? atoi(argv[1]) : 5000;

	for (int round = 0; round < rounds; round++)
	{
		uint8_t data[400];

		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t) test_random(&state);
		LLVMFuzzerTestOneInput(data, 50 + round % 350);
	}
	return 0;
}
