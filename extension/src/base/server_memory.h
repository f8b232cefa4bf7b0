/*
 * What all sessions of the server hold together, so that many sessions within their own limits do not make
 * the kernel end the server.
 */
#ifndef LLM_SRC_BASE_SERVER_MEMORY_H
#define LLM_SRC_BASE_SERVER_MEMORY_H

#include "postgres.h"

extern int pg_llm_server_memory_limit_mb; /* 0 = none */

/*
 * This session is about to hold so many bytes in all. False: together with the others it would pass the
 * limit, and what it holds stays as it was. Of several sessions that ask at once only those that fit get
 * true.
 */
extern bool ServerMemoryAsk(Size bytes);
/* This session holds so many bytes, allowed or not. Costs an atomic addition. */
extern void ServerMemoryTell(Size bytes);
/* Of all sessions. */
extern Size ServerMemoryHeld(void);
/* Do the sessions hold so much that what is only kept for later should go? */
extern bool ServerMemoryScarce(void);

#endif
