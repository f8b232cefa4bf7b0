/*
 * safetensors and npz: written files are read back, files written by NumPy are read, and a file that is
 * truncated, damaged or inconsistent gives an error. `test_formats seeds DIR` writes the valid files for the
 * fuzzers.
 */
#include <math.h>

#include "test.h"

#include "formats/npz.h"
#include "formats/safetensors.h"
#include "memory_file.h"
#include "numpy_npz.h"

static TestMemory memory;
static LlmAllocator allocator;

static uint32_t
bits_of(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static float
convert(LlmDtype dtype, bool swapped, const char *raw)
{
	float out;

	llm_floats_from(dtype, swapped, raw, 1, &out);
	return out;
}

/* Every float16 compared with the definition; samples of the others; each NaN becomes the one quiet NaN. */
static void
test_floats(void)
{
	for (uint32_t half = 0; half < 65536; half++)
	{
		char raw[2] = {(char) half, (char) (half >> 8)}, big[2] = {raw[1], raw[0]};
		int exponent = half >> 10 & 31, fraction = half & 1023;
		float expected = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
						 : exponent == 0 ? ldexpf((float) fraction, -24)
										 : ldexpf((float) (1024 + fraction), exponent - 25);
		uint32_t bits = isnan(expected) ? 0x7fc00000 : bits_of(half & 0x8000 ? -expected : expected);

		CHECK(bits_of(convert(LLM_F16, false, raw)) == bits && bits_of(convert(LLM_F16, true, big)) == bits);
	}
	CHECK(convert(LLM_BF16, false, "\xc0\x3f") == 1.5f && convert(LLM_BF16, true, "\x3f\xc0") == 1.5f);
	CHECK(bits_of(convert(LLM_BF16, false, "\x81\xff")) == 0x7fc00000);
	CHECK(bits_of(convert(LLM_F32, false, "\x01\0\x80\xff")) == 0x7fc00000);
	CHECK(bits_of(convert(LLM_F32, true, "\x80\0\0\x01")) == 0x80000001);
	CHECK(convert(LLM_F64, false, "\0\0\0\0\0\0\xf8\xbf") == -1.5f);
	CHECK(isinf(convert(LLM_F64, false, "\xff\xff\xff\xff\xff\xff\xef\x7f")));
}

/* ---- written files are read back ---- */

static const int dims_a[2] = {3, 5}, dims_b[1] = {7}, dims_empty[2] = {0, 4};
static float values_a[15], values_b[7], value_s[1] = {42};
static const LlmSafetensorsTensor tensors[] = {{"h.0.attn.c_attn.weight", 2, dims_a},
	{"b \"q\" \xc3\xa9", 1, dims_b}, {"s", 0, NULL}, {"none", 2, dims_empty}};
static const float *const values[] = {values_a, values_b, value_s, value_s};
static const size_t numel[] = {15, 7, 1, 0};
static const char *const config = "{\"n_head\": 3,\n\"x\": \"\\\"\"}";

static MemoryFile
write_safetensors(void)
{
	MemoryFile file = {0};
	LlmSink sink = {memory_file_write, &file};
	LlmError err;

	CHECK_OK(llm_safetensors_write_header(&sink, tensors, 4, config, &allocator, &err), err);
	CHECK(file.size % 8 == 0);
	for (int i = 0; i < 4; i++)
		memory_file_write(&file, values[i], numel[i] * sizeof(float), &err);
	return file;
}

static MemoryFile
write_npz(uint64_t wide_from)
{
	MemoryFile file = {0};
	LlmSink sink = {memory_file_write, &file};
	LlmNpzWriter writer;
	LlmError err;

	llm_npz_writer_init(&writer, &sink, &allocator);
	writer.wide_from = wide_from;
	for (int i = 0; i < 4; i++)
		CHECK_OK(
			llm_npz_write_tensor(&writer, tensors[i].name, tensors[i].ndim, tensors[i].dims, values[i], &err),
			err);
	CHECK_OK(llm_npz_write_member(&writer, "config.json", config, strlen(config), &err), err);
	CHECK_OK(llm_npz_finish(&writer, &err), err);
	llm_npz_writer_close(&writer);
	return file;
}

static void
check_contents(OpenFunction open, MemoryFile *bytes)
{
	LlmSource source = memory_source(bytes);
	LlmTensorFile file;
	LlmError err;

	CHECK_OK(open(&file, &source, &allocator, &err), err);
	CHECK(file.count == 4 && file.config_size == strlen(config) && strcmp(file.config, config) == 0);
	for (int i = 0; i < 4; i++)
	{
		const LlmTensorEntry *entry = llm_tensor_find(&file, tensors[i].name);
		float out[15];
		bool equal;

		CHECK(entry != NULL && entry->ndim == tensors[i].ndim && entry->numel == numel[i]);
		for (int d = 0; d < entry->ndim; d++)
			CHECK(entry->dims[d] == tensors[i].dims[d]);
		CHECK_OK(llm_tensor_read(&file, entry, out, &err), err);
		CHECK(memcmp(out, values[i], numel[i] * sizeof(float)) == 0);
		CHECK_OK(llm_tensor_equals(&file, entry, values[i], &equal, &err), err);
		CHECK(equal);
		if (numel[i] == 0)
			continue;
		out[numel[i] - 1] += 1;
		CHECK_OK(llm_tensor_equals(&file, entry, out, &equal, &err), err);
		CHECK(!equal);
	}
	llm_tensor_file_close(&file);
}

static void
test_round_trip(void)
{
	MemoryFile file = write_safetensors();

	check_contents(llm_safetensors_open, &file);
	free(file.bytes);
	/* With ZIP64 fields from each occurring size on, as a file past 4 GiB has them. */
	for (uint64_t wide_from = 0; wide_from < 1500; wide_from += 50)
	{
		file = write_npz(wide_from);
		check_contents(llm_npz_open, &file);
		free(file.bytes);
	}
	CHECK(memory.held == 0);
}

/* ---- files written by NumPy are read ---- */

static MemoryFile
copy_of(const void *bytes, size_t size)
{
	MemoryFile file = {malloc(size + (size == 0)), size};

	if (size > 0)
		memcpy(file.bytes, bytes, size);
	return file;
}

static void
test_numpy(void)
{
	MemoryFile bytes = copy_of(numpy_npz, sizeof(numpy_npz) - 1);
	LlmSource source = memory_source(&bytes);
	LlmTensorFile file;
	LlmError err;
	float out[240], expected[240];
	bool equal;

	CHECK_OK(llm_npz_open(&file, &source, &allocator, &err), err);
	CHECK(file.count == 4 && strcmp(file.config, "{\"n_head\": 2}") == 0);
	CHECK_OK(llm_tensor_read(&file, llm_tensor_find(&file, "a"), out, &err), err);
	for (int i = 0; i < 240; i++)
		CHECK(out[i] == (float) (i * 7 % 13) * 0.5f);
	CHECK(llm_tensor_find(&file, "b")->fortran && llm_tensor_find(&file, "b")->dims[1] == 5);
	CHECK_OK(llm_tensor_read(&file, llm_tensor_find(&file, "b"), out, &err), err);
	for (int i = 0; i < 15; i++)
		CHECK((expected[i] = (float) i * 0.25f - 1) == out[i]);
	CHECK_OK(llm_tensor_equals(&file, llm_tensor_find(&file, "b"), expected, &equal, &err), err);
	CHECK(equal);
	expected[7]++;
	CHECK_OK(llm_tensor_equals(&file, llm_tensor_find(&file, "b"), expected, &equal, &err), err);
	CHECK(!equal);
	CHECK_OK(llm_tensor_read(&file, llm_tensor_find(&file, "c"), out, &err), err);
	CHECK(out[0] == 1.5f && bits_of(out[1]) == 0x7fc00000 && isinf(out[2]));
	CHECK_FAILS(llm_tensor_read(&file, llm_tensor_find(&file, "d"), out, &err), LLM_FORMAT,
		"tensor \"d\" has the type |b1", err);
	llm_tensor_file_close(&file);
	free(bytes.bytes);
	CHECK(memory.held == 0);
}

/* ---- inconsistent files ---- */

static void
safetensors_fails(const char *header, size_t data, const char *expected)
{
	MemoryFile file = {0};
	unsigned char prefix[8];
	char zeros[64] = {0};
	LlmSource source;
	LlmTensorFile out;
	LlmError err;
	LlmCode code;

	llm_store_le(prefix, strlen(header), 8);
	memory_file_write(&file, prefix, 8, &err);
	memory_file_write(&file, header, strlen(header), &err);
	memory_file_write(&file, zeros, data, &err);
	source = memory_source(&file);
	code = llm_safetensors_open(&out, &source, &allocator, &err);
	if (code != LLM_FORMAT || strstr(err.message, expected) == NULL)
	{
		fprintf(stderr, "FAIL %s\n     gave %d \"%s\"\n expected \"%s\"\n", header, (int) code, err.message,
			expected);
		exit(1);
	}
	free(file.bytes);
	CHECK(memory.held == 0);
}

#define ENTRY(name, dtype, shape, offsets)                                                                   \
	"\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void
test_lying_safetensors(void)
{
	safetensors_fails("[]", 0, "expected an object, found an array");
	safetensors_fails("{", 0, "the end of the text");
	safetensors_fails("{} x", 0, "nothing after the value");
	safetensors_fails("{}", 3, "3 bytes at the end belong to no tensor");
	safetensors_fails("{" ENTRY("", "F32", "[]", "[0,4]") "}", 4, "an empty name");
	safetensors_fails("{" ENTRY("a\\u0000b", "F32", "[]", "[0,4]") "}", 4, "a zero byte in its name");
	safetensors_fails("{" ENTRY("a", "F32", "[2]", "[0,4]") "}", 4,
		"\"a\" has 4 bytes, but its shape and dtype F32 need 8");
	safetensors_fails("{" ENTRY("a", "F32", "[1]", "[0,8]") "}", 4, "data_offsets [0, 8], the file has 4");
	safetensors_fails("{" ENTRY("a", "F32", "[1]", "[4,0]") "}", 4, "data_offsets [4, 0]");
	safetensors_fails("{" ENTRY("a", "F32", "[1]", "[0]") "}", 4, "two data_offsets");
	safetensors_fails("{" ENTRY("a", "F32", "[1]", "[0,4,8]") "}", 4, "are more than 2");
	safetensors_fails("{" ENTRY("a", "F32", "[-1]", "[0,4]") "}", 4, "whole numbers");
	safetensors_fails("{" ENTRY("a", "F32", "[1.0]", "[0,4]") "}", 4, "whole numbers");
	safetensors_fails("{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "are more than 8");
	safetensors_fails(
		"{" ENTRY("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "product is too large");
	safetensors_fails(
		"{" ENTRY("a", "F32", "[0,9223372036854775807]", "[0,0]") "}", 0, "product is too large");
	safetensors_fails("{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[2,6]") "}", 6,
		"\"a\" and \"b\" overlap");
	safetensors_fails(
		"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[0,4]") "}", 4, "overlap");
	safetensors_fails("{" ENTRY("a", "F32", "[1]", "[4,8]") "}", 8, "4 bytes before tensor \"a\"");
	safetensors_fails("{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("a", "F32", "[1]", "[4,8]") "}", 8,
		"two tensors have the name \"a\"");
	safetensors_fails(
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "needs dtype, shape and two data_offsets");
	safetensors_fails("{\"a\":{\"dtype\":\"\",\"shape\":[]}}", 4, "unknown dtype");
	safetensors_fails("{\"__metadata__\":{\"a\":1}}", 0, "expected a string, found an integer");
	safetensors_fails("{\"__metadata__\":[]}", 0, "__metadata__ is an array, expected an object");
	safetensors_fails("{\"__metadata__\":null,\"__metadata__\":{}}", 0, "__metadata__ is there twice");
	safetensors_fails("{" ENTRY("a", "Q4", "[1]", "[0,4]") "}", 4, "unknown dtype");
	safetensors_fails("{" ENTRY("a", "F4", "[7]", "[0,4]") "}", 4, "dtype F4 need");
	safetensors_fails("{\"a\":{\"shape\":[],\"shape\":[]}}", 4, "has a key twice");
	safetensors_fails("\xef\xbb\xbf{}", 0, "begins with a byte order mark");
}

static void
npz_fails(
	const void *from, size_t size, size_t at, const char *patch, size_t patch_size, const char *expected)
{
	MemoryFile file = copy_of(from, size);
	LlmError err;

	memcpy(file.bytes + at, patch, patch_size);
	CHECK_FAILS(read_everything(llm_npz_open, &file, &allocator, &err), LLM_FORMAT, expected, err);
	free(file.bytes);
	CHECK(memory.held == 0);
}

static size_t
find(const void *bytes, size_t size, const char *what, size_t what_size)
{
	const unsigned char *at = memmem(bytes, size, what, what_size);

	CHECK(at != NULL);
	return (size_t) (at - (const unsigned char *) bytes);
}

static void
test_lying_npz(void)
{
	MemoryFile file = write_npz(UINT32_MAX);
	const unsigned char *b = file.bytes;
	size_t size = file.size, central = find(b, size, "PK\1\2", 4), end = find(b, size, "PK\5\6", 4),
		   dict = find(b, size, "{'descr'", 8);

	npz_fails(b, size, end, "x", 1, "no end of its directory");
	npz_fails(b, size, end + 20, "\1", 1, "no end of its directory"); /* a comment that is missing */
	npz_fails(b, size, end + 4, "\1", 1, "one part of several");
	npz_fails(b, size, end + 10, "\377\377", 2, "ZIP64 locator leads nowhere");
	npz_fails(b, size, end + 10, "\377\0", 2, "impossible size");
	npz_fails(b, size, end + 10, "\6", 1, "its directory ends early");
	npz_fails(b, size, end + 16, "\377\377\377\0", 4, "directory lies outside");
	npz_fails(b, size, central, "x", 1, "its directory ends early");
	npz_fails(b, size, central + 8, "\1", 1, "is encrypted");
	npz_fails(b, size, central + 10, "\14", 1, "compressed by method 12");
	npz_fails(b, size, central + 10, "\10", 1, "h.0.attn.c_attn.weight ends after 6 bytes");
	npz_fails(b, size, central + 24, "\377", 1, "a stored member has two sizes");
	npz_fails(b, size, central + 20, "\0\0\1\0\0\0\1\0", 8, "a member lies outside the file");
	npz_fails(b, size, central + 42, "\1", 1, "a member has no header");
	npz_fails(b, size, central + 42, "\0\0\1", 3, "a member lies outside the file");
	npz_fails(b, size, central + 42, "\377\377\377\377", 4, "ZIP64 field is too short");
	npz_fails(b, size, central + 46, "\377", 1, "name is not UTF-8");
	npz_fails(b, size, central + 46 + 22, ".npx", 4, "is neither a .npy array nor config.json");
	npz_fails(b, size, dict - 10, "x", 1, "does not begin with \\x93NUMPY");
	npz_fails(b, size, dict - 4, "\4", 1, "a version other than");
	npz_fails(b, size, dict - 2, "\377\377", 2, "longer than the array");
	npz_fails(b, size, dict, "[", 1, "no dict");
	npz_fails(b, size, dict + 2, "x", 1, "an unknown or repeated key");
	npz_fails(b, size, dict + 10, "7", 1, "descr is neither text nor a list");
	npz_fails(b, size, dict + 11, "<f8", 3, "its shape and type <f8 need 120");
	npz_fails(b, size, find(b, size, "False", 5), "Wrong", 5, "neither True nor False");
	npz_fails(b, size, find(b, size, "(3, 5)", 6), "[3, 5]", 6, "shape is no tuple");
	npz_fails(b, size, find(b, size, "(3, 5)", 6), "(-3,5)", 6, "no whole number");
	npz_fails(b, size, find(b, size, "(3, 5)", 6), "(3, 6)", 6, "its shape and type <f4 need 72");
	npz_fails(b, size, find(b, size, "(3, 5)", 6) + 5, "x", 1, "shape is not closed");
	npz_fails(b, size, dict + 118, "x", 1, "is damaged: its checksum is");
	free(file.bytes);
}

/* ---- truncation at every byte, every bit flipped, memory refused at every allocation ---- */

static void
test_damage(OpenFunction open, const void *bytes, size_t size)
{
	LlmError err;
	MemoryFile file;

	for (size_t i = 0; i < size; i++)
	{
		file = copy_of(bytes, i);
		CHECK(read_everything(open, &file, &allocator, &err) != LLM_OK);
		free(file.bytes);
		CHECK(memory.held == 0);
	}
	file = copy_of(bytes, size);
	for (size_t i = 0; i < size * 8; i++)
	{
		file.bytes[i / 8] ^= (unsigned char) (1 << (i & 7));
		read_everything(open, &file, &allocator, &err);
		CHECK(memory.held == 0);
		file.bytes[i / 8] ^= (unsigned char) (1 << (i & 7));
	}
	for (long n = 0;; n++)
	{
		memory.fail_after = n;
		if (read_everything(open, &file, &allocator, &err) == LLM_OK)
			break;
		CHECK(err.code == LLM_NO_MEMORY && memory.held == 0);
	}
	memory.fail_after = -1;
	free(file.bytes);
}

static void
write_seed(const char *folder, const char *name, const void *bytes, size_t size)
{
	char path[512];
	FILE *out;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	out = fopen(path, "wb");
	CHECK(out != NULL && fwrite(bytes, 1, size, out) == size && fclose(out) == 0);
}

int
main(int argc, char **argv)
{
	MemoryFile safetensors, npz, wide;

	allocator = test_allocator(&memory);
	for (int i = 0; i < 15; i++)
		values_a[i] = (float) i * 0.5f - 3;
	for (int i = 0; i < 7; i++)
		values_b[i] = ldexpf(1, i * 20 - 140);
	safetensors = write_safetensors();
	npz = write_npz(UINT32_MAX);
	wide = write_npz(0);
	if (argc == 3 && strcmp(argv[1], "seeds") == 0)
	{
		write_seed(argv[2], "safetensors", safetensors.bytes, safetensors.size);
		write_seed(argv[2], "npz", npz.bytes, npz.size);
		write_seed(argv[2], "npz-zip64", wide.bytes, wide.size);
		write_seed(argv[2], "npz-numpy", numpy_npz, sizeof(numpy_npz) - 1);
	}
	else
	{
		test_floats();
		test_round_trip();
		test_numpy();
		test_lying_safetensors();
		test_lying_npz();
		test_damage(llm_safetensors_open, safetensors.bytes, safetensors.size);
		test_damage(llm_npz_open, npz.bytes, npz.size);
		test_damage(llm_npz_open, wide.bytes, wide.size);
		test_damage(llm_npz_open, numpy_npz, sizeof(numpy_npz) - 1);
	}
	free(safetensors.bytes);
	free(npz.bytes);
	free(wide.bytes);
	return 0;
}
