/*
 * Writes a tokenizer's rows into llm_bpe_vocab and llm_bpe_merges, in this order: TokenizerBeginWrite,
 * TokenizerMakeRoom, inserts of the merges and then of the tokens (whose ranks follow from the merges),
 * TokenizerWritten, TokenizerEndWrite. The caller needs the rights on the tables.
 */
#ifndef LLM_SRC_TOKENIZER_TOKENIZER_ROWS_H
#define LLM_SRC_TOKENIZER_TOKENIZER_ROWS_H

#include "postgres.h"

#include "fmgr.h"

/*
 * Until TokenizerEndWrite, operators resolve to PostgreSQL's own and joins use hashing: for a name missing
 * from its statistics the planner expects one row, and a nested loop over 50,000 by 50,000 rows takes half an
 * hour. Returns the value to pass to TokenizerEndWrite.
 */
extern int TokenizerBeginWrite(void);
extern void TokenizerEndWrite(int level);
/* Raises an ERROR if the tokenizer has rows already, unless `truncate` is set, which deletes them. */
extern void TokenizerMakeRoom(const char *model, bool merges, bool truncate);
extern void TokenizerInsertMerges(const char *model, Datum *left, Datum *right, Size count);
/* The last `specials` of them are special tokens, as are those of the form <|…|> that no merge makes. */
extern void TokenizerInsertTokens(
	const char *model, Datum *ids, Datum *texts, Datum *bytes, Size count, Size specials);
/* For merges loaded after their tokens; false if there are no tokens yet. */
extern bool TokenizerUpdateRanks(const char *model);
/* Compiles the rows just written, which checks that merges and vocabulary are consistent. */
extern void TokenizerWritten(const char *model);

/* Converts UTF-8 to text in the server's encoding. */
extern text *TokenizerServerText(const char *utf8, Size size);
/* The argument that names a tokenizer to write. */
extern char *TokenizerNameArgument(FunctionCallInfo fcinfo, int n);

#endif
