/*
 * SHA-256 of models and checkpoints, computed by the server's own implementation.
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"

#include "src/base/errors.h"
#include "src/tensor/digest.h"

struct Digest
{
	pg_cryptohash_ctx *context;
};

static void
Check(Digest *digest, int result)
{
	if (result < 0)
		elog(ERROR, "pg_llm: SHA-256 failed: %s", pg_cryptohash_error(digest->context));
}

Digest *
DigestBegin(void)
{
	Digest *digest = palloc(sizeof(Digest));

	digest->context = pg_cryptohash_create(PG_SHA256);
	Check(digest, pg_cryptohash_init(digest->context));
	return digest;
}

void
DigestAdd(Digest *digest, const void *bytes, Size size)
{
	for (Size at = 0; at < size; at += LLM_POLL_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		Check(digest, pg_cryptohash_update(
						  digest->context, (const uint8 *) bytes + at, Min(LLM_POLL_BYTES, size - at)));
	}
}

void
DigestTensor(Digest *digest, const char *utf8_name, const Tensor *tensor)
{
	StringInfoData shape;
	Size size = sizeof(float);

	initStringInfo(&shape);
	for (int i = 0; i < tensor->ndim; i++)
	{
		appendStringInfo(&shape, i > 0 ? ",%d" : "%d", tensor->dims[i]);
		size *= (Size) tensor->dims[i];
	}
	DigestAdd(digest, utf8_name, strlen(utf8_name) + 1);
	DigestAdd(digest, shape.data, shape.len + 1);
	DigestAdd(digest, TENSOR_DATA(tensor), size);
	pfree(shape.data);
}

char *
DigestEnd(Digest *digest)
{
	uint8 bytes[PG_SHA256_DIGEST_LENGTH];
	StringInfoData text;

	Check(digest, pg_cryptohash_final(digest->context, bytes, sizeof(bytes)));
	pg_cryptohash_free(digest->context);
	pfree(digest);
	initStringInfo(&text);
	for (int i = 0; i < lengthof(bytes); i++)
		appendStringInfo(&text, "%02x", bytes[i]);
	return text.data;
}
