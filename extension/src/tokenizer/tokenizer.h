/*
 * Tokenizers for the SQL functions: the session's compiled copy of a model's llm_bpe_vocab and llm_bpe_merges
 * rows, and the conversion of text between the server's encoding and UTF-8.
 */
#ifndef LLM_SRC_TOKENIZER_TOKENIZER_H
#define LLM_SRC_TOKENIZER_TOKENIZER_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "formats/bpe.h"

/*
 * The tokenizer of a model (or the tokenizer of that name), as the active snapshot sees its rows; compiled
 * once, kept while its version is unchanged, and at least until `pin` is reset or deleted. ERROR if there is
 * none.
 */
extern LlmBpe *TokenizerOf(const char *model, MemoryContext pin);
/* Compiles the rows under exactly this name; ERROR if merges and vocabulary are inconsistent. */
extern void TokenizerCheck(const char *name);

/* Encodes text in the server's encoding; returns the ids, palloc'd. */
extern int32 *TokenizerEncode(LlmBpe *bpe, const char *text, Size size, bool special, Size *count);
extern int32 *TokenizerEncodeUtf8(LlmBpe *bpe, const char *utf8, Size size, bool special, Size *count);
/* A NOTICE if the text, in the server's encoding, contains that of a special token. */
extern void TokenizerNoticeSpecial(const LlmBpe *bpe, const char *text, Size size);
/* Appends the bytes of a token; position (from 1) names it in the error for an id that is no token. */
extern void TokenizerAppend(const LlmBpe *bpe, int32 id, Size position, StringInfo bytes);
/*
 * Raises the error for an id that is no token (TokenizerNoToken), or for text larger than one value can hold.
 */
extern void TokenizerNoToken(const LlmBpe *bpe, int32 id, Size position) __attribute__((noreturn));
extern void TokenizerTooLong(void) __attribute__((noreturn));
/* A text of the server's encoding as UTF-8: its own bytes if they are UTF-8 already. */
extern char *TokenizerUtf8(text *input, Size *size);
/* UTF-8 in the Unicode normal form that the tokenizer's texts have: the same bytes if it has none
 * (tokenizer_nfc.c). */
extern const char *TokenizerNormal(const LlmBpe *bpe, const char *utf8, Size *size);
/* True if the bytes are valid UTF-8 as they are. */
extern bool TokenizerIsText(const char *bytes, Size size);
/* Bytes as SQL text: invalid UTF-8 and NUL become U+FFFD; characters missing from the server's encoding
 * become '?'. */
extern text *TokenizerText(const char *bytes, Size size);

#endif
