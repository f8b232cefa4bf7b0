/* SHA-256 of tensors, by the server's own implementation. */
#ifndef LLM_SRC_TENSOR_DIGEST_H
#define LLM_SRC_TENSOR_DIGEST_H

#include "postgres.h"

#include "src/tensor/tensor.h"

typedef struct Digest Digest;

extern Digest *DigestBegin(void);
extern void DigestAdd(Digest *digest, const void *bytes, Size size);
/* Name in UTF-8, zero byte, "2,3", zero byte, little-endian elements: what llm_model_sha256 is made of. */
extern void DigestTensor(Digest *digest, const char *utf8_name, const Tensor *tensor);
/* 64 hexadecimal digits; the digest is gone. */
extern char *DigestEnd(Digest *digest);

#endif
