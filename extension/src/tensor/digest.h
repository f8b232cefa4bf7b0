/* SHA-256 of tensors, computed by the server's own implementation. */
#ifndef LLM_SRC_TENSOR_DIGEST_H
#define LLM_SRC_TENSOR_DIGEST_H

#include "postgres.h"

#include "src/tensor/tensor.h"

typedef struct Digest Digest;

extern Digest *DigestBegin(void);
extern void DigestAdd(Digest *digest, const void *bytes, Size size);
/* Adds a tensor to the hash: name in UTF-8, zero byte, "2,3", zero byte, little-endian elements.
 * llm_model_sha256 hashes these. */
extern void DigestTensor(Digest *digest, const char *utf8_name, const Tensor *tensor);
/* Returns 64 hexadecimal digits and frees the digest. */
extern char *DigestEnd(Digest *digest);

#endif
