/*
 * Tokenizers in the glue: the session's compiled copy of a model's llm_bpe_vocab and llm_bpe_merges rows, and
 * text in the server's encoding on the way in and out.
 */
#ifndef LLM_SRC_TOKENIZER_TOKENIZER_H
#define LLM_SRC_TOKENIZER_TOKENIZER_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "formats/bpe.h"

/*
 * The tokenizer of a model (or the tokenizer of that name), as the active snapshot sees its rows; compiled
 * once and kept as long as its version stays, at least until `pin` is reset or deleted. ERROR where there is
 * none.
 */
extern LlmBpe *TokenizerOf(const char *model, MemoryContext pin);
/* Compiles the rows under exactly this name; ERROR when merges and vocabulary do not fit one another. */
extern void TokenizerCheck(const char *name);

/* The ids of text in the server's encoding, palloc'd. */
extern int32 *TokenizerEncode(LlmBpe *bpe, const char *text, Size size, bool special, Size *count);
extern int32 *TokenizerEncodeUtf8(LlmBpe *bpe, const char *utf8, Size size, bool special, Size *count);
/* Appends the bytes of a token; position (from 1) names it in the error for an id that is no token. */
extern void TokenizerAppend(const LlmBpe *bpe, int32 id, Size position, StringInfo bytes);
/* The errors for an id that is no token, and for text past what one value holds. */
extern void TokenizerNoToken(const LlmBpe *bpe, int32 id, Size position) __attribute__((noreturn));
extern void TokenizerTooLong(void) __attribute__((noreturn));
/* The UTF-8 of a text in the server's encoding: its own bytes where they are that already. */
extern char *TokenizerUtf8(text *input, Size *size);
/* Whether they are good UTF-8 as they are. */
extern bool TokenizerIsText(const char *bytes, Size size);
/* Bytes as SQL text: broken UTF-8 and NUL become U+FFFD, what the server's encoding lacks becomes '?'. */
extern text *TokenizerText(const char *bytes, Size size);

#endif
