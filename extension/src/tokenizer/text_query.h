/*
 * The documents of a corpus argument: an SQL query that may only read, executed with the caller's own rights
 * and search_path. Its rows are fetched a few at a time.
 */
#ifndef LLM_SRC_TOKENIZER_TEXT_QUERY_H
#define LLM_SRC_TOKENIZER_TEXT_QUERY_H

#include "postgres.h"

#include "executor/spi.h"

typedef struct Corpus
{
	Portal portal;
	SPITupleTable *rows;  /* the last batch fetched */
	uint64 row;           /* index of the next row */
	MemoryContext memory; /* holds the current document */
	int64 documents;
} Corpus;

/* Call inside SPI_connect. ERROR unless the query has exactly one column, of type text. */
extern Corpus *CorpusOpen(const char *query);
/* The next document that is neither NULL nor empty, as UTF-8, valid until the next call; NULL at the end. */
extern const char *CorpusNext(Corpus *corpus, Size *size);
/* Closes the query; ERROR if there was no document at all. */
extern void CorpusClose(Corpus *corpus);

#endif
