/*
 * The texts of a corpus argument: a query in SQL text, run with the caller's own rights and search_path, that
 * may only read. Its rows are fetched a few at a time.
 */
#ifndef LLM_SRC_TOKENIZER_TEXT_QUERY_H
#define LLM_SRC_TOKENIZER_TEXT_QUERY_H

#include "postgres.h"

#include "executor/spi.h"

typedef struct Corpus
{
	Portal portal;
	SPITupleTable *rows;  /* fetched last */
	uint64 row;           /* the next of them */
	MemoryContext memory; /* of the current text */
	int64 documents;
} Corpus;

/* Inside SPI_connect. ERROR unless the query has one column, of text. */
extern Corpus *CorpusOpen(const char *query);
/* The next text that is neither NULL nor empty, as UTF-8, good until the next call; NULL: there is none. */
extern const char *CorpusNext(Corpus *corpus, Size *size);
/* ERROR when there was no text at all. */
extern void CorpusClose(Corpus *corpus);

#endif
