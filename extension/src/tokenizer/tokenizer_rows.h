/*
 * Writing a tokenizer's rows into llm_bpe_vocab and llm_bpe_merges: begin, make room, insert the merges and
 * then the tokens (which take their ranks from the merges), written, end. The caller needs the rights to the
 * tables.
 */
#ifndef LLM_SRC_TOKENIZER_TOKENIZER_ROWS_H
#define LLM_SRC_TOKENIZER_TOKENIZER_ROWS_H

#include "postgres.h"

#include "fmgr.h"

/*
 * Until TokenizerEndWrite operators are PostgreSQL's own, and joins go by hash: the planner takes a name that
 * its statistics have not seen for one row, and a nested loop over 50,000 by 50,000 takes half an hour.
 * Returns what TokenizerEndWrite wants.
 */
extern int TokenizerBeginWrite(void);
extern void TokenizerEndWrite(int level);
/* Rows of a tokenizer that are there are kept (ERROR) unless truncate says otherwise. */
extern void TokenizerMakeRoom(const char *model, bool merges, bool truncate);
extern void TokenizerInsertMerges(const char *model, Datum *left, Datum *right, Size count);
extern void TokenizerInsertTokens(const char *model, Datum *ids, Datum *texts, Datum *bytes, Size count);
/* For merges that came after their tokens; false: there are no tokens yet. */
extern bool TokenizerUpdateRanks(const char *model);
/* Compiles the rows just written, which checks that merges and vocabulary fit one another. */
extern void TokenizerWritten(const char *model);

/* UTF-8 as text in the server's encoding. */
extern text *TokenizerServerText(const char *utf8, Size size);
/* The argument that names a tokenizer to write. */
extern char *TokenizerNameArgument(FunctionCallInfo fcinfo, int n);

#endif
