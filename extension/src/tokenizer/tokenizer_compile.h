/* Tokenizers from the rows of llm_bpe_vocab and llm_bpe_merges. */
#ifndef LLM_SRC_TOKENIZER_TOKENIZER_COMPILE_H
#define LLM_SRC_TOKENIZER_TOKENIZER_COMPILE_H

#include "postgres.h"

#include "formats/bpe.h"
#include "src/base/shared_copy.h"

/* Compiles the rows with this name as the active snapshot sees them; the caller frees the result. Call inside
 * SPI_connect. */
extern LlmBpe *TokenizerCompile(const char *name);
/*
 * The same from a copy shared by all sessions, which is made if there is none; NULL if the caller must
 * compile it privately. The caller releases the copy after the tokenizer. The role must be permitted to read
 * all rows (visible.h).
 */
extern LlmBpe *TokenizerShared(const char *name, int64 version, SharedCopy *copy);

#endif
