/*
 * The kinds are those of pg_llm/files/formats.py, and of other_formats.py beside it, which reads them.
 */
#include "formats/file_kind.h"

#include <ctype.h>
#include <string.h>

#define FIRST 512

static const struct
{
	const char *begin;
	size_t size;
	const char *name;
} kinds[] = {{"GGUF", 4, "a GGUF file of llama.cpp, which pg-llm convert reads"},
	{"\x89HDF\r\n\x1a\n", 8, "an HDF5 file (.h5), as Keras and TensorFlow write it"},
	{"version https://git-lfs", 23, "a Git LFS pointer instead of the weights: git lfs pull"},
	{"\xc6\xd7\x34\x01", 4, "weights of llm.c, which pg-llm convert reads"},
	{"\x1f\x8b", 2, "a gzip archive: pg-llm convert reads one of pg_gpt2, unpack another"},
	{"BZh", 3, "a bzip2 archive: unpack it"},
	{"\xfd"
	 "7zXZ",
		6, "an xz archive: unpack it"},
	{"\x28\xb5\x2f\xfd", 4, "a zstd archive: unpack it"}, {"\xff\xfe", 2, "UTF-16 text: save it as UTF-8"},
	{"\xfe\xff", 2, "UTF-16 text: save it as UTF-8"},
	{"\x93NUMPY", 6, "a single NumPy array; weights are several: numpy.savez(path, **{name: array})"},
	{"model_checkpoint_path:", 22, "an index of TensorFlow checkpoints"},
	{"\x57\xfb\x80\x8b\x24\x75\x47\xdb", 8, "a checkpoint of TensorFlow"}};

static bool
begins(const char *text, size_t size, const char *word)
{
	for (size_t i = 0; word[i] != '\0'; i++)
		if (i == size || tolower((unsigned char) text[i]) != word[i])
			return false;
	return true;
}

static const char *
kind_of(const char *first, size_t size)
{
	size_t at = 0;

	if (size > 8 && first[7] == '\0' && first[8] == '{') /* the header of safetensors, whatever its length */
		return NULL;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (size >= kinds[i].size && memcmp(first, kinds[i].begin, kinds[i].size) == 0)
			return kinds[i].name;
	if (size >= 2 && first[0] == '\x80' && first[1] >= 2 && first[1] <= 5)
		return "a Python pickle, which can contain code and is not opened";
	while (at < size && isspace((unsigned char) first[at]))
		at++;
	if (begins(first + at, size - at, "<!doctype html") || begins(first + at, size - at, "<html") ||
		begins(first + at, size - at, "<?xml"))
		return "an HTML page: download the file that it links to";
	return at < size && (first[at] == '{' || first[at] == '[') ? "JSON text" : NULL;
}

LlmCode
llm_hint_kind(const LlmSource *source, const char *otherwise, LlmError *err)
{
	char bytes[FIRST];
	size_t size = source->size < FIRST ? (size_t) source->size : FIRST;
	const char *kind = NULL;
	LlmError ignored;

	if (source->read(source->context, 0, bytes, size, &ignored) == LLM_OK)
		kind = kind_of(bytes, size);
	/* an index of TensorFlow's has its mark at the end */
	if (kind == NULL && size >= 8 &&
		source->read(source->context, source->size - 8, bytes, 8, &ignored) == LLM_OK)
		kind = kind_of(bytes, 8);
	return kind ? llm_hint(err, "This is %s.", kind) : llm_hint(err, "%s", otherwise);
}
