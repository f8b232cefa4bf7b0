#include "formats/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The header's text: a first pass (text NULL) counts its bytes, a second writes them. */
typedef struct Text
{
	char *text;
	size_t size;
} Text;

static void
put_bytes(Text *t, const char *bytes, size_t size)
{
	if (t->text != NULL)
		memcpy(t->text + t->size, bytes, size);
	t->size += size;
}

static void
put(Text *t, const char *text)
{
	put_bytes(t, text, strlen(text));
}

static void
put_number(Text *t, uint64_t number)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRIu64, number);
	put(t, digits);
}

static void
put_string(Text *t, const char *text)
{
	put(t, "\"");
	for (; *text != '\0'; text++)
	{
		char escape[8];

		if (*text == '"' || *text == '\\')
			snprintf(escape, sizeof(escape), "\\%c", *text);
		else if ((unsigned char) *text < 0x20)
			snprintf(escape, sizeof(escape), "\\u%04x", (unsigned) *text);
		else
			snprintf(escape, sizeof(escape), "%c", *text);
		put(t, escape);
	}
	put(t, "\"");
}

static void
put_header(Text *t, const LlmSafetensorsTensor *tensors, size_t count, const char *config)
{
	uint64_t offset = 0;

	put(t, "{\"__metadata__\":{\"format\":\"pt\""); /* transformers rejects files without it */
	if (config != NULL)
	{
		put(t, ",\"config.json\":");
		put_string(t, config);
	}
	put(t, "}");
	for (size_t i = 0; i < count; i++)
	{
		uint64_t size = sizeof(float);

		put(t, ",");
		put_string(t, tensors[i].name);
		put(t, ":{\"dtype\":\"F32\",\"shape\":[");
		for (int d = 0; d < tensors[i].ndim; d++)
		{
			put(t, d > 0 ? "," : "");
			put_number(t, (uint64_t) tensors[i].dims[d]);
			size *= (uint64_t) tensors[i].dims[d];
		}
		put(t, "],\"data_offsets\":[");
		put_number(t, offset);
		put(t, ",");
		put_number(t, offset += size);
		put(t, "]}");
	}
	put(t, "}");
	while (t->size % 8 != 0) /* so that a memory map of the values is aligned */
		put(t, " ");
}

LlmCode
llm_safetensors_write_header(const LlmSink *sink, const LlmSafetensorsTensor *tensors, size_t count,
	const char *config, const LlmAllocator *allocator, LlmError *err)
{
	unsigned char prefix[8];
	Text text = {0};
	size_t size;
	LlmCode code;

	put_header(&text, tensors, count, config);
	size = text.size;
	text = (Text){allocator->alloc(allocator->context, size), 0};
	if (text.text == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for a safetensors header of %zu bytes", size);
	put_header(&text, tensors, count, config);
	llm_store_le(prefix, size, 8);
	code = sink->write(sink->context, prefix, sizeof(prefix), err);
	if (code == LLM_OK)
		code = sink->write(sink->context, text.text, size, err);
	allocator->release(allocator->context, text.text, size);
	return code;
}
