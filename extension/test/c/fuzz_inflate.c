/* libFuzzer: any bytes as DEFLATE data, read in pieces of varying size. */
#include "test.h"

#include "formats/inflate.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input
{
	const uint8_t *data;
	size_t size, piece;
} Input;

static LlmCode
fill(void *context, void *buffer, size_t capacity, size_t *size, LlmError *err)
{
	Input *input = context;

	*size = input->size < input->piece ? input->size : input->piece;
	memcpy(buffer, input->data, *size);
	input->data += *size;
	input->size -= *size;
	return LLM_OK;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input input = {data, size, size % 13 + 1};
	LlmInflate *inflate = malloc(sizeof(LlmInflate));
	char *out = malloc(70000);
	size_t got, want = 1, total = 0;
	LlmError err;

	llm_inflate_init(inflate);
	inflate->fill = fill;
	inflate->context = &input;
	inflate->name = "f";
	do
	{
		want = want * 7 % 69997 + 1;
		if (llm_inflate_read(inflate, out, want, &got, &err) != LLM_OK)
			break;
		CHECK(got <= want);
		total += got;
	} while (got == want && total < 1 << 24);
	free(out);
	free(inflate);
	return 0;
}
