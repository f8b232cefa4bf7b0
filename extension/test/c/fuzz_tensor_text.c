/*
 * libFuzzer: any text as a tensor; a text that the first pass accepts is read by the second without reading
 * past its end.
 */
#include "test.h"

#include "formats/tensor_text.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	LlmError err = {0};
	int ndim, dims[LLM_MAX_DIMS];

	memcpy(text, data, size);
	text[size] = '\0';
	if (llm_tensor_text_shape(text, NULL, &ndim, dims, &err) == LLM_OK)
	{
		size_t n = 1;
		float *x;

		for (int i = 0; i < ndim; i++)
			n = dims[i] == 0 ? 0 : n * dims[i];
		CHECK(n <= size); /* each element needs at least one character */
		x = malloc(n * sizeof(float) + 1);
		llm_tensor_text_values(text, NULL, n, x, &err);
		free(x);
	}
	free(text);
	return 0;
}
